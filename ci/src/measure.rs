//! Measurements between places of a lab: round trips, throughput, and the rate
//! of the smallest datagrams.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::blast::{self, LISTENING, Seen, Sent, as_f64};
use crate::culvert::own_dir;
use crate::lab::Lab;
use crate::search::{Begin, highest};

/// How long each step of the search for a rate lasts.
pub(crate) const STEP: Duration = Duration::from_millis(300);

/// Round trips of echo requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Answers that came.
    pub received: u32,
    /// Shortest round trip in milliseconds; 0 without an answer, as the next two.
    pub min_ms: f64,
    /// Mean round trip in milliseconds.
    pub avg_ms: f64,
    /// Longest round trip in milliseconds.
    pub max_ms: f64,
}

/// One iperf3 run, as its receiver saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Throughput {
    /// Gbit/s of payload that arrived.
    pub gbits: f64,
    /// Datagrams lost, in percent; 0 for TCP.
    pub lost_percent: f64,
    /// TCP segments sent again; 0 for UDP.
    pub retransmits: u64,
}

/// What iperf3 sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One TCP stream as fast as it goes.
    Tcp,
    /// So many of them.
    TcpStreams(u8),
    /// One TCP stream at this many Mbit/s.
    TcpAt(u32),
    /// UDP at this many Mbit/s, in datagrams of 1,400 bytes.
    Udp(u32),
}

/// One step of a search for a rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Datagrams a second that the source sent.
    pub sent_pps: f64,
    /// Datagrams a second that arrived.
    pub received_pps: f64,
    /// Seconds that the machine's processors worked meanwhile.
    pub busy: f64,
    /// Seconds that the source sent.
    pub seconds: f64,
    /// Counts of the sink.
    pub seen: Seen,
}

/// Echo requests that may take their time.
const FEW: u32 = 10;

impl Lab {
    /// Sends `count` echo requests, some milliseconds apart, from a place to an address.
    ///
    /// # Errors
    /// When ping cannot run. Lost answers are no error.
    pub fn ping(&self, from: &str, to: Ipv4Addr, count: u32) -> Result<Ping> {
        self.ping_address(from, &to.to_string(), count)
    }

    /// Sends `count` ICMPv6 echo requests as [`Lab::ping`] does.
    ///
    /// # Errors
    /// As [`Lab::ping`].
    pub fn ping6(&self, from: &str, to: Ipv6Addr, count: u32) -> Result<Ping> {
        self.ping_address(from, &to.to_string(), count)
    }

    fn ping_address(&self, from: &str, to: &str, count: u32) -> Result<Ping> {
        // Once it has had an answer, ping waits for the last one as long as for another
        // request, or for two round trips: that is short where others have work, too.
        let interval = if count <= FEW { "0.05" } else { "0.002" };
        let count = count.to_string();
        let argv = ["ping", "-n", "-c", &count, "-i", interval, "-W", "1", to];
        let output = self.exec(from, &argv, Duration::from_secs(15))?;
        parse_ping(&output.stdout)
            .with_context(|| format!("`{}`: {}", output.command, output.stderr.trim()))
    }

    /// Runs iperf3 for `time` from a place to a server that it starts in another.
    ///
    /// # Errors
    /// When iperf3 fails or is not done within 15 s more than `time`.
    pub fn iperf(
        &self,
        from: &str,
        (place, address): (&str, Ipv4Addr),
        load: Load,
        time: Duration,
    ) -> Result<Throughput> {
        let (port, address) = (next_port().to_string(), address.to_string());
        let server = [
            "iperf3",
            "-s",
            "-1",
            "--forceflush",
            "-B",
            &address,
            "-p",
            &port,
        ];
        let server = self.spawn(place, &server, |printed| {
            printed.contains("Server listening")
        })?;
        let (seconds, rate) = (time.as_secs_f64().to_string(), load.rate());
        let mut argv = vec!["iperf3", "-J", "-c", &address, "-p", &port, "-t", &seconds];
        if let Some(rate) = &rate {
            argv.extend(["-b", rate]);
        }
        let streams;
        match load {
            Load::Udp(_) => argv.extend(["-u", "-l", "1400", "-w", "1M"]),
            Load::TcpStreams(count) => {
                streams = count.to_string();
                argv.extend(["-P", &streams]);
            }
            Load::Tcp | Load::TcpAt(_) => {}
        }
        let output = self.exec(from, &argv, time + Duration::from_secs(15))?;
        let what = || format!("`{}` in {from}: {}", output.command, server.printed());
        let measured = parse_iperf(&output.stdout, load).with_context(what)?;
        server.finish(Duration::from_secs(10))?;
        Ok(measured)
    }

    /// Sends the smallest datagrams for `time` at `rate` a second (as fast as
    /// it goes when `None`) from a place to a sink in another.
    ///
    /// # Errors
    /// When the source or the sink fails.
    pub fn blast(
        &self,
        from: &str,
        to: (&str, Ipv4Addr),
        rate: Option<u64>,
        time: Duration,
    ) -> Result<Step> {
        self.blast_load(from, to, blast::Load::smallest(rate, time))
    }

    /// Sends datagrams from a place to a sink in another, which has all the addresses
    /// that they are spread over.
    ///
    /// # Errors
    /// When the source or the sink fails.
    pub fn blast_load(
        &self,
        from: &str,
        (place, address): (&str, Ipv4Addr),
        load: blast::Load,
    ) -> Result<Step> {
        static RUN: AtomicU32 = AtomicU32::new(1);
        let run = RUN.fetch_add(1, Ordering::Relaxed).to_string();
        let tool = own_tool()?;
        let (port, time) = (next_port(), load.time);
        let target = format!("{address}:{port}");
        let at = match load.spread {
            1 => target.clone(),
            _ => format!("0.0.0.0:{port}"),
        };
        let limit = (time.as_millis() + 8_000).to_string();
        let sink = [&tool, "sink", &at, "--run", &run, "--limit-ms", &limit];
        let sink = self.spawn(place, &sink, |printed| printed.contains(LISTENING))?;
        let given = [
            ("--run", Some(run.clone())),
            ("--time-ms", Some(time.as_millis().to_string())),
            ("--payload", Some(load.payload.to_string())),
            ("--spread", Some(load.spread.to_string())),
            ("--rate", load.rate.map(|rate| rate.to_string())),
        ];
        let mut argv = vec![tool.as_str(), "blast", &target];
        for (name, value) in &given {
            argv.extend(value.iter().flat_map(|value| [*name, value.as_str()]));
        }
        let output = self
            .exec(from, &argv, time + Duration::from_secs(8))?
            .success()?;
        let sent: Sent = serde_json::from_str(&output.stdout).context("what the source printed")?;
        let printed = sink.finish(Duration::from_secs(10))?;
        let counts = printed.lines().last().unwrap_or_default();
        let seen: Seen = serde_json::from_str(counts).context("what the sink printed")?;
        ensure!(
            seen.expected == sent.sent,
            "the source sent {} and said {}",
            sent.sent,
            seen.expected
        );
        Ok(Step {
            sent_pps: as_f64(sent.sent) / sent.seconds,
            received_pps: as_f64(seen.received) / sent.seconds,
            busy: sent.busy,
            seconds: sent.seconds,
            seen,
        })
    }

    /// Looks for the highest rate of the smallest datagrams with a loss below
    /// 1 %; returns what arrived a second at that rate.
    ///
    /// # Errors
    /// When the source or the sink fails, or no step held its loss below 1 %.
    pub fn highest_rate(&self, from: &str, to: (&str, Ipv4Addr)) -> Result<f64> {
        let step = |rate| self.blast(from, to, rate, STEP);
        Ok(highest(Begin::Overload, step)?.received_pps)
    }

    /// Whether a device of a place offloads: switches checksum and segmentation
    /// of what it sends on or off.
    ///
    /// # Errors
    /// What ethtool said.
    pub fn offloads(&self, place: &str, device: &str, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        self.run(
            place,
            &[
                "ethtool", "-K", device, "tx", state, "tso", state, "gso", state,
            ],
        )?;
        Ok(())
    }
}

impl Load {
    fn rate(self) -> Option<String> {
        match self {
            Self::Tcp | Self::TcpStreams(_) => None,
            Self::TcpAt(mbits) | Self::Udp(mbits) => Some(format!("{mbits}M")),
        }
    }
}

/// A port that no earlier measurement of this process used, so that nothing
/// that comes late is counted.
pub(crate) fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000
}

/// The lab's own program, which has the tools that run inside its namespaces.
pub(crate) fn own_tool() -> Result<String> {
    Ok(own_dir()?.join("culvert-lab").display().to_string())
}

fn parse_ping(text: &str) -> Result<Ping> {
    let counts = text
        .lines()
        .find(|line| line.contains("packets transmitted"));
    let counts = counts.context("ping printed no statistics")?;
    let number = |name: &str| {
        let part = counts.split(',').find(|part| part.contains(name))?;
        part.split_whitespace().next()?.parse::<u32>().ok()
    };
    let times = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt ")?.split_once("= "));
    let times: Vec<f64> = times
        .map(|(_, times)| {
            times
                .split(['/', ' '])
                .filter_map(|time| time.parse().ok())
                .collect()
        })
        .unwrap_or_default();
    let time = |index: usize| times.get(index).copied().unwrap_or(0.0);
    Ok(Ping {
        sent: number("transmitted").context("no count of requests")?,
        received: number("received").context("no count of answers")?,
        min_ms: time(0),
        avg_ms: time(1),
        max_ms: time(2),
    })
}

fn parse_iperf(text: &str, load: Load) -> Result<Throughput> {
    let report: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    if let Some(error) = report["error"].as_str() {
        anyhow::bail!("iperf3: {error}");
    }
    let end = &report["end"];
    // In iperf3 3.12 `sum` of a UDP run has the receiver's losses and the
    // sender's bytes.
    let (received, lost_percent) = match load {
        Load::Tcp | Load::TcpStreams(_) | Load::TcpAt(_) => {
            (end["sum_received"]["bits_per_second"].as_f64(), Some(0.0))
        }
        Load::Udp(_) => {
            let lost = end["sum"]["lost_percent"].as_f64();
            let sent = end["sum"]["bits_per_second"].as_f64();
            (
                sent.zip(lost)
                    .map(|(sent, lost)| sent * (100.0 - lost) / 100.0),
                lost,
            )
        }
    };
    Ok(Throughput {
        gbits: received.context("iperf3 printed no rate")? / 1e9,
        lost_percent: lost_percent.context("iperf3 printed no loss")?,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_statistics_are_read() {
        let text = "PING\n\n--- 10.0.0.1 ping statistics ---\n\
            5 packets transmitted, 4 received, +1 errors, 20% packet loss, time 8ms\n\
            rtt min/avg/max/mdev = 0.031/0.052/0.099/0.012 ms, ipg/ewma 2.0/0.06 ms\n";
        let want = Ping {
            sent: 5,
            received: 4,
            min_ms: 0.031,
            avg_ms: 0.052,
            max_ms: 0.099,
        };
        assert_eq!(parse_ping(text).unwrap(), want);
        let none = "3 packets transmitted, 0 received, 100% packet loss, time 20ms\n";
        assert_eq!(parse_ping(none).unwrap().received, 0);
        assert!(parse_ping("connect: Network is unreachable").is_err());
    }

    #[test]
    fn iperf_reports_are_read() {
        let tcp =
            r#"{"end":{"sum_sent":{"retransmits":3},"sum_received":{"bits_per_second":2.5e9}}}"#;
        let want = Throughput {
            gbits: 2.5,
            lost_percent: 0.0,
            retransmits: 3,
        };
        assert_eq!(parse_iperf(tcp, Load::Tcp).unwrap(), want);
        let udp = r#"{"end":{"sum":{"bits_per_second":1e8,"lost_percent":50.0}}}"#;
        assert!((parse_iperf(udp, Load::Udp(100)).unwrap().gbits - 0.05).abs() < 1e-9);
        let streams = parse_iperf(tcp, Load::TcpStreams(4)).unwrap();
        assert!((streams.gbits - 2.5).abs() < 1e-9);
        let error = parse_iperf(r#"{"error":"unable to connect"}"#, Load::Tcp).unwrap_err();
        assert!(error.to_string().contains("unable to connect"));
        assert!(parse_iperf("{}", Load::Tcp).is_err());
    }
}
