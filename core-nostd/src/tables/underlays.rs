//! (network, underlay address) → peer: a hash table of peer ids.
//!
//! It holds ids only; what they stand for is compared where it is read next anyway,
//! in the peers' table. Open addressing with linear probing in two slots for each
//! peer that there can be: it is at most half full, so that a probe ends within a
//! few slots, and always has room when the peers' table has. Removing closes the
//! gap, so that nothing builds up. The bound of a probe is the longest run of slots
//! in use, at worst the number of peers.

use super::entry::PeerEntry;
use crate::addr::Key;
use crate::{NetworkId, PeerId};

/// The hash table in its borrowed slots: a peer's id plus one, 0 is empty.
pub(crate) struct Underlays<'a> {
    pub(crate) slots: &'a mut [u32],
}

/// Spreads a network and an address over 32 bits.
#[inline(always)]
fn hash(network: NetworkId, key: Key) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = key.bits.to_be_bytes();
    let upper = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    // Of IPv4 it is zero, and costs nothing where that is known.
    let lower = u64::from_be_bytes([i, j, k, l, m, n, o, p]).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = upper ^ lower ^ (lower >> 32) ^ u64::from(network.0);
    mixed.rotate_left(16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

fn peer(slot: u32) -> Option<usize> {
    usize::try_from(slot.checked_sub(1)?).ok()
}

impl Underlays<'_> {
    #[inline(always)]
    fn home(&self, network: NetworkId, key: Key) -> usize {
        let count = u64::try_from(self.slots.len()).unwrap_or(0);
        usize::try_from((hash(network, key) * count) >> 32).unwrap_or(0)
    }

    fn following(&self, slot: usize) -> usize {
        if slot + 1 < self.slots.len() {
            slot + 1
        } else {
            0
        }
    }

    /// The peer of a network at this address.
    #[inline(always)]
    pub(crate) fn find<'p>(
        &self,
        peers: &'p [PeerEntry],
        network: NetworkId,
        key: Key,
    ) -> Option<(PeerId, &'p PeerEntry)> {
        let mut at = self.home(network, key);
        for _ in 0..self.slots.len() {
            let id = peer(*self.slots.get(at)?)?;
            if let Some(entry) = peers.get(id)
                && entry.underlay.bits == key.bits
                && entry.underlay.family == key.family
                && entry.network == network
            {
                return Some((PeerId(u16::try_from(id).ok()?), entry));
            }
            at = self.following(at);
        }
        None
    }

    /// Adds a peer that has its entry, and was not there.
    pub(crate) fn insert(&mut self, peers: &[PeerEntry], id: PeerId) {
        let Some(entry) = peers.get(id.index()) else {
            return;
        };
        let mut at = self.home(entry.network, entry.underlay);
        for _ in 0..self.slots.len() {
            if let Some(slot) = self.slots.get_mut(at)
                && *slot == 0
            {
                *slot = u32::from(id.0) + 1;
                return;
            }
            at = self.following(at);
        }
    }

    /// Removes a peer that still has its entry.
    pub(crate) fn remove(&mut self, peers: &[PeerEntry], id: PeerId) {
        let Some(entry) = peers.get(id.index()) else {
            return;
        };
        let wanted = u32::from(id.0) + 1;
        let mut gap = self.home(entry.network, entry.underlay);
        for _ in 0..self.slots.len() {
            match self.slots.get(gap) {
                Some(slot) if *slot == wanted => return self.close(peers, gap),
                Some(0) | None => return,
                Some(_) => gap = self.following(gap),
            }
        }
    }

    /// Moves up what a probe would no longer find behind the gap.
    fn close(&mut self, peers: &[PeerEntry], mut gap: usize) {
        let mut at = gap;
        for _ in 0..self.slots.len() {
            at = self.following(at);
            let slot = self.slots.get(at).copied().unwrap_or(0);
            let Some(entry) = peer(slot).and_then(|id| peers.get(id)) else {
                break;
            };
            let home = self.home(entry.network, entry.underlay);
            let reached = if gap <= at {
                gap < home && home <= at
            } else {
                gap < home || home <= at
            };
            if !reached {
                if let Some(free) = self.slots.get_mut(gap) {
                    *free = slot;
                }
                gap = at;
            }
        }
        if let Some(free) = self.slots.get_mut(gap) {
            *free = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;
    use std::vec;

    use zerocopy::FromZeros;

    use super::*;

    /// Adds and removes at random, in a table that is as full as it can be.
    fn churn(peers: u16, addresses: u64) {
        let mut entries = vec![PeerEntry::new_zeroed(); usize::from(peers)];
        let mut slots = vec![0; 2 * entries.len()];
        let mut table = Underlays { slots: &mut slots };
        let mut model = BTreeMap::new();
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..20_000 {
            let id = PeerId(u16::try_from(random(u64::from(peers))).unwrap());
            let network = NetworkId(u16::try_from(random(2)).unwrap());
            let address = u32::try_from(random(addresses)).unwrap();
            let address = if random(2) == 0 {
                core::net::Ipv4Addr::from_bits(address).into()
            } else {
                core::net::Ipv6Addr::from_bits(u128::from(address)).into()
            };
            let key = Key::host(address);
            let entry = &mut entries[id.index()];
            if entry.present {
                table.remove(&entries, id);
                let entry = &mut entries[id.index()];
                assert_eq!(model.remove(&(entry.network, entry.underlay)), Some(id));
                *entry = PeerEntry::new_zeroed();
            } else if let Entry::Vacant(vacant) = model.entry((network, key)) {
                (entry.present, entry.network, entry.underlay) = (true, network, key);
                table.insert(&entries, id);
                vacant.insert(id);
            }
            let found = table.find(&entries, network, key).map(|(id, _)| id);
            assert_eq!(found, model.get(&(network, key)).copied());
        }
        for ((network, key), id) in &model {
            let found = table.find(&entries, *network, *key).map(|(id, _)| id);
            assert_eq!(found, Some(*id));
        }
        let used = table.slots.iter().filter(|slot| **slot != 0).count();
        assert_eq!(used, model.len());
    }

    #[test]
    fn matches_a_map_through_churn() {
        churn(1, 2);
        churn(7, 8);
        churn(64, 100);
        churn(500, 100_000);
    }
}
