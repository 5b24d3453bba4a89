//! What was measured, as it is written down and read again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::figures::{FIGURES, Figure};
use super::machine::Machine;
use super::recorded::Recorded;
use super::setups::{KERNEL, SETUPS};
use super::statistics::Spread;

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Round, from 1.
    pub round: u32,
    /// Key of the setup.
    pub setup: String,
    /// Key of the figure.
    pub figure: String,
    /// In the figure's unit.
    pub value: f64,
}

/// A figure of a setup over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Key of the setup.
    pub setup: String,
    /// Key of the figure.
    pub figure: String,
    /// Its unit.
    pub unit: String,
    /// The values.
    pub value: Spread,
    /// The values as parts of the kernel's of the same round.
    pub ratio: Option<Spread>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where it was.
    pub machine: Machine,
    /// How many rounds.
    pub rounds: u32,
    /// Seconds that it took.
    pub seconds: f64,
    /// Setups that could not be measured, and why.
    pub left_out: BTreeMap<String, String>,
    /// Steps that failed.
    pub problems: Vec<String>,
    /// Figures over all rounds.
    pub rows: Vec<Row>,
    /// Figures of the core, from other commands.
    pub recorded: Recorded,
    /// Every value.
    pub samples: Vec<Sample>,
}

/// The figures over all rounds, in the order of the tables.
#[must_use]
pub fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut rows = Vec::new();
    for figure in FIGURES {
        let of = |setup: &str| -> BTreeMap<u32, f64> {
            let own = samples.iter();
            let own = own.filter(|sample| sample.setup == setup && sample.figure == figure.key);
            own.map(|sample| (sample.round, sample.value)).collect()
        };
        let kernel = of(KERNEL);
        for setup in SETUPS {
            let own = of(setup.key);
            let values: Vec<f64> = own.values().copied().collect();
            let ratios: Vec<f64> = own
                .iter()
                .filter_map(|(round, value)| Some(value / kernel.get(round)?))
                .collect();
            if let Some(value) = Spread::of(&values) {
                rows.push(Row {
                    setup: setup.key.to_owned(),
                    figure: figure.key.to_owned(),
                    unit: figure.unit.to_owned(),
                    value,
                    ratio: Spread::of(&ratios),
                });
            }
        }
    }
    rows
}

impl Report {
    /// Reads one that was written.
    ///
    /// # Errors
    /// When it is not there or of another form.
    pub fn read(file: &Path) -> Result<Self> {
        let what = || format!("the report {}", file.display());
        let text = fs::read_to_string(file).with_context(what)?;
        serde_json::from_str(&text).with_context(what)
    }

    /// The row of a setup and a figure.
    #[must_use]
    pub fn row(&self, setup: &str, figure: &str) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.setup == setup && row.figure == figure)
    }

    /// The figures that were measured.
    pub fn figures(&self) -> impl Iterator<Item = &'static Figure> + '_ {
        let measured = |figure: &&Figure| self.rows.iter().any(|row| row.figure == figure.key);
        FIGURES.iter().filter(measured)
    }

    /// The report as JSON, which [`Report::read`] reads.
    ///
    /// # Errors
    /// None that this type has.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The rows as CSV.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut text = "figure,unit,setup,rounds,lower,median,upper,\
            ratio lower,ratio median,ratio upper\n"
            .to_owned();
        for row in &self.rows {
            let Spread {
                lower,
                median,
                upper,
                count,
            } = row.value;
            let (figure, unit, setup) = (&row.figure, &row.unit, &row.setup);
            let ratio = row.ratio.map_or_else(String::new, |ratio| {
                format!("{:.3},{:.3},{:.3}", ratio.lower, ratio.median, ratio.upper)
            });
            let _ = writeln!(
                text,
                "{figure},{unit},{setup},{count},{lower:.3},{median:.3},{upper:.3},{ratio}"
            );
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Samples of the kernel and of culvert by sockets, round by round.
    pub(crate) fn samples(figure: &str, values: &[(f64, f64)]) -> Vec<Sample> {
        let sample = |round, setup: &str, value| Sample {
            round,
            setup: setup.into(),
            figure: figure.into(),
            value,
        };
        (1..)
            .zip(values)
            .flat_map(|(round, (kernel, own))| {
                [
                    sample(round, KERNEL, *kernel),
                    sample(round, "socket", *own),
                ]
            })
            .collect()
    }

    /// A report of these samples.
    pub(crate) fn report(samples: Vec<Sample>) -> Report {
        Report {
            machine: Machine::default(),
            rounds: 3,
            seconds: 1.0,
            left_out: BTreeMap::new(),
            problems: Vec::new(),
            rows: rows(&samples),
            recorded: Recorded::default(),
            samples,
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut samples = samples("tcp-1", &[(10.0, 5.0), (2.0, 2.0), (8.0, 2.0)]);
        // A round that the kernel has no value of has no ratio.
        samples.push(Sample {
            round: 9,
            setup: "socket".into(),
            figure: "tcp-1".into(),
            value: 4.0,
        });
        let report = report(samples);
        let own = report.row("socket", "tcp-1").unwrap();
        let ratio = own.ratio.unwrap();
        assert!((own.value.median - 3.0).abs() < 1e-9, "{own:?}");
        assert!((ratio.median - 0.5).abs() < 1e-9, "{own:?}");
        assert_eq!((own.value.count, ratio.count), (4, 3));
        let kernel = report.row(KERNEL, "tcp-1").unwrap().ratio.unwrap();
        assert!((kernel.lower - 1.0).abs() < 1e-9 && (kernel.upper - 1.0).abs() < 1e-9);
        assert_eq!(report.row("plain", "tcp-1"), None);
        assert_eq!(report.figures().count(), 1);
    }

    #[test]
    fn a_report_is_read_back() {
        let report = report(samples("udp-64", &[(300.0, 450.0)]));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("host.json");
        fs::write(&file, report.json().unwrap()).unwrap();
        assert_eq!(Report::read(&file).unwrap(), report);
        assert!(report.csv().contains("udp-64,kpps,socket,1,450.000"));
        assert!(Report::read(&dir.path().join("none")).is_err());
    }
}
