//! Keeps what was measured: a table of all medians, plots, and the machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

/// A table's medians at one size.
pub struct Line {
    pub family: &'static str,
    pub routes: usize,
    pub table: &'static str,
    /// Nanoseconds a lookup by [`DRAWS`]; not a number when not measured.
    pub lookups: [f64; 3],
    /// Nanoseconds an update: mean, and the 99.9th percentile.
    pub updates: Option<(f64, f64)>,
    /// Megabytes of what lookups read, and of all.
    pub memory: [f64; 2],
}

const DRAWS: [&str; 3] = ["random", "skewed", "dependent"];

fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

/// Writes all of it.
pub fn record(lines: &[Line]) {
    let to = results();
    std::fs::create_dir_all(&to).expect("a directory for results");
    std::fs::write(to.join("fib.csv"), table(lines)).expect("the table can be written");
    std::fs::write(to.join("fib-machine.txt"), machine()).expect("the file can be written");
    for family in ["IPv4", "IPv6"] {
        let of_family: Vec<&Line> = lines.iter().filter(|line| line.family == family).collect();
        for (draw, name) in DRAWS.into_iter().enumerate() {
            let file = to.join(format!("fib-{}-{name}.svg", family.to_lowercase()));
            let title = format!("{family}, {name} keys: ns a lookup by routes");
            plot(&file, &title, &of_family, draw).expect("the plot can be drawn");
        }
    }
}

fn table(lines: &[Line]) -> String {
    let mut text =
        "family,routes,table,random,skewed,dependent,update,update p99.9,lookup MB,all MB\n"
            .to_owned();
    for line in lines {
        let [random, skewed, dependent] = line.lookups;
        let (mean, worst) = line.updates.unwrap_or((f64::NAN, f64::NAN));
        let start = format!(
            "{},{},{}",
            line.family,
            line.routes,
            line.table.replace(',', "")
        );
        let lookups = format!("{random:.2},{skewed:.2},{dependent:.2}");
        let [lookup, all] = line.memory;
        writeln!(
            text,
            "{start},{lookups},{mean:.0},{worst:.0},{lookup:.2},{all:.2}"
        )
        .expect("a string takes all");
    }
    text
}

fn plot(
    file: &Path,
    title: &str,
    lines: &[&Line],
    draw: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let value = |line: &Line| line.lookups[draw];
    let drawn: Vec<&&Line> = lines
        .iter()
        .filter(|line| value(line).is_finite())
        .collect();
    let sizes = drawn.iter().map(|line| line.routes);
    let (Some(least), Some(most)) = (sizes.clone().min(), sizes.max()) else {
        return Ok(());
    };
    let highest = drawn.iter().map(|line| value(line)).fold(1.0, f64::max);
    let root = SVGBackend::new(file, (900, 540)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(
            (least..(most + 1).max(least * 10)).log_scale(),
            (0.5..highest * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("routes")
        .y_desc("ns")
        .draw()?;
    let mut names: Vec<&str> = Vec::new();
    for line in &drawn {
        if !names.contains(&line.table) {
            names.push(line.table);
        }
    }
    for (number, name) in names.into_iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        let style = color.stroke_width(if name == "culvert" { 4 } else { 2 });
        let points = drawn.iter().filter(|line| line.table == name);
        let points: Vec<_> = points.map(|line| (line.routes, value(line))).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        let dots = points
            .into_iter()
            .map(|at| Circle::new(at, 3, color.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

/// What the machine is, of what the kernel says.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cpus = cpu.lines().filter(|line| line.starts_with("processor"));
    let caches = (0..4).map(|index| {
        let of = |what| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}");
            read(&path).trim().to_owned()
        };
        format!("L{} {} {}", of("level"), of("type"), of("size"))
    });
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    [
        format!("processor: {}", field(&cpu, "model name")),
        format!(
            "family, model: {}, {}",
            field(&cpu, "cpu family"),
            field(&cpu, "model\t")
        ),
        format!("MHz: {}", field(&cpu, "cpu MHz")),
        format!("processors: {}", cpus.count()),
        format!("caches: {}", caches.collect::<Vec<_>>().join(", ")),
        format!("memory: {}", field(&read("/proc/meminfo"), "MemTotal")),
        format!("kernel: {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("huge pages: {}; asked for by none", huge.trim()),
        format!("load when written: {}", read("/proc/loadavg").trim()),
        String::new(),
    ]
    .join("\n")
}
