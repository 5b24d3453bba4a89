//! One address family: its store, the roots of its lookup structures, and lookup.

use super::Value;
use super::bits::{Bits, Prefix};
use super::node::{CODES, INDEX, NODE, Nodes, SKIP, STORE, Slot, is_node};
use super::store::{Link, Store};

/// Addresses that are looked up at a time.
const BATCH: usize = 64;
/// Root slots that 16 bits choose.
const WIDE: usize = 1 << 16;

/// What all FIBs of a family need, borrowed.
pub(super) struct Family<'a, B, V> {
    pub(super) store: Store<'a, B, V>,
    /// For each FIB: the root of its trie in the store.
    pub(super) tries: &'a mut [Link],
    /// For each FIB: 2^`stride` slots, chosen by the first bits.
    pub(super) roots: &'a mut [Slot],
    /// For each FIB: 2^`short` codes of the shortest prefixes.
    pub(super) shorts: &'a mut [u32],
    /// Bits that choose a root slot: 0 or 16.
    pub(super) stride: u8,
    /// Prefixes up to this length are in `shorts`.
    pub(super) short: u8,
}

/// Where a lookup stands: the best code so far, what the slot holds, and the byte
/// of the address that it goes on with.
#[derive(Clone, Copy)]
struct Walk {
    best: u32,
    found: Slot,
    at: usize,
}

/// Whether a slot holds a code.
#[inline]
fn is_code(slot: Slot) -> bool {
    slot.wrapping_sub(1) < CODES - 1
}

impl<B: Bits, V: Value> Family<'_, B, V> {
    /// What the root has for an address.
    #[inline]
    fn root(&self, fib: usize, address: B) -> Slot {
        // Those that 16 bits choose, so that the compiler knows their number.
        let (tables, _) = self.roots.as_chunks::<WIDE>();
        let slot = match tables.get(fib) {
            Some(table) => table.get(usize::from(address.sixteen())),
            None => {
                let first = usize::try_from(address.head(B::HEAD - self.stride)).unwrap_or(0);
                self.roots.get((fib << self.stride) + first)
            }
        };
        slot.copied().unwrap_or(0)
    }

    /// The code of the longest prefix of a FIB that holds the address, or 0.
    #[inline(always)]
    pub(super) fn find(&self, nodes: &Nodes<'_>, fib: usize, address: B) -> u32 {
        let (tables, _) = self.roots.as_chunks::<WIDE>();
        let Some(table) = tables.get(fib) else {
            return self.find_narrow(nodes, fib, address);
        };
        let slot = table.get(usize::from(address.sixteen()));
        self.find_below(nodes, fib, (slot.copied().unwrap_or(0), address))
    }

    /// From a root slot that 16 bits chose.
    #[inline]
    fn find_below(&self, nodes: &Nodes<'_>, fib: usize, (slot, address): (Slot, B)) -> u32 {
        if slot < NODE && slot != 0 {
            return slot;
        }
        // The first node is mostly the only one.
        if (NODE..SKIP).contains(&slot) {
            let found = nodes.word(slot, address.third());
            if is_code(found) {
                return found;
            }
            return self.behind_first(nodes, fib, (slot, found), address);
        }
        self.behind_root(nodes, fib, slot, address)
    }

    /// In tables that have one root slot each.
    #[inline(never)]
    fn find_narrow(&self, nodes: &Nodes<'_>, fib: usize, address: B) -> u32 {
        self.behind_root(nodes, fib, self.root(fib, address), address)
    }

    #[inline(never)]
    fn behind_root(&self, nodes: &Nodes<'_>, fib: usize, found: Slot, address: B) -> u32 {
        let walk = Walk {
            best: 0,
            found,
            at: usize::from(self.stride / 8),
        };
        self.go_on(nodes, fib, walk, address)
    }

    #[inline(never)]
    fn behind_first(
        &self,
        nodes: &Nodes<'_>,
        fib: usize,
        (node, found): (Slot, Slot),
        address: B,
    ) -> u32 {
        let walk = Walk {
            best: nodes.inherit(node),
            found,
            at: usize::from(self.stride / 8) + 1,
        };
        self.go_on(nodes, fib, walk, address)
    }

    /// From a slot on that holds no code: at most one node for each further byte.
    #[inline]
    fn go_on(&self, nodes: &Nodes<'_>, fib: usize, mut walk: Walk, address: B) -> u32 {
        let bytes = address.bytes();
        while is_node(walk.found) {
            walk = step(nodes, walk, &bytes);
        }
        self.end(fib, walk, address)
    }

    /// The answer of a walk that has come to its end.
    #[inline]
    fn end(&self, fib: usize, walk: Walk, address: B) -> u32 {
        match walk.found {
            0 if walk.best == 0 => self.in_short(fib, address),
            0 => walk.best,
            STORE.. => self.in_store(fib, walk, address),
            found => found,
        }
    }

    #[inline]
    fn in_short(&self, fib: usize, address: B) -> u32 {
        let first = match self.short {
            0 => 0,
            short => usize::try_from(address.head(B::HEAD - short)).unwrap_or(0),
        };
        let code = self.shorts.get((fib << self.short) + first);
        code.copied().unwrap_or(0)
    }

    /// What the store knows below a slot, or everywhere, or else the best so far.
    #[inline(never)]
    fn in_store(&self, fib: usize, walk: Walk, address: B) -> u32 {
        let link = match walk.found & INDEX {
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
        match (entry, walk.best) {
            (Some(value), _) => value.code() & INDEX,
            (None, 0) => self.in_short(fib, address),
            (None, best) => best,
        }
    }

    /// Looks up as many addresses as both slices have. All take each step together,
    /// so that the processor waits for all of their memory at once.
    pub(super) fn find_all(
        &self,
        nodes: &Nodes<'_>,
        fib: usize,
        addresses: &[B],
        codes: &mut [u32],
    ) {
        let batches = addresses.chunks(BATCH).zip(codes.chunks_mut(BATCH));
        for (addresses, codes) in batches {
            for (address, code) in addresses.iter().zip(&mut *codes) {
                *code = self.root(fib, *address);
            }
            let mut touched = 0;
            for slot in &*codes {
                touched ^= nodes.touch(*slot);
            }
            core::hint::black_box(touched);
            for (address, code) in addresses.iter().zip(codes) {
                *code = if self.stride == 16 {
                    self.find_below(nodes, fib, (*code, *address))
                } else {
                    self.find_narrow(nodes, fib, *address)
                };
            }
        }
    }
}

/// Through one node. A walk that leaves what the node skips is at its end.
#[inline]
fn step(nodes: &Nodes<'_>, walk: Walk, bytes: &[u8; 24]) -> Walk {
    let Walk {
        best,
        found,
        mut at,
    } = walk;
    if found & SKIP != 0 {
        let skip = nodes.skip(found);
        let window = bytes.get(at..).and_then(|rest| rest.first_chunk());
        let differ = u64::from_be_bytes(*window.unwrap_or(&[0; 8])) ^ skip.bits;
        if differ.leading_zeros() < u32::from(skip.length) {
            return Walk {
                best,
                found: skip.other,
                at,
            };
        }
        at += usize::from(skip.length / 8);
    }
    // Nodes that resolve no bits of an address are never made.
    let byte = bytes.get(at).copied().unwrap_or(0);
    let inherit = nodes.inherit(found);
    Walk {
        best: if inherit == 0 { best } else { inherit },
        found: nodes.word(found, byte),
        at: at + 1,
    }
}
