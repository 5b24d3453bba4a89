//! Everyone pings everyone, nodes exchange TCP and UDP; with the kernel node's
//! offloads on and off.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};

use super::progress::Progress;
use super::{PORT, shown};
use crate::capture::decode;
use crate::lab::{Lab, UNDERLAY};
use crate::measure::Load;

/// Echo requests from each to each.
const COUNT: u32 = 5;
/// Loss of UDP in percent that is still well on a busy machine.
const UDP_LOSS: f64 = 1.0;
/// Mbit/s of UDP that must get through between any two nodes.
const UDP_MBITS: u32 = 100;
/// The kernel node whose offloads are switched.
const SWITCHED: &str = "n3";

/// Names of the two modes, in the order they are run.
const MODES: [(&str, bool); 2] = [("on", true), ("off", false)];

/// Who to whom, as the table groups it.
type Pair = (String, String);

/// What was measured for one pair.
#[derive(Debug, Default)]
struct Row {
    answered: u32,
    rtts_us: Vec<f64>,
    tcp: Vec<f64>,
    udp: Vec<f64>,
    encapsulation: BTreeSet<String>,
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    rows: BTreeMap<Pair, Row>,
}

/// One who pings or is pinged.
struct Party {
    place: String,
    group: String,
    node: String,
    address: Ipv4Addr,
}

pub(crate) fn show(lab: &Lab, progress: &mut Progress) -> Result<Traffic> {
    let mut traffic = Traffic::default();
    for (mode, on) in MODES {
        lab.offloads(SWITCHED, "eth0", on)?;
        let name = format!("everyone pings everyone (offloads of {SWITCHED} {mode})");
        progress.step(&name, || traffic.pings(lab))?;
        let name = format!("TCP and UDP between all nodes (offloads of {SWITCHED} {mode})");
        progress.step(&name, || traffic.throughput(lab))?;
    }
    lab.offloads(SWITCHED, "eth0", true)?;
    Ok(traffic)
}

impl Traffic {
    fn pings(&mut self, lab: &Lab) -> Result<()> {
        let filter = format!("icmp or udp port {PORT}");
        let capture = lab.capture((UNDERLAY, "br0"), &filter)?;
        let (pods, nodes) = parties(lab)?;
        let mut asked = Vec::new();
        for from in pods
            .iter()
            .chain(nodes.iter().filter(|node| node.group.ends_with("underlay")))
        {
            let is_node = nodes.iter().any(|node| node.place == from.place);
            let to_nodes = nodes.iter().filter(|_| !is_node);
            for to in pods
                .iter()
                .chain(to_nodes)
                .filter(|to| to.address != from.address)
            {
                self.ping(lab, from, to)?;
                asked.push((from, to));
            }
        }
        let seen = encapsulations(&capture.finish()?)?;
        asked
            .into_iter()
            .try_for_each(|(from, to)| self.note_encapsulation(&seen, from, to))
    }

    fn ping(&mut self, lab: &Lab, from: &Party, to: &Party) -> Result<()> {
        let ping = lab.ping(&from.place, to.address, COUNT)?;
        ensure!(
            ping.received == COUNT,
            "{} pings {} ({}, {}): expected {COUNT} answers, saw {}",
            from.place,
            to.place,
            to.group,
            to.address,
            ping.received
        );
        let row = self.row(from, to);
        row.answered += ping.received;
        row.rtts_us.push(ping.avg_ms * 1000.0);
        Ok(())
    }

    fn note_encapsulation(&mut self, seen: &Seen, from: &Party, to: &Party) -> Result<()> {
        // A node's packet has the address that its kernel chose, so only pods are told apart.
        let Some(own) = Some(from.address).filter(|_| from.group.ends_with("pods")) else {
            return Ok(());
        };
        let how = seen.get(&(own, to.address)).map_or("none", String::as_str);
        let both_pods = to.group.ends_with("pods");
        ensure!(
            (from.node == to.node) == how.starts_with("none"),
            "{} ({}) to {} ({}): on the underlay as `{how}`",
            from.place,
            from.node,
            to.place,
            to.node
        );
        ensure!(
            !both_pods || from.node == to.node || how.starts_with("VXLAN"),
            "{} to {}: expected VXLAN on the underlay, saw {how}",
            from.place,
            to.place
        );
        let how = how.to_owned();
        self.row(from, to).encapsulation.insert(how);
        Ok(())
    }

    fn throughput(&mut self, lab: &Lab) -> Result<()> {
        let (pods, _) = parties(lab)?;
        let firsts: Vec<_> = pods.iter().filter(|pod| pod.place.ends_with('a')).collect();
        for from in &firsts {
            for to in firsts.iter().filter(|to| to.node != from.node) {
                self.exchange(lab, from, to).with_context(|| {
                    format!(
                        "{} ({}) to {} ({})",
                        from.place, from.node, to.place, to.node
                    )
                })?;
            }
        }
        Ok(())
    }

    fn exchange(&mut self, lab: &Lab, from: &Party, to: &Party) -> Result<()> {
        let (target, second) = ((to.place.as_str(), to.address), Duration::from_secs(1));
        let tcp = lab.iperf(&from.place, target, Load::Tcp, second)?;
        ensure!(tcp.gbits > 0.0, "no TCP payload arrived");
        let udp = lab.iperf(&from.place, target, Load::Udp(UDP_MBITS), second)?;
        ensure!(
            udp.lost_percent <= UDP_LOSS,
            "UDP at {UDP_MBITS} Mbit/s: expected a loss of at most {UDP_LOSS} %, saw {:.1} %",
            udp.lost_percent
        );
        let row = self.row(from, to);
        row.tcp.push(tcp.gbits);
        row.udp.push(udp.gbits);
        Ok(())
    }

    fn row(&mut self, from: &Party, to: &Party) -> &mut Row {
        self.rows
            .entry((from.group.clone(), to.group.clone()))
            .or_default()
    }

    /// The table of who to whom.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let head = [
            "from",
            "to",
            "answers",
            "RTT µs min / mean",
            "TCP Gbit/s",
            "UDP Gbit/s",
            "encapsulation",
        ];
        table.set_header(head);
        for ((from, to), row) in &self.rows {
            let least = row.rtts_us.iter().copied().fold(f64::INFINITY, f64::min);
            let encapsulation: Vec<_> = row.encapsulation.iter().map(String::as_str).collect();
            table.add_row([
                from.clone(),
                to.clone(),
                row.answered.to_string(),
                format!("{least:.0} / {:.0}", mean(&row.rtts_us)),
                modes(&row.tcp),
                modes(&row.udp),
                encapsulation.join(", "),
            ]);
        }
        format!(
            "{table}\nGbit/s: with the offloads of {SWITCHED} on / off; UDP offered at {UDP_MBITS} Mbit/s."
        )
    }
}

/// The values of the two modes, or nothing.
fn modes(values: &[f64]) -> String {
    let texts: Vec<_> = values.iter().map(|value| format!("{value:.2}")).collect();
    texts.join(" / ")
}

fn mean(values: &[f64]) -> f64 {
    let count = f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX));
    values.iter().sum::<f64>() / count.max(1.0)
}

/// The pods, and the nodes by each of their two addresses.
fn parties(lab: &Lab) -> Result<(Vec<Party>, Vec<Party>)> {
    let pods = shown(lab).into_iter().map(|pod| Party {
        group: format!("{} pods", pod.node),
        place: pod.name,
        node: pod.node,
        address: pod.address,
    });
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let (network, node) = lab.node(name)?;
        for (what, address) in [
            ("underlay", node.underlay()),
            ("block", network.address(node, 0)),
        ] {
            let group = format!("{name} {what}");
            nodes.push(Party {
                place: name.into(),
                node: name.into(),
                group,
                address,
            });
        }
    }
    Ok((pods.collect(), nodes))
}

/// How an echo request from one address to another was on the underlay.
type Seen = BTreeMap<(Ipv4Addr, Ipv4Addr), String>;

fn encapsulations(file: &Path) -> Result<Seen> {
    let mut seen = Seen::new();
    for packet in decode(file, PORT, &["ip.src", "ip.dst", "vxlan.vni", "icmp.type"])? {
        let [from, to, vni, kind] = packet.as_slice() else {
            continue;
        };
        // The innermost header is the last.
        let last = |values: &[String]| values.last().and_then(|value| value.parse().ok());
        if let (Some(from), Some(to), true) =
            (last(from), last(to), kind.iter().any(|kind| kind == "8"))
        {
            let how = vni
                .first()
                .map_or_else(|| "plain".into(), |vni| format!("VXLAN {vni}"));
            seen.insert((from, to), how);
        }
    }
    Ok(seen)
}
