//! The fast path against the stages: the same verdicts, bytes and counts.

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use super::common::*;
use super::packets::{any_node, any_shell, inputs};

/// What a batch left behind: each frame, what was made, and what was counted.
fn outcome(
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

/// A packet of the fast path, with a change that may take it off.
fn nearly_plain(node: Node) -> BoxedStrategy<(PortId, Input)> {
    let remote: [u8; 4] = [10, 244, 2, 2];
    let frame = prop_oneof![
        any::<(u16, u16)>().prop_map(move |ports| (POD_A, ports)),
        any::<(u16, u16)>().prop_map(move |ports| (UNDERLAY, ports)),
    ]
    .prop_map(move |(port, ports)| {
        let (mac, src, dst) = match port {
            POD_A => (MAC_A, A, remote),
            _ => (VTEP_2, remote, A),
        };
        (port, udp_ports(mac, src, dst, ports, b"a plain packet"))
    });
    let change = prop::option::of((any::<prop::sample::Index>(), 0u32..8));
    let padding = prop_oneof![3 => Just(0usize), 1 => 0usize..20];
    (frame, change, padding, any::<bool>())
        .prop_map(move |((port, frame), change, padding, right)| {
            let mut frame = frame;
            if let Some((at, bit)) = change {
                let at = at.index(44.min(frame.len()));
                frame[at] ^= 1 << bit;
                if right && frame[14] >> 4 == 4 {
                    mend(&mut frame);
                }
            }
            frame.resize(frame.len() + padding, 0xa5);
            if port == POD_A {
                return (port, Input::from(frame));
            }
            let (to, _) = frame.split_first_chunk_mut::<6>().unwrap();
            to.iter_mut()
                .zip(GATEWAY_MAC)
                .for_each(|(to, from)| *to ^= from);
            to.iter_mut()
                .zip(node.vtep_of(1))
                .for_each(|(to, from)| *to ^= from);
            let mut input = match node.encap {
                Encap::Ipip => ipip(&frame),
                _ => vxlan(&frame, 1),
            };
            if let Some(outer) = &mut input.outer {
                (outer.src, outer.dst) = (node.address_of(2), node.address_of(1));
            }
            (port, input)
        })
        .boxed()
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
    ) {
        let (mut fast, mut slow) = (Tiny::new(), Tiny::new());
        let (mut fast, mut slow) = (fast.gateway(), slow.gateway());
        slow.set_fast_path(false);
        node.program(&mut fast);
        node.program(&mut slow);
        let inputs = [plain, inputs].concat();
        for batch in batches(inputs) {
            let expected = outcome(&mut slow, &shell, batch.clone());
            let actual = outcome(&mut fast, &shell, batch);
            prop_assert_eq!(actual, expected);
        }
    }
}
