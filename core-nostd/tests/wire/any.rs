//! Any bytes with any marks on a raw port, in any order and at any time: one fate
//! each, and never a panic.

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use crate::node::*;

/// Frames that get far, to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![];
    for v6 in [false, true] {
        let setup = Setup::new(1, v6, Encap::Vxlan);
        let inner = from_remote(v6, b"some payload");
        let number = if v6 { 41 } else { 4 };
        let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
        let outer = on_known(setup, |gateway| {
            run(gateway, 1, POD, udp(false, 2, &[7; 100])).bytes
        });
        let icmp = if v6 { 58 } else { 1 };
        let error = [
            if v6 { 2 } else { 3 },
            if v6 { 0 } else { 4 },
            0,
            0,
            0,
            0,
            5,
            120,
        ];
        seeds.extend([
            vxlan(v6, &inner),
            vxlan(!v6, &inner),
            protocol(v6, number, &inner),
            [&mac(1)[..], &mac(2), &ethertype, &inner].concat(),
            answer(setup, node(v6, 2), mac(2)),
            protocol(v6, icmp, &[&error, &outer[14..70]].concat()),
            protocol(v6, icmp, &[if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 0]),
            ip_frame((mac(2), mac(1)), (node(v6, 2), node(v6, 1)), (1, 2), b"x"),
        ]);
    }
    seeds.push(arp(
        1,
        (mac(2), [192, 0, 2, 2]),
        (BROADCAST, [192, 0, 2, 1]),
    ));
    let [src, dst] = [2, 1].map(|n| crate::node::v6(node(true, n)));
    seeds.push(discovery((135, 0), (mac(2), src), (mac(1), dst), dst));
    seeds
}

prop_compose! {
    fn damaged()(
        seed in prop::sample::select(seeds()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        padding in prop_oneof![4 => Just(0usize), 1 => 0usize..100],
    ) -> Vec<u8> {
        let mut frame = seed;
        for (at, value) in changes {
            // Damage counts most near the front.
            let at = at.index(frame.len()).min(at.index(70.min(frame.len())));
            frame[at] = value;
        }
        frame.extend(vec![0; padding]);
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        frame
    }
}

fn checksum() -> impl Strategy<Value = Checksum> {
    prop_oneof![
        6 => Just(Checksum::None),
        1 => Just(Checksum::Verified),
        1 => (0u16..120, 0u16..20).prop_map(|(start, offset)| Checksum::Partial { start, offset }),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(start, offset)| Checksum::Partial { start, offset }),
    ]
}

fn segmentation() -> impl Strategy<Value = Segmentation> {
    prop_oneof![
        6 => Just(Segmentation::None),
        1 => any::<u16>().prop_map(|size| Segmentation::TcpV4 { size }),
        1 => any::<u16>().prop_map(|size| Segmentation::Udp { size }),
    ]
}

/// One thing that happens to a node.
#[derive(Clone, Debug)]
enum Event {
    Frame(PortId, Input),
    Tick,
    Forget,
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = prop_oneof![
        8 => damaged(),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ];
    let input =
        (bytes, checksum(), segmentation()).prop_map(|(bytes, checksum, segmentation)| Input {
            bytes,
            checksum,
            segmentation,
        });
    let pods = (
        any::<bool>(),
        2u8..7,
        prop::collection::vec(any::<u8>(), 0..1400),
    );
    prop_oneof![
        8 => input.prop_map(|input| Event::Frame(WIRE, input)),
        4 => pods.prop_map(|(v6, n, payload)| Event::Frame(POD, udp(v6, n, &payload).into())),
        2 => Just(Event::Tick),
        1 => Just(Event::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 600 } else { 6000 }))]
    #[test]
    fn every_frame_has_one_fate(
        v6: bool,
        encap in prop::sample::select(ALL),
        flood: bool,
        events in prop::collection::vec((event(), 0u64..2000, 0usize..4), 1..60),
    ) {
        let options = if flood { NetworkOptions::FLOOD } else { NetworkOptions::NONE };
        let setup = Setup { options, ..Setup::new(1, v6, encap) };
        let mut memory = Memory::new();
        let mut gateway = memory.gateway();
        setup.program(&mut gateway, 2);
        for n in 3..6 {
            setup.add_peer(&mut gateway, n, node(v6, n));
        }
        let (mut now, mut sent, mut received) = (0, 0, 0);
        for (event, later, spares) in events {
            now += later;
            sent += match event {
                Event::Frame(port, input) => {
                    received += 1;
                    run_with(&mut gateway, (now, spares), port, input).made.len()
                }
                Event::Tick => {
                    with_spares(spares, |originated| gateway.tick(at(now), originated)).len()
                }
                Event::Forget => {
                    let other = Port { mac: MacAddr::new(mac(77)), ..setup.wire() };
                    let operations = [other, setup.wire()].map(Operation::UpsertPort);
                    gateway.apply(Owner::Cluster, &operations).unwrap();
                    0
                }
            };
            // A super-frame counts as the packets that it stands for.
            prop_assert!(gateway.counter(Counter::Rx) >= received);
            prop_assert_eq!(sum_of_fates(&gateway), gateway.counter(Counter::Rx));
            let originated = u64::try_from(sent).unwrap();
            prop_assert!(gateway.counter(Counter::Originated) >= originated);
            let gone = gateway.counter(Counter::QueueLost);
            let made = gateway.counter(Counter::Originated);
            prop_assert!(gone <= gateway.counter(Counter::Queue) + made);
        }
    }
}
