//! Hosts with the key.

use culvert_core::channel::{
    Board as Ask, BoardAnswer, Error, Hello, PROTOCOL, Request, Response, SCHEMA,
};

use crate::host::Host;
use crate::station::Station;
use crate::world::{World, framed};
use crate::{KEY, V4, V6, config, open, set_key};

fn connect(world: &mut World, station: &mut Station) -> Host {
    Host::connect(world, station, V4, &KEY).expect("a handshake")
}

fn pings(world: &mut World, station: &mut Station, host: &mut Host) -> bool {
    host.ask(world, station, &Request::Ping) == Some(Response::Pong)
}

#[test]
fn the_channel_is_the_same_as_on_the_console() {
    let (mut world, mut station) = open();
    for to in [V4, V6] {
        let mut host = Host::connect(&mut world, &mut station, to, &KEY).unwrap();
        assert!(pings(&mut world, &mut station, &mut host));
        let describe = Request::Board(Ask::Describe);
        let described = host.ask(&mut world, &mut station, &describe).unwrap();
        assert_eq!(described, world.ask(&describe));
        let Response::Board(BoardAnswer::Description(description)) = described else {
            panic!("{described:?}");
        };
        assert!(description.management);
    }
    let mut host = connect(&mut world, &mut station);
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        schema: SCHEMA,
        epoch: 77,
    });
    let Some(Response::Hello(welcome)) = host.ask(&mut world, &mut station, &hello) else {
        panic!();
    };
    assert_eq!((welcome.previous_epoch, welcome.epoch), (0, 77));
    // Both conversations are with one core.
    let Response::Hello(welcome) = world.ask(&hello) else {
        panic!();
    };
    assert_eq!(welcome.previous_epoch, 77);
    assert_eq!(world.health().refused, 0);
}

#[test]
fn requests_come_in_any_pieces_and_many_at_once() {
    let (mut world, mut station) = open();
    let mut host = connect(&mut world, &mut station);
    let mut stream = Vec::new();
    for id in 1..=40 {
        stream.extend(framed(id, &Request::Counters { from: 0 }));
    }
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        schema: SCHEMA,
        epoch: 1,
    });
    assert!(host.ask(&mut world, &mut station, &hello).is_some());
    for size in [1, 7, 2032] {
        host.say(&mut station, &stream, size);
        let last = host.answer(&mut world, &mut station, 40);
        assert!(
            matches!(last, Some(Response::Counters { .. })),
            "{size}: {last:?}"
        );
    }
}

#[test]
fn garbage_in_the_stream_is_answered_with_an_error() {
    let (mut world, mut station) = open();
    let mut host = connect(&mut world, &mut station);
    host.say(&mut station, b"\x05garbage\0", 300);
    let answer = host.answer(&mut world, &mut station, 0);
    assert_eq!(answer, Some(Response::Error(Error::Damaged)));
    assert!(pings(&mut world, &mut station, &mut host));
}

#[test]
fn another_key_ends_the_conversation_and_the_same_does_not() {
    let (mut world, mut station) = open();
    let mut host = connect(&mut world, &mut station);
    assert!(pings(&mut world, &mut station, &mut host));
    set_key(&mut world, Some(KEY));
    assert!(pings(&mut world, &mut station, &mut host));
    let other = [0x77; 32];
    set_key(&mut world, Some(other));
    assert!(station.is_ended(&mut world, host.handle, 100));
    assert!(Host::connect(&mut world, &mut station, V4, &KEY).is_none());
    let mut host = Host::connect(&mut world, &mut station, V4, &other).unwrap();
    assert!(pings(&mut world, &mut station, &mut host));
    // The host itself may close the port, and hears that it is done.
    let close = Request::Board(Ask::SetKey { key: None });
    let answer = host.ask(&mut world, &mut station, &close);
    assert_eq!(answer, Some(Response::Board(BoardAnswer::Done)));
    assert!(station.is_ended(&mut world, host.handle, 100));
    let handle = station.connect(V4.0, V4.1);
    assert!(!station.is_connected(&mut world, handle));
}

#[test]
fn other_addresses_end_the_conversation() {
    let (mut world, mut station) = open();
    let mut host = connect(&mut world, &mut station);
    assert!(pings(&mut world, &mut station, &mut host));
    let told = config(&["192.0.2.9/24", "192.0.2.10/24"], &[], 7374);
    assert_eq!(world.ask_board(told.clone()), BoardAnswer::Done);
    assert!(station.is_ended(&mut world, host.handle, 100));
    let mut host = Host::connect(&mut world, &mut station, ("192.0.2.10", 7374), &KEY).unwrap();
    assert!(pings(&mut world, &mut station, &mut host));
    // Told once more, nothing changes.
    assert_eq!(world.ask_board(told), BoardAnswer::Done);
    assert!(pings(&mut world, &mut station, &mut host));
}

#[test]
fn the_last_host_that_shows_the_key_speaks() {
    let (mut world, mut station) = open();
    let mut first = connect(&mut world, &mut station);
    assert!(pings(&mut world, &mut station, &mut first));
    // A handshake alone could be a copy of an old one.
    let mut second = connect(&mut world, &mut station);
    assert!(pings(&mut world, &mut station, &mut first));
    second.nod(&mut station);
    assert!(station.is_ended(&mut world, first.handle, 100));
    assert!(pings(&mut world, &mut station, &mut second));
    assert_eq!(world.health().refused, 0);
}

#[test]
fn a_host_that_is_gone_without_a_word_is_noticed_within_half_a_minute() {
    let (mut world, mut station) = open();
    let mut host = connect(&mut world, &mut station);
    assert!(pings(&mut world, &mut station, &mut host));
    // The appliance alone; what it sends leads nowhere.
    let mut last = Vec::new();
    for _ in 0..30_000 {
        world.pass(1_000);
        last.extend(world.sent());
    }
    // The TCP flags of an IPv4 frame.
    let is_reset = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[47] & 4 != 0;
    assert!(last.iter().any(is_reset), "{} frames", last.len());
    assert!(last.len() < 20);
}

#[test]
fn a_quiet_host_stays() {
    let (mut world, mut station) = open();
    let mut host = connect(&mut world, &mut station);
    assert!(pings(&mut world, &mut station, &mut host));
    station.until(&mut world, 90_000, |_| false);
    assert!(pings(&mut world, &mut station, &mut host));
}

#[test]
fn who_says_goodbye_is_answered_and_makes_room() {
    let (mut world, mut station) = open();
    for _ in 0..10 {
        let mut host = connect(&mut world, &mut station);
        host.say(&mut station, &framed(5, &Request::Ping), 300);
        station.socket(host.handle).close();
        let answer = host.answer(&mut world, &mut station, 5);
        assert_eq!(answer, Some(Response::Pong));
        assert!(station.until(&mut world, 1_000, |station| {
            !station.socket(host.handle).is_active()
        }));
    }
    assert_eq!(world.health().refused, 0);
}

#[test]
fn a_host_that_does_not_listen_holds_up_itself_only() {
    let (mut world, mut station) = open();
    let mut host = connect(&mut world, &mut station);
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        schema: SCHEMA,
        epoch: 1,
    });
    assert!(host.ask(&mut world, &mut station, &hello).is_some());
    // Nothing of what comes back is read.
    let request = framed(9, &Request::Counters { from: 0 });
    for _ in 0..200 {
        if station.socket(host.handle).send_queue() < 10_000 {
            host.say(&mut station, &request.repeat(10), 1000);
        }
        station.step(&mut world);
        assert_eq!(world.ask(&Request::Ping), Response::Pong);
    }
    assert_eq!(world.wires.borrow().no_buffer, 0);
    // Then it listens again.
    let answer = host.answer(&mut world, &mut station, 9);
    assert!(
        matches!(answer, Some(Response::Counters { .. })),
        "{answer:?}"
    );
}
