//! A packet's way through the core: 64-byte frames in batches of 64, from a pod
//! into a VXLAN tunnel and from the tunnel to a pod, over tables of several sizes.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use culvert_core::channel::*;
use culvert_core::*;
use zerocopy::FromZeros;

const BATCH: usize = 64;
/// Off a power of two, so that headers do not compete for the same cache sets.
const STRIDE: usize = Frame::HEADROOM + 128 + 64;

const UNDERLAY: PortId = PortId(0);
const POD: PortId = PortId(1);
const NETWORK: NetworkId = NetworkId(0);
const GATEWAY_MAC: [u8; 6] = [0xee; 6];
const POD_MAC: [u8; 6] = [0x0a, 0x58, 10, 1, 0, 1];
const POD_IP: [u8; 4] = [10, 1, 0, 1];
const VTEP: [u8; 6] = [0x0a, 0x63, 192, 168, 0, 1];

/// The /24 of the n-th route.
fn block(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 2, 0, 0).to_bits() + (index << 8))
}

/// A storage with so many routes, each to a peer of its own up to 256 peers.
fn storage(routes: u32) -> Box<Appliance> {
    let mut storage = Appliance::new_box_zeroed().expect("memory for the tables");
    let mut gateway = storage.gateway();
    let underlay = Ipv4Addr::new(192, 168, 0, 1).into();
    let mut operations = vec![
        Operation::UpsertPort(Port {
            id: UNDERLAY,
            mtu: 1500,
            mac: MacAddr::ZERO,
            offloads: Offloads::CHECKSUM,
            kind: PortKind::Underlay,
        }),
        Operation::UpsertNetwork(Network {
            id: NETWORK,
            vni: Vni::new(1).expect("24 bits"),
            udp_port: 8472,
            local: underlay,
            vtep_mac: MacAddr::new(VTEP),
            gateways: std::iter::once(Ipv4Addr::new(169, 254, 1, 1).into()).collect(),
            gateway_mac: MacAddr::new(GATEWAY_MAC),
            node_addresses: heapless::Vec::new(),
            prefixes: heapless::Vec::new(),
            proxy: Proxy::LinkLocal,
            options: NetworkOptions::NONE,
            underlay: UNDERLAY,
        }),
        Operation::UpsertPort(Port {
            id: POD,
            mtu: 1450,
            mac: MacAddr::new(POD_MAC),
            offloads: Offloads::CHECKSUM,
            kind: PortKind::Endpoint(Endpoint::with_address(NETWORK, POD_IP.into())),
        }),
    ];
    let peers = u16::try_from(routes.min(256)).expect("at most 256");
    for id in 0..peers {
        let underlay = Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 1, 0).to_bits() + u32::from(id));
        operations.push(Operation::UpsertPeer(Peer {
            id: PeerId(id),
            network: NETWORK,
            underlay: underlay.into(),
            vtep_mac: MacAddr::vtep_for(underlay.into()),
            node_addresses: heapless::Vec::new(),
            accepts: EncapSet::of(&[Encap::Vxlan]),
            transit: false,
        }));
    }
    for index in 0..routes {
        let peer = u16::try_from(index % 256).expect("below 256");
        operations.push(Operation::UpsertRoute(Route {
            network: NETWORK,
            prefix: IpPrefix::new(IpAddr::V4(block(index)), 24).expect("a /24"),
            next_hop: NextHop::Peer {
                peer: PeerId(peer % peers),
                encap: Encap::Vxlan,
            },
        }));
    }
    for transaction in operations.chunks(MAX_OPERATIONS) {
        let applied = gateway.apply(Owner::Cluster, transaction);
        applied.expect("the tables have room");
    }
    storage
}

/// A 64-byte UDP frame.
fn frame(macs: ([u8; 6], [u8; 6]), src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(src, dst, 64)
        .udp(1234, 80);
    let mut out = Vec::new();
    builder
        .write(&mut out, &[0; 22])
        .expect("a vector takes all");
    out
}

/// Frames to (or from) as many different routes as there are, as bytes in slots.
fn slots(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; BATCH * STRIDE];
    for (slot, frame) in bytes.chunks_exact_mut(STRIDE).zip(frames) {
        slot[Frame::HEADROOM..][..frame.len()].copy_from_slice(frame);
    }
    bytes
}

fn run(
    gateway: &mut Gateway<'_>,
    port: PortId,
    bytes: &mut [u8],
    len: usize,
    outer: &[Option<Outer>],
) {
    let packets = bytes
        .chunks_exact_mut(STRIDE)
        .zip(outer)
        .map(|(slot, outer)| {
            let mut frame = Frame::new(slot, Frame::HEADROOM, len).expect("a slot is large enough");
            frame.outer = *outer;
            Packet::new(frame)
        });
    let mut packets: heapless::Vec<Packet<'_>, BATCH> = packets.collect();
    gateway.process(Instant::ZERO, port, &mut packets, &mut Originated::none());
    assert!(
        packets
            .iter()
            .all(|packet| matches!(packet.fate, Fate::Forward(_)))
    );
    black_box(&mut packets);
}

fn spread(routes: u32, index: usize) -> u32 {
    // A prime step visits different routes, whatever their number.
    (u32::try_from(index).expect("below 64") * 7919) % routes
}

fn encap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encap");
    group.throughput(Throughput::Elements(64));
    for routes in [1, 100, 10_000] {
        let mut storage = storage(routes);
        let mut gateway = storage.gateway();
        let frames: Vec<_> = (0..BATCH)
            .map(|index| {
                let [a, b, c, _] = block(spread(routes, index)).octets();
                frame((POD_MAC, GATEWAY_MAC), POD_IP, [a, b, c, 9])
            })
            .collect();
        let bytes = slots(&frames);
        let len = frames[0].len();
        group.bench_function(BenchmarkId::from_parameter(routes), |bencher| {
            bencher.iter_batched_ref(
                || bytes.clone(),
                |bytes| run(&mut gateway, POD, bytes, len, &[None; BATCH]),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn decap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decap");
    group.throughput(Throughput::Elements(64));
    for routes in [1, 100, 10_000] {
        let mut storage = storage(routes);
        let mut gateway = storage.gateway();
        let mut outer = Vec::new();
        let mut frames = Vec::new();
        for index in 0..BATCH {
            let route = spread(routes, index);
            let [a, b, c, _] = block(route).octets();
            let mut bytes = vec![8, 0, 0, 0, 0, 0, 1, 0];
            bytes.extend(frame(([2; 6], VTEP), [a, b, c, 9], POD_IP));
            frames.push(bytes);
            let peer = Ipv4Addr::new(192, 168, 1, 0).to_bits() + route % 256 % routes.min(256);
            outer.push(Some(Outer {
                src: Ipv4Addr::from_bits(peer).into(),
                dst: Ipv4Addr::new(192, 168, 0, 1).into(),
                l4: OuterL4::Udp {
                    src_port: 50_000,
                    dst_port: 8472,
                    checksum: true,
                },
                tos: 0,
                ttl: 64,
                df: true,
            }));
        }
        let bytes = slots(&frames);
        let len = frames[0].len();
        group.bench_function(BenchmarkId::from_parameter(routes), |bencher| {
            bencher.iter_batched_ref(
                || bytes.clone(),
                |bytes| run(&mut gateway, UNDERLAY, bytes, len, &outer),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, encap, decap);
criterion_main!(benches);
