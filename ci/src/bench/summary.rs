//! The report as a page to read and as plots.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use plotters::style::RGBColor;

use super::figures::{Better, Figure, Goal};
use super::plot::{Bar, Group, Plot, short};
use super::recorded::Count;
use super::report::{Report, Row};
use super::setups::{KERNEL, SETUPS, Setup};
use super::statistics::Spread;

/// Colors that people who do not see all of them can tell apart.
const COLORS: [RGBColor; 8] = [
    RGBColor(120, 120, 120),
    RGBColor(0, 84, 158),
    RGBColor(64, 160, 220),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(230, 172, 0),
    RGBColor(160, 90, 160),
    RGBColor(70, 70, 70),
];

/// Whether a goal is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not what is asked for.
    Missed,
    /// What is asked for.
    Met,
    /// What is aimed at.
    Aim,
}

impl Verdict {
    /// Of a ratio to the kernel.
    #[must_use]
    pub fn of(figure: &Figure, goal: Goal, ratio: Spread) -> Self {
        let (reaches, worst): (fn(f64, f64) -> bool, f64) = match figure.better {
            Better::Higher => (|is, want| is >= want, ratio.lower),
            Better::Lower => (|is, want| is <= want, ratio.upper),
        };
        let quarter = goal.quarter.is_none_or(|want| reaches(worst, want));
        match (
            quarter && reaches(ratio.median, goal.median),
            reaches(ratio.median, goal.aim),
        ) {
            (false, _) => Self::Missed,
            (true, false) => Self::Met,
            (true, true) => Self::Aim,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Missed => "**not met**",
            Self::Met => "met",
            Self::Aim => "met, aim too",
        }
    }
}

/// Writes the plots into a directory.
///
/// # Errors
/// When the font is not there, or a file cannot be written.
pub fn plots(report: &Report, dir: &Path) -> Result<()> {
    for (name, plot) in [
        ("host-ratios", ratios(report)),
        ("host-latency", latency(report)),
        ("host-cost", cost(report)),
        ("host-endpoints", endpoints(report)),
    ] {
        if plot.groups.iter().any(|group| !group.bars.is_empty()) {
            plot.write(dir, name)?;
        }
    }
    Ok(())
}

/// Setups that were measured.
fn setups(report: &Report) -> Vec<&'static Setup> {
    let measured = |setup: &&Setup| report.rows.iter().any(|row| row.setup == setup.key);
    SETUPS.iter().filter(measured).collect()
}

/// A plot with a bar for each of the setups (the kernel too if `kernel`) where `value`
/// has one, one group for each figure.
fn grouped(
    report: &Report,
    [title, subtitle]: [&str; 2],
    groups: &[(&str, [&str; 2])],
    (kernel, log): (bool, bool),
    value: impl Fn(&Row, &Figure) -> Option<Spread>,
) -> Plot {
    let setups: Vec<_> = setups(report)
        .into_iter()
        .filter(|setup| kernel || setup.key != KERNEL)
        .filter(|setup| {
            let one = |(key, _): &(&str, _)| report.row(setup.key, key).is_some();
            groups.iter().any(one)
        })
        .collect();
    let color = |setup: &Setup| {
        let index = SETUPS.iter().position(|other| other == setup);
        COLORS[index.unwrap_or(0) % COLORS.len()]
    };
    let group = |(key, label): &(&str, [&str; 2])| Group {
        label: label.map(str::to_owned),
        bars: (0..)
            .zip(&setups)
            .filter_map(|(index, setup)| {
                let value = value(report.row(setup.key, key)?, Figure::named(key)?)?;
                Some(Bar {
                    setup: index,
                    value,
                })
            })
            .collect(),
        goal: None,
    };
    let groups = groups.iter().map(group);
    Plot {
        title: title.to_owned(),
        subtitle: subtitle.to_owned(),
        height: 520,
        groups: groups.filter(|group| !group.bars.is_empty()).collect(),
        setups: setups
            .iter()
            .map(|setup| (setup.name.to_owned(), color(setup)))
            .collect(),
        line: None,
        log,
    }
}

/// A ratio of which more is better.
fn speed(figure: &Figure, ratio: Spread) -> Spread {
    match figure.better {
        Better::Higher => ratio,
        Better::Lower => Spread {
            lower: 1.0 / ratio.upper,
            median: 1.0 / ratio.median,
            upper: 1.0 / ratio.lower,
            count: ratio.count,
        },
    }
}

/// The main plot: the figures that are to be reached.
fn ratios(report: &Report) -> Plot {
    let groups = [
        ("tcp-1", ["TCP, 1 stream", "throughput"]),
        ("tcp-4", ["TCP, 4 streams", "throughput"]),
        ("udp-64", ["UDP, 64-byte frames", "rate below 1 % loss"]),
        (
            "latency-p50",
            ["request/response", "speed (1 / median time)"],
        ),
    ];
    let mut plot = grouped(
        report,
        [
            "Pod to pod across two nodes, beside the kernel's vxlan device",
            "Times the kernel's in the same round: median of the rounds, and the quarters around it. Higher is better.",
        ],
        &groups,
        (false, false),
        |row, figure| Some(speed(figure, row.ratio?)),
    );
    plot.line = Some((1.0, "kernel vxlan = 1".into()));
    for group in &mut plot.groups {
        let figure = groups.iter().find(|(_, label)| label[0] == group.label[0]);
        let figure = figure.and_then(|(key, _)| Figure::named(key));
        group.goal = figure.and_then(|figure| {
            let goal = figure.goal?;
            Some(match figure.better {
                Better::Higher => (goal.median, goal.aim),
                Better::Lower => (1.0 / goal.median, 1.0 / goal.aim),
            })
        });
    }
    plot
}

fn latency(report: &Report) -> Plot {
    grouped(
        report,
        [
            "Request and response of one byte over UDP",
            "Microseconds, one request at a time: median of the rounds, and the quarters around it. Lower is better.",
        ],
        &[
            ("latency-p50", ["p50", "half are faster"]),
            ("latency-p99", ["p99", "1 in 100 is slower"]),
            ("latency-p999", ["p99.9", "1 in 1,000 is slower"]),
        ],
        (true, true),
        |row, _| Some(row.value),
    )
}

fn cost(report: &Report) -> Plot {
    let mut plot = grouped(
        report,
        [
            "Processor time of the whole machine",
            "Times the kernel's in the same round, both nodes, source and sink together. Lower is better.",
        ],
        &[
            ("cpu-gigabyte", ["a gigabyte", "TCP, 1 stream"]),
            ("cpu-packet", ["a 64-byte frame", "at the highest rate"]),
        ],
        (false, false),
        |row, _| row.ratio,
    );
    plot.line = Some((1.0, "kernel vxlan = 1".into()));
    plot
}

fn endpoints(report: &Report) -> Plot {
    grouped(
        report,
        [
            "64-byte frames to many endpoints of one node",
            "Thousands a second below 1 % loss, spread over all of them. Higher is better.",
        ],
        &[
            ("endpoints-1", ["1 endpoint", ""]),
            ("endpoints-100", ["100 endpoints", ""]),
            ("endpoints-1000", ["1,000 endpoints", ""]),
        ],
        (true, false),
        |row, _| Some(row.value),
    )
}

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut text = String::new();
    introduce(&mut text, report);
    let _ = writeln!(text, "\n## Figures to reach\n");
    goals(&mut text, report);
    let _ = writeln!(text, "\n## All figures\n");
    figures(&mut text, report);
    let _ = writeln!(text, "\n## The packet core by itself\n");
    core(&mut text, report);
    let _ = writeln!(text, "\n## How it was measured\n");
    method(&mut text, report);
    text
}

fn introduce(text: &mut String, report: &Report) {
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "# culvert beside the kernel and others\n\n\
         Two nodes, two network namespaces of one machine, are joined by a veth; on each is \
         a pod, and the pods talk to each other. All setups are up at the same time and \
         measured in turns, {} rounds, and each value is compared with the kernel's of the \
         same round: what counts is the ratio, since the machine is not always equally \
         fast.\n\n\
         ![Ratios to the kernel's vxlan device](host-ratios.svg)\n",
        report.rounds
    );
    let virtual_machine = match machine.hypervisor.as_str() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let _ = writeln!(
        text,
        "Machine: {}, {} processors, {:.0} GB of memory{virtual_machine}; Linux {}, {}. \
         Measured: commit {}, release build, in {:.0} minutes; other work took {:.0} % of \
         the processors before the first round.",
        machine.processor,
        machine.processors,
        machine.memory,
        machine.kernel,
        machine.system,
        machine.commit,
        report.seconds / 60.0,
        machine.background * 100.0
    );
    for (key, why) in &report.left_out {
        let _ = writeln!(text, "\nLeft out: {key}: {why}.");
    }
    if !report.problems.is_empty() {
        let _ = writeln!(text, "\nSteps that failed:\n");
        for problem in &report.problems {
            let _ = writeln!(text, "- {}", problem.lines().next().unwrap_or_default());
        }
    }
}

/// Median and quarters.
fn spread(spread: Spread) -> String {
    let Spread {
        lower,
        median,
        upper,
        ..
    } = spread;
    format!("{median:.2} ({lower:.2}–{upper:.2})")
}

fn goals(text: &mut String, report: &Report) {
    let _ = writeln!(
        text,
        "Ratios to the kernel's vxlan device: the median, and in parentheses the quarters \
         around it.\n\n\
         | figure | setup | times the kernel's | at least | aim | |\n|---|---|---|---|---|---|"
    );
    for figure in report.figures() {
        let Some(goal) = figure.goal else { continue };
        let sign = match figure.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        let quarter = goal.quarter.map_or_else(String::new, |quarter| {
            format!(", worst quarter {sign} {quarter}")
        });
        for setup in setups(report).iter().filter(|setup| setup.has_goals) {
            let ratio = report.row(setup.key, figure.key).and_then(|row| row.ratio);
            if let Some(ratio) = ratio {
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {sign} {}{quarter} | {sign} {} | {} |",
                    figure.name,
                    setup.name,
                    spread(ratio),
                    goal.median,
                    goal.aim,
                    Verdict::of(figure, goal, ratio).text()
                );
            }
        }
    }
}

fn figures(text: &mut String, report: &Report) {
    let setups = setups(report);
    let names = setups.iter().map(|setup| setup.name);
    let _ = writeln!(
        text,
        "Medians, and in parentheses times the kernel's. Where the unit is time, less is \
         better. The quarters are in [host.csv](host.csv), every value in \
         [host.json](host.json).\n\n| figure | {} |\n|---{}|",
        names.collect::<Vec<_>>().join(" | "),
        "|---".repeat(setups.len())
    );
    for figure in report.figures() {
        let cell = |setup: &&Setup| match report.row(setup.key, figure.key) {
            None => "–".to_owned(),
            Some(row) if setup.key == KERNEL => short(row.value.median),
            Some(row) => {
                let value = short(row.value.median);
                let ratio = row.ratio.map(|ratio| format!(" ({:.2})", ratio.median));
                value + &ratio.unwrap_or_default()
            }
        };
        let cells: Vec<String> = setups.iter().map(cell).collect();
        let _ = writeln!(
            text,
            "| {}, {} | {} |",
            figure.name,
            figure.unit,
            cells.join(" | ")
        );
    }
    let _ = writeln!(
        text,
        "\n![Processor time](host-cost.svg)\n\n![Latency](host-latency.svg)\n\n\
         ![Many endpoints](host-endpoints.svg)"
    );
}

/// How many of these counts a line shows.
fn list(counts: &[&Count], unit: &str) -> String {
    let each = counts
        .iter()
        .map(|count| format!("{} {:.0}{unit}", count.name, count.count));
    each.collect::<Vec<_>>().join(", ")
}

fn core(text: &mut String, report: &Report) {
    let recorded = &report.recorded;
    let part = |counts: &'_ [Count], has: &dyn Fn(&str) -> bool| -> Vec<Count> {
        let own = counts.iter().filter(|count| has(&count.name));
        own.cloned().collect()
    };
    let routes = |name: &str| name.contains("_routes_");
    let (scaled, plain) = (
        part(&recorded.pipeline, &routes),
        part(&recorded.pipeline, &|name| !routes(name)),
    );
    let fib = part(&recorded.fib, &|name| {
        name.starts_with("host/") && name.ends_with("/batch")
    });
    let lines = [
        (
            "instructions a packet with 10, 1,000 and 100,000 routes",
            list(&scaled.iter().collect::<Vec<_>>(), ""),
            "`ci/instructions`",
        ),
        (
            "instructions a packet with 10,000 routes and 256 peers",
            list(&plain.iter().collect::<Vec<_>>(), ""),
            "`ci/instructions`",
        ),
        (
            "instructions a route lookup, in batches",
            list(&fib.iter().collect::<Vec<_>>(), ""),
            "`cargo bench -p culvert-benches --bench fib_instructions`",
        ),
        (
            "a lookup of random addresses in 100,000 IPv4 routes, beside other tables",
            list(&recorded.times.iter().collect::<Vec<_>>(), " ns"),
            "[fib.csv](fib.csv): `cargo bench -p culvert-benches --bench fib`",
        ),
    ];
    let _ = writeln!(
        text,
        "Wall time tells too little of small differences; instructions repeat.\n\n\
         | what | | from |\n|---|---|---|"
    );
    for (what, counts, from) in lines.iter().filter(|(_, counts, _)| !counts.is_empty()) {
        let _ = writeln!(text, "| {what} | {counts} | {from} |");
    }
}

fn method(text: &mut String, report: &Report) {
    for setup in setups(report) {
        let _ = writeln!(
            text,
            "- **{}** (`{}`): {}",
            setup.name, setup.key, setup.what
        );
    }
    let _ = writeln!(
        text,
        "\nMTU 1,500 between the nodes, nothing pinned, a second of warm-up. TCP is iperf3 \
         for 2 s. The rate of datagrams is the highest, found by steps of 0.3 s, at which less \
         than 1 % is lost, each datagram sent and received by itself; 64-byte frames have \
         18 bytes of payload. Request and response are one byte, one at a time, over UDP. \
         TCP connections are opened by sixteen threads and closed by the other side at \
         once. Processor time is all that the machine's processors did meanwhile, whoever \
         is charged for it: both nodes, source and sink.\n\n\
         `ci/bench` measures anew and writes this page; `ci/bench --check` compares \
         culvert's ratios with the ones here and fails when one is worse beyond the noise; \
         `--quick`, `--setups` and `--only` measure less."
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{report, samples};

    #[test]
    fn goals_ask_for_the_median_and_the_worst_quarter() {
        let spread = |lower, median, upper| Spread {
            lower,
            median,
            upper,
            count: 7,
        };
        let of = |key: &str, ratio| {
            let figure = Figure::named(key).unwrap();
            Verdict::of(figure, figure.goal.unwrap(), ratio)
        };
        for (key, ratio, want) in [
            ("tcp-1", spread(0.6, 0.7, 0.9), Verdict::Met),
            ("tcp-1", spread(0.5, 0.9, 0.9), Verdict::Missed),
            ("tcp-1", spread(0.6, 0.6, 0.9), Verdict::Missed),
            ("tcp-1", spread(0.6, 0.8, 0.9), Verdict::Aim),
            ("latency-p50", spread(1.0, 2.1, 9.0), Verdict::Missed),
            ("latency-p50", spread(1.0, 1.9, 9.0), Verdict::Met),
            ("latency-p50", spread(1.0, 1.2, 1.4), Verdict::Aim),
        ] {
            assert_eq!(of(key, ratio), want, "{key} {ratio:?}");
        }
    }

    #[test]
    fn the_page_has_ratios_goals_and_what_was_left_out() {
        let mut all = samples("tcp-1", &[(10.0, 7.0), (10.0, 7.0)]);
        all.extend(samples("latency-p50", &[(10.0, 30.0)]));
        let mut report = report(all);
        report.left_out.insert("ovs".into(), "not there".into());
        let page = page(&report);
        for part in [
            "| TCP, 1 stream | culvert, UDP sockets | 0.70 (0.70–0.70) | ≥ 0.65, worst quarter ≥ 0.55 | ≥ 0.8 | met |",
            "| ≤ 2 | ≤ 1.3 | **not met** |",
            "| TCP, 1 stream, Gbit/s | 10 | 7.0 (0.70) |",
            "Left out: ovs: not there.",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn latency_is_drawn_as_speed() {
        let report = report(samples(
            "latency-p50",
            &[(10.0, 20.0), (10.0, 40.0), (10.0, 20.0)],
        ));
        let plot = ratios(&report);
        assert_eq!(plot.groups.len(), 1);
        let bar = &plot.groups[0].bars[0];
        assert!((bar.value.median - 0.5).abs() < 1e-9, "{bar:?}");
        assert!(bar.value.lower <= bar.value.median && bar.value.median <= bar.value.upper);
        assert_eq!(plot.groups[0].goal, Some((0.5, 1.0 / 1.3)));
    }
}
