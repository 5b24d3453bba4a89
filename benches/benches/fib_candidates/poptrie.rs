//! Poptrie: Asai, Ohara, "Poptrie: A Compressed Trie with Population Count for Fast and
//! Scalable Software IP Routing Table Lookup", SIGCOMM 2015.
//!
//! `DIRECT` bits at once, then nodes of six bits: a vector of the slots that have a node,
//! the leaf vector of the slots where a run of equal leaves begins, and the places of the
//! node's children and leaves in two arrays. Ranges of equal next hops are one leaf, as
//! with the paper's route aggregation.

use std::hint::select_unpredictable;

use crate::candidate::{BATCH, Candidate, bytes_of};
use crate::ranges::{Path, Range, narrow, slots};
use crate::routes::Key;

#[derive(Clone, Copy, Default)]
struct Node {
    vector: u64,
    leafvec: u64,
    leaves: u32,
    nodes: u32,
}

/// Of an entry of the direct table: the rest is a next hop.
const HOP: u32 = 1 << 31;
/// Of a place in a staged lookup: the rest is a leaf's index.
const LEAF: u32 = 1 << 30;

pub struct Poptrie<const DIRECT: u32> {
    direct: Vec<u32>,
    nodes: Vec<Node>,
    leaves: Vec<u16>,
}

impl<const DIRECT: u32> Poptrie<DIRECT> {
    pub fn new(ranges: &[Range]) -> Self {
        let mut trie = Poptrie {
            direct: Vec::with_capacity(1 << DIRECT),
            nodes: Vec::new(),
            leaves: Vec::new(),
        };
        for (base, within) in slots(ranges, 0, 0, DIRECT) {
            let entry = match within {
                [all] => HOP | u32::from(all.hop),
                several => {
                    let node = trie.nodes.len();
                    trie.nodes.push(Node::default());
                    trie.fill(node, several, base, DIRECT);
                    narrow(node)
                }
            };
            trie.direct.push(entry);
        }
        trie
    }

    fn fill(&mut self, at: usize, ranges: &[Range], base: u128, depth: u32) {
        let mut node = Node {
            leaves: narrow(self.leaves.len()),
            nodes: narrow(self.nodes.len()),
            ..Node::default()
        };
        let mut last = None;
        let mut children = Vec::new();
        for (slot, (base, within)) in slots(ranges, base, depth, 6).enumerate() {
            match within {
                [all] if last == Some(all.hop) => {}
                [all] => {
                    node.leafvec |= 1 << slot;
                    self.leaves.push(all.hop);
                    last = Some(all.hop);
                }
                several => {
                    node.vector |= 1 << slot;
                    children.push((base, several));
                }
            }
        }
        let first = self.nodes.len();
        self.nodes.resize(first + children.len(), Node::default());
        self.nodes[at] = node;
        for (child, (base, within)) in children.into_iter().enumerate() {
            self.fill(first + child, within, base, depth + 6);
        }
    }

    #[inline(always)]
    fn find<K: Path>(&self, key: K) -> u32 {
        let mut rest = key.rest();
        let mut entry = self.direct[K::take::<DIRECT>(&mut rest)];
        if entry & HOP != 0 {
            return entry ^ HOP;
        }
        loop {
            let node = &self.nodes[entry as usize];
            let slot = 1u64 << K::take::<6>(&mut rest);
            if node.vector & slot == 0 {
                let leaf = (node.leafvec & (slot | (slot - 1))).count_ones() - 1;
                return u32::from(self.leaves[(node.leaves + leaf) as usize]);
            }
            entry = node.nodes + (node.vector & (slot - 1)).count_ones();
        }
    }

    /// The next node, or the leaf with [`LEAF`], without a branch.
    #[inline(always)]
    fn step(&self, entry: u32, slot: usize) -> u32 {
        let node = &self.nodes[entry as usize];
        let slot = 1u64 << slot;
        let inner = node.vector & slot != 0;
        let vector = select_unpredictable(inner, node.vector, node.leafvec);
        let first = select_unpredictable(inner, node.nodes, (node.leaves | LEAF).wrapping_sub(1));
        let before = select_unpredictable(inner, slot - 1, slot | (slot - 1));
        first.wrapping_add((vector & before).count_ones())
    }

    #[inline(always)]
    fn find_batch<K: Path>(&self, keys: &[K], answers: &mut [u32]) {
        let mut rests = [K::rest(K::from_number(0)); BATCH];
        let mut places = [0; BATCH];
        let mut waiting = [0u8; BATCH];
        let mut count = 0;
        for (index, key) in keys.iter().take(BATCH).enumerate() {
            let mut rest = key.rest();
            places[index] = self.direct[K::take::<DIRECT>(&mut rest)];
            rests[index] = rest;
            waiting[count] = index as u8;
            count += usize::from(places[index] & HOP == 0);
        }
        while count > 0 {
            let mut left = 0;
            for turn in 0..count {
                let index = usize::from(waiting[turn]) % BATCH;
                let slot = K::take::<6>(&mut rests[index]);
                places[index] = self.step(places[index], slot);
                waiting[left] = waiting[turn];
                left += usize::from(places[index] & LEAF == 0);
            }
            count = left;
        }
        for (place, answer) in places.iter().zip(answers) {
            *answer = if place & HOP != 0 {
                place ^ HOP
            } else {
                u32::from(self.leaves[(place ^ LEAF) as usize])
            };
        }
    }
}

impl<K: Path + Key, const DIRECT: u32> Candidate<K> for Poptrie<DIRECT> {
    fn name(&self) -> &'static str {
        match DIRECT {
            18 => "Poptrie 18",
            _ => "Poptrie 16",
        }
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.direct) + bytes_of(&self.nodes) + bytes_of(&self.leaves)
    }

    #[inline(always)]
    fn one(&self, key: K) -> u32 {
        self.find(key)
    }

    fn is_staged(&self) -> bool {
        true
    }

    #[inline(always)]
    fn staged_batch(&self, keys: &[K], answers: &mut [u32]) {
        self.find_batch(keys, answers);
    }
}
