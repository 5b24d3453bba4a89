//! Neighbors on the link of a raw Ethernet port: address → MAC, by ARP (RFC 826)
//! and neighbor discovery (RFC 4861).
//!
//! ```text
//!            packet                 answer                  30 s, in use
//! (nothing) ────────▶ Incomplete ───────────▶ Reachable ────────────────▶ Probe
//!                       │ no answer             │ 30 s, idle              │ answer: Reachable
//!                       ▼                       ▼        packet           │ no answer:
//!                     Failed ─▶ (nothing)     Stale ────────────▶ Probe   ▼ Incomplete
//! ```
//!
//! Questions are asked at 0, 250 ms, 500 ms, 1 s and 2 s; at 3 s the neighbor has
//! failed, and so has every packet to it until 4 s; who sent the one that waited is
//! told. A known one is verified by two questions to itself and one to all, 250 ms
//! apart, while its MAC address stays in use. What a neighbor says of itself changes
//! its entry at once, and never makes one. All of it happens when a frame comes or
//! goes, or in a tick: there is no clock here.
//!
//! A neighbor that becomes known, moves, or is lost is news for the control plane.
//! What is told is what a place holds by then, compared with what was told last:
//! within a limit, so that who flaps is told less often, but never wrongly at last.

mod queue;
mod table;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use zerocopy::{FromZeros, Immutable};

use crate::addr::Key;
use crate::bucket::Bucket;
use crate::{DropReason, Frame, Instant, MacAddr, PortId};
pub(crate) use queue::Slot;
use table::State;
pub(crate) use table::{BUCKET, Entry};

/// How long to wait after each question to all.
const REQUEST_WAITS: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(1),
];
/// How long to wait after each question that verifies.
const PROBE_WAIT: Duration = Duration::from_millis(250);
/// The first of these questions go to the neighbor itself, the last to all.
const PROBES: u8 = 3;
/// How long a neighbor is believed after it answered (RFC 4861 section 10).
const REACHABLE_TIME: Duration = Duration::from_secs(30);
/// How long one that nobody sends to is remembered after that.
const STALE_TIME: Duration = Duration::from_secs(60);
/// How long packets to one that did not answer are dropped without asking again.
const FAILED_TIME: Duration = Duration::from_secs(1);
/// How soon after an answer a foreign MAC address is looked into.
const SUSPECT_TIME: Duration = Duration::from_secs(1);
/// Entries that want attention before the next tick, at most.
const FRESH: usize = 8;
/// News in a second, and at once: fewer than the ring of events holds, so that they
/// do not displace what else was learned before anybody reads it.
type NewsLimit = Bucket<4, 4>;

/// What the tables of neighbors keep besides entries and frames.
#[derive(FromZeros, Immutable)]
pub(crate) struct Head {
    entries: u32,
    /// Where the next tick begins.
    cursor: u32,
    fresh: [u16; FRESH],
    fresh_count: u8,
    /// Frames whose neighbor never answered, since they were last asked for.
    lost: u64,
    /// Ports that the announcing of new addresses has still to look at, and which
    /// is next.
    announce_left: u32,
    announce_next: u32,
    news: NewsLimit,
}

/// The neighbors of all raw ports.
pub(crate) struct Neighbors<'a> {
    pub(crate) entries: &'a mut [Entry],
    pub(crate) slots: &'a mut [Slot],
    pub(crate) head: &'a mut Head,
}

/// Where a frame to a neighbor goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// To this MAC address.
    At(MacAddr),
    /// Into the queue of the entry at this place.
    Wait(usize),
}

/// What a neighbor said of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// An answer to us.
    Answer,
    /// An answer to us that replaces nothing.
    Confirmation,
    /// Something that replaces what was known: an ARP packet that nobody asked
    /// for, a solicitation, an advertisement that overrides.
    News,
    /// Something that replaces nothing.
    Hint,
}

/// What the control plane is to know of a neighbor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct News {
    pub(crate) port: PortId,
    pub(crate) address: IpAddr,
    /// `None`: it is lost.
    pub(crate) mac: Option<MacAddr>,
}

/// What is to be sent on behalf of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// A question about this address, to this MAC address or to all.
    Ask {
        port: PortId,
        address: IpAddr,
        to: Option<MacAddr>,
    },
    /// The frame that waits.
    Send { port: PortId, mac: MacAddr },
    /// What tells its sender that the frame has waited in vain.
    Refuse { port: PortId },
}

impl Neighbors<'_> {
    /// Finds a neighbor that a frame is to be sent to, and begins to ask for it
    /// when it is not known.
    ///
    /// # Errors
    /// A drop when the frame can neither be sent nor wait.
    pub(crate) fn resolve(
        &mut self,
        now: Instant,
        port: PortId,
        address: IpAddr,
    ) -> Result<Found, DropReason> {
        let key = Key::host(address);
        let place = match self.find(port, address) {
            Some(place) => place,
            None => self.insert(now, port, key)?,
        };
        let entry = self.entries.get_mut(place);
        let entry = entry.ok_or(DropReason::NeighborTableFull)?;
        match entry.state {
            State::Reachable | State::Probe => {}
            State::Stale => {
                entry.begin(State::Probe, now);
                self.head.attend(place);
            }
            State::Incomplete if entry.waiting != 0 => return Err(DropReason::NeighborPending),
            State::Incomplete => return Ok(Found::Wait(place)),
            State::Failed if now < entry.due => return Err(DropReason::NeighborFailed),
            State::Failed | State::Free => {
                entry.begin(State::Incomplete, now);
                // One that no spare was found for to say that it has waited in vain.
                self.lose_waiting(place);
                self.head.attend(place);
                return Ok(Found::Wait(place));
            }
        }
        entry.used = now;
        Ok(Found::At(entry.mac))
    }

    /// The place and the MAC address of a neighbor that [`Neighbors::resolve`] would do
    /// nothing about but take note that it is used; see [`Neighbors::has_used`].
    #[inline(always)]
    pub(crate) fn settled(&self, port: PortId, address: Ipv4Addr) -> Option<(u16, MacAddr)> {
        let place = table::find(self.entries, port, Key::v4(address.to_bits(), 32))?;
        let entry = self.entries.get(place)?;
        let settled = matches!(entry.state, State::Reachable | State::Probe);
        let place = u16::try_from(place).ok().filter(|_| settled)?;
        Some((place, entry.mac))
    }

    /// Takes note that frames were sent to the neighbor at this place.
    pub(crate) fn has_used(&mut self, now: Instant, place: u16) {
        if let Some(entry) = self.entries.get_mut(usize::from(place)) {
            entry.used = now;
        }
    }

    /// Whether frames from this MAC address are no reason to look into a neighbor:
    /// it has that one, or is not known. See [`Neighbors::suspect`].
    #[inline(always)]
    pub(crate) fn expects(&self, port: PortId, address: Ipv4Addr, mac: MacAddr) -> bool {
        let place = table::find(self.entries, port, Key::v4(address.to_bits(), 32));
        let entry = place.and_then(|place| self.entries.get(place));
        entry.is_none_or(|entry| entry.mac == mac)
    }

    /// Lets a frame wait for the neighbor at this place, in a slot of its own.
    pub(crate) fn enqueue(&mut self, place: usize, frame: &Frame<'_>) -> Result<(), DropReason> {
        let entry = self.entries.get_mut(place);
        let entry = entry.ok_or(DropReason::NeighborTableFull)?;
        let mut slots = (1..=u16::MAX).zip(self.slots.iter_mut());
        let free = slots.find(|(_, slot)| slot.is_free());
        let (number, slot) = free.ok_or(DropReason::QueueFull)?;
        slot.store(frame)?;
        entry.waiting = number;
        Ok(())
    }

    /// Takes in what a neighbor said of itself. Of those that nobody asked for
    /// nothing is kept.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        (port, address): (PortId, IpAddr),
        mac: MacAddr,
        heard: Heard,
    ) {
        let Some(place) = self.find(port, address) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(place) else {
            return;
        };
        let same = entry.has_mac() && entry.mac == mac;
        let asked = matches!(entry.state, State::Incomplete | State::Probe) && entry.tries > 0;
        match heard {
            Heard::Answer if asked => entry.confirm(now, mac),
            Heard::Confirmation if asked && (same || !entry.has_mac()) => entry.confirm(now, mac),
            Heard::Confirmation | Heard::Hint if entry.has_mac() => {
                return self.suspect(now, (port, address), mac);
            }
            _ if same => return,
            _ if entry.waiting != 0 => {
                // It is in use, so it is verified.
                entry.mac = mac;
                entry.begin(State::Probe, now);
            }
            _ => {
                entry.mac = mac;
                entry.begin(State::Stale, now.after(STALE_TIME));
            }
        }
        if entry.waiting != 0 {
            self.head.attend(place);
        }
    }

    /// Looks into a neighbor whose frames come from another MAC address than its
    /// entry has: it may have moved without a word.
    pub(crate) fn suspect(
        &mut self,
        now: Instant,
        (port, address): (PortId, IpAddr),
        mac: MacAddr,
    ) {
        let Some(place) = self.find(port, address) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(place) else {
            return;
        };
        let settled = matches!(entry.state, State::Reachable | State::Stale);
        if settled && entry.mac != mac && now >= entry.confirmed.after(SUSPECT_TIME) {
            entry.begin(State::Probe, now);
            // Whoever answers now, the old one or the new one, is it.
            entry.tries = PROBES - 1;
            self.head.attend(place);
        }
    }

    /// What is due at a place now. Called again after the work is done, it says
    /// what else is.
    pub(crate) fn work(&mut self, now: Instant, place: usize) -> Option<Work> {
        let entry = self.entries.get_mut(place)?;
        let (port, address) = (entry.port, entry.address.address());
        if entry.waiting != 0 && entry.has_mac() {
            let mac = entry.mac;
            return Some(Work::Send { port, mac });
        }
        if entry.waiting != 0 && entry.state == State::Failed {
            return Some(Work::Refuse { port });
        }
        if now < entry.due {
            return None;
        }
        match entry.state {
            State::Free => return None,
            State::Stale | State::Failed => {
                match entry.told == MacAddr::ZERO {
                    true => self.remove(place),
                    // That it is lost has to be told first.
                    false => entry.begin(State::Failed, now),
                }
                return None;
            }
            State::Incomplete if usize::from(entry.tries) >= REQUEST_WAITS.len() => {
                entry.begin(State::Failed, now.after(FAILED_TIME));
                let waits = entry.waiting != 0;
                return waits.then_some(Work::Refuse { port });
            }
            State::Reachable if entry.used <= entry.confirmed => {
                entry.begin(State::Stale, now.after(STALE_TIME));
                return None;
            }
            State::Reachable => entry.begin(State::Probe, now),
            State::Probe if entry.tries >= PROBES => entry.begin(State::Incomplete, now),
            State::Incomplete | State::Probe => {}
        }
        let itself = entry.state == State::Probe && entry.tries < PROBES - 1;
        let to = itself.then_some(entry.mac);
        Some(Work::Ask { port, address, to })
    }

    /// What is to be told of the neighbor at a place now, which is told thereby: once
    /// a second of each at most, and within a limit for all. What has to wait is told
    /// when it is asked for again, if it is still so then.
    pub(crate) fn news(&mut self, now: Instant, place: usize) -> Option<News> {
        let entry = self.entries.get_mut(place)?;
        let mac = match entry.state {
            State::Reachable | State::Stale | State::Probe => entry.mac,
            State::Free | State::Failed => MacAddr::ZERO,
            // It is not lost before it has failed.
            State::Incomplete => return None,
        };
        if mac == entry.told {
            return None;
        }
        let second = u16::try_from((now.micros() / 1_000_000) & 0xffff).unwrap_or(0);
        if second == entry.told_in || !self.head.news.take(now) {
            return None;
        }
        entry.told = mac;
        entry.told_in = second;
        Some(News {
            port: entry.port,
            address: entry.address.address(),
            mac: (mac != MacAddr::ZERO).then_some(mac),
        })
    }

    /// The question that was due at a place has been sent.
    pub(crate) fn asked(&mut self, now: Instant, place: usize) {
        let Some(entry) = self.entries.get_mut(place) else {
            return;
        };
        let wait = match entry.state {
            State::Incomplete => REQUEST_WAITS.get(usize::from(entry.tries)),
            _ => None,
        };
        entry.tries = entry.tries.saturating_add(1);
        entry.due = now.after(*wait.unwrap_or(&PROBE_WAIT));
    }

    /// Moves the frame that waits at a place into an empty frame; `None`, and it is
    /// lost, when that is too small.
    pub(crate) fn release(
        &mut self,
        now: Instant,
        place: usize,
        frame: &mut Frame<'_>,
    ) -> Option<()> {
        let entry = self.entries.get_mut(place)?;
        entry.used = now;
        let slot = usize::from(entry.waiting).checked_sub(1)?;
        let moved = self.slots.get(slot).and_then(|slot| slot.copy_to(frame));
        match moved {
            Some(()) => self.free_slot(place),
            None => self.lose_waiting(place),
        }
        moved
    }

    /// Moves the frame that has waited at a place in vain into an empty frame; `None`
    /// when that is too small. It is lost either way.
    pub(crate) fn give_up(&mut self, place: usize, frame: &mut Frame<'_>) -> Option<()> {
        let entry = self.entries.get(place)?;
        let slot = usize::from(entry.waiting).checked_sub(1)?;
        let moved = self.slots.get(slot).and_then(|slot| slot.copy_to(frame));
        self.lose_waiting(place);
        moved
    }

    /// Forgets all neighbors of a port.
    pub(crate) fn forget(&mut self, port: PortId) {
        for place in 0..self.entries.len() {
            let entry = self.entries.get(place);
            if entry.is_some_and(|e| e.state != State::Free && e.port == port) {
                self.remove(place);
            }
        }
    }

    /// Frames whose neighbor never answered, since this was last asked.
    pub(crate) fn take_lost(&mut self) -> u64 {
        core::mem::take(&mut self.head.lost)
    }

    #[inline(never)]
    fn find(&self, port: PortId, address: IpAddr) -> Option<usize> {
        table::find(self.entries, port, Key::host(address))
    }

    fn insert(&mut self, now: Instant, port: PortId, key: Key) -> Result<usize, DropReason> {
        let capacity = self.entries.len() / 2;
        let full = usize::try_from(self.head.entries).is_ok_and(|count| count >= capacity);
        let place = table::place(self.entries, (port, key), full);
        let place = place.ok_or(DropReason::NeighborTableFull)?;
        self.remove(place);
        if let Some(entry) = self.entries.get_mut(place) {
            entry.address = key;
            entry.port = port;
            entry.begin(State::Incomplete, now);
            self.head.entries += 1;
            self.head.attend(place);
        }
        Ok(place)
    }

    fn remove(&mut self, place: usize) {
        self.lose_waiting(place);
        if let Some(entry) = self.entries.get_mut(place) {
            if entry.state != State::Free {
                self.head.entries = self.head.entries.saturating_sub(1);
            }
            *entry = Entry::new_zeroed();
        }
    }

    fn lose_waiting(&mut self, place: usize) {
        let entry = self.entries.get(place);
        self.head.lost += u64::from(entry.is_some_and(|entry| entry.waiting != 0));
        self.free_slot(place);
    }

    fn free_slot(&mut self, place: usize) {
        let entry = self.entries.get_mut(place);
        let number = entry.map_or(0, |entry| core::mem::take(&mut entry.waiting));
        let slot = usize::from(number).checked_sub(1);
        if let Some(slot) = slot.and_then(|slot| self.slots.get_mut(slot)) {
            slot.clear();
        }
    }
}

impl Entry {
    /// Enters a state, whose next step is due then.
    fn begin(&mut self, state: State, due: Instant) {
        self.state = state;
        self.tries = 0;
        self.due = due;
    }

    fn confirm(&mut self, now: Instant, mac: MacAddr) {
        self.mac = mac;
        self.confirmed = now;
        self.begin(State::Reachable, now.after(REACHABLE_TIME));
    }
}

impl Head {
    /// Remembers a place that something is to be done for without waiting for a
    /// tick; when there are too many of them, some do wait.
    fn attend(&mut self, place: usize) {
        let slot = self.fresh.get_mut(usize::from(self.fresh_count));
        if let (Some(slot), Ok(place)) = (slot, u16::try_from(place)) {
            *slot = place;
            self.fresh_count += 1;
        }
    }

    /// Whether places want attention.
    #[inline]
    pub(crate) fn has_fresh(&self) -> bool {
        self.fresh_count > 0
    }

    /// The places that want attention, which is theirs from now on.
    pub(crate) fn take_fresh(&mut self) -> impl Iterator<Item = usize> + use<> {
        let count = core::mem::take(&mut self.fresh_count);
        let fresh = self.fresh.into_iter().take(usize::from(count));
        fresh.map(usize::from)
    }

    /// The place where the next tick begins, among so many.
    pub(crate) fn cursor(&self, places: usize) -> usize {
        let cursor = usize::try_from(self.cursor).unwrap_or(0);
        cursor.checked_rem(places).unwrap_or(0)
    }

    /// The tick has done with a place.
    pub(crate) fn advance(&mut self) {
        self.cursor = self.cursor.wrapping_add(1);
    }

    /// New addresses are to be announced: every port is looked at once more.
    pub(crate) fn announce(&mut self, ports: usize) {
        self.announce_left = u32::try_from(ports).unwrap_or(u32::MAX);
    }

    /// The next port that may have addresses to announce, among so many.
    pub(crate) fn announcing(&self, ports: usize) -> Option<usize> {
        let next = usize::try_from(self.announce_next).unwrap_or(0);
        next.checked_rem(ports).filter(|_| self.announce_left > 0)
    }

    /// That port has nothing more to announce.
    pub(crate) fn announced(&mut self) {
        self.announce_left = self.announce_left.saturating_sub(1);
        self.announce_next = self.announce_next.wrapping_add(1);
    }
}
