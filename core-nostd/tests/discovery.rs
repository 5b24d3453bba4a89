//! Whom the gateway answers on the link: ARP and neighbor discovery in both proxy
//! modes, and ping in both IP versions.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscNeighborFlags, NdiscRepr,
    RawHardwareAddress,
};

fn proxying() -> Node {
    Node {
        proxy: Proxy::Network,
        ..Node::new(1)
    }
}

/// By which port who asks for what, and whether the network mode answers.
type Question = (PortId, [u8; 6], [u8; 4], [u8; 4], bool);

const ARP: [Question; 12] = [
    (POD_A, MAC_A, A, B, true),
    (POD_A, MAC_A, A, REMOTE, true),
    (POD_A, MAC_A, A, [10, 244, 9, 9], true),
    (POD_A, MAC_A, A, [10, 244, 1, 0], true),
    (POD_A, MAC_A, A, [8, 8, 8, 8], false),
    (POD_A, MAC_A, A, NODE_2, false),
    // Probes: for what is another's, which is a conflict, and for its own.
    (POD_A, MAC_A, [0; 4], B, true),
    (POD_A, MAC_A, [0; 4], A, false),
    (POD_B, MAC_B, B, A, true),
    (HOST, HOST_MAC, NODE_1, A, true),
    (HOST, HOST_MAC, NODE_1, REMOTE, true),
    (HOST, HOST_MAC, [0; 4], [10, 244, 1, 0], false),
];

#[test]
fn the_network_mode_answers_arp_for_the_networks_prefixes_except_the_askers_own() {
    for (port, mac, sender, target, answered) in ARP {
        let request = arp_request(mac, sender, target);
        let output = proxying().run(|gateway| run(gateway, port, request.clone()));
        let name = format!("{sender:?} asks for {target:?}");
        match answered {
            false => assert_eq!(output.fate, Fate::Drop(DropReason::ArpTarget), "{name}"),
            true => {
                assert_eq!(output.fate, Fate::Reply, "{name}");
                let mut expected = [&mac[..], &GATEWAY_MAC, &request[12..21], &[2]].concat();
                expected.extend([&GATEWAY_MAC[..], &target, &mac, &sender].concat());
                assert_eq!(output.bytes, expected, "{name}");
            }
        }
        let output = Node::new(1).run(|gateway| run(gateway, port, request));
        assert_eq!(output.fate, Fate::Drop(DropReason::ArpTarget), "{name}");
    }
}

/// The advertisement in a reply, as smoltcp reads it, checksum included.
fn advertisement(output: &Output) -> (Ipv6Packet<&[u8]>, NdiscRepr<'_>) {
    assert_eq!(output.fate, Fate::Reply);
    let ethernet = EthernetFrame::new_checked(&output.bytes[..]).unwrap();
    assert_eq!(ethernet.src_addr().0, GATEWAY_MAC);
    let ip = Ipv6Packet::new_checked(&output.bytes[14..]).unwrap();
    assert_eq!(
        (ip.hop_limit(), ip.traffic_class(), ip.flow_label()),
        (255, 0, 0)
    );
    let icmp = Icmpv6Packet::new_checked(&output.bytes[54..]).unwrap();
    let caps = ChecksumCapabilities::default();
    let repr = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps).unwrap();
    let Icmpv6Repr::Ndisc(message) = repr else {
        panic!("{repr:?}")
    };
    (ip, message)
}

fn told(target: [u8; 16], flags: NdiscNeighborFlags) -> NdiscRepr<'static> {
    NdiscRepr::NeighborAdvert {
        flags,
        target_addr: target.into(),
        lladdr: Some(RawHardwareAddress::from_bytes(&GATEWAY_MAC)),
    }
}

#[test]
fn neighbor_solicitations_for_the_gateway_are_answered() {
    let unicast = |src, mac| neighbor(135, (src, GATEWAY6), GATEWAY6, mac);
    let from_host = |mut frame: Vec<u8>| {
        frame[6..12].copy_from_slice(&HOST_MAC);
        frame
    };
    let cases = [
        (POD_A, solicitation(A6, GATEWAY6), A6, MAC_A),
        (
            POD_A,
            solicitation(LINK_LOCAL6, GATEWAY6),
            LINK_LOCAL6,
            MAC_A,
        ),
        (POD_A, unicast(A6, Some(MAC_A)), A6, MAC_A),
        // Without the option the answer goes to whom the port belongs.
        (POD_A, unicast(A6, None), A6, MAC_A),
        (
            HOST,
            from_host(unicast(HOST6, Some(HOST_MAC))),
            HOST6,
            HOST_MAC,
        ),
        (HOST, from_host(unicast(HOST6, None)), HOST6, HOST_MAC),
    ];
    for node in [Node::new(1), proxying()] {
        for (port, frame, asker, mac) in cases.clone() {
            let marked = Input {
                segmentation: Segmentation::TcpV6 { size: 9 },
                ..unfinished(frame.clone())
            };
            for input in [Input::from(frame), marked] {
                let output = node.run(|gateway| run(gateway, port, input));
                let (ip, message) = advertisement(&output);
                assert_eq!(
                    (ip.src_addr(), ip.dst_addr()),
                    (GATEWAY6.into(), asker.into())
                );
                assert_eq!(message, told(GATEWAY6, NdiscNeighborFlags::all()));
                assert_eq!(output.bytes[..6], mac);
                assert_eq!(output.checksum, Checksum::None);
                assert_eq!(output.segmentation, Segmentation::None);
            }
        }
    }
}

#[test]
fn configured_gateway_addresses_are_the_gateways_too() {
    let own = ip("fd00:244:1::1");
    let configured = Network {
        gateways: list(&[ip("10.244.1.1"), ip("10.244.1.9"), own]),
        ..Node::new(1).network()
    };
    let address: [u8; 16] = "fd00:244:1::1"
        .parse::<std::net::Ipv6Addr>()
        .unwrap()
        .octets();
    Node::new(1).run(|gateway| {
        let operation = Operation::UpsertNetwork(configured);
        gateway.apply(Owner::Cluster, &[operation]).unwrap();
        let output = run(gateway, POD_A, solicitation(A6, address));
        let (ip, message) = advertisement(&output);
        assert_eq!(ip.src_addr(), own);
        assert_eq!(message, told(address, NdiscNeighborFlags::all()));
        let output = run(gateway, POD_A, solicitation(A6, GATEWAY6));
        assert_eq!(output.fate, Fate::Drop(DropReason::NdTarget));
        for target in [[10, 244, 1, 1], [10, 244, 1, 9]] {
            let output = run(gateway, POD_A, arp_request(MAC_A, A, target));
            assert_eq!(output.fate, Fate::Reply);
            let output = run(gateway, POD_A, echo(MAC_A, A, target));
            assert_eq!(output.fate, Fate::Reply);
        }
        let output = run(gateway, POD_A, echo6(MAC_A, A6, address));
        assert_eq!(output.fate, Fate::Reply);
        // The first of a version speaks of errors.
        let output = run(gateway, POD_A, udp(MAC_A, A, [8; 4], b"x"));
        assert_eq!(output.made[0].1[26..30], [10, 244, 1, 1]);
        let output = run(gateway, POD_A, udp6(MAC_A, A6, STRANGER6, b"x"));
        assert_eq!(output.made[0].1[22..38], address);
    });
}

#[test]
fn the_network_mode_answers_solicitations_for_the_networks_prefixes_except_the_askers_own() {
    let proxied = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::SOLICITED;
    for target in [B6, REMOTE6, NOBODY6, HOST6] {
        let output = proxying().run(|gateway| run(gateway, POD_A, solicitation(A6, target)));
        let (ip, message) = advertisement(&output);
        assert_eq!((ip.src_addr(), ip.dst_addr()), (target.into(), A6.into()));
        // It does not override: the owner's own answer would count more.
        assert_eq!(message, told(target, proxied));
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, solicitation(A6, target)));
        assert_eq!(output.fate, Fate::Drop(DropReason::NdTarget));
    }
    for target in [A6, STRANGER6, LINK_LOCAL6] {
        let output = proxying().run(|gateway| run(gateway, POD_A, solicitation(A6, target)));
        assert_eq!(output.fate, Fate::Drop(DropReason::NdTarget), "{target:?}");
    }
}

#[test]
fn duplicate_address_detection_of_the_askers_own_address_is_never_answered() {
    for node in [Node::new(1), proxying()] {
        for own in [A6, LINK_LOCAL6] {
            node.run(|gateway| {
                let output = run(gateway, POD_A, solicitation(UNSPECIFIED6, own));
                assert_eq!((output.fate, output.made.len()), (Fate::Consume, 0));
            });
        }
        // Who tries to take the gateway's address is told that it is taken.
        let output = node.run(|gateway| run(gateway, POD_A, solicitation(UNSPECIFIED6, GATEWAY6)));
        let (ip, message) = advertisement(&output);
        assert_eq!(ip.dst_addr().octets(), ALL_NODES6);
        assert_eq!(output.bytes[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let unsolicited = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
        assert_eq!(message, told(GATEWAY6, unsolicited));
    }
    let output = proxying().run(|gateway| run(gateway, POD_A, solicitation(UNSPECIFIED6, B6)));
    let (ip, message) = advertisement(&output);
    assert_eq!(ip.dst_addr().octets(), ALL_NODES6);
    assert_eq!(message, told(B6, NdiscNeighborFlags::ROUTER));
}

#[test]
fn advertisements_router_solicitations_and_listener_reports_are_consumed() {
    let report = icmp6(
        MAC_A,
        (LINK_LOCAL6, ALL_NODES6),
        1,
        &[143, 0, 0, 0, 0, 0, 0, 0],
    );
    // A hop-by-hop header with the router alert, as MLD has it.
    let alert = extended(report.clone(), &[(0, &[0, 5, 2, 0, 0, 1, 0])]);
    let frames = [
        neighbor(136, (A6, ALL_NODES6), A6, Some(MAC_A)),
        neighbor(136, (A6, GATEWAY6), A6, None),
        icmp6(
            MAC_A,
            (LINK_LOCAL6, ALL_NODES6),
            255,
            &[133, 0, 0, 0, 0, 0, 0, 0],
        ),
        icmp6(
            MAC_A,
            (UNSPECIFIED6, ALL_NODES6),
            255,
            &[133, 0, 0, 0, 0, 0, 0, 0],
        ),
        report,
        alert,
        icmp6(
            MAC_A,
            (UNSPECIFIED6, ALL_NODES6),
            1,
            &[[131, 0, 0, 0, 0, 0, 0, 0], [0; 8]].concat(),
        ),
    ];
    let flooding = Node {
        options: NetworkOptions::FLOOD,
        ..Node::new(1)
    };
    for node in [Node::new(1), proxying(), flooding] {
        for frame in &frames {
            node.run(|gateway| {
                let output = run(gateway, POD_A, frame.clone());
                assert_eq!((output.fate, output.made.len()), (Fate::Consume, 0));
                // Nothing was learned.
                let output = run(gateway, POD_B, udp6(MAC_B, B6, A6, b"x"));
                assert_eq!(output.bytes[..6], MAC_A);
            });
        }
    }
}

#[test]
fn the_gateway_answers_ping_over_ipv6() {
    for (port, mac, src) in [(POD_A, MAC_A, A6), (HOST, HOST_MAC, HOST6)] {
        for len in [0, 1, 56, 1391] {
            for hop_limit in [1, 64, 255] {
                let message = [&[128, 0, 0, 0, 0, 7, 0, 9][..], &vec![0x5a; len]].concat();
                let frame = icmp6(mac, (src, GATEWAY6), hop_limit, &message);
                for input in [Input::from(frame.clone()), unfinished(frame.clone())] {
                    let output = Node::new(1).run(|gateway| run(gateway, port, input));
                    assert_eq!(
                        (output.fate, output.checksum),
                        (Fate::Reply, Checksum::None)
                    );
                    let mut reply = message.clone();
                    reply[0] = 129;
                    let mut expected = icmp6(GATEWAY_MAC, (GATEWAY6, src), 64, &reply);
                    expected[..6].copy_from_slice(&mac);
                    assert_eq!(output.bytes, expected);
                }
            }
        }
    }
}

/// Marks that fit no ping are not handed on to the device with the answer.
#[test]
fn echo_replies_are_no_super_frames() {
    for frame in [echo(MAC_A, A, GATEWAY), echo6(MAC_A, A6, GATEWAY6)] {
        let start = if frame[12] == 8 { 34 } else { 54 };
        let mut raw = frame;
        raw[start + 2..start + 4].fill(0);
        let plain = match start {
            34 => Input {
                bytes: raw,
                checksum: Checksum::Partial {
                    start: 34,
                    offset: 2,
                },
                ..Input::default()
            },
            _ => unfinished(raw),
        };
        let marked = Input {
            segmentation: Segmentation::Udp { size: 8 },
            ..plain
        };
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, marked));
        assert_eq!(output.fate, Fate::Reply);
        assert_eq!(
            (output.segmentation, output.checksum),
            (Segmentation::None, Checksum::None)
        );
        verified(&output.bytes);
    }
}

#[test]
fn what_is_no_echo_request_to_the_gateway_is_refused() {
    let kind = |kind| icmp6(MAC_A, (A6, GATEWAY6), 64, &[kind, 0, 0, 0, 0, 7, 0, 9]);
    // Echo reply, packet too big, node information query.
    for frame in [kind(129), kind(2), kind(139)] {
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(output.fate, Fate::Drop(DropReason::GatewayProtocol));
        assert!(
            output.made.is_empty(),
            "no error about ICMP of unknown kind"
        );
    }
    let fragment = extended(kind(128), &[(44, &fragment6(0, true))]);
    let output = Node::new(1).run(|gateway| run(gateway, POD_A, fragment));
    assert_eq!(output.fate, Fate::Drop(DropReason::GatewayProtocol));
    // Where the unknown protocol is named, behind two extension headers.
    let options: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let named = packet6(MAC_A, (A6, GATEWAY6), (132, 64), &[0; 12]);
    let named = extended(named, &[(60, options), (60, options)]);
    let output = Node::new(1).run(|gateway| run(gateway, POD_A, named));
    let error = &output.made[0].1;
    assert_eq!(
        (&error[54..56], &error[58..62]),
        (&[4, 1][..], &[0, 0, 0, 48][..])
    );
    verified(error);
}
