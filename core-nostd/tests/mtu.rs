//! What fits where: tunnels' overhead, path MTU, super-frames, and the MSS of TCP.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

const A_2: [u8; 4] = [10, 244, 2, 2];

/// An IPv4 packet of `len` bytes with DF set.
fn sized(dst: [u8; 4], len: u16) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, dst, &vec![7; usize::from(len) - 28]);
    edit_ip(&mut frame, |header| header.dont_fragment = true);
    frame
}

/// An IPv6 packet of `len` bytes.
fn sized6(dst: [u8; 16], len: u16) -> Vec<u8> {
    udp6(MAC_A, A6, dst, &vec![7; usize::from(len) - 48])
}

/// The MTU that the only frame made, an ICMP error to pod A, tells.
fn told_mtu(output: &Output) -> u16 {
    assert_eq!(output.fate, Fate::Drop(DropReason::TooBig));
    let [(POD_A, frame, None)] = &output.made[..] else {
        panic!("{:?}", output.made)
    };
    verified(frame);
    match frame[12..14] {
        [8, 0] => {
            assert_eq!(frame[34..40], [3, 4, frame[36], frame[37], 0, 0]);
            u16::from_be_bytes([frame[40], frame[41]])
        }
        _ => {
            assert_eq!(frame[54..56], [2, 0]);
            assert_eq!(frame[58..60], [0, 0]);
            u16::from_be_bytes([frame[60], frame[61]])
        }
    }
}

/// Checks that packets of exactly `limit` bytes and no larger ones get to node `n`.
fn assert_limit(gateway: &mut Gateway<'_>, now: Instant, n: u8, limit: u16) {
    let v4 = [10, 244, n, 2];
    let mut v6 = REMOTE6;
    v6[5] = n;
    let mut all = vec![(sized(v4, limit), sized(v4, limit + 1))];
    // IPv6 has a least MTU.
    if limit >= 1280 {
        all.push((sized6(v6, limit), sized6(v6, limit + 1)));
    }
    for (fits, large) in all {
        let output = run_at(gateway, now, POD_A, fits);
        assert!(
            matches!(output.fate, Fate::Forward(_)),
            "{:?}, {limit}",
            output.fate
        );
        assert_eq!(told_mtu(&run_at(gateway, now, POD_A, large)), limit);
    }
}

#[test]
fn the_pods_mtu_is_the_underlays_minus_the_overhead() {
    use Family::*;
    let overheads = [
        (V4, Encap::Vxlan, 50),
        (V6, Encap::Vxlan, 70),
        (V4, Encap::Ipip, 20),
        (V6, Encap::Ipip, 40),
        (V4, Encap::Direct, 0),
        (V6, Encap::Direct, 0),
    ];
    for (underlay, encap, overhead) in overheads {
        for underlay_mtu in [1500, 1400, 9000] {
            let node = Node {
                underlay,
                encap,
                underlay_mtu,
                ..Node::new(1)
            };
            assert_eq!(node.overhead(), overhead);
            node.run(|gateway| {
                // Direct packets leave by the host.
                let host = Operation::UpsertPort(Port {
                    mtu: underlay_mtu,
                    ..host()
                });
                gateway.apply(Owner::Cluster, &[host]).unwrap();
                assert_limit(gateway, Instant::ZERO, 2, underlay_mtu - overhead);
            });
        }
    }
}

/// A link must carry 1280 bytes (RFC 8200 section 5), so no sender goes below.
#[test]
fn packet_too_big_never_tells_less_than_1280() {
    let node = Node {
        underlay_mtu: 1300,
        ..Node::new(1)
    };
    node.run(|gateway| {
        assert_eq!(told_mtu(&run(gateway, POD_A, sized6(REMOTE6, 1300))), 1280);
        assert_eq!(told_mtu(&run(gateway, POD_A, sized(A_2, 1300))), 1250);
    });
}

#[test]
fn icmp_errors_quote_as_much_as_their_rfcs_allow() {
    Node::new(1).run(|gateway| {
        let output = run(gateway, POD_A, sized(A_2, 3000));
        assert_eq!(output.made[0].1.len(), 14 + 576);
        assert_eq!(output.made[0].1[42..], sized(A_2, 3000)[14..][..548]);
        let output = run(gateway, POD_A, sized6(REMOTE6, 3000));
        assert_eq!(output.made[0].1.len(), 14 + 1280);
        assert_eq!(output.made[0].1[62..], sized6(REMOTE6, 3000)[14..][..1232]);
        let small = udp6(MAC_A, A6, STRANGER6, b"x");
        let output = run(gateway, POD_A, small.clone());
        assert_eq!(output.made[0].1[62..], small[14..]);
    });
}

const TEN_MINUTES: u64 = 600_000_000;

fn set_path_mtu(gateway: &mut Gateway<'_>, peer: u16, mtu: u16) {
    let peer = PeerId(peer);
    let operation = Operation::SetPathMtu { peer, mtu };
    // Whoever owns the peer.
    gateway.apply(Owner::Attachment, &[operation]).unwrap();
}

#[test]
fn a_path_mtu_lowers_what_fits_that_peer_for_ten_minutes() {
    let at = |micros| Instant::from_micros(5_000_000 + micros);
    for (underlay, encap) in [
        (Family::V4, Encap::Vxlan),
        (Family::V6, Encap::Vxlan),
        (Family::V6, Encap::Ipip),
    ] {
        let node = Node {
            underlay,
            encap,
            ..Node::new(1)
        };
        let full = 1500 - node.overhead();
        node.run(|gateway| {
            assert_limit(gateway, at(0), 2, full);
            set_path_mtu(gateway, 0, 1400);
            assert_limit(gateway, at(0), 2, full - 100);
            assert_limit(gateway, at(0), 3, full);
            assert_limit(gateway, at(TEN_MINUTES - 1), 2, full - 100);
            assert_limit(gateway, at(TEN_MINUTES), 2, full);
        });
        // Zero forgets, and more than the link's is nothing.
        node.run(|gateway| {
            set_path_mtu(gateway, 0, 1400);
            set_path_mtu(gateway, 0, 0);
            assert_limit(gateway, at(0), 2, full);
            set_path_mtu(gateway, 0, 9000);
            assert_limit(gateway, at(0), 2, full);
        });
    }
}

#[test]
fn forged_path_mtus_do_not_choke_a_tunnel() {
    let least = |underlay| {
        let node = Node {
            underlay,
            ..Node::new(1)
        };
        node.run(|gateway| {
            set_path_mtu(gateway, 0, 1);
            told_mtu(&run(gateway, POD_A, sized(A_2, 1450)))
        })
    };
    assert_eq!(least(Family::V4), 552 - 50);
    assert_eq!(least(Family::V6), 1280 - 70);
}

#[test]
fn a_refused_transaction_leaves_path_mtus_and_their_ends_alone() {
    let at = |micros| Instant::from_micros(micros);
    let refused = [
        Operation::SetPathMtu {
            peer: PeerId(0),
            mtu: 1300,
        },
        Operation::RemoveNetwork(NET),
    ];
    let removed = [
        Operation::UpsertPeer(Node::new(1).peer(2)),
        Operation::RemoveNetwork(NET),
    ];
    Node::new(1).run(|gateway| {
        set_path_mtu(gateway, 0, 1400);
        assert_limit(gateway, at(TEN_MINUTES / 2), 2, 1350);
        for operations in [&refused, &removed] {
            gateway.apply(Owner::Cluster, operations).unwrap_err();
            assert_limit(gateway, at(TEN_MINUTES / 2), 2, 1350);
        }
        // Not for longer than it was, and not again when it was over.
        assert_limit(gateway, at(TEN_MINUTES), 2, 1450);
        gateway.apply(Owner::Cluster, &refused).unwrap_err();
        assert_limit(gateway, at(TEN_MINUTES), 2, 1450);
    });
    let unknown = Operation::SetPathMtu {
        peer: PeerId(7),
        mtu: 1300,
    };
    let error = Node::new(1).run(|gateway| gateway.apply(Owner::Cluster, &[unknown]));
    assert_eq!(
        error,
        Err((
            0,
            TableError::NotFound {
                table: Table::Peers,
                id: 7
            }
        ))
    );
}

#[test]
fn super_frames_of_both_versions_are_measured_by_their_segments() {
    let marked = |frame: Vec<u8>, segmentation| Input {
        segmentation,
        ..unfinished(frame)
    };
    let v6 = |size| {
        let frame = tcp6(MAC_A, A6, B6, &[7; 60_000]);
        marked(frame, Segmentation::TcpV6 { size })
    };
    let datagrams = |size| {
        let mut frame = udp(MAC_A, A, B, &[7; 60_000]);
        edit_ip(&mut frame, |header| header.dont_fragment = true);
        marked(frame, Segmentation::Udp { size })
    };
    let datagrams6 = |size| {
        marked(
            udp6(MAC_A, A6, B6, &[7; 60_000]),
            Segmentation::Udp { size },
        )
    };
    type Make<'a> = &'a dyn Fn(u16) -> Input;
    // Of 1450 bytes: IPv6 40 and TCP 20, IPv4 20 and UDP 8, IPv6 40 and UDP 8.
    let kinds: [(u16, Make<'_>); 3] = [(1390, &v6), (1422, &datagrams), (1402, &datagrams6)];
    for (limit, make) in kinds {
        Node::new(1).run(|gateway| {
            let output = run(gateway, POD_A, make(limit));
            assert_eq!(output.fate, Fate::Forward(POD_B));
            let output = run(gateway, POD_A, make(limit + 1));
            assert_eq!(told_mtu(&output), 1450);
        });
    }
}

/// A SYN with these TCP options.
fn syn(family: Family, options: &[u8]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(MAC_A, GATEWAY_MAC);
    let builder = match family {
        Family::V4 => builder.ipv4(A, A_2, 64),
        Family::V6 => builder.ipv6(A6, REMOTE6, 64),
    };
    let tcp = builder
        .tcp(1234, 80, 7, 1000)
        .syn()
        .options_raw(options)
        .unwrap();
    let mut out = Vec::new();
    tcp.write(&mut out, b"").unwrap();
    out
}

fn clamping() -> Node {
    Node {
        options: NetworkOptions::CLAMP_MSS,
        ..Node::new(1)
    }
}

/// The MSS that arrives, found by etherparse, and that nothing else changed.
fn mss_of(output: &Output, sent: &[u8]) -> Option<u16> {
    let inner = inner_frame(&output.all()[0]);
    let packet = verified(&inner);
    let Some(etherparse::TransportHeader::Tcp(tcp)) = &packet.transport else {
        panic!("{packet:?}")
    };
    let transport = if inner[12] == 8 { 34 } else { 54 };
    let mut changed = inner[transport..]
        .iter()
        .zip(&sent[transport..])
        .enumerate();
    // The checksum and the option's value.
    assert!(changed.all(|(at, (new, old))| new == old || matches!(at, 16 | 17 | 20..)));
    tcp.options_iterator().find_map(|option| match option {
        Ok(etherparse::TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    })
}

#[test]
fn the_mss_of_a_syn_is_clamped_to_what_fits_the_next_hop() {
    let [high, low] = 1460u16.to_be_bytes();
    let at_offsets: [&[u8]; 4] = [
        &[2, 4, high, low],
        &[1, 2, 4, high, low, 0],
        &[1, 1, 2, 4, high, low, 4, 2],
        &[3, 3, 7, 2, 4, high, low, 1, 4, 2],
    ];
    for (family, limit) in [(Family::V4, 1410), (Family::V6, 1390)] {
        for options in at_offsets {
            let frame = syn(family, options);
            let output = clamping().run(|gateway| run(gateway, POD_A, frame.clone()));
            assert_eq!(mss_of(&output, &frame), Some(limit), "{options:?}");
            let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame.clone()));
            assert_eq!(mss_of(&output, &frame), Some(1460), "without clamping");
            // An unfinished checksum is finished over the new value.
            let input = unfinished(frame.clone());
            let output = clamping().run(|gateway| run(gateway, POD_A, input));
            assert_eq!(
                mss_of(&output, &frame),
                Some(limit),
                "{options:?}, unfinished"
            );
        }
        for small in [limit, limit - 1, 536, 0] {
            let [high, low] = small.to_be_bytes();
            let frame = syn(family, &[2, 4, high, low]);
            let output = clamping().run(|gateway| run(gateway, POD_A, frame.clone()));
            assert_eq!(mss_of(&output, &frame), Some(small));
        }
        let frame = syn(family, &[]);
        let output = clamping().run(|gateway| run(gateway, POD_A, frame.clone()));
        assert_eq!(mss_of(&output, &frame), None);
    }
}

#[test]
fn unfinished_checksums_stay_so_where_the_mss_is_clamped_on_local_paths() {
    for family in [Family::V4, Family::V6] {
        let mut frame = syn(family, &[1, 2, 4, 5, 180, 0]);
        match family {
            Family::V4 => edit_ip(&mut frame, |header| header.destination = B),
            Family::V6 => edit_ip6(&mut frame, |header| header.destination = B6),
        }
        let input = unfinished(frame);
        let (mark, start) = (input.checksum, input.bytes.len());
        let pseudo = input.bytes[start - 12..].to_vec();
        let output = clamping().run(|gateway| run(gateway, POD_A, input));
        assert_eq!((output.fate, output.checksum), (Fate::Forward(POD_B), mark));
        // The checksum is the field behind the window, twelve bytes from the end.
        assert_eq!(output.bytes[start - 12..start - 10], pseudo[..2]);
        let limit: u16 = if family == Family::V4 { 1410 } else { 1390 };
        assert_eq!(output.bytes[start - 5..start - 3], limit.to_be_bytes());
    }
}

#[test]
fn only_syns_are_clamped_also_those_from_other_nodes() {
    let small = |gateway: &mut Gateway<'_>| {
        let pod = Operation::UpsertPort(Port {
            mtu: 1300,
            ..Node::new(1).pod(POD_A, 2)
        });
        gateway.apply(Owner::Attachment, &[pod]).unwrap();
    };
    let mut frame = syn(Family::V4, &[2, 4, 5, 180]);
    edit_ip(&mut frame, |header| {
        header.source = REMOTE;
        header.destination = A;
    });
    let mss = |flags: u8| {
        let mut frame = from_vtep(frame.clone());
        frame[47] = flags;
        let output = clamping().run(|gateway| {
            small(gateway);
            run(gateway, UNDERLAY, vxlan(&frame, 1))
        });
        assert_eq!(output.fate, Fate::Forward(POD_A));
        u16::from_be_bytes([output.bytes[56], output.bytes[57]])
    };
    // SYN, SYN and ACK, ACK, RST.
    assert_eq!([2, 0x12, 0x10, 4].map(mss), [1260, 1260, 1460, 1460]);
}
