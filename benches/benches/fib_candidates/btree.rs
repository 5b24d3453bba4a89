//! A linearised B+ tree over the starts of ranges, as PlanB has it ("PlanB: Efficient
//! Software IPv6 Lookup with Linearized B+-Tree", NSDI 2026), without its wide vectors
//! by hand: a node's keys are counted without a branch, which the compiler vectorises.
//!
//! Level by level in one array, `N` keys a node and N + 1 children, no pointers. IPv6
//! is a tree of the first 64 bits; a /64 with longer prefixes has a list of its own.

use crate::candidate::{BATCH, Candidate, bytes_of};
use crate::longer::Longer;
use crate::ranges::{Range, narrow};

/// A key with its order as that of signed numbers, which SSE2 can compare.
pub trait Lane: Copy + Ord {
    const MAX: Self;
}

impl Lane for i32 {
    const MAX: i32 = i32::MAX;
}

impl Lane for i64 {
    const MAX: i64 = i64::MAX;
}

fn lane_32(key: u32) -> i32 {
    (key ^ 1 << 31).cast_signed()
}

fn lane_64(key: u64) -> i64 {
    (key ^ 1 << 63).cast_signed()
}

/// Begins with a line of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Node<L, const N: usize>([L; N]);

pub struct Tree<L, const N: usize> {
    nodes: Vec<Node<L, N>>,
    /// Where levels begin, the root's first.
    levels: Vec<usize>,
    hops: Vec<u16>,
    /// Empty for IPv4.
    longer: Longer,
}

impl<const N: usize> Tree<i32, N> {
    pub fn of_32(ranges: &[Range]) -> Self {
        let starts = ranges.iter().map(|range| (range.start >> 96) as u32);
        let hops = ranges.iter().map(|range| range.hop).collect();
        Self::new(starts.map(lane_32).collect(), hops, Longer::default())
    }
}

impl<const N: usize> Tree<i64, N> {
    pub fn of_64(ranges: &[Range]) -> Self {
        let (starts, longer) = Longer::split(ranges);
        let lanes = starts.iter().map(|(start, _)| lane_64(*start)).collect();
        let hops = starts.iter().map(|(_, hop)| *hop).collect();
        Self::new(lanes, hops, longer)
    }
}

impl<L: Lane, const N: usize> Tree<L, N> {
    fn new(starts: Vec<L>, mut hops: Vec<u16>, longer: Longer) -> Self {
        // What fills nodes up is above any key that is looked for.
        assert!(starts.iter().all(|start| *start != L::MAX));
        let leaves: Vec<Node<L, N>> = starts.chunks(N).map(filled).collect();
        hops.resize(leaves.len() * N, 0);
        let mut firsts: Vec<L> = leaves.iter().map(|leaf| leaf.0[0]).collect();
        let mut levels = vec![leaves];
        while firsts.len() > 1 {
            let level = firsts.chunks(N + 1).map(|children| filled(&children[1..]));
            levels.push(level.collect());
            firsts = firsts.chunks(N + 1).map(|children| children[0]).collect();
        }
        levels.reverse();
        let begins = levels.iter().scan(0, |begin, level| {
            let this = *begin;
            *begin += level.len();
            Some(this)
        });
        Tree {
            levels: begins.collect(),
            nodes: levels.concat(),
            hops,
            longer,
        }
    }

    fn size(&self) -> usize {
        bytes_of(&self.nodes) + bytes_of(&self.hops) + self.longer.bytes()
    }

    /// The keys of a node up to this one.
    #[inline(always)]
    fn count(&self, level: usize, node: u32, key: L) -> u32 {
        let keys = &self.nodes[level + node as usize];
        keys.0.iter().map(|other| u32::from(*other <= key)).sum()
    }

    /// The next hop's place.
    #[inline(always)]
    fn find(&self, key: L) -> u16 {
        let mut node = 0;
        let [inner @ .., leaves] = &self.levels[..] else {
            return 0;
        };
        for level in inner {
            node = node * (narrow(N) + 1) + self.count(*level, node, key);
        }
        self.hops[(node * narrow(N) + self.count(*leaves, node, key) - 1) as usize]
    }

    #[inline(always)]
    fn find_batch(&self, keys: &[L], found: &mut [u16]) {
        let mut nodes = [0; BATCH];
        let [inner @ .., leaves] = &self.levels[..] else {
            return;
        };
        for level in inner {
            for (node, key) in nodes.iter_mut().zip(keys) {
                *node = *node * (narrow(N) + 1) + self.count(*level, *node, *key);
            }
        }
        for (node, key) in nodes.iter_mut().zip(keys) {
            *node = *node * narrow(N) + self.count(*leaves, *node, *key) - 1;
        }
        for (node, found) in nodes.iter().zip(found) {
            *found = self.hops[*node as usize];
        }
    }
}

fn filled<L: Lane, const N: usize>(keys: &[L]) -> Node<L, N> {
    let key = |index| keys.get(index).copied().unwrap_or(L::MAX);
    Node(std::array::from_fn(key))
}

impl<const N: usize> Candidate<u32> for Tree<i32, N> {
    fn name(&self) -> &'static str {
        "B+ tree 16"
    }

    fn bytes(&self) -> usize {
        self.size()
    }

    #[inline(always)]
    fn one(&self, key: u32) -> u32 {
        u32::from(self.find(lane_32(key).min(i32::MAX - 1)))
    }

    fn is_staged(&self) -> bool {
        true
    }

    #[inline(always)]
    fn staged_batch(&self, keys: &[u32], answers: &mut [u32]) {
        let (mut lanes, mut found) = ([0; BATCH], [0; BATCH]);
        for (key, lane) in keys.iter().zip(&mut lanes) {
            *lane = lane_32(*key).min(i32::MAX - 1);
        }
        self.find_batch(&lanes, &mut found);
        for (found, answer) in found.iter().zip(answers) {
            *answer = u32::from(*found);
        }
    }
}

impl<const N: usize> Candidate<u128> for Tree<i64, N> {
    fn name(&self) -> &'static str {
        if N == 8 { "B+ tree 8" } else { "B+ tree 16" }
    }

    fn bytes(&self) -> usize {
        self.size()
    }

    #[inline(always)]
    fn one(&self, key: u128) -> u32 {
        let lane = lane_64((key >> 64) as u64).min(i64::MAX - 1);
        self.longer.resolve(key, self.find(lane))
    }

    fn is_staged(&self) -> bool {
        true
    }

    #[inline(always)]
    fn staged_batch(&self, keys: &[u128], answers: &mut [u32]) {
        let (mut lanes, mut found) = ([0; BATCH], [0; BATCH]);
        for (key, lane) in keys.iter().zip(&mut lanes) {
            *lane = lane_64((key >> 64) as u64).min(i64::MAX - 1);
        }
        self.find_batch(&lanes, &mut found);
        for ((key, found), answer) in keys.iter().zip(found).zip(answers) {
            *answer = self.longer.resolve(*key, found);
        }
    }
}
