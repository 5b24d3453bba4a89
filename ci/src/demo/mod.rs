//! The demo: three nodes, two pods on each, everyone talks to everyone, and in
//! the end nothing is left.

pub mod appliance;
mod cleanup;
pub mod encap;
mod progress;
mod rates;
mod traffic;
mod wire;

use anyhow::{Context, Result};

use crate::lab::{Lab, Pod};
use crate::plan::{NetworkPlan, NodeKind, NodePlan, Plan};
use progress::Progress;

/// What the demo can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave the lab up and print what to try.
    pub keep: bool,
    /// Make all nodes plain Linux.
    pub peer_only: bool,
}

/// UDP port of the pods' network, flannel's.
pub(crate) const PORT: u16 = 8472;

/// Runs the demo and prints what it sees.
///
/// # Errors
/// The first thing that did not hold: which step, what was expected, what was seen.
pub fn run(options: Options) -> Result<()> {
    let mut progress = Progress::start();
    let before = cleanup::root_devices()?;
    let mut lab = progress.step(
        "build the underlay and five nodes, start the daemons",
        || Lab::new(plan(options.peer_only)),
    )?;
    if let Err(error) = show(&mut lab, &mut progress) {
        eprint!("{}", lab.log_tails(20));
        return Err(error);
    }
    if options.keep {
        print_hints(&lab);
        return lab.keep();
    }
    cleanup::take_down(lab, &mut progress, &before)?;
    println!("\nAll of it held ({:.0} s).", progress.seconds());
    Ok(())
}

/// The nodes: n1 and n2 with culvert, n3 with the kernel's VXLAN, and a pair k1,
/// k2 of kernel nodes in a network of their own to compare rates with.
fn plan(peer_only: bool) -> Plan {
    let first = if peer_only {
        NodeKind::Kernel
    } else {
        NodeKind::Culvert
    };
    let pods = NetworkPlan {
        name: "pods".into(),
        net: 244,
        vni: 1,
        udp_port: PORT,
        nodes: vec![
            NodePlan::new("n1", first, 1),
            NodePlan::new("n2", first, 2),
            NodePlan::new("n3", NodeKind::Kernel, 3),
        ],
        ..NetworkPlan::default()
    };
    let pair = NetworkPlan {
        name: "pair".into(),
        net: 245,
        vni: 2,
        udp_port: PORT + 1,
        nodes: vec![
            NodePlan::new("k1", NodeKind::Kernel, 11),
            NodePlan::new("k2", NodeKind::Kernel, 12),
        ],
        ..NetworkPlan::default()
    };
    Plan {
        mtu: 1500,
        networks: vec![pods, pair],
    }
}

/// The pods: name and node.
const PODS: [(&str, &str); 8] = [
    ("p1a", "n1"),
    ("p1b", "n1"),
    ("p2a", "n2"),
    ("p2b", "n2"),
    ("p3a", "n3"),
    ("p3b", "n3"),
    ("pk1", "k1"),
    ("pk2", "k2"),
];

fn show(lab: &mut Lab, progress: &mut Progress) -> Result<()> {
    progress.step("add two pods to each node", || {
        PODS.iter()
            .try_for_each(|(pod, node)| lab.add_pod(node, pod).map(drop))
    })?;
    let traffic = traffic::show(lab, progress)?;
    let checked = progress.step("decode what n1 sends to n3 with tshark", || {
        wire::check(lab)
    })?;
    let rates = rates::compare(lab, progress)?;
    println!("\n{}", traffic.table());
    println!("{}", wire::sentence(&checked));
    println!("\n{}", rates.table());
    print_culvert(lab)
}

/// Prints the first CNI result and the counters of the first culvert node.
fn print_culvert(lab: &Lab) -> Result<()> {
    let added = lab
        .pods()
        .iter()
        .find_map(|pod| Some((pod, pod.result.as_ref()?)));
    if let Some((pod, result)) = added {
        println!(
            "\nCNI result of ADD for {}:\n{}",
            pod.name,
            serde_json::to_string_pretty(result)?
        );
        let counters = lab
            .culvert(&pod.node, &["counters"])
            .context("culvert counters")?;
        println!(
            "\nCounters of {}:\n{}",
            pod.node,
            counters.stdout.trim_end()
        );
    }
    Ok(())
}

/// The pods of the network that the demo shows, without the pair.
fn shown(lab: &Lab) -> Vec<Pod> {
    lab.pods()
        .iter()
        .filter(|pod| pod.node.starts_with('n'))
        .cloned()
        .collect()
}

fn print_hints(lab: &Lab) {
    let (first, last) = (lab.namespace("p1a"), lab.pod("p3a").map(|pod| pod.address));
    println!("\nThe lab {} stays up. To try:", lab.tag());
    if let Ok(address) = last {
        println!("  ip netns exec {first} ping -c 3 {address}");
        println!("  ip netns exec {} iperf3 -s", lab.namespace("p3a"));
        println!("  ip netns exec {first} iperf3 -c {address}");
    }
    println!(
        "  ip netns exec {} tcpdump -ni br0 udp port {PORT}",
        lab.namespace(crate::UNDERLAY)
    );
    let asked = lab.daemons().into_iter().next();
    if let Some(Ok(command)) = asked.map(|node| lab.culvert_command(&node)) {
        for what in ["status", "endpoints", "routes", "peers", "counters"] {
            println!("  {command} {what}");
        }
    }
    println!("Configurations and logs: {}", lab.dir().display());
    match std::env::current_exe() {
        Ok(own) => println!("To take it down: {} sweep", own.display()),
        Err(_) => println!("To take it down: culvert-lab sweep"),
    }
}
