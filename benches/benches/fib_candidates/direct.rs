//! DIR-24-8: Gupta, Lin, McKeown, "Routing Lookups in Hardware at Memory Access Speeds",
//! INFOCOM 1998; DPDK's rte_lpm is one.
//!
//! 2^24 entries for the first 24 bits, each a next hop or the number of a group of 256
//! for the last eight.

use crate::candidate::{BATCH, Candidate, bytes_of};
use crate::ranges::{Range, narrow, slots};

/// An entry: its highest bit says that the others are a group's number.
pub trait Entry: Copy + Default {
    const NAME: &'static str;
    const BITS: u32;
    fn of(value: u32) -> Self;
    fn wide(self) -> u32;
}

impl Entry for u32 {
    const NAME: &'static str = "DIR-24-8 u32";
    const BITS: u32 = 32;

    fn of(value: u32) -> Self {
        value
    }

    #[inline(always)]
    fn wide(self) -> u32 {
        self
    }
}

/// Holds up to 32,768 groups.
impl Entry for u16 {
    const NAME: &'static str = "DIR-24-8 u16";
    const BITS: u32 = 16;

    fn of(value: u32) -> Self {
        u16::try_from(value).expect("at most 32,768 groups")
    }

    #[inline(always)]
    fn wide(self) -> u32 {
        u32::from(self)
    }
}

pub struct Direct<E> {
    /// By the first 24 bits: an array, so that no index of 24 bits needs a check.
    first: Box<[E; 1 << 24]>,
    groups: Vec<[E; 256]>,
}

impl<E: Entry> Direct<E> {
    const GROUP: u32 = 1 << (E::BITS - 1);

    pub fn new(ranges: &[Range]) -> Self {
        let mut groups = Vec::new();
        let mut first = Vec::with_capacity(1 << 24);
        for (base, within) in slots(ranges, 0, 0, 24) {
            first.push(match within {
                [all] => E::of(u32::from(all.hop)),
                several => {
                    let mut group = [E::default(); 256];
                    for (entry, (_, within)) in group.iter_mut().zip(slots(several, base, 24, 8)) {
                        *entry = E::of(u32::from(within[0].hop));
                    }
                    groups.push(group);
                    E::of(Self::GROUP | narrow(groups.len() - 1))
                }
            });
        }
        let first = first.into_boxed_slice().try_into().ok();
        let first = first.expect("2^24 slots");
        Direct { first, groups }
    }

    #[inline(always)]
    fn first(&self, key: u32) -> u32 {
        self.first[(key >> 8) as usize].wide()
    }

    /// The answer, of the entry that the key has found.
    #[inline(always)]
    fn finish(&self, key: u32, entry: u32) -> u32 {
        if entry & Self::GROUP == 0 {
            return entry;
        }
        let group = &self.groups[(entry ^ Self::GROUP) as usize];
        group[(key & 0xff) as usize].wide()
    }
}

impl<E: Entry> Candidate<u32> for Direct<E> {
    fn name(&self) -> &'static str {
        E::NAME
    }

    fn hop_bits(&self) -> u32 {
        E::BITS
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.first[..]) + bytes_of(&self.groups)
    }

    #[inline(always)]
    fn one(&self, key: u32) -> u32 {
        self.finish(key, self.first(key))
    }

    fn is_staged(&self) -> bool {
        true
    }

    #[inline(always)]
    fn staged_batch(&self, keys: &[u32], answers: &mut [u32]) {
        let mut entries = [0; BATCH];
        for (key, entry) in keys.iter().zip(&mut entries) {
            *entry = self.first(*key);
        }
        for ((key, entry), answer) in keys.iter().zip(entries).zip(answers) {
            *answer = self.finish(*key, entry);
        }
    }
}
