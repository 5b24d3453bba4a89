//! What each path does to a packet's bytes, exactly.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

/// A node with two pods, a fresh one for each test.
fn on_node<T>(test: impl FnOnce(&mut Gateway<'_>) -> T) -> T {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let result = test(&mut gateway);
    assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(&gateway));
    result
}

/// The frame as a router sends it on: new MACs, TTL one less, nothing else.
fn routed(frame: &[u8], dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    edit_ip(&mut frame, |header| header.time_to_live -= 1);
    frame
}

/// TOS, identification, DF and options all set, so that a change would show.
fn peculiar(src_mac: [u8; 6], src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut ip = etherparse::Ipv4Header::new(0, 17, etherparse::IpNumber::UDP, src, dst).unwrap();
    ip.dscp = etherparse::IpDscp::try_new(46).unwrap();
    ip.ecn = etherparse::IpEcn::try_new(2).unwrap();
    ip.identification = 0xbeef;
    ip.dont_fragment = true;
    // Router alert and the end of the list.
    ip.options = [148, 4, 0, 0, 1, 1, 1, 0].into();
    let builder = etherparse::PacketBuilder::ethernet2(src_mac, GATEWAY_MAC)
        .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
        .udp(1234, 80);
    let mut out = Vec::new();
    builder.write(&mut out, b"an odd number of it").unwrap();
    verified(&out);
    out
}

#[test]
fn local_paths_change_macs_ttl_and_checksum_only() {
    let host = (HOST, HOST_MAC);
    let (a, b) = ((POD_A, MAC_A), (POD_B, MAC_B));
    let cases = [
        ("pod to pod", a, A, b, B, Counter::ForwardEndpoint),
        ("pod to itself", a, A, a, A, Counter::ForwardEndpoint),
        ("pod to host", a, A, host, NODE_1, Counter::ForwardHost),
        (
            "pod to host",
            b,
            B,
            host,
            [10, 244, 1, 0],
            Counter::ForwardHost,
        ),
        ("host to pod", host, NODE_1, a, A, Counter::ForwardEndpoint),
        (
            "stranger to pod by host",
            host,
            [8; 4],
            b,
            B,
            Counter::ForwardEndpoint,
        ),
    ];
    for (name, from, src, to, dst, counter) in cases {
        on_node(|gateway| {
            let frame = peculiar(from.1, src, dst);
            let output = run(gateway, from.0, frame.clone());
            assert_eq!(output.fate, Fate::Forward(to.0), "{name}");
            assert_eq!(output.bytes, routed(&frame, to.1, GATEWAY_MAC), "{name}");
            verified(&output.bytes);
            assert_eq!((output.outer, output.made.len()), (None, 0), "{name}");
            assert_eq!(gateway.counter(counter), 1, "{name}");
        });
    }
}

#[test]
fn ipv6_local_paths_change_macs_and_hop_limit_only() {
    let (a, b, host) = (
        (POD_A, MAC_A, A6),
        (POD_B, MAC_B, B6),
        (HOST, HOST_MAC, HOST6),
    );
    for (from, to) in [(a, b), (b, a), (a, a), (a, host), (host, b)] {
        for hop_limit in [2, 64, 255] {
            let mut frame = udp6(from.1, from.2, to.2, b"an odd number of it");
            edit_ip6(&mut frame, |header| {
                header.hop_limit = hop_limit;
                header.traffic_class = 0xb9;
                header.flow_label = etherparse::Ipv6FlowLabel::try_new(0xabcde).unwrap();
            });
            let mut frame = extended(frame, &[(0, &[0, 1, 4, 0, 0, 0, 0])]);
            let output = on_node(|gateway| run(gateway, from.0, frame.clone()));
            frame[..12].copy_from_slice(&[to.1, GATEWAY_MAC].concat());
            edit_ip6(&mut frame, |header| header.hop_limit -= 1);
            assert_eq!((output.fate, &output.bytes), (Fate::Forward(to.0), &frame));
            verified(&output.bytes);
        }
    }
}

#[test]
fn every_ttl_is_lowered_once() {
    on_node(|gateway| {
        for ttl in 2..=255 {
            let mut frame = udp(MAC_A, A, B, b"x");
            edit_ip(&mut frame, |header| header.time_to_live = ttl);
            let output = run(gateway, POD_A, frame.clone());
            assert_eq!(output.bytes, routed(&frame, MAC_B, GATEWAY_MAC));
        }
    });
}

#[test]
fn offload_marks_are_kept_on_local_paths() {
    let marks = [
        (Checksum::Verified, Segmentation::None),
        (
            Checksum::Partial {
                start: 34,
                offset: 16,
            },
            Segmentation::None,
        ),
        (
            Checksum::Partial {
                start: 34,
                offset: 16,
            },
            Segmentation::TcpV4 { size: 1400 },
        ),
    ];
    let paths = [
        (POD_A, MAC_A, A, B),
        (POD_A, MAC_A, A, NODE_1),
        (HOST, HOST_MAC, NODE_1, A),
    ];
    for (checksum, segmentation) in marks {
        for (port, mac, src, dst) in paths {
            let bytes = tcp(mac, src, dst, &[7; 9000]);
            let bytes = match segmentation {
                Segmentation::None => tcp(mac, src, dst, &[7; 1000]),
                _ => bytes,
            };
            let input = Input {
                bytes: bytes.clone(),
                checksum,
                segmentation,
                ..Input::default()
            };
            let output = on_node(|gateway| run(gateway, port, input));
            assert!(matches!(output.fate, Fate::Forward(_)), "{:?}", output.fate);
            assert_eq!(
                (output.checksum, output.segmentation),
                (checksum, segmentation)
            );
            // The checksum field, finished or not, is as it came.
            assert_eq!(output.bytes[34..], bytes[34..]);
        }
    }
}

#[test]
fn an_outer_header_from_a_confused_shell_does_not_leave_with_a_local_frame() {
    let outer = vxlan(&[], 1).outer;
    for frame in [
        udp(MAC_A, A, B, b"x"),
        echo(MAC_A, A, GATEWAY),
        arp_request(MAC_A, A, GATEWAY),
    ] {
        let input = Input {
            outer,
            ..Input::from(frame)
        };
        let output = on_node(|gateway| run(gateway, POD_A, input));
        assert!(matches!(output.fate, Fate::Forward(POD_B) | Fate::Reply));
        assert_eq!(output.outer, None);
    }
}

#[test]
fn remote_packets_reach_pod_and_host() {
    let cases = [
        ("pod to pod", REMOTE, A, POD_A, MAC_A),
        ("pod to host", REMOTE, NODE_1, HOST, HOST_MAC),
        ("pod to host", REMOTE, [10, 244, 1, 0], HOST, HOST_MAC),
        ("node to pod", NODE_2, B, POD_B, MAC_B),
        (
            "node to node's pod address",
            [10, 244, 2, 0],
            A,
            POD_A,
            MAC_A,
        ),
        ("node to host", NODE_2, NODE_1, HOST, HOST_MAC),
    ];
    for (name, src, dst, port, mac) in cases {
        let frame = from_vtep(peculiar(VTEP_2, src, dst));
        let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(&frame, 1)));
        assert_eq!(output.fate, Fate::Forward(port), "{name}");
        assert_eq!(output.bytes, routed(&frame, mac, GATEWAY_MAC), "{name}");
        verified(&output.bytes);
        assert_eq!(output.outer, None, "{name}");
    }
}

#[test]
fn arp_for_the_gateway_is_answered() {
    let askers = [
        (POD_A, MAC_A, A),
        (POD_A, MAC_A, [0; 4]),
        (HOST, HOST_MAC, NODE_1),
        (HOST, HOST_MAC, [10, 244, 1, 0]),
    ];
    for (port, mac, address) in askers {
        for padding in [0, 18] {
            let mut frame = arp_request(mac, address, GATEWAY);
            frame.resize(frame.len() + padding, 0xa5);
            let input = Input {
                // Marks that fit no ARP packet must not come back with the reply.
                checksum: Checksum::Partial {
                    start: 60,
                    offset: 6,
                },
                segmentation: Segmentation::TcpV4 { size: 9 },
                ..Input::from(frame)
            };
            let output = on_node(|gateway| run(gateway, port, input));
            assert_eq!(output.fate, Fate::Reply);
            let operation = etherparse::ArpOperation::REPLY;
            let mut expected = arp_packet(operation, (GATEWAY_MAC, GATEWAY), (mac, address));
            expected[..6].copy_from_slice(&mac);
            assert_eq!(output.bytes, expected);
            assert_eq!(output.checksum, Checksum::None);
            assert_eq!(output.segmentation, Segmentation::None);
        }
    }
}

#[test]
fn arp_replies_and_gratuitous_arp_are_consumed() {
    let reply = etherparse::ArpOperation::REPLY;
    for (port, mac, address) in [(POD_A, MAC_A, A), (HOST, HOST_MAC, NODE_1)] {
        let frames = [
            arp_packet(reply, (mac, address), (GATEWAY_MAC, GATEWAY)),
            arp_packet(reply, (mac, address), (mac, address)),
            arp_request(mac, address, address),
        ];
        for frame in frames {
            on_node(|gateway| {
                let output = run(gateway, port, frame);
                assert_eq!(output.fate, Fate::Consume);
                assert_eq!(gateway.counter(Counter::Consume), 1);
                // Nothing was learned: the pod is reached where it was.
                let output = run(gateway, POD_B, udp(MAC_B, B, A, b"x"));
                assert_eq!(output.bytes[..6], MAC_A);
            });
        }
    }
}

#[test]
fn arp_for_anybody_else_is_not_answered() {
    for target in [A, B, REMOTE, NODE_1, [8; 4]] {
        for sender in [A, [0; 4]] {
            let output = on_node(|gateway| run(gateway, POD_A, arp_request(MAC_A, sender, target)));
            let expected = match sender == target {
                true => Fate::Consume,
                false => Fate::Drop(DropReason::ArpTarget),
            };
            assert_eq!(output.fate, expected, "{sender:?} asks for {target:?}");
        }
    }
}

#[test]
fn the_gateway_answers_ping() {
    for (port, mac, src) in [(POD_A, MAC_A, A), (HOST, HOST_MAC, NODE_1)] {
        for len in [0, 1, 56, 1400] {
            let mut request = Vec::new();
            let payload = vec![0x5a; len];
            etherparse::PacketBuilder::ethernet2(mac, GATEWAY_MAC)
                .ipv4(src, GATEWAY, 1)
                .icmpv4_echo_request(7, 9)
                .write(&mut request, &payload)
                .unwrap();
            let output = on_node(|gateway| run(gateway, port, request.clone()));
            assert_eq!(output.fate, Fate::Reply);
            let packet = verified(&output.bytes);
            let ethernet = packet.link.clone().unwrap().ethernet2().unwrap();
            assert_eq!((ethernet.source, ethernet.destination), (GATEWAY_MAC, mac));
            let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &packet.net else {
                panic!()
            };
            assert_eq!(
                (ip.source, ip.destination, ip.time_to_live),
                (GATEWAY, src, 64)
            );
            let Some(etherparse::TransportHeader::Icmpv4(icmp)) = &packet.transport else {
                panic!()
            };
            let echo = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
            assert_eq!(icmp.icmp_type, etherparse::Icmpv4Type::EchoReply(echo));
            assert_eq!(packet.payload.slice(), payload);
        }
    }
}

#[test]
fn an_unfinished_echo_request_gets_a_finished_reply() {
    let mut request = echo(MAC_A, A, GATEWAY);
    request[36..38].fill(0);
    let input = Input {
        checksum: Checksum::Partial {
            start: 34,
            offset: 2,
        },
        ..Input::from(request)
    };
    let output = on_node(|gateway| run(gateway, POD_A, input));
    assert_eq!(
        (output.fate, output.checksum),
        (Fate::Reply, Checksum::None)
    );
    verified(&output.bytes);
}

#[test]
fn ethernet_padding_is_cut() {
    let paths: [(PortId, Vec<u8>); 4] = [
        (POD_A, udp(MAC_A, A, B, b"x")),
        (POD_A, udp(MAC_A, A, REMOTE, b"x")),
        (HOST, udp(HOST_MAC, NODE_1, A, b"x")),
        (POD_A, echo(MAC_A, A, GATEWAY)),
    ];
    for (port, frame) in paths {
        let plain = on_node(|gateway| run(gateway, port, frame.clone()));
        for padding in [1, 17, 1400] {
            let mut padded = frame.clone();
            padded.resize(frame.len() + padding, 0xa5);
            let output = on_node(|gateway| run(gateway, port, padded));
            assert_eq!((output.fate, &output.bytes), (plain.fate, &plain.bytes));
        }
    }
    let inner = from_vtep(udp(VTEP_2, REMOTE, A, b"x"));
    let mut input = vxlan(&inner, 1);
    input.bytes.extend([0xa5; 17]);
    let output = on_node(|gateway| run(gateway, UNDERLAY, input));
    assert_eq!(output.bytes, routed(&inner, MAC_A, GATEWAY_MAC));
}

/// A UDP packet whose IP packet has exactly `len` bytes.
fn sized(mac: [u8; 6], src: [u8; 4], dst: [u8; 4], len: usize, df: bool) -> Vec<u8> {
    let mut frame = udp(mac, src, dst, &vec![7; len - 28]);
    edit_ip(&mut frame, |header| header.dont_fragment = df);
    frame
}

#[test]
fn mtu_limits_are_exact() {
    // The host's port is smaller than the pods', and the tunnel has 1500 - 50.
    let small_host = Operation::UpsertPort(Port {
        mtu: 1300,
        ..host()
    });
    let small_pod = Operation::UpsertPort(Port {
        mtu: 1200,
        ..pod(POD_B, MAC_B, "10.244.1.3")
    });
    let inner = |dst, len, df| vxlan(&from_vtep(sized(VTEP_2, REMOTE, dst, len, df)), 1);
    type Make<'a> = &'a dyn Fn(usize, bool) -> Input;
    let cases: [(&str, PortId, usize, Make<'_>); 7] = [
        ("pod to pod", POD_A, 1200, &|len, df| {
            sized(MAC_A, A, B, len, df).into()
        }),
        ("pod to itself", POD_A, 1450, &|len, df| {
            sized(MAC_A, A, A, len, df).into()
        }),
        ("pod to host", POD_A, 1300, &|len, df| {
            sized(MAC_A, A, NODE_1, len, df).into()
        }),
        ("pod to remote", POD_A, 1450, &|len, df| {
            sized(MAC_A, A, REMOTE, len, df).into()
        }),
        ("host to pod", HOST, 1200, &|len, df| {
            sized(HOST_MAC, NODE_1, B, len, df).into()
        }),
        ("remote to pod", UNDERLAY, 1200, &|len, df| {
            inner(B, len, df)
        }),
        ("remote to host", UNDERLAY, 1300, &|len, df| {
            inner(NODE_1, len, df)
        }),
    ];
    for (name, port, limit, make) in cases {
        for df in [true, false] {
            on_node(|gateway| {
                gateway
                    .apply(Owner::Cluster, std::slice::from_ref(&small_host))
                    .unwrap();
                gateway
                    .apply(Owner::Attachment, std::slice::from_ref(&small_pod))
                    .unwrap();
                let fits = run(gateway, port, make(limit, df));
                assert!(
                    matches!(fits.fate, Fate::Forward(_)),
                    "{name}: {:?}",
                    fits.fate
                );
                let big = run(gateway, port, make(limit + 1, df));
                if !df {
                    assert!(matches!(big.fate, Fate::Forward(_)), "{name}");
                    assert_eq!(big.made.len(), 1, "{name}: two fragments");
                    return;
                }
                assert_eq!(big.fate, Fate::Drop(DropReason::TooBig), "{name}");
                assert_eq!(big.made.len(), 1, "{name}");
                for (back, bytes, outer) in big.made {
                    assert_eq!(back, port, "{name}");
                    let frame = if outer.is_some() { &bytes[8..] } else { &bytes };
                    verified(frame);
                    let mtu = u16::try_from(limit).unwrap().to_be_bytes();
                    assert_eq!(
                        (&frame[34..36], &frame[40..42]),
                        (&[3, 4][..], &mtu[..]),
                        "{name}"
                    );
                }
            });
        }
    }
}

#[test]
fn super_frames_are_measured_by_their_segments() {
    let input = |payload: usize, size| Input {
        checksum: Checksum::Partial {
            start: 34,
            offset: 16,
        },
        segmentation: Segmentation::TcpV4 { size },
        ..Input::from({
            let mut frame = tcp(MAC_A, A, B, &vec![7; payload]);
            edit_ip(&mut frame, |header| header.dont_fragment = true);
            frame
        })
    };
    // 1450 - 20 - 20
    for (payload, size, fits) in [
        (60_000, 1410, true),
        (60_000, 1411, false),
        (100, 9000, true),
    ] {
        let output = on_node(|gateway| run(gateway, POD_A, input(payload, size)));
        let expected = match fits {
            true => Fate::Forward(POD_B),
            false => Fate::Drop(DropReason::TooBig),
        };
        assert_eq!(
            output.fate, expected,
            "{payload} bytes in segments of {size}"
        );
    }
}

#[test]
fn rx_is_the_sum_of_fates_and_ports_count_what_went_through_them() {
    on_node(|gateway| {
        let frames = [
            udp(MAC_A, A, B, b"to the other pod"),
            udp(MAC_A, A, REMOTE, b"to another node"),
            udp(MAC_A, A, NODE_1, b"to the host"),
            echo(MAC_A, A, GATEWAY),
            arp_request(MAC_A, A, A),
            udp(MAC_A, A, [8; 4], b"nowhere, which the sender is told"),
            udp(MAC_A, B, B, b"not its own source"),
        ];
        let mut buffers: Vec<_> = frames
            .iter()
            .map(|frame| [vec![0; 128], frame.clone()].concat())
            .collect();
        let mut batch: Vec<_> = buffers
            .iter_mut()
            .zip(&frames)
            .map(|(buffer, frame)| Packet::new(Frame::new(buffer, 128, frame.len()).unwrap()))
            .collect();
        let mut spare = vec![0; 128 + Originated::FRAME_LEN];
        let mut spares = [Packet::new(Frame::new(&mut spare, 128, 0).unwrap())];
        let mut originated = Originated::new(&mut spares);
        gateway.process(Instant::ZERO, POD_A, &mut batch, &mut originated);
        let made = originated.into_made();
        assert_eq!(made.len(), 1);
        let sent: Vec<_> = batch
            .iter()
            .chain(made.iter())
            .filter_map(|packet| match packet.fate {
                Fate::Forward(port) => Some((port, packet.frame.len())),
                Fate::Reply => Some((POD_A, packet.frame.len())),
                _ => None,
            })
            .collect();
        for (port, stats) in port_stats(gateway) {
            let out: Vec<_> = sent.iter().filter(|(to, _)| *to == port).collect();
            let bytes: usize = out.iter().map(|(_, len)| len).sum();
            let received: &[Vec<u8>] = if port == POD_A { &frames } else { &[] };
            let expected = PortStats {
                rx_frames: received.len().try_into().unwrap(),
                rx_bytes: received.concat().len().try_into().unwrap(),
                tx_frames: out.len().try_into().unwrap(),
                tx_bytes: bytes.try_into().unwrap(),
                dropped: if port == POD_A { 2 } else { 0 },
            };
            assert_eq!(stats, expected, "port {port}");
        }
        assert_eq!(gateway.counter(Counter::Rx), 7);
        assert_eq!(gateway.counter(Counter::Originated), 1);
    });
}
