//! Where the neighbors are kept: a bucket table with a stated bound.
//!
//! An entry may stand in one of two buckets of [`BUCKET`] places, in the emptier
//! one; every look-up reads both and nothing more. There are two places for each
//! entry of the capacity, and half full buckets of eight with two choices do not
//! overflow in practice (Azar et al., "Balanced Allocations"); if one ever does,
//! the table is full for that neighbor.

use zerocopy::{FromZeros, Immutable};

use crate::addr::Key;
use crate::{Instant, MacAddr, PortId};

/// Places in a bucket.
pub(crate) const BUCKET: usize = 8;

/// How much is known of a neighbor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros, Immutable)]
#[repr(u8)]
pub(crate) enum State {
    /// No entry.
    Free = 0,
    /// Asked for and not heard of yet.
    Incomplete,
    /// It answered us lately.
    Reachable,
    /// Its MAC address was right once, or was told by itself without being asked.
    Stale,
    /// The MAC address is used and being verified.
    Probe,
    /// It did not answer.
    Failed,
}

/// A neighbor. All zero is no entry.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct Entry {
    pub(super) address: Key,
    pub(super) port: PortId,
    pub(super) state: State,
    /// Questions asked in this state.
    pub(super) tries: u8,
    pub(super) mac: MacAddr,
    /// Slot of the frame that waits for it, counted from one; 0: none.
    pub(super) waiting: u16,
    /// The MAC address that was told as news; zero: none, or that it is lost.
    pub(super) told: MacAddr,
    /// The second in which that was, the low 16 bits.
    pub(super) told_in: u16,
    /// When it answered us last.
    pub(super) confirmed: Instant,
    /// When a frame was sent to it last.
    pub(super) used: Instant,
    /// When the next step is due.
    pub(super) due: Instant,
}

impl Entry {
    /// Whether frames can be sent to it.
    pub(super) fn has_mac(&self) -> bool {
        matches!(self.state, State::Reachable | State::Stale | State::Probe)
    }

    #[inline(always)]
    fn is(&self, port: PortId, address: Key) -> bool {
        // The bits tell most of them apart.
        self.address.bits == address.bits
            && self.port == port
            && self.address == address
            && self.state != State::Free
    }

    /// Whether another neighbor may take its place.
    fn is_dispensable(&self) -> bool {
        matches!(self.state, State::Stale | State::Failed) && self.waiting == 0
    }
}

/// Where the entry of a neighbor is.
#[inline(always)]
pub(super) fn find(entries: &[Entry], port: PortId, address: Key) -> Option<usize> {
    let [first, second] = buckets(entries.len(), port, address);
    let wanted = (port, address);
    find_in(entries, first, wanted).or_else(|| find_in(entries, second, wanted))
}

#[inline(always)]
fn find_in(entries: &[Entry], bucket: usize, (port, address): (PortId, Key)) -> Option<usize> {
    let bucket = places(bucket);
    let mut all = bucket.clone().zip(entries.get(bucket)?);
    let found = all.find(|(_, entry)| entry.is(port, address));
    found.map(|(place, _)| place)
}

/// Where a new neighbor's entry goes: into a free place of the emptier bucket, or
/// when there is none, or `full`, in the stead of an entry that can be spared.
pub(super) fn place(entries: &[Entry], key: (PortId, Key), full: bool) -> Option<usize> {
    let [first, second] = buckets(entries.len(), key.0, key.1);
    let free =
        |bucket| places(bucket).filter(|p| entries.get(*p).is_some_and(|e| e.state == State::Free));
    if !full {
        let emptier = match free(second).count() > free(first).count() {
            true => second,
            false => first,
        };
        if let Some(place) = free(emptier).next() {
            return Some(place);
        }
    }
    let mut all = places(first).chain(places(second));
    all.find(|place| entries.get(*place).is_some_and(Entry::is_dispensable))
}

fn places(bucket: usize) -> core::ops::Range<usize> {
    bucket * BUCKET..(bucket + 1) * BUCKET
}

/// The two buckets of a neighbor.
fn buckets(places: usize, port: PortId, address: Key) -> [usize; 2] {
    let [high, low] = [address.bits >> 64, address.bits]
        .map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
    let mut hash = high.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ low ^ u64::from(port.0) << 17;
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let count = u64::try_from(places / BUCKET).unwrap_or(0);
    [hash >> 32, hash & 0xffff_ffff].map(|half| usize::try_from((half * count) >> 32).unwrap_or(0))
}
