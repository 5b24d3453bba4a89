//! A packet's way through the core: 64-byte frames in batches of 64, from a pod
//! into a tunnel and from a tunnel to a pod, over tables of several sizes; and the
//! same job written with etherparse and prefix-trie, in the same run.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use culvert_benches::reference::Node;
use culvert_benches::scene::{self, BATCH, Frames, STRIDE};
use culvert_core::channel::Encap;
use culvert_core::{Fate, Frame};

const ROUTES: [u32; 3] = [1, 100, 10_000];

fn core(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, frames: &Frames, of: (u32, Encap)) {
    let mut storage = scene::storage(of.0, of.1);
    let mut gateway = storage.gateway();
    let slots = frames.slots();
    group.bench_function(BenchmarkId::new(name, of.0), |bencher| {
        bencher.iter_batched_ref(
            || slots.clone(),
            |slots| {
                let mut packets = frames.packets(slots);
                scene::process(&mut gateway, frames.ingress, &mut packets);
                let forwarded = |fate| matches!(fate, Fate::Forward(_));
                assert!(packets.iter().all(|packet| forwarded(packet.fate)));
                black_box(&mut packets);
            },
            BatchSize::SmallInput,
        );
    });
}

fn encap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encap");
    group.throughput(Throughput::Elements(64));
    for routes in ROUTES {
        let frames = scene::from_pod(routes);
        core(&mut group, "vxlan", &frames, (routes, Encap::Vxlan));
        core(&mut group, "ipip", &frames, (routes, Encap::Ipip));
        let node = Node::new(routes);
        let slots = frames.slots();
        let len = frames.bytes[0].len();
        group.bench_function(BenchmarkId::new("etherparse", routes), |bencher| {
            bencher.iter_batched_ref(
                || (slots.clone(), vec![0u8; BATCH * STRIDE]),
                |(slots, out)| {
                    let frames = slots.chunks_exact(STRIDE);
                    for (frame, out) in frames.zip(out.chunks_exact_mut(STRIDE)) {
                        let frame = &frame[Frame::HEADROOM..][..len];
                        black_box(node.encap(frame, out).expect("a route"));
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn decap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decap");
    group.throughput(Throughput::Elements(64));
    for routes in ROUTES {
        for (name, encap) in [("vxlan", Encap::Vxlan), ("ipip", Encap::Ipip)] {
            let frames = scene::from_tunnel(routes, encap);
            core(&mut group, name, &frames, (routes, encap));
        }
        let frames = scene::from_tunnel(routes, Encap::Vxlan);
        let node = Node::new(routes);
        let slots = frames.slots();
        let len = frames.bytes[0].len();
        group.bench_function(BenchmarkId::new("etherparse", routes), |bencher| {
            bencher.iter_batched_ref(
                || (slots.clone(), vec![0u8; BATCH * STRIDE]),
                |(slots, out)| {
                    let received = slots.chunks_exact(STRIDE).zip(&frames.outer);
                    for ((frame, outer), out) in received.zip(out.chunks_exact_mut(STRIDE)) {
                        let Some(IpAddr::V4(from)) = outer.map(|outer| outer.src) else {
                            panic!("not IPv4")
                        };
                        let frame = &frame[Frame::HEADROOM..][..len];
                        black_box(node.decap(frame, from, out).expect("a route"));
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, encap, decap);
criterion_main!(benches);
