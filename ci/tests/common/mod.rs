//! What the tests of the lab share.

#![allow(
    dead_code,
    reason = "each test program is compiled with this on its own"
)]

use std::path::{Path, PathBuf};

use culvert_lab::{Lab, NetworkPlan, NodeKind, NodePlan, Plan, ProcessId, namespaces_of};

/// A plan of one network with these nodes.
pub(crate) fn plan(nodes: &[(&str, NodeKind, u8)]) -> Plan {
    let nodes = nodes
        .iter()
        .map(|(name, kind, number)| NodePlan::new(name, *kind, *number))
        .collect();
    let network = NetworkPlan {
        name: "pods".into(),
        net: 244,
        vni: 1,
        udp_port: 8472,
        nodes,
        ..NetworkPlan::default()
    };
    Plan {
        mtu: 1500,
        networks: vec![network],
    }
}

/// n1 with culvert, n2 with the kernel's VXLAN, a pod on each.
pub(crate) fn mixed_lab() -> Lab {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Kernel, 2)];
    let mut lab = Lab::new(plan(&kinds)).unwrap();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n2", "p2").unwrap();
    lab
}

/// What a lab has in the file system while it is there.
pub(crate) fn dir(tag: &str) -> PathBuf {
    Path::new("/run/culvert-lab").join(tag)
}

/// Asserts that nothing of a lab is left.
pub(crate) fn assert_gone(tag: &str, processes: &[ProcessId]) {
    assert_eq!(namespaces_of(tag).unwrap(), Vec::<String>::new());
    assert!(!dir(tag).exists());
    let left: Vec<_> = processes
        .iter()
        .filter(|process| process.is_alive())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A lab of two kernel nodes with pods p1 and p2.
pub(crate) fn kernel_lab() -> Lab {
    let kinds = [("n1", NodeKind::Kernel, 1), ("n2", NodeKind::Kernel, 2)];
    let mut lab = Lab::new(plan(&kinds)).unwrap();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n2", "p2").unwrap();
    lab
}
