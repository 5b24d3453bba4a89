//! Binary search on prefix lengths: Waldvogel, Varghese, Turner, Plattner, "Scalable High
//! Speed IP Routing Lookups", SIGCOMM 1997; without its ropes.
//!
//! A hash table for each length up to 64. Where the search for a prefix turns to longer
//! ones, a marker is in the table of the shorter length, with the next hop of the longest
//! prefix that holds the marker: no search turns back. A bucket is a line of the cache
//! with six keys, all compared without a branch; what it has no room for is in the next.

use std::collections::HashMap;
use std::hint::select_unpredictable;

use crate::candidate::{BATCH, Candidate, bytes_of};
use crate::longer::Longer;
use crate::ranges::Range;
use crate::routes::Route;

/// The next hop of a free place.
const NONE: u16 = u16::MAX;
const SLOTS: usize = 6;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket {
    keys: [u64; SLOTS],
    hops: [u16; SLOTS],
}

/// Where a length's buckets are: a power of two.
struct Level {
    mask: u64,
    shift: u32,
    first: usize,
    last: usize,
}

pub struct Lengths {
    levels: Vec<Level>,
    buckets: Vec<Bucket>,
    longer: Longer,
}

impl Lengths {
    pub fn new(routes: &[Route<u128>], ranges: &[Range]) -> Self {
        let (starts, longer) = Longer::split(ranges);
        let short = routes.iter().filter(|(_, length, _)| *length <= 64);
        let mut exact: HashMap<(u64, u8), u16> = short
            .map(|(bits, length, hop)| (((bits >> 64) as u64, *length), *hop as u16))
            .collect();
        let lists = starts.into_iter().filter(|(_, hop)| Longer::is_list(*hop));
        exact.extend(lists.map(|(start, hop)| ((start, 64), hop)));
        let mut lengths: Vec<u8> = exact.keys().map(|(_, length)| *length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let mut table = Lengths {
            levels: Vec::new(),
            buckets: Vec::new(),
            longer,
        };
        for (length, of) in lengths.iter().zip(entries(&exact, &lengths)) {
            table.push(*length, &of);
        }
        table
    }

    fn push(&mut self, length: u8, of: &HashMap<u64, u16>) {
        let count = of.len().div_ceil(SLOTS / 2).next_power_of_two().max(2);
        let first = self.buckets.len();
        let free = Bucket {
            keys: [0; SLOTS],
            hops: [NONE; SLOTS],
        };
        self.buckets.resize(first + count, free);
        let level = Level {
            mask: mask(length),
            shift: 64 - count.ilog2(),
            first,
            last: count - 1,
        };
        for (key, hop) in of {
            let mut place = level.start(*key);
            loop {
                let bucket = &mut self.buckets[first + place];
                if let Some(slot) = bucket.hops.iter().position(|hop| *hop == NONE) {
                    (bucket.keys[slot], bucket.hops[slot]) = (*key, *hop);
                    break;
                }
                place = (place + 1) & level.last;
            }
        }
        self.levels.push(level);
    }

    /// The next hop of a prefix or marker, or [`NONE`].
    #[inline(always)]
    fn exact(&self, level: &Level, key: u64) -> u16 {
        let key = key & level.mask;
        let mut place = level.start(key);
        loop {
            let bucket = &self.buckets[level.first + place];
            let pairs = bucket.keys.iter().zip(&bucket.hops);
            let found = pairs.fold(NONE, |found, (other, hop)| {
                select_unpredictable(*other == key, *hop, found)
            });
            // Few buckets are full.
            if (found != NONE) | (bucket.hops[SLOTS - 1] == NONE) {
                return found;
            }
            place = (place + 1) & level.last;
        }
    }

    /// Halves the lengths that are left: a hit turns to the longer ones. With none left,
    /// nothing changes.
    #[inline(always)]
    fn step(&self, key: u64, state: &mut Search) {
        let middle = (state.from + state.to) / 2;
        let level = &self.levels[middle.min(self.levels.len() - 1)];
        let found = self.exact(level, key);
        let hit = (found != NONE) & (state.from < state.to);
        state.best = select_unpredictable(hit, found, state.best);
        state.from = select_unpredictable(hit, middle + 1, state.from);
        state.to = select_unpredictable(hit, state.to, middle);
    }

    fn all(&self) -> Search {
        Search {
            from: 0,
            to: self.levels.len(),
            best: 0,
        }
    }
}

#[derive(Clone, Copy)]
struct Search {
    from: usize,
    to: usize,
    best: u16,
}

impl Level {
    #[inline(always)]
    fn start(&self, key: u64) -> usize {
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> self.shift) as usize
    }
}

fn mask(length: u8) -> u64 {
    !u64::MAX.checked_shr(u32::from(length)).unwrap_or(0)
}

/// Each length's prefixes and markers.
fn entries(exact: &HashMap<(u64, u8), u16>, lengths: &[u8]) -> Vec<HashMap<u64, u16>> {
    let longest = |key: u64, end: usize| {
        let tried = lengths[..=end].iter().rev();
        let mut found = tried.filter_map(|length| exact.get(&(key & mask(*length), *length)));
        found.next().copied().unwrap_or(0)
    };
    let mut entries = vec![HashMap::new(); lengths.len()];
    for (key, length) in exact.keys() {
        let (mut from, mut to) = (0, lengths.len());
        while from < to {
            let middle = (from + to) / 2;
            if lengths[middle] > *length {
                to = middle;
                continue;
            }
            let marker = key & mask(lengths[middle]);
            let hop = || longest(marker, middle);
            entries[middle].entry(marker).or_insert_with(hop);
            // The search goes on behind the prefix itself, and finds nothing longer.
            from = if lengths[middle] == *length {
                to
            } else {
                middle + 1
            };
        }
    }
    entries
}

impl Candidate<u128> for Lengths {
    fn name(&self) -> &'static str {
        "hash by length"
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.levels) + bytes_of(&self.buckets) + self.longer.bytes()
    }

    #[inline(always)]
    fn one(&self, key: u128) -> u32 {
        let mut state = self.all();
        while state.from < state.to {
            self.step((key >> 64) as u64, &mut state);
        }
        self.longer.resolve(key, state.best)
    }

    fn is_staged(&self) -> bool {
        true
    }

    #[inline(always)]
    fn staged_batch(&self, keys: &[u128], answers: &mut [u32]) {
        let mut states = [self.all(); BATCH];
        for _ in 0..=self.levels.len().ilog2() {
            for (key, state) in keys.iter().zip(&mut states) {
                self.step((key >> 64) as u64, state);
            }
        }
        for ((key, state), answer) in keys.iter().zip(states).zip(answers) {
            *answer = self.longer.resolve(*key, state.best);
        }
    }
}
