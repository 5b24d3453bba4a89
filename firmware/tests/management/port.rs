//! Addresses, ping, and a TCP port that is closed until it has a key.

use culvert_core::channel::{Board as Ask, BoardAnswer, BoardRefusal, PresharedKey, Role};
use culvert_core::{MacAddr, PortId};

use crate::station::Station;
use crate::world::{MANAGEMENT, ROLES, World};
use crate::{KEY, V4, V6, addressed, config, open, set_key};

#[test]
fn it_answers_pings_of_both_versions() {
    let (mut world, mut station) = addressed();
    for len in [0, 1, 56, 1400] {
        let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        assert!(station.ping(&mut world, V4.0, &data), "{len} bytes");
        assert!(station.ping(&mut world, V6.0, &data), "{len} bytes");
    }
    assert!(!station.ping(&mut world, "192.0.2.10", b"nobody"));
}

#[test]
fn it_answers_through_its_gateways() {
    let mut world = World::new();
    let told = config(
        &["192.0.2.9/24", "2001:db8::9/64"],
        &["192.0.2.1", "fe80::1"],
        7373,
    );
    assert_eq!(world.ask_board(told), BoardAnswer::Done);
    // The gateway asks itself, from addresses behind it.
    let addresses = [
        "192.0.2.1/24",
        "198.51.100.7/24",
        "fe80::1/64",
        "2001:db8:7::7/64",
    ];
    let mut gateway = Station::new(1, &addresses[..2]);
    assert!(gateway.ping(&mut world, V4.0, b"from far"));
    let mut gateway = Station::new(2, &addresses[2..]);
    // Its neighbor has a link-local address too.
    let mac = Role::Management.mac().bytes();
    let local = format!("fe80::{:x}:76ff:fe03:0", u16::from(mac[1]));
    assert!(gateway.ping(&mut world, &local, b"from the link"));
}

#[test]
fn without_addresses_it_is_silent() {
    let (mut world, mut station) = open();
    assert!(station.ping(&mut world, V4.0, b"1"));
    assert_eq!(world.ask_board(config(&[], &[], 7373)), BoardAnswer::Done);
    assert!(!station.ping(&mut world, V4.0, b"2"));
    let handle = station.connect(V4.0, V4.1);
    assert!(!station.is_connected(&mut world, handle));
    let BoardAnswer::Nics(nics) = world.ask_board(Ask::Nics { from: 0 }) else {
        panic!();
    };
    assert!(nics[MANAGEMENT].rx_unclaimed > 0);
    assert!(nics[MANAGEMENT].tx_frames > 0);
}

#[test]
fn addresses_that_no_port_can_have_are_refused() {
    let (mut world, mut station) = addressed();
    for (addresses, gateways, bad) in [
        (&["224.0.0.1/24"][..], &[][..], "224.0.0.1"),
        (&["192.0.2.8/24", "ff02::1/64"], &[], "ff02::1"),
        (&["192.0.2.8/24"], &["203.0.113.1"], "203.0.113.1"),
    ] {
        let refused = world.ask_board(config(addresses, gateways, 7373));
        let refusal = BoardRefusal::Address(bad.parse().unwrap());
        assert_eq!(refused, BoardAnswer::Refused(refusal));
    }
    assert!(station.ping(&mut world, V4.0, b"as before"));
    assert!(!station.ping(&mut world, "192.0.2.8", b"refused"));
}

#[test]
fn the_role_can_go_to_another_nic() {
    let (mut world, mut station) = addressed();
    assert!(station.ping(&mut world, V4.0, b"1"));
    let set = |world: &mut World, nic: Role, role| {
        let mac: MacAddr = nic.mac();
        world.ask_board(Ask::SetRole { mac, role })
    };
    assert_eq!(
        set(&mut world, ROLES[MANAGEMENT], Role::Unused),
        BoardAnswer::Done
    );
    assert!(!station.ping(&mut world, V4.0, b"2"));
    let other = Role::Port(PortId(1));
    assert_eq!(set(&mut world, other, Role::Management), BoardAnswer::Done);
    assert!(!station.ping(&mut world, V4.0, b"3"));
    assert_eq!(set(&mut world, other, Role::Unused), BoardAnswer::Done);
    assert_eq!(
        set(&mut world, ROLES[MANAGEMENT], Role::Management),
        BoardAnswer::Done
    );
    let mut station = Station::new(2, &["192.0.2.51/24"]);
    assert!(station.ping(&mut world, V4.0, b"4"));
}

#[test]
fn without_a_key_the_tcp_port_is_closed() {
    let (mut world, mut station) = addressed();
    for (to, port) in [V4, V6] {
        let handle = station.connect(to, port);
        assert!(!station.is_connected(&mut world, handle));
    }
    set_key(&mut world, Some(KEY));
    for (to, port) in [V4, V6] {
        let handle = station.connect(to, port);
        assert!(station.is_connected(&mut world, handle));
        let other = station.connect(to, port + 1);
        assert!(!station.is_connected(&mut world, other));
    }
    set_key(&mut world, None);
    let handle = station.connect(V4.0, V4.1);
    assert!(!station.is_connected(&mut world, handle));
}

#[test]
fn without_randomness_there_is_no_key() {
    let mut world = World::with_random(None);
    let told = config(&["192.0.2.9/24"], &[], 7373);
    assert_eq!(world.ask_board(told), BoardAnswer::Done);
    let refused = world.ask_board(Ask::SetKey {
        key: Some(PresharedKey(KEY)),
    });
    assert_eq!(refused, BoardAnswer::Refused(BoardRefusal::NoRandomness));
    let BoardAnswer::Description(description) = world.ask_board(Ask::Describe) else {
        panic!();
    };
    assert!(!description.management);
    let mut station = Station::new(1, &["192.0.2.50/24"]);
    assert!(station.ping(&mut world, V4.0, b"still"));
    let handle = station.connect(V4.0, V4.1);
    assert!(!station.is_connected(&mut world, handle));
}

#[test]
fn without_buffers_it_sleeps_and_goes_on_when_there_are_some() {
    let (mut world, mut station) = open();
    assert!(station.ping(&mut world, V4.0, b"1"));
    let handle = station.connect(V4.0, V4.1);
    assert!(station.is_connected(&mut world, handle));
    // A neighbor's frame that waits, and a connection whose patience ends.
    world.wires.borrow_mut().keep = true;
    let frame = crate::world::pod_frame();
    world.wires.borrow_mut().to_nic[MANAGEMENT].push_back(frame);
    world.pass(1_000);
    for _ in 0..6_000 {
        // It comes to rest each time.
        station.step(&mut world);
    }
    world.wires.borrow_mut().keep = false;
    world.pass(1_000);
    assert!(station.ping(&mut world, V4.0, b"2"));
}
