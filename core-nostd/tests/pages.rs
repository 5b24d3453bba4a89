//! Pages and limits: full tables are read completely and exactly once, and the
//! largest messages fit.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

/// Reads a table to its empty last page; returns the entries and the number of pages.
fn read_all<T>(
    gateway: &mut Gateway<'_>,
    start: Read,
    step: impl Fn(Page) -> (Vec<T>, Option<Read>),
) -> (Vec<T>, usize) {
    let mut all = Vec::new();
    let mut next = Some(start);
    let mut pages = 0;
    while let Some(read) = next {
        let Response::Page(page) = ask(gateway, &Request::Read(read)) else {
            panic!("no page for {read:?}")
        };
        let (entries, following) = step(page);
        all.extend(entries);
        next = following;
        pages += 1;
        assert!(pages < 1000, "reading does not end");
    }
    (all, pages)
}

fn put(gateway: &mut Gateway<'_>, operations: &[Operation]) {
    for chunk in operations.chunks(MAX_OPERATIONS) {
        let request = Request::Apply(Apply {
            transaction: 1,
            owner: Owner::Cluster,
            operations: list(chunk),
        });
        assert_eq!(ask(gateway, &request), Response::Applied { transaction: 1 });
    }
}

const NETWORKS: u16 = 30;
const PORTS: u16 = 50;
const PEERS: u16 = 70;
const ROUTES: u16 = 200;

fn full() -> Vec<Operation> {
    let mut all = vec![Operation::UpsertPort(underlay(1500))];
    for id in 0..NETWORKS {
        all.push(Operation::UpsertNetwork(Network {
            id: NetworkId(id),
            vni: Vni::new(id.into()).unwrap(),
            ..network()
        }));
    }
    for id in 1..PORTS {
        let mut port = pod(PortId(id), MAC_A, &format!("10.1.0.{id}"));
        if let PortKind::Endpoint(endpoint) = &mut port.kind {
            endpoint.network = NetworkId(id % NETWORKS);
        }
        all.push(Operation::UpsertPort(port));
    }
    for id in 0..PEERS {
        all.push(Operation::UpsertPeer(Peer {
            id: PeerId(id),
            network: NetworkId(id % 3),
            underlay: ip(&format!("192.168.78.{id}")),
            ..peer()
        }));
    }
    // The same prefixes in several networks, nested ones among them.
    for id in 0..ROUTES - (PORTS - 1) {
        all.push(Operation::UpsertRoute(Route {
            network: NetworkId(id % NETWORKS),
            prefix: prefix(&format!("10.{}.0.0/{}", id / NETWORKS * 2, 16 + id % 2)),
            next_hop: NextHop::Blackhole,
        }));
    }
    all
}

#[test]
fn full_tables_are_read_completely_and_once() {
    let mut storage = Box::new(Storage::<
        { NETWORKS as usize },
        { PORTS as usize },
        { PEERS as usize },
        { ROUTES as usize },
    >::new());
    let mut gateway = storage.gateway();
    let hello = Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    };
    ask(&mut gateway, &Request::Hello(hello));
    put(&mut gateway, &full());
    let Response::Hello(welcome) = ask(&mut gateway, &Request::Hello(hello)) else {
        panic!("no welcome")
    };
    assert_eq!(welcome.used, welcome.capacities);

    let (networks, pages) = read_all(&mut gateway, Read::Networks { after: None }, |page| {
        let Page::Networks(page) = page else { panic!() };
        let ids: Vec<_> = page.iter().map(|n| n.entry.id).collect();
        let next = ids.last().map(|id| Read::Networks { after: Some(*id) });
        (ids, next)
    });
    assert_eq!(networks, (0..NETWORKS).map(NetworkId).collect::<Vec<_>>());
    assert_eq!(pages, usize::from(NETWORKS).div_ceil(SMALL_PAGE) + 1);

    let (ports, pages) = read_all(&mut gateway, Read::Ports { after: None }, |page| {
        let Page::Ports(page) = page else { panic!() };
        let ids: Vec<_> = page.iter().map(|(p, _)| p.entry.id).collect();
        let next = ids.last().map(|id| Read::Ports { after: Some(*id) });
        (ids, next)
    });
    assert_eq!(ports, (0..PORTS).map(PortId).collect::<Vec<_>>());
    assert_eq!(pages, usize::from(PORTS).div_ceil(SMALL_PAGE) + 1);

    let (peers, pages) = read_all(&mut gateway, Read::Peers { after: None }, |page| {
        let Page::Peers(page) = page else { panic!() };
        let ids: Vec<_> = page.iter().map(|(p, _)| p.entry.id).collect();
        let next = ids.last().map(|id| Read::Peers { after: Some(*id) });
        (ids, next)
    });
    assert_eq!(peers, (0..PEERS).map(PeerId).collect::<Vec<_>>());
    assert_eq!(pages, usize::from(PEERS).div_ceil(PAGE) + 1);
}

#[test]
fn routes_of_many_networks_are_read_in_order() {
    let mut storage = Box::new(Storage::<30, 50, 70, 200>::new());
    let mut gateway = storage.gateway();
    let hello = Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    };
    ask(&mut gateway, &Request::Hello(hello));
    put(&mut gateway, &full());
    let (routes, pages) = read_all(&mut gateway, Read::Routes { after: None }, |page| {
        let Page::Routes(page) = page else { panic!() };
        let keys: Vec<_> = page
            .iter()
            .map(|r| (r.entry.network, r.entry.prefix))
            .collect();
        let next = keys.last().map(|key| Read::Routes { after: Some(*key) });
        (keys, next)
    });
    assert_eq!(routes.len(), usize::from(ROUTES));
    assert!(routes.is_sorted_by(|a, b| a < b), "ordered, and none twice");
    assert_eq!(pages, usize::from(ROUTES).div_ceil(PAGE) + 1);

    // A key that is not in the table is as good a place to go on from.
    let gone = (routes[20].0, routes[20].1);
    let remove = Operation::RemoveRoute {
        network: gone.0,
        prefix: gone.1,
    };
    if gateway.apply(Owner::Cluster, &[remove]).is_ok() {
        let read = Read::Routes { after: Some(gone) };
        let Response::Page(Page::Routes(page)) = ask(&mut gateway, &Request::Read(read)) else {
            panic!("no page")
        };
        let first = page.first().unwrap().entry;
        assert_eq!((first.network, first.prefix), routes[21]);
    } else {
        panic!("{gone:?} could not be removed")
    }
}

#[test]
fn counters_are_read_completely() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    run(&mut gateway, POD_A, udp(MAC_A, A, [8; 4], b"x"));
    let hello = Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    };
    ask(&mut gateway, &Request::Hello(hello));
    let mut all = Vec::new();
    let mut next = Some(0);
    while let Some(from) = next {
        let request = Request::Counters { from };
        let Response::Counters { values, next: n } = ask(&mut gateway, &request) else {
            panic!("no counters")
        };
        all.extend(values);
        next = n;
    }
    let expected: Vec<_> = Counter::all()
        .map(|counter| (counter.number(), gateway.counter(counter)))
        .collect();
    assert_eq!(all, expected);
    let end = Request::Counters { from: u16::MAX };
    let empty = Response::Counters {
        values: list(&[]),
        next: None,
    };
    assert_eq!(ask(&mut gateway, &end), empty);
}

const LARGEST: std::net::IpAddr = std::net::IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::MAX));

fn addresses() -> heapless::Vec<std::net::IpAddr, MAX_ADDRESSES> {
    list(&[LARGEST; MAX_ADDRESSES])
}

fn largest_network() -> Network {
    Network {
        id: NetworkId(u16::MAX),
        vni: Vni::new(0x00ff_ffff).unwrap(),
        udp_port: u16::MAX,
        local: LARGEST,
        vtep_mac: MacAddr::BROADCAST,
        gateways: addresses(),
        gateway_mac: MacAddr::BROADCAST,
        node_addresses: addresses(),
        prefixes: list(&[IpPrefix::host(LARGEST); MAX_ADDRESSES]),
        proxy: Proxy::Network,
        options: NetworkOptions::OUTER_MAY_FRAGMENT,
        underlay: PortId(u16::MAX),
    }
}

fn largest_port() -> Port {
    Port {
        id: PortId(u16::MAX),
        mtu: u16::MAX,
        mac: MacAddr::BROADCAST,
        offloads: Offloads::CHECKSUM,
        kind: PortKind::Endpoint(Endpoint {
            network: NetworkId(u16::MAX),
            addresses: addresses(),
            allowed: list(&[IpPrefix::host(LARGEST); MAX_ADDRESSES]),
        }),
    }
}

fn largest_peer() -> Peer {
    Peer {
        id: PeerId(u16::MAX),
        network: NetworkId(u16::MAX),
        underlay: LARGEST,
        vtep_mac: MacAddr::BROADCAST,
        node_addresses: addresses(),
        accepts: EncapSet::of(&[Encap::Vxlan, Encap::Ipip, Encap::Direct]),
        transit: true,
    }
}

fn largest_route() -> Route {
    Route {
        network: NetworkId(u16::MAX),
        prefix: IpPrefix::host(LARGEST),
        next_hop: NextHop::Peer {
            peer: PeerId(u16::MAX),
            encap: Encap::Direct,
        },
    }
}

fn owned<T>(entry: T) -> Owned<T> {
    Owned {
        owner: Owner::Cluster,
        entry,
    }
}

#[test]
fn the_largest_messages_fit() {
    let key = (NetworkId(u16::MAX), IpPrefix::host(LARGEST));
    let operations = [
        Operation::UpsertNetwork(largest_network()),
        Operation::UpsertPort(largest_port()),
        Operation::UpsertPeer(largest_peer()),
        Operation::UpsertRoute(largest_route()),
        Operation::RemoveRoute {
            network: key.0,
            prefix: key.1,
        },
    ];
    let mut message = vec![0; MAX_MESSAGE];
    let mut frame = vec![0; MAX_FRAME];
    for operation in operations {
        let count = match operation {
            Operation::UpsertNetwork(_) => 14,
            _ => MAX_OPERATIONS,
        };
        let request = Request::Apply(Apply {
            transaction: u64::MAX,
            owner: Owner::Cluster,
            operations: list(&vec![operation; count]),
        });
        let len = encode_request(u32::MAX, &request, &mut message).unwrap();
        assert!(encode_frame(&mut message, len, &mut frame).is_some());
    }
    let stats = PortStats {
        rx_frames: u64::MAX,
        rx_bytes: u64::MAX,
        tx_frames: u64::MAX,
        tx_bytes: u64::MAX,
        dropped: u64::MAX,
    };
    let ports: Vec<_> = (0..SMALL_PAGE)
        .map(|_| (owned(largest_port()), stats))
        .collect();
    let networks: Vec<_> = (0..SMALL_PAGE).map(|_| owned(largest_network())).collect();
    let peers: Vec<_> = (0..PAGE)
        .map(|_| (owned(largest_peer()), u32::MAX))
        .collect();
    let routes: Vec<_> = (0..PAGE).map(|_| owned(largest_route())).collect();
    let responses = [
        Response::Page(Page::Ports(list(&ports))),
        Response::Page(Page::Networks(list(&networks))),
        Response::Page(Page::Peers(list(&peers))),
        Response::Page(Page::Routes(list(&routes))),
        Response::Counters {
            values: list(&[(u16::MAX, u64::MAX); PAGE]),
            next: Some(u16::MAX),
        },
    ];
    for response in responses {
        let len = encode_response(u32::MAX, &response, &mut message).unwrap();
        assert!(encode_frame(&mut message, len, &mut frame).is_some());
    }
}
