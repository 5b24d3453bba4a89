//! The console: garbage, hosts that come and go, restarts, ends, and full tables.

use std::net::{IpAddr, Ipv4Addr};

use culvert_core::channel::{
    Board, BoardAnswer, Error, MAX_OPERATIONS, NextHop, Operation, Request, Response, Route,
};
use culvert_core::{IpPrefix, PortId, Table, TableError};
use culvert_firmware::End;
use culvert_lab::appliance::LIMIT;

use crate::world::{Boot, Booted, NETWORK, apply, forwards, on_each, program, tables, three};

on_each!(
    garbage_is_answered_and_does_not_take_the_next_request_along,
    a_host_that_goes_in_the_middle_of_a_word_does_not_hinder_the_next,
    a_restart_leaves_nothing,
    the_status_at_the_end_is_the_one_asked_for,
    a_full_table_says_so_and_forwards_on,
);

/// Bytes without any sense (a linear congruential generator).
fn garbage(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| byte()).collect()
}

fn garbage_is_answered_and_does_not_take_the_next_request_along(boot: Boot<'_>) {
    let booted = &mut boot(&three());
    let outside = booted.outside();
    program(outside);
    for seed in 0..8 {
        let channel = outside.channel().unwrap();
        let mut bytes = garbage(3000, seed);
        // At least one frame, whatever there is.
        bytes.extend([1, 2, 3, 0]);
        channel.send(&bytes).unwrap();
        let (id, answer) = channel.answer(LIMIT).unwrap().unwrap();
        assert!(
            id == 0 && matches!(answer, Response::Error(Error::Damaged)),
            "{id} {answer:?}"
        );
        assert_eq!(outside.ask(&Request::Ping).unwrap(), Response::Pong);
    }
    // Longer than any frame.
    let channel = outside.channel().unwrap();
    channel.send(&[&[7; 10_000][..], &[0]].concat()).unwrap();
    let (_, answer) = channel.answer(LIMIT).unwrap().unwrap();
    assert_eq!(answer, Response::Error(Error::TooLarge));
    assert_eq!(outside.ask(&Request::Ping).unwrap(), Response::Pong);
    forwards(outside);
}

fn a_host_that_goes_in_the_middle_of_a_word_does_not_hinder_the_next(boot: Boot<'_>) {
    let booted = &mut boot(&three());
    let outside = booted.outside();
    program(outside);
    for len in [1, 3, 500] {
        outside.channel().unwrap().send(&vec![1; len]).unwrap();
        outside.disconnect();
        outside.connect().unwrap();
        assert_eq!(outside.ask(&Request::Ping).unwrap(), Response::Pong);
    }
    // Answers that nobody waits for.
    let page = Request::Counters { from: 0 };
    let _ = outside
        .channel()
        .unwrap()
        .ask(&page, std::time::Duration::ZERO);
    outside.disconnect();
    outside.connect().unwrap();
    // It has not started anew meanwhile, and forwards by the tables that it has.
    let welcome = outside.hello(8).unwrap();
    assert_eq!((welcome.previous_epoch, welcome.epoch), (7, 7));
    forwards(outside);
}

fn a_restart_leaves_nothing(boot: Boot<'_>) {
    let booted = &mut boot(&three());
    let outside = booted.outside();
    program(outside);
    forwards(outside);
    for _ in 0..3 {
        let answer = outside.ask_board(Board::Restart).unwrap();
        assert_eq!(answer, BoardAnswer::Done);
        // The new one is told the same and does the same.
        program(outside);
        let counted = outside.count().unwrap();
        assert!(counted.iter().all(|nic| nic.rx_frames == 0), "{counted:?}");
        forwards(outside);
    }
}

fn the_status_at_the_end_is_the_one_asked_for(boot: Boot<'_>) {
    for status in [0, 1, 42, 127] {
        let booted = &mut boot(&three()[..1]);
        let outside = booted.outside();
        outside.hello(1).unwrap();
        // Its answer may be lost in the end.
        let _ = outside.ask_board(Board::PowerOff { status });
        match booted {
            Booted::Twin(twin) => assert_eq!(twin.ended(), Some(End::Off(status))),
            Booted::Guest(guest) => assert_eq!(guest.ended().unwrap(), status),
        }
    }
}

/// Some route that no other number has.
fn route(number: u32) -> Operation {
    let address = IpAddr::from(Ipv4Addr::from(0x0b00_0000 + number));
    Operation::UpsertRoute(Route {
        network: NETWORK,
        prefix: IpPrefix::new(address, 32).unwrap(),
        next_hop: NextHop::Blackhole,
    })
}

fn a_full_table_says_so_and_forwards_on(boot: Boot<'_>) {
    let booted = &mut boot(&three());
    let outside = booted.outside();
    program(outside);
    let welcome = outside.hello(7).unwrap();
    let (used, capacity) = (welcome.used.routes, welcome.capacities.routes);
    let routes: Vec<_> = (used..capacity).map(route).collect();
    for (operations, number) in routes.chunks(MAX_OPERATIONS).zip(2..) {
        let applied = outside.ask(&apply(number, operations)).unwrap();
        assert_eq!(
            applied,
            Response::Applied {
                transaction: number
            }
        );
    }
    let more = [route(0), route(capacity)];
    let Response::Refused(refusal) = outside.ask(&apply(1, &more)).unwrap() else {
        panic!("a route beyond the capacity was taken");
    };
    let table = Table::Routes;
    assert_eq!(refusal.error, TableError::TableFull { table, capacity });
    // Ports have a number each, and none is beyond the last.
    let mut beyond = tables().pop().unwrap();
    let Operation::UpsertPort(port) = &mut beyond else {
        panic!("{beyond:?}");
    };
    let capacity = welcome.capacities.ports;
    let id = u16::try_from(capacity).unwrap();
    port.id = PortId(id);
    let Response::Refused(refusal) = outside.ask(&apply(1, &[beyond])).unwrap() else {
        panic!("a port beyond the capacity was taken");
    };
    let table = Table::Ports;
    let refused = TableError::IdOutOfRange {
        table,
        id,
        capacity,
    };
    assert_eq!(refusal.error, refused);
    let used = outside.hello(7).unwrap().used;
    assert_eq!(used.routes, welcome.capacities.routes);
    forwards(outside);
}
