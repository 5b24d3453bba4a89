//! Batches of lookups where 16 bits choose the root slot, a step for all at a time.
//!
//! What a lookup waits for is memory, and a processor waits for many lines at once, if
//! it meets the loads soon enough: so each loop here does one small thing for all
//! addresses of a batch, and the one that touches the lines does nothing else. A
//! branch that depends on what is found is often guessed wrong, which costs more than a
//! lookup: so none of these loops has one, except that for the few that are left.

use core::hint::black_box;

use super::family::WIDE;
use super::node::{CODES, NODE, Nodes, STORE, Slot, index, inherited, lens};
use super::unit::{GUARD, get_narrow, get_wide};

/// Addresses that are looked up at a time.
pub(super) const BATCH: usize = 64;

/// A bit for each address of half a batch.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const BITS: [u32; BATCH / 2] = {
    let mut bits = [0; BATCH / 2];
    let mut bit = 0;
    while bit < bits.len() {
        bits[bit] = 1 << bit;
        bit += 1;
    }
    bits
};

/// Where the addresses of a batch are looked up.
pub(super) struct Places {
    /// What the root has.
    slots: [Slot; BATCH],
    /// The unit of the node that it leads to.
    units: [u32; BATCH],
    /// How to look into it, and for what.
    lenses: [u32; BATCH],
    ends: [u32; BATCH],
}

impl Places {
    pub(super) fn new() -> Self {
        Places {
            slots: [0; BATCH],
            units: [0; BATCH],
            lenses: [0; BATCH],
            ends: [0; BATCH],
        }
    }

    /// The codes of addresses for which a root slot and one node are enough; 0 for
    /// others, which are the bits of what is returned.
    #[inline(never)]
    pub(super) fn find(
        &mut self,
        bytes: &[u8],
        table: &[Slot; WIDE],
        addresses: &[u32; BATCH],
        codes: &mut [u32; BATCH],
    ) -> u64 {
        self.locate(table, addresses);
        self.touch(bytes);
        if self.all_narrow(bytes, codes).is_none() {
            codes.fill(0);
        }
        let others = self.choose(codes);
        if others == 0 {
            return 0;
        }
        self.find_others(bytes, codes, others)
    }

    /// The same for fewer addresses.
    #[inline(never)]
    pub(super) fn find_some(
        &mut self,
        bytes: &[u8],
        table: &[Slot; WIDE],
        addresses: &[u32],
        codes: &mut [u32],
    ) -> u64 {
        // With one that is mostly found, so that nothing is left to do for it.
        let filler = addresses.first().copied().unwrap_or(0);
        let (mut padded, mut found) = ([filler; BATCH], [0; BATCH]);
        for (place, address) in padded.iter_mut().zip(addresses) {
            *place = *address;
        }
        let left = self.find(bytes, table, &padded, &mut found);
        for (code, found) in codes.iter_mut().zip(found) {
            *code = found;
        }
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        left & !u64::MAX.checked_shl(count).unwrap_or(0)
    }

    /// Finds out where to look.
    #[inline(always)]
    fn locate(&mut self, table: &[Slot; WIDE], addresses: &[u32; BATCH]) {
        for (slot, address) in self.slots.iter_mut().zip(addresses) {
            let [a, b, ..] = address.to_be_bytes();
            let found = table.get(usize::from(u16::from_be_bytes([a, b])));
            *slot = found.copied().unwrap_or(0);
        }
        let ways = self.lenses.iter_mut().zip(&mut self.ends);
        let of_each = self.units.iter_mut().zip(ways).zip(&self.slots);
        for (((unit, (way, end)), slot), address) in of_each.zip(addresses) {
            let [_, _, third, _] = address.to_be_bytes();
            let leads = slot.wrapping_sub(NODE) < STORE - NODE;
            let node = if leads { *slot } else { 0 };
            *unit = Nodes::unit_of_many(node, third);
            *way = lens(node, *unit);
            *end = u32::from(third | GUARD);
        }
    }

    /// Sets all lines on their way, as soon after each other as can be: what another
    /// instruction delays, is delayed for all.
    #[inline(always)]
    fn touch(&self, bytes: &[u8]) {
        let (pairs, _) = bytes.as_chunks();
        let mut touched = 0;
        for unit in &self.units {
            let Some(pair) = pairs.get(index(*unit)) else {
                break;
            };
            touched ^= u16::from_ne_bytes(*pair);
        }
        black_box(touched);
    }

    /// What is in the units, as if all were narrow; `None` when one is behind the end of
    /// the memory.
    #[inline(always)]
    fn all_narrow(&self, bytes: &[u8], codes: &mut [u32; BATCH]) -> Option<()> {
        // Four at a time, because the compiler does not unroll loops with such ends.
        let (units, _) = self.units.as_chunks::<4>();
        let (lenses, _) = self.lenses.as_chunks::<4>();
        let (ends, _) = self.ends.as_chunks::<4>();
        let (codes, _) = codes.as_chunks_mut::<4>();
        let fours = codes.iter_mut().zip(units.iter().zip(lenses).zip(ends));
        for (codes, ((units, lenses), ends)) in fours {
            let of_each = codes.iter_mut().zip(units.iter().zip(lenses).zip(ends));
            for (code, ((unit, lens), end)) in of_each {
                let [end, ..] = end.to_le_bytes();
                *code = get_narrow(bytes, index(*unit), *lens, end)?;
            }
        }
        Some(())
    }

    /// Leaves only what is right in the codes; the bits of those that are 0.
    #[inline(always)]
    fn choose(&self, codes: &mut [u32; BATCH]) -> u64 {
        let (halves, _) = codes.as_chunks_mut();
        let (slots, _) = self.slots.as_chunks();
        let mut all = 0;
        for (codes, slots) in halves.iter_mut().zip(slots).rev() {
            let (codes, slots): (&mut [u32; BATCH / 2], &[Slot; BATCH / 2]) = (codes, slots);
            let mut zeros = 0;
            for ((code, slot), bit) in codes.iter_mut().zip(slots).zip(&BITS) {
                let narrow = mask(Nodes::is_narrow(*slot));
                *code = *slot & mask(*slot < NODE) | *code & narrow;
                zeros |= mask(*code == 0) & *bit;
            }
            all = all << (BATCH / 2) | u64::from(zeros);
        }
        all
    }

    /// Those that are not done, mostly few.
    #[inline(always)]
    fn find_others(&self, bytes: &[u8], codes: &mut [u32; BATCH], others: u64) -> u64 {
        let mut left = others;
        for number in bits(others) {
            let place = (codes.get_mut(number), self.slots.get(number));
            let (Some(code), Some(slot)) = place else {
                break;
            };
            let unit = self.units.get(number).copied().unwrap_or(0);
            if Nodes::is_wide(*slot) {
                let lens = self.lenses.get(number).copied().unwrap_or(0);
                let end = self.ends.get(number).copied().unwrap_or(0);
                let [end, ..] = end.to_le_bytes();
                let found = get_wide(bytes, index(unit), lens, end).unwrap_or(STORE);
                if found >= CODES {
                    continue;
                }
                *code = found;
            }
            if *code == 0 && (Nodes::is_wide(*slot) || Nodes::is_narrow(*slot)) {
                *code = inherited(bytes, *slot, unit);
            }
            left ^= u64::from(*code != 0) << number;
        }
        left
    }
}

/// All ones or none: unlike a branch, of several at a time.
#[inline(always)]
fn mask(set: bool) -> u32 {
    0u32.wrapping_sub(u32::from(set))
}

/// The numbers of the bits that are set.
#[inline(always)]
pub(super) fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let number = usize::try_from(set.trailing_zeros()).ok()?;
        set &= set.checked_sub(1)?;
        Some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fib::node::{FORM, INSIDE};

    /// All forms and splits, with a place that has all bits.
    #[test]
    fn units_are_found_by_floats_as_by_shifts() {
        for form in 0..16u32 {
            for inside in 0..8u32 {
                for slot in 0..=255 {
                    // No node has units of one byte.
                    if form & 7 == 0 {
                        continue;
                    }
                    for place in [0, 1, (1 << INSIDE) - 1] {
                        let node = NODE | form << FORM | inside << INSIDE | place;
                        let found = Nodes::unit_of_many(node, slot);
                        assert_eq!(found, Nodes::unit(node, slot), "{form} {inside} {slot}");
                    }
                }
            }
        }
    }
}
