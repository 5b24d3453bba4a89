//! Any operations, valid and not, on few ids and addresses, so that they get into
//! each other's way.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use super::common::*;
use super::{NETWORKS, PEERS, PORTS};

fn address() -> impl Strategy<Value = IpAddr> {
    let usual = (1u8..6).prop_map(|n| IpAddr::from([10, 0, 0, n]));
    let unusual = prop::sample::select(vec![
        ip("0.0.0.0"),
        ip("224.0.0.1"),
        ip("127.0.0.1"),
        ip("::"),
        ip("ff02::1"),
    ]);
    let v6 = prop::sample::select(vec![ip("fd00::1"), ip("fd00::2")]);
    prop_oneof![100 => usual, 10 => v6, 1 => unusual]
}

fn any_prefix() -> impl Strategy<Value = IpPrefix> {
    let texts = [
        "0.0.0.0/0",
        "10.0.0.0/29",
        "10.0.0.4/30",
        "10.0.0.4/32",
        "fd00::/16",
    ];
    let wide = prop::sample::select(texts.map(prefix).to_vec());
    prop_oneof![wide, address().prop_map(IpPrefix::host)]
}

fn mac() -> impl Strategy<Value = MacAddr> {
    let bad = prop_oneof![Just(MacAddr::ZERO), Just(MacAddr::BROADCAST)];
    prop_oneof![100 => Just(MacAddr::new(MAC_A)), 1 => bad]
}

fn addresses(min: usize) -> impl Strategy<Value = heapless::Vec<IpAddr, MAX_ADDRESSES>> {
    prop::collection::vec(address(), min..=3).prop_map(|addresses| list(&addresses))
}

/// A few ids are behind the table's end.
fn id(limit: u16) -> impl Strategy<Value = u16> {
    prop_oneof![40 => 0..limit, 1 => Just(limit)]
}

/// Mostly the one network, where things get into each other's way.
fn network_id() -> impl Strategy<Value = NetworkId> {
    prop_oneof![40 => Just(0), 10 => Just(1), 1 => Just(NETWORKS)].prop_map(NetworkId)
}

/// Mostly some, since neither a network nor an endpoint does without.
fn some_addresses() -> impl Strategy<Value = heapless::Vec<IpAddr, MAX_ADDRESSES>> {
    prop_oneof![20 => addresses(1), 1 => addresses(0)]
}

prop_compose! {
    fn any_network()(
        id in id(NETWORKS), vni in 0u32..2, udp_port in prop::sample::select(vec![8472u16, 8472, 8472, 8472, 8472, 4789, 4789, 0]),
        local in address(), mac in mac(), gateways in some_addresses(), underlay in id(PORTS),
    ) -> Network {
        Network {
            id: NetworkId(id),
            vni: Vni::new(vni).unwrap(),
            udp_port,
            local,
            vtep_mac: mac,
            gateways,
            gateway_mac: MacAddr::new(GATEWAY_MAC),
            node_addresses: list(&[ip("10.0.0.9")]),
            prefixes: list(&[prefix("10.0.0.0/8")]),
            proxy: Proxy::Network,
            options: NetworkOptions::NONE,
            underlay: PortId(underlay),
        }
    }
}

prop_compose! {
    fn any_port()(
        id in id(PORTS), mac in mac(), network in network_id(), addresses in some_addresses(),
        allowed in prop::collection::vec(any_prefix(), 0..2), kind in 0..8,
        mtu in prop::sample::select(vec![1500u16, 1450, 1300, 1279, 500, 139, 138, 137, 68, 67]),
    ) -> Port {
        let kind = match kind {
            0 => PortKind::Underlay,
            1 => PortKind::Host { network },
            _ => PortKind::Endpoint(Endpoint { network, addresses, allowed: list(&allowed) }),
        };
        Port { id: PortId(id), mtu, mac, offloads: Offloads::CHECKSUM, kind }
    }
}

prop_compose! {
    fn any_peer()(
        id in id(PEERS), network in network_id(), underlay in address(), mac in mac(),
        node_addresses in addresses(0), ipip in any::<bool>(),
    ) -> Peer {
        Peer {
            id: PeerId(id),
            network,
            underlay,
            vtep_mac: mac,
            node_addresses,
            accepts: EncapSet::of(if ipip { &[Encap::Vxlan, Encap::Ipip] } else { &[Encap::Vxlan] }),
            transit: ipip,
        }
    }
}

fn next_hop() -> impl Strategy<Value = NextHop> {
    let encap = prop::sample::select(
        vec![Encap::Vxlan; 20]
            .into_iter()
            .chain([Encap::Ipip, Encap::Direct])
            .collect::<Vec<_>>(),
    );
    let peer = (id(PEERS), encap);
    prop_oneof![
        Just(NextHop::Blackhole),
        Just(NextHop::Host),
        id(PORTS).prop_map(|id| NextHop::Endpoint(PortId(id))),
        peer.prop_map(|(peer, encap)| NextHop::Peer {
            peer: PeerId(peer),
            encap
        }),
    ]
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let key = || (network_id(), any_prefix());
    prop_oneof![
        3 => any_network().prop_map(Operation::UpsertNetwork),
        1 => network_id().prop_map(Operation::RemoveNetwork),
        8 => any_port().prop_map(Operation::UpsertPort),
        3 => id(PORTS).prop_map(|id| Operation::RemovePort(PortId(id))),
        6 => any_peer().prop_map(Operation::UpsertPeer),
        2 => id(PEERS).prop_map(|id| Operation::RemovePeer(PeerId(id))),
        8 => (key(), next_hop()).prop_map(|((network, prefix), next_hop)| {
            Operation::UpsertRoute(Route { network, prefix, next_hop })
        }),
        3 => key().prop_map(|(network, prefix)| Operation::RemoveRoute { network, prefix }),
        1 => (id(PEERS), 0..1501u16).prop_map(|(id, mtu)| Operation::SetPathMtu { peer: PeerId(id), mtu }),
    ]
}

/// An underlay port and both networks, so that most of what follows finds them.
pub(crate) fn groundwork() -> Vec<Operation> {
    vec![
        Operation::UpsertPort(underlay(1500)),
        Operation::UpsertNetwork(network()),
        Operation::UpsertNetwork(Network {
            id: NetworkId(1),
            udp_port: 4789,
            ..network()
        }),
    ]
}
