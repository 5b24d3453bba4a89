//! DXR: Zec, Rizzo, Mikuc, "DXR: Towards a Billion Routing Lookups Per Second in
//! Software", CCR 2012; FreeBSD's fib_dxr is one.
//!
//! The first `BITS` bits (D16R, D18R) lead to a next hop or to the ranges of the rest,
//! which a binary search finds. Ranges are of the paper's long format: the short one
//! has next hops of eight bits, and here are 257. An entry of the direct table has the
//! bits as FreeBSD's: ten for the number of ranges and 22 for the first one.

use std::hint::select_unpredictable;

use crate::candidate::{BATCH, Candidate, bytes_of};
use crate::ranges::{Range, narrow, slots};

const BASE_BITS: u32 = 22;
const BASE: u32 = (1 << BASE_BITS) - 1;

pub struct Dxr<const BITS: u32> {
    /// The number of ranges above the index of the first; with 0, a next hop.
    direct: Vec<u32>,
    /// A range's start above its next hop, 16 bits each.
    ranges: Vec<u32>,
}

impl<const BITS: u32> Dxr<BITS> {
    pub fn new(ranges: &[Range]) -> Self {
        let mut dxr = Dxr {
            direct: Vec::with_capacity(1 << BITS),
            // What a staged lookup that needs none reads.
            ranges: vec![0],
        };
        for (base, within) in slots(ranges, 0, 0, BITS) {
            let entry = match within {
                [all] => u32::from(all.hop),
                several => dxr.push(base, several),
            };
            dxr.direct.push(entry);
        }
        dxr
    }

    fn push(&mut self, base: u128, ranges: &[Range]) -> u32 {
        let first = narrow(self.ranges.len());
        let count = narrow(ranges.len());
        assert!(count < 1 << (32 - BASE_BITS) && first + count <= BASE);
        for range in ranges {
            let start = range.start.max(base) << BITS >> (BITS + 96);
            let start = u32::try_from(start).expect("what 32 bits leave");
            self.ranges.push(start << 16 | u32::from(range.hop));
        }
        count << BASE_BITS | first
    }

    #[inline(always)]
    fn direct(&self, key: u32) -> u32 {
        self.direct[(key >> (32 - BITS)) as usize]
    }

    /// What no range that starts behind the key is below.
    #[inline(always)]
    fn probe(key: u32) -> u32 {
        (key << BITS >> BITS) << 16 | 0xffff
    }

    /// Halves the ranges from `first` on, of which one is the key's.
    #[inline(always)]
    fn halve(&self, probe: u32, first: &mut u32, count: &mut u32) {
        let half = *count / 2;
        let middle = *first + half;
        let behind = self.ranges[middle as usize] <= probe;
        *first = select_unpredictable(behind, middle, *first);
        *count -= half;
    }
}

impl<const BITS: u32> Candidate<u32> for Dxr<BITS> {
    fn name(&self) -> &'static str {
        match BITS {
            18 => "DXR D18R",
            _ => "DXR D16R",
        }
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.direct) + bytes_of(&self.ranges)
    }

    #[inline(always)]
    fn one(&self, key: u32) -> u32 {
        let entry = self.direct(key);
        let (mut first, mut count) = (entry & BASE, entry >> BASE_BITS);
        if count == 0 {
            return first;
        }
        let probe = Self::probe(key);
        while count > 1 {
            self.halve(probe, &mut first, &mut count);
        }
        self.ranges[first as usize] & 0xffff
    }

    fn is_staged(&self) -> bool {
        true
    }

    /// All keys halve as often as the one with the most ranges; one that has found its
    /// range, or has none, reads the same again.
    #[inline(always)]
    fn staged_batch(&self, keys: &[u32], answers: &mut [u32]) {
        let (mut entries, mut search) = ([0; BATCH], [(0, 0); BATCH]);
        let mut most = 0;
        for ((key, entry), (first, count)) in keys.iter().zip(&mut entries).zip(&mut search) {
            *entry = self.direct(*key);
            *count = *entry >> BASE_BITS;
            *first = select_unpredictable(*count == 0, 0, *entry & BASE);
            most = most.max(*count);
        }
        while most > 1 {
            for (key, (first, count)) in keys.iter().zip(&mut search) {
                self.halve(Self::probe(*key), first, count);
            }
            most -= most / 2;
        }
        for ((entry, (first, count)), answer) in entries.iter().zip(search).zip(answers) {
            let hop = self.ranges[first as usize] & 0xffff;
            *answer = select_unpredictable(count == 0, *entry, hop);
        }
    }
}
