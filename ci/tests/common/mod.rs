//! What the tests of the lab share.

use culvert_lab::{Lab, NetworkPlan, NodeKind, NodePlan, Plan};

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

/// A lab of two kernel nodes with pods p1 and p2.
#[allow(
    dead_code,
    reason = "each test program is compiled with this on its own"
)]
pub(crate) fn kernel_lab() -> Lab {
    let kinds = [("n1", NodeKind::Kernel, 1), ("n2", NodeKind::Kernel, 2)];
    let mut lab = Lab::new(plan(&kinds)).unwrap();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n2", "p2").unwrap();
    lab
}
