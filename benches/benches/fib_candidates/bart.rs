//! Tree bitmap (Eatherton, Varghese, Dittia, "Tree Bitmap: Hardware/Software IP Lookups
//! with Incremental Updates", CCR 2004) with strides of eight bits as BART has it
//! (github.com/gaissmai/bart), prefixes indexed as in Knuth's allotment routing table.
//!
//! A node has the prefixes that end in its stride as a complete binary tree of 255 bits,
//! and a bit for each child; both arrays are packed and indexed by the bits before, of
//! which a node keeps the count of each 64. A child is a node, a prefix that ends where
//! the child begins and is alone there ("fringe"), or the only prefix below ("leaf").

use crate::candidate::{Candidate, bytes_of};
use crate::ranges::{Path, narrow};
use crate::routes::{Key, Route};

#[derive(Clone, Copy, Default)]
struct Set {
    bits: [u64; 4],
    /// Bits before each word.
    before: [u8; 4],
    /// Where the packed elements begin.
    first: u32,
}

impl Set {
    fn of(members: impl Iterator<Item = usize>, first: usize) -> Set {
        let first = narrow(first);
        let mut set = Set {
            first,
            ..Set::default()
        };
        members.for_each(|member| set.bits[member >> 6] |= 1 << (member & 63));
        for word in 1..4 {
            set.before[word] = set.before[word - 1] + set.bits[word - 1].count_ones() as u8;
        }
        set
    }

    #[inline(always)]
    fn has(&self, member: usize) -> bool {
        self.bits[member >> 6 & 3] >> (member & 63) & 1 != 0
    }

    /// The place of a member's element.
    #[inline(always)]
    fn place(&self, member: usize) -> usize {
        let word = member >> 6 & 3;
        let below = self.bits[word] & ((1 << (member & 63)) - 1);
        (self.first + u32::from(self.before[word]) + below.count_ones()) as usize
    }
}

#[derive(Clone, Copy, Default)]
struct Node {
    /// A prefix of n bits of the stride is 2^n and these bits.
    prefixes: Set,
    children: Set,
}

struct Leaf<K> {
    bits: K,
    length: u8,
    hop: u16,
}

/// Kinds of children, above a node's or leaf's index or a next hop.
const FRINGE: u32 = 1 << 30;
const LEAF: u32 = 2 << 30;
const KINDS: u32 = 3 << 30;

pub struct Bart<K> {
    nodes: Vec<Node>,
    hops: Vec<u16>,
    children: Vec<u32>,
    leaves: Vec<Leaf<K>>,
    /// By a stride's value: the prefixes that hold it.
    above: Box<[[u64; 4]; 256]>,
}

impl<K: Path> Bart<K> {
    pub fn new(routes: &[Route<K>]) -> Self {
        let mut sorted = routes.to_vec();
        sorted.sort_unstable();
        let above = std::array::from_fn(|value| {
            let ends = (1..=8).map(|bits| (256 + value) >> bits);
            Set::of(ends, 0).bits
        });
        let mut table = Bart {
            nodes: vec![Node::default()],
            hops: Vec::new(),
            children: Vec::new(),
            leaves: Vec::new(),
            above: Box::new(above),
        };
        table.fill(0, &sorted, 0);
        table
    }

    /// Fills a node with sorted routes that are at least `depth` bits long.
    fn fill(&mut self, at: usize, routes: &[Route<K>], depth: u8) {
        let below = |length: u8| length >= depth + 8;
        let mut own: Vec<(usize, u32)> = routes
            .iter()
            .filter(|(_, length, _)| !below(*length))
            .map(|(bits, length, hop)| {
                let stride = 256 | bits.field(depth, 8) as usize;
                (stride >> (depth + 8 - length), *hop)
            })
            .collect();
        own.sort_unstable();
        let prefixes = Set::of(own.iter().map(|(member, _)| *member), self.hops.len());
        let hops = own.iter().map(|(_, hop)| *hop as u16);
        self.hops.extend(hops);

        let deeper: Vec<Route<K>> = routes.iter().filter(|r| below(r.1)).copied().collect();
        let stride = |route: &Route<K>| route.0.field(depth, 8) as usize;
        let groups = || deeper.chunk_by(|a, b| stride(a) == stride(b));
        let first = self.children.len();
        let children = Set::of(groups().map(|group| stride(&group[0])), first);
        self.children.resize(first + groups().count(), 0);
        self.nodes[at] = Node { prefixes, children };
        for (number, group) in groups().enumerate() {
            self.children[first + number] = self.child(group, depth + 8);
        }
    }

    fn child(&mut self, routes: &[Route<K>], depth: u8) -> u32 {
        match routes {
            [(_, length, hop)] if *length == depth => FRINGE | hop,
            [(bits, length, hop)] => {
                self.leaves.push(Leaf {
                    bits: *bits,
                    length: *length,
                    hop: *hop as u16,
                });
                LEAF | narrow(self.leaves.len() - 1)
            }
            several => {
                let node = self.nodes.len();
                self.nodes.push(Node::default());
                self.fill(node, several, depth);
                narrow(node)
            }
        }
    }

    /// The longest prefix of a node that holds this value of its stride.
    #[inline(always)]
    fn longest(&self, node: &Node, value: usize) -> u32 {
        let (above, bits) = (&self.above[value & 0xff], &node.prefixes.bits);
        for word in (0..4).rev() {
            let held = above[word] & bits[word];
            if held != 0 {
                let member = word << 6 | held.ilog2() as usize;
                return u32::from(self.hops[node.prefixes.place(member)]);
            }
        }
        0
    }

    #[inline(always)]
    fn find(&self, key: K) -> u32 {
        let mut rest = key.rest();
        // The deepest node on the way with a prefix that holds the key.
        let mut best = (&self.nodes[0], 0);
        let mut node = best.0;
        loop {
            let value = K::take::<8>(&mut rest);
            let (above, bits) = (&self.above[value & 0xff], &node.prefixes.bits);
            if (0..4).any(|word| above[word] & bits[word] != 0) {
                best = (node, value);
            }
            if !node.children.has(value) {
                return self.longest(best.0, best.1);
            }
            let child = self.children[node.children.place(value)];
            let rest = child & !KINDS;
            match child & KINDS {
                FRINGE => return rest,
                LEAF => {
                    let leaf = &self.leaves[rest as usize];
                    if key.common(leaf.bits) >= leaf.length {
                        return u32::from(leaf.hop);
                    }
                    return self.longest(best.0, best.1);
                }
                _ => node = &self.nodes[rest as usize],
            }
        }
    }
}

impl<K: Path + Key> Candidate<K> for Bart<K> {
    fn name(&self) -> &'static str {
        "BART"
    }

    fn bytes(&self) -> usize {
        let nodes = bytes_of(&self.nodes) + bytes_of(&self.children) + bytes_of(&self.leaves);
        nodes + bytes_of(&self.hops) + bytes_of(&self.above[..])
    }

    #[inline(always)]
    fn one(&self, key: K) -> u32 {
        self.find(key)
    }
}
