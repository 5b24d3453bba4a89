//! `ci/bench`: culvert beside the kernel and others, in rounds in which each has its
//! turn, so that all see the same machine.

pub mod check;
mod endpoints;
pub mod exchange;
pub mod figures;
pub mod forwarder;
pub mod machine;
mod plot;
mod progress;
pub mod recorded;
pub mod report;
pub mod setups;
pub mod statistics;
pub mod summary;
mod vswitch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Table, presets};

pub use figures::Measure;
use figures::{Figure, Values};
use machine::Machine;
use progress::Progress;
use recorded::Recorded;
use report::{Report, Sample, rows};
use setups::Site;
use statistics::Spread;

use crate::blast::PAYLOAD;
use crate::measure::Load;
pub use setups::{KERNEL, SETUPS, Setup};

/// Rounds of a whole run, and of a quick one.
const ROUNDS: u32 = 7;
const QUICK: u32 = 3;

/// How long each setup has TCP before the first round.
const WARM_UP: Duration = Duration::from_secs(1);
/// How many endpoints there are, and the figures of that.
const ENDPOINTS: [(u32, &str); 3] = [
    (1, "endpoints-1"),
    (100, "endpoints-100"),
    (1_000, "endpoints-1000"),
];
/// Seconds in which a setup gets a thousand endpoints, about.
const GROW: f64 = 15.0;

/// What the run is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Fewer rounds.
    pub quick: bool,
    /// Keys of the setups; all when empty. The kernel is always one of them.
    pub setups: Vec<String>,
    /// What is measured; all when empty.
    pub measures: Vec<Measure>,
    /// Where the report is written.
    pub out: Option<PathBuf>,
    /// Compare with the recorded report, and leave that as it is.
    pub check: bool,
}

impl Options {
    fn rounds(&self) -> u32 {
        if self.quick { QUICK } else { ROUNDS }
    }

    fn wants(&self, measure: Measure) -> bool {
        self.measures.is_empty() || self.measures.contains(&measure)
    }

    fn setups(&self) -> Result<Vec<Setup>> {
        for key in &self.setups {
            Setup::named(key)?;
        }
        let wanted = |setup: &&Setup| {
            let named = self.setups.iter().any(|key| key == setup.key);
            self.setups.is_empty() || named || setup.key == KERNEL
        };
        Ok(SETUPS.iter().filter(wanted).copied().collect())
    }

    fn is_whole(&self) -> bool {
        !self.quick && !self.check && self.setups.is_empty() && self.measures.is_empty()
    }

    /// Whether a figure of a setup was to be measured.
    fn asks(&self, setup: &str, figure: &Figure) -> bool {
        let named = self.setups.is_empty() || self.setups.iter().any(|key| key == setup);
        named && self.wants(figure.measure)
    }
}

/// A run that is under way.
struct Run {
    options: Options,
    progress: Progress,
    samples: Vec<Sample>,
    problems: Vec<String>,
    left_out: BTreeMap<String, String>,
    /// Rates that were held the last time, by setup and figure.
    hints: BTreeMap<(&'static str, String), Option<f64>>,
}

/// Measures, prints and writes the report.
///
/// # Errors
/// When the kernel's setup cannot be built, a step of the kernel's or of culvert's
/// failed, or the report cannot be written.
pub fn run(options: Options) -> Result<()> {
    let setups = options.setups()?;
    let root = repository()?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None if options.is_whole() => root.join("benches/results"),
        None => crate::culvert::own_dir()?.join("../bench"),
    };
    let file = root.join("benches/results/host.json");
    let before = match options.check {
        true => Some(Report::read(&file)?),
        false => None,
    };
    let recorded = Recorded::read(&root)?;
    let mut run = Run {
        progress: Progress::start(),
        samples: Vec::new(),
        problems: Vec::new(),
        left_out: BTreeMap::new(),
        hints: BTreeMap::new(),
        options,
    };
    run.plan(&setups);
    let machine = run.pairs(&setups)?;
    if run.options.wants(Measure::Endpoints) {
        run.endpoints(&setups)?;
    }
    let report = Report {
        machine,
        rounds: run.options.rounds(),
        seconds: run.progress.seconds(),
        left_out: run.left_out,
        problems: run.problems,
        rows: rows(&run.samples),
        recorded,
        samples: run.samples,
    };
    write(&report, &out)?;
    println!("\n{}", table(&report));
    println!("The report is in {}.", out.display());
    let mut failures = report.problems.clone();
    if let Some(before) = before {
        failures.extend(compare(&report, &before, &run.options));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn write(report: &Report, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    fs::write(out.join("host.json"), report.json()?)?;
    fs::write(out.join("host.csv"), report.csv())?;
    fs::write(out.join("host.md"), summary::page(report))?;
    summary::plots(report, out)
}

/// What has become worse, in words; says so too when the machines differ.
fn compare(report: &Report, before: &Report, options: &Options) -> Vec<String> {
    if !report.machine.is_like(&before.machine) {
        println!(
            "note: the recorded report is of another machine ({}, {} processors, Linux {})",
            before.machine.processor, before.machine.processors, before.machine.kernel
        );
    }
    let worse = check::compare(report, before, |setup, figure| options.asks(setup, figure));
    if worse.is_empty() {
        println!("No ratio is worse than the recorded one beyond the noise.");
    }
    let said = worse
        .iter()
        .map(|one| format!("slower than recorded: {one}"));
    said.collect()
}

/// The medians and ratios for a terminal.
fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "figure",
        "setup",
        "median",
        "quarters",
        "to the kernel",
        "quarters",
    ]);
    for row in &report.rows {
        let name = Figure::named(&row.figure).map_or("", |figure| figure.name);
        let quarters = |spread: Spread| format!("{:.2} – {:.2}", spread.lower, spread.upper);
        table.add_row([
            format!("{name}, {}", row.unit),
            row.setup.clone(),
            format!("{:.2}", row.value.median),
            quarters(row.value),
            row.ratio
                .map_or_else(String::new, |ratio| format!("{:.2}", ratio.median)),
            row.ratio.map_or_else(String::new, quarters),
        ]);
    }
    table.to_string()
}

impl Run {
    /// Tells the progress what there will be.
    fn plan(&mut self, setups: &[Setup]) {
        let rounds = f64::from(self.options.rounds());
        let steps = Measure::ROUND.into_iter();
        let each: f64 = steps
            .filter(|measure| self.options.wants(*measure))
            .map(Measure::seconds)
            .sum();
        let count = f64::from(u32::try_from(setups.len()).unwrap_or(u32::MAX));
        let once = 1.5 + WARM_UP.as_secs_f64();
        self.progress.expect(count * (once + rounds * each));
        if self.options.wants(Measure::Endpoints) {
            let many = setups.iter().filter(|setup| setup.endpoints).count();
            let many = f64::from(u32::try_from(many).unwrap_or(u32::MAX));
            let steps = f64::from(u32::try_from(ENDPOINTS.len()).unwrap_or(u32::MAX));
            let each = steps * rounds * Measure::Endpoints.seconds();
            self.progress.expect(many * (1.5 + GROW + each));
        }
    }

    /// The rounds to one, a hundred and a thousand endpoints.
    fn endpoints(&mut self, setups: &[Setup]) -> Result<()> {
        let mut sites = Vec::new();
        for setup in setups.iter().filter(|setup| setup.endpoints) {
            if !self.left_out.contains_key(setup.key) {
                sites.extend(self.build(*setup, true)?);
            }
        }
        let mut has = 1;
        for (count, figure) in ENDPOINTS {
            sites.retain(|site| count == has || self.grow(site, (has, count)));
            has = count;
            for round in 1..=self.options.rounds() {
                for site in &sites {
                    self.spread(round, site, (count, figure));
                }
            }
        }
        Ok(())
    }

    /// Makes endpoints; says whether that went well.
    fn grow(&mut self, site: &Site, (has, count): (u32, u32)) -> bool {
        let name = format!("make {count} endpoints: {}", site.setup.name);
        let seconds = GROW * f64::from(count - has) / 1_000.0;
        let grown = self.progress.step(&name, seconds, || {
            site.grow(has, count).map(|()| Vec::new())
        });
        let well = grown.is_ok();
        self.note(0, site.setup.key, grown);
        well
    }

    fn spread(&mut self, round: u32, site: &Site, (count, figure): (u32, &'static str)) {
        let (key, rounds) = (site.setup.key, self.options.rounds());
        let name = format!(
            "round {round} of {rounds}, {count} endpoints: {}",
            site.setup.name
        );
        let hint = self.hints.entry((key, figure.to_owned())).or_default();
        let way = (site.from, site.to);
        let seconds = Measure::Endpoints.seconds();
        let taken = self.progress.step(&name, seconds, || {
            let best = figures::datagrams(&site.lab, way, (PAYLOAD, count), hint)?;
            Ok(vec![(figure, best.received_pps / 1e3)])
        });
        self.note(round, key, taken);
    }

    /// The rounds between two pods.
    fn pairs(&mut self, setups: &[Setup]) -> Result<Machine> {
        let mut sites = Vec::new();
        for setup in setups {
            sites.extend(self.build(*setup, false)?);
        }
        let machine = self.progress.step("the machine", 2.0, Machine::describe)?;
        if machine.background > 0.1 {
            let percent = machine.background * 100.0;
            println!("note: other work takes {percent:.0} % of the processors");
        }
        for site in &sites {
            let warmed = self.progress.step(
                &format!("warm up {}", site.setup.name),
                WARM_UP.as_secs_f64(),
                || {
                    site.lab
                        .iperf(site.from, site.to, Load::Tcp, WARM_UP)
                        .map(|_| Vec::new())
                },
            );
            self.note(0, site.setup.key, warmed);
        }
        for round in 1..=self.options.rounds() {
            for measure in Measure::ROUND {
                if self.options.wants(measure) {
                    for site in &sites {
                        self.step(round, site, measure);
                    }
                }
            }
        }
        Ok(machine)
    }

    /// Builds a setup; `None` when it is one that the run can do without.
    fn build(&mut self, setup: Setup, wide: bool) -> Result<Option<Site>> {
        let name = format!("build {}", setup.name);
        match self.progress.step(&name, 1.5, || setup.build(wide)) {
            Ok(site) => Ok(Some(site)),
            Err(error) if setup.key == KERNEL => Err(error),
            Err(error) => {
                println!("left out: {error:#}");
                self.left_out
                    .insert(setup.key.to_owned(), format!("{error:#}"));
                Ok(None)
            }
        }
    }

    fn step(&mut self, round: u32, site: &Site, measure: Measure) {
        let key = site.setup.key;
        let rounds = self.options.rounds();
        let name = format!(
            "round {round} of {rounds}, {measure:?}: {}",
            site.setup.name
        );
        let hint = self.hints.entry((key, format!("{measure:?}"))).or_default();
        let way = (site.from, site.to);
        let taken = self.progress.step(&name, measure.seconds(), || {
            measure.take(&site.lab, way, hint)
        });
        self.note(round, key, taken);
    }

    fn note(&mut self, round: u32, setup: &str, taken: Result<Values>) {
        let sample = |(figure, value): (&str, f64)| Sample {
            round,
            setup: setup.to_owned(),
            figure: figure.to_owned(),
            value,
        };
        match taken {
            Ok(values) => self.samples.extend(values.into_iter().map(sample)),
            Err(error) => {
                println!("failed: {error:#}");
                self.problems.push(format!("{error:#}"));
            }
        }
    }
}

/// The repository that this program was built from.
fn repository() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match root.canonicalize() {
        Ok(root) => Ok(root),
        Err(error) => bail!(
            "the repository is not at {} any more: {error}",
            root.display()
        ),
    }
}
