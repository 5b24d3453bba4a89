//! Networks that flood: who gets a copy of broadcast and multicast, and what it
//! looks like.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

fn flooding() -> Node {
    Node {
        options: NetworkOptions::FLOOD,
        ..Node::new(1)
    }
}

const GROUP: [u8; 4] = [239, 129, 1, 2];
const GROUP_MAC: [u8; 6] = [1, 0, 0x5e, 1, 1, 2];
const GROUP6: [u8; 16] = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xab, 0xcd];
const GROUP6_MAC: [u8; 6] = [0x33, 0x33, 0, 1, 0xab, 0xcd];

/// Groups, their MAC address, and a packet to each from these addresses with TTL 1.
fn packets(mac: [u8; 6], src: [u8; 4], src6: [u8; 16]) -> [([u8; 6], Vec<u8>); 3] {
    let to = |dst| {
        let mut frame = udp(mac, src, dst, b"copy me");
        edit_ip(&mut frame, |header| header.time_to_live = 1);
        frame
    };
    let mut v6 = udp6(mac, src6, GROUP6, b"copy me");
    edit_ip6(&mut v6, |header| header.hop_limit = 1);
    let all = [
        (GROUP_MAC, to(GROUP)),
        ([0xff; 6], to([255; 4])),
        (GROUP6_MAC, v6),
    ];
    all.map(|(group, mut frame)| {
        frame[..6].copy_from_slice(&group);
        (group, frame)
    })
}

/// Ports that got a copy, and the underlay addresses that did.
fn receivers(output: &Output) -> Vec<(PortId, Option<std::net::IpAddr>)> {
    let made = output.made.iter();
    made.map(|(port, _, outer)| (*port, outer.map(|outer| outer.dst)))
        .collect()
}

#[test]
fn a_pods_multicast_is_copied_to_every_port_and_peer_but_its_own() {
    for underlay in [Family::V4, Family::V6] {
        let node = Node {
            underlay,
            ..flooding()
        };
        for (group, frame) in packets(MAC_A, A, A6) {
            node.run(|gateway| {
                let output = run(gateway, POD_A, frame.clone());
                assert_eq!(output.fate, Fate::Flood);
                let [n2, n3] = [2, 3].map(|n| Some(node.address_of(n)));
                let expected = [(HOST, None), (POD_B, None), (UNDERLAY, n2), (UNDERLAY, n3)];
                assert_eq!(receivers(&output), expected);
                for made in &output.made {
                    // TTL 1 and all: a copy stays on the link.
                    assert_eq!(ip_packet(made), &frame[14..]);
                    let ethernet = &made.1[if made.2.is_some() { 8 } else { 0 }..];
                    let from = if made.2.is_some() {
                        node.vtep_of(1)
                    } else {
                        GATEWAY_MAC
                    };
                    assert_eq!((&ethernet[..6], &ethernet[6..12]), (&group[..], &from[..]));
                    assert_eq!(ethernet[12..14], frame[12..14]);
                }
                assert_eq!(gateway.counter(Counter::Flood), 1);
                assert_eq!(gateway.counter(Counter::Originated), 4);
            });
        }
    }
}

#[test]
fn the_hosts_multicast_goes_to_pods_and_peers() {
    for (_, frame) in packets(HOST_MAC, NODE_1, HOST6) {
        let output = flooding().run(|gateway| run(gateway, HOST, frame));
        let ports: Vec<_> = receivers(&output)
            .into_iter()
            .map(|(port, _)| port)
            .collect();
        assert_eq!(ports, [POD_A, POD_B, UNDERLAY, UNDERLAY]);
    }
}

#[test]
fn what_a_peer_floods_goes_to_no_other_peer() {
    for (group, frame) in packets(VTEP_2, REMOTE, REMOTE6) {
        // By its own group address, or as a bridge without one would send it.
        for dst in [group, VTEP_1] {
            let mut frame = frame.clone();
            frame[..6].copy_from_slice(&dst);
            let output = flooding().run(|gateway| run(gateway, UNDERLAY, vxlan(&frame, 1)));
            assert_eq!(output.fate, Fate::Flood);
            assert_eq!(
                receivers(&output),
                [(HOST, None), (POD_A, None), (POD_B, None)]
            );
            for made in &output.made {
                assert_eq!(ip_packet(made), &frame[14..]);
                assert_eq!(made.1[..6], group);
            }
        }
    }
}

#[test]
fn flooding_goes_through_ipip_too() {
    for underlay in [Family::V4, Family::V6] {
        let [first, second] = [1, 2].map(|number| Node {
            underlay,
            encap: Encap::Ipip,
            number,
            ..flooding()
        });
        for (_, frame) in packets(MAC_A, A, A6) {
            let sent = first.run(|gateway| run(gateway, POD_A, frame.clone()));
            let made = sent
                .made
                .iter()
                .find(|made| made.2.is_some_and(|outer| outer.dst == first.address_of(2)));
            let (_, bytes, outer) = made.unwrap().clone();
            assert_eq!(bytes, frame[14..]);
            let input = Input {
                outer,
                ..Input::from(bytes)
            };
            let output = second.run(|gateway| run(gateway, UNDERLAY, input));
            assert_eq!(
                receivers(&output),
                [(HOST, None), (POD_A, None), (POD_B, None)]
            );
        }
    }
}

#[test]
fn networks_do_not_flood_unless_told_to() {
    for (_, frame) in packets(MAC_A, A, A6) {
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(output.fate, Fate::Drop(DropReason::DestinationGroup));
    }
    for (group, frame) in packets(VTEP_2, REMOTE, REMOTE6) {
        let by = |dst: [u8; 6]| {
            let mut frame = frame.clone();
            frame[..6].copy_from_slice(&dst);
            Node::new(1)
                .run(|gateway| run(gateway, UNDERLAY, vxlan(&frame, 1)))
                .fate
        };
        assert_eq!(by(group), Fate::Drop(DropReason::VtepMac));
        assert_eq!(by(VTEP_1), Fate::Drop(DropReason::DestinationGroup));
    }
}

#[test]
fn the_guards_hold_for_what_is_flooded() {
    let foreign = packets(MAC_A, B, B6);
    let reasons = [DropReason::SourceIp; 3];
    for ((_, frame), reason) in foreign.into_iter().zip(reasons) {
        let output = flooding().run(|gateway| run(gateway, POD_A, frame));
        assert_eq!((output.fate, output.made.len()), (Fate::Drop(reason), 0));
    }
    for (_, frame) in packets(VTEP_2, B, B6) {
        let output = flooding().run(|gateway| run(gateway, UNDERLAY, vxlan(&frame, 1)));
        assert_eq!(output.fate, Fate::Drop(DropReason::PeerGuard));
    }
}

/// A frame to all with a packet for one is dropped (RFC 1122 section 3.3.6):
/// everybody would forward it.
#[test]
fn a_packet_for_one_in_a_frame_for_all_is_dropped() {
    let mut frames = [udp(MAC_A, A, B, b"x"), udp6(MAC_A, A6, B6, b"x")];
    for frame in &mut frames {
        frame[..6].fill(0xff);
        let output = flooding().run(|gateway| run(gateway, POD_A, frame.clone()));
        assert_eq!(output.fate, Fate::Drop(DropReason::DestinationGroup));
    }
    let mut frames = [
        udp(VTEP_2, REMOTE, A, b"x"),
        udp6(VTEP_2, REMOTE6, A6, b"x"),
    ];
    for frame in &mut frames {
        frame[..6].fill(0xff);
        let output = flooding().run(|gateway| run(gateway, UNDERLAY, vxlan(frame, 1)));
        assert_eq!(output.fate, Fate::Drop(DropReason::DestinationGroup));
    }
}

/// Copied with its hop limit of 255 it would be believed: an advertisement from
/// another node could take the gateway's address over.
#[test]
fn neighbor_discovery_from_another_node_is_not_flooded() {
    let mut frame = neighbor(136, (REMOTE6, ALL_NODES6), GATEWAY6, Some(VTEP_2));
    frame[..6].copy_from_slice(&VTEP_1);
    let behind = extended(frame.clone(), &[(60, &[0, 1, 4, 0, 0, 0, 0])]);
    for frame in [frame, behind] {
        let output = flooding().run(|gateway| run(gateway, UNDERLAY, vxlan(&frame, 1)));
        assert_eq!(output.fate, Fate::Drop(DropReason::NdMalformed));
        assert!(output.made.is_empty());
    }
}

#[test]
fn copies_without_a_spare_or_too_large_for_their_port_are_counted() {
    let [(_, frame), ..] = packets(MAC_A, A, A6);
    for spares in 0..=4u16 {
        flooding().run(|gateway| {
            let output = Shell::with_spares(spares.into()).run(gateway, POD_A, frame.clone());
            assert_eq!(output.fate, Fate::Flood);
            assert_eq!(output.made.len(), usize::from(spares));
            assert_eq!(
                gateway.counter(Counter::SparesExhausted),
                u64::from(4 - spares)
            );
        });
    }
    flooding().run(|gateway| {
        let small = Operation::UpsertPort(Port { mtu: 100, ..host() });
        gateway.apply(Owner::Cluster, &[small]).unwrap();
        let mut large = udp(MAC_A, A, GROUP, &[7; 100]);
        large[..6].copy_from_slice(&GROUP_MAC);
        let output = run(gateway, POD_A, large);
        assert_eq!(output.made.len(), 3);
        assert_eq!(gateway.counter(Counter::FloodTooBig), 1);
        assert!(receivers(&output).iter().all(|(port, _)| *port != HOST));
    });
}

#[test]
fn at_most_64_copies_are_made_and_the_rest_is_counted() {
    let mut storage = Box::new(Storage::<2, 80, 80, 400>::new());
    let mut gateway = storage.gateway();
    flooding().program(&mut gateway);
    let pods: Vec<_> = (10u16..80)
        .map(|id| {
            let [_, last] = id.to_be_bytes();
            let port = pod(PortId(id), [2, 0, 0, 0, 1, last], &format!("10.244.1.{id}"));
            Operation::UpsertPort(port)
        })
        .collect();
    for chunk in pods.chunks(MAX_OPERATIONS) {
        gateway.apply(Owner::Attachment, chunk).unwrap();
    }
    let [(_, frame), ..] = packets(MAC_A, A, A6);
    let output = Shell::with_spares(100).run(&mut gateway, POD_A, frame);
    assert_eq!(output.made.len(), 64);
    // Host, pod B, seventy pods and two peers.
    assert_eq!(gateway.counter(Counter::SparesExhausted), 74 - 64);
}

#[test]
fn peers_that_take_no_tunnel_get_no_copies() {
    let node = Node {
        encap: Encap::Direct,
        ..flooding()
    };
    let [(_, frame), ..] = packets(MAC_A, A, A6);
    let output = node.run(|gateway| run(gateway, POD_A, frame));
    assert_eq!(receivers(&output), [(HOST, None), (POD_B, None)]);
}

#[test]
fn unfinished_checksums_of_copies_are_finished_before_the_tunnel() {
    for (_, frame) in packets(MAC_A, A, A6) {
        let input = unfinished(frame.clone());
        let output = flooding().run(|gateway| run(gateway, POD_A, input.clone()));
        for made in &output.made {
            match made.2 {
                Some(_) => assert_eq!(ip_packet(made), &frame[14..]),
                None => assert_eq!(ip_packet(made), &input.bytes[14..]),
            }
        }
    }
}
