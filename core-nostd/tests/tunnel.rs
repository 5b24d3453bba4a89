//! Between nodes: what goes into the tunnel, what comes out of it, and that two
//! gateways back to back are one wire.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

fn on_node<T>(test: impl FnOnce(&mut Gateway<'_>) -> T) -> T {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let result = test(&mut gateway);
    assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(&gateway));
    result
}

fn with_tos(mut frame: Vec<u8>, tos: u8) -> Vec<u8> {
    edit_ip(&mut frame, |header| {
        header.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
        header.ecn = etherparse::IpEcn::try_new(tos & 3).unwrap();
    });
    frame
}

/// What the tunnel carries of a frame: its header, VTEP MACs, TTL one less.
fn tunnelled(frame: &[u8]) -> Vec<u8> {
    let mut inner = frame.to_vec();
    inner[..6].copy_from_slice(&VTEP_2);
    inner[6..12].copy_from_slice(&VTEP_1);
    edit_ip(&mut inner, |header| header.time_to_live -= 1);
    [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat()
}

#[test]
fn packets_for_another_node_are_encapsulated() {
    let senders = [(POD_A, MAC_A, A), (HOST, HOST_MAC, NODE_1)];
    for (port, mac, src) in senders {
        for dst in [REMOTE, NODE_2] {
            for tos in 0..=255 {
                let frame = with_tos(udp(mac, src, dst, b"odd"), tos);
                on_node(|gateway| {
                    let output = run(gateway, port, frame.clone());
                    assert_eq!(output.fate, Fate::Forward(UNDERLAY));
                    assert_eq!(output.bytes, tunnelled(&frame));
                    verified(&output.bytes[8..]);
                    let src_port = source_port(&output);
                    assert!(src_port >= 49_152);
                    let outer = Outer {
                        src: ip("192.168.77.1"),
                        dst: ip("192.168.77.2"),
                        l4: OuterL4::Udp {
                            src_port,
                            dst_port: 8472,
                            checksum: true,
                        },
                        tos,
                        ttl: 64,
                        df: true,
                    };
                    assert_eq!(output.outer, Some(outer));
                    assert_eq!(output.segmentation, Segmentation::None);
                    assert_eq!(gateway.counter(Counter::ForwardUnderlay), 1);
                });
            }
        }
    }
}

#[test]
fn unfinished_checksums_are_finished_before_the_tunnel() {
    for len in [0, 1, 2, 3, 100, 1399] {
        for make in [udp, tcp] {
            let payload = vec![0xc3; len];
            let input = unfinished(make(MAC_A, A, REMOTE, &payload));
            let output = on_node(|gateway| run(gateway, POD_A, input));
            assert_eq!(output.fate, Fate::Forward(UNDERLAY));
            assert_eq!(output.checksum, Checksum::None);
            verified(&output.bytes[8..]);
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    // The payload is what makes the sum come out as zero (RFC 768).
    let plain = udp(MAC_A, A, REMOTE, &[0, 0]);
    let checksum = [plain[40], plain[41]];
    let input = unfinished(udp(MAC_A, A, REMOTE, &checksum));
    let output = on_node(|gateway| run(gateway, POD_A, input));
    assert_eq!(output.bytes[8..][40..42], [0xff, 0xff]);
    verified(&output.bytes[8..]);
}

#[test]
fn ecn_is_merged_by_rfc_6040() {
    const NOT: u8 = 0;
    const ECT1: u8 = 1;
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    // Figure 4: (inner, outer) → what goes on; nothing where it is dropped.
    let figure_4 = [
        (NOT, NOT, Some(NOT)),
        (NOT, ECT0, Some(NOT)),
        (NOT, ECT1, Some(NOT)),
        (NOT, CE, None),
        (ECT0, NOT, Some(ECT0)),
        (ECT0, ECT0, Some(ECT0)),
        (ECT0, ECT1, Some(ECT1)),
        (ECT0, CE, Some(CE)),
        (ECT1, NOT, Some(ECT1)),
        (ECT1, ECT0, Some(ECT1)),
        (ECT1, ECT1, Some(ECT1)),
        (ECT1, CE, Some(CE)),
        (CE, NOT, Some(CE)),
        (CE, ECT0, Some(CE)),
        (CE, ECT1, Some(CE)),
        (CE, CE, Some(CE)),
    ];
    for (inner, outer, expected) in figure_4 {
        for (inner_dscp, outer_dscp) in [(0, 0), (0xb8, 0x28), (0xfc, 0)] {
            let frame = from_vtep(with_tos(udp(VTEP_2, REMOTE, A, b"x"), inner_dscp | inner));
            let mut input = vxlan(&frame, 1);
            input.outer.as_mut().unwrap().tos = outer_dscp | outer;
            let output = on_node(|gateway| run(gateway, UNDERLAY, input));
            let Some(ecn) = expected else {
                assert_eq!(output.fate, Fate::Drop(DropReason::EcnCe));
                continue;
            };
            assert_eq!(output.fate, Fate::Forward(POD_A));
            verified(&output.bytes);
            // The DSCP of the inner header is kept.
            assert_eq!(output.bytes[15], inner_dscp | ecn, "{inner} in {outer}");
        }
    }
}

#[test]
fn unfinished_checksums_from_the_underlay_are_recognised() {
    for make in [udp, tcp] {
        for options in [0, 8] {
            let mut frame = from_vtep(make(VTEP_2, REMOTE, A, b"payload"));
            frame.splice(34..34, std::iter::repeat_n(1, options));
            frame[14] += u8::try_from(options / 4).unwrap();
            let total = u16::try_from(frame.len() - 14).unwrap();
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            edit_ip(&mut frame, |_| {});
            let finished = frame.clone();
            let input = unfinished(frame);
            let expected = (input.checksum, input.bytes.clone());
            let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(&input.bytes, 1)));
            assert_eq!(output.fate, Fate::Forward(POD_A));
            assert_eq!(output.checksum, expected.0);
            assert_eq!(output.bytes[34..], expected.1[34..]);
            // A finished one is left alone, and so is a wrong one.
            let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(&finished, 1)));
            assert_eq!(
                (output.fate, output.checksum),
                (Fate::Forward(POD_A), Checksum::None)
            );
            let mut wrong = finished;
            *wrong.last_mut().unwrap() ^= 1;
            let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(&wrong, 1)));
            assert_eq!(
                (output.fate, output.checksum),
                (Fate::Forward(POD_A), Checksum::None)
            );
        }
    }
}

#[test]
fn a_zero_udp_checksum_from_the_underlay_stays_zero() {
    let mut frame = from_vtep(udp(VTEP_2, REMOTE, A, b"payload"));
    frame[40..42].fill(0);
    let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(&frame, 1)));
    assert_eq!(output.checksum, Checksum::None);
    assert_eq!(output.bytes[40..42], [0, 0]);
}

#[test]
fn tcp_super_frames_from_the_underlay_get_their_marks_back() {
    let frame = from_vtep(tcp(VTEP_2, REMOTE, A, &[7; 20_000]));
    let raw = unfinished(frame.clone());
    for bytes in [&frame, &raw.bytes] {
        let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(bytes, 1)));
        assert_eq!(output.fate, Fate::Forward(POD_A));
        // 1500 - 50 for the tunnel, 40 for the headers.
        assert_eq!(output.segmentation, Segmentation::TcpV4 { size: 1410 });
        assert_eq!(
            output.checksum,
            Checksum::Partial {
                start: 34,
                offset: 16
            }
        );
        assert_eq!(
            output.bytes[34..54],
            raw.bytes[34..54],
            "the pseudo-header's sum"
        );
    }
    // The largest plain packet is one byte shorter than the smallest super-frame.
    for (payload, super_frame) in [(1410, false), (1411, true)] {
        let frame = from_vtep(tcp(VTEP_2, REMOTE, A, &vec![7; payload]));
        let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(&frame, 1)));
        assert_eq!(output.fate, Fate::Forward(POD_A));
        assert_eq!(output.segmentation != Segmentation::None, super_frame);
    }
    // Damage does not become a valid packet by losing its checksum.
    let mut damaged = frame;
    damaged[9000] ^= 1;
    let output = on_node(|gateway| run(gateway, UNDERLAY, vxlan(&damaged, 1)));
    assert!(matches!(output.fate, Fate::Drop(_)), "{:?}", output.fate);
}

#[test]
fn super_frames_count_as_the_packets_that_they_stand_for() {
    let count = |port, input: Input, counter| {
        on_node(|gateway| {
            run(gateway, port, input);
            let stats = |gateway: &mut Gateway<'_>, wanted| {
                let ports = port_stats(gateway).into_iter();
                ports
                    .filter(|(id, _)| *id == wanted)
                    .map(|(_, stats)| stats)
                    .next()
                    .unwrap()
            };
            let (from, underlay) = (stats(gateway, port), stats(gateway, UNDERLAY));
            assert_eq!(from.rx_frames, gateway.counter(Counter::Rx));
            assert_eq!(gateway.counter(counter), from.rx_frames);
            let sent = [
                underlay.tx_frames,
                stats(gateway, POD_A).tx_frames,
                from.dropped,
            ];
            assert_eq!(sent.iter().sum::<u64>(), from.rx_frames, "{counter:?}");
            from.rx_frames
        })
    };
    let super_frame = |src| Input {
        segmentation: Segmentation::TcpV4 { size: 1400 },
        ..unfinished(tcp(MAC_A, src, REMOTE, &[7; 3000]))
    };
    assert_eq!(count(POD_A, super_frame(A), Counter::ForwardUnderlay), 3);
    let spoofed = Counter::Drop(DropReason::SourceIp);
    assert_eq!(count(POD_A, super_frame(B), spoofed), 3);
    // One that comes without its mark: 15 packets of 1410 bytes.
    let unmarked = vxlan(&from_vtep(tcp(VTEP_2, REMOTE, A, &[7; 20_000])), 1);
    assert_eq!(count(UNDERLAY, unmarked, Counter::ForwardEndpoint), 15);
}

/// Node n2, with one pod at `REMOTE`.
fn program_second(gateway: &mut Gateway<'_>) {
    let network = Network {
        local: ip("192.168.77.2"),
        vtep_mac: MacAddr::new(VTEP_2),
        node_addresses: list(&[ip("10.244.2.0"), ip("fd00:244:2::")]),
        ..network()
    };
    let peer = Peer {
        underlay: ip("192.168.77.1"),
        vtep_mac: MacAddr::new(VTEP_1),
        node_addresses: list(&[ip("192.168.77.1")]),
        ..peer()
    };
    let operations = [
        Operation::UpsertPort(underlay(1500)),
        Operation::UpsertNetwork(network),
        Operation::UpsertPort(host()),
        Operation::UpsertPeer(peer),
        route("10.244.2.0/24", NextHop::Blackhole),
        route("10.244.2.0/32", NextHop::Host),
        route("192.168.77.2/32", NextHop::Host),
        route("10.244.1.0/24", TO_PEER),
        route("192.168.77.1/32", TO_PEER),
        Operation::UpsertPort(pod(POD_A, MAC_B, "10.244.2.7")),
    ];
    gateway.apply(Owner::Cluster, &operations).unwrap();
}

/// Carries what one gateway sends to the other, as the underlay would.
fn wire(output: &Output) -> Input {
    Input {
        bytes: output.bytes.clone(),
        outer: output.outer,
        ..Input::default()
    }
}

#[test]
fn the_other_nodes_refusals_come_back_to_the_pod() {
    let (mut first, mut second) = (Tiny::new(), Tiny::new());
    let (mut first, mut second) = (first.gateway(), second.gateway());
    program(&mut first);
    program_second(&mut second);
    let mut dying = udp(MAC_A, A, REMOTE, b"x");
    edit_ip(&mut dying, |header| header.time_to_live = 2);
    let cases = [
        (dying, (11, 0), DropReason::TtlExceeded),
        (
            udp(MAC_A, A, [10, 244, 2, 99], b"x"),
            (3, 1),
            DropReason::Blackhole,
        ),
    ];
    for (frame, (kind, code), reason) in cases {
        let sent = run(&mut first, POD_A, frame);
        let refused = run(&mut second, UNDERLAY, wire(&sent));
        assert_eq!(refused.fate, Fate::Drop(reason));
        let [(UNDERLAY, bytes, outer)] = &refused.made[..] else {
            panic!("{:?}", refused.made)
        };
        let back = Input {
            bytes: bytes.clone(),
            outer: *outer,
            ..Input::default()
        };
        let told = run(&mut first, UNDERLAY, back);
        assert_eq!(told.fate, Fate::Forward(POD_A));
        verified(&told.bytes);
        assert_eq!(
            told.bytes[26..30],
            [10, 244, 2, 0],
            "the other node's own address"
        );
        assert_eq!((told.bytes[34], told.bytes[35]), (kind, code));
    }
}
