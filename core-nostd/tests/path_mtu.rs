//! What errors about tunnel packets teach the core of path MTUs.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

const SECOND: u64 = 1_000_000;

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * SECOND)
}

/// Whether an IPv4 packet of so many bytes, with DF, gets into the tunnel to a
/// remote pod at that time.
fn fits(gateway: &mut Gateway<'_>, now: Instant, dst: [u8; 4], len: usize) -> bool {
    let mut frame = udp(MAC_A, A, dst, &vec![0; len - 28]);
    edit_ip(&mut frame, |ip| ip.dont_fragment = true);
    match run_at(gateway, now, POD_A, frame).fate {
        Fate::Forward(UNDERLAY) => true,
        Fate::Drop(DropReason::TooBig) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_error_lowers_the_path_mtu_of_its_peer_alone_for_ten_minutes() {
    Node::new(1).run(|gateway| {
        let (to_2, to_3) = ([10, 244, 2, 7], [10, 244, 3, 7]);
        gateway.path_mtu_exceeded(at(1), UNDERLAY, ip("192.168.77.2"), 1300);
        assert!(fits(gateway, at(1), to_2, 1250) && !fits(gateway, at(1), to_2, 1251));
        assert!(fits(gateway, at(1), to_3, 1450));
        // A larger one is an old packet's; a smaller one counts.
        gateway.path_mtu_exceeded(at(2), UNDERLAY, ip("192.168.77.2"), 1400);
        assert!(!fits(gateway, at(2), to_2, 1251));
        gateway.path_mtu_exceeded(at(3), UNDERLAY, ip("192.168.77.2"), 1200);
        assert!(fits(gateway, at(3), to_2, 1150) && !fits(gateway, at(3), to_2, 1151));
        assert!(!fits(gateway, at(602), to_2, 1151));
        assert!(fits(gateway, at(603), to_2, 1450));
        // What was forgotten does not stand in the way of a larger one.
        gateway.path_mtu_exceeded(at(604), UNDERLAY, ip("192.168.77.2"), 1400);
        assert!(fits(gateway, at(604), to_2, 1350) && !fits(gateway, at(604), to_2, 1351));
    });
}

#[test]
fn errors_that_cannot_be_right_change_little() {
    Node::new(1).run(|gateway| {
        let to_2 = [10, 244, 2, 7];
        for (port, address, mtu) in [
            (UNDERLAY, "192.168.77.99", 600),
            (UNDERLAY, "fd00:77::2", 600),
            (PortId(9), "192.168.77.2", 600),
            (HOST, "192.168.77.2", 600),
            (UNDERLAY, "192.168.77.2", 0),
            (UNDERLAY, "192.168.77.2", u16::MAX),
        ] {
            gateway.path_mtu_exceeded(at(1), port, ip(address), mtu);
            assert!(fits(gateway, at(1), to_2, 1450), "{port} {address} {mtu}");
        }
        // No smaller than what Linux believes; a forged error must not choke a tunnel.
        gateway.path_mtu_exceeded(at(1), UNDERLAY, ip("192.168.77.2"), 68);
        assert!(fits(gateway, at(1), to_2, 502) && !fits(gateway, at(1), to_2, 503));
    });
}

#[test]
fn a_peer_that_is_in_two_networks_is_lowered_in_both() {
    Node::new(1).run(|gateway| {
        let second = Network {
            id: NetworkId(1),
            vni: Vni::new(2).unwrap(),
            ..network()
        };
        let twin = Peer {
            id: PeerId(5),
            network: NetworkId(1),
            ..peer()
        };
        let operations = [
            Operation::UpsertNetwork(second),
            Operation::UpsertPeer(twin),
        ];
        gateway.apply(Owner::Cluster, &operations).unwrap();
        let mut pod = pod(PortId(7), MAC_B, "10.9.0.2");
        if let PortKind::Endpoint(endpoint) = &mut pod.kind {
            endpoint.network = NetworkId(1);
        }
        let to_twin = Operation::UpsertRoute(Route {
            network: NetworkId(1),
            prefix: prefix("10.9.2.0/24"),
            next_hop: NextHop::Peer {
                peer: PeerId(5),
                encap: Encap::Vxlan,
            },
        });
        gateway.apply(Owner::Cluster, &[to_twin]).unwrap();
        let pod = Operation::UpsertPort(pod);
        gateway.apply(Owner::Attachment, &[pod]).unwrap();
        gateway.path_mtu_exceeded(at(1), UNDERLAY, ip("192.168.77.2"), 1300);
        assert!(!fits(gateway, at(1), [10, 244, 2, 7], 1251));
        let mut frame = udp(MAC_B, [10, 9, 0, 2], [10, 9, 2, 2], &[0; 1223]);
        edit_ip(&mut frame, |ip| ip.dont_fragment = true);
        let out = run_at(gateway, at(1), PortId(7), frame);
        assert_eq!(out.fate, Fate::Drop(DropReason::TooBig));
    });
}
