//! Outer source ports: flows spread, each keeps its own, and fragments share.

mod common;

use std::collections::{HashMap, HashSet};

use common::*;

/// Chi-square of the counts against all buckets being equally likely.
fn chi_square(ports: impl Iterator<Item = u16>, buckets: u16) -> f64 {
    let mut counts = vec![0u32; usize::from(buckets)];
    for port in ports {
        counts[usize::from(port % buckets)] += 1;
    }
    let total: u32 = counts.iter().sum();
    let expected = f64::from(total) / f64::from(buckets);
    let squares = counts
        .iter()
        .map(|n| (f64::from(*n) - expected).powi(2) / expected);
    squares.sum()
}

/// Checks that ports spread by their low and high bits: queues are chosen by either.
/// A hash without any structure exceeds these limits a few times in a billion.
fn assert_spread(name: &str, ports: &[u16]) {
    assert!(ports.iter().all(|port| *port >= 49_152));
    let low = chi_square(ports.iter().copied(), 64);
    let high = chi_square(ports.iter().map(|port| (port - 49_152) >> 8), 64);
    assert!(low < 150.0 && high < 150.0, "{name}: {low} {high}");
}

fn with(mut address: [u8; 16], at: usize, n: u16) -> [u8; 16] {
    address[at..at + 2].copy_from_slice(&n.to_be_bytes());
    address
}

#[test]
fn ipv6_flows_spread_over_source_ports_and_each_keeps_its_own() {
    type Flow = fn(u16) -> ([u8; 16], (u16, u16));
    let kinds: [(&str, Flow); 5] = [
        ("source port", |n| (REMOTE6, (n, 80))),
        ("destination port", |n| (REMOTE6, (9, 20_000 + n))),
        ("low address bits", |n| (with(REMOTE6, 14, n), (9, 80))),
        ("middle address bits", |n| (with(REMOTE6, 8, n), (9, 80))),
        ("both ports", |n| (REMOTE6, (n, n))),
    ];
    Node::new(1).run(|gateway| {
        for (name, flow) in kinds {
            let mut port_of = |n: u16, payload: &[u8]| {
                let (dst, ports) = flow(n);
                let frame = udp6_ports(MAC_A, A6, dst, ports, payload);
                source_port(&run(gateway, POD_A, frame))
            };
            let ports: Vec<_> = (0..4096).map(|n| port_of(n, b"x")).collect();
            for n in [0, 77, 4095u16] {
                assert_eq!(port_of(n, &[3; 700]), ports[usize::from(n)], "{name}");
            }
            assert_spread(name, &ports);
        }
    });
}

#[test]
fn neither_hop_limit_nor_label_nor_options_move_a_flow() {
    Node::new(1).run(|gateway| {
        let mut frame = udp6(MAC_A, A6, REMOTE6, b"x");
        let plain = source_port(&run(gateway, POD_A, frame.clone()));
        edit_ip6(&mut frame, |header| {
            header.hop_limit = 9;
            header.traffic_class = 0xb8;
            header.flow_label = etherparse::Ipv6FlowLabel::try_new(7).unwrap();
        });
        let frame = extended(frame, &[(60, &[0, 1, 4, 0, 0, 0, 0])]);
        assert_eq!(source_port(&run(gateway, POD_A, frame)), plain);
    });
}

/// Extension headers behind the fragment header are in the first fragment only,
/// and what the later ones name as their protocol counts for nothing (RFC 8200
/// section 4.5).
#[test]
fn all_fragments_of_an_ipv6_packet_share_a_source_port() {
    let options: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let whole = udp6_ports(MAC_A, A6, REMOTE6, (5, 6), &[7; 64]);
    let part = |offset, more| fragment6(offset, more).to_vec();
    let first = extended(whole.clone(), &[(44, &part(0, true)), (60, options)]);
    let mut later = extended(whole.clone(), &[(44, &part(9, true))]);
    // It names what the first begins with.
    later[54] = 60;
    let last = extended(whole.clone(), &[(44, &part(18, false))]);
    let behind = extended(whole.clone(), &[(60, options), (44, &part(18, false))]);
    Node::new(1).run(|gateway| {
        let fragments = [first, later, last, behind];
        let ports: HashSet<_> = fragments
            .map(|frame| source_port(&run(gateway, POD_A, frame)))
            .into_iter()
            .collect();
        assert_eq!(ports.len(), 1, "{ports:?}");
        // An atomic fragment is a whole packet (RFC 6946).
        let atomic = extended(whole.clone(), &[(44, &part(0, false))]);
        let plain = source_port(&run(gateway, POD_A, whole));
        assert_eq!(source_port(&run(gateway, POD_A, atomic)), plain);
        assert!(!ports.contains(&plain));
        // Addresses still tell fragments apart.
        let mut other = extended(
            udp6(MAC_A, A6, with(REMOTE6, 14, 9), b"x"),
            &[(44, &part(9, true))],
        );
        other[54] = 60;
        assert!(!ports.contains(&source_port(&run(gateway, POD_A, other))));
    });
}

#[test]
fn flows_spread_over_source_ports_and_each_keeps_its_own() {
    Node::new(1).run(|gateway| {
        type Flow = fn(u16) -> ([u8; 4], (u16, u16));
        let kinds: [(&str, Flow); 4] = [
            ("source port", |n| (REMOTE, (n, 80))),
            ("destination port", |n| (REMOTE, (9, 20_000 + n))),
            ("destination address", |n| {
                ([10, 244, 2, n.to_be_bytes()[1]], (n & 0xff00, 80))
            }),
            ("both ports", |n| (REMOTE, (n, n))),
        ];
        for (name, flow) in kinds {
            let mut port_of = |n: u16, payload: &[u8]| {
                let (dst, ports) = flow(n);
                source_port(&run(
                    gateway,
                    POD_A,
                    udp_ports(MAC_A, A, dst, ports, payload),
                ))
            };
            let ports: Vec<_> = (0..4096).map(|n| port_of(n, b"x")).collect();
            for n in [0, 77, 4095u16] {
                assert_eq!(port_of(n, &[3; 700]), ports[usize::from(n)], "{name}");
            }
            assert_spread(name, &ports);
        }
    });
}

#[test]
fn all_fragments_of_a_packet_share_a_source_port() {
    Node::new(1).run(|gateway| {
        let whole = udp_ports(MAC_A, A, REMOTE, (5, 6), &[7; 64]);
        let mut ports = HashMap::new();
        for (offset, more) in [(0, true), (1, true), (4, false), (8000, false)] {
            for payload in [0u8, 9] {
                let mut fragment = whole.clone();
                // What stands where the ports would be differs between fragments.
                fragment[34..38].fill(payload);
                edit_ip(&mut fragment, |header| {
                    header.more_fragments = more;
                    header.fragment_offset = etherparse::IpFragOffset::try_new(offset).unwrap();
                });
                let output = run(gateway, POD_A, fragment);
                *ports.entry(source_port(&output)).or_insert(0) += 1;
            }
        }
        assert_eq!(ports.len(), 1, "{ports:?}");
        let plain = source_port(&run(gateway, POD_A, whole));
        assert!(!ports.contains_key(&plain));
    });
}
