//! Super-frames are cut and segments joined: a sound super-frame is cut into what
//! etherparse builds, joining loses, invents and reorders nothing, and what makes no
//! sense is refused.

#[path = "../../tests/offload/build.rs"]
#[allow(unreachable_pub, dead_code, missing_docs, reason = "shared with tests")]
mod build;
#[path = "../../tests/offload/drive.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod drive;

use culvert_core::offload::{self, Layout, MAX_SEGMENTS, Segments};
use culvert_core::{Checksum, Frame, Segmentation};

use crate::Reader;
use build::{Flow, PLACES, Place, bytes, frame};
use drive::{Item, ROOM, cut, expand, join, to};

/// Packets in a batch at most.
const BATCH: usize = 32;

/// Cuts one super-frame, or joins one batch.
pub fn run(data: &[u8]) {
    let mut reader = Reader::new(data);
    match reader.below(4) {
        0 => cut_sound(&mut reader),
        1 => cut_any(&mut reader),
        2 => join_sound(&mut reader),
        _ => join_any(&mut reader),
    }
}

fn flow(reader: &mut Reader<'_>) -> Flow {
    let flags = reader.u16();
    let flag = |bit: u16| flags >> bit & 1 == 1;
    Flow {
        place: reader.pick(&PLACES),
        v6: flag(0),
        tcp: flag(1),
        number: 1,
        tos: reader.u8(),
        ttl: reader.u8(),
        ident: reader.u16(),
        df: flag(2),
        flow_label: reader.u32() >> 12,
        ip_options: reader.below(11) * 4,
        extension: flag(3),
        tcp_options: reader.below(11) * 4,
        sequence: reader.u32(),
        window: reader.u16(),
        fin: flag(4),
        psh: flag(5),
        cwr: flag(6),
        outer_ident: reader.u16(),
    }
}

/// A payload, and the size of a segment's.
fn payload(reader: &mut Reader<'_>, most: usize) -> (Vec<u8>, u16) {
    let (len, size) = (usize::from(reader.u16()) % (most + 1), reader.u16());
    let size = (1 + size % 1500).max(u16::try_from(len / 2000).expect("16 bits"));
    let len = match reader.flag() {
        false => len,
        true => len - len % usize::from(size),
    };
    (bytes(reader.u8().into(), len), size)
}

fn cut_sound(reader: &mut Reader<'_>) {
    let flow = flow(reader);
    let most = match reader.rarely(8) {
        false => 6000,
        true => 65_535,
    };
    let (mut payload, size) = payload(reader, most);
    payload.truncate(65_535 - flow.payload());
    let super_frame = flow.unfinished(&payload);
    let mut buffer = vec![0; Frame::HEADROOM + super_frame.len()];
    let mut frame = frame(&mut buffer, &super_frame);
    frame.checksum = flow.partial();
    frame.segmentation = flow.mark(size);
    let segments = cut(&frame, flow.layout()).expect("a sound super-frame is cut");
    let expected = flow.segments(&payload, size.into());
    assert!(segments == expected, "what etherparse builds");
    let counted = usize::try_from(offload::segments(&frame));
    assert_eq!(counted, Ok(segments.len()));
}

fn cut_any(reader: &mut Reader<'_>) {
    let flow = flow(reader);
    let (payload, size) = payload(reader, 4000);
    let mut bytes = match reader.rarely(4) {
        false => flow.unfinished(&payload),
        true => reader.take(usize::MAX).to_vec(),
    };
    harm(reader, &mut bytes);
    let mut buffer = vec![0; Frame::HEADROOM + bytes.len()];
    let mut frame = frame(&mut buffer, &bytes);
    frame.checksum = checksum(reader, &flow);
    frame.segmentation = mark(reader, &flow, size);
    let layout = layout(reader, &flow);
    let counted = usize::try_from(offload::segments(&frame)).expect("few");
    assert!((1..=bytes.len().max(1)).contains(&counted));
    let Ok(mut segments) = Segments::new(&frame, layout) else {
        return;
    };
    let len = segments.len();
    assert!((1..=usize::from(MAX_SEGMENTS)).contains(&len));
    let mut out = vec![0; bytes.len()];
    for _ in 0..len {
        let written = segments.write_next(&mut out);
        assert!(written.is_some_and(|written| written <= bytes.len()));
    }
    assert_eq!(segments.write_next(&mut out), None);
}

/// Changes some bytes of the headers, and the length.
fn harm(reader: &mut Reader<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..reader.below(4) {
        let at = usize::from(reader.u8());
        let value = reader.u8();
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= value;
        }
    }
    if reader.rarely(4) {
        bytes.truncate(reader.u16().into());
    }
}

fn checksum(reader: &mut Reader<'_>, flow: &Flow) -> Checksum {
    match reader.below(8) {
        0 => Checksum::None,
        1 => Checksum::Verified,
        2 => Checksum::Partial {
            start: reader.u16(),
            offset: reader.u16(),
        },
        3 => Checksum::Partial {
            start: reader.u8().into(),
            offset: reader.u8().into(),
        },
        _ => flow.partial(),
    }
}

fn mark(reader: &mut Reader<'_>, flow: &Flow, size: u16) -> Segmentation {
    match reader.below(8) {
        0 => Segmentation::None,
        1 => Segmentation::TcpV4 { size },
        2 => Segmentation::TcpV6 { size },
        3 => Segmentation::Udp { size },
        4 => flow.mark(reader.u16()),
        _ => flow.mark(size),
    }
}

fn layout(reader: &mut Reader<'_>, flow: &Flow) -> Layout {
    match reader.rarely(4) {
        false => flow.layout(),
        true => Layout {
            inner: reader.u8().into(),
            outer: reader.flag().then(|| u16::from(reader.u8())),
        },
    }
}

/// Flows side by side, with packets changed, lost and doubled: cut again, each flow
/// has all its packets in order, and no byte of them is another.
fn join_sound(reader: &mut Reader<'_>) {
    let count = u8::try_from(1 + reader.below(3)).expect("small");
    let flows: Vec<_> = (0..count)
        .map(|number| {
            let flow = Flow {
                number,
                place: Place::Ethernet,
                ..flow(reader)
            };
            let (mut payload, size) = payload(reader, 3000);
            payload.push(number);
            (flow.segments(&payload, size.max(100).into()), flow)
        })
        .collect();
    let mut next = vec![0; flows.len()];
    let mut items = Vec::new();
    while items.len() < BATCH && !reader.is_empty() {
        let which = reader.below(flows.len());
        let change = reader.below(16);
        let (segments, flow) = &flows[which];
        let mut segment = segments[next[which] % segments.len()].clone();
        next[which] += if change == 2 { 2 } else { 1 };
        let mut checksum = Checksum::None;
        match change {
            0 => {
                let at = flow.transport() + flow.checksum_offset();
                segment[at] ^= 1;
            }
            1 => {
                let at = usize::from(reader.u16()) % (segment.len() - flow.transport() - 4);
                segment[flow.transport() + 4 + at] ^= 1 << reader.below(8);
            }
            3 => segment.push(0),
            4 => {
                segment = flow.unfinish(segment);
                checksum = flow.partial();
            }
            _ => {}
        }
        let mut item = Item::new(segment, checksum);
        item.outer = None;
        items.push((which, item));
    }
    let batch: Vec<_> = items.iter().map(|(_, item)| item.clone()).collect();
    let tailroom = reader.pick(&[0, 1000, 4000, ROOM]);
    let mut spares = vec![vec![0; ROOM]; reader.below(2)];
    let left = join(&batch, tailroom, &mut spares, |_| {
        Some(to(Layout::ETHERNET))
    });
    for (number, (_, flow)) in flows.iter().enumerate() {
        let of_flow = |(which, _): &&(usize, Item)| *which == number;
        let sent = items.iter().filter(of_flow);
        let sent: Vec<_> = sent.map(|(_, item)| finished(item, flow)).collect();
        let left = items.iter().zip(&left);
        let left = left.filter(|((which, _), left)| *which == number && !left.bytes.is_empty());
        let got: Vec<_> = left
            .flat_map(|(_, left)| match left.segmentation {
                Segmentation::None => vec![finished(left, flow)],
                _ => expand(left, Layout::ETHERNET),
            })
            .collect();
        assert!(got == sent, "flow {number}");
    }
}

/// The packet with its checksum made.
fn finished(item: &Item, flow: &Flow) -> Vec<u8> {
    let mut bytes = item.bytes.clone();
    if let Checksum::Partial { start, offset } = item.checksum {
        let start = usize::from(start);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[start..]);
        let mut sum = sum.ones_complement();
        if sum == 0 && !flow.tcp {
            sum = 0xffff;
        }
        let field = start + usize::from(offset);
        bytes[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
    }
    bytes
}

/// Any packets with any marks: nothing panics, and no bytes appear.
fn join_any(reader: &mut Reader<'_>) {
    let flow = flow(reader);
    let (payload, size) = payload(reader, 2000);
    let segments = flow.segments(&payload, size.max(100).into());
    let items: Vec<_> = segments
        .iter()
        .take(BATCH)
        .map(|segment| {
            let mut bytes = segment.clone();
            harm(reader, &mut bytes);
            let mut item = Item::new(bytes, Checksum::Verified);
            if reader.flag() {
                item.checksum = checksum(reader, &flow);
                item.segmentation = match reader.rarely(4) {
                    false => Segmentation::None,
                    true => mark(reader, &flow, size),
                };
            }
            item
        })
        .collect();
    let layout = layout(reader, &flow);
    let left = join(&items, reader.u16().into(), &mut [], |_| Some(to(layout)));
    let bytes = |items: &[Item]| items.iter().map(|item| item.bytes.len()).sum::<usize>();
    assert!(bytes(&left) <= bytes(&items));
}
