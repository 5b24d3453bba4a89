//! What is measured: figures, and the steps of a round that yield them.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;

use super::exchange::{Connections, Latency};
use crate::blast::{self, LISTENING, PAYLOAD, as_f64};
use crate::cpu::Cpu;
use crate::lab::Lab;
use crate::measure::{Load, STEP, Step, next_port, own_tool};
use crate::search::{Begin, highest};

/// How long a run of TCP lasts.
const TCP_TIME: Duration = Duration::from_millis(2_000);
/// How long requests and connections are made.
const EXCHANGE_TIME: Duration = Duration::from_millis(1_200);
/// Bytes of a large datagram's payload; it fits the MTU of the pods.
const LARGE: usize = 1_400;

/// Which of two values is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher one.
    Higher,
    /// The lower one.
    Lower,
}

/// What a setup should reach, as ratios to the kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// The median of the rounds.
    pub median: f64,
    /// The quarter of the rounds that was worst.
    pub quarter: Option<f64>,
    /// What would be better still, as the median.
    pub aim: f64,
}

/// One figure.
#[derive(Debug, PartialEq)]
pub struct Figure {
    /// What it is called in files.
    pub key: &'static str,
    /// What it is called in tables.
    pub name: &'static str,
    /// The unit of its values.
    pub unit: &'static str,
    /// Which values are better.
    pub better: Better,
    /// The step that yields it.
    pub measure: Measure,
    /// What is to be reached.
    pub goal: Option<Goal>,
}

use Better::{Higher, Lower};
use Measure::{Connections as Connect, Endpoints, Latency as Request, Tcp1, Tcp4, Udp64, Udp1400};

/// All figures, in the order of the tables.
#[rustfmt::skip]
pub static FIGURES: &[Figure] = &[
    figure("tcp-1", "TCP, 1 stream", ("Gbit/s", Higher), Tcp1).reach(0.65, Some(0.55), 0.8),
    figure("tcp-4", "TCP, 4 streams", ("Gbit/s", Higher), Tcp4).reach(0.5, None, 0.8),
    figure("udp-64", "UDP, 64-byte frames", ("kpps", Higher), Udp64).reach(1.5, None, 2.2),
    figure("udp-1400", "UDP, 1,400-byte datagrams", ("kpps", Higher), Udp1400),
    figure("latency-p50", "request/response, p50", ("µs", Lower), Request).reach(2.0, None, 1.3),
    figure("latency-p99", "request/response, p99", ("µs", Lower), Request),
    figure("latency-p999", "request/response, p99.9", ("µs", Lower), Request),
    figure("connections", "TCP connections", ("1/s", Higher), Connect),
    figure("cpu-gigabyte", "CPU a gigabyte of TCP", ("s", Lower), Tcp1),
    figure("cpu-packet", "CPU a 64-byte frame", ("µs", Lower), Udp64),
    figure("endpoints-1", "64-byte frames to 1 endpoint", ("kpps", Higher), Endpoints),
    figure("endpoints-100", "64-byte frames to 100 endpoints", ("kpps", Higher), Endpoints),
    figure("endpoints-1000", "64-byte frames to 1,000 endpoints", ("kpps", Higher), Endpoints),
];

const fn figure(
    key: &'static str,
    name: &'static str,
    (unit, better): (&'static str, Better),
    measure: Measure,
) -> Figure {
    Figure {
        key,
        name,
        unit,
        better,
        measure,
        goal: None,
    }
}

impl Figure {
    const fn reach(mut self, median: f64, quarter: Option<f64>, aim: f64) -> Self {
        self.goal = Some(Goal {
            median,
            quarter,
            aim,
        });
        self
    }

    /// The figure that is called so in files.
    #[must_use]
    pub fn named(key: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.key == key)
    }
}

/// A step of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// TCP, one stream.
    #[value(name = "tcp1")]
    Tcp1,
    /// TCP, four streams.
    #[value(name = "tcp4")]
    Tcp4,
    /// The smallest datagrams.
    #[value(name = "udp64")]
    Udp64,
    /// Datagrams of 1,400 bytes.
    #[value(name = "udp1400")]
    Udp1400,
    /// Requests and answers of one byte.
    Latency,
    /// TCP connections.
    Connections,
    /// The smallest datagrams to 1, 100 and 1,000 endpoints.
    Endpoints,
}

/// Values of figures, by the figures' keys.
pub type Values = Vec<(&'static str, f64)>;

impl Measure {
    /// Those of a round between two pods; that of endpoints has rounds of its own.
    pub const ROUND: [Self; 6] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Udp64,
        Self::Udp1400,
        Self::Latency,
        Self::Connections,
    ];

    /// Seconds that a step takes, about.
    #[must_use]
    pub fn seconds(self) -> f64 {
        match self {
            Self::Tcp1 | Self::Tcp4 => TCP_TIME.as_secs_f64() + 0.3,
            Self::Udp64 | Self::Udp1400 | Self::Endpoints => 2.6,
            Self::Latency | Self::Connections => EXCHANGE_TIME.as_secs_f64() + 0.1,
        }
    }

    /// Takes the step from a place to another; `hint` is the rate of the step's last
    /// time, if it has one, and becomes that of this time.
    ///
    /// # Errors
    /// What could not be measured.
    pub fn take(self, lab: &Lab, (from, to): Way, hint: &mut Option<f64>) -> Result<Values> {
        match self {
            Self::Tcp1 => tcp(lab, (from, to), 1),
            Self::Tcp4 => tcp(lab, (from, to), 4),
            Self::Endpoints => bail!("many endpoints have rounds of their own"),
            Self::Udp64 => {
                let best = datagrams(lab, (from, to), (PAYLOAD, 1), hint)?;
                let each = best.busy / as_f64(best.seen.received) * 1e6;
                Ok(vec![
                    ("udp-64", best.received_pps / 1e3),
                    ("cpu-packet", each),
                ])
            }
            Self::Udp1400 => {
                let best = datagrams(lab, (from, to), (LARGE, 1), hint)?;
                Ok(vec![("udp-1400", best.received_pps / 1e3)])
            }
            Self::Latency => {
                let seen: Latency = exchange(lab, (from, to), ["echo", "requests"])?;
                Ok(vec![
                    ("latency-p50", seen.p50),
                    ("latency-p99", seen.p99),
                    ("latency-p999", seen.p999),
                ])
            }
            Self::Connections => {
                let seen: Connections = exchange(lab, (from, to), ["accept", "connections"])?;
                Ok(vec![("connections", as_f64(seen.made) / seen.seconds)])
            }
        }
    }
}

/// From a place to an address in another.
pub type Way<'a> = (&'a str, (&'a str, Ipv4Addr));

/// TCP, with the work of the whole machine for a gigabyte by one stream.
fn tcp(lab: &Lab, (from, to): Way, streams: u8) -> Result<Values> {
    let cpu = Cpu::read()?;
    let seen = lab.iperf(from, to, Load::TcpStreams(streams), TCP_TIME)?;
    let work = cpu.since()?;
    if streams != 1 {
        return Ok(vec![("tcp-4", seen.gbits)]);
    }
    let gigabytes = seen.gbits / 8.0 * TCP_TIME.as_secs_f64();
    Ok(vec![
        ("tcp-1", seen.gbits),
        ("cpu-gigabyte", work.busy / gigabytes),
    ])
}

/// The highest rate of datagrams of some payload, spread over some addresses.
///
/// # Errors
/// When the source or the sink cannot run in its pod, or says nothing.
pub fn datagrams(
    lab: &Lab,
    (from, to): Way,
    (payload, spread): (usize, u32),
    hint: &mut Option<f64>,
) -> Result<Step> {
    let begin = hint.map_or(Begin::Overload, Begin::At);
    let best = highest(begin, |rate| {
        let load = blast::Load {
            rate,
            time: STEP,
            payload,
            spread,
        };
        // The source's last words may be lost among the rest: once is no failure.
        let again = |_| lab.blast_load(from, to, load);
        lab.blast_load(from, to, load).or_else(again)
    })?;
    *hint = Some(best.received_pps);
    Ok(best)
}

/// Runs the lab's own tools: one that answers, and one that asks.
fn exchange<T: DeserializeOwned>(
    lab: &Lab,
    (from, (place, address)): Way,
    [answer, ask]: [&str; 2],
) -> Result<T> {
    let (tool, target) = (own_tool()?, format!("{address}:{}", next_port()));
    let listens = |printed: &str| printed.contains(LISTENING);
    let _answering = lab.spawn(place, &[&tool, answer, &target], listens)?;
    let time = EXCHANGE_TIME.as_millis().to_string();
    let argv = [tool.as_str(), ask, &target, "--time-ms", &time];
    let limit = EXCHANGE_TIME + Duration::from_secs(60);
    let output = lab.exec(from, &argv, limit)?.success()?;
    serde_json::from_str(&output.stdout).with_context(|| format!("what `{ask}` printed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_names_of_their_own() {
        for figure in FIGURES {
            assert_eq!(Figure::named(figure.key), Some(figure));
        }
        assert_eq!(Figure::named("tcp"), None);
    }
}
