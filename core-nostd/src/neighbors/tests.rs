extern crate std;

use core::net::{Ipv4Addr, Ipv6Addr};
use std::boxed::Box;
use std::vec::Vec;

use super::*;

const PORT: PortId = PortId(3);
const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
const NEW_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);

struct Memory {
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    head: Box<Head>,
}

impl Memory {
    fn new(capacity: usize, slots: usize) -> Self {
        Memory {
            entries: (0..2 * capacity).map(|_| Entry::new_zeroed()).collect(),
            slots: (0..slots).map(|_| Slot::new_zeroed()).collect(),
            head: Box::new(Head::new_zeroed()),
        }
    }

    fn neighbors(&mut self) -> Neighbors<'_> {
        Neighbors {
            entries: &mut self.entries,
            slots: &mut self.slots,
            head: &mut self.head,
        }
    }
}

fn ms(millis: u64) -> Instant {
    // Not from zero, as no clock does.
    Instant::from_micros((1_000_000 + millis) * 1000)
}

fn v4(last: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + last))
}

fn v6(last: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits((0xfd00 << 112) + last))
}

/// Everything that is to be sent at this time.
fn work_at(neighbors: &mut Neighbors<'_>, now: Instant) -> Vec<Work> {
    let mut all = Vec::new();
    for place in 0..neighbors.entries.len() {
        while let Some(work) = neighbors.work(now, place) {
            all.push(work);
            match work {
                Work::Ask { .. } => neighbors.asked(now, place),
                Work::Refuse { .. } => {
                    let mut buffer = [0; 4096];
                    let mut frame = Frame::new(&mut buffer, 128, 0).unwrap();
                    neighbors.give_up(place, &mut frame).unwrap();
                    assert_eq!(frame.bytes(), [7; 60]);
                }
                Work::Send { .. } => {
                    let mut buffer = [0; 4096];
                    let mut frame = Frame::new(&mut buffer, 128, 0).unwrap();
                    neighbors.release(now, place, &mut frame).unwrap();
                    assert_eq!(frame.bytes(), [7; 60]);
                }
            }
        }
    }
    all
}

/// What is sent from `from` to `to`, millisecond by millisecond, with its time.
fn history(neighbors: &mut Neighbors<'_>, from: u64, to: u64) -> Vec<(u64, Option<MacAddr>)> {
    let sent = (from..to).flat_map(|now| {
        let work = work_at(neighbors, ms(now)).into_iter();
        work.filter_map(move |work| match work {
            Work::Ask { to, .. } => Some((now, to)),
            Work::Refuse { .. } => None,
            Work::Send { .. } => panic!("nothing waits"),
        })
        .collect::<Vec<_>>()
    });
    sent.collect()
}

fn wait(neighbors: &mut Neighbors<'_>, now: Instant, address: IpAddr) -> Result<(), DropReason> {
    let mut buffer = [7; 60];
    let frame = Frame::new(&mut buffer, 0, 60).unwrap();
    match neighbors.resolve(now, PORT, address)? {
        Found::Wait(place) => neighbors.enqueue(place, &frame),
        found => panic!("{found:?}"),
    }
}

/// A neighbor that answered at this time.
fn reachable(neighbors: &mut Neighbors<'_>, at: u64, address: IpAddr) {
    let found = neighbors.resolve(ms(at), PORT, address).unwrap();
    assert!(matches!(found, Found::Wait(_)));
    work_at(neighbors, ms(at));
    neighbors.hear(ms(at), (PORT, address), MAC, Heard::Answer);
    assert_eq!(neighbors.resolve(ms(at), PORT, address), Ok(Found::At(MAC)));
}

#[test]
fn questions_back_off_and_give_up() {
    let mut memory = Memory::new(8, 1);
    let mut neighbors = memory.neighbors();
    wait(&mut neighbors, ms(0), v4(1)).unwrap();
    assert_eq!(
        wait(&mut neighbors, ms(0), v4(1)),
        Err(DropReason::NeighborPending)
    );
    let asked = history(&mut neighbors, 0, 3001);
    let times = [0, 250, 500, 1000, 2000].map(|at| (at, None));
    assert_eq!(asked, times);
    assert_eq!(neighbors.take_lost(), 1);
    // For a second packets are dropped without a question, then it starts again.
    for at in [3000, 3999] {
        let refused = neighbors.resolve(ms(at), PORT, v4(1));
        assert_eq!(refused, Err(DropReason::NeighborFailed), "{at}");
        assert_eq!(work_at(&mut neighbors, ms(at)), []);
    }
    wait(&mut neighbors, ms(4000), v4(1)).unwrap();
    assert_eq!(history(&mut neighbors, 4000, 4001), [(4000, None)]);
    // One that nobody wants any more is forgotten.
    history(&mut neighbors, 4001, 9000);
    assert_eq!(neighbors.head.entries, 0);
    assert_eq!(neighbors.take_lost(), 1);
}

#[test]
fn an_answer_sends_the_first_packet_that_waits() {
    for heard in [Heard::Answer, Heard::Confirmation, Heard::News, Heard::Hint] {
        let mut memory = Memory::new(8, 1);
        let mut neighbors = memory.neighbors();
        wait(&mut neighbors, ms(0), v6(9)).unwrap();
        assert_eq!(work_at(&mut neighbors, ms(0)).len(), 1);
        neighbors.hear(ms(3), (PORT, v6(9)), MAC, heard);
        let fresh = neighbors.head.take_fresh().last().unwrap();
        let send = Work::Send {
            port: PORT,
            mac: MAC,
        };
        assert_eq!(neighbors.work(ms(3), fresh), Some(send));
        assert_eq!(work_at(&mut neighbors, ms(3))[0], send, "{heard:?}");
        let found = neighbors.resolve(ms(3), PORT, v6(9));
        assert_eq!(found, Ok(Found::At(MAC)));
        // Of its own accord it may have said anything: it is asked at once.
        let solicited = matches!(heard, Heard::Answer | Heard::Confirmation);
        let state = neighbors.entries[fresh].state;
        assert_eq!(state == State::Reachable, solicited, "{heard:?}");
    }
}

#[test]
fn idle_neighbors_age_and_are_forgotten() {
    let mut memory = Memory::new(8, 1);
    let mut neighbors = memory.neighbors();
    reachable(&mut neighbors, 0, v4(1));
    // Nothing is asked about it, however long it lasts.
    assert_eq!(history(&mut neighbors, 0, 30_000), []);
    assert_eq!(history(&mut neighbors, 30_000, 89_999), []);
    assert_eq!(neighbors.head.entries, 1);
    assert_eq!(history(&mut neighbors, 89_999, 90_001), []);
    assert_eq!(neighbors.head.entries, 0);
}

#[test]
fn neighbors_in_use_are_verified_and_found_again() {
    let mut memory = Memory::new(8, 1);
    let mut neighbors = memory.neighbors();
    reachable(&mut neighbors, 0, v4(1));
    neighbors.resolve(ms(29_000), PORT, v4(1)).unwrap();
    let asked = history(&mut neighbors, 0, 30_100);
    assert_eq!(asked, [(30_000, Some(MAC))]);
    // While it is verified it is used.
    assert_eq!(
        neighbors.resolve(ms(30_050), PORT, v4(1)),
        Ok(Found::At(MAC))
    );
    neighbors.hear(ms(30_100), (PORT, v4(1)), MAC, Heard::Answer);
    neighbors.resolve(ms(31_000), PORT, v4(1)).unwrap();
    // Moved without a word: two questions to the old address, then all are asked.
    let asked = history(&mut neighbors, 30_100, 60_601);
    let to = [(60_100, Some(MAC)), (60_350, Some(MAC)), (60_600, None)];
    assert_eq!(asked, to);
    neighbors.hear(ms(60_602), (PORT, v4(1)), NEW_MAC, Heard::Answer);
    assert_eq!(
        neighbors.resolve(ms(60_603), PORT, v4(1)),
        Ok(Found::At(NEW_MAC))
    );
    // And one that has gone is gone.
    let asked = history(&mut neighbors, 60_603, 100_000);
    assert_eq!(asked.len(), 3 + 5, "{asked:?}");
    assert_eq!(neighbors.head.entries, 0);
}

#[test]
fn stale_neighbors_are_verified_when_they_are_used() {
    let mut memory = Memory::new(8, 1);
    let mut neighbors = memory.neighbors();
    reachable(&mut neighbors, 0, v4(1));
    assert_eq!(history(&mut neighbors, 0, 40_000), []);
    let found = neighbors.resolve(ms(40_000), PORT, v4(1));
    assert_eq!(found, Ok(Found::At(MAC)));
    assert!(neighbors.head.has_fresh());
    let asked = history(&mut neighbors, 40_000, 40_001);
    assert_eq!(asked, [(40_000, Some(MAC))]);
}

#[test]
fn what_a_neighbor_says_of_itself_counts_at_once_and_makes_no_entry() {
    // Of one bucket, so that only the key tells neighbors apart.
    let mut memory = Memory::new(4, 1);
    let mut neighbors = memory.neighbors();
    for heard in [Heard::Answer, Heard::News, Heard::Hint] {
        neighbors.hear(ms(0), (PORT, v4(1)), MAC, heard);
        assert_eq!(neighbors.head.entries, 0);
    }
    reachable(&mut neighbors, 0, v4(1));
    // Another port's neighbor is another neighbor.
    neighbors.hear(ms(1), (PortId(4), v4(1)), NEW_MAC, Heard::News);
    assert_eq!(neighbors.resolve(ms(1), PORT, v4(1)), Ok(Found::At(MAC)));
    neighbors.hear(ms(1), (PORT, v4(1)), NEW_MAC, Heard::News);
    let found = neighbors.resolve(ms(2), PORT, v4(1));
    assert_eq!(found, Ok(Found::At(NEW_MAC)));
    // It is verified, since anybody could have said that.
    let asked = history(&mut neighbors, 2, 3);
    assert_eq!(asked, [(2, Some(NEW_MAC))]);
}

#[test]
fn answers_that_nobody_asked_for_confirm_nothing() {
    for heard in [Heard::Answer, Heard::Confirmation] {
        let mut memory = Memory::new(8, 1);
        let mut neighbors = memory.neighbors();
        reachable(&mut neighbors, 0, v4(1));
        for now in (1000..30_000).step_by(1000) {
            neighbors.hear(ms(now), (PORT, v4(1)), MAC, heard);
            neighbors.resolve(ms(now), PORT, v4(1)).unwrap();
        }
        let asked = history(&mut neighbors, 1000, 30_001);
        assert_eq!(asked, [(30_000, Some(MAC))], "{heard:?}");
    }
}

#[test]
fn what_does_not_override_is_looked_into() {
    for heard in [Heard::Hint, Heard::Confirmation] {
        let mut memory = Memory::new(8, 1);
        let mut neighbors = memory.neighbors();
        reachable(&mut neighbors, 0, v6(1));
        neighbors.hear(ms(2000), (PORT, v6(1)), NEW_MAC, heard);
        let found = neighbors.resolve(ms(2000), PORT, v6(1));
        assert_eq!(found, Ok(Found::At(MAC)), "{heard:?}");
        let asked = history(&mut neighbors, 2000, 2001);
        assert_eq!(asked, [(2000, None)], "{heard:?}");
        neighbors.hear(ms(2001), (PORT, v6(1)), NEW_MAC, Heard::Answer);
        let found = neighbors.resolve(ms(2001), PORT, v6(1));
        assert_eq!(found, Ok(Found::At(NEW_MAC)));
    }
}

#[test]
fn a_foreign_mac_is_asked_about_once_a_second_at_most() {
    let mut memory = Memory::new(8, 1);
    let mut neighbors = memory.neighbors();
    reachable(&mut neighbors, 0, v4(1));
    let mut asked = 0;
    for now in 0..10_000 {
        neighbors.suspect(ms(now), (PORT, v4(1)), NEW_MAC);
        neighbors.suspect(ms(now), (PORT, v4(1)), MAC);
        let questions = work_at(&mut neighbors, ms(now)).len();
        asked += questions;
        if questions > 0 {
            neighbors.hear(ms(now), (PORT, v4(1)), MAC, Heard::Answer);
        }
    }
    assert!((9..=10).contains(&asked), "{asked}");
}

#[test]
fn the_table_takes_its_capacity_whatever_the_addresses() {
    for capacity in [4, 8, 64, 1024u32] {
        for seed in 0..32u32 {
            let mut memory = Memory::new(usize::try_from(capacity).unwrap(), 1);
            let mut neighbors = memory.neighbors();
            let address = |n: u32| match seed % 4 {
                0 => v4(seed * 0x1_0000 + n),
                1 => v4((seed << 20) + n * 256),
                2 => v6(u128::from(n) << 64 | u128::from(seed)),
                _ => v6(u128::from(seed) << 80 | u128::from(n)),
            };
            for n in 0..capacity {
                let found = neighbors.resolve(ms(0), PORT, address(n));
                assert!(found.is_ok(), "{capacity} {seed} {n}");
            }
            assert_eq!(neighbors.head.entries, capacity);
            // Each keeps its place, and one more is refused.
            for n in 0..capacity {
                let place = table::find(neighbors.entries, PORT, Key::host(address(n)));
                assert!(place.is_some());
            }
            let more = neighbors.resolve(ms(0), PORT, address(capacity));
            assert_eq!(more, Err(DropReason::NeighborTableFull));
        }
    }
}

#[test]
fn a_full_table_spares_those_that_matter() {
    let mut memory = Memory::new(4, 1);
    let mut neighbors = memory.neighbors();
    for n in 0..4 {
        reachable(&mut neighbors, 0, v4(n));
    }
    let more = neighbors.resolve(ms(1), PORT, v4(9));
    assert_eq!(more, Err(DropReason::NeighborTableFull));
    // Idle ones make room.
    for n in 1..4 {
        neighbors.resolve(ms(20_000), PORT, v4(n)).unwrap();
    }
    history(&mut neighbors, 30_000, 30_001);
    assert!(neighbors.resolve(ms(30_001), PORT, v4(9)).is_ok());
    assert_eq!(neighbors.head.entries, 4);
    for n in 1..4 {
        assert_eq!(
            neighbors.resolve(ms(30_002), PORT, v4(n)),
            Ok(Found::At(MAC))
        );
    }
}

#[test]
fn the_queue_is_bounded_and_comes_back() {
    let mut memory = Memory::new(8, 2);
    let mut neighbors = memory.neighbors();
    for round in 0..3 {
        let at = round * 10_000;
        wait(&mut neighbors, ms(at), v4(1)).unwrap();
        wait(&mut neighbors, ms(at), v4(2)).unwrap();
        let full = wait(&mut neighbors, ms(at), v4(3));
        assert_eq!(full, Err(DropReason::QueueFull));
        // It is asked for all the same.
        assert_eq!(work_at(&mut neighbors, ms(at)).len(), 3);
        neighbors.hear(ms(at), (PORT, v4(3)), MAC, Heard::Answer);
        let found = neighbors.resolve(ms(at), PORT, v4(3));
        assert_eq!(found, Ok(Found::At(MAC)));
        history(&mut neighbors, at + 1, at + 10_000);
        assert_eq!(neighbors.take_lost(), 2);
        neighbors.forget(PORT);
    }
}

#[test]
fn a_packet_whose_refusal_found_no_spare_gives_its_place_to_the_next() {
    let mut memory = Memory::new(4, 2);
    let neighbors = &mut memory.neighbors();
    wait(neighbors, ms(0), v4(1)).unwrap();
    history(neighbors, 0, 2999);
    // Nobody carries out what is due.
    for now in (3000..5000).step_by(100) {
        for place in 0..neighbors.entries.len() {
            neighbors.work(ms(now), place);
        }
    }
    wait(neighbors, ms(5000), v4(1)).unwrap();
    assert_eq!(neighbors.take_lost(), 1);
    wait(neighbors, ms(5000), v4(2)).unwrap();
}

#[test]
fn frames_that_cannot_wait_are_refused() {
    let mut memory = Memory::new(8, 1);
    let mut neighbors = memory.neighbors();
    let mut buffer = [7; 2049];
    let Ok(Found::Wait(place)) = neighbors.resolve(ms(0), PORT, v4(1)) else {
        panic!("it is not known")
    };
    for (len, segmentation, expected) in [
        (
            2049,
            crate::Segmentation::None,
            Err(DropReason::QueueTooLong),
        ),
        (
            60,
            crate::Segmentation::TcpV4 { size: 9 },
            Err(DropReason::QueueTooLong),
        ),
        (2048, crate::Segmentation::None, Ok(())),
    ] {
        let mut frame = Frame::new(&mut buffer, 0, len).unwrap();
        frame.segmentation = segmentation;
        assert_eq!(neighbors.enqueue(place, &frame), expected, "{len}");
    }
    // A spare that is too small loses the packet, not the neighbor.
    neighbors.hear(ms(0), (PORT, v4(1)), MAC, Heard::News);
    let mut small = [0; 128 + 1000];
    let mut spare = Frame::new(&mut small, 128, 0).unwrap();
    assert_eq!(neighbors.release(ms(0), place, &mut spare), None);
    assert_eq!(
        (neighbors.take_lost(), neighbors.slots[0].is_free()),
        (1, true)
    );
}

#[test]
fn unfinished_checksums_wait_with_their_frame() {
    let mut slot = Slot::new_zeroed();
    for checksum in [
        crate::Checksum::None,
        crate::Checksum::Partial {
            start: 34,
            offset: 6,
        },
    ] {
        let mut buffers = ([7; 60], [0; 300]);
        let mut frame = Frame::new(&mut buffers.0, 0, 60).unwrap();
        frame.checksum = checksum;
        slot.store(&frame).unwrap();
        let mut spare = Frame::new(&mut buffers.1, 128, 0).unwrap();
        slot.copy_to(&mut spare).unwrap();
        assert_eq!((spare.checksum, spare.bytes()), (checksum, &[7; 60][..]));
    }
}

#[test]
fn a_forgotten_port_takes_its_neighbors_and_their_packets_along() {
    let mut memory = Memory::new(8, 1);
    let mut neighbors = memory.neighbors();
    reachable(&mut neighbors, 0, v4(1));
    wait(&mut neighbors, ms(0), v4(2)).unwrap();
    neighbors.resolve(ms(0), PortId(4), v4(1)).unwrap();
    neighbors.forget(PORT);
    assert_eq!((neighbors.head.entries, neighbors.take_lost()), (1, 1));
    assert!(neighbors.slots[0].is_free());
}
