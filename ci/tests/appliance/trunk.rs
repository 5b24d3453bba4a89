//! Trunks: what is no port's is counted and goes nowhere.

use culvert_core::channel::{Board, BoardAnswer, Health, Role};

use crate::node::{tagged, untagged};
use crate::world::{Boot, POD_A, POD_B, UPLINK, delivered, on_each, packet, program};

on_each!(frames_without_a_port_are_unclaimed,);

/// The trunk's ports are those from 4001 to the last.
const HIGH: u16 = 4000;

fn frames_without_a_port_are_unclaimed(boot: Boot<'_>) {
    let macs = [
        Role::Trunk { base: 0 }.mac(),
        Role::Trunk { base: HIGH }.mac(),
        Role::Port(UPLINK).mac(),
    ];
    let booted = &mut boot(&macs);
    let outside = booted.outside();
    program(outside);
    let sent = outside.exchange(0, &tagged(POD_A.0, &packet())).unwrap();
    let [(0, frame)] = &sent[..] else {
        panic!("{sent:x?}");
    };
    assert_eq!(untagged(frame), (POD_B.0, delivered()));
    let lost = [
        (0, packet()),
        // No VLAN, the reserved one, another NIC's port, the other trunk's.
        (0, tagged(0, &packet())),
        (0, tagged(4095, &packet())),
        (0, tagged(UPLINK.0, &packet())),
        (0, tagged(HIGH + 1, &packet())),
        // Beyond the last port.
        (1, tagged(4094, &packet())),
        // Another kind of tag, and half of one.
        (
            0,
            [&packet()[..12], &[0x88, 0xa8, 0, 2], &packet()[12..]].concat(),
        ),
        (0, [&packet()[..12], &[0x81, 0, 0]].concat()),
    ];
    for (wire, frame) in &lost {
        let sent = outside.exchange(*wire, frame).unwrap();
        assert_eq!(sent, [], "{frame:x?}");
    }
    let nics = outside.count().unwrap();
    let counted: Vec<_> = nics
        .iter()
        .map(|nic| (nic.rx_frames, nic.rx_unclaimed))
        .collect();
    assert_eq!(counted, [(8, 7), (1, 1), (0, 0)]);
    let health = outside.ask_board(Board::Health).unwrap();
    let BoardAnswer::Health(Health {
        unsent: 0,
        no_buffer: 0,
        ..
    }) = health
    else {
        panic!("{health:?}");
    };
    // None of them has kept a buffer.
    let sent = outside.exchange(0, &tagged(POD_A.0, &packet())).unwrap();
    assert_eq!(sent.len(), 1);
}
