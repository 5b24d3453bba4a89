//! Who has no key, or does not show it.

use culvert_core::channel::{
    Apply, Board as Ask, BoardAnswer, Hello, Owner, PROTOCOL, Request, Response, SCHEMA,
};

use crate::host::{Host, greet, record};
use crate::station::Station;
use crate::world::{MANAGEMENT, World};
use crate::{KEY, V4, open};

/// Connects and sends these bytes.
fn send(world: &mut World, station: &mut Station, bytes: &[u8]) -> smoltcp::iface::SocketHandle {
    let handle = station.connect(V4.0, V4.1);
    assert!(station.is_connected(world, handle));
    station.socket(handle).send_slice(bytes).unwrap();
    handle
}

fn still_serves(world: &mut World, station: &mut Station) {
    let mut host = Host::connect(world, station, V4, &KEY).expect("a handshake");
    let answer = host.ask(world, station, &Request::Ping);
    assert_eq!(answer, Some(Response::Pong));
}

#[test]
fn another_key_is_refused_and_counted() {
    let (mut world, mut station) = open();
    for (refused, key) in (1..).zip([[0; 32], [0xff; 32], [0x5b; 32]]) {
        assert!(Host::connect(&mut world, &mut station, V4, &key).is_none());
        assert_eq!(world.health().refused, refused);
    }
    still_serves(&mut world, &mut station);
}

#[test]
fn what_is_no_greeting_ends_the_connection_at_once() {
    let (mut world, mut station) = open();
    let (_, greeting) = greet(&KEY);
    let mut flipped = greeting.clone();
    flipped[40] ^= 1;
    let mut moved = greeting.clone();
    moved[3] ^= 1;
    let bad: [Vec<u8>; 9] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH\r\n".to_vec(),
        vec![0, 0],
        vec![0, 15],
        vec![0xff; 500],
        record(&greeting[..47]),
        record(&[&greeting[..], &[0]].concat()),
        record(&flipped),
        record(&moved),
    ];
    for (refused, bytes) in (1..).zip(bad) {
        let handle = send(&mut world, &mut station, &bytes);
        assert!(station.is_ended(&mut world, handle, 100), "{bytes:02x?}");
        assert_eq!(world.health().refused, refused, "{bytes:02x?}");
    }
    still_serves(&mut world, &mut station);
}

#[test]
fn half_a_handshake_lasts_five_seconds() {
    let (mut world, mut station) = open();
    let (_, greeting) = greet(&KEY);
    let whole = record(&greeting);
    for bytes in [&[][..], &whole[..1], &whole[..49], &whole[..]] {
        let handle = send(&mut world, &mut station, bytes);
        assert!(
            !station.is_ended(&mut world, handle, 4_900),
            "{} bytes",
            bytes.len()
        );
        assert!(
            station.is_ended(&mut world, handle, 200),
            "{} bytes",
            bytes.len()
        );
    }
    assert_eq!(world.health().refused, 4);
    // Byte by byte does not take longer either.
    let handle = send(&mut world, &mut station, &[0]);
    for byte in [48].iter().chain(&greeting) {
        let socket = station.socket(handle);
        if socket.may_send() {
            socket.send_slice(&[*byte]).unwrap();
        }
        station.until(&mut world, 150, |_| false);
    }
    assert!(station.is_ended(&mut world, handle, 1));
    still_serves(&mut world, &mut station);
}

#[test]
fn a_greeting_that_comes_again_shows_nothing() {
    let (mut world, mut station) = open();
    let mut host = Host::connect(&mut world, &mut station, V4, &KEY).unwrap();
    assert!(host.ask(&mut world, &mut station, &Request::Ping).is_some());
    // Someone who listened says what a host once said, and then what he likes.
    let (mut handshake, greeting) = greet(&KEY);
    let answered = send(&mut world, &mut station, &record(&greeting));
    station.until(&mut world, 100, |station| {
        station.socket(answered).recv_queue() >= 50
    });
    let mut answer = [0; 50];
    assert_eq!(station.socket(answered).recv_slice(&mut answer), Ok(50));
    assert!(handshake.read_message(&answer[2..], &mut []).is_ok());
    let again = send(&mut world, &mut station, &record(&greeting));
    station.until(&mut world, 100, |station| {
        station.socket(again).recv_queue() >= 50
    });
    let mut other = [0; 50];
    assert_eq!(station.socket(again).recv_slice(&mut other), Ok(50));
    // The appliance's key is new each time.
    assert_ne!(answer, other);
    let mut handshake = handshake.into_transport_mode().unwrap();
    let mut message = [0; 32];
    let len = handshake.write_message(b"", &mut message).unwrap();
    let bytes = record(&message[..len]);
    station.socket(again).send_slice(&bytes).unwrap();
    assert!(station.is_ended(&mut world, again, 100));
    assert_eq!(world.health().refused, 1);
    // The host that spoke has noticed nothing.
    let answer = host.ask(&mut world, &mut station, &Request::Ping);
    assert_eq!(answer, Some(Response::Pong));
}

#[test]
fn a_message_that_is_forged_damaged_or_comes_again_ends_the_conversation() {
    let (mut world, mut station) = open();
    for kind in 0..4 {
        let mut host = Host::connect(&mut world, &mut station, V4, &KEY).unwrap();
        assert!(host.ask(&mut world, &mut station, &Request::Ping).is_some());
        let mut message = [0; 100];
        let len = host.noise.write_message(b"\0\0\0\0", &mut message).unwrap();
        let message = &mut message[..len];
        let sent = match kind {
            0 => [record(message), record(message)].concat(),
            1 => {
                message[0] ^= 1;
                record(message)
            }
            2 => record(&[0; 2048]),
            _ => vec![0xff, 0xff, 1],
        };
        station.socket(host.handle).send_slice(&sent).unwrap();
        assert!(station.is_ended(&mut world, host.handle, 100), "{kind}");
    }
    still_serves(&mut world, &mut station);
}

#[test]
fn a_flood_keeps_nobody_out_who_has_the_key() {
    let (mut world, mut station) = open();
    let mut host = Host::connect(&mut world, &mut station, V4, &KEY).unwrap();
    assert!(host.ask(&mut world, &mut station, &Request::Ping).is_some());
    let mut crowd = Station::new(9, &["192.0.2.99/24"]);
    // They connect and say nothing, more than there are places, again and again.
    let mut connected = Vec::new();
    for _ in 0..40 {
        connected.push(crowd.connect(V4.0, V4.1));
        for _ in 0..3 {
            crowd.step(&mut world);
        }
    }
    let refused = world.health().refused;
    assert!((30..=40).contains(&refused), "{refused}");
    let answer = host.ask(&mut world, &mut station, &Request::Ping);
    assert_eq!(answer, Some(Response::Pong));
    still_serves(&mut world, &mut station);
}

#[test]
fn forwarding_goes_on_under_a_flood_of_greetings() {
    let (mut world, mut station) = open();
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        schema: SCHEMA,
        epoch: 1,
    });
    assert!(matches!(world.ask(&hello), Response::Hello(_)));
    let applied = world.ask(&Request::Apply(Apply {
        transaction: 1,
        owner: Owner::Attachment,
        operations: crate::world::two_pods(),
    }));
    assert!(matches!(applied, Response::Applied { .. }), "{applied:?}");
    let frame = crate::world::pod_frame();
    let (_, greeting) = greet(&KEY);
    for _ in 0..200 {
        // Greetings that are right cost the most.
        let handle = station.connect(V4.0, V4.1);
        station.is_connected(&mut world, handle);
        if station.socket(handle).may_send() {
            station
                .socket(handle)
                .send_slice(&record(&greeting))
                .unwrap();
        }
        for _ in 0..64 {
            world.wires.borrow_mut().to_nic[0].push_back(frame.clone());
        }
        // One turn, whatever else there is to do.
        world.turn();
        let out = world.wires.borrow_mut().from_nic[2].drain(..).count();
        assert_eq!(out, 64);
        let socket = station.socket(handle);
        socket.abort();
        station.step(&mut world);
        station.sockets.remove(handle);
    }
    let BoardAnswer::Health(health) = world.ask_board(Ask::Health) else {
        panic!();
    };
    assert_eq!((health.unsent, health.no_buffer), (0, 0));
}

/// A wish to connect, from an address that nobody has.
fn spoofed(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mac = culvert_core::channel::Role::Management.mac().bytes();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 9, high, low], mac)
        .ipv4([198, 51, high, low], [192, 0, 2, 9], 64)
        .tcp(1024 + number, V4.1, u32::from(number) * 7919, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

/// As [`spoofed`], by IPv6, with a hop-by-hop header in front of TCP's.
fn spoofed_behind_options(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mac = culvert_core::channel::Role::Management.mac().bytes();
    let src: std::net::Ipv6Addr = format!("fd00::9:{number:x}").parse().unwrap();
    let dst: std::net::Ipv6Addr = crate::V6.0.parse().unwrap();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 9, high, low], mac)
        .ipv6(src.octets(), dst.octets(), 64)
        .tcp(1024 + number, crate::V6.1, u32::from(number) * 7919, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    // Next header 0, and eight bytes: TCP, length 0, PadN of 4 (RFC 8200 section 4.3).
    frame[20] = 0;
    let len = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    frame
}

#[test]
fn connections_that_nobody_means_keep_no_host_out() {
    outlast(spoofed);
}

#[test]
fn nor_do_those_behind_options() {
    outlast(spoofed_behind_options);
}

/// A host is heard while one of these comes each millisecond.
fn outlast(spoofed: fn(u16) -> Vec<u8>) {
    let (mut world, mut station) = open();
    let mut number = 0;
    let mut flood = |world: &mut World| {
        number += 1;
        world.wires.borrow_mut().to_nic[MANAGEMENT].push_back(spoofed(number));
    };
    // An answer takes so many milliseconds more than one.
    for delay in [0, 10, 40] {
        for _ in 0..100 {
            flood(&mut world);
            station.step(&mut world);
        }
        let began = world.now();
        let (mut handshake, greeting) = greet(&KEY);
        let handle = station.connect(V4.0, V4.1);
        station.delay = delay;
        let mut said = 0;
        let mut is_heard = false;
        for _ in 0..3_000 {
            flood(&mut world);
            station.step(&mut world);
            let socket = station.socket(handle);
            assert!(socket.is_open(), "delay {delay}");
            if said == 0 && socket.may_send() {
                socket.send_slice(&record(&greeting)).unwrap();
                said = 1;
            }
            let mut answer = [0; 50];
            if said == 1 && socket.recv_queue() >= 50 {
                socket.recv_slice(&mut answer).unwrap();
                handshake.read_message(&answer[2..], &mut []).unwrap();
                said = 2;
                // The first message that shows the key: a ping.
                let mut noise = std::mem::replace(&mut handshake, greet(&KEY).0)
                    .into_transport_mode()
                    .unwrap();
                let mut message = [0; 200];
                let ping = crate::world::framed(1, &Request::Ping);
                let len = noise.write_message(&ping, &mut message).unwrap();
                socket.send_slice(&record(&message[..len])).unwrap();
            } else if said == 2 && socket.recv_queue() > 0 {
                is_heard = true;
                break;
            }
        }
        let took = (world.now() - began) / 1_000;
        assert!(is_heard, "delay {delay}: got to {said}");
        assert!(took < 2_000, "delay {delay}: {took} ms");
        station.delay = 0;
        station.socket(handle).abort();
        station.step(&mut world);
        station.sockets.remove(handle);
    }
}

#[test]
fn wrong_greetings_use_up_no_randomness() {
    let (mut world, mut station) = open();
    // What the first one has drawn stays for a right one.
    let wrong = |world: &mut World, station: &mut Station| {
        let handle = send(world, station, &record(&[7; 48]));
        assert!(station.is_ended(world, handle, 100));
        let random = world.wires.borrow().random;
        station.sockets.remove(handle);
        random
    };
    let before = wrong(&mut world, &mut station);
    for _ in 0..20 {
        assert_eq!(wrong(&mut world, &mut station), before);
    }
    still_serves(&mut world, &mut station);
    // The host had that, and another one is drawn.
    assert_ne!(wrong(&mut world, &mut station), before);
    // A source that fails is not asked over and over.
    still_serves(&mut world, &mut station);
    world.wires.borrow_mut().random = None;
    let asked = world.wires.borrow().asked;
    for _ in 0..20 {
        let handle = send(&mut world, &mut station, &record(&[7; 48]));
        station.is_ended(&mut world, handle, 100);
        station.socket(handle).abort();
        station.step(&mut world);
        station.sockets.remove(handle);
    }
    let asked = world.wires.borrow().asked - asked;
    assert!(asked <= 1, "{asked} times");
    world.wires.borrow_mut().random = Some(9);
    station.until(&mut world, 10_000, |_| false);
    still_serves(&mut world, &mut station);
}
