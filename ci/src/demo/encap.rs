//! One encapsulation, with a real kernel as a peer: n1 and n2 with culvert and g9,
//! a machine of its own with Debian's kernel; their pods ping each other, and
//! tshark says how their packets travelled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Table, presets};

use super::progress::Progress;
use super::{PORT, cleanup};
use crate::capture::decode;
use crate::guest::{Checksums, Encapsulation};
use crate::lab::{Lab, UNDERLAY};
use crate::plan::{NetworkPlan, NodeKind, NodePlan, Plan};

/// Echo requests from each to each.
const COUNT: u32 = 5;

/// What `--encap` can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// VXLAN.
    Vxlan,
    /// IP in IP.
    Ipip,
    /// No tunnel.
    Direct,
    /// IP in IP to nodes of other subnets, no tunnel within one.
    CrossSubnet,
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "vxlan" => Mode::Vxlan,
            "ipip" => Mode::Ipip,
            "direct" => Mode::Direct,
            "cross-subnet" => Mode::CrossSubnet,
            _ => bail!("`{text}` is none of vxlan, ipip, direct, cross-subnet"),
        })
    }
}

/// An encapsulation and what it runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// How nodes reach each other.
    pub mode: Mode,
    /// Over an IPv6 underlay.
    pub over_v6: bool,
}

impl Case {
    /// Whether pods have IPv6 addresses: everywhere but where their packets would
    /// need an IPv6 next hop and there is none.
    fn dual_stack(self) -> bool {
        self.mode != Mode::Direct || self.over_v6
    }

    /// How the guest reaches the others; nothing where its kernel is not set up for it.
    fn guest_ways(self) -> Vec<Encapsulation> {
        let tunnels = match self.over_v6 {
            false => vec![Encapsulation::Ipip, Encapsulation::Sit],
            true => vec![Encapsulation::Ip6Tunnel { limit: None }],
        };
        match self.mode {
            // The guest's device is flannel's: IPv4 over IPv4.
            Mode::Vxlan if self.over_v6 => Vec::new(),
            Mode::Vxlan => vec![Encapsulation::Vxlan],
            Mode::Direct => vec![Encapsulation::Direct],
            Mode::Ipip | Mode::CrossSubnet => tunnels,
        }
    }

    /// Whether the guest's IPv6 pods take part.
    fn guest_has_v6(self) -> bool {
        self.dual_stack() && self.mode != Mode::Vxlan
    }

    fn settings(self) -> &'static str {
        match self.mode {
            Mode::Vxlan => "encap = \"vxlan\"\n",
            Mode::Ipip => "encap = \"ipip\"\n",
            Mode::Direct => "encap = \"direct\"\n",
            Mode::CrossSubnet => "encap = \"cross-subnet\"\ntunnel = \"ipip\"\n",
        }
    }

    /// n1 and n2 are neighbors, g9 is in another subnet where that matters.
    fn plan(self) -> Plan {
        let mut nodes = vec![
            NodePlan::new("n1", NodeKind::Culvert, 1),
            NodePlan::new("n2", NodeKind::Culvert, 2),
        ];
        if !self.guest_ways().is_empty() {
            let guest = NodeKind::Guest(Checksums::Finished);
            nodes.push(NodePlan::new("g9", guest, 9));
        }
        let network = NetworkPlan {
            udp_port: PORT,
            nodes,
            settings: self.settings().to_owned(),
            dual_stack: self.dual_stack(),
            over_v6: self.over_v6,
            subnets: match self.mode {
                Mode::CrossSubnet => (29, 125),
                _ => NetworkPlan::default().subnets,
            },
            ..NetworkPlan::default()
        };
        Plan {
            mtu: 1500,
            networks: vec![network],
        }
    }

    /// The protocols that tshark must find around a ping between two nodes, as it
    /// names them.
    fn layers(self, (from, to): (&str, &str), v6: bool) -> &'static str {
        let neighbors = from != "g9" && to != "g9";
        match (self.mode, self.over_v6, v6) {
            (Mode::Vxlan, false, false) => "ip:udp:vxlan:eth:ethertype:ip:icmp",
            (Mode::Vxlan, false, true) => "ip:udp:vxlan:eth:ethertype:ipv6:icmpv6",
            (Mode::Vxlan, true, false) => "ipv6:udp:vxlan:eth:ethertype:ip:icmp",
            (Mode::Vxlan, true, true) => "ipv6:udp:vxlan:eth:ethertype:ipv6:icmpv6",
            (Mode::Direct, _, false) => "ip:icmp",
            (Mode::Direct, _, true) => "ipv6:icmpv6",
            // A route needs a next hop of some version: IPv6 has none over IPv4.
            (Mode::CrossSubnet, over_v6, v6) if neighbors && (over_v6 || !v6) => match v6 {
                false => "ip:icmp",
                true => "ipv6:icmpv6",
            },
            (_, false, false) => "ip:ip:icmp",
            (_, false, true) => "ip:ipv6:icmpv6",
            (_, true, false) => "ipv6:ip:icmp",
            (_, true, true) => "ipv6:ipv6:icmpv6",
        }
    }
}

/// Builds the nodes, lets everyone ping everyone, and takes it all down.
///
/// # Errors
/// The first thing that did not hold: which step, what was expected, what was seen.
pub fn run(case: Case) -> Result<()> {
    let mut progress = Progress::start();
    let before = cleanup::root_devices()?;
    let mut lab = progress.step(
        "build the underlay and the nodes, boot the guest, start the daemons",
        || Lab::new(case.plan()),
    )?;
    if let Err(error) = show(&mut lab, case, &mut progress) {
        eprint!("{}", lab.log_tails(20));
        return Err(error);
    }
    cleanup::take_down(lab, &mut progress, &before)?;
    println!("\nAll of it held ({:.0} s).", progress.seconds());
    Ok(())
}

/// Adds the pods, lets them ping each other, and prints how the packets travelled.
fn show(lab: &mut Lab, case: Case, progress: &mut Progress) -> Result<()> {
    progress.step("add a pod to each node", || add_pods(lab, case))?;
    let travelled = progress.step("everyone pings everyone", || check(lab, case))?;
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["from", "to", "inside", "on the wire"]);
    for ((from, to, v6), layers) in travelled {
        let inside = if v6 { "IPv6" } else { "IPv4" };
        table.add_row([from, to, inside.to_owned(), layers]);
    }
    println!("{table}");
    let peers = lab.culvert("n1", &["peers"])?.success()?;
    println!("{}", peers.stdout.trim_end());
    Ok(())
}

/// Adds a pod to each node and tells the guest how to reach the others.
///
/// # Errors
/// What could not be made.
fn add_pods(lab: &mut Lab, case: Case) -> Result<()> {
    let names: Vec<String> = lab.plan().nodes().map(|(_, n)| n.name.clone()).collect();
    for name in &names {
        lab.add_pod(name, &format!("p{name}"))?;
    }
    for peer in names.iter().filter(|name| *name != "g9") {
        for way in case.guest_ways() {
            lab.encapsulate("g9", peer, way)?;
        }
    }
    Ok(())
}

/// From, to, IPv6 → layers on the wire.
type Travelled = BTreeMap<(String, String, bool), String>;

/// Lets every pod ping every pod of another node, in both IP versions, while the
/// underlay is captured; returns how the packets travelled.
///
/// # Errors
/// An answer that is missing, or layers that are not those of the case.
fn check(lab: &Lab, case: Case) -> Result<Travelled> {
    let mut travelled = Travelled::new();
    for v6 in [false, true] {
        for from in lab.pods() {
            for to in lab.pods().iter().filter(|to| to.node != from.node) {
                let guest = from.node == "g9" || to.node == "g9";
                if v6
                    && !(if guest {
                        case.guest_has_v6()
                    } else {
                        case.dual_stack()
                    })
                {
                    continue;
                }
                let address: IpAddr = match v6 {
                    false => to.address.into(),
                    true => to.address6.context("the pod has no IPv6 address")?.into(),
                };
                let layers = ping(lab, (&from.name, &from.node), address)?;
                let wanted = case.layers((&from.node, &to.node), v6);
                ensure!(
                    layers == BTreeSet::from([wanted.to_owned()]),
                    "{} to {address}: wanted {wanted} on the wire, saw {layers:?}",
                    from.name
                );
                let key = (from.name.clone(), to.name.clone(), v6);
                travelled.insert(key, wanted.to_owned());
            }
        }
    }
    Ok(travelled)
}

/// Pings and returns the layers of the requests as they left the node.
fn ping(lab: &Lab, (pod, node): (&str, &str), to: IpAddr) -> Result<BTreeSet<String>> {
    // What a device makes of a tunnel packet is not what culvert sent.
    let capture = lab.capture((UNDERLAY, &format!("to-{node}")), "ip or ip6")?;
    let result = match to {
        IpAddr::V4(to) => lab.ping(pod, to, COUNT)?,
        IpAddr::V6(to) => lab.ping6(pod, to, COUNT)?,
    };
    let file = capture.finish()?;
    ensure!(
        result.received == COUNT,
        "{pod} to {to}: {} of {COUNT} answered",
        result.received
    );
    let fields = [
        "frame.protocols",
        "icmp.type",
        "icmpv6.type",
        "ip.dst",
        "ipv6.dst",
    ];
    let packets = decode(&file, PORT, &fields)?;
    let text = to.to_string();
    let mine = packets.iter().filter(|packet| {
        let [_, icmp, icmpv6, dst, dst6] = &packet[..] else {
            return false;
        };
        let request =
            icmp.iter().any(|kind| kind == "8") || icmpv6.iter().any(|kind| kind == "128");
        request && (dst.contains(&text) || dst6.contains(&text))
    });
    let layers = mine.map(|packet| {
        let all = packet[0].join(":");
        let all = all.trim_start_matches("eth:ethertype:");
        all.trim_end_matches(":data").to_owned()
    });
    Ok(layers.collect())
}
