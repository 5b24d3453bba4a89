//! `culvert appliance bench`: what a packet takes on its way through the core, counted
//! in the guest, beside what is recorded.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use comfy_table::{Cell, CellAlignment};
use culvert_host::appliance::{Arch, BENCH, Error, Image, Logs, Machine};

use super::appliance::{Source, run, say};
use super::{new_table, render};

/// In the sources: what `ci/firmware-instructions --record` has written.
const RECORD: &str = "firmware/instructions.txt";

/// Builds the images that count, runs each, and shows the figures.
pub(crate) fn show(arches: &[Arch], source: &Source) -> Result<ExitCode, Error> {
    let images = source.build(arches, BENCH)?;
    let path = source.find()?.join(RECORD);
    let record = fs::read_to_string(&path).map_err(|source| Error::File { path, source })?;
    let mut table = new_table(&["ARCH", "WHAT", "INSTRUCTIONS", "RECORDED", "CHANGE"]);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for image in images {
        let arch = image.arch;
        let Some(figures) = count(&image)? else {
            return Ok(ExitCode::FAILURE);
        };
        for (name, count) in figures {
            let mut row = vec![
                Cell::new(arch),
                Cell::new(&name),
                right(format!("{count:.1}")),
            ];
            if let Some(recorded) = find(&record, &format!("{arch}-{name}")) {
                let change = (count / recorded - 1.0) * 100.0;
                row.push(right(format!("{recorded:.1}")));
                row.push(right(format!("{change:+.1} %")));
            }
            table.add_row(row);
        }
    }
    say(&render(table))
}

/// What the image has counted; `None` when it failed, after saying how.
fn count(image: &Image) -> Result<Option<Vec<(String, f64)>>, Error> {
    let machine = Machine {
        icount: true,
        ..Machine::new(image.arch, &image.elf)
    };
    let mut said = Vec::new();
    let status = run(&machine, |bytes| said.extend_from_slice(bytes))?;
    let text = String::from_utf8_lossy(&said);
    let figures: Vec<_> = text.lines().filter_map(figure).collect();
    if status == 0 && !figures.is_empty() {
        return Ok(Some(figures));
    }
    let mut stderr = io::stderr();
    let _ = writeln!(
        stderr,
        "culvert: the bench for {} ended with {status} after {} figures; it said:\n{}",
        image.arch,
        figures.len(),
        explained(&image.elf, &said)
    );
    Ok(None)
}

/// What a failed bench has said: its own lines are text, those of a panic are not.
fn explained(elf: &Path, said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let complaints = text.lines().filter(|line| line.starts_with('#'));
    let mut lines: Vec<_> = complaints.map(str::to_owned).collect();
    if let Ok(logs) = Logs::read(elf) {
        lines.push(logs.text(said));
    }
    lines.join("\n")
}

/// A line of the bench: what was counted, and how much.
fn figure(line: &str) -> Option<(String, f64)> {
    let (name, count) = line.trim_end().split_once(' ')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let count = count.parse::<f64>().ok().filter(|count| *count > 0.0)?;
    is_name.then(|| (name.to_owned(), count))
}

/// A figure of the record.
fn find(record: &str, name: &str) -> Option<f64> {
    let mut lines = record.lines().filter_map(|line| line.split_once(' '));
    let (_, count) = lines.find(|(known, _)| *known == name)?;
    count
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|count| *count > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_from_complaints_and_garbage() {
        let encap = figure("encap-vxlan 213.9\r");
        assert_eq!(encap, Some(("encap-vxlan".to_owned(), 213.9)));
        for other in [
            "# encap-vxlan: rounds differ",
            "encap-vxlan",
            "a b c",
            "x 0",
            "\u{1}\u{2} 3",
            "",
        ] {
            assert_eq!(figure(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_record_is_found_by_whole_names() {
        let record = "# a comment\naarch64-encap 213.9\nx86_64-encap 228.8\n";
        assert_eq!(find(record, "x86_64-encap"), Some(228.8));
        assert_eq!(find(record, "aarch64-enc"), None);
    }
}
