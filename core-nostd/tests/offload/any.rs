//! Any bytes with any marks: nothing panics, everything ends.

use culvert_core::offload::{self, Layout, MAX_SEGMENTS, Segments};
use culvert_core::{Checksum, Frame, Segmentation};
use proptest::prelude::*;

use crate::build::{Flow, bytes, frame};
use crate::cut::any_flow;
use crate::drive::{Item, join, to};

fn any_checksum() -> impl Strategy<Value = Checksum> {
    let near =
        (0u16..130, 0u16..20).prop_map(|(start, offset)| Checksum::Partial { start, offset });
    let any = any::<(u16, u16)>().prop_map(|(start, offset)| Checksum::Partial { start, offset });
    prop_oneof![Just(Checksum::None), Just(Checksum::Verified), near, any]
}

fn any_mark() -> impl Strategy<Value = Segmentation> {
    let size = prop_oneof![0u16..4, 0u16..2000, any::<u16>()];
    (0u8..4, size).prop_map(|(kind, size)| match kind {
        0 => Segmentation::None,
        1 => Segmentation::TcpV4 { size },
        2 => Segmentation::TcpV6 { size },
        _ => Segmentation::Udp { size },
    })
}

fn any_layout() -> impl Strategy<Value = Layout> {
    let near = (0u16..120, prop::option::of(0u16..60));
    let any = any::<(u16, Option<u16>)>();
    prop_oneof![near, any].prop_map(|(inner, outer)| Layout { inner, outer })
}

/// A super-frame some of whose bytes are others.
fn harmed(flow: &Flow, payload: &[u8], harm: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = flow.unfinished(payload);
    let headers = flow.payload();
    for (at, value) in harm {
        bytes[at.index(headers)] ^= value;
    }
    bytes
}

fn cut_all(frame: &Frame<'_>, layout: Layout) {
    let counted = offload::segments(frame);
    assert!(counted >= 1 && usize::try_from(counted).unwrap() <= frame.len().max(1));
    let Ok(mut segments) = Segments::new(frame, layout) else {
        return;
    };
    let len = segments.len();
    assert!((1..=usize::from(MAX_SEGMENTS)).contains(&len));
    let mut out = vec![0; frame.len()];
    for _ in 0..len {
        assert!(segments.write_next(&mut out).is_some());
    }
    assert_eq!(segments.write_next(&mut out), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_cut_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        checksum in any_checksum(),
        mark in any_mark(),
        layout in any_layout(),
    ) {
        let mut buffer = vec![0; Frame::HEADROOM + bytes.len()];
        let mut frame = frame(&mut buffer, &bytes);
        frame.checksum = checksum;
        frame.segmentation = mark;
        cut_all(&frame, layout);
    }

    #[test]
    fn harmed_super_frames_are_cut_or_refused(
        flow in any_flow(),
        len in prop_oneof![0usize..200, 0usize..60_000],
        harm in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        checksum in prop::option::of(any_checksum()),
        mark in any_mark(),
        own_mark in any::<bool>(),
        layout in prop::option::weighted(0.2, any_layout()),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = harmed(&flow, &bytes(1, len), &harm);
        if !own_mark {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let mut buffer = vec![0; Frame::HEADROOM + bytes.len()];
        let mut frame = frame(&mut buffer, &bytes);
        frame.checksum = checksum.unwrap_or(flow.partial());
        frame.segmentation = if own_mark { flow.mark(100) } else { mark };
        cut_all(&frame, layout.unwrap_or(flow.layout()));
    }

    #[test]
    fn any_batch_is_joined_or_left(
        flow in any_flow(),
        packets in prop::collection::vec((
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
            any_checksum(),
            any_mark(),
            any::<bool>(),
        ), 0..20),
        noise in prop::collection::vec(any::<u8>(), 0..100),
        layout in prop::option::weighted(0.2, any_layout()),
        tailroom in 0usize..2000,
    ) {
        let segments = flow.segments(&bytes(1, 2000), 100);
        let items: Vec<_> = packets.iter().zip(&segments).map(|((harm, checksum, mark, own), segment)| {
            let mut bytes = segment.clone();
            for (at, value) in harm {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
            }
            let mut item = Item::new(bytes, Checksum::Verified);
            if !own {
                item.checksum = *checksum;
                item.segmentation = *mark;
            }
            item
        }).chain([Item::new(noise.clone(), Checksum::None)]).collect();
        let layout = layout.unwrap_or(flow.layout());
        let left = join(&items, tailroom, &mut [vec![0; 3000]], |_| Some(to(layout)));
        // Payloads move, none appears or goes.
        let bytes = |items: &[Item]| items.iter().map(|item| item.bytes.len()).sum::<usize>();
        prop_assert!(bytes(&left) <= bytes(&items));
    }
}
