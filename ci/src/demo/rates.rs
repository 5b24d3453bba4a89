//! TCP and smallest datagrams between n1 and n2 beside those of the kernel pair,
//! in turns, so that both see the same machine.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{Table, presets};

use super::progress::Progress;
use crate::lab::Lab;
use crate::measure::Load;
use crate::plan::NodeKind;

const ROUNDS: u32 = 3;
const TCP_TIME: Duration = Duration::from_secs(3);

/// Rates of one pair of nodes, a value for each round.
#[derive(Debug, Default)]
struct Rates {
    name: String,
    tcp_gbits: Vec<f64>,
    small_pps: Vec<f64>,
}

/// The two pairs side by side.
#[derive(Debug)]
pub(crate) struct Comparison {
    kernel: Rates,
    ours: Rates,
}

/// Measures the rounds.
pub(crate) fn compare(lab: &Lab, progress: &mut Progress) -> Result<Comparison> {
    let ours = match lab.node("n1")?.1.kind {
        NodeKind::Culvert => "culvert",
        NodeKind::Appliance(_) => "appliance",
        NodeKind::Kernel | NodeKind::Guest(_) | NodeKind::Bare => "kernel (n1 to n2)",
    };
    let rates = |name: &str| Rates {
        name: name.into(),
        ..Rates::default()
    };
    let mut comparison = Comparison {
        kernel: rates("kernel vxlan"),
        ours: rates(ours),
    };
    for round in 1..=ROUNDS {
        for (rates, from, to) in [
            (&mut comparison.kernel, "pk1", "pk2"),
            (&mut comparison.ours, "p1a", "p2a"),
        ] {
            let name = format!("rates, round {round} of {ROUNDS}: {}", rates.name);
            progress.step(&name, || rates.round(lab, from, to))?;
        }
    }
    Ok(comparison)
}

impl Rates {
    fn round(&mut self, lab: &Lab, from: &str, to: &str) -> Result<()> {
        let target = (to, lab.pod(to)?.address);
        self.tcp_gbits
            .push(lab.iperf(from, target, Load::Tcp, TCP_TIME)?.gbits);
        self.small_pps.push(lab.highest_rate(from, target)?);
        Ok(())
    }
}

impl Comparison {
    /// The table of rates with the ratio of the medians.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "median of 3 (rounds)",
            &self.kernel.name,
            &self.ours.name,
            "ratio",
        ]);
        let kpps = |values: &[f64]| values.iter().map(|pps| pps / 1000.0).collect::<Vec<_>>();
        let small = (kpps(&self.kernel.small_pps), kpps(&self.ours.small_pps));
        for (name, kernel, ours, digits) in [
            (
                "TCP, 1 stream, Gbit/s",
                &self.kernel.tcp_gbits,
                &self.ours.tcp_gbits,
                2,
            ),
            (
                "UDP, 64-byte frames, loss < 1 %, kpps",
                &small.0,
                &small.1,
                0,
            ),
        ] {
            let ratio = format!("{:.2}", median(ours) / median(kernel));
            table.add_row([
                name.to_owned(),
                cell(kernel, digits),
                cell(ours, digits),
                ratio,
            ]);
        }
        table.to_string()
    }
}

/// The median and, in parentheses, each round.
fn cell(values: &[f64], digits: usize) -> String {
    let all: Vec<_> = values
        .iter()
        .map(|value| format!("{value:.digits$}"))
        .collect();
    format!("{:.digits$} ({})", median(values), all.join(", "))
}

/// The middle value; NaN of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_depend_on_the_order() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
        assert_eq!(cell(&[3.0, 1.0, 2.0], 1), "2.0 (3.0, 1.0, 2.0)");
    }
}
