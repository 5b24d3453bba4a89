//! Nodes of a dual-stack cluster as the daemon would program them: node n has the
//! pods 10.244.n.2 and .3, fd00:244:n::2 and ::3, and all others as peers.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;

use super::*;

/// The second peer of node 1.
pub const PEER_3: PeerId = PeerId(1);

/// How one node is configured; [`Node::new`] gives what all tests start with.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub number: u8,
    pub nodes: u8,
    pub underlay: Family,
    pub underlay_mtu: u16,
    pub encap: Encap,
    pub options: NetworkOptions,
    pub proxy: Proxy,
    pub transit: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Node {
    /// Node `number` of three.
    pub fn new(number: u8) -> Node {
        Node {
            number,
            nodes: 3,
            underlay: Family::V4,
            underlay_mtu: 1500,
            encap: Encap::Vxlan,
            options: NetworkOptions::NONE,
            proxy: Proxy::LinkLocal,
            transit: false,
        }
    }

    pub fn address_of(&self, number: u8) -> IpAddr {
        match self.underlay {
            Family::V4 => ip(&format!("192.168.77.{number}")),
            Family::V6 => ip(&format!("fd00:77::{number}")),
        }
    }

    pub fn vtep_of(&self, number: u8) -> [u8; 6] {
        MacAddr::vtep_for(self.address_of(number)).bytes()
    }

    /// Bytes that this node's encapsulation adds.
    pub fn overhead(&self) -> u16 {
        let ip = match self.underlay {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        match self.encap {
            Encap::Vxlan => ip + 30,
            Encap::Ipip => ip,
            Encap::Direct => 0,
        }
    }

    pub fn network(&self) -> Network {
        let n = self.number;
        Network {
            local: self.address_of(n),
            vtep_mac: MacAddr::new(self.vtep_of(n)),
            node_addresses: list(&[ip(&format!("10.244.{n}.0")), ip(&format!("fd00:244:{n}::"))]),
            proxy: self.proxy,
            options: self.options,
            ..network()
        }
    }

    /// The entry of another node.
    pub fn peer(&self, number: u8) -> Peer {
        let before = (1..number).filter(|other| *other != self.number).count();
        Peer {
            id: PeerId(before.try_into().unwrap()),
            network: NET,
            underlay: self.address_of(number),
            vtep_mac: MacAddr::new(self.vtep_of(number)),
            node_addresses: list(&[self.address_of(number)]),
            accepts: EncapSet::of(&[self.encap]),
            transit: self.transit,
        }
    }

    fn routes_to(&self, peer: &Peer, number: u8) -> Vec<Operation> {
        let next_hop = NextHop::Peer {
            peer: peer.id,
            encap: self.encap,
        };
        let to = |prefix: String| route(&prefix, next_hop);
        let host = IpPrefix::host(peer.underlay);
        vec![
            to(format!("10.244.{number}.0/24")),
            to(format!("fd00:244:{number}::/64")),
            to(format!("{}/{}", host.address(), host.length())),
        ]
    }

    /// What the configuration brings.
    pub fn operations(&self) -> Vec<Operation> {
        let n = self.number;
        let own = IpPrefix::host(self.address_of(n));
        let mut all = vec![
            Operation::UpsertPort(underlay(self.underlay_mtu)),
            Operation::UpsertNetwork(self.network()),
            Operation::UpsertPort(host()),
            route(&format!("10.244.{n}.0/24"), NextHop::Blackhole),
            route(&format!("10.244.{n}.0/32"), NextHop::Host),
            route(&format!("fd00:244:{n}::/64"), NextHop::Blackhole),
            route(&format!("fd00:244:{n}::/128"), NextHop::Host),
            route(
                &format!("{}/{}", own.address(), own.length()),
                NextHop::Host,
            ),
        ];
        for number in (1..=self.nodes).filter(|other| *other != n) {
            let peer = self.peer(number);
            let routes = self.routes_to(&peer, number);
            all.push(Operation::UpsertPeer(peer));
            all.extend(routes);
        }
        all
    }

    /// A pod of this node: `last` is 2 or 3.
    pub fn pod(&self, id: PortId, last: u8) -> Port {
        let n = self.number;
        let mut port = pod(id, self.mac(last), &format!("10.244.{n}.{last}"));
        if let PortKind::Endpoint(endpoint) = &mut port.kind {
            let v6 = ip(&format!("fd00:244:{n}::{last}"));
            endpoint.addresses.push(v6).unwrap();
        }
        port
    }

    pub fn mac(&self, last: u8) -> [u8; 6] {
        [0x0a, 0x58, 10, 244, self.number, last]
    }

    pub fn program(&self, gateway: &mut Gateway<'_>) {
        for chunk in self.operations().chunks(MAX_OPERATIONS) {
            gateway.apply(Owner::Cluster, chunk).unwrap();
        }
        let pods = [self.pod(POD_A, 2), self.pod(POD_B, 3)];
        let pods = pods.map(Operation::UpsertPort);
        gateway.apply(Owner::Attachment, &pods).unwrap();
    }

    /// Runs a test on this node, freshly programmed, and checks that no frame got lost.
    pub fn run<T>(&self, test: impl FnOnce(&mut Gateway<'_>) -> T) -> T {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        self.program(&mut gateway);
        let result = test(&mut gateway);
        assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(&gateway));
        result
    }
}
