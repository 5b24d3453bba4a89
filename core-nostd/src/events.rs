//! The last events, in memory of fixed size.
//!
//! Drops and what the core learned have a ring each, so that drops, which any
//! sender can cause, displace only drops. They share their numbers: what a reader
//! missed is what it was not given.

use core::net::IpAddr;
use core::time::Duration;

use heapless::Vec;
use zerocopy::{FromZeros, Immutable};

use crate::addr::Key;
use crate::bucket::Bucket;
use crate::channel::{Event, EventKind, HEADER_BYTES, MAX_EVENTS};
use crate::{DropReason, Frame, Instant, MacAddr, PeerId, PortId};

/// Events in each ring.
pub(crate) const KEPT: usize = 8;
/// A reason without a drop for so long has its next one told.
const QUIET: Duration = Duration::from_secs(1);
/// Drops told in a second, and at once, over all reasons.
type DropLimit = Bucket<8, 8>;

/// A dropped frame.
#[derive(Clone, Copy, FromZeros, Immutable)]
struct Dropped {
    reason: DropReason,
    port: PortId,
    length: u16,
    header_len: u8,
    header: [u8; HEADER_BYTES],
}

/// Something that the core learned.
#[derive(Clone, Copy, FromZeros, Immutable)]
#[repr(u8)]
enum Learned {
    PathMtu {
        peer: PeerId,
        mtu: u16,
    } = 0,
    Neighbor {
        port: PortId,
        address: Key,
        known: bool,
        mac: MacAddr,
    },
}

/// An event in its ring; number 0 is none.
#[derive(Clone, Copy, FromZeros, Immutable)]
struct Slot<T> {
    sequence: u64,
    at: Instant,
    what: T,
}

/// The last [`KEPT`] events of a kind.
#[derive(FromZeros, Immutable)]
struct Ring<T> {
    next: u8,
    slots: [Slot<T>; KEPT],
}

impl<T> Ring<T> {
    fn push(&mut self, slot: Slot<T>) {
        if let Some(oldest) = self.slots.get_mut(usize::from(self.next) % KEPT) {
            *oldest = slot;
        }
        self.next = self.next.wrapping_add(1);
    }

    /// The first event behind a number.
    fn after(&self, sequence: u64) -> Option<&Slot<T>> {
        let later = self.slots.iter().filter(|slot| slot.sequence > sequence);
        later.min_by_key(|slot| slot.sequence)
    }
}

// The next slot goes round with the counter.
const _: () = assert!(256 % KEPT == 0);

impl<T: Copy> Slot<T> {
    fn event(&self, kind: impl FnOnce(T) -> EventKind) -> Event {
        Event {
            sequence: self.sequence,
            micros: self.at.micros(),
            kind: kind(self.what),
        }
    }
}

impl From<Dropped> for EventKind {
    fn from(dropped: Dropped) -> Self {
        let header = dropped.header.iter().take(usize::from(dropped.header_len));
        EventKind::Drop {
            reason: dropped.reason,
            port: dropped.port,
            length: dropped.length,
            header: header.copied().collect(),
        }
    }
}

impl From<Learned> for EventKind {
    fn from(learned: Learned) -> Self {
        match learned {
            Learned::PathMtu { peer, mtu } => EventKind::PathMtu { peer, mtu },
            Learned::Neighbor {
                port,
                address,
                known,
                mac,
            } => EventKind::Neighbor {
                port,
                address: address.address(),
                mac: known.then_some(mac),
            },
        }
    }
}

/// What happened lately.
#[derive(FromZeros, Immutable)]
pub(crate) struct Events {
    /// The number of the last event.
    last: u64,
    drops: Ring<Dropped>,
    learned: Ring<Learned>,
    limit: DropLimit,
    /// When each reason will have been quiet for long enough.
    quiet_at: [Instant; DropReason::ALL.len()],
}

impl Events {
    /// Takes note of a dropped frame, if it is one to be told.
    #[inline]
    pub(crate) fn dropped(
        &mut self,
        now: Instant,
        port: PortId,
        reason: DropReason,
        frame: &Frame<'_>,
    ) {
        let Some(quiet_at) = self.quiet_at.get_mut(usize::from(reason as u16)) else {
            return;
        };
        let first = now >= *quiet_at;
        if first && !self.limit.take(now) {
            return; // The reason stays as quiet as it is: its next drop may be told.
        }
        *quiet_at = now.after(QUIET);
        if first {
            self.record_drop(now, port, reason, frame);
        }
    }

    #[cold]
    fn record_drop(&mut self, at: Instant, port: PortId, reason: DropReason, frame: &Frame<'_>) {
        let mut header = [0; HEADER_BYTES];
        let mut header_len = 0;
        for (copy, byte) in header.iter_mut().zip(frame.bytes()) {
            *copy = *byte;
            header_len += 1;
        }
        let what = Dropped {
            reason,
            port,
            length: u16::try_from(frame.len()).unwrap_or(u16::MAX),
            header_len,
            header,
        };
        let sequence = self.number();
        self.drops.push(Slot { sequence, at, what });
    }

    /// The core learned of a smaller MTU on the way to a peer.
    pub(crate) fn path_mtu(&mut self, at: Instant, peer: PeerId, mtu: u16) {
        self.learn(at, Learned::PathMtu { peer, mtu });
    }

    /// A neighbor of a raw Ethernet port has appeared, moved or (`None`) gone.
    pub(crate) fn neighbor(
        &mut self,
        at: Instant,
        port: PortId,
        address: IpAddr,
        mac: Option<MacAddr>,
    ) {
        let neighbor = Learned::Neighbor {
            port,
            address: Key::host(address),
            known: mac.is_some(),
            mac: mac.unwrap_or_default(),
        };
        self.learn(at, neighbor);
    }

    fn learn(&mut self, at: Instant, what: Learned) {
        let sequence = self.number();
        self.learned.push(Slot { sequence, at, what });
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The events behind a number, and how many of those are no longer kept. A
    /// number that is yet to come is of a core that was here before: all is told.
    pub(crate) fn after(&self, after: u64) -> (Vec<Event, MAX_EVENTS>, u64) {
        let after = if after > self.last { 0 } else { after };
        let mut events = Vec::new();
        let mut lost = self.last - after;
        let mut cursor = after;
        while let Some(event) = self.next(cursor) {
            cursor = event.sequence;
            if events.push(event).is_err() {
                break;
            }
            lost -= 1;
        }
        (events, lost)
    }

    fn next(&self, after: u64) -> Option<Event> {
        let dropped = self.drops.after(after);
        let learned = self.learned.after(after);
        match (dropped, learned) {
            (Some(dropped), Some(learned)) if learned.sequence < dropped.sequence => {
                Some(learned.event(EventKind::from))
            }
            (Some(dropped), _) => Some(dropped.event(EventKind::from)),
            (None, learned) => Some(learned?.event(EventKind::from)),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec as List;

    use super::*;

    fn drop_at(events: &mut Events, micros: u64, reason: DropReason) {
        let mut bytes = [7; 100];
        let frame = Frame::new(&mut bytes, 20, 80).unwrap();
        events.dropped(Instant::from_micros(micros), PortId(3), reason, &frame);
    }

    fn numbers(events: &Events, after: u64) -> (List<u64>, u64) {
        let (told, lost) = events.after(after);
        (told.iter().map(|event| event.sequence).collect(), lost)
    }

    #[test]
    fn drops_displace_drops_only() {
        let mut events = Events::new_zeroed();
        let at = Instant::from_micros(5);
        let address = IpAddr::from([10, 0, 0, 1]);
        let mac = MacAddr::new([2; 6]);
        events.neighbor(at, PortId(1), address, Some(mac));
        events.path_mtu(at, PeerId(4), 1400);
        events.neighbor(at, PortId(1), address, None);
        for second in 1..=20 {
            drop_at(&mut events, second * 2_000_000, DropReason::NotIp);
        }
        let (told, lost) = events.after(0);
        assert_eq!(lost, 12);
        let neighbor = |mac| EventKind::Neighbor {
            port: PortId(1),
            address,
            mac,
        };
        let kinds: List<_> = told
            .iter()
            .take(3)
            .map(|event| event.kind.clone())
            .collect();
        let (peer, mtu) = (PeerId(4), 1400);
        let path_mtu = EventKind::PathMtu { peer, mtu };
        assert_eq!(kinds, [neighbor(Some(mac)), path_mtu, neighbor(None)]);
        let (told, _) = numbers(&events, 0);
        assert_eq!(told, [1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 23]);
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped() {
        let mut events = Events::new_zeroed();
        assert_eq!(numbers(&events, 0), (vec![], 0));
        // From the time before a reboot.
        assert_eq!(numbers(&events, 99), (vec![], 0));
        let at = Instant::from_micros(5);
        for mtu in 1..=3 {
            events.path_mtu(at, PeerId(0), mtu);
        }
        assert_eq!(numbers(&events, 0), (vec![1, 2, 3], 0));
        assert_eq!(numbers(&events, 2), (vec![3], 0));
        assert_eq!(numbers(&events, 3), (vec![], 0));
        assert_eq!(numbers(&events, 99), (vec![1, 2, 3], 0));
        for mtu in 4..=600 {
            events.path_mtu(at, PeerId(0), mtu);
        }
        let last: List<u64> = (593..=600).collect();
        assert_eq!(numbers(&events, 3), (last.clone(), 589));
        assert_eq!(numbers(&events, 592), (last, 0));
        assert_eq!(numbers(&events, 598), (vec![599, 600], 0));
    }

    #[test]
    fn both_rings_full_are_one_answer() {
        let mut events = Events::new_zeroed();
        for round in 0..u64::try_from(KEPT).unwrap() {
            drop_at(&mut events, round * 2_000_000, DropReason::NotIp);
            events.path_mtu(Instant::ZERO, PeerId(0), 1400);
        }
        let (told, lost) = numbers(&events, 0);
        assert_eq!((told.len(), lost), (MAX_EVENTS, 0));
        assert!(told.is_sorted());
    }

    #[test]
    fn a_flood_is_told_once_and_reasons_within_a_limit() {
        let mut events = Events::new_zeroed();
        for micros in 0..3_000_000 {
            drop_at(&mut events, micros, DropReason::SourceIp);
        }
        assert_eq!(events.last, 1);
        // Quiet until 3,999,999 excluded.
        drop_at(&mut events, 3_999_998, DropReason::SourceIp);
        assert_eq!(events.last, 1);
        drop_at(&mut events, 4_999_998, DropReason::SourceIp);
        assert_eq!(events.last, 2);
        let before = events.last;
        for micros in 10_000_000..10_000_100 {
            for reason in DropReason::ALL {
                drop_at(&mut events, micros, *reason);
            }
        }
        assert_eq!(events.last, before + 8);
        // One that found no room is told when there is some.
        let untold = DropReason::ALL.last().unwrap();
        drop_at(&mut events, 10_125_000, *untold);
        assert_eq!(events.last, before + 9);
        drop_at(&mut events, 10_125_001, *untold);
        assert_eq!(events.last, before + 9);
    }
}
