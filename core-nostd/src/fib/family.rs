//! One address family: its store, the roots of its lookup structures, and lookup.

use super::Value;
use super::bits::{Bits, Prefix};
use super::node::{CODES, GROUP, INDEX, NO_ROOM, Node, Nodes, SKIP, STORE, Slot, index, is_group};
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

impl<B: Bits, V: Value> Family<'_, B, V> {
    /// The code of the longest prefix of a FIB that holds the address, or 0.
    #[inline(always)]
    pub(super) fn find(&self, nodes: &Nodes<'_>, fib: usize, address: B) -> u32 {
        let root = (fib << self.stride) + index(address.first(self.stride));
        let Some(node) = self.roots.get(root) else {
            return 0;
        };
        let found = nodes.word(node, address.six(self.stride));
        if found.wrapping_sub(1) < CODES - 1 {
            return found;
        }
        self.resume(nodes, fib, (node.inherit, found), address)
    }

    /// From what a root's slot holds, if that is no code.
    #[inline]
    fn resume(
        &self,
        nodes: &Nodes<'_>,
        fib: usize,
        (mut best, mut found): (u32, Slot),
        address: B,
    ) -> u32 {
        let mut at = self.stride + 6;
        // The first group, which is mostly the only one, without the loop's preparation.
        if found & !INDEX == GROUP
            && let Some(node) = nodes.below(found, address.eight(at))
        {
            found = nodes.word(node, address.eight(at) & 63);
            if found.wrapping_sub(1) < CODES - 1 {
                return found;
            }
            if node.inherit != 0 {
                best = node.inherit;
            }
            at += 8;
        }
        if found == 0 && best != 0 {
            return best;
        }
        if found >= STORE {
            return self.in_store(fib, (best, found), address);
        }
        self.go_on(nodes, fib, (best, found, at), address)
    }

    /// From a group on: at most one more for each eight further bits.
    #[inline(never)]
    fn go_on(&self, nodes: &Nodes<'_>, fib: usize, so_far: (u32, Slot, u8), address: B) -> u32 {
        let (mut best, mut found, at) = so_far;
        let mut at = usize::from(at / 8);
        let bytes = address.bytes();
        while is_group(found) {
            if found & SKIP != 0 {
                let Some(skip) = nodes.skip(found & INDEX) else {
                    break;
                };
                let window = bytes.get(at..).and_then(|rest| rest.first_chunk());
                let differ = u64::from_be_bytes(*window.unwrap_or(&[0; 8])) ^ skip.bits;
                if differ.leading_zeros() < u32::from(skip.length) {
                    found = skip.other;
                    break;
                }
                at += usize::from(skip.length / 8);
            }
            // Groups that resolve no bits of an address are never made.
            let Some(byte) = bytes.get(at) else { break };
            let byte = u32::from(*byte);
            let Some(node) = nodes.below(found, byte) else {
                break;
            };
            if node.inherit != 0 {
                best = node.inherit;
            }
            found = nodes.word(node, byte & 63);
            at += 1;
        }
        if found >= STORE {
            return self.in_store(fib, (best, found), address);
        }
        match (found, best) {
            (0, 0) => self.in_short(fib, address),
            (0, best) => best,
            (found, _) => found,
        }
    }

    #[inline]
    fn in_short(&self, fib: usize, address: B) -> u32 {
        let first = match self.short {
            0 => 0,
            short => index(address.first(short)),
        };
        let code = self.shorts.get((fib << self.short) + first);
        code.copied().unwrap_or(0)
    }

    /// What the store knows below a slot, or everywhere, or else the best so far.
    #[inline(never)]
    fn in_store(&self, fib: usize, (best, found): (u32, Slot), address: B) -> u32 {
        let link = match found & INDEX {
            0 => self.tries.get(fib).copied().unwrap_or(0),
            link => link,
        };
        let host = Prefix::host(address);
        // Mostly one prefix that is alone behind its slot.
        let entry = match self.store.at(link) {
            Some((prefix, value)) => prefix.covers(host).then_some(value),
            None => {
                let longest = self.store.longest(link, host);
                let entry = longest.and_then(|longest| self.store.at(longest));
                entry.map(|(_, value)| value)
            }
        };
        match (entry, best) {
            (Some(value), _) => value.code() & INDEX,
            (None, 0) => self.in_short(fib, address),
            (None, best) => best,
        }
    }
}

/// Whether a node asks the store.
pub(super) fn has_no_room(node: Node) -> bool {
    node.block == NO_ROOM
}
