//! What is measured side by side. Each setup is a lab of its own: two nodes joined by a
//! veth, a pod on each; all of them stay up for all rounds.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use super::forwarder;
use super::vswitch::{self, Joint, Switch};
use crate::lab::Lab;
use crate::measure::own_tool;
use crate::plan::{NetworkPlan, NodeKind, NodePlan, Plan};
use crate::process::run;
use crate::service::Service;

/// Key of the setup that all others are compared with.
pub const KERNEL: &str = "kernel";

/// The two nodes and the pods on them.
const NODES: [&str; 2] = ["n1", "n2"];
const PODS: [&str; 2] = ["p1", "p2"];
/// MTU of the veth between the nodes.
const MTU: u32 = 1500;
/// Length of a node's block of addresses where there are a thousand pods.
const WIDE: u8 = 20;

/// A way to join two pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// What it is called on the command line and in the tables.
    pub key: &'static str,
    /// What it is called in plots and in the summary.
    pub name: &'static str,
    /// What it is made of, for the summary.
    pub what: &'static str,
    /// Whether it has a part in what is measured with up to a thousand endpoints.
    pub endpoints: bool,
    /// Whether the figures to reach are asked of it.
    pub has_goals: bool,
    make: Make,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Make {
    Kernel,
    /// Further lines for the cluster file's `[network]`, and for `culvert.toml`.
    Culvert {
        network: &'static str,
        daemon: &'static str,
    },
    Vswitch,
    Forwarder,
}

/// All setups, in the order in which each round measures them.
pub const SETUPS: &[Setup] = &[
    Setup {
        key: KERNEL,
        name: "kernel vxlan",
        what: "the kernel's `vxlan` device, a bridge and a veth to the pod, as flannel configures them",
        endpoints: true,
        has_goals: false,
        make: Make::Kernel,
    },
    Setup {
        key: "socket",
        name: "culvert, UDP sockets",
        what: "culvertd with VXLAN by UDP sockets, the pod on a TAP device",
        endpoints: true,
        has_goals: true,
        make: Make::Culvert {
            network: "",
            daemon: "\n[underlay]\ndriver = \"socket\"\n",
        },
    },
    Setup {
        key: "tap",
        name: "culvert, TAP with tunnel GSO",
        what: "culvertd with VXLAN by a TAP that traffic control joins to the underlay's device, the pod on a TAP device",
        endpoints: true,
        has_goals: true,
        make: Make::Culvert {
            network: "",
            daemon: "\n[underlay]\ndriver = \"tap\"\n",
        },
    },
    Setup {
        key: "ipip",
        name: "culvert, IP in IP",
        what: "culvertd with IP in IP by raw sockets, the pod on a TAP device",
        endpoints: false,
        has_goals: false,
        make: Make::Culvert {
            network: "encap = \"ipip\"\n",
            daemon: "",
        },
    },
    Setup {
        key: "ovs",
        name: "Open vSwitch, user space",
        what: "Debian's Open vSwitch with the netdev datapath, a VXLAN port, and a veth to the pod whose offloads are off, as it requires",
        endpoints: false,
        has_goals: false,
        make: Make::Vswitch,
    },
    Setup {
        key: "plain",
        name: "plain TAP forwarder",
        what: "`ci/src/bench/forwarder.rs`, a hundred lines: a TAP device, a UDP socket, a frame a system call, no offloads",
        endpoints: false,
        has_goals: false,
        make: Make::Forwarder,
    },
];

/// A setup that is up.
#[derive(Debug)]
pub struct Site {
    /// What it is.
    pub setup: Setup,
    // Before the lab, whose directory they are in.
    _switches: Vec<Switch>,
    _services: Vec<Service>,
    /// Its lab.
    pub lab: Lab,
    /// Where traffic comes from.
    pub from: &'static str,
    /// Where it goes.
    pub to: (&'static str, Ipv4Addr),
}

impl Setup {
    /// The setup that is called so.
    ///
    /// # Errors
    /// Names those that there are.
    pub fn named(key: &str) -> Result<Self> {
        let found = SETUPS.iter().find(|setup| setup.key == key).copied();
        found.with_context(|| {
            let keys: Vec<_> = SETUPS.iter().map(|setup| setup.key).collect();
            format!("no setup `{key}`: there are {}", keys.join(", "))
        })
    }

    /// Whether it is one of culvert's.
    #[must_use]
    pub fn is_culvert(&self) -> bool {
        matches!(self.make, Make::Culvert { .. })
    }

    /// Builds it; `wide`: its nodes have blocks for a thousand pods.
    ///
    /// # Errors
    /// What could not be built; nothing is left then.
    pub fn build(self, wide: bool) -> Result<Site> {
        let plan = self.plan(wide);
        let network = &plan.networks[0];
        let address = |index: usize| network.address(&network.nodes[index], 2);
        let (mut ends, peers) = ([address(0), address(1)], [0, 1]);
        let underlay = [0, 1].map(|index: usize| network.nodes[index].underlay());
        let vni = network.vni;
        let mut lab = Lab::new(plan)?;
        let (mut switches, mut services) = (Vec::new(), Vec::new());
        for index in peers {
            let (node, pod, other) = (NODES[index], PODS[index], 1 - index);
            match self.make {
                Make::Kernel | Make::Culvert { .. } => {
                    ends[index] = lab.add_pod(node, pod)?.address;
                }
                Make::Vswitch => {
                    lab.add_place(pod)?;
                    switches.push(vswitch::start(
                        &lab,
                        Joint {
                            node,
                            local: underlay[index],
                            peer: underlay[other],
                            vni,
                            pod,
                            address: ends[index],
                        },
                    )?);
                }
                Make::Forwarder => {
                    lab.add_place(pod)?;
                    let ways = [underlay[index], underlay[other]];
                    services.push(start_forwarder(
                        &lab,
                        (node, pod),
                        ways,
                        (vni, ends[index]),
                    )?);
                }
            }
        }
        let site = Site {
            setup: self,
            _switches: switches,
            _services: services,
            lab,
            from: PODS[0],
            to: (PODS[1], ends[1]),
        };
        site.check()?;
        Ok(site)
    }

    fn plan(self, wide: bool) -> Plan {
        let (kind, network, daemon) = match self.make {
            Make::Kernel => (NodeKind::Kernel, "", ""),
            Make::Culvert { network, daemon } => (NodeKind::Culvert, network, daemon),
            Make::Vswitch | Make::Forwarder => (NodeKind::Bare, "", ""),
        };
        let node = |(name, number): (&str, u8)| NodePlan {
            daemon: daemon.to_owned(),
            ..NodePlan::new(name, kind, number)
        };
        let nodes = NODES.iter().copied().zip([1, 2]).map(node).collect();
        let network = NetworkPlan {
            nodes,
            settings: network.to_owned(),
            block_length: if wide { WIDE } else { 24 },
            cable: true,
            ..NetworkPlan::default()
        };
        Plan {
            mtu: MTU,
            networks: vec![network],
        }
    }
}

impl Site {
    /// Whether packets get through both ways; the first may be lost to neighbors that
    /// must be found.
    fn check(&self) -> Result<()> {
        self.lab.ping(self.from, self.to.1, 3)?;
        let ping = self.lab.ping(self.from, self.to.1, 5)?;
        ensure!(
            ping.received == ping.sent,
            "{}: {} of {} echo requests answered\n{}",
            self.setup.name,
            ping.received,
            ping.sent,
            self.lab.log_tails(20)
        );
        Ok(())
    }
}

/// Starts the forwarder on a bare node and gives its device to the pod.
fn start_forwarder(
    lab: &Lab,
    (node, pod): (&str, &str),
    [local, peer]: [Ipv4Addr; 2],
    (vni, address): (u32, Ipv4Addr),
) -> Result<Service> {
    let (tool, mtu) = (own_tool()?, lab.plan().pod_mtu());
    let (local, peer, vni) = (local.to_string(), peer.to_string(), vni.to_string());
    let argv = [tool.as_str(), "forward", "tap0", &local, &peer, &vni];
    let service = lab.spawn(node, &argv, |printed| printed.contains(forwarder::READY))?;
    let (there, own) = (lab.namespace(node), lab.namespace(pod));
    let lines = format!("link set tap0 mtu {mtu} netns {own} name eth0\n");
    run(&["ip", "-n", &there, "-batch", "-"], &lines)?;
    let lines = format!("addr add {address}/16 dev eth0\nlink set eth0 up\n");
    run(&["ip", "-n", &own, "-batch", "-"], &lines)?;
    Ok(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setups_are_found_by_their_names() {
        assert_eq!(SETUPS[0].key, KERNEL);
        for setup in SETUPS {
            assert_eq!(Setup::named(setup.key).unwrap(), *setup);
            setup.plan(true).check().unwrap();
        }
        let error = Setup::named("none").unwrap_err().to_string();
        assert!(error.contains("kernel, socket, tap"), "{error}");
    }
}
