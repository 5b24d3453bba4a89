//! Setup 1 with its underlay as raw Ethernet, and what it knows of others.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::{IpPrefix, MacAddr, PeerId, PortId, Vni};

use crate::common::{GATEWAY_MAC, HOST_MAC, ip, list, prefix};
pub(crate) use crate::common::{HOST, NET, POD_A, POD_B};

/// The port to the underlay.
pub(crate) const WIRE: PortId = PortId(0);

/// MAC address of node `n` on the underlay.
pub(crate) const fn node_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

/// Underlay address of node `n`.
pub(crate) fn node_address(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => ip(&format!("192.168.77.{n}")),
        true => ip(&format!("fd00:77::{n}")),
    }
}

/// Setup 1: what it has, and whom it knows.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Whether the underlay is IPv6.
    pub(crate) over_v6: bool,
    /// How other nodes are reached.
    pub(crate) encap: Encap,
    /// What is accepted of them.
    pub(crate) accepts: Vec<Encap>,
    /// Numbers of the other nodes.
    pub(crate) peers: Vec<u8>,
    /// Nodes that are reached by the gateway of the underlay.
    pub(crate) far: Vec<u8>,
    /// Whether pods have IPv6 addresses, too.
    pub(crate) dual: bool,
    /// Whether there is a second pod.
    pub(crate) pod_b: bool,
    /// Whether the host is in the network.
    pub(crate) host: bool,
    /// Whether all peers pass on packets to others.
    pub(crate) transit: bool,
    pub(crate) underlay_mtu: u16,
    pub(crate) pod_mtu: u16,
    pub(crate) vni: u32,
    pub(crate) udp_port: u16,
    /// Further addresses of the gateway.
    pub(crate) gateways: Vec<&'static str>,
    pub(crate) proxy: Proxy,
    pub(crate) options: NetworkOptions,
    /// Further routes.
    pub(crate) routes: Vec<(&'static str, NextHop)>,
    /// Prefixes that pod A may send from besides its addresses.
    pub(crate) allowed: Vec<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            over_v6: false,
            encap: Encap::Vxlan,
            accepts: Vec::new(),
            peers: vec![2],
            far: Vec::new(),
            dual: false,
            pod_b: false,
            host: false,
            transit: false,
            underlay_mtu: 1500,
            pod_mtu: 1450,
            vni: 1,
            udp_port: 8472,
            gateways: Vec::new(),
            proxy: Proxy::LinkLocal,
            options: NetworkOptions::NONE,
            routes: Vec::new(),
            allowed: Vec::new(),
        }
    }
}

impl Setup {
    /// A node that reaches others in this way.
    pub(crate) fn with(encap: Encap, over_v6: bool) -> Setup {
        Setup {
            encap,
            over_v6,
            ..Setup::default()
        }
    }

    /// A node with two pods and nobody else.
    pub(crate) fn alone() -> Setup {
        Setup {
            peers: Vec::new(),
            pod_b: true,
            ..Setup::default()
        }
    }

    /// The same with IPv6 in the network.
    pub(crate) fn dual(self) -> Setup {
        Setup { dual: true, ..self }
    }

    /// Names of the ports.
    pub(crate) fn names(&self) -> BTreeMap<String, u16> {
        let mut names = vec![("wire", WIRE), ("pod-a", POD_A)];
        names.extend(self.pod_b.then_some(("pod-b", POD_B)));
        names.extend(self.host.then_some(("host", HOST)));
        let named = |(name, id): (&str, PortId)| (name.to_owned(), id.0);
        names.into_iter().map(named).collect()
    }

    pub(crate) fn wire(&self) -> Port {
        let (prefix_length, gateway) = match self.over_v6 {
            false => (24, 254),
            true => (64, 99),
        };
        let gateways = [node_address(self.over_v6, gateway)];
        Port {
            id: WIRE,
            mtu: self.underlay_mtu,
            mac: MacAddr::new(node_mac(1)),
            offloads: Offloads::NONE,
            kind: PortKind::Wire(Wire {
                addresses: list(&[WireAddress {
                    address: node_address(self.over_v6, 1),
                    prefix_length,
                }]),
                gateways: list(if self.far.is_empty() { &[] } else { &gateways }),
            }),
        }
    }

    pub(crate) fn network(&self) -> Network {
        let local = node_address(self.over_v6, 1);
        let prefixes = [prefix("10.244.0.0/16"), prefix("fd00:244::/32")];
        let mut gateways = vec![ip("169.254.1.1")];
        gateways.extend(self.dual.then(|| ip("fe80::1")));
        gateways.extend(self.gateways.iter().map(|text| ip(text)));
        let versions = if self.dual { 2 } else { 1 };
        Network {
            id: NET,
            vni: Vni::new(self.vni).unwrap(),
            udp_port: self.udp_port,
            local,
            vtep_mac: MacAddr::vtep_for(local),
            gateways: list(&gateways),
            gateway_mac: MacAddr::new(GATEWAY_MAC),
            node_addresses: list(&[ip("10.244.1.0"), ip("fd00:244:1::")][..versions]),
            prefixes: list(&prefixes[..versions]),
            proxy: self.proxy,
            options: self.options,
            underlay: WIRE,
        }
    }

    fn host(&self) -> Port {
        Port {
            id: HOST,
            mtu: self.pod_mtu,
            mac: MacAddr::new(HOST_MAC),
            offloads: Offloads::NONE,
            kind: PortKind::Host { network: NET },
        }
    }

    /// Underlay address of another node, on the link or behind the gateway.
    pub(crate) fn peer_address(&self, n: u8) -> IpAddr {
        match (self.far.contains(&n), self.over_v6) {
            (false, v6) => node_address(v6, n),
            (true, false) => ip(&format!("198.51.100.{n}")),
            (true, true) => ip(&format!("2001:db8::{n}")),
        }
    }

    pub(crate) fn peer(&self, n: u8) -> Peer {
        let underlay = self.peer_address(n);
        let accepts = match self.accepts.is_empty() {
            true => vec![self.encap],
            false => self.accepts.clone(),
        };
        Peer {
            id: PeerId(n.into()),
            network: NET,
            underlay,
            vtep_mac: MacAddr::vtep_for(underlay),
            node_addresses: list(&[underlay]),
            accepts: EncapSet::of(&accepts),
            transit: self.transit,
        }
    }

    pub(crate) fn route(to: &str, next_hop: NextHop) -> Operation {
        Operation::UpsertRoute(Route {
            network: NET,
            prefix: prefix(to),
            next_hop,
        })
    }

    /// The next hop to another node.
    pub(crate) fn hop(&self, n: u8) -> NextHop {
        NextHop::Peer {
            peer: PeerId(n.into()),
            encap: self.encap,
        }
    }

    /// What the cluster's configuration brings.
    pub(crate) fn cluster(&self) -> Vec<Operation> {
        let mut all = vec![
            Operation::UpsertPort(self.wire()),
            Operation::UpsertNetwork(self.network()),
        ];
        all.extend(self.host.then(|| Operation::UpsertPort(self.host())));
        all.push(Setup::route("10.244.1.0/24", NextHop::Blackhole));
        if self.dual {
            all.push(Setup::route("fd00:244:1::/64", NextHop::Blackhole));
        }
        if self.host {
            all.push(Setup::route("10.244.1.0/32", NextHop::Host));
        }
        for n in &self.peers {
            all.push(Operation::UpsertPeer(self.peer(*n)));
            all.push(Setup::route(&format!("10.244.{n}.0/24"), self.hop(*n)));
            if self.dual {
                all.push(Setup::route(&format!("fd00:244:{n}::/64"), self.hop(*n)));
            }
        }
        for (to, next_hop) in &self.routes {
            all.push(Setup::route(to, *next_hop));
        }
        all
    }

    /// A pod of this node.
    pub(crate) fn pod(&self, id: PortId, last: u8) -> Port {
        let mut addresses = vec![ip(&format!("10.244.1.{last}"))];
        addresses.extend(self.dual.then(|| ip(&format!("fd00:244:1::{last}"))));
        let allowed: Vec<IpPrefix> = self.allowed.iter().map(|text| prefix(text)).collect();
        Port {
            id,
            mtu: self.pod_mtu,
            mac: MacAddr::new([0x0a, 0x58, 10, 244, 1, last]),
            offloads: Offloads::NONE,
            kind: PortKind::Endpoint(Endpoint {
                network: NET,
                addresses: list(&addresses),
                allowed: list(if id == POD_A { &allowed } else { &[] }),
            }),
        }
    }

    /// What adding the pods brings.
    pub(crate) fn pods(&self) -> Vec<Operation> {
        let mut pods = vec![self.pod(POD_A, 2)];
        pods.extend(self.pod_b.then(|| self.pod(POD_B, 3)));
        pods.into_iter().map(Operation::UpsertPort).collect()
    }
}
