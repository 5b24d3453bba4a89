//! Offload in software, for 44 TCP segments of 1,448 bytes: cutting a super-frame,
//! joining segments whose checksum must be read, and, as what both are measured
//! against, copying the bytes and nothing else.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use culvert_core::offload::{Accepts, Layout, Segments, Target, coalesce};
use culvert_core::wire::checksum;
use culvert_core::*;
use etherparse::{PacketBuilder, TcpHeader};

const SIZE: u16 = 1448;
const SEGMENTS: usize = 44;
const PAYLOAD: usize = SEGMENTS * SIZE as usize;
const SLOT: usize = Frame::HEADROOM + 2048;
const LARGE: usize = Frame::HEADROOM + 65_535;

/// A super-frame with a finished checksum.
fn super_frame() -> Vec<u8> {
    let payload: Vec<u8> = (0..=255).cycle().take(PAYLOAD).collect();
    let mut header = TcpHeader::new(40_000, 5201, 1, 512);
    header.ack = true;
    header.set_options_raw(&[1; 12]).expect("12 bytes");
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp_header(header)
        .write(&mut bytes, &payload)
        .expect("it fits");
    bytes
}

/// Cuts a super-frame, the segments one behind another in `out`.
fn cut(frame: &Frame<'_>, out: &mut [u8]) -> Vec<usize> {
    let mut segments = Segments::new(frame, Layout::ETHERNET).expect("a super-frame");
    let mut lengths = Vec::with_capacity(SEGMENTS);
    let mut at = 0;
    while let Some(len) = segments.write_next(&mut out[at..]) {
        lengths.push(len);
        at += len;
    }
    lengths
}

/// Joins the frames in `slots`, the first of which has room for all.
fn join(first: &mut [u8], slots: &mut [u8], lengths: &[usize]) -> usize {
    let buffers = std::iter::once(first).chain(slots.chunks_exact_mut(SLOT));
    let mut batch: Vec<_> = buffers
        .zip(lengths)
        .map(|(slot, len)| Frame::new(slot, Frame::HEADROOM, *len).expect("within its slot"))
        .map(Packet::new)
        .collect();
    let target = Target {
        port: PortId(0),
        accepts: Accepts::ALL,
        layout: Layout::ETHERNET,
    };
    coalesce(&mut batch, &mut std::iter::empty(), |_| Some(target))
}

fn offload(criterion: &mut Criterion) {
    let bytes = super_frame();
    let mut group = criterion.benchmark_group("offload");
    group.throughput(Throughput::Bytes(bytes.len() as u64));

    let mut copy = vec![0; bytes.len()];
    group.bench_function("copy", |bencher| {
        bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)));
    });
    group.bench_function("sum", |bencher| {
        bencher.iter(|| checksum::sum(black_box(&bytes)));
    });

    let mut buffer = bytes.clone();
    let mut frame = Frame::new(&mut buffer, 0, bytes.len()).expect("64 KB");
    frame.checksum = Checksum::Partial {
        start: 34,
        offset: 16,
    };
    frame.segmentation = Segmentation::TcpV4 { size: SIZE };
    let mut out = vec![0; 2 * bytes.len()];
    group.bench_function("cut", |bencher| {
        bencher.iter(|| assert_eq!(cut(black_box(&frame), &mut out).len(), SEGMENTS));
    });

    frame.checksum = Checksum::Verified;
    let lengths = cut(&frame, &mut out);
    let mut first = vec![0; LARGE];
    let mut slots = vec![0; SEGMENTS * SLOT];
    let mut at = 0;
    for (index, len) in lengths.iter().enumerate() {
        let slot = match index {
            0 => &mut first[..],
            index => &mut slots[(index - 1) * SLOT..],
        };
        slot[Frame::HEADROOM..][..*len].copy_from_slice(&out[at..at + len]);
        at += len;
    }
    let head = first[Frame::HEADROOM..][..lengths[0]].to_vec();
    group.bench_function("join", |bencher| {
        bencher.iter(|| {
            // Joining changed the first segment's headers.
            first[Frame::HEADROOM..][..head.len()].copy_from_slice(&head);
            let joined = join(&mut first, &mut slots, &lengths);
            assert_eq!(joined, SEGMENTS - 1);
        });
    });
    group.finish();
}

criterion_group!(benches, offload);
criterion_main!(benches);
