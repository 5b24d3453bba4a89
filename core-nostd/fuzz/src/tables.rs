//! Any transactions and syncs of both owners on few ids and addresses, so that they
//! get into each other's way, in tables that are soon full. The model, and the shell
//! that compares the core with it after each message, are those of the tests.

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/transactions/dump.rs"]
pub(crate) mod dump;
#[path = "../../tests/transactions/model.rs"]
mod model;
#[path = "../../tests/sync/shell.rs"]
mod shell;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/sync/world.rs"]
mod world;

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;

use crate::Reader;
use crate::common::{self, GATEWAY_MAC, HOST_MAC, MAC_A, MAC_B, ip, list, prefix, udp};
use model::Model;
use shell::{Action, Shell};

const NETWORKS: u16 = 2;
const PORTS: u16 = 6;
const PEERS: u16 = 6;
/// More than a page.
const ROUTES: usize = 42;
const CAPACITIES: [u32; 4] = [2, 6, 6, 42];
pub(crate) type Small = Storage<2, 6, 6, 42>;

/// Messages of one input at most: each is checked against everything.
const MESSAGES: usize = 24;

/// Follows one history.
pub fn run(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut storage = Small::new();
    let mut gateway = storage.gateway();
    let mut shell = Shell::new(&mut gateway);
    shell.act(&Action::Apply(Owner::Cluster, groundwork()));
    if reader.flag() {
        for chunk in filling().chunks(MAX_OPERATIONS) {
            shell.act(&Action::Apply(Owner::Cluster, chunk.to_vec()));
        }
    }
    for _ in 0..MESSAGES {
        if reader.is_empty() {
            break;
        }
        shell.act(&action(&mut reader));
        let address = address(&mut reader);
        look_up(shell.gateway, &shell.world.tables, address);
    }
    // No reference and no reservation has leaked: everything can be removed, and
    // all room can be reserved.
    shell.act(&Action::Hello);
    for (owner, operation) in shell.world.tables.removals() {
        assert!(shell.apply(owner, &[operation]));
    }
    let [networks, ports, peers, routes] = CAPACITIES;
    let all = Capacities {
        networks,
        ports,
        peers,
        routes,
    };
    shell.act(&Action::Begin(Owner::Attachment, all));
    assert!(shell.world.runs(shell.transaction));
}

/// An underlay port, a network and its host, so that most of what follows finds them.
pub(crate) fn groundwork() -> Vec<Operation> {
    vec![
        Operation::UpsertPort(common::underlay(1500)),
        Operation::UpsertNetwork(common::network()),
        Operation::UpsertNetwork(Network {
            id: NetworkId(1),
            udp_port: 4789,
            ..common::network()
        }),
        Operation::UpsertPort(common::host()),
    ]
}

/// As many routes as leave room for a few.
fn filling() -> Vec<Operation> {
    (0..34)
        .map(|n| common::route(&format!("172.16.{n}.0/24"), NextHop::Blackhole))
        .collect()
}

/// Compares where the host's packet to an address goes with where the model's
/// routes lead.
fn look_up(gateway: &mut Gateway<'_>, tables: &Model, to: IpAddr) {
    let IpAddr::V4(v4) = to else { return };
    let hosts = tables
        .ports
        .iter()
        .filter_map(|port| match port.entry.kind {
            PortKind::Host { network } => Some((port.entry.id, network)),
            _ => None,
        });
    for (host, id) in hosts.collect::<Vec<_>>() {
        let network = tables.networks.iter().find(|n| n.entry.id == id);
        let network = &network.expect("a host's network is there").entry;
        // Groups and the gateway's own take another way.
        if network.gateways.contains(&to) || v4.is_multicast() || v4.is_broadcast() {
            continue;
        }
        let frame = udp(HOST_MAC, [10, 9, 9, 9], v4.octets(), b"x");
        let fate = common::run(gateway, host, frame).fate;
        let expected = match next_hop(tables, id, to) {
            _ if v4.is_unspecified() || v4.is_loopback() => Fate::Drop(DropReason::NoRoute),
            None => Fate::Drop(DropReason::NoRoute),
            Some(NextHop::Blackhole) => Fate::Drop(DropReason::Blackhole),
            Some(NextHop::Host) => Fate::Drop(DropReason::HostLoop),
            Some(NextHop::Endpoint(port)) => Fate::Forward(port),
            Some(NextHop::Peer {
                encap: Encap::Direct,
                ..
            }) => Fate::Drop(DropReason::DirectLoop),
            Some(NextHop::Peer { .. }) => Fate::Forward(network.underlay),
        };
        assert_eq!(fate, expected, "from {host} to {to}");
    }
}

/// Where the longest prefix leads.
fn next_hop(tables: &Model, network: NetworkId, to: IpAddr) -> Option<NextHop> {
    let routes = tables.listed_routes();
    let covering = routes
        .iter()
        .map(|route| route.entry)
        .filter(|route| route.network == network && route.prefix.contains(to));
    let longest = covering.max_by_key(|route| route.prefix.length());
    longest.map(|route| route.next_hop)
}

fn action(reader: &mut Reader<'_>) -> Action {
    match reader.below(16) {
        0..8 => {
            let owner = owner(reader);
            let operations = vec![operation(reader)];
            Action::Apply(owner, operations)
        }
        8 | 9 => {
            let owner = owner(reader);
            let count = 2 + reader.below(9);
            Action::Apply(owner, (0..count).map(|_| operation(reader)).collect())
        }
        10 => {
            let owner = owner(reader);
            let [networks, ports, peers, routes] = [3, 5, 5, 12].map(|limit| reader.below(limit));
            let small = |number: usize| u32::try_from(number).expect("small");
            Action::Begin(
                owner,
                Capacities {
                    networks: small(networks),
                    ports: small(ports),
                    peers: small(peers),
                    routes: small(routes),
                },
            )
        }
        11 => Action::BeginAgain,
        12 => Action::EndToTheEnd,
        13 => match reader.flag() {
            false => Action::End,
            true => Action::EndOfAnother,
        },
        14 => Action::Again,
        _ => match reader.flag() {
            false => Action::Abort,
            true => Action::Hello,
        },
    }
}

pub(crate) fn owner(reader: &mut Reader<'_>) -> Owner {
    match reader.rarely(3) {
        false => Owner::Cluster,
        true => Owner::Attachment,
    }
}

pub(crate) fn operation(reader: &mut Reader<'_>) -> Operation {
    match reader.below(16) {
        0 | 1 => Operation::UpsertNetwork(network(reader)),
        2 => Operation::RemoveNetwork(network_id(reader)),
        3..6 => Operation::UpsertPort(port(reader)),
        6 => Operation::RemovePort(PortId(id(reader, PORTS))),
        7..9 => Operation::UpsertPeer(peer(reader)),
        9 => Operation::RemovePeer(PeerId(id(reader, PEERS))),
        10..14 => Operation::UpsertRoute(Route {
            network: network_id(reader),
            prefix: any_prefix(reader),
            next_hop: hop(reader),
        }),
        14 => Operation::RemoveRoute {
            network: network_id(reader),
            prefix: any_prefix(reader),
        },
        _ => Operation::SetPathMtu {
            peer: PeerId(id(reader, PEERS)),
            // Small packets go through, whatever was learnt.
            mtu: reader.u16(),
        },
    }
}

/// A few ids are behind the table's end.
fn id(reader: &mut Reader<'_>, limit: u16) -> u16 {
    u16::from(reader.u8()) % (limit + 1)
}

/// Mostly the one network, where things get into each other's way.
pub(crate) fn network_id(reader: &mut Reader<'_>) -> NetworkId {
    NetworkId(reader.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 1, NETWORKS]))
}

fn address(reader: &mut Reader<'_>) -> IpAddr {
    let number = reader.u8();
    match number {
        0..192 => IpAddr::from([10, 0, 0, number % 8]),
        192..240 => ip(["fd00::1", "fd00::2", "fd00::3"][usize::from(number) % 3]),
        240..248 => IpAddr::from([172, 16, number - 236, 1]),
        _ => {
            let unusual = ["0.0.0.0", "224.0.0.1", "127.0.0.1", "::", "ff02::1"];
            ip(unusual[usize::from(number) % unusual.len()])
        }
    }
}

pub(crate) fn any_prefix(reader: &mut Reader<'_>) -> IpPrefix {
    let texts = [
        "0.0.0.0/0",
        "10.0.0.0/29",
        "10.0.0.4/30",
        "10.0.0.4/32",
        "fd00::/16",
    ];
    match reader.below(8) {
        0..3 => IpPrefix::host(address(reader)),
        3 => {
            let n = reader.u8();
            prefix(&format!("172.16.{n}.0/24"))
        }
        other => prefix(texts[other - 3]),
    }
}

fn mac(reader: &mut Reader<'_>) -> MacAddr {
    match reader.u8() {
        0 => MacAddr::ZERO,
        1 => MacAddr::BROADCAST,
        n if n % 2 == 0 => MacAddr::new(MAC_A),
        _ => MacAddr::new(MAC_B),
    }
}

fn addresses(reader: &mut Reader<'_>) -> heapless::Vec<IpAddr, MAX_ADDRESSES> {
    let count = reader.pick(&[1, 1, 1, 2, 2, 3, 4, 0]);
    let addresses: Vec<_> = (0..count).map(|_| address(reader)).collect();
    list(&addresses)
}

fn network(reader: &mut Reader<'_>) -> Network {
    Network {
        id: network_id(reader),
        vni: Vni::new(reader.pick(&[1, 1, 2])).expect("24 bits"),
        udp_port: reader.pick(&[8472, 8472, 4789, 4789, 0]),
        local: address(reader),
        vtep_mac: mac(reader),
        gateways: addresses(reader),
        gateway_mac: MacAddr::new(GATEWAY_MAC),
        node_addresses: list(&[ip("10.0.0.9")]),
        prefixes: list(&[prefix("10.0.0.0/8")]),
        proxy: Proxy::Network,
        options: NetworkOptions::NONE,
        underlay: PortId(id(reader, PORTS)),
    }
}

fn port(reader: &mut Reader<'_>) -> Port {
    let id = PortId(id(reader, PORTS));
    let mtus = [1500, 1450, 1300, 1280, 1279, 500, 139, 138, 137, 68, 67];
    let mtu = reader.pick(&mtus);
    let mac = mac(reader);
    let kind = match reader.below(8) {
        0 => PortKind::Underlay,
        1 => PortKind::Host {
            network: network_id(reader),
        },
        _ => PortKind::Endpoint(Endpoint {
            network: network_id(reader),
            addresses: addresses(reader),
            allowed: match reader.flag() {
                false => heapless::Vec::new(),
                true => list(&[any_prefix(reader)]),
            },
        }),
    };
    Port {
        id,
        mtu,
        mac,
        offloads: Offloads::CHECKSUM,
        kind,
    }
}

fn peer(reader: &mut Reader<'_>) -> Peer {
    let accepts = [&[Encap::Vxlan][..], &[Encap::Vxlan, Encap::Ipip]];
    Peer {
        id: PeerId(id(reader, PEERS)),
        network: network_id(reader),
        underlay: address(reader),
        vtep_mac: mac(reader),
        node_addresses: addresses(reader),
        accepts: EncapSet::of(reader.pick(&accepts)),
        transit: reader.flag(),
    }
}

fn hop(reader: &mut Reader<'_>) -> NextHop {
    match reader.below(6) {
        0 => NextHop::Blackhole,
        1 => NextHop::Host,
        2 => NextHop::Endpoint(PortId(id(reader, PORTS))),
        _ => NextHop::Peer {
            peer: PeerId(id(reader, PEERS)),
            encap: reader.pick(&[Encap::Vxlan, Encap::Vxlan, Encap::Ipip, Encap::Direct]),
        },
    }
}
