//! The encoding of every message, pinned in `src/channel/golden.txt`, one line
//! each: a name and the message in hex. A firmware of last year must understand
//! what the shell of today says, so a line may be added but never changed.
//!
//! `CULVERT_BLESS=1 cargo test --test golden` writes the file.

mod common;

use std::fmt::Write;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

const GOLDEN: &str = include_str!("../src/channel/golden.txt");

/// A value for each variant of a type. The match has no wildcard: a new variant
/// does not compile until it has its line here.
macro_rules! every {
    ($type:ty { $( $name:literal $pattern:pat => $value:expr, )* }) => {{
        fn name(value: &$type) -> &'static str {
            match value { $( $pattern => $name, )* }
        }
        let values: Vec<$type> = vec![$( $value, )*];
        let named: Vec<_> = values.into_iter().map(|value| (name(&value), value)).collect();
        assert_eq!(named.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [$( $name, )*]);
        named
    }};
}

#[path = "golden/board.rs"]
mod board;

#[derive(PartialEq, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are a hundred of them, in a test"
)]
enum Message {
    Request(Request),
    Response(Response),
}

const MAC: MacAddr = MacAddr::new([0x0a, 0x58, 0x0a, 0xf4, 0x01, 0x02]);

fn sample_network() -> Network {
    Network {
        id: NetworkId(1),
        vni: Vni::new(0x00ab_cdef).unwrap(),
        udp_port: 4789,
        local: ip("fd00::1"),
        vtep_mac: MacAddr::new(VTEP_1),
        gateways: list(&[ip("169.254.1.1"), ip("fe80::1")]),
        gateway_mac: MacAddr::new(GATEWAY_MAC),
        node_addresses: list(&[ip("10.244.1.0"), ip("fd00:244:1::")]),
        prefixes: list(&[prefix("10.244.0.0/16"), prefix("fd00:244::/32")]),
        proxy: Proxy::Network,
        options: NetworkOptions::CLAMP_MSS.with(NetworkOptions::FLOOD),
        underlay: PortId(300),
    }
}

fn sample_port(kind: PortKind) -> Port {
    Port {
        id: PortId(7),
        mtu: 1450,
        mac: MAC,
        offloads: Offloads::CHECKSUM,
        kind,
    }
}

fn sample_peer() -> Peer {
    Peer {
        id: PeerId(513),
        network: NetworkId(1),
        underlay: ip("192.168.77.2"),
        vtep_mac: MacAddr::new(VTEP_2),
        node_addresses: list(&[ip("192.168.77.2"), ip("fd00::2")]),
        accepts: EncapSet::of(&[Encap::Vxlan, Encap::Direct]),
        transit: true,
    }
}

fn sample_route(next_hop: NextHop) -> Route {
    Route {
        network: NetworkId(1),
        prefix: prefix("10.244.2.0/24"),
        next_hop,
    }
}

fn sample_stats() -> PortStats {
    PortStats {
        rx_frames: 1,
        rx_bytes: 200,
        tx_frames: 70_000,
        tx_bytes: u64::MAX,
        dropped: 3,
    }
}

fn owned<T>(entry: T) -> Owned<T> {
    Owned {
        owner: Owner::Cluster,
        entry,
    }
}

fn port_kinds() -> Vec<(&'static str, PortKind)> {
    every!(PortKind {
        "endpoint" PortKind::Endpoint(_) => PortKind::Endpoint(Endpoint {
            network: NetworkId(1),
            addresses: list(&[ip("10.244.1.2"), ip("fd00:244::2")]),
            allowed: list(&[prefix("10.96.0.0/12"), prefix("fd01::/16")]),
        }),
        "host" PortKind::Host { .. } => PortKind::Host { network: NetworkId(1) },
        "underlay" PortKind::Underlay => PortKind::Underlay,
        "wire" PortKind::Wire(_) => PortKind::Wire(Wire {
            addresses: list(&[
                WireAddress { address: ip("192.168.77.1"), prefix_length: 24 },
                WireAddress { address: ip("fd00::1"), prefix_length: 64 },
            ]),
            gateways: list(&[ip("192.168.77.254"), ip("fe80::9")]),
        }),
    })
}

fn encaps() -> Vec<(&'static str, Encap)> {
    every!(Encap {
        "vxlan" Encap::Vxlan => Encap::Vxlan,
        "ipip" Encap::Ipip => Encap::Ipip,
        "direct" Encap::Direct => Encap::Direct,
    })
}

fn next_hops() -> Vec<(&'static str, NextHop)> {
    let peer = PeerId(513);
    every!(NextHop {
        "blackhole" NextHop::Blackhole => NextHop::Blackhole,
        "host" NextHop::Host => NextHop::Host,
        "endpoint" NextHop::Endpoint(_) => NextHop::Endpoint(PortId(7)),
        "peer" NextHop::Peer { .. } => NextHop::Peer { peer: PeerId(513), encap: Encap::Vxlan },
    })
    .into_iter()
    .chain(
        encaps()
            .into_iter()
            .map(|(name, encap)| (name, NextHop::Peer { peer, encap })),
    )
    .collect()
}

fn owners() -> Vec<(&'static str, Owner)> {
    every!(Owner {
        "attachment" Owner::Attachment => Owner::Attachment,
        "cluster" Owner::Cluster => Owner::Cluster,
    })
}

fn operations() -> Vec<(String, Operation)> {
    let plain = every!(Operation {
        "upsert-network" Operation::UpsertNetwork(_) => Operation::UpsertNetwork(sample_network()),
        "remove-network" Operation::RemoveNetwork(_) => Operation::RemoveNetwork(NetworkId(1)),
        "upsert-port" Operation::UpsertPort(_) => Operation::UpsertPort(sample_port(PortKind::Underlay)),
        "remove-port" Operation::RemovePort(_) => Operation::RemovePort(PortId(300)),
        "upsert-peer" Operation::UpsertPeer(_) => Operation::UpsertPeer(sample_peer()),
        "remove-peer" Operation::RemovePeer(_) => Operation::RemovePeer(PeerId(513)),
        "upsert-route" Operation::UpsertRoute(_) => Operation::UpsertRoute(sample_route(NextHop::Host)),
        "remove-route" Operation::RemoveRoute { .. } => Operation::RemoveRoute {
            network: NetworkId(1),
            prefix: prefix("fd00:244::/32"),
        },
        "set-path-mtu" Operation::SetPathMtu { .. } => Operation::SetPathMtu { peer: PeerId(513), mtu: 1400 },
    });
    let plain = plain.into_iter().map(|(name, o)| (name.to_string(), o));
    let ports = port_kinds().into_iter().map(|(name, kind)| {
        let name = format!("upsert-port.{name}");
        (name, Operation::UpsertPort(sample_port(kind)))
    });
    let routes = next_hops().into_iter().map(|(name, hop)| {
        let name = format!("upsert-route.{name}");
        (name, Operation::UpsertRoute(sample_route(hop)))
    });
    plain.chain(ports).chain(routes).collect()
}

fn reads() -> Vec<(&'static str, Read)> {
    let mut reads = every!(Read {
        "networks" Read::Networks { .. } => Read::Networks { after: Some(NetworkId(1)) },
        "ports" Read::Ports { .. } => Read::Ports { after: Some(PortId(300)) },
        "peers" Read::Peers { .. } => Read::Peers { after: Some(PeerId(513)) },
        "routes" Read::Routes { .. } => Read::Routes {
            after: Some((NetworkId(1), prefix("10.244.2.0/24"))),
        },
    });
    reads.push(("first", Read::Routes { after: None }));
    reads
}

fn capacities(n: u32) -> Capacities {
    Capacities {
        networks: n,
        ports: n + 1,
        peers: n + 2,
        routes: n + 3,
    }
}

fn syncs() -> Vec<(&'static str, Sync)> {
    every!(Sync {
        "begin" Sync::Begin { .. } => Sync::Begin {
            transaction: 300,
            owner: Owner::Cluster,
            additions: capacities(1000),
        },
        "end" Sync::End { .. } => Sync::End { transaction: 300 },
        "abort" Sync::Abort { .. } => Sync::Abort { transaction: 300 },
    })
}

fn events() -> Vec<(&'static str, EventKind)> {
    let neighbor = |mac| EventKind::Neighbor {
        port: PortId(300),
        address: ip("fe80::9"),
        mac,
    };
    let mut events = every!(EventKind {
        "drop" EventKind::Drop { .. } => EventKind::Drop {
            reason: DropReason::SourceIp,
            port: PortId(7),
            length: 1514,
            header: list(&[0xff, 0xff, 0, 1, 2]),
        },
        "path-mtu" EventKind::PathMtu { .. } => EventKind::PathMtu { peer: PeerId(513), mtu: 1400 },
        "neighbor" EventKind::Neighbor { .. } => neighbor(Some(MAC)),
    });
    events.push(("neighbor.gone", neighbor(None)));
    events
}

fn requests() -> Vec<(String, Message)> {
    let mut all: Vec<(String, Request)> = Vec::new();
    let plain = every!(Request {
        "hello" Request::Hello(_) => Request::Hello(Hello {
            version: Version { major: 1, minor: 2 },
            epoch: 0x0123_4567_89ab_cdef,
            schema: 0xdead_beef,
        }),
        "apply" Request::Apply(_) => Request::Apply(Apply {
            transaction: 300,
            owner: Owner::Cluster,
            operations: list(&[]),
        }),
        "read" Request::Read(_) => Request::Read(Read::Networks { after: None }),
        "counters" Request::Counters { .. } => Request::Counters { from: 32 },
        "ping" Request::Ping => Request::Ping,
        "sync" Request::Sync(_) => Request::Sync(Sync::End { transaction: 300 }),
        "events" Request::Events { .. } => Request::Events { after: 300 },
        "board" Request::Board(_) => Request::Board(Board::Describe),
    });
    all.extend(plain.into_iter().map(|(name, r)| (name.into(), r)));
    for (name, board) in board::requests() {
        all.push((format!("board.{name}"), Request::Board(board)));
    }
    for (name, role) in board::roles() {
        let request = Board::SetRole { mac: MAC, role };
        all.push((format!("board.role.{name}"), Request::Board(request)));
    }
    for (name, sync) in syncs() {
        all.push((format!("sync.{name}"), Request::Sync(sync)));
    }
    for (name, owner) in owners() {
        let operations = list(&[]);
        let apply = Apply {
            transaction: 1,
            owner,
            operations,
        };
        all.push((format!("apply.owner.{name}"), Request::Apply(apply)));
    }
    for (name, operation) in operations() {
        let operations = list(&[operation]);
        let apply = Apply {
            transaction: 1,
            owner: Owner::Cluster,
            operations,
        };
        all.push((format!("apply.{name}"), Request::Apply(apply)));
    }
    for (name, read) in reads() {
        all.push((format!("read.{name}"), Request::Read(read)));
    }
    let name = |(name, request)| (format!("request.{name}"), Message::Request(request));
    all.into_iter().map(name).collect()
}

fn pages() -> Vec<(&'static str, Page)> {
    every!(Page {
        "networks" Page::Networks(_) => Page::Networks(list(&[owned(sample_network())])),
        "ports" Page::Ports(_) => {
            Page::Ports(list(&[(owned(sample_port(PortKind::Underlay)), sample_stats())]))
        },
        "peers" Page::Peers(_) => Page::Peers(list(&[(owned(sample_peer()), 70_000)])),
        "routes" Page::Routes(_) => Page::Routes(list(&[owned(sample_route(NextHop::Host))])),
    })
}

fn errors() -> Vec<(&'static str, Error)> {
    every!(Error {
        "damaged" Error::Damaged => Error::Damaged,
        "too-large" Error::TooLarge => Error::TooLarge,
        "malformed" Error::Malformed => Error::Malformed,
        "unsupported" Error::Unsupported => Error::Unsupported,
        "too-many-operations" Error::TooManyOperations { .. } => {
            Error::TooManyOperations { count: 300, limit: 24 }
        },
        "version" Error::Version { .. } => Error::Version { core: Version { major: 1, minor: 2 } },
        "no-epoch" Error::NoEpoch => Error::NoEpoch,
        "epoch-zero" Error::EpochZero => Error::EpochZero,
    })
}

fn reasons() -> Vec<(String, TableError)> {
    let reasons = every!(Reason {
        "mac" Reason::Mac => Reason::Mac,
        "mtu" Reason::Mtu => Reason::Mtu,
        "address" Reason::Address => Reason::Address,
        "no-address" Reason::NoAddress => Reason::NoAddress,
        "no-gateway" Reason::NoGateway => Reason::NoGateway,
        "udp-port" Reason::UdpPort => Reason::UdpPort,
        "port-kind" Reason::PortKind => Reason::PortKind,
        "immutable" Reason::Immutable => Reason::Immutable,
        "endpoint-route" Reason::EndpointRoute => Reason::EndpointRoute,
        "ip-version" Reason::IpVersion => Reason::IpVersion,
        "prefix-length" Reason::PrefixLength => Reason::PrefixLength,
        "gateway-off-link" Reason::GatewayOffLink => Reason::GatewayOffLink,
    });
    let reasons = reasons
        .into_iter()
        .map(|(name, reason)| (format!("invalid.{name}"), TableError::Invalid(reason)));
    reasons.collect()
}

fn table_errors() -> Vec<(String, TableError)> {
    let tables = every!(Table {
        "networks" Table::Networks => Table::Networks,
        "ports" Table::Ports => Table::Ports,
        "peers" Table::Peers => Table::Peers,
        "routes" Table::Routes => Table::Routes,
    });
    let plain = every!(TableError {
        "table-full" TableError::TableFull { .. } => {
            TableError::TableFull { table: Table::Routes, capacity: 1_000_000 }
        },
        "id-out-of-range" TableError::IdOutOfRange { .. } => {
            TableError::IdOutOfRange { table: Table::Peers, id: 8, capacity: 8 }
        },
        "not-found" TableError::NotFound { .. } => {
            TableError::NotFound { table: Table::Networks, id: 1 }
        },
        "owned-by" TableError::OwnedBy { .. } => {
            TableError::OwnedBy { table: Table::Routes, owner: Owner::Cluster }
        },
        "in-use" TableError::InUse { .. } => TableError::InUse { table: Table::Ports, id: 300 },
        "conflict" TableError::Conflict { .. } => {
            TableError::Conflict { table: Table::Ports, id: 2 }
        },
        "invalid" TableError::Invalid(_) => TableError::Invalid(Reason::Mac),
        "too-many-operations" TableError::TooManyOperations { .. } => {
            TableError::TooManyOperations { limit: 24 }
        },
        "sync-running" TableError::SyncRunning { .. } => {
            TableError::SyncRunning { owner: Owner::Cluster }
        },
        "sync-not-running" TableError::SyncNotRunning => TableError::SyncNotRunning,
        "sync-reservation" TableError::SyncReservation { .. } => {
            TableError::SyncReservation { table: Table::Peers, reserved: 300 }
        },
    });
    let tables = tables
        .into_iter()
        .map(|(name, table)| (format!("table.{name}"), TableError::InUse { table, id: 1 }));
    let plain = plain
        .into_iter()
        .map(|(name, error)| (name.to_string(), error));
    plain.chain(tables).chain(reasons()).collect()
}

fn plain_responses() -> Vec<(&'static str, Response)> {
    let welcome = Welcome {
        version: Version { major: 1, minor: 2 },
        previous_epoch: 1,
        epoch: 0x0123_4567_89ab_cdef,
        schema: 0xdead_beef,
        capacities: capacities(1000),
        used: capacities(0),
    };
    let refusal = Refusal {
        transaction: 300,
        operation: 23,
        error: TableError::Invalid(Reason::Mtu),
    };
    every!(Response {
        "hello" Response::Hello(_) => Response::Hello(welcome),
        "applied" Response::Applied { .. } => Response::Applied { transaction: 300 },
        "refused" Response::Refused(_) => Response::Refused(refusal),
        "page" Response::Page(_) => Response::Page(Page::Routes(list(&[]))),
        "counters" Response::Counters { .. } => Response::Counters {
            values: list(&[(0, 1), (33, u64::MAX)]),
            next: Some(34),
        },
        "pong" Response::Pong => Response::Pong,
        "error" Response::Error(_) => Response::Error(Error::Damaged),
        "synced" Response::Synced(_) => Response::Synced(Synced {
            transaction: 300,
            done: true,
            swept: 70_000,
            kept: 3,
        }),
        "events" Response::Events { .. } => Response::Events { events: list(&[]), lost: 300 },
        "board" Response::Board(_) => Response::Board(BoardAnswer::Done),
    })
}

fn responses() -> Vec<(String, Message)> {
    let mut all: Vec<(String, Response)> = Vec::new();
    all.extend(
        plain_responses()
            .into_iter()
            .map(|(name, r)| (name.into(), r)),
    );
    for (name, page) in pages() {
        all.push((format!("page.{name}"), Response::Page(page)));
    }
    for (name, error) in table_errors() {
        let refusal = Refusal {
            transaction: 1,
            operation: 0,
            error,
        };
        all.push((format!("refused.{name}"), Response::Refused(refusal)));
    }
    for (name, error) in errors() {
        all.push((format!("error.{name}"), Response::Error(error)));
    }
    for (name, kind) in events() {
        let event = Event {
            sequence: 300,
            micros: 70_000_000,
            kind,
        };
        let events = list(&[event]);
        all.push((
            format!("events.{name}"),
            Response::Events { events, lost: 1 },
        ));
    }
    for (name, answer) in board::answers() {
        all.push((format!("board.{name}"), Response::Board(answer)));
    }
    for (name, refusal) in board::refusals() {
        let answer = BoardAnswer::Refused(refusal);
        all.push((format!("board.refused.{name}"), Response::Board(answer)));
    }
    // The numbers of the counters are part of the protocol, too.
    for counter in Counter::all() {
        let (values, next) = (list(&[(counter.number(), 1)]), None);
        let name = format!("counters.{}", counter.name());
        all.push((name, Response::Counters { values, next }));
    }
    let name = |(name, response)| (format!("response.{name}"), Message::Response(response));
    all.into_iter().map(name).collect()
}

fn messages() -> Vec<(String, Message)> {
    let mut all = requests();
    all.extend(responses());
    all
}

const ID: u32 = 1000;

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = vec![0; MAX_MESSAGE];
    let len = match message {
        Message::Request(request) => encode_request(ID, request, &mut out),
        Message::Response(response) => encode_response(ID, response, &mut out),
    };
    out.truncate(len.unwrap());
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn every_message_is_encoded_as_it_always_was() {
    let mut text = String::new();
    for (name, message) in messages() {
        writeln!(text, "{name} {}", hex(&encoded(&message))).unwrap();
    }
    if std::env::var_os("CULVERT_BLESS").is_some_and(|value| value == "1") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/channel/golden.txt");
        return std::fs::write(path, text).unwrap();
    }
    let mut golden = GOLDEN.lines();
    for line in text.lines() {
        assert_eq!(golden.next(), Some(line), "see the head of this file");
    }
    assert_eq!(golden.next(), None, "a line that no message has");
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = messages().into_iter().map(|(name, _)| name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn decoding_undoes_encoding() {
    for (name, message) in messages() {
        let bytes = encoded(&message);
        let (id, decoded) = match message {
            Message::Request(_) => {
                let (id, request) = decode_request(&bytes).unwrap();
                (id, Message::Request(request))
            }
            Message::Response(_) => {
                let (id, response) = decode_response(&bytes).unwrap();
                (id, Message::Response(response))
            }
        };
        assert_eq!((id, decoded), (ID, message), "{name}");
    }
}
