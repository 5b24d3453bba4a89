//! `ci/bench`: culvert beside the kernel and others, in rounds in which each has its
//! turn, so that all see the same machine.

pub mod exchange;
pub mod figures;
pub mod forwarder;
pub mod machine;
mod progress;
pub mod recorded;
pub mod report;
pub mod setups;
pub mod statistics;
mod vswitch;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub use figures::Measure;
use machine::Machine;
use progress::Progress;
use recorded::Recorded;
use report::{Report, Sample, rows};
use setups::Site;
pub use setups::{KERNEL, SETUPS, Setup};

/// Rounds of a whole run, and of a quick one.
const ROUNDS: u32 = 7;
const QUICK: u32 = 3;

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
        !self.quick && self.setups.is_empty() && self.measures.is_empty()
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
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    fs::write(out.join("host.json"), report.json()?)?;
    fs::write(out.join("host.csv"), report.csv())?;
    println!("{}", report.csv());
    ensure!(
        report.problems.is_empty(),
        "steps failed:\n{}",
        report.problems.join("\n")
    );
    Ok(())
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
        self.progress.expect(count * (1.5 + rounds * each));
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
        match taken {
            Ok(values) => self
                .samples
                .extend(values.into_iter().map(|(figure, value)| Sample {
                    round,
                    setup: key.to_owned(),
                    figure: figure.to_owned(),
                    value,
                })),
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
