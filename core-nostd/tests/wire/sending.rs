//! Outer headers that the core writes.

use std::collections::HashSet;

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::{NetHeaders, TransportHeader};

use crate::node::*;

const BOTH: [bool; 2] = [false, true];

/// Source and destination address, TTL, traffic class and protocol of the outer
/// header.
fn outer_ip(frame: &[u8]) -> (Vec<u8>, Vec<u8>, u8, u8, u8) {
    match verified(frame).net.unwrap() {
        NetHeaders::Ipv4(ip, _) => (
            ip.source.to_vec(),
            ip.destination.to_vec(),
            ip.time_to_live,
            ip.dscp.value() << 2 | ip.ecn.value(),
            ip.protocol.0,
        ),
        NetHeaders::Ipv6(ip, _) => (
            ip.source.to_vec(),
            ip.destination.to_vec(),
            ip.hop_limit,
            ip.traffic_class,
            ip.next_header.0,
        ),
        other => panic!("{other:?}"),
    }
}

fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The frame with this traffic class in its (inner) IP header.
fn with_tos(mut frame: Vec<u8>, tos: u8) -> Vec<u8> {
    match frame[12] {
        8 => {
            frame[15] = tos;
            frame[24..26].fill(0);
            let header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
            frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        }
        _ => {
            frame[14] = 0x60 | tos >> 4;
            frame[15] = tos << 4;
        }
    }
    frame
}

#[test]
fn vxlan_has_all_headers_that_a_receiver_checks() {
    for v6 in BOTH {
        for inner_v6 in BOTH {
            for len in [0, 1, 2, 1300] {
                let setup = Setup::new(1, v6, Encap::Vxlan);
                on_known(setup, |gateway| {
                    let sent = with_tos(udp(inner_v6, 2, &vec![7; len]), 0xba);
                    let output = run(gateway, 1, POD, sent.clone());
                    assert_eq!(output.fate, Fate::Forward(WIRE));
                    let packet = verified(&output.bytes);
                    let ethernet = packet.link.unwrap().ethernet2().unwrap();
                    assert_eq!((ethernet.source, ethernet.destination), (mac(1), mac(2)));
                    let (from, to) = (octets(node(v6, 1)), octets(node(v6, 2)));
                    assert_eq!(outer_ip(&output.bytes), (from, to, 64, 0xba, 17));
                    let Some(TransportHeader::Udp(udp)) = packet.transport else {
                        panic!("not UDP")
                    };
                    assert_ne!(udp.checksum, 0);
                    assert_eq!(udp.destination_port, UDP_PORT);
                    assert!(udp.source_port >= 49_152);
                    let payload = packet.payload.slice();
                    assert_eq!(payload[..8], [8, 0, 0, 0, 0, 0x10, 0, 0]);
                    // Only MACs, TTL and header checksum of the packet have changed.
                    let inner = &payload[8..];
                    assert_eq!(inner.len(), sent.len());
                    verified(inner);
                    assert_eq!(inner[40..], sent[40..]);
                });
            }
        }
    }
}

#[test]
fn outer_ipv4_headers_are_atomic_unless_they_may_be_fragmented() {
    let header = |bytes: &[u8]| match verified(bytes).net.unwrap() {
        NetHeaders::Ipv4(ip, _) => ip,
        other => panic!("{other:?}"),
    };
    for encap in [Encap::Vxlan, Encap::Ipip] {
        let setup = Setup::new(1, false, encap);
        on_known(setup, |gateway| {
            let ip = header(&run(gateway, 1, POD, udp(false, 2, b"x")).bytes);
            assert!(ip.dont_fragment && ip.identification == 0);
        });
        let options = NetworkOptions::OUTER_MAY_FRAGMENT;
        on_known(Setup { options, ..setup }, |gateway| {
            let mut seen = HashSet::new();
            for _ in 0..65_000 {
                let ip = header(&run(gateway, 1, POD, udp(false, 2, b"x")).bytes);
                assert!(!ip.dont_fragment && !ip.more_fragments);
                assert!(seen.insert(ip.identification), "it came again");
            }
        });
    }
}

#[test]
fn a_zero_checksum_is_sent_where_it_is_wanted() {
    for v6 in BOTH {
        let options = NetworkOptions::ZERO_UDP_CHECKSUM;
        let setup = Setup::new(1, v6, Encap::Vxlan);
        on_known(Setup { options, ..setup }, |gateway| {
            let output = run(gateway, 1, POD, udp(false, 2, b"x"));
            let Some(TransportHeader::Udp(udp)) = verified(&output.bytes).transport else {
                panic!("not UDP")
            };
            assert_eq!(udp.checksum, 0);
        });
    }
}

#[test]
fn ip_in_ip_adds_one_header() {
    for v6 in BOTH {
        for inner_v6 in BOTH {
            on_known(Setup::new(1, v6, Encap::Ipip), |gateway| {
                let sent = udp(inner_v6, 2, b"in ip");
                let output = run(gateway, 1, POD, sent.clone());
                assert_eq!(output.fate, Fate::Forward(WIRE));
                let protocol = if inner_v6 { 41 } else { 4 };
                let (from, to) = (octets(node(v6, 1)), octets(node(v6, 2)));
                assert_eq!(outer_ip(&output.bytes), (from, to, 64, 0, protocol));
                let outer = if v6 { 54 } else { 34 };
                assert_eq!(output.bytes.len(), outer + sent.len() - 14);
                assert_eq!(output.bytes[outer + 20..], sent[34..]);
            });
        }
    }
}

#[test]
fn without_a_tunnel_a_packet_goes_to_the_peers_mac_address() {
    for v6 in BOTH {
        for inner_v6 in BOTH {
            on_known(Setup::new(1, v6, Encap::Direct), |gateway| {
                let sent = udp(inner_v6, 2, b"direct");
                let output = run(gateway, 1, POD, sent.clone());
                assert_eq!(output.fate, Fate::Forward(WIRE));
                assert_eq!(output.bytes[..12], [mac(2), mac(1)].concat());
                assert_eq!(outer_ip(&output.bytes).2, 63);
                assert_eq!(output.bytes[26..], sent[26..]);
            });
        }
    }
}

#[test]
fn flow_labels_follow_the_inner_flow() {
    for encap in [Encap::Vxlan, Encap::Ipip] {
        on_known(Setup::new(1, true, encap), |gateway| {
            let mut label = |inner_v6, port, payload: &[u8]| {
                let addresses = (pod(inner_v6, 1), pod(inner_v6, 2));
                let macs = (pod_mac(1), GATEWAY_MAC);
                let sent = ip_frame(macs, addresses, (port, 80), payload);
                match verified(&run(gateway, 1, POD, sent).bytes).net.unwrap() {
                    NetHeaders::Ipv6(ip, _) => ip.flow_label.value(),
                    other => panic!("{other:?}"),
                }
            };
            for inner_v6 in BOTH {
                let labels: HashSet<_> = (0..512).map(|n| label(inner_v6, n, b"x")).collect();
                // Some share one: of VXLAN there are 2^14.
                assert!(labels.len() > 480, "{encap}: {}", labels.len());
                assert_eq!(label(inner_v6, 7, b"x"), label(inner_v6, 7, &[1; 900]));
            }
        });
    }
}

#[test]
fn a_checksum_of_zero_is_sent_as_ones() {
    for v6 in BOTH {
        on_known(Setup::new(1, v6, Encap::Vxlan), |gateway| {
            let at = if v6 { 60 } else { 40 };
            let mut send = |word: [u8; 2]| {
                let mut packet = udp(false, 2, &word);
                // Without one of its own, so that the payload counts.
                packet[40..42].fill(0);
                let bytes = run(gateway, 1, POD, packet).bytes;
                verified(&bytes);
                [bytes[at], bytes[at + 1]]
            };
            // The payload is what makes the sum come out as zero (RFC 768).
            let checksum = send([0, 0]);
            assert_eq!(send(checksum), [0xff, 0xff]);
        });
    }
}

/// Puts the pseudo-header's sum into the checksum field, as a kernel with
/// checksum offload does.
fn unfinished(mut frame: Vec<u8>, (offset, protocol): (u16, u8)) -> Input {
    let start = if frame[12] == 8 { 34 } else { 54 };
    let addresses = if start == 34 { 26..34 } else { 22..54 };
    let len = u16::try_from(frame.len() - start).unwrap();
    let sum = etherparse::checksum::Sum16BitWords::new()
        .add_slice(&frame[addresses])
        .add_2bytes([0, protocol])
        .add_2bytes(len.to_be_bytes())
        .ones_complement()
        .to_be();
    let field = start + usize::from(offset);
    frame[field..field + 2].copy_from_slice(&(!sum).to_be_bytes());
    Input {
        bytes: frame,
        checksum: Checksum::Partial {
            start: start.try_into().unwrap(),
            offset,
        },
        ..Input::default()
    }
}

#[test]
fn the_outer_checksum_is_right_once_the_device_has_finished_the_inner_one() {
    for v6 in BOTH {
        for inner_v6 in BOTH {
            for len in [0, 1, 5, 1000] {
                let offloads = Offloads::TUNNEL_CHECKSUM;
                let setup = Setup::new(1, v6, Encap::Vxlan);
                on_known(Setup { offloads, ..setup }, |gateway| {
                    let sent = udp(inner_v6, 2, &vec![0x3c; len]);
                    let output = run(gateway, 1, POD, unfinished(sent, (6, 17)));
                    let Checksum::Partial { start, offset } = output.checksum else {
                        panic!("{:?}", output.checksum)
                    };
                    // What the device does.
                    let mut bytes = output.bytes;
                    let start = usize::from(start);
                    let sum = etherparse::checksum::Sum16BitWords::new()
                        .add_slice(&bytes[start..])
                        .ones_complement();
                    let field = start + usize::from(offset);
                    bytes[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
                    let outer = verified(&bytes);
                    verified(&outer.payload.slice()[8..]);
                });
            }
        }
    }
}

#[test]
fn a_device_that_can_is_left_the_outer_checksum_of_a_finished_packet() {
    for v6 in BOTH {
        for unfinished_before in BOTH {
            let setup = Setup::new(1, v6, Encap::Vxlan);
            let offloads = Offloads::OUTER_CHECKSUM;
            let sent = udp(false, 2, &[0x3c; 777]);
            let sent = || match unfinished_before {
                true => unfinished(sent.clone(), (6, 17)),
                false => Input {
                    bytes: sent.clone(),
                    ..Input::default()
                },
            };
            let mut finished = Vec::new();
            on_known(setup, |gateway| {
                let output = run(gateway, 1, POD, sent());
                assert_eq!(output.checksum, Checksum::None);
                finished = output.bytes;
            });
            on_known(Setup { offloads, ..setup }, |gateway| {
                let output = run(gateway, 1, POD, sent());
                let start = 14 + if v6 { 40 } else { 20 };
                let partial = Checksum::Partial {
                    start: start.try_into().unwrap(),
                    offset: 6,
                };
                assert_eq!(output.checksum, partial);
                let mut bytes = output.bytes;
                assert_ne!(bytes, finished);
                // What the device does.
                let sum = etherparse::checksum::Sum16BitWords::new()
                    .add_slice(&bytes[start..])
                    .ones_complement();
                bytes[start + 6..start + 8].copy_from_slice(&sum.to_ne_bytes());
                assert_eq!(bytes, finished);
            });
        }
    }
}

#[test]
fn super_frames_get_the_headers_of_the_whole() {
    for v6 in BOTH {
        let offloads = Offloads::TUNNEL_CHECKSUM;
        let setup = Setup::new(1, v6, Encap::Vxlan);
        on_known(Setup { offloads, ..setup }, |gateway| {
            let builder = etherparse::PacketBuilder::ethernet2(pod_mac(1), GATEWAY_MAC)
                .ipv4(v4(pod(false, 1)), v4(pod(false, 2)), 64)
                .tcp(5, 6, 7, 8);
            let mut bytes = Vec::new();
            builder.write(&mut bytes, &[9; 20_000]).unwrap();
            let sent = Input {
                segmentation: Segmentation::TcpV4 { size: 1300 },
                ..unfinished(bytes.clone(), (16, 6))
            };
            let output = run(gateway, 1, POD, sent);
            assert_eq!(output.fate, Fate::Forward(WIRE));
            assert_eq!(output.segmentation, Segmentation::TcpV4 { size: 1300 });
            let headers = if v6 { 70 } else { 50 };
            assert_eq!(output.bytes.len(), bytes.len() + headers);
            let udp = 14 + if v6 { 40 } else { 20 };
            let word = |at: usize| u16::from_be_bytes([output.bytes[at], output.bytes[at + 1]]);
            assert_eq!(usize::from(word(udp + 4)), output.bytes.len() - udp);
            assert_ne!(word(udp + 6), 0, "a checksum is wanted");
            let total = if v6 { word(18) + 40 } else { word(16) };
            assert_eq!(usize::from(total), output.bytes.len() - 14);
        });
        // One that is too long for headers in front of it.
        on_known(Setup { offloads, ..setup }, |gateway| {
            let sent = Input {
                segmentation: Segmentation::Udp { size: 1300 },
                ..unfinished(udp(false, 2, &[1; 65_480]), (6, 17))
            };
            let output = run(gateway, 1, POD, sent);
            assert_eq!(output.fate, Fate::Drop(DropReason::NoHeadroom));
        });
    }
}

#[test]
fn icmp_errors_about_packets_from_the_wire_go_back_by_it() {
    for v6 in BOTH {
        let setup = Setup::new(1, v6, Encap::Vxlan);
        on(setup, |gateway| {
            let network = Network {
                node_addresses: list(&[ip("10.244.1.0")]),
                ..setup.network()
            };
            let operations = [
                Operation::UpsertNetwork(network),
                Operation::UpsertRoute(Route {
                    network: NET,
                    prefix: IpPrefix::new(ip("10.244.1.0"), 24).unwrap(),
                    next_hop: NextHop::Blackhole,
                }),
            ];
            gateway.apply(Owner::Cluster, &operations).unwrap();
            let nobody = (pod(false, 2), ip("10.244.1.99"));
            let inner = ip_frame(Default::default(), nobody, (1, 2), b"x");
            let dropped = run(gateway, 0, WIRE, vxlan(v6, &inner[14..]));
            assert_eq!(dropped.fate, Fate::Drop(DropReason::Blackhole));
            // The error has to wait for node 2's MAC address.
            let [(WIRE, asked)] = &dropped.made[..] else {
                panic!("{:?}", dropped.made)
            };
            assert!(question(asked, node(v6, 2)).is_some());
            let heard = run(gateway, 1, WIRE, answer(setup, node(v6, 2), mac(2)));
            let [(WIRE, sent)] = &heard.made[..] else {
                panic!("{:?}", heard.made)
            };
            let outer = verified(sent);
            let inner = verified(&outer.payload.slice()[8..]);
            let Some(TransportHeader::Icmpv4(icmp)) = inner.transport else {
                panic!("not ICMP")
            };
            assert_eq!(icmp.to_bytes()[..2], [3, 1]);
            // Neither of the frames that waited counts twice.
            assert_eq!(gateway.counter(Counter::Originated), 2 + 2);
            assert_eq!(gateway.counter(Counter::Queue), 0);
        });
    }
}

#[test]
fn a_spare_that_was_not_needed_is_as_good_as_new() {
    let setup = Setup::new(1, false, Encap::Vxlan);
    on(setup, |gateway| {
        let network = Network {
            node_addresses: list(&[ip("10.244.1.0")]),
            ..setup.network()
        };
        gateway
            .apply(Owner::Cluster, &[Operation::UpsertNetwork(network)])
            .unwrap();
        for n in 3..8 {
            setup.add_peer(gateway, n, node(false, n));
        }
        // An error goes to each of six nodes, none of which is known: two wait.
        let mut buffers: Vec<_> = (2..8).map(vxlan_to_nobody).collect();
        let mut batch: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| {
                let len = buffer.len() - Frame::HEADROOM;
                Packet::new(Frame::new(buffer, Frame::HEADROOM, len).unwrap())
            })
            .collect();
        let made = with_spares(1, |originated| {
            gateway.process(at(0), WIRE, &mut batch, originated);
        });
        let dropped = Fate::Drop(DropReason::NoRoute);
        assert!(batch.iter().all(|packet| packet.fate == dropped));
        assert_eq!(made.len(), 1, "a question");
        assert_eq!(gateway.counter(Counter::OriginatedLost), 4);
        assert_eq!(gateway.counter(Counter::SparesExhausted), 0);
    });
}

/// A packet of node `n`'s pod to an address that nobody has, behind headroom.
fn vxlan_to_nobody(n: u8) -> Vec<u8> {
    let to = ip("10.7.0.1");
    let inner = ip_frame(Default::default(), (pod(false, n), to), (1, 2), b"x");
    let vtep = |n| MacAddr::vtep_for(node(false, n)).bytes();
    let tunnelled = [
        &[8, 0, 0, 0, 0, 0x10, 0, 0][..],
        &vtep(1),
        &vtep(n),
        &inner[12..],
    ];
    let nodes = (node(false, n), node(false, 1));
    let ports = (50_000, UDP_PORT);
    let frame = ip_frame((mac(n), mac(1)), nodes, ports, &tunnelled.concat());
    [vec![0; Frame::HEADROOM], frame].concat()
}
