//! A small lab that stays until something ends it: for tests of how labs end.

use std::io::{Read, Write};

use anyhow::Result;

use crate::guest::Checksums;
use crate::lab::Lab;
use crate::plan::{NetworkPlan, NodeKind, NodePlan, Plan};

/// Builds a lab of two kernel nodes, or a kernel node and a guest, with a process
/// in a pod of the first, prints the lab's name and its processes, and waits for the end of standard input.
///
/// # Errors
/// When the lab cannot be built.
///
/// # Panics
/// When asked to.
pub fn hold(panic: bool, guest: bool) -> Result<()> {
    let second = if guest {
        NodeKind::Guest(Checksums::Finished)
    } else {
        NodeKind::Kernel
    };
    let nodes = vec![
        NodePlan::new("n1", NodeKind::Kernel, 1),
        NodePlan::new("n2", second, 2),
    ];
    let network = NetworkPlan {
        name: "held".into(),
        net: 244,
        vni: 1,
        udp_port: 8472,
        nodes,
        ..NetworkPlan::default()
    };
    let mut lab = Lab::new(Plan {
        mtu: 1500,
        networks: vec![network],
    })?;
    lab.add_pod("n1", "p1")?;
    let _service = lab.spawn("p1", &["sh", "-c", "echo up; exec sleep 1000"], |said| {
        said.contains("up")
    })?;
    let pids: Vec<_> = lab
        .processes()
        .iter()
        .map(|process| process.pid.to_string())
        .collect();
    println!("{} {}", lab.tag(), pids.join(" "));
    std::io::stdout().flush()?;
    assert!(!panic, "a panic was asked for");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    lab.take_down()
}
