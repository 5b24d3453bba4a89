//! A node with all that a node can have: two networks of both IP versions, peers
//! that are reached by VXLAN, IP in IP and without a tunnel, behind sockets or on a
//! raw Ethernet port. The tables are kept here a second time, as lists that are scanned.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;

use super::packets::{ipv6, node_mac};
use crate::Reader;
use crate::common::{self, *};

/// The second network, with its pod and its host.
pub(super) const OTHER: NetworkId = NetworkId(1);
pub(super) const POD_C: PortId = PortId(4);
pub(super) const HOST_C: PortId = PortId(5);
pub(super) const MAC_C: [u8; 6] = [0x0a, 0x58, 10, 245, 1, 2];
pub(super) const HOST_C_MAC: [u8; 6] = [2, 0, 0, 0, 0, 10];

/// Two slots for packets that wait.
pub(super) type Memory = Storage<2, 8, 8, 64, 8, 2>;

/// What a node was told.
pub(super) struct Scene {
    pub(super) node: Node,
    /// Whether the underlay is a raw Ethernet port.
    pub(super) wire: bool,
    pub(super) networks: Vec<Network>,
    pub(super) ports: Vec<Port>,
    pub(super) peers: Vec<Peer>,
    pub(super) routes: Vec<Route>,
}

impl Scene {
    /// A node of any kind, and its core.
    pub(super) fn new(reader: &mut Reader<'_>, gateway: &mut Gateway<'_>) -> Scene {
        let switches = reader.u16();
        let on = |bit: u16| switches >> bit & 1 == 1;
        let all = [
            NetworkOptions::FLOOD,
            NetworkOptions::CLAMP_MSS,
            NetworkOptions::ZERO_UDP_CHECKSUM,
            NetworkOptions::OUTER_MAY_FRAGMENT,
        ];
        let chosen = (0..).zip(all).filter(|(bit, _)| on(*bit));
        let options = chosen.fold(NetworkOptions::NONE, |set, (_, option)| set.with(option));
        let node = Node {
            underlay: if on(4) { Family::V6 } else { Family::V4 },
            underlay_mtu: reader.pick(&[1500, 1500, 1500, 9000, 1400, 1280, 576, 138]),
            options,
            proxy: if on(5) {
                Proxy::Network
            } else {
                Proxy::LinkLocal
            },
            transit: on(6),
            ..Node::new(1)
        };
        let mut scene = Scene {
            node,
            wire: on(7),
            networks: vec![],
            ports: vec![],
            peers: vec![],
            routes: vec![],
        };
        let mut cluster = scene.networks_and_ports(on(8), !on(9));
        cluster.extend(scene.nodes());
        if on(10) {
            cluster.push(route("0.0.0.0/0", NextHop::Host));
            cluster.push(route("::/0", NextHop::Host));
        }
        if on(11) {
            cluster.push(route("8.0.0.0/8", TO_PEER));
            cluster.push(route("2001:db8::/32", TO_PEER));
        }
        for operation in cluster {
            assert!(scene.apply(gateway, Owner::Cluster, operation));
        }
        for pod in scene.pods(on(12), reader.pick(&[1450, 1450, 1500, 1280, 9000])) {
            assert!(scene.apply(gateway, Owner::Attachment, Operation::UpsertPort(pod)));
        }
        if scene.wire && !on(13) {
            scene.meet(gateway);
        }
        scene
    }

    fn underlay_port(&self, offloads: bool) -> Port {
        let address = |family, prefix_length| WireAddress {
            address: Node {
                underlay: family,
                ..self.node
            }
            .address_of(1),
            prefix_length,
        };
        let wire = Wire {
            addresses: list(&[address(Family::V4, 24), address(Family::V6, 64)]),
            gateways: list(&[ip("192.168.77.254"), ip("fd00:77::fe")]),
        };
        Port {
            mac: MacAddr::new(node_mac(1)),
            offloads: match offloads {
                false => Offloads::NONE,
                true => Offloads::CHECKSUM.with(Offloads::TUNNEL_CHECKSUM),
            },
            kind: match self.wire {
                false => PortKind::Underlay,
                true => PortKind::Wire(wire),
            },
            ..common::underlay(self.node.underlay_mtu)
        }
    }

    fn networks_and_ports(&self, offloads: bool, host: bool) -> Vec<Operation> {
        let network = self.node.network();
        let other = Network {
            id: OTHER,
            vni: Vni::new(4096).expect("24 bits"),
            udp_port: 4789,
            vtep_mac: MacAddr::new([0x0a, 0x63, 0, 0, 1, 1]),
            gateways: list(&[ip("10.245.1.1"), ip("fd00:245:1::1")]),
            gateway_mac: MacAddr::new([0xea; 6]),
            node_addresses: list(&[ip("10.245.1.0"), ip("fd00:245:1::")]),
            prefixes: list(&[prefix("10.245.0.0/16"), prefix("fd00:245::/32")]),
            proxy: Proxy::Network,
            options: NetworkOptions::FLOOD,
            ..network.clone()
        };
        let host_c = Port {
            id: HOST_C,
            mac: MacAddr::new(HOST_C_MAC),
            offloads: Offloads::NONE,
            kind: PortKind::Host { network: OTHER },
            ..common::host()
        };
        let mut all = vec![
            Operation::UpsertPort(self.underlay_port(offloads)),
            Operation::UpsertNetwork(network),
            Operation::UpsertNetwork(other),
            Operation::UpsertPort(host_c),
        ];
        all.extend(host.then(|| Operation::UpsertPort(common::host())));
        let own = IpPrefix::host(self.node.address_of(1));
        let routes = [
            (NET, prefix("10.244.1.0/24"), NextHop::Blackhole),
            (NET, prefix("fd00:244:1::/64"), NextHop::Blackhole),
            (NET, prefix("10.244.1.0/32"), NextHop::Host),
            (NET, prefix("fd00:244:1::/128"), NextHop::Host),
            (NET, own, NextHop::Host),
            (OTHER, prefix("10.245.0.0/16"), NextHop::Blackhole),
            (OTHER, prefix("10.245.1.0/32"), NextHop::Host),
            (OTHER, prefix("fd00:245:1::/128"), NextHop::Host),
        ];
        all.extend(routes.map(|(network, prefix, next_hop)| {
            Operation::UpsertRoute(Route {
                network,
                prefix,
                next_hop,
            })
        }));
        all
    }

    /// The other nodes: by number, network, and how they are reached.
    fn nodes(&self) -> Vec<Operation> {
        let nodes = [
            (2, NET, Encap::Vxlan, &[Encap::Vxlan][..], false),
            (3, NET, Encap::Ipip, &[Encap::Ipip, Encap::Vxlan], true),
            (4, NET, Encap::Direct, &[Encap::Direct, Encap::Vxlan], false),
            (5, NET, Encap::Vxlan, &[Encap::Vxlan, Encap::Ipip], true),
            (2, OTHER, Encap::Vxlan, &[Encap::Vxlan], true),
            (6, OTHER, Encap::Ipip, &[Encap::Ipip, Encap::Vxlan], true),
        ];
        let mut all = vec![];
        for (id, (n, network, encap, accepts, transit)) in (0..).zip(nodes) {
            let underlay = self.underlay_of(n);
            all.push(Operation::UpsertPeer(Peer {
                id: PeerId(id),
                network,
                underlay,
                vtep_mac: MacAddr::vtep_for(underlay),
                node_addresses: list(&[underlay]),
                accepts: EncapSet::of(accepts),
                transit: transit && self.node.transit,
            }));
            let block = if network == NET { 244 } else { 245 };
            let prefixes = [
                prefix(&format!("10.{block}.{n}.0/24")),
                prefix(&format!("fd00:{block}:{n}::/64")),
                IpPrefix::host(underlay),
            ];
            all.extend(prefixes.map(|prefix| {
                Operation::UpsertRoute(Route {
                    network,
                    prefix,
                    next_hop: NextHop::Peer {
                        peer: PeerId(id),
                        encap,
                    },
                })
            }));
        }
        all
    }

    /// Node 6 is not on the link.
    pub(super) fn underlay_of(&self, n: u8) -> IpAddr {
        match (n, self.node.underlay) {
            (6, Family::V4) => ip("192.168.78.6"),
            (6, Family::V6) => ipv6("fd00:78::", 6).into(),
            _ => self.node.address_of(n),
        }
    }

    fn pods(&self, roams: bool, mtu: u16) -> [Port; 3] {
        let mut wide = self.node.pod(POD_B, 3);
        if let (true, PortKind::Endpoint(endpoint)) = (roams, &mut wide.kind) {
            endpoint.allowed = list(&[prefix("0.0.0.0/0"), prefix("::/0")]);
        }
        let c = Port {
            id: POD_C,
            mtu: 1400,
            mac: MacAddr::new(MAC_C),
            offloads: Offloads::NONE,
            kind: PortKind::Endpoint(Endpoint {
                network: OTHER,
                addresses: list(&[ip("10.245.1.2"), ip("fd00:245:1::2")]),
                allowed: list(&[prefix("10.99.0.0/16"), prefix("fd99::/64")]),
            }),
        };
        let a = Port {
            mtu,
            ..self.node.pod(POD_A, 2)
        };
        [a, wide, c]
    }

    /// Lets the neighbors on the link of a raw port answer.
    fn meet(&self, gateway: &mut Gateway<'_>) {
        let shell = Shell {
            now: Instant::from_micros(1000),
            ..Shell::default()
        };
        shell.tick(gateway);
        let targets = [
            (POD_A, MAC_A, A, [10, 244, 2, 2], 2),
            (POD_A, MAC_A, A, [10, 244, 3, 2], 3),
            (POD_A, MAC_A, A, [10, 244, 4, 2], 4),
            (POD_A, MAC_A, A, [10, 244, 5, 2], 5),
            (POD_C, MAC_C, [10, 245, 1, 2], [10, 245, 6, 2], 254),
        ];
        for (port, mac, src, dst, n) in targets {
            let mut frame = udp(mac, src, dst, b"first");
            if port == POD_C {
                frame[..6].fill(0xea);
            }
            shell.run(gateway, port, frame);
            shell.run(gateway, UNDERLAY, self.answer(n));
        }
    }

    /// The answer of a neighbor to the question where it is.
    pub(super) fn answer(&self, n: u8) -> Vec<u8> {
        match self.node.underlay {
            Family::V4 => {
                let to = (node_mac(1), [192, 168, 77, 1]);
                let from = (node_mac(n), [192, 168, 77, n]);
                let mut frame = arp_packet(etherparse::ArpOperation::REPLY, from, to);
                frame[..6].copy_from_slice(&node_mac(1));
                frame
            }
            Family::V6 => {
                let (src, dst) = (ipv6("fd00:77::", n), ipv6("fd00:77::", 1));
                let mut frame = neighbor(136, (src, dst), src, Some(node_mac(n)));
                // Solicited, overriding; its checksum follows.
                frame[58] = 0x60;
                let sum = u16::from_be_bytes([frame[56], frame[57]]);
                let (sum, borrow) = sum.overflowing_sub(0x6000);
                frame[56..58].copy_from_slice(&(sum - u16::from(borrow)).to_be_bytes());
                frame[..6].copy_from_slice(&node_mac(1));
                frame[6..12].copy_from_slice(&node_mac(n));
                frame
            }
        }
    }

    /// Carries an operation out, in the core and here; whether it was accepted.
    pub(super) fn apply(
        &mut self,
        gateway: &mut Gateway<'_>,
        owner: Owner,
        operation: Operation,
    ) -> bool {
        if gateway
            .apply(owner, std::slice::from_ref(&operation))
            .is_err()
        {
            return false;
        }
        match operation {
            Operation::UpsertNetwork(new) => {
                self.networks.retain(|old| old.id != new.id);
                self.networks.push(new);
            }
            Operation::UpsertPort(new) => {
                self.ports.retain(|old| old.id != new.id);
                self.ports.push(new);
            }
            Operation::RemovePort(id) => self.ports.retain(|old| old.id != id),
            Operation::UpsertPeer(new) => {
                self.peers.retain(|old| old.id != new.id);
                self.peers.push(new);
            }
            Operation::UpsertRoute(new) => {
                self.remove_route(new.network, new.prefix);
                self.routes.push(new);
            }
            Operation::RemoveRoute { network, prefix } => self.remove_route(network, prefix),
            Operation::SetPathMtu { .. } => {}
            other => panic!("{other:?} is not made here"),
        }
        true
    }

    fn remove_route(&mut self, network: NetworkId, prefix: IpPrefix) {
        self.routes
            .retain(|old| (old.network, old.prefix) != (network, prefix));
    }

    /// Changes something while frames go on.
    pub(super) fn change(&mut self, reader: &mut Reader<'_>, gateway: &mut Gateway<'_>) {
        let hops = [
            NextHop::Blackhole,
            NextHop::Host,
            NextHop::Endpoint(POD_B),
            TO_PEER,
            NextHop::Peer {
                peer: PeerId(3),
                encap: Encap::Ipip,
            },
        ];
        let targets = [
            "10.244.2.2/32",
            "10.244.3.0/24",
            "8.8.8.8/32",
            "10.99.0.0/16",
            "fd00:244:2::2/128",
            "2001:db8::/32",
            "10.244.1.99/32",
        ];
        let operation = match reader.below(8) {
            0 | 1 => route(reader.pick(&targets), reader.pick(&hops)),
            2 => Operation::RemoveRoute {
                network: NET,
                prefix: prefix(reader.pick(&targets)),
            },
            3 => Operation::RemovePort(reader.pick(&[POD_A, POD_B, POD_C, HOST])),
            4 => {
                let pods = self.pods(reader.flag(), 1450);
                Operation::UpsertPort(pods[reader.below(3)].clone())
            }
            5 => Operation::SetPathMtu {
                peer: PeerId(reader.below(6).try_into().expect("small")),
                mtu: reader.u16() % 1600,
            },
            6 => {
                self.node.underlay_mtu = reader.pick(&[1500, 1280, 9000, 600]);
                Operation::UpsertPort(self.underlay_port(reader.flag()))
            }
            _ => {
                let mut network = self.node.network();
                network.options = reader.pick(&[
                    NetworkOptions::NONE,
                    NetworkOptions::FLOOD,
                    NetworkOptions::CLAMP_MSS,
                ]);
                Operation::UpsertNetwork(network)
            }
        };
        let owner = match &operation {
            Operation::RemovePort(HOST) => Owner::Cluster,
            Operation::RemovePort(_) => Owner::Attachment,
            Operation::UpsertPort(port) if port.id != UNDERLAY => Owner::Attachment,
            _ => Owner::Cluster,
        };
        self.apply(gateway, owner, operation);
    }

    pub(super) fn network(&self, id: NetworkId) -> &Network {
        let network = self.networks.iter().find(|network| network.id == id);
        network.expect("networks stay")
    }

    pub(super) fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.iter().find(|port| port.id == id)
    }

    pub(super) fn peer(&self, id: PeerId) -> &Peer {
        let peer = self.peers.iter().find(|peer| peer.id == id);
        peer.expect("peers stay")
    }

    /// The network of a local port.
    pub(super) fn network_of(&self, id: PortId) -> Option<NetworkId> {
        match &self.port(id)?.kind {
            PortKind::Endpoint(endpoint) => Some(endpoint.network),
            PortKind::Host { network } => Some(*network),
            PortKind::Underlay | PortKind::Wire(_) => None,
        }
    }

    /// Where the longest prefix leads.
    pub(super) fn next_hop(&self, network: NetworkId, to: IpAddr) -> Option<NextHop> {
        for port in &self.ports {
            if let PortKind::Endpoint(endpoint) = &port.kind
                && endpoint.network == network
                && endpoint.addresses.contains(&to)
            {
                return Some(NextHop::Endpoint(port.id));
            }
        }
        let covering = self
            .routes
            .iter()
            .filter(|route| route.network == network && route.prefix.contains(to));
        let longest = covering.max_by_key(|route| route.prefix.length());
        longest.map(|route| route.next_hop)
    }
}
