//! SAIL_L: Yang et al., "Guarantee IP Lookup Performance with FIB Explosion",
//! SIGCOMM 2014.
//!
//! Prefixes pushed to lengths 16, 24 and 32. At 16 and 24 a bitmap says of each slot
//! whether longer ones follow: then its number is that of a chunk of 256 slots of the
//! next length, else a next hop (the paper's N and C, of which a slot has one).

use crate::candidate::{BATCH, Candidate, bytes_of};
use crate::ranges::{Range, slots};

pub struct Sail {
    follows_16: Box<[u64; 1 << 10]>,
    level_16: Box<[u16; 1 << 16]>,
    follows_24: Vec<[u64; 4]>,
    level_24: Vec<[u16; 256]>,
    level_32: Vec<[u16; 256]>,
}

impl Sail {
    pub fn new(ranges: &[Range]) -> Self {
        let mut sail = Sail {
            follows_16: Box::new([0; 1 << 10]),
            level_16: Box::new([0; 1 << 16]),
            follows_24: Vec::new(),
            level_24: Vec::new(),
            level_32: Vec::new(),
        };
        for (slot, (base, within)) in slots(ranges, 0, 0, 16).enumerate() {
            if let [all] = within {
                sail.level_16[slot] = all.hop;
                continue;
            }
            sail.follows_16[slot >> 6] |= 1 << (slot & 63);
            sail.level_16[slot] = chunk(&sail.level_24);
            sail.push_24(base, within);
        }
        sail
    }

    fn push_24(&mut self, base: u128, ranges: &[Range]) {
        let (mut follows, mut level) = ([0; 4], [0; 256]);
        for (slot, (base, within)) in slots(ranges, base, 16, 8).enumerate() {
            if let [all] = within {
                level[slot] = all.hop;
                continue;
            }
            follows[slot >> 6] |= 1 << (slot & 63);
            level[slot] = chunk(&self.level_32);
            let mut last = [0; 256];
            for (hop, (_, within)) in last.iter_mut().zip(slots(within, base, 24, 8)) {
                *hop = within[0].hop;
            }
            self.level_32.push(last);
        }
        self.follows_24.push(follows);
        self.level_24.push(level);
    }

    /// What is at level 16, and whether it is a chunk's number.
    #[inline(always)]
    fn first(&self, key: u32) -> (u16, bool) {
        let slot = (key >> 16) as usize;
        (
            self.level_16[slot],
            self.follows_16[slot >> 6] >> (slot & 63) & 1 != 0,
        )
    }

    #[inline(always)]
    fn finish(&self, key: u32, (found, follows): (u16, bool)) -> u32 {
        if !follows {
            return u32::from(found);
        }
        let slot = (key >> 8 & 0xff) as usize;
        let chunk = usize::from(found);
        let found = self.level_24[chunk][slot];
        if self.follows_24[chunk][slot >> 6] >> (slot & 63) & 1 == 0 {
            return u32::from(found);
        }
        u32::from(self.level_32[usize::from(found)][(key & 0xff) as usize])
    }
}

/// The next chunk's number.
fn chunk<T>(chunks: &[T]) -> u16 {
    u16::try_from(chunks.len()).expect("at most 65,536 chunks")
}

impl Candidate<u32> for Sail {
    fn name(&self) -> &'static str {
        "SAIL_L"
    }

    fn bytes(&self) -> usize {
        let first = bytes_of(&self.follows_16[..]) + bytes_of(&self.level_16[..]);
        first + bytes_of(&self.follows_24) + bytes_of(&self.level_24) + bytes_of(&self.level_32)
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
        let mut found = [(0, false); BATCH];
        for (key, found) in keys.iter().zip(&mut found) {
            *found = self.first(*key);
        }
        for ((key, found), answer) in keys.iter().zip(found).zip(answers) {
            *answer = self.finish(*key, found);
        }
    }
}
