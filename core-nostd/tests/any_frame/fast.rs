//! The fast path against the stages: the same verdicts, bytes and counts.

use culvert_core::channel::*;
use culvert_core::wire::checksum;
use culvert_core::*;
use proptest::prelude::*;

use super::common::*;
use super::packets::{any_node, any_shell, inputs};

/// What a batch left behind: each frame, what was made, and what was counted.
pub(crate) fn outcome(
    gateway: &mut Gateway<'_>,
    shell: &Shell,
    (port, batch): (PortId, Vec<Input>),
) -> (String, Vec<u64>, Vec<(PortId, PortStats)>) {
    let outputs = shell.run_batch(gateway, port, batch);
    let counters = Counter::all().map(|counter| gateway.counter(counter));
    let counters = counters.collect();
    (format!("{outputs:?}"), counters, port_stats(gateway))
}

/// Neighbours by the same port in one batch.
fn batches(inputs: Vec<(PortId, Input)>) -> Vec<(PortId, Vec<Input>)> {
    let same = |a: &(PortId, Input), b: &(PortId, Input)| a.0 == b.0;
    let runs = inputs.chunk_by(same);
    let batch = |run: &[(PortId, Input)]| run.iter().map(|(_, input)| input.clone()).collect();
    runs.map(|run| (run[0].0, batch(run))).collect()
}

/// Addresses of a packet by this port: mostly those of the fast path.
fn addresses(port: PortId) -> BoxedStrategy<([u8; 4], [u8; 4])> {
    let remote: [u8; 4] = [10, 244, 2, 2];
    let (src, dst) = match port {
        POD_A => (A, remote),
        _ => (remote, A),
    };
    let others = vec![
        A,
        B,
        GATEWAY,
        NODE_1,
        NODE_2,
        [10, 244, 3, 2],
        [127, 0, 0, 1],
        [224, 0, 0, 5],
        [0, 0, 0, 1],
    ];
    let other = move || prop::sample::select(others.clone());
    (
        prop_oneof![8 => Just(src), 1 => other()],
        prop_oneof![8 => Just(dst), 1 => other()],
    )
        .boxed()
}

/// A SYN whose MSS is more than fits.
fn syn(mac: [u8; 6], src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(mac, GATEWAY_MAC).ipv4(src, dst, 64);
    let builder = builder.tcp(9, 80, 7, 1000).syn();
    let mut out = Vec::new();
    let builder = builder.options_raw(&[2, 4, 0x23, 0]).unwrap();
    builder.write(&mut out, b"").unwrap();
    out
}

/// TCP or UDP by this port: as a stack makes it, or with its checksum left to a device.
fn plain(port: PortId) -> BoxedStrategy<Vec<u8>> {
    let mac = if port == POD_A { MAC_A } else { VTEP_2 };
    let ports = prop_oneof![4 => any::<(u16, u16)>(), 1 => Just((9, 8472))];
    // Of UDP and TCP the last that fits into 1450 and 1480 bytes, and one more.
    let last = vec![1410, 1411, 1422, 1423, 1440, 1441, 1452, 1453];
    let last = prop::sample::select(last);
    let len = prop_oneof![6 => 0usize..40, 2 => last, 1 => 1380usize..1490, 1 => 8900usize..9000];
    let ttl = prop_oneof![6 => Just(64u8), 1 => 0u8..4];
    let kind = (0..3, any::<bool>(), ttl);
    (addresses(port), ports, len, kind)
        .prop_map(move |((src, dst), ports, len, (kind, finished, ttl))| {
            let payload = vec![0x5a; len];
            let (mut frame, field) = match kind {
                0 => (udp_ports(mac, src, dst, ports, &payload), 34 + 6),
                1 => (tcp(mac, src, dst, &payload), 34 + 16),
                _ => (syn(mac, src, dst), 34 + 16),
            };
            edit_ip(&mut frame, |header| header.time_to_live = ttl);
            if !finished {
                let len = u16::try_from(frame.len() - 34).unwrap();
                let (src, dst) = (src.into(), dst.into());
                let sum = checksum::pseudo_header_v4(src, dst, frame[23], len);
                frame[field..field + 2].copy_from_slice(&checksum::fold(sum).to_be_bytes());
            }
            frame
        })
        .boxed()
}

/// What a device says of a frame, and how it comes.
fn circumstances() -> BoxedStrategy<(Checksum, Option<usize>, u8)> {
    let partial = |offset| Checksum::Partial { start: 34, offset };
    let mark = prop::sample::select(vec![Checksum::Verified, partial(6), partial(16)]);
    let mark = prop_oneof![4 => Just(Checksum::None), 1 => mark];
    let headroom = prop_oneof![8 => Just(None), 1 => (0usize..40).prop_map(Some)];
    let outer_tos = prop_oneof![2 => Just(0), 1 => any::<u8>()];
    (mark, headroom, outer_tos).boxed()
}

/// A packet of the fast path, with a change that may take it off.
fn nearly_plain(node: Node) -> BoxedStrategy<(PortId, Input)> {
    let frame =
        prop::sample::select(vec![POD_A, UNDERLAY]).prop_flat_map(|port| (Just(port), plain(port)));
    let change = prop::option::of((any::<prop::sample::Index>(), 0u32..8));
    let padding = prop_oneof![3 => Just(0usize), 1 => 0usize..20];
    let changes = (change, padding, any::<bool>());
    (frame, changes, circumstances())
        .prop_map(
            move |((port, mut frame), (change, padding, right), circumstances)| {
                if let Some((at, bit)) = change {
                    let at = at.index(44.min(frame.len()));
                    frame[at] ^= 1 << bit;
                    if right && frame[14] >> 4 == 4 {
                        mend(&mut frame);
                    }
                }
                frame.resize(frame.len() + padding, 0xa5);
                let (checksum, headroom, outer_tos) = circumstances;
                let input = match port {
                    POD_A => Input::from(frame),
                    _ => tunnelled(node, frame, outer_tos),
                };
                let input = Input {
                    checksum: of_tunnel(checksum, input.outer),
                    headroom,
                    ..input
                };
                (port, input)
            },
        )
        .boxed()
}

/// A frame to the gateway as node 2 sends it to node 1.
fn tunnelled(node: Node, mut frame: Vec<u8>, tos: u8) -> Input {
    let (to, _) = frame.split_first_chunk_mut::<6>().unwrap();
    for ((to, gateway), vtep) in to.iter_mut().zip(GATEWAY_MAC).zip(node.vtep_of(1)) {
        *to ^= gateway ^ vtep;
    }
    let mut input = match node.encap {
        Encap::Ipip => ipip(&frame),
        _ => vxlan(&frame, 1),
    };
    if let Some(outer) = &mut input.outer {
        (outer.src, outer.dst) = (node.address_of(2), node.address_of(1));
        outer.tos = tos;
    }
    input
}

/// The mark of an Ethernet frame as it is counted in front of a tunnel's header.
fn of_tunnel(mark: Checksum, outer: Option<Outer>) -> Checksum {
    match (mark, outer.map(|outer| outer.l4)) {
        (Checksum::Partial { start, offset }, Some(OuterL4::Udp { .. })) => Checksum::Partial {
            start: start + 8,
            offset,
        },
        (Checksum::Partial { start, offset }, Some(OuterL4::Ip { .. })) => Checksum::Partial {
            start: start - 14,
            offset,
        },
        _ => mark,
    }
}

/// Makes the IPv4 checksum right.
fn mend(frame: &mut [u8]) {
    let len = usize::from(frame[14] & 15).clamp(5, 7) * 4;
    frame[24..26].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[14..14 + len]);
    let sum = sum.ones_complement().to_be();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8 * ProptestConfig::default().cases,
        max_shrink_iters: 3000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_fast_path_decides_as_the_stages_do(
        (node, inputs, plain) in any_node().prop_flat_map(|node| {
            (Just(node), inputs(node), prop::collection::vec(nearly_plain(node), 0..12))
        }),
        shell in any_shell(),
        path_mtu in prop::option::weighted(0.2, 600u16..1500),
        default_route in any::<bool>(),
    ) {
        let (mut fast, mut slow) = (Tiny::new(), Tiny::new());
        let (mut fast, mut slow) = (fast.gateway(), slow.gateway());
        slow.set_fast_path(false);
        // Believed for ten minutes, of which the shell's clock may say that they are over.
        let learned = path_mtu.map(|mtu| Operation::SetPathMtu { peer: PeerId(0), mtu });
        for gateway in [&mut fast, &mut slow] {
            node.program(gateway);
            gateway.apply(Owner::Cluster, learned.as_slice()).unwrap();
            if default_route {
                let to = NextHop::Peer { peer: PeerId(0), encap: node.encap };
                gateway.apply(Owner::Cluster, &[route("0.0.0.0/0", to)]).unwrap();
            }
        }
        let inputs = [plain, inputs].concat();
        for batch in batches(inputs) {
            let expected = outcome(&mut slow, &shell, batch.clone());
            let actual = outcome(&mut fast, &shell, batch);
            prop_assert_eq!(actual, expected);
        }
    }
}
