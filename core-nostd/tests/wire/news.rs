//! What the control plane is told of the neighbors of a raw port.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;

use crate::node::*;

/// Of which neighbor, and where it is by then.
type News = (IpAddr, Option<[u8; 6]>);

/// The channel, from an event on.
fn read(gateway: &mut Gateway<'_>, after: u64) -> (Vec<Event>, u64) {
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    });
    ask(gateway, &hello);
    match ask(gateway, &Request::Events { after }) {
        Response::Events { events, lost } => (events.to_vec(), lost),
        other => panic!("{other:?}"),
    }
}

fn ask(gateway: &mut Gateway<'_>, request: &Request) -> Response {
    let mut message = vec![0; MAX_MESSAGE];
    let len = encode_request(1, request, &mut message).unwrap();
    let mut out = vec![0; MAX_FRAME];
    let len = serve(gateway, &FrameEvent::Message(&message[..len]), &mut out);
    let answer = decode_frame(&mut out[..len - 1]).unwrap();
    decode_response(answer).unwrap().1
}

fn news(events: &[Event]) -> Vec<News> {
    let kinds = events.iter().map(|event| &event.kind);
    let news = kinds.filter_map(|kind| match *kind {
        EventKind::Neighbor { port, address, mac } => {
            assert_eq!(port, WIRE);
            Some((address, mac.map(MacAddr::bytes)))
        }
        _ => None,
    });
    news.collect()
}

/// All that has been told so far; nothing of it may be lost.
fn told(gateway: &mut Gateway<'_>) -> Vec<News> {
    let (events, lost) = read(gateway, 0);
    assert_eq!(lost, 0);
    news(&events)
}

/// What node 2 says of itself unasked.
fn moved(v6: bool, to: [u8; 6]) -> Vec<u8> {
    match node(v6, 2) {
        IpAddr::V4(there) => arp(1, (to, there.octets()), (BROADCAST, there.octets())),
        IpAddr::V6(there) => {
            let all = ([0x33, 0x33, 0, 0, 0, 1], "ff02::1".parse().unwrap());
            discovery((136, 0x20), (to, there), all, there)
        }
    }
}

fn ticks(gateway: &mut Gateway<'_>, millis: std::ops::Range<u64>) {
    for now in millis.step_by(100) {
        tick(gateway, now);
    }
}

#[test]
fn a_neighbor_that_appears_moves_and_goes_is_told_once_each() {
    for v6 in [false, true] {
        let setup = Setup::new(1, v6, Encap::Vxlan);
        let there = node(v6, 2);
        on(setup, |gateway| {
            run(gateway, 0, POD, udp(false, 2, b"x"));
            assert_eq!(told(gateway), [], "nothing is known yet");
            run(gateway, 10, WIRE, answer(setup, there, mac(2)));
            let mut all = vec![(there, Some(mac(2)))];
            assert_eq!(told(gateway), all);
            // It says so again, and packets go there.
            run(gateway, 1100, WIRE, moved(v6, mac(2)));
            run(gateway, 1110, POD, udp(false, 2, b"x"));
            ticks(gateway, 1200..2000);
            assert_eq!(told(gateway), all);

            run(gateway, 2000, WIRE, moved(v6, mac(9)));
            ticks(gateway, 2000..2200);
            all.push((there, Some(mac(9))));
            assert_eq!(told(gateway), all);

            // It no longer answers: a packet makes the core ask for it, in vain.
            run(gateway, 3000, POD, udp(false, 2, b"x"));
            ticks(gateway, 3000..6000);
            assert_eq!(told(gateway), all, "it may still answer");
            ticks(gateway, 6000..8000);
            all.push((there, None));
            assert_eq!(told(gateway), all);

            run(gateway, 9000, POD, udp(false, 2, b"x"));
            run(gateway, 9001, WIRE, answer(setup, there, mac(9)));
            all.push((there, Some(mac(9))));
            assert_eq!(told(gateway), all);
            // Nobody sends to it any more: stale after 30 s, forgotten after 90 s.
            ticks(gateway, 9100..98_000);
            assert_eq!(told(gateway), all);
            ticks(gateway, 98_000..101_000);
            all.push((there, None));
            assert_eq!(told(gateway), all);
        });
    }
}

#[test]
fn one_that_answers_again_before_it_has_failed_is_no_news() {
    let setup = Setup::new(1, false, Encap::Vxlan);
    let there = node(false, 2);
    on_known(setup, |gateway| {
        let all = [(there, Some(mac(2)))];
        // Used and not heard of for 30 s: it is verified, then asked for.
        run(gateway, 29_000, POD, udp(false, 2, b"x"));
        ticks(gateway, 30_000..31_500);
        assert_eq!(told(gateway), all);
        run(gateway, 31_500, WIRE, answer(setup, there, mac(2)));
        ticks(gateway, 31_500..33_000);
        assert_eq!(told(gateway), all);
    });
}

#[test]
fn nobody_who_never_answered_is_news() {
    on(Setup::new(1, false, Encap::Vxlan), |gateway| {
        for second in 0..20 {
            run(gateway, second * 1000, POD, udp(false, 2, b"x"));
            ticks(gateway, second * 1000..(second + 1) * 1000);
            // Its packets are dropped, which is told.
            let (events, _) = read(gateway, 0);
            assert_eq!(news(&events), []);
        }
    });
}

/// A liar on the link: every millisecond a neighbor has another MAC address.
#[test]
fn who_flaps_is_told_once_a_second_and_right_at_last() {
    for v6 in [false, true] {
        let setup = Setup::new(1, v6, Encap::Vxlan);
        on_known(setup, |gateway| {
            gateway.path_mtu_exceeded(at(100), WIRE, node(v6, 2), 1400);
            for millis in 1000..6000u64 {
                let low = u8::try_from(millis % 251).unwrap();
                run(gateway, millis, WIRE, moved(v6, mac(low)));
                if millis % 100 == 0 {
                    tick(gateway, millis);
                }
            }
            let (events, lost) = read(gateway, 0);
            assert_eq!(lost, 0);
            let kinds = || events.iter().map(|event| &event.kind);
            assert!(kinds().any(|kind| matches!(kind, EventKind::PathMtu { .. })));
            assert_eq!(news(&events).len(), 1 + 5);
            run(gateway, 6000, WIRE, moved(v6, mac(7)));
            ticks(gateway, 6000..8000);
            assert_eq!(told(gateway).last(), Some(&(node(v6, 2), Some(mac(7)))));
        });
    }
}

/// Many neighbors change at once: what is told at a time is limited, and all are told.
#[test]
fn many_at_once_are_told_one_after_the_other() {
    let setup = Setup::new(1, false, Encap::Vxlan);
    on(setup, |gateway| {
        let all: Vec<u8> = (2..10).collect();
        for n in &all {
            setup.add_peer(gateway, *n, node(false, *n));
            run(gateway, 0, POD, udp(false, *n, b"x"));
            run(gateway, 1, WIRE, answer(setup, node(false, *n), mac(*n)));
        }
        tick(gateway, 1);
        assert_eq!(told(gateway).len(), 4);
        let (mut after, mut seen) = (0, vec![]);
        for now in (100..3000).step_by(100) {
            tick(gateway, now);
            let (events, lost) = read(gateway, after);
            assert_eq!(lost, 0, "whoever reads that often misses nothing");
            after = events.last().map_or(after, |event| event.sequence);
            seen.extend(news(&events));
        }
        seen.sort();
        let expected: Vec<News> = all
            .iter()
            .map(|n| (node(false, *n), Some(mac(*n))))
            .collect();
        assert_eq!(seen, expected);
    });
}

/// All of them fall silent, one of them comes back before its turn to be told.
#[test]
fn what_could_not_be_told_in_time_is_not_told_at_all() {
    let setup = Setup::new(1, false, Encap::Vxlan);
    on_known(setup, |gateway| {
        run(gateway, 500, WIRE, moved(false, mac(9)));
        ticks(gateway, 500..900);
        run(gateway, 950, WIRE, moved(false, mac(2)));
        ticks(gateway, 1000..3000);
        assert_eq!(told(gateway), [(node(false, 2), Some(mac(2)))]);
    });
}
