//! Full tables: what does not fit is refused, and what was there keeps working.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

/// Packets of both versions to a pod, the host and another node, and one back.
fn still_works(gateway: &mut Gateway<'_>) {
    let ways = [
        (udp(MAC_A, A, B, b"x"), POD_B),
        (udp6(MAC_A, A6, B6, b"x"), POD_B),
        (udp(MAC_A, A, NODE_1, b"x"), HOST),
        (udp6(MAC_A, A6, HOST6, b"x"), HOST),
        (udp(MAC_A, A, REMOTE, b"x"), UNDERLAY),
        (udp6(MAC_A, A6, REMOTE6_3, b"x"), UNDERLAY),
    ];
    for (frame, port) in ways {
        assert_eq!(run(gateway, POD_A, frame).fate, Fate::Forward(port));
    }
    let back = vxlan(&from_vtep(udp6(VTEP_2, REMOTE6, A6, b"x")), 1);
    assert_eq!(run(gateway, UNDERLAY, back).fate, Fate::Forward(POD_A));
}

/// Adds until one is refused; returns how many fitted, and why no more did.
fn fill(gateway: &mut Gateway<'_>, make: impl Fn(u16) -> Operation) -> (usize, TableError) {
    for number in 0..1000 {
        if let Err((0, error)) = gateway.apply(Owner::Cluster, &[make(number)]) {
            still_works(gateway);
            return (number.into(), error);
        }
    }
    panic!("a table without an end")
}

#[test]
fn tables_at_capacity_refuse_with_a_typed_error_and_what_was_there_keeps_working() {
    let full = |table, capacity| TableError::TableFull { table, capacity };
    let beyond = |table, id, capacity| TableError::IdOutOfRange {
        table,
        id,
        capacity,
    };
    Node::new(1).run(|gateway| {
        // 64 routes, of which 15 are there; of both versions.
        let blackhole = |n: u16| match n % 2 {
            0 => route(&format!("172.16.{n}.0/24"), NextHop::Blackhole),
            _ => route(&format!("fd01:{n}::/32"), NextHop::Blackhole),
        };
        assert_eq!(fill(gateway, blackhole), (64 - 15, full(Table::Routes, 64)));
        // An endpoint's address is a route.
        let endpoint = Operation::UpsertPort(pod(PortId(7), MAC_A, "10.244.1.77"));
        let refused = gateway.apply(Owner::Attachment, &[endpoint]);
        assert_eq!(refused, Err((0, full(Table::Routes, 64))));
        still_works(gateway);
        // What is removed makes room.
        let gone = Operation::RemoveRoute {
            network: NET,
            prefix: prefix("172.16.0.0/24"),
        };
        gateway.apply(Owner::Cluster, &[gone]).unwrap();
        let one = fill(gateway, |n| blackhole(n + 100));
        assert_eq!(one, (1, full(Table::Routes, 64)));
    });
    Node::new(1).run(|gateway| {
        let peer = |n: u16| {
            Operation::UpsertPeer(Peer {
                id: PeerId(n + 2),
                underlay: ip(&format!("192.168.78.{n}")),
                ..Node::new(1).peer(2)
            })
        };
        assert_eq!(fill(gateway, peer), (6, beyond(Table::Peers, 8, 8)));
        let port = |n: u16| {
            Operation::UpsertPort(Port {
                id: PortId(n + 4),
                ..underlay(1500)
            })
        };
        assert_eq!(fill(gateway, port), (4, beyond(Table::Ports, 8, 8)));
        let network = |n: u16| {
            Operation::UpsertNetwork(Network {
                id: NetworkId(n + 1),
                vni: Vni::new((n + 7).into()).unwrap(),
                ..Node::new(1).network()
            })
        };
        assert_eq!(fill(gateway, network), (1, beyond(Table::Networks, 2, 2)));
    });
}
