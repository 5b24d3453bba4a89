//! The management port, from the wire: a station with a TCP/IP stack of its own, on a
//! board that is not there.

mod host;
mod port;
mod session;
mod station;
mod strangers;
mod world;

use culvert_core::channel::{Board as Ask, BoardAnswer, Management, PresharedKey, WireAddress};

use station::Station;
use world::World;

const KEY: [u8; 32] = [0x5a; 32];
const V4: (&str, u16) = ("192.0.2.9", 7373);
const V6: (&str, u16) = ("2001:db8::9", 7373);

/// Addresses, gateways and TCP port.
fn config(addresses: &[&str], gateways: &[&str], tcp_port: u16) -> Ask {
    let addresses = addresses.iter().map(|address| {
        let (address, length) = address.split_once('/').unwrap();
        WireAddress {
            address: address.parse().unwrap(),
            prefix_length: length.parse().unwrap(),
        }
    });
    Ask::SetManagement(Management {
        addresses: addresses.collect(),
        gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
        tcp_port,
    })
}

/// An appliance with a management port that has addresses, and a station beside it.
fn addressed() -> (World, Station) {
    let mut world = World::new();
    let config = config(&["192.0.2.9/24", "2001:db8::9/64"], &[], 7373);
    assert_eq!(world.ask_board(config), BoardAnswer::Done);
    let station = Station::new(1, &["192.0.2.50/24", "2001:db8::50/64"]);
    (world, station)
}

/// As [`addressed`], with a key.
fn open() -> (World, Station) {
    let (mut world, station) = addressed();
    set_key(&mut world, Some(KEY));
    (world, station)
}

fn set_key(world: &mut World, key: Option<[u8; 32]>) {
    assert_eq!(
        world.ask_board(Ask::SetKey {
            key: key.map(PresharedKey)
        }),
        BoardAnswer::Done
    );
}
