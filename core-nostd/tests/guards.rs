//! What pods and peers try to get past the guards, above all with IPv6 extension
//! headers and fragments; and how often the gateway answers.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

fn over_v6() -> Node {
    Node {
        underlay: Family::V6,
        ..Node::new(1)
    }
}

const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];

/// Chains of extension headers that a packet may have in front of its upper layer.
fn chains() -> Vec<Vec<(u8, Vec<u8>)>> {
    let options = |kind: u8| (kind, OPTIONS.to_vec());
    let fragment = |offset, more| (44, fragment6(offset, more).to_vec());
    let segments_done = (43, vec![0, 4, 0, 0, 0, 0, 0]);
    let authentication = (
        51,
        [4, 0, 0].into_iter().chain([0; 20]).collect::<Vec<u8>>(),
    );
    vec![
        vec![],
        vec![options(60)],
        vec![options(0)],
        vec![options(0), options(60), segments_done.clone(), options(60)],
        vec![authentication],
        // Atomic and first fragments, also one within the other.
        vec![fragment(0, false)],
        vec![fragment(0, true)],
        vec![fragment(0, true), options(60)],
        vec![fragment(0, false), fragment(0, true)],
        vec![fragment(0, true), fragment(0, false)],
        vec![options(60); 8],
    ]
}

fn behind(frame: Vec<u8>, chain: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let chain: Vec<_> = chain
        .iter()
        .map(|(kind, rest)| (*kind, &rest[..]))
        .collect();
    extended(frame, &chain)
}

#[test]
fn no_extension_header_hides_a_tunnel_packet_of_a_pods_own() {
    for chain in chains() {
        for node in [NODE6_1, NODE6_2] {
            let tunnels = [
                udp6_ports(MAC_A, A6, node, (9, 8472), &[0; 40]),
                packet6(MAC_A, (A6, node), (4, 64), &[0x45; 40]),
                packet6(MAC_A, (A6, node), (41, 64), &[0x60; 40]),
            ];
            for frame in tunnels {
                let frame = behind(frame, &chain);
                let output = over_v6().run(|gateway| run(gateway, POD_A, frame));
                assert_eq!(
                    output.fate,
                    Fate::Drop(DropReason::TunnelSpoof),
                    "{chain:?}"
                );
            }
            // Other ports and protocols are the pod's business.
            for frame in [
                udp6_ports(MAC_A, A6, node, (8472, 53), &[0; 40]),
                tcp6(MAC_A, A6, node, b"x"),
            ] {
                let frame = behind(frame, &chain);
                let output = over_v6().run(|gateway| run(gateway, POD_A, frame));
                assert!(matches!(output.fate, Fate::Forward(_)), "{:?}", output.fate);
            }
        }
        // And so are tunnels to somebody who is no node.
        let frame = behind(udp6_ports(MAC_A, A6, REMOTE6, (9, 8472), &[0; 40]), &chain);
        let output = over_v6().run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(output.fate, Fate::Forward(UNDERLAY));
    }
}

#[test]
fn first_fragments_too_short_for_their_ports_are_taken_for_tunnel_packets() {
    for len in 0..4 {
        let frame = packet6(MAC_A, (A6, NODE6_2), (17, 64), &[0; 8][..len]);
        let frame = extended(frame, &[(44, &fragment6(0, true))]);
        let output = over_v6().run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(
            output.fate,
            Fate::Drop(DropReason::TunnelSpoof),
            "{len} bytes"
        );
    }
    let mut short = udp(MAC_A, A, NODE_2, b"");
    short.truncate(37);
    short[17] = 23;
    edit_ip(&mut short, |header| header.more_fragments = true);
    let output = Node::new(1).run(|gateway| run(gateway, POD_A, short));
    assert_eq!(output.fate, Fate::Drop(DropReason::TunnelSpoof));
}

#[test]
fn later_fragments_of_the_tunnels_protocols_are_stopped_too() {
    for protocol in [4, 41] {
        let frame = packet6(MAC_A, (A6, NODE6_2), (protocol, 64), &[0; 40]);
        let frame = extended(frame, &[(44, &fragment6(5, false))]);
        let output = over_v6().run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(output.fate, Fate::Drop(DropReason::TunnelSpoof));
    }
    // Of UDP they are nothing without their first.
    let frame = udp6_ports(MAC_A, A6, NODE6_2, (9, 8472), &[0; 40]);
    let frame = extended(frame, &[(44, &fragment6(5, false))]);
    let output = over_v6().run(|gateway| run(gateway, POD_A, frame));
    assert_eq!(output.fate, Fate::Forward(UNDERLAY));
}

#[test]
fn no_chain_of_extension_headers_carries_a_source_route() {
    for (kind, left) in [(0, 0), (0, 1), (2, 1), (3, 9), (4, 1), (253, 255)] {
        let route = (43, vec![0, kind, left, 0, 0, 0, 0]);
        for mut chain in chains().into_iter().filter(|chain| chain.len() < 8) {
            let done = (43, vec![0, 4, 0, 0, 0, 0, 0]);
            chain.push(route.clone());
            for last in [None, Some(done)] {
                chain.extend(last);
                let frame = behind(udp6(MAC_A, A6, REMOTE6, b"x"), &chain);
                let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame));
                let reason = DropReason::SourceRoute;
                assert_eq!(output.fate, Fate::Drop(reason), "{chain:?}");
            }
        }
    }
}

#[test]
fn extension_headers_are_walked_within_a_bound_and_the_packet() {
    let ninth = behind(udp6(MAC_A, A6, B6, b"x"), &vec![(60, OPTIONS.to_vec()); 9]);
    let output = Node::new(1).run(|gateway| run(gateway, POD_A, ninth));
    assert_eq!(output.fate, Fate::Drop(DropReason::Ipv6Extension));
    let eighth = behind(udp6(MAC_A, A6, B6, b"x"), &vec![(60, OPTIONS.to_vec()); 8]);
    let output = Node::new(1).run(|gateway| run(gateway, POD_A, eighth.clone()));
    assert_eq!(output.fate, Fate::Forward(POD_B));
    // Cut anywhere within the chain, nothing is behind it.
    for len in 55..54 + 64 {
        let mut cut = eighth[..len].to_vec();
        cut[18..20].copy_from_slice(&u16::try_from(len - 54).unwrap().to_be_bytes());
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, cut));
        assert_eq!(output.fate, Fate::Drop(DropReason::Ipv6Extension), "{len}");
    }
}

/// A prefix as wide as the world lends neither the gateway's address nor one that
/// no host has off its link.
#[test]
fn wide_ipv6_prefixes_lend_nobody_the_gateways_address() {
    let global = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap();
    let own = "fd00:244:1::1".parse::<std::net::Ipv6Addr>().unwrap();
    let loopback = std::net::Ipv6Addr::LOCALHOST;
    let link_local = [GATEWAY6, LINK_LOCAL6, UNSPECIFIED6];
    let nobodys = [own.octets(), loopback.octets(), ALL_NODES6];
    Node::new(1).run(|gateway| {
        let mut port = Node::new(1).pod(POD_A, 2);
        if let PortKind::Endpoint(endpoint) = &mut port.kind {
            endpoint.allowed = list(&[prefix("::/0")]);
        }
        gateway
            .apply(Owner::Attachment, &[Operation::UpsertPort(port)])
            .unwrap();
        let network = Network {
            gateways: list(&[ip("169.254.1.1"), ip("fe80::1"), own.into()]),
            ..Node::new(1).network()
        };
        let operations = [Operation::UpsertNetwork(network), route("::/0", TO_PEER)];
        gateway.apply(Owner::Cluster, &operations).unwrap();
        let from_pod =
            |gateway: &mut Gateway<'_>, src| run(gateway, POD_A, udp6(MAC_A, src, B6, b"x")).fate;
        let from_peer = |gateway: &mut Gateway<'_>, src| {
            let inner = from_vtep(udp6(VTEP_2, src, A6, b"x"));
            run(gateway, UNDERLAY, vxlan(&inner, 1)).fate
        };
        for src in link_local {
            assert_eq!(
                from_pod(gateway, src),
                Fate::Drop(DropReason::LinkLocalSource)
            );
            assert_eq!(from_peer(gateway, src), Fate::Drop(DropReason::PeerGuard));
        }
        for src in nobodys {
            assert_eq!(
                from_pod(gateway, src),
                Fate::Drop(DropReason::SourceIp),
                "{src:?}"
            );
            assert_eq!(
                from_peer(gateway, src),
                Fate::Drop(DropReason::PeerGuard),
                "{src:?}"
            );
        }
        assert_eq!(from_pod(gateway, global.octets()), Fate::Forward(POD_B));
        assert_eq!(from_peer(gateway, global.octets()), Fate::Forward(POD_A));
    });
}

#[test]
fn the_peer_guard_believes_routes_and_node_addresses_only() {
    for node in [Node::new(1), over_v6()] {
        for (encap, accepts) in [(Encap::Vxlan, 1), (Encap::Ipip, 2)] {
            let node = Node { encap, ..node };
            let arrive = |from: u8, src: [u8; 16]| {
                let mut inner = udp6(VTEP_2, src, A6, b"x");
                inner[..6].copy_from_slice(&node.vtep_of(1));
                let mut input = if accepts == 1 {
                    vxlan(&inner, 1)
                } else {
                    ipip(&inner)
                };
                input.outer.as_mut().unwrap().src = node.address_of(from);
                node.run(|gateway| run(gateway, UNDERLAY, input)).fate
            };
            assert_eq!(arrive(2, REMOTE6), Fate::Forward(POD_A));
            assert_eq!(arrive(3, REMOTE6_3), Fate::Forward(POD_A));
            if node.underlay == Family::V6 {
                assert_eq!(arrive(2, NODE6_2), Fate::Forward(POD_A), "the node itself");
            }
            let guard = Fate::Drop(DropReason::PeerGuard);
            // Each other's pods, ours, our host, our node.
            for (from, src) in [
                (3, REMOTE6),
                (2, REMOTE6_3),
                (2, A6),
                (2, HOST6),
                (2, NODE6_1),
            ] {
                assert_eq!(arrive(from, src), guard, "{src:?} from {from}");
            }
        }
    }
}

#[test]
fn link_local_sources_stay_on_the_link() {
    let frames = [
        udp6(MAC_A, LINK_LOCAL6, A6, b"x"),
        echo6(MAC_A, LINK_LOCAL6, GATEWAY6),
        tcp6(MAC_A, LINK_LOCAL6, REMOTE6, b"x"),
        udp6(MAC_A, LINK_LOCAL6, ALL_NODES6, b"x"),
        echo6(MAC_A, UNSPECIFIED6, ALL_NODES6),
    ];
    let flooding = Node {
        options: NetworkOptions::FLOOD,
        ..Node::new(1)
    };
    for node in [Node::new(1), flooding] {
        for frame in &frames {
            for port in [POD_A, HOST] {
                let output = node.run(|gateway| run(gateway, port, frame.clone()));
                assert_eq!(output.fate, Fate::Drop(DropReason::LinkLocalSource));
            }
        }
    }
    // Nor does anything go there.
    let output =
        Node::new(1).run(|gateway| run(gateway, POD_A, udp6(MAC_A, A6, LINK_LOCAL6, b"x")));
    assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
}

/// However wide a route is: behind the host's own loopback may be what it tells
/// to nobody else (CVE-2020-8558).
#[test]
fn no_route_leads_to_a_loopback_or_off_a_link() {
    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let v4 = [[127, 0, 0, 1], [127, 255, 0, 9], [0, 0, 0, 1]];
    let v6 = [v6("::1"), v6("::"), v6("fe80::9"), v6("febf::9")];
    let (pod, vtep) = ((MAC_A, A, A6), (VTEP_2, REMOTE, REMOTE6));
    let to_all = |(mac, src, src6)| {
        let v4 = v4.map(|dst| udp(mac, src, dst, b"x"));
        let v6 = v6.map(|dst| udp6(mac, src6, dst, b"x"));
        v4.into_iter().chain(v6)
    };
    for next_hop in [NextHop::Host, TO_PEER, NextHop::Endpoint(POD_B)] {
        Node::new(1).run(|gateway| {
            let wide = [route("0.0.0.0/0", next_hop), route("::/0", next_hop)];
            gateway.apply(Owner::Cluster, &wide).unwrap();
            for frame in to_all(pod) {
                let output = run(gateway, POD_A, frame);
                assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
                assert_eq!(output.made.len(), 1);
            }
            for frame in to_all(vtep) {
                let output = run(gateway, UNDERLAY, vxlan(&from_vtep(frame), 1));
                assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
            }
            // Everybody else is there.
            for frame in [
                udp(MAC_A, A, [8; 4], b"x"),
                udp6(MAC_A, A6, STRANGER6, b"x"),
            ] {
                assert!(matches!(run(gateway, POD_A, frame).fate, Fate::Forward(_)));
            }
        });
    }
}

#[test]
fn dhcp_is_refused_where_it_asks_and_nowhere_else() {
    let v4 = |src, ports| udp_ports(MAC_A, src, [255; 4], ports, &[1; 240]);
    let v6 = |src, ports| udp6_ports(MAC_A, src, ALL_NODES6, ports, &[1; 40]);
    let cases = [
        (v4([0; 4], (68, 67)), DropReason::Dhcp),
        (v6(LINK_LOCAL6, (546, 547)), DropReason::Dhcp),
        (v6(UNSPECIFIED6, (546, 547)), DropReason::Dhcp),
        (v4([0; 4], (68, 53)), DropReason::SourceIp),
        (v6(LINK_LOCAL6, (546, 5353)), DropReason::LinkLocalSource),
        (v4(A, (68, 67)), DropReason::DestinationGroup),
    ];
    for (frame, reason) in cases {
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(output.fate, Fate::Drop(reason));
    }
    // A server that is a pod is a pod.
    let output =
        Node::new(1).run(|gateway| run(gateway, POD_A, udp_ports(MAC_A, A, B, (68, 67), b"x")));
    assert_eq!(output.fate, Fate::Forward(POD_B));
}

#[test]
fn icmp_errors_are_rate_limited_for_each_port_of_its_own() {
    let frames = |mac, src, src6| {
        [
            udp(mac, src, [8; 4], b"x"),
            udp6(mac, src6, STRANGER6, b"x"),
        ]
    };
    Node::new(1).run(|gateway| {
        let mut answered = |port, now, [v4, v6]: [Vec<u8>; 2]| {
            let now = Instant::from_micros(now);
            let frames = [v4, v6].into_iter().cycle().take(200);
            frames
                .filter(|frame| !run_at(gateway, now, port, frame.clone()).made.is_empty())
                .count()
        };
        let second = 1_000_000;
        assert_eq!(answered(POD_A, second, frames(MAC_A, A, A6)), 50);
        assert_eq!(answered(POD_A, second, frames(MAC_A, A, A6)), 0);
        // Another port has its own.
        assert_eq!(answered(POD_B, second, frames(MAC_B, B, B6)), 50);
        assert_eq!(answered(HOST, second, frames(HOST_MAC, NODE_1, HOST6)), 50);
        assert_eq!(answered(POD_A, second + 10_000, frames(MAC_A, A, A6)), 10);
        assert_eq!(answered(POD_A, 2 * second, frames(MAC_A, A, A6)), 50);
    });
}

#[test]
fn no_icmpv6_error_about_errors_discovery_and_groups() {
    let to = |message: &[u8]| icmp6(MAC_A, (A6, STRANGER6), 64, message);
    let mut fragment = to(&[128, 0, 0, 0, 0, 0, 0, 0]);
    fragment = extended(fragment, &[(44, &fragment6(5, false))]);
    for frame in [
        to(&[1, 0, 0, 0, 0, 0, 0, 0]),
        to(&[127, 0, 0, 0, 0, 0, 0, 0]),
        fragment,
    ] {
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
        assert!(output.made.is_empty());
    }
    // A question and an unknown informational message get theirs.
    for kind in [128, 255] {
        let frame = to(&[kind, 0, 0, 0, 0, 0, 0, 0]);
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame));
        assert_eq!(output.made.len(), 1);
    }
}
