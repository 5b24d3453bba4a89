//! Events as a shell reads them: drops with their first bytes, and what the core
//! learned by itself.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

fn read(gateway: &mut Gateway<'_>, after: u64) -> (Vec<Event>, u64) {
    match ask(gateway, &Request::Events { after }) {
        Response::Events { events, lost } => (events.to_vec(), lost),
        other => panic!("{other:?}"),
    }
}

fn programmed(storage: &mut Tiny) -> Gateway<'_> {
    let mut gateway = storage.gateway();
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    });
    assert!(matches!(ask(&mut gateway, &hello), Response::Hello(_)));
    program(&mut gateway);
    gateway
}

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

#[test]
fn a_drop_is_told_with_its_first_bytes() {
    let mut storage = Tiny::new();
    let mut gateway = programmed(&mut storage);
    let spoofed = udp(MAC_A, B, REMOTE, &[0xab; 500]);
    let short = vec![1, 2, 3];
    for (second, frame) in [(1, &spoofed), (1, &spoofed), (1, &short), (3, &spoofed)] {
        run_at(&mut gateway, at(second), POD_A, frame.clone());
    }
    // What is forwarded is no event.
    let fine = udp(MAC_A, A, B, b"x");
    assert_eq!(
        run_at(&mut gateway, at(3), POD_A, fine).fate,
        Fate::Forward(POD_B)
    );
    let drop = |sequence, seconds, reason, frame: &[u8]| Event {
        sequence,
        micros: at(seconds).micros(),
        kind: EventKind::Drop {
            reason,
            port: POD_A,
            length: u16::try_from(frame.len()).unwrap(),
            header: list(&frame[..frame.len().min(HEADER_BYTES)]),
        },
    };
    let expected = [
        drop(1, 1, DropReason::SourceIp, &spoofed),
        drop(2, 1, DropReason::FrameTruncated, &short),
        drop(3, 3, DropReason::SourceIp, &spoofed),
    ];
    assert_eq!(read(&mut gateway, 0), (expected.to_vec(), 0));
    assert_eq!(read(&mut gateway, 2), (expected[2..].to_vec(), 0));
    assert_eq!(gateway.counter(Counter::Drop(DropReason::SourceIp)), 3);
}

#[test]
fn a_dropped_tunnel_packet_is_told_as_it_was_by_then() {
    let mut storage = Tiny::new();
    let mut gateway = programmed(&mut storage);
    let inner = from_vtep(udp(VTEP_2, [10, 244, 9, 9], A, b"not that peer's"));
    let output = run(&mut gateway, UNDERLAY, vxlan(&inner, 1));
    assert_eq!(output.fate, Fate::Drop(DropReason::PeerGuard));
    let (events, _) = read(&mut gateway, 0);
    let EventKind::Drop { header, length, .. } = &events[0].kind else {
        panic!("{events:?}")
    };
    assert_eq!(usize::from(*length), inner.len());
    assert_eq!(header, &inner[..inner.len().min(HEADER_BYTES)]);
}

/// The largest packet that goes to the other node without a complaint.
fn fits(gateway: &mut Gateway<'_>, now: Instant, payload: usize) -> bool {
    let mut frame = udp(MAC_A, A, REMOTE, &vec![0; payload]);
    edit_ip(&mut frame, |header| header.dont_fragment = true);
    run_at(gateway, now, POD_A, frame).fate == Fate::Forward(UNDERLAY)
}

fn path_mtus(gateway: &mut Gateway<'_>) -> Vec<(PeerId, u16)> {
    let (events, lost) = read(gateway, 0);
    assert_eq!(lost, 0);
    let kinds = events.into_iter().map(|event| event.kind);
    kinds
        .filter_map(|kind| match kind {
            EventKind::PathMtu { peer, mtu } => Some((peer, mtu)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_path_mtu_that_the_core_learns_is_told_and_one_that_it_is_given_is_not() {
    let mut storage = Tiny::new();
    let mut gateway = programmed(&mut storage);
    let given = Operation::SetPathMtu {
        peer: PeerId(0),
        mtu: 1400,
    };
    gateway
        .apply(Owner::Cluster, std::slice::from_ref(&given))
        .unwrap();
    assert_eq!(path_mtus(&mut gateway), []);
    assert!(!fits(&mut gateway, at(1), 1350 - 27));
    assert!(fits(&mut gateway, at(1), 1350 - 28));

    // The echo of what was given, more than that, nothing, and of nobody.
    let peer = ip("192.168.77.2");
    for (address, mtu) in [
        (peer, 1400),
        (peer, 1499),
        (peer, 0),
        (ip("192.168.77.9"), 600),
    ] {
        gateway.path_mtu_exceeded(at(2), UNDERLAY, address, mtu);
    }
    assert_eq!(path_mtus(&mut gateway), []);
    assert!(fits(&mut gateway, at(2), 1350 - 28));

    gateway.path_mtu_exceeded(at(3), UNDERLAY, peer, 1300);
    gateway.path_mtu_exceeded(at(3), UNDERLAY, peer, 1300);
    gateway.path_mtu_exceeded(at(3), UNDERLAY, peer, 68);
    let told = [(PeerId(0), 1300), (PeerId(0), 552)];
    assert_eq!(path_mtus(&mut gateway), told);
    assert!(!fits(&mut gateway, at(3), 552 - 50 - 27));
    assert!(fits(&mut gateway, at(3), 552 - 50 - 28));

    // The control plane applies it here, too, which is no news.
    let echo = Operation::SetPathMtu {
        peer: PeerId(0),
        mtu: 552,
    };
    gateway.apply(Owner::Cluster, &[echo]).unwrap();
    assert_eq!(path_mtus(&mut gateway), told);
    // Forgotten after ten minutes, and learned anew.
    assert!(fits(&mut gateway, at(604), 1450 - 28));
    gateway.path_mtu_exceeded(at(604), UNDERLAY, peer, 1500);
    assert_eq!(path_mtus(&mut gateway), told);
    gateway.path_mtu_exceeded(at(604), UNDERLAY, peer, 1300);
    assert_eq!(path_mtus(&mut gateway).len(), 3);
}

#[test]
fn a_path_mtu_counts_in_all_networks_with_a_peer_there() {
    let mut storage = Tiny::new();
    let mut gateway = programmed(&mut storage);
    let second = Network {
        id: NetworkId(1),
        udp_port: 4789,
        ..network()
    };
    let there = Peer {
        id: PeerId(5),
        network: NetworkId(1),
        ..peer()
    };
    let operations = [
        Operation::UpsertNetwork(second),
        Operation::UpsertPeer(there),
    ];
    gateway.apply(Owner::Cluster, &operations).unwrap();
    gateway.path_mtu_exceeded(at(1), UNDERLAY, ip("192.168.77.2"), 1400);
    assert_eq!(
        path_mtus(&mut gateway),
        [(PeerId(0), 1400), (PeerId(5), 1400)]
    );
}

/// A pod that sends all kinds of rubbish for a minute.
#[test]
fn a_flood_of_drops_leaves_what_was_learned() {
    let mut storage = Tiny::new();
    let mut gateway = programmed(&mut storage);
    gateway.path_mtu_exceeded(at(1), UNDERLAY, ip("192.168.77.2"), 1400);
    let spoofed = udp(MAC_A, B, REMOTE, b"x");
    let looped = udp(MAC_A, A, [10, 244, 1, 99], b"x");
    let rubbish = [spoofed, looped, vec![0; 3], vec![0; 60]];
    let (mut told, mut lost, mut last) = (0, 0, 0);
    for step in 0..60_000u64 {
        let now = Instant::from_micros(2_000_000 + step * 1000);
        let frame = &rubbish[usize::try_from(step).unwrap() % rubbish.len()];
        run_at(&mut gateway, now, POD_A, frame.clone());
        // One reason has a pause of two seconds now and then.
        if step % 5000 == 0 {
            let now = Instant::from_micros(2_000_000 + step * 1000);
            run_at(&mut gateway, now, PortId(7), vec![0; 60]);
        }
    }
    let (events, gone) = read(&mut gateway, 0);
    assert!(matches!(
        events[0].kind,
        EventKind::PathMtu { mtu: 1400, .. }
    ));
    for event in &events {
        told += 1;
        last = event.sequence;
    }
    lost += gone;
    // The path MTU, four kinds of rubbish, and the twelve of the other port.
    assert_eq!(told + lost, last);
    assert_eq!(last, 1 + 4 + 12);
    assert_eq!(told, 1 + 8);
    let drops: u64 = DropReason::ALL
        .iter()
        .map(|reason| gateway.counter(Counter::Drop(*reason)))
        .sum();
    assert_eq!(drops, 60_012);
}
