//! Transactions of both owners, valid and not, in tables that are soon full:
//! what can be read back is what a simple model has.

#[path = "../common/mod.rs"]
mod common;
mod model;

use std::net::IpAddr;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;
use model::Model;
use proptest::prelude::*;

const NETWORKS: u16 = 2;
const PORTS: u16 = 4;
const PEERS: u16 = 4;
const ROUTES: usize = 6;
type Small = Storage<2, 4, 4, 6>;

/// Everything that the channel tells about the core.
#[derive(PartialEq, Debug)]
struct Dump {
    networks: Vec<Owned<Network>>,
    ports: Vec<(Owned<Port>, PortStats)>,
    peers: Vec<(Owned<Peer>, u32)>,
    routes: Vec<Owned<Route>>,
    used: Capacities,
    counters: Vec<u64>,
}

fn page(gateway: &mut Gateway<'_>, read: Read) -> Page {
    match ask(gateway, &Request::Read(read)) {
        Response::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

fn dump(gateway: &mut Gateway<'_>) -> Dump {
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    });
    let Response::Hello(welcome) = ask(gateway, &hello) else {
        panic!("no welcome")
    };
    // Each table is smaller than a page.
    let Page::Networks(networks) = page(gateway, Read::Networks { after: None }) else {
        panic!()
    };
    let Page::Ports(ports) = page(gateway, Read::Ports { after: None }) else {
        panic!()
    };
    let Page::Peers(peers) = page(gateway, Read::Peers { after: None }) else {
        panic!()
    };
    let Page::Routes(routes) = page(gateway, Read::Routes { after: None }) else {
        panic!()
    };
    Dump {
        networks: networks.to_vec(),
        ports: ports.to_vec(),
        peers: peers.to_vec(),
        routes: routes.to_vec(),
        used: welcome.used,
        counters: Counter::all().map(|c| gateway.counter(c)).collect(),
    }
}

fn check(gateway: &mut Gateway<'_>, model: &Model) -> Dump {
    let dump = dump(gateway);
    let mut sorted = model.clone();
    sorted.networks.sort_by_key(|n| n.entry.id);
    sorted.ports.sort_by_key(|p| p.entry.id);
    sorted.peers.sort_by_key(|p| p.entry.id);
    assert_eq!(dump.networks, sorted.networks);
    let ports: Vec<_> = dump.ports.iter().map(|(port, _)| port.clone()).collect();
    assert_eq!(ports, sorted.ports);
    for (peer, references) in &dump.peers {
        let routes = u32::try_from(model.routes_to(peer.entry.id)).unwrap();
        assert_eq!(*references, routes, "routes to peer {}", peer.entry.id);
    }
    let peers: Vec<_> = dump.peers.iter().map(|(peer, _)| peer.clone()).collect();
    assert_eq!(peers, sorted.peers);
    assert_eq!(dump.routes, model.listed_routes());
    let used = [
        dump.used.networks,
        dump.used.ports,
        dump.used.peers,
        dump.used.routes,
    ];
    let lens = [
        dump.networks.len(),
        dump.ports.len(),
        dump.peers.len(),
        dump.routes.len(),
    ];
    assert_eq!(used.map(|n| usize::try_from(n).unwrap()), lens);
    dump
}

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

fn operation() -> impl Strategy<Value = Operation> {
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
fn groundwork() -> Vec<Operation> {
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

fn history() -> impl Strategy<Value = Vec<(Owner, Vec<Operation>)>> {
    let owner = prop_oneof![1 => Just(Owner::Attachment), 3 => Just(Owner::Cluster)];
    let single = prop::collection::vec(operation(), 1);
    let several = prop::collection::vec(operation(), 2..10);
    prop::collection::vec((owner, prop_oneof![2 => single, 1 => several]), 0..40)
}

fn follow(gateway: &mut Gateway<'_>, history: &[(Owner, Vec<Operation>)]) -> Model {
    let mut model = Model::default();
    assert_eq!(model.apply(Owner::Cluster, &groundwork()), Some(()));
    gateway.apply(Owner::Cluster, &groundwork()).unwrap();
    for (owner, operations) in history {
        // Counters and port statistics that a refusal must leave alone.
        for port in 0..=PORTS {
            run(
                gateway,
                PortId(port),
                udp(MAC_A, [10, 0, 0, 1], [10, 0, 0, 2], b"x"),
            );
        }
        let before = dump(gateway);
        let expected = model.apply(*owner, operations);
        let result = gateway.apply(*owner, operations);
        assert_eq!(
            result.is_ok(),
            expected.is_some(),
            "{owner} {operations:?}: {result:?}"
        );
        let after = check(gateway, &model);
        assert_eq!(before.counters, after.counters);
        if result.is_err() {
            assert_eq!(before, after, "a refused transaction changed something");
        }
        // Once more: it may be refused, but changes nothing.
        let _ = gateway.apply(*owner, operations);
        assert_eq!(dump(gateway), after, "the second time changed something");
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 5000, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_follow_the_model(history in history()) {
        let mut storage = Box::new(Small::new());
        let mut gateway = storage.gateway();
        let model = follow(&mut gateway, &history);
        // No reference has leaked: everything can be removed.
        for (owner, operation) in model.removals() {
            let result = gateway.apply(owner, std::slice::from_ref(&operation));
            prop_assert_eq!(result, Ok(()), "{:?}", operation);
        }
        check(&mut gateway, &Model::default());
    }
}

/// Room for one route is left; the endpoint names its address twice.
fn nearly_full(gateway: &mut Gateway<'_>) -> Port {
    let mut twice = pod(PortId(1), MAC_A, "10.0.0.1");
    if let PortKind::Endpoint(endpoint) = &mut twice.kind {
        endpoint.addresses = list(&[ip("10.0.0.1"), ip("10.0.0.1")]);
    }
    let mut operations = groundwork();
    operations.push(Operation::UpsertPort(twice.clone()));
    operations.extend((1..5).map(|n| route(&format!("10.{n}.0.0/16"), NextHop::Blackhole)));
    gateway.apply(Owner::Cluster, &operations).unwrap();
    twice
}

#[test]
fn an_address_named_twice_takes_one_place_when_it_is_put_back() {
    let mut storage = Box::new(Small::new());
    let mut gateway = storage.gateway();
    nearly_full(&mut gateway);
    let one_more = route("10.9.0.0/16", NextHop::Blackhole);
    gateway.apply(Owner::Cluster, &[one_more]).unwrap();
    let before = dump(&mut gateway);
    assert_eq!(before.used.routes, 6);
    let refused = [
        Operation::RemovePort(PortId(1)),
        Operation::RemovePort(PortId(99)),
    ];
    assert!(gateway.apply(Owner::Cluster, &refused).is_err());
    assert_eq!(dump(&mut gateway), before);
}

#[test]
fn a_full_table_takes_one_address_for_another() {
    let mut storage = Box::new(Small::new());
    let mut gateway = storage.gateway();
    let twice = nearly_full(&mut gateway);
    let with = |addresses: &[&str]| {
        let mut port = twice.clone();
        if let PortKind::Endpoint(endpoint) = &mut port.kind {
            endpoint.addresses = addresses.iter().map(|address| ip(address)).collect();
        }
        Operation::UpsertPort(port)
    };
    for addresses in [&["10.0.0.2", "10.0.0.3"][..], &["10.0.0.4", "10.0.0.1"]] {
        gateway.apply(Owner::Cluster, &[with(addresses)]).unwrap();
        assert_eq!(dump(&mut gateway).used.routes, 6);
    }
    let full = TableError::TableFull {
        table: Table::Routes,
        capacity: 6,
    };
    let three = with(&["10.0.0.4", "10.0.0.1", "10.0.0.5"]);
    assert_eq!(gateway.apply(Owner::Cluster, &[three]), Err((0, full)));
}

#[test]
fn what_is_the_gateways_own_is_nobody_elses() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let conflict = |table, id| Err((0, TableError::Conflict { table, id }));
    let mut refused = |operation| gateway.apply(Owner::Cluster, &[operation]);
    let pod = pod(PortId(5), MAC_A, "169.254.1.1");
    assert_eq!(
        refused(Operation::UpsertPort(pod)),
        conflict(Table::Networks, 0)
    );
    let mirror = Peer {
        id: PeerId(1),
        underlay: ip("192.168.77.1"),
        ..peer()
    };
    assert_eq!(
        refused(Operation::UpsertPeer(mirror)),
        conflict(Table::Networks, 0)
    );
    let pods_address = Network {
        gateways: list(&[ip("169.254.1.1"), ip("10.244.1.3")]),
        ..network()
    };
    let result = refused(Operation::UpsertNetwork(pods_address));
    assert_eq!(result, conflict(Table::Ports, POD_B.0));
    let peers_address = Network {
        local: ip("192.168.77.2"),
        ..network()
    };
    let result = refused(Operation::UpsertNetwork(peers_address));
    assert_eq!(result, conflict(Table::Peers, 0));
}
