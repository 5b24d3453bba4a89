//! Joining: what cutting gave is joined again, and what was joined is cut again.

use std::collections::BTreeMap;

use culvert_core::offload::{Accepts, Layout, MAX_DATAGRAMS, Target};
use culvert_core::{Checksum, Frame, Outer, OuterL4, PortId};
use proptest::prelude::*;

use crate::build::{Flow, Place, bytes};
use crate::cut::{any_flow, any_payload};
use crate::drive::{Item, ROOM, expand, join, to};

/// Joins with room everywhere; returns the frames that are left.
fn join_all(items: &[Item], layout: Layout) -> Vec<Item> {
    let mut all = join(items, 65_535, &mut [], |_| Some(to(layout)));
    all.retain(|item| !item.bytes.is_empty());
    all
}

/// How many frames are left of plain TCP segments after one was changed.
fn left_after(flow: &Flow, change: impl Fn(&mut Vec<Item>)) -> usize {
    let segments = flow.segments(&bytes(4, 4000), 1000);
    let mut items: Vec<_> = segments
        .into_iter()
        .map(|segment| Item::new(segment, Checksum::Verified))
        .collect();
    change(&mut items);
    join_all(&items, flow.layout()).len()
}

/// Without what ends a super-frame early or is never joined.
fn steady(flow: Flow) -> Flow {
    let place = match flow.place {
        Place::Vxlan { .. } | Place::Ipip { .. } => Place::Ip,
        place => place,
    };
    Flow {
        place,
        fin: false,
        cwr: false,
        ..flow
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_cut_is_joined_again(
        flow in any_flow(),
        (mut payload, size) in any_payload(),
        states in any::<u64>(),
    ) {
        let flow = steady(flow);
        payload.truncate(65_535 - flow.payload());
        let size = if flow.tcp { size } else {
            size.max(u16::try_from(payload.len().div_ceil(usize::from(MAX_DATAGRAMS))).unwrap())
        };
        let segments = flow.segments(&payload, usize::from(size));
        let count = segments.len();
        let items: Vec<_> = segments.into_iter().enumerate().map(|(index, segment)| {
            match states >> (index % 32 * 2) & 3 {
                0 => Item::new(segment, Checksum::Verified),
                1 => Item::new(flow.unfinish(segment), flow.partial()),
                _ => Item::new(segment, Checksum::None),
            }
        }).collect();
        // A buffer behind the first frame or a spare one, as small as can be.
        let room = flow.payload() + payload.len();
        let mut spares = [vec![0; Frame::HEADROOM + room]];
        let (tailroom, spares) = match states & 1 {
            0 => (room - items[0].bytes.len(), &mut [][..]),
            _ => (0, &mut spares[..]),
        };
        let left = join(&items, tailroom, spares, |_| Some(to(flow.layout())));
        if count == 1 {
            prop_assert_eq!(left, items);
        } else {
            prop_assert!(left[1..].iter().all(|item| item.bytes.is_empty()));
            prop_assert_eq!(left[0].checksum, flow.partial());
            prop_assert_eq!(left[0].segmentation, flow.mark(size));
            prop_assert!(left[0].bytes == flow.unfinished(&payload));
        }
    }

    /// Flows side by side, with packets changed, lost and doubled: cut again, each
    /// flow has all its packets in order, and no byte of them is another.
    #[test]
    fn what_was_joined_is_cut_again(
        flows in prop::collection::vec((any_flow(), 1usize..3000, 1u16..700, any::<u64>()), 1..24),
        schedule in prop::collection::vec(
            (any::<prop::sample::Index>(), 1usize..8, 0u8..24, any::<prop::sample::Index>()), 1..48),
        tailroom in prop_oneof![Just(0usize), 0usize..3000, Just(65_535)],
        spare in prop::collection::vec(Just(ROOM), 0..3),
    ) {
        let flows: Vec<_> = flows.into_iter().zip(0u8..).map(|((flow, len, size, seed), number)| {
            let flow = Flow { number, place: Place::Ethernet, ..steady(flow) };
            let size = size.max(u16::try_from(len / 20).unwrap());
            (flow.segments(&bytes(seed, len), usize::from(size)), flow)
        }).collect();
        let mut next = vec![0; flows.len()];
        let mut items = Vec::new();
        for (which, run, change, place) in schedule {
            let which = which.index(flows.len());
            let (segments, flow) = &flows[which];
            for _ in 0..run {
                let number = &mut next[which];
                let mut segment = segments[*number % segments.len()].clone();
                *number += if change == 2 { 2 } else { 1 };
                let at = place.index(segment.len());
                // With another address, port or extension header it belongs to another
                // flow, and so do all with the same change.
                let addresses = if flow.v6 { 22 } else { 26 };
                let strange = change == 0 && (addresses..flow.transport() + 4).contains(&at);
                let which = if strange { 10_000 * (which + 1) + at } else { which };
                match change {
                    0 => segment[at] ^= 1,
                    1 => segment[flow.transport() + flow.checksum_offset()] ^= 1,
                    3 => segment.push(0),
                    4 => segment.truncate(at),
                    _ => {}
                }
                items.push((which, Item::new(segment, Checksum::None)));
            }
        }
        let batch: Vec<_> = items.iter().map(|(_, item)| item.clone()).collect();
        let mut spares: Vec<_> = spare.into_iter().map(|len| vec![0; len]).collect();
        let left = join(&batch, tailroom, &mut spares, |_| Some(to(Layout::ETHERNET)));
        let mut sent = BTreeMap::<usize, Vec<Vec<u8>>>::new();
        let mut got = BTreeMap::<usize, Vec<Vec<u8>>>::new();
        for ((which, item), left) in items.into_iter().zip(&left) {
            sent.entry(which).or_default().push(item.bytes);
            if !left.bytes.is_empty() {
                got.entry(which).or_default().extend(expand(left, Layout::ETHERNET));
            }
        }
        // Truncating may have left nothing of a frame: it is still nothing.
        for packets in sent.values_mut() {
            packets.retain(|packet| !packet.is_empty());
        }
        sent.retain(|_, packets| !packets.is_empty());
        prop_assert_eq!(got, sent);
    }
}

#[test]
fn segments_of_all_kinds_are_joined() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        assert_eq!(left_after(&Flow::plain(v6, tcp), |_| {}), 1);
    }
}

#[test]
fn a_corrupted_packet_is_never_joined() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let segments = flow.segments(&bytes(4, 3000), 1000);
        let items: Vec<_> = segments
            .iter()
            .map(|s| Item::new(s.clone(), Checksum::None))
            .collect();
        assert_eq!(join_all(&items, flow.layout()).len(), 1);
        for which in 0..3 {
            // Behind the IP header, one bit anywhere.
            for at in flow.transport()..segments[which].len() {
                let mut items = items.clone();
                items[which].bytes[at] ^= 0x10;
                let left = join_all(&items, flow.layout());
                assert!(left.contains(&items[which]), "packet {which} byte {at}");
            }
        }
        // An unfinished checksum whose field does not hold the sum.
        let mut items: Vec<_> = segments
            .iter()
            .map(|s| Item::new(flow.unfinish(s.clone()), flow.partial()))
            .collect();
        assert_eq!(join_all(&items, flow.layout()).len(), 1);
        items[1].bytes[flow.transport() + flow.checksum_offset()] ^= 1;
        assert_eq!(join_all(&items, flow.layout()), items);
    }
}

#[test]
fn only_what_differs_in_nothing_visible_is_joined() {
    type Change = fn(&mut Flow);
    let all: [Change; 3] = [
        |flow| flow.tos ^= 1,
        |flow| flow.ttl -= 1,
        |flow| flow.number += 1,
    ];
    let v4: [Change; 3] = [
        |flow| flow.ident = flow.ident.wrapping_add(1),
        |flow| flow.df = false,
        |flow| flow.ip_options = 4,
    ];
    let v6: [Change; 1] = [|flow| flow.flow_label = 5];
    let tcp: [Change; 5] = [
        |flow| flow.sequence += 1,
        |flow| flow.sequence -= 1,
        |flow| flow.window += 1,
        |flow| flow.tcp_options = 16,
        |flow| flow.fin = true,
    ];
    for (is_v6, is_tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(is_v6, is_tcp);
        let by_version: &[Change] = if is_v6 { &v6 } else { &v4 };
        let by_protocol: &[Change] = if is_tcp { &tcp } else { &[] };
        for (number, change) in all.iter().chain(by_version).chain(by_protocol).enumerate() {
            let mut other = flow.clone();
            change(&mut other);
            let second = other.segment(1, 1000, true, &bytes(2, 1000));
            let left = left_after(&flow, |items| {
                items.truncate(2);
                items[1].bytes = second.clone();
            });
            assert_eq!(left, 2, "v6 {is_v6}, TCP {is_tcp}, change {number}");
        }
    }
}

#[test]
fn every_bit_of_the_headers_keeps_packets_apart() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let ip_options = if v6 { 0 } else { 8 };
        let flow = Flow {
            ip_options,
            ..Flow::plain(v6, tcp)
        };
        assert_eq!(left_after(&flow, |_| {}), 1);
        let checksum = flow.transport() + flow.checksum_offset();
        for bit in 0..flow.payload() * 8 {
            let (at, mask) = (bit / 8, 0x80 >> (bit % 8));
            // Made right again, vouched for, and PSH.
            let ipv4_checksum = !v6 && (24..26).contains(&at);
            let psh = tcp && (at, mask) == (flow.transport() + 13, 8);
            if ipv4_checksum || (checksum..checksum + 2).contains(&at) || psh {
                continue;
            }
            let left = left_after(&flow, |items| {
                let bytes = &mut items[1].bytes;
                bytes[at] ^= mask;
                if !v6 {
                    bytes[24..26].fill(0);
                    let header = &bytes[14..flow.transport()];
                    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header);
                    bytes[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
                }
            });
            assert!(left > 1, "v6 {v6}, TCP {tcp}, byte {at}, mask {mask:#x}");
        }
    }
}

#[test]
fn flags_other_than_ack_and_psh_are_not_joined() {
    let flow = Flow::plain(false, true);
    let flags = flow.transport() + 13;
    for (which, value, left) in [
        // PSH ends a super-frame: before the second, behind the second.
        (0, 0x18, 2),
        (1, 0x18, 2),
        (3, 0x18, 1),
        (1, 0x11, 3),
        (1, 0x12, 3),
        (1, 0x14, 3),
        (1, 0x30, 3),
        (1, 0x50, 3),
        (1, 0x90, 3),
        (1, 0x00, 3),
        (0, 0x90, 2),
    ] {
        let got = left_after(&flow, |items| items[which].bytes[flags] = value);
        assert_eq!(got, left, "packet {which} with {value:#04x}");
    }
    // The bit beside them, once a nonce and now accurate ECN's.
    assert_eq!(left_after(&flow, |items| items[1].bytes[flags - 1] |= 1), 3);
}

#[test]
fn a_short_packet_is_the_last_and_a_long_one_the_first() {
    for v6 in [false, true] {
        let udp = Flow::plain(v6, false);
        let items: Vec<_> = [700, 700, 300, 700, 700, 900, 100, 100]
            .iter()
            .zip(0u16..)
            .map(|(len, index)| {
                Item::new(udp.segment(index, 0, true, &bytes(1, *len)), Checksum::None)
            })
            .collect();
        let left = join_all(&items, udp.layout());
        let payloads: Vec<_> = left
            .iter()
            .map(|item| item.bytes.len() - udp.payload())
            .collect();
        assert_eq!(payloads, [1700, 1400, 1000, 100]);
    }
}

#[test]
fn packets_without_payload_are_not_joined_and_end_the_super_frame() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let left = left_after(&flow, |items| {
            let empty = flow.segment(2, 2000, false, &[]);
            items.insert(2, Item::new(empty, Checksum::Verified));
        });
        assert_eq!(left, 3);
    }
}

#[test]
fn udp_without_a_checksum_is_not_joined() {
    let flow = Flow::plain(false, false);
    let field = flow.transport() + 6;
    for checksum in [Checksum::None, Checksum::Verified] {
        let left = left_after(&flow, |items| {
            for item in items {
                item.bytes[field..field + 2].fill(0);
                item.checksum = checksum;
            }
        });
        assert_eq!(left, 4);
    }
}

#[test]
fn limits_end_a_super_frame() {
    let count = usize::from(MAX_DATAGRAMS) * 2 + 1;
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let small = flow.segments(&bytes(1, count * 10), 10);
        let items: Vec<_> = small
            .into_iter()
            .map(|s| Item::new(s, Checksum::None))
            .collect();
        assert_eq!(
            join_all(&items, flow.layout()).len(),
            if tcp { 1 } else { 3 }
        );
        // 65,535 bytes of IP packet, and of frame.
        for place in [Place::Ip, Place::VxlanSocket] {
            let flow = Flow {
                place,
                ..flow.clone()
            };
            let payload = bytes(2, 1400);
            let items: Vec<_> = (0..60u16)
                .map(|index| flow.segment(index, usize::from(index) * 1400, true, &payload))
                .map(|segment| Item::new(segment, Checksum::None))
                .collect();
            let left = join_all(&items, flow.layout());
            assert_eq!(left.len(), 2);
            let fits = (65_535 - flow.payload()) / 1400;
            assert_eq!(left[0].bytes.len(), flow.payload() + fits * 1400);
        }
    }
}

#[test]
fn a_packet_of_no_known_flow_ends_every_super_frame() {
    let flow = Flow::plain(false, true);
    let mut fragment = flow.segment(1, 1000, false, &bytes(1, 1000));
    fragment[20] = 0x20;
    fragment[24..26].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&fragment[14..34]);
    fragment[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    for stranger in [fragment, vec![2; 60], vec![1]] {
        let left = left_after(&flow, |items| {
            items.insert(2, Item::new(stranger.clone(), Checksum::None));
        });
        assert_eq!(left, 3);
    }
}

#[test]
fn more_flows_than_can_be_remembered_lose_nothing() {
    let flows: Vec<_> = (0..40)
        .map(|number| Flow {
            number,
            ..Flow::plain(false, true)
        })
        .collect();
    let round = |round: u16| {
        flows.iter().map(move |flow| {
            let segment = flow.segment(round, usize::from(round) * 500, true, &bytes(1, 500));
            Item::new(segment, Checksum::None)
        })
    };
    let side_by_side: Vec<_> = (0..3).flat_map(round).collect();
    assert_eq!(join_all(&side_by_side, Layout::ETHERNET), side_by_side);
    let of_16: Vec<_> = (0..3).flat_map(|r| round(r).take(16)).collect();
    assert_eq!(join_all(&of_16, Layout::ETHERNET).len(), 16);
}

#[test]
fn only_what_a_device_takes_for_one_port_is_joined() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let items: Vec<_> = flow
            .segments(&bytes(4, 4000), 1000)
            .into_iter()
            .map(|segment| Item::new(segment, Checksum::None))
            .collect();
        let left = |target: &dyn Fn(usize) -> Option<Target>| {
            let next = std::cell::Cell::new(0);
            let all = join(&items, 65_535, &mut [], |_| {
                target(next.replace(next.get() + 1))
            });
            all.iter().filter(|item| !item.bytes.is_empty()).count()
        };
        let all = to(flow.layout());
        assert_eq!(left(&|_| Some(all)), 1);
        assert_eq!(left(&|_| None), 4);
        for (tcp_v4, tcp_v6, udp) in [
            (true, false, false),
            (false, true, false),
            (false, false, true),
        ] {
            let accepts = Accepts {
                tcp_v4,
                tcp_v6,
                udp,
            };
            let taken = if tcp {
                v6 && tcp_v6 || !v6 && tcp_v4
            } else {
                udp
            };
            let expected = if taken { 1 } else { 4 };
            assert_eq!(left(&|_| Some(Target { accepts, ..all })), expected);
        }
        let port = |index: usize| PortId(u16::try_from(index % 2).unwrap());
        // Of UDP over IPv6 nothing says that a datagram is missing.
        let expected = if v6 && !tcp { 2 } else { 4 };
        let alternating = left(&|index| {
            Some(Target {
                port: port(index),
                ..all
            })
        });
        assert_eq!(alternating, expected);
        let layout = Layout {
            outer: Some(0),
            ..flow.layout()
        };
        assert_eq!(left(&|_| Some(Target { layout, ..all })), 4);
    }
}

#[test]
fn frames_for_different_tunnels_are_not_joined() {
    let outer = |tos| Outer {
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        l4: OuterL4::Udp {
            src_port: 50_000,
            dst_port: 4789,
            checksum: true,
        },
        tos,
        ttl: 64,
        df: true,
    };
    let flow = Flow {
        place: Place::VxlanSocket,
        ..Flow::plain(true, true)
    };
    let left = |second| {
        left_after(&flow, |items| {
            for (item, tos) in items.iter_mut().zip([0, second, 0, 0]) {
                item.outer = Some(outer(tos));
            }
        })
    };
    assert_eq!((left(0), left(4)), (1, 3));
    // Another VNI, another MAC address.
    for at in [6, 9] {
        assert_eq!(left_after(&flow, |items| items[1].bytes[at] ^= 1), 3);
    }
}

#[test]
fn super_frames_are_left_as_they_are() {
    let flow = Flow::plain(false, true);
    let left = left_after(&flow, |items| items[1].segmentation = flow.mark(500));
    assert_eq!(left, 3);
}

#[test]
fn without_room_nothing_is_lost() {
    let flow = Flow::plain(false, true);
    let items: Vec<_> = flow
        .segments(&bytes(4, 4000), 1000)
        .into_iter()
        .map(|segment| Item::new(segment, Checksum::None))
        .collect();
    let count = |tailroom, sizes: &[usize]| {
        let mut spares: Vec<_> = sizes.iter().map(|size| vec![0; *size]).collect();
        let left = join(&items, tailroom, &mut spares, |_| Some(to(flow.layout())));
        let cut: Vec<_> = left
            .iter()
            .filter(|item| !item.bytes.is_empty())
            .flat_map(|item| expand(item, flow.layout()))
            .collect();
        assert!(cut.iter().eq(items.iter().map(|item| &item.bytes)));
        left.iter().filter(|item| !item.bytes.is_empty()).count()
    };
    assert_eq!(count(999, &[]), 4);
    assert_eq!(count(1000, &[]), 2);
    assert_eq!(count(0, &[10, 0, 1500]), 4);
    assert_eq!(count(0, &[Frame::HEADROOM + flow.payload() + 3000]), 2);
    assert_eq!(count(0, &[ROOM]), 1);
}
