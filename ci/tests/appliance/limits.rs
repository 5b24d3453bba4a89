//! Limits: frames that are too long, and a host that does not keep up.

use std::collections::BTreeSet;
use std::time::Duration;

use culvert_core::channel::{MAX_FRAME, Request, Response, encode_frame, encode_request};
use culvert_firmware::LARGEST_FRAME;
use culvert_lab::appliance::LIMIT;

use crate::world::{Boot, forwards, on_each, program, three};

on_each!(
    frames_that_are_too_long_are_counted_and_dropped,
    a_slow_host_holds_up_nobody,
);

/// Questions that nobody reads the answers to at first: more than any console holds.
const QUESTIONS: u32 = 200;

fn frames_that_are_too_long_are_counted_and_dropped(boot: Boot<'_>) {
    let booted = &mut boot(&three());
    let outside = booted.outside();
    program(outside);
    let long = [
        LARGEST_FRAME + 1,
        // In one buffer yet, in two, in five, and the longest that an emulator passes on.
        1_919,
        1_921,
        3_000,
        9_014,
        65_549,
    ];
    for (number, len) in (1..).zip(long) {
        let sent = outside.exchange(1, &vec![0xff; len]).unwrap();
        assert_eq!(sent, [], "{len}");
        let nics = outside.count().unwrap();
        let counted: Vec<_> = nics.iter().map(|nic| nic.rx_too_long).collect();
        assert_eq!(counted, [0, number, 0], "{len}");
        forwards(outside);
    }
    // The largest is none of them.
    outside.exchange(1, &vec![0xff; LARGEST_FRAME]).unwrap();
    let counted = outside.count().unwrap()[1].rx_too_long;
    assert_eq!(usize::try_from(counted).unwrap(), long.len());
}

/// A question's bytes on the channel.
fn question(id: u32) -> Vec<u8> {
    let (mut message, mut frame) = (vec![0; MAX_FRAME], vec![0; MAX_FRAME]);
    let len = encode_request(id, &Request::Counters { from: 0 }, &mut message).unwrap();
    let len = encode_frame(&mut message, len, &mut frame).unwrap();
    frame.truncate(len);
    frame
}

fn a_slow_host_holds_up_nobody(boot: Boot<'_>) {
    let booted = &mut boot(&three());
    let outside = booted.outside();
    program(outside);
    let before = outside.count().unwrap();
    let questions: Vec<_> = (1..=QUESTIONS)
        .flat_map(|id| question(1_000 + id))
        .collect();
    outside.channel().unwrap().send(&questions).unwrap();
    // Frames go on, whoever reads what.
    let sent = 50;
    let frame = crate::world::packet();
    for _ in 0..sent {
        outside.wires()[1].send(&frame).unwrap();
        let came = outside.wires()[2].receive(LIMIT).unwrap();
        assert_eq!(came, Some(crate::world::delivered()));
    }
    // One answer now and then. An emulator may lose what it has no room for, but what
    // comes is whole and in order.
    let mut heard = BTreeSet::new();
    while let Some((id, answer)) = outside.channel().unwrap().answer(SILENCE).unwrap() {
        if id > 1_000 {
            assert!(matches!(answer, Response::Counters { .. }), "{answer:?}");
            assert!(heard.last().is_none_or(|last| *last < id), "{id}");
            heard.insert(id);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(!heard.is_empty());
    assert_eq!(outside.ask(&Request::Ping).unwrap(), Response::Pong);
    let after = outside.count().unwrap();
    assert_eq!(after[1].rx_frames - before[1].rx_frames, sent);
    assert_eq!(after[2].tx_frames - before[2].tx_frames, sent);
}

/// Nothing comes any more.
const SILENCE: Duration = Duration::from_millis(500);
