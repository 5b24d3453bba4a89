//! Writes what was measured into the README of the core.

use std::fmt::Write as _;
use std::path::Path;

use crate::plot::{Line, machine};

const BEGIN: &str = "<!-- written by the bench: begin -->\n";
const END: &str = "<!-- end -->\n";

/// Replaces the README's tables by these.
pub fn write(lines: &[Line]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core-nostd/README.md");
    let text = std::fs::read_to_string(&file).expect("the core has a README");
    let (head, rest) = text.split_once(BEGIN).expect("where the tables begin");
    let (_, tail) = rest.split_once(END).expect("where the tables end");
    let mut tables = String::new();
    for family in ["IPv4", "IPv6"] {
        let of_family: Vec<&Line> = lines.iter().filter(|line| line.family == family).collect();
        lookups(&mut tables, &of_family, family);
        updates(&mut tables, &of_family, family);
    }
    tables.push_str("The machine:\n\n```\n");
    tables.push_str(&machine());
    tables.push_str("```\n");
    let text = format!("{head}{BEGIN}\n{tables}\n{END}{tail}");
    std::fs::write(file, text).expect("the README can be written");
}

/// The sizes, and the names of the tables, in the order in which they were measured.
fn axes<'a>(lines: &[&'a Line]) -> (Vec<usize>, Vec<&'a str>) {
    let (mut sizes, mut names) = (Vec::new(), Vec::new());
    for line in lines {
        if !sizes.contains(&line.routes) {
            sizes.push(line.routes);
        }
        if !names.contains(&line.table) {
            names.push(line.table);
        }
    }
    (sizes, names)
}

fn thousands(routes: usize) -> String {
    format!("{} k", routes / 1000)
}

/// A row of each table, a column of each size and kind of keys.
fn lookups(text: &mut String, lines: &[&Line], family: &str) {
    let (sizes, names) = axes(lines);
    for (draw, keys) in ["random", "skewed", "dependent"].into_iter().enumerate() {
        let columns: Vec<String> = sizes.iter().map(|size| thousands(*size)).collect();
        row(text, &format!("{family}, {keys} keys"), &columns);
        rule(text, columns.len());
        for name in &names {
            let cells: Vec<String> = sizes
                .iter()
                .map(|size| {
                    let of = |name: &str| {
                        let mut found = lines.iter();
                        let found = found.find(|line| line.routes == *size && line.table == name);
                        found.map_or(f64::NAN, |line| line.lookups[draw])
                    };
                    let (ns, ours) = (of(name), of("culvert"));
                    if ns.is_nan() {
                        "–".to_owned()
                    } else {
                        format!("{ns:.1} ({:.2})", ns / ours)
                    }
                })
                .collect();
            if cells.iter().any(|cell| cell != "–") {
                row(text, name, &cells);
            }
        }
        text.push('\n');
    }
}

/// Updates and memory.
fn updates(text: &mut String, lines: &[&Line], family: &str) {
    let (sizes, names) = axes(lines);
    let columns = [
        "ns an update",
        "p99.9, µs",
        "MB that lookups read",
        "MB in all",
    ];
    row(
        text,
        &format!("{family}, routes"),
        &columns.map(str::to_owned),
    );
    rule(text, columns.len());
    for size in sizes {
        for name in &names {
            let mut found = lines.iter();
            let found = found.find(|line| line.routes == size && line.table == *name);
            // The same table as the row before.
            let Some(line) =
                found.filter(|line| !matches!(line.table, "culvert, single" | "rte_lpm x4"))
            else {
                continue;
            };
            let (mean, worst) = match line.updates {
                Some((mean, worst)) => (format!("{mean:.0}"), format!("{:.1}", worst / 1000.0)),
                None => ("–".to_owned(), "–".to_owned()),
            };
            let memory = line.memory.map(|mb| format!("{mb:.2}"));
            let [lookup, all] = memory;
            row(
                text,
                &format!("{}, {name}", thousands(size)),
                &[mean, worst, lookup, all],
            );
        }
    }
    text.push('\n');
}

fn row(text: &mut String, first: &str, cells: &[String]) {
    writeln!(text, "| {first} | {} |", cells.join(" | ")).expect("a string takes all");
}

fn rule(text: &mut String, columns: usize) {
    writeln!(text, "|---|{}", "---|".repeat(columns)).expect("a string takes all");
}
