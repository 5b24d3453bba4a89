//! IPv4 packets that are larger than the next hop's MTU and may be cut (RFC 791).

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;
use etherparse::{IpFragOffset, Ipv4Header};
use proptest::prelude::*;

/// A UDP packet without DF whose IP packet has `len` bytes and a known identification.
fn cuttable(dst: [u8; 4], len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..=255).cycle().take(len - 28).collect();
    let mut frame = udp(MAC_A, A, dst, &payload);
    edit_ip(&mut frame, |header| {
        header.dont_fragment = false;
        header.identification = 0xbeef;
    });
    frame
}

/// A pod B with this MTU, reached by IPv4 only (IPv6 has a least MTU).
fn pod_b(mtu: u16) -> Operation {
    Operation::UpsertPort(Port {
        mtu,
        ..pod(POD_B, MAC_B, "10.244.1.3")
    })
}

/// Header and payload of each fragment, in the order of their offsets.
fn fragments(output: &Output, mtu: u16) -> Vec<(Ipv4Header, Vec<u8>)> {
    let mut all: Vec<_> = output
        .all()
        .iter()
        .map(|made| {
            let packet = ip_packet(made);
            let (header, payload) = Ipv4Header::from_slice(packet).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), packet.len(), "no padding");
            assert!(header.total_len <= mtu, "{} in {mtu}", header.total_len);
            (header, payload.to_vec())
        })
        .collect();
    all.sort_by_key(|(header, _)| header.fragment_offset.value());
    all
}

/// Joins fragments that follow each other without a gap.
fn joined(fragments: &[(Ipv4Header, Vec<u8>)], from: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, payload) in fragments {
        let at = usize::from(header.fragment_offset.value() - from) * 8;
        assert_eq!(at, out.len(), "a gap or an overlap");
        out.extend(payload);
    }
    out
}

#[test]
fn a_packet_is_fragmented_for_every_mtu_from_68_to_1500() {
    let frame = cuttable(B, 1501);
    for mtu in 68..=1500 {
        Node::new(1).run(|gateway| {
            gateway.apply(Owner::Attachment, &[pod_b(mtu)]).unwrap();
            let output = Shell::with_spares(40).run(gateway, POD_A, frame.clone());
            let parts = fragments(&output, mtu);
            let needed = 1481usize.div_ceil(usize::from(mtu - 20) & !7);
            assert_eq!(parts.len(), needed, "no more fragments than needed");
            assert_eq!(joined(&parts, 0), frame[34..], "MTU {mtu}");
            for (index, (header, _)) in parts.iter().enumerate() {
                assert_eq!(header.more_fragments, index + 1 < needed);
                assert_eq!((header.source, header.destination), (A, B));
                assert_eq!((header.identification, header.time_to_live), (0xbeef, 63));
                assert!(!header.dont_fragment);
            }
            let made = u64::try_from(needed - 1).unwrap();
            assert_eq!(gateway.counter(Counter::Originated), made);
            assert_eq!(gateway.counter(Counter::ForwardEndpoint), 1);
            for (port, bytes, _) in output.all() {
                assert_eq!((port, &bytes[..6]), (POD_B, &MAC_B[..]));
                assert_eq!(
                    (&bytes[6..12], &bytes[12..14]),
                    (&GATEWAY_MAC[..], &[8, 0][..])
                );
            }
        });
    }
}

#[test]
fn fragments_of_a_packet_share_the_outer_source_port_and_fit_the_underlay() {
    for (underlay, encap) in [
        (Family::V4, Encap::Vxlan),
        (Family::V6, Encap::Vxlan),
        (Family::V4, Encap::Ipip),
        (Family::V6, Encap::Ipip),
    ] {
        let node = Node {
            underlay,
            encap,
            ..Node::new(1)
        };
        let frame = cuttable([10, 244, 2, 2], 6000);
        let output = node.run(|gateway| run(gateway, POD_A, frame.clone()));
        let parts = fragments(&output, 1500 - node.overhead());
        assert!(parts.len() == 5, "{} fragments", parts.len());
        assert_eq!(joined(&parts, 0), frame[34..]);
        let outers: Vec<_> = output.all().iter().map(|made| made.2.unwrap()).collect();
        assert!(outers.iter().all(|outer| *outer == outers[0]), "{outers:?}");
        for made in output.all() {
            assert_eq!(made.0, UNDERLAY);
            verified(&inner_frame(&made));
        }
    }
}

#[test]
fn only_options_with_the_copied_flag_are_in_later_fragments() {
    // No operation, record route (not copied), router alert (copied), a stream
    // identifier (copied), end.
    let options = [
        &[1][..],
        &[7, 7, 4, 0, 0, 0, 0],
        &[148, 4, 0, 1],
        &[136, 4, 9, 9],
    ]
    .concat();
    let frame = with_options(cuttable(REMOTE, 3000), &options);
    let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame.clone()));
    let parts = fragments(&output, 1450);
    assert_eq!(parts[0].0.options.as_slice(), options);
    for (header, _) in &parts[1..] {
        assert_eq!(header.options.as_slice(), [148, 4, 0, 1, 136, 4, 9, 9]);
    }
    assert_eq!(joined(&parts, 0), frame[50..]);
}

#[test]
fn options_that_end_early_or_make_no_sense_are_not_copied() {
    for options in [
        [0, 148, 4, 0],
        [148, 0, 0, 0],
        [148, 1, 148, 1],
        [148, 60, 0, 0],
        [1, 1, 1, 1],
    ] {
        let frame = with_options(cuttable(REMOTE, 2000), &options);
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame.clone()));
        let parts = fragments(&output, 1450);
        assert_eq!(parts[0].0.options.as_slice(), options);
        assert_eq!(parts[1].0.options.as_slice(), [0u8; 0]);
        assert_eq!(joined(&parts, 0), frame[38..]);
    }
}

#[test]
fn fragments_of_fragments_keep_their_place_and_the_flag_of_the_last() {
    for (offset, more) in [(0, true), (200, true), (200, false), (8191 - 260, false)] {
        let mut frame = cuttable(REMOTE, 2020);
        edit_ip(&mut frame, |header| {
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            header.more_fragments = more;
        });
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, frame.clone()));
        let parts = fragments(&output, 1450);
        assert_eq!(parts.len(), 2);
        assert_eq!(joined(&parts, offset), frame[34..]);
        assert_eq!(parts[0].0.fragment_offset.value(), offset);
        let flags = parts.iter().map(|(header, _)| header.more_fragments);
        assert!(flags.eq([true, more]));
    }
}

/// A fragment that reaches beyond the largest packet belongs to none. Cut by a
/// gateway its offset would begin anew: a first fragment, ports and all, that no
/// guard has seen.
#[test]
fn a_fragment_beyond_the_largest_packet_is_dropped() {
    let beyond = |offset, len| {
        let mut frame = cuttable(REMOTE, len);
        edit_ip(&mut frame, |header| {
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        });
        frame
    };
    // The second part of 1450 - 20 bytes would be at offset 0.
    for (offset, len) in [(8192 - 178, 1600), (8191, 1600), (8191, 28), (8000, 1536)] {
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, beyond(offset, len)));
        assert_eq!(
            output.fate,
            Fate::Drop(DropReason::Ipv4TotalLength),
            "{offset}"
        );
        assert!(output.made.is_empty());
    }
    let output = Node::new(1).run(|gateway| run(gateway, POD_A, beyond(8000, 1535)));
    assert_eq!(output.made.len(), 1);
}

#[test]
fn an_unfinished_checksum_is_finished_before_the_packet_is_cut() {
    for make in [udp, tcp] {
        let mut frame = make(MAC_A, A, REMOTE, &[0xc3; 3001]);
        edit_ip(&mut frame, |header| header.dont_fragment = false);
        let whole = frame.clone();
        let output = Node::new(1).run(|gateway| run(gateway, POD_A, unfinished(frame)));
        assert_eq!(output.checksum, Checksum::None);
        assert_eq!(joined(&fragments(&output, 1450), 0), whole[34..]);
    }
}

#[test]
fn without_spares_for_all_fragments_none_is_sent() {
    // Five fragments.
    let frame = cuttable(REMOTE, 6000);
    for spares in 0..=4 {
        Node::new(1).run(|gateway| {
            let output = Shell::with_spares(spares).run(gateway, POD_A, frame.clone());
            match spares {
                4 => assert_eq!(output.made.len(), 4),
                _ => {
                    let reason = DropReason::FragmentSpares;
                    assert_eq!(output.fate, Fate::Drop(reason));
                    assert!(output.made.is_empty());
                    assert_eq!(gateway.counter(Counter::Originated), 0);
                    assert_eq!(gateway.counter(Counter::Drop(reason)), 1);
                }
            }
        });
    }
}

/// What fails leaves the spare frames as it found them: the next packet of the
/// batch has use for them.
#[test]
fn spares_are_not_worn_out_by_packets_that_could_not_be_cut() {
    let mut shell = Shell::with_spares(3);
    shell.spares[2] = Frame::HEADROOM + 100;
    let (four, two) = (cuttable(REMOTE, 5000), cuttable(REMOTE, 2000));
    let mut batch = vec![Input::from(four); 40];
    batch.push(two.into());
    Node::new(1).run(|gateway| {
        let (outputs, made) = shell.run_batch(gateway, POD_A, batch);
        let (last, failed) = outputs.split_last().unwrap();
        let reason = Fate::Drop(DropReason::FragmentSpares);
        assert!(failed.iter().all(|output| output.fate == reason));
        assert_eq!((last.fate, made.len()), (Fate::Forward(UNDERLAY), 1));
        verified(&inner_frame(&made[0]));
    });
}

#[test]
fn packets_from_host_and_underlay_are_fragmented_too() {
    let inner = |frame: Vec<u8>| {
        let mut frame = from_vtep(frame);
        edit_ip(&mut frame, |header| {
            header.source = REMOTE;
            header.dont_fragment = false;
        });
        frame
    };
    let from_host = |mut frame: Vec<u8>| {
        frame[6..12].copy_from_slice(&HOST_MAC);
        edit_ip(&mut frame, |header| header.source = NODE_1);
        frame
    };
    let frame = cuttable(B, 1400);
    let cases = [
        (HOST, Input::from(from_host(frame.clone()))),
        (UNDERLAY, vxlan(&inner(frame.clone()), 1)),
    ];
    for (port, input) in cases {
        Node::new(1).run(|gateway| {
            gateway.apply(Owner::Attachment, &[pod_b(600)]).unwrap();
            let output = run(gateway, port, input);
            let parts = fragments(&output, 600);
            assert_eq!(parts.len(), 3);
            assert_eq!(joined(&parts, 0), frame[34..]);
        });
    }
}

proptest! {
    #[test]
    fn fragments_join_to_the_packet_they_were(
        len in 1000usize..9000, mtu in 68u16..900, offset in 0u16..7000, more: bool,
        options in prop::collection::vec(prop::sample::select(vec![0u8, 1, 3, 4, 7, 68, 136, 148]), 0..=40),
    ) {
        let options = &options[..options.len() / 4 * 4];
        let mut frame = with_options(cuttable(B, len), options);
        edit_ip(&mut frame, |header| {
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            header.more_fragments = more;
        });
        let output = Node::new(1).run(|gateway| {
            gateway.apply(Owner::Attachment, &[pod_b(mtu)]).unwrap();
            Shell::with_spares(1200).run(gateway, POD_A, frame.clone())
        });
        if output.fate == Fate::Drop(DropReason::Ipv4TotalLength) {
            prop_assert!(usize::from(offset) * 8 + frame.len() - 14 > 65_535);
            return Ok(());
        }
        let parts = fragments(&output, mtu);
        prop_assert_eq!(joined(&parts, offset), &frame[34 + options.len()..]);
        prop_assert_eq!(parts.iter().filter(|(header, _)| !header.more_fragments).count(), usize::from(!more));
    }
}
