//! Every drop reason that only raw ports have is reached, and counts alone.

use culvert_core::channel::*;
use culvert_core::*;

use crate::node::*;
use crate::raw_ports::ONLY_ON_RAW_PORTS;

/// What brings a reason about: the last verdict is looked at.
type Case = (DropReason, bool, Vec<(PortId, Vec<u8>)>);

fn cases() -> Vec<Case> {
    let good = vxlan(false, &from_remote(false, b"x"));
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        vec![(WIRE, frame)]
    };
    let mut fragment = protocol(false, 17, &[0; 8]);
    fragment[20..26].copy_from_slice(&[0x20, 0, 64, 17, 0, 0]);
    let header = etherparse::Ipv4Header::from_slice(&fragment[14..])
        .unwrap()
        .0;
    fragment[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let mut zero = vxlan(true, &from_remote(false, b"x"));
    zero[60..62].fill(0);
    let stranger = (node(false, 2), node(false, 77));
    let foreign = ip_packet((mac(2), mac(1)), stranger, 17, &[0; 8]);
    let packet = |n| (POD, udp(false, n, b"x"));
    let conflict = arp(1, (mac(9), [192, 0, 2, 1]), (BROADCAST, [192, 0, 2, 1]));
    let off_link = arp(1, (mac(9), [198, 51, 100, 1]), (BROADCAST, [192, 0, 2, 3]));
    let nine = (3..12).map(packet).collect();
    vec![
        (DropReason::WireMac, false, with(0, &mac(8))),
        (DropReason::WireGroup, false, with(0, &BROADCAST)),
        (DropReason::WireDestination, false, vec![(WIRE, foreign)]),
        (DropReason::OuterMalformed, false, with(14, &[0x55])),
        (DropReason::OuterFragment, false, vec![(WIRE, fragment)]),
        (DropReason::OuterChecksum, false, with(40, &[1, 1])),
        (DropReason::OuterChecksumZero, true, vec![(WIRE, zero)]),
        (DropReason::UnderlayNoRoute, false, vec![packet(12)]),
        (DropReason::NeighborTableFull, false, nine),
        (
            DropReason::NeighborPending,
            false,
            vec![packet(3), packet(3)],
        ),
        (
            DropReason::QueueFull,
            false,
            vec![packet(3), packet(4), packet(5)],
        ),
        (DropReason::AddressConflict, false, vec![(WIRE, conflict)]),
        (DropReason::NeighborOffLink, false, vec![(WIRE, off_link)]),
    ]
}

/// Node 1 with peers 3 to 11 on the link and 12 behind no gateway.
fn on_many<R>(v6: bool, test: impl FnOnce(&mut Gateway<'_>) -> R) -> R {
    let setup = Setup {
        gateway: false,
        ..Setup::new(1, v6, Encap::Vxlan)
    };
    on(setup, |gateway| {
        for n in 3..12 {
            setup.add_peer(gateway, n, node(v6, n));
        }
        let far = if v6 {
            ip("2001:db8:7::7")
        } else {
            ip("198.51.100.7")
        };
        setup.add_peer(gateway, 12, far);
        test(gateway)
    })
}

/// The reason and how often it was counted.
fn dropped(gateway: &mut Gateway<'_>, millis: u64, input: (PortId, Input)) -> (Fate, u64) {
    let drops = |gateway: &Gateway<'_>| {
        let all = DropReason::ALL.iter();
        all.map(|reason| gateway.counter(Counter::Drop(*reason)))
            .sum::<u64>()
    };
    let before = drops(gateway);
    let output = run(gateway, millis, input.0, input.1);
    (output.fate, drops(gateway) - before)
}

#[test]
fn every_reason_of_raw_ports_is_reached_and_counted_alone() {
    let mut reached = vec![];
    for (reason, v6, mut frames) in cases() {
        on_many(v6, |gateway| {
            let (port, last) = frames.pop().unwrap();
            for (port, frame) in frames {
                run(gateway, 0, port, frame);
            }
            let found = dropped(gateway, 0, (port, last.into()));
            assert_eq!(found, (Fate::Drop(reason), 1));
            assert_eq!(gateway.counter(Counter::Drop(reason)), 1);
        });
        reached.push(reason);
    }
    on_many(false, |gateway| {
        run(gateway, 0, POD, udp(false, 3, b"x"));
        for now in (0..3100).step_by(50) {
            tick(gateway, now);
        }
        let found = dropped(gateway, 3100, (POD, udp(false, 3, b"x").into()));
        assert_eq!(found, (Fate::Drop(DropReason::NeighborFailed), 1));
        reached.push(DropReason::NeighborFailed);
    });
    on_many(false, |gateway| {
        let long = udp(false, 3, &[0; 3000]);
        let mut port = Setup::new(1, false, Encap::Vxlan).wire();
        port.mtu = 9000;
        let operation = Operation::UpsertPort(port);
        gateway.apply(Owner::Cluster, &[operation]).unwrap();
        let found = dropped(gateway, 0, (POD, long.into()));
        assert_eq!(found, (Fate::Drop(DropReason::QueueTooLong), 1));
        reached.push(DropReason::QueueTooLong);
    });
    for reason in ONLY_ON_RAW_PORTS {
        assert!(reached.contains(reason), "no case for {reason:?}");
    }
}
