//! One address family: its store, the roots of its lookup structures, and lookup.

use super::Value;
use super::bits::{Bits, Prefix};
use super::node::{CODES, INDEX, NO_ROOM, Node, Nodes, SKIP, STORE, Slot, index};
use super::store::{Link, Store};

/// What all FIBs of a family need, borrowed.
pub(super) struct Family<'a, B, V> {
    pub(super) store: Store<'a, B, V>,
    /// For each FIB: the root of its trie in the store.
    pub(super) tries: &'a mut [Link],
    /// For each FIB: 2^`stride` nodes, chosen by the first bits.
    pub(super) roots: &'a mut [Node],
    /// For each FIB: 2^`short` codes of the shortest prefixes.
    pub(super) shorts: &'a mut [u32],
    /// Bits that choose a root node.
    pub(super) stride: u8,
    /// Prefixes up to this length are in `shorts`; longer ones, up to `stride`, in
    /// the roots' `inherit`.
    pub(super) short: u8,
}

/// Looks up in one FIB of one family.
pub(super) struct Lookup<'a, B, V> {
    pub(super) store: &'a Store<'a, B, V>,
    pub(super) trie: Link,
    pub(super) roots: &'a [Node],
    pub(super) shorts: &'a [u32],
    pub(super) stride: u8,
    pub(super) short: u8,
    pub(super) nodes: &'a Nodes<'a>,
}

impl<'a, B: Bits, V: Value> Family<'a, B, V> {
    /// The lookup view of one FIB.
    #[inline]
    pub(super) fn lookup(&'a self, fib: usize, nodes: &'a Nodes<'a>) -> Lookup<'a, B, V> {
        let (root, short) = (fib << self.stride, fib << self.short);
        Lookup {
            store: &self.store,
            trie: self.tries.get(fib).copied().unwrap_or(0),
            roots: self.roots.get(root..).unwrap_or_default(),
            shorts: self.shorts.get(short..).unwrap_or_default(),
            stride: self.stride,
            short: self.short,
            nodes,
        }
    }
}

impl<B: Bits, V: Value> Lookup<'_, B, V> {
    /// The code of the longest prefix that holds the address, or 0.
    #[inline]
    pub(super) fn find(&self, address: B) -> u32 {
        let root = index(address.field(0, self.stride));
        let Some(node) = self.roots.get(root) else {
            return 0;
        };
        let found = self.word(node, address.field(self.stride, 6));
        if found.wrapping_sub(1) < CODES - 1 {
            return found;
        }
        self.go_on(node.inherit, found, address)
    }

    #[inline]
    fn word(&self, node: &Node, slot: u32) -> Slot {
        super::steps::count();
        let words = &*self.nodes.pages.words;
        words.get(node.word(slot)).copied().unwrap_or(0)
    }

    /// From a root's slot on: at most one group for each eight further bits.
    fn go_on(&self, mut best: u32, mut found: Slot, address: B) -> u32 {
        let mut depth = self.stride + 6;
        while found >= CODES && depth < B::WIDTH {
            if found >= STORE {
                return self.in_store(best, found, address);
            }
            let group = found & INDEX;
            if found & SKIP != 0 {
                let Some(skip) = self.nodes.skip(group) else {
                    break;
                };
                let differ = address.window(depth) ^ skip.bits;
                if differ.leading_zeros() < u32::from(skip.length) {
                    found = skip.other;
                    break;
                }
                depth += skip.length;
            }
            let byte = address.byte(depth);
            let Some(group) = self.nodes.groups.get(index(group)) else {
                break;
            };
            let Some(node) = group.0.get(usize::from(byte >> 6)) else {
                break;
            };
            if node.inherit != 0 {
                best = node.inherit;
            }
            found = self.word(node, u32::from(byte & 63));
            depth += 8;
        }
        if found >= STORE {
            return self.in_store(best, found, address);
        }
        match (found, best) {
            (0, 0) => self.in_short(address),
            (0, best) => best,
            (found, _) => found,
        }
    }

    #[inline]
    fn in_short(&self, address: B) -> u32 {
        let index = index(address.field(0, self.short.max(1)) >> u32::from(self.short == 0));
        self.shorts.get(index).copied().unwrap_or(0)
    }

    /// Where the lookup structure found no room, or it is not worth it.
    fn in_store(&self, best: u32, found: Slot, address: B) -> u32 {
        let link = match found & INDEX {
            0 => self.trie,
            link => link,
        };
        let entry = self.store.longest(link, Prefix::host(address));
        match entry.and_then(|entry| self.store.at(entry)) {
            Some((_, value)) => value.code() & INDEX,
            None if best != 0 => best,
            None => self.in_short(address),
        }
    }
}

/// Whether a node asks the store.
pub(super) fn has_no_room(node: Node) -> bool {
    node.block == NO_ROOM
}
