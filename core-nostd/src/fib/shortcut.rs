//! Shortcuts of IPv6: a hash table from the first 32 bits of an address, which most
//! prefixes share with few others, to a leaf of the next 16 (`leaf.rs`).
//!
//! A lookup that finds a code there has read two or three cache lines; every other one
//! (no leaf, no code in it) goes the long way, so that a shortcut that is missing, for
//! want of room or because of what it would have to hold, makes a lookup slower and
//! never wrong. Only prefixes of 32 bits and more are in leaves: shorter ones come and
//! go without a look at them.

use zerocopy::{FromZeros, Immutable};

use super::leaf::{self, LINE, Leaf};
use super::node::index;
use super::pages::{GRANULE, Pages};
use super::steps;

/// Leaves in a bucket.
const WAYS: usize = 8;
/// A leaf's word: its FIB plus one, whether it is long, and its first granule.
const FIB: u32 = 24;
const LONG: u32 = 1 << 23;
const PLACE: u32 = LONG - 1;
/// FIBs that words can name; others have no shortcuts.
const MAX_FIBS: usize = 255;

/// Leaves whose first bits have one hash: a cache line. No bits are there twice.
#[derive(Clone, Copy, FromZeros, Immutable)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    firsts: [u32; WAYS],
    /// 0: none.
    leaves: [u32; WAYS],
}

/// Bookkeeping of shortcuts.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct State {
    leaves: u32,
}

/// The shortcuts of all FIBs.
pub(super) struct Shortcuts<'a> {
    pub(super) buckets: &'a mut [Bucket],
    pub(super) state: &'a mut State,
}

/// The first 32 bits.
#[inline(always)]
fn first(address: u128) -> u32 {
    let [.., a, b, c, d] = (address >> 96).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// The 16 bits behind them, as leaves compare them.
#[inline(always)]
fn next(address: u128) -> i16 {
    let [.., a, b] = (address >> 80).to_be_bytes();
    leaf::flip(u16::from_be_bytes([a, b]))
}

/// Among so many buckets the one of these bits.
#[inline(always)]
fn place(first: u32, salt: u32, buckets: u64) -> u32 {
    let hash = (first ^ salt).wrapping_mul(0x9e37_79b1);
    let [.., a, b, c, d] = ((u64::from(hash) * buckets) >> 32).to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

fn salt(fib: usize) -> u32 {
    u32::try_from(fib).unwrap_or(0).wrapping_mul(0x85eb_ca6b)
}

/// The line of a leaf.
#[inline(always)]
fn line(leaf: u32) -> usize {
    index(leaf & PLACE) / (LINE / GRANULE)
}

impl Bucket {
    /// In four lanes, of which all others are 0, the word of the leaf of these bits.
    #[inline(always)]
    fn select(&self, first: u32) -> [u32; 4] {
        let mut some = [0; 4];
        let (firsts, _) = self.firsts.as_chunks::<4>();
        let (leaves, _) = self.leaves.as_chunks::<4>();
        for (firsts, leaves) in firsts.iter().zip(leaves) {
            for ((some, here), leaf) in some.iter_mut().zip(firsts).zip(leaves) {
                *some |= leaf & 0u32.wrapping_sub(u32::from(*here == first));
            }
        }
        some
    }
}

#[inline(always)]
fn joined([a, b, c, d]: [u32; 4]) -> u32 {
    a | b | c | d
}

impl Shortcuts<'_> {
    /// Whether there are any.
    #[inline(always)]
    pub(super) fn any(&self) -> bool {
        self.state.leaves != 0
    }

    /// The memory of the table, in bytes, if it is in use.
    pub(super) fn memory(&self) -> usize {
        if self.any() {
            size_of_val(self.buckets)
        } else {
            0
        }
    }

    #[inline(always)]
    fn buckets(&self) -> u64 {
        u64::try_from(self.buckets.len()).unwrap_or(0)
    }

    /// The code of an address, or 0.
    #[inline(always)]
    pub(super) fn find(&self, bytes: &[u8], fib: usize, address: u128) -> u32 {
        steps::count();
        let place = place(first(address), salt(fib), self.buckets());
        let bucket = self.buckets.get(index(place));
        let word = bucket.map_or(0, |bucket| joined(bucket.select(first(address))));
        if index(word >> FIB) != fib.wrapping_add(1) {
            return 0;
        }
        steps::count();
        let (lines, _) = bytes.as_chunks();
        let Some(ends) = lines.get(line(word)) else {
            return 0;
        };
        let long = word & LONG != 0;
        let before = leaf::before(ends, next(address), long);
        leaf::code(bytes, line(word), long, leaf::run(before))
    }

    /// Brings the leaf of a FIB's addresses that begin with these bits to what it is to
    /// be, as far as there is room.
    pub(super) fn renew(
        &mut self,
        pages: &mut Pages<'_>,
        fib: usize,
        first: u32,
        leaf: Option<&Leaf>,
    ) {
        if fib >= MAX_FIBS {
            return;
        }
        let at = index(place(first, salt(fib), self.buckets()));
        let Some(bucket) = self.buckets.get_mut(at) else {
            return;
        };
        let own = u32::try_from(fib + 1).unwrap_or(0) << FIB;
        let mut ways = bucket.firsts.iter_mut().zip(&mut bucket.leaves);
        let there = ways.find(|(bits, word)| **bits == first && **word != 0);
        if let Some((_, word)) = there {
            if *word & !(LONG | PLACE) != own {
                return;
            }
            let old = *word & PLACE;
            let new = match leaf {
                Some(leaf) => put(pages, Some(old), leaf),
                None => {
                    pages.free(old);
                    None
                }
            };
            *word = new.map_or(0, |word| word | own);
            if new.is_none() {
                self.state.leaves -= 1;
            }
            return;
        }
        let mut ways = bucket.firsts.iter_mut().zip(&mut bucket.leaves);
        if let Some(leaf) = leaf
            && let Some((bits, word)) = ways.find(|(_, word)| **word == 0)
            && let Some(new) = put(pages, None, leaf)
        {
            (*bits, *word) = (first, new | own);
            self.state.leaves += 1;
        }
    }
}

/// Writes a leaf in the place of an old one, which is given back; so it is when there is
/// no room for the new one.
fn put(pages: &mut Pages<'_>, old: Option<u32>, leaf: &Leaf) -> Option<u32> {
    let lines = 1 + u32::from(leaf.is_long());
    let granules = index(lines) * (LINE / GRANULE);
    let block = pages.refit(old, granules);
    // A block of another size may not begin with a line.
    let fits = block.filter(|block| index(*block).is_multiple_of(LINE / GRANULE));
    let Some(block) = fits else {
        if let Some(unfit) = block.or(old) {
            pages.free(unfit);
        }
        return None;
    };
    let at = index(block) * GRANULE;
    leaf.write(pages.bytes.get_mut(at..).unwrap_or_default());
    Some(block | if leaf.is_long() { LONG } else { 0 })
}

#[cfg(test)]
impl Shortcuts<'_> {
    /// Leaves in use.
    pub(super) fn leaves(&self) -> u32 {
        self.state.leaves
    }
}
