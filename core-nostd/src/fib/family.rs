//! One address family: its store, the roots of its lookup structures, and lookup.

use super::Value;
use super::batch::{BATCH, Places, bits};
use super::bits::{Bits, Prefix};
use super::node::{CODES, INDEX, NODE, Nodes, SKIP, STORE, Slot, is_node};
use super::store::{Link, Store};

/// IPv6 tables that have fewer prefixes are mostly in caches: their batches' walks
/// are done one by one, which takes fewer instructions; and so are shortcuts, which
/// are so short that the processor has several under way by itself.
const APART: u32 = if cfg!(test) { 20 } else { 1 << 16 };
/// Walks in step cost more than they save for fewer lookups than these.
const FEW: usize = 4;
/// Root slots that 16 bits choose.
pub(super) const WIDE: usize = 1 << 16;

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

/// Where lookups in one FIB of a family start.
#[derive(Clone, Copy)]
pub struct Root<'r> {
    fib: usize,
    /// Of those that 16 bits choose.
    slots: Option<&'r [Slot; WIDE]>,
    /// What flat nodes are in.
    pairs: &'r [[u8; 2]],
}

/// Where a lookup stands.
#[derive(Clone, Copy, Default)]
struct Walk {
    /// The best code so far.
    best: u32,
    /// What the slot holds.
    found: Slot,
    /// The byte of the address to go on with, and the bits from there on to the
    /// border of 64.
    at: u8,
    rest: u64,
}

/// Lookups that one node was not enough for, until there are a batch of them: then they
/// wait for memory together.
struct Later<B> {
    addresses: [B; BATCH],
    /// Where their codes belong.
    places: [usize; BATCH],
    count: usize,
}

impl<B: Bits> Later<B> {
    fn new() -> Self {
        Later {
            addresses: [B::from_wide(0); BATCH],
            places: [0; BATCH],
            count: 0,
        }
    }

    fn push(&mut self, place: usize, address: B) {
        let count = self.count;
        let free = (self.places.get_mut(count), self.addresses.get_mut(count));
        if let (Some(of_place), Some(of_address)) = free {
            (*of_place, *of_address) = (place, address);
            self.count += 1;
        }
    }

    fn is_full(&self) -> bool {
        self.count == BATCH
    }
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
                let table = fib.checked_mul(1 << self.stride);
                table.and_then(|table| self.roots.get(table.saturating_add(first)))
            }
        };
        slot.copied().unwrap_or(0)
    }

    /// The code of the longest prefix of a FIB that holds the address, or 0.
    #[inline(always)]
    pub(super) fn find(&self, nodes: &Nodes<'_>, fib: usize, address: B) -> u32 {
        if B::WIDTH > 32 && nodes.shortcuts.any() {
            let code = nodes.shortcuts.find(nodes.pages.bytes, fib, address.wide());
            if code != 0 {
                return code;
            }
        }
        let Some(table) = self.start(nodes, fib).slots else {
            return self.find_by_steps(nodes, fib, address);
        };
        let slot = table.get(usize::from(address.sixteen()));
        self.find_below(nodes, fib, (slot.copied().unwrap_or(0), address))
    }

    /// Where lookups in a FIB start.
    #[inline(always)]
    pub(super) fn start<'r>(&'r self, nodes: &'r Nodes<'_>, fib: usize) -> Root<'r> {
        let (tables, _) = self.roots.as_chunks::<WIDE>();
        let (pairs, _) = nodes.pages.bytes.as_chunks();
        Root {
            fib,
            slots: tables.get(fib),
            pairs,
        }
    }

    /// As [`Family::find`] in the FIB that starts there, for the packet path, which is
    /// short of registers: flat nodes, where many routes are, cost no call, others do.
    #[inline(always)]
    pub(super) fn find_from(&self, nodes: &Nodes<'_>, root: Root<'_>, address: B) -> u32 {
        let fib = root.fib;
        let Some(table) = root.slots else {
            return self.find_by_steps(nodes, fib, address);
        };
        let slot = table.get(usize::from(address.sixteen()));
        let slot = slot.copied().unwrap_or(0);
        let found = Nodes::flat(root.pairs, slot, address.third());
        if found != 0 {
            return found;
        }
        self.call_below(nodes, fib, (slot, address))
    }

    /// As [`Family::find_behind`], as a call.
    #[inline(never)]
    fn call_below(&self, nodes: &Nodes<'_>, fib: usize, at: (Slot, B)) -> u32 {
        self.find_behind(nodes, fib, at)
    }

    /// From a root slot that 16 bits chose.
    #[inline(always)]
    fn find_below(&self, nodes: &Nodes<'_>, fib: usize, (slot, address): (Slot, B)) -> u32 {
        if B::WIDTH == 32 {
            let (pairs, _) = nodes.pages.bytes.as_chunks();
            let code = Nodes::flat(pairs, slot, address.third());
            if code != 0 {
                return code;
            }
        }
        self.find_behind(nodes, fib, (slot, address))
    }

    /// The same, when the node is not flat or does not know.
    #[inline(always)]
    fn find_behind(&self, nodes: &Nodes<'_>, fib: usize, (slot, address): (Slot, B)) -> u32 {
        if is_code(slot) {
            return slot;
        }
        // The first node is mostly the only one.
        if Nodes::is_narrow(slot) {
            let code = nodes.code(slot, address.third());
            if code != 0 {
                return code;
            }
        }
        self.behind_root(nodes, fib, slot, address)
    }

    /// Through as many nodes as it takes, from any root.
    #[inline(never)]
    fn find_by_steps(&self, nodes: &Nodes<'_>, fib: usize, address: B) -> u32 {
        self.behind_root(nodes, fib, self.root(fib, address), address)
    }

    #[inline(never)]
    fn behind_root(&self, nodes: &Nodes<'_>, fib: usize, found: Slot, address: B) -> u32 {
        self.go_on(nodes, fib, self.begin(found, address), address)
    }

    /// A walk from a root slot.
    #[inline]
    fn begin(&self, found: Slot, address: B) -> Walk {
        Walk {
            best: 0,
            found,
            at: self.stride / 8,
            rest: address.window(0) << self.stride,
        }
    }

    /// From a slot on that holds no code: at most one node for each further byte.
    #[inline(always)]
    fn go_on(&self, nodes: &Nodes<'_>, fib: usize, mut walk: Walk, address: B) -> u32 {
        while is_node(walk.found) {
            if !walk.step(nodes) {
                walk = low(nodes, walk, address);
            }
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
        let table = fib.checked_mul(1 << self.short);
        let code = table.and_then(|table| self.shorts.get(table.saturating_add(first)));
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
            (Some(value), _) => u32::from(value.code()),
            (None, 0) => self.in_short(fib, address),
            (None, best) => best,
        }
    }

    /// Looks up as many addresses as both slices have. Those of a batch take each
    /// step together where that is faster, so that the processor waits for all of their
    /// memory at once.
    pub(super) fn find_all(
        &self,
        nodes: &Nodes<'_>,
        fib: usize,
        addresses: &[B],
        codes: &mut [u32],
    ) {
        let count = addresses.len().min(codes.len());
        let addresses = addresses.get(..count).unwrap_or_default();
        let codes = codes.get_mut(..count).unwrap_or_default();
        if let (Some(table), Some(of_v4)) = (self.start(nodes, fib).slots, B::all_v4(addresses)) {
            self.find_all_v4(nodes, (fib, table), of_v4, codes);
            return;
        }
        let batches = addresses.chunks(BATCH).zip(codes.chunks_mut(BATCH));
        for (addresses, codes) in batches {
            if B::WIDTH > 32 && (nodes.shortcuts.any() || self.store.len() < APART) {
                for (address, code) in addresses.iter().zip(codes) {
                    *code = self.find(nodes, fib, *address);
                }
            } else {
                self.walk_from_root(nodes, fib, addresses, codes);
            }
        }
    }

    fn find_all_v4(
        &self,
        nodes: &Nodes<'_>,
        (fib, table): (usize, &[Slot; WIDE]),
        addresses: &[u32],
        codes: &mut [u32],
    ) {
        let bytes = &*nodes.pages.bytes;
        let mut places = Places::new();
        let mut later = Later::new();
        for (addresses, first) in addresses.chunks(BATCH).zip((0..).step_by(BATCH)) {
            let here = codes.get_mut(first..).unwrap_or_default();
            let left = match (addresses.first_chunk(), here.first_chunk_mut()) {
                (Some(addresses), Some(codes)) => places.find(bytes, table, addresses, codes),
                _ => places.find_some(bytes, table, addresses, here),
            };
            for number in bits(left) {
                let Some(address) = addresses.get(number) else {
                    break;
                };
                let address = B::from_wide(u128::from(*address) << 96);
                if self.root(fib, address) != 0 {
                    later.push(first + number, address);
                } else if let Some(code) = codes.get_mut(first + number) {
                    *code = self.in_short(fib, address);
                }
                if later.is_full() {
                    self.find_later(nodes, fib, &mut later, codes);
                }
            }
        }
        self.find_later(nodes, fib, &mut later, codes);
    }

    /// Looks up what has been put off.
    #[inline(never)]
    fn find_later(&self, nodes: &Nodes<'_>, fib: usize, later: &mut Later<B>, codes: &mut [u32]) {
        let count = core::mem::take(&mut later.count);
        let mut found = [0; BATCH];
        let of_each = (later.addresses.get(..count), found.get_mut(..count));
        let (Some(addresses), Some(found)) = of_each else {
            return;
        };
        if count < FEW {
            for (address, code) in addresses.iter().zip(&mut *found) {
                *code = self.find_by_steps(nodes, fib, *address);
            }
        } else {
            self.walk_from_root(nodes, fib, addresses, found);
        }
        for (place, found) in later.places.iter().zip(found) {
            if let Some(code) = codes.get_mut(*place) {
                *code = *found;
            }
        }
    }

    /// From the root to codes, a step for all at a time.
    fn walk_from_root(&self, nodes: &Nodes<'_>, fib: usize, addresses: &[B], codes: &mut [u32]) {
        for (address, code) in addresses.iter().zip(&mut *codes) {
            *code = self.root(fib, *address);
        }
        let mut touched = 0;
        for slot in &*codes {
            touched ^= nodes.touch(Nodes::unit(*slot, 0));
        }
        core::hint::black_box(touched);
        self.walk_all(nodes, fib, addresses, codes);
    }

    /// From root slots, which are in `codes`, to codes, a node at a time.
    fn walk_all(&self, nodes: &Nodes<'_>, fib: usize, addresses: &[B], codes: &mut [u32]) {
        let mut walks = [Walk::default(); BATCH];
        // The numbers of those that are not at their end, the first `count` of them.
        let mut active = [0u8; BATCH];
        let mut count = 0;
        let begun = walks
            .iter_mut()
            .zip((0..).zip(addresses.iter().zip(&*codes)));
        for (walk, (number, (address, slot))) in begun {
            *walk = self.begin(*slot, *address);
            if !is_code(*slot)
                && let Some(place) = active.get_mut(count)
            {
                *place = number;
                count += 1;
            }
        }
        let mut touched = 0;
        while count > 0 {
            let mut left = 0;
            for at in 0..count {
                let number = active.get(at).copied().unwrap_or(0);
                let Some(walk) = walks.get_mut(usize::from(number)) else {
                    break;
                };
                let Some(address) = addresses.get(usize::from(number)) else {
                    break;
                };
                if is_node(walk.found) {
                    if !walk.step(nodes) {
                        *walk = low(nodes, *walk, *address);
                    }
                    if walk.found >= NODE {
                        touched ^= if walk.found >= STORE {
                            self.store.touch(walk.found & INDEX)
                        } else {
                            nodes.touch(Nodes::unit(walk.found, 0))
                        };
                        if let Some(place) = active.get_mut(left) {
                            *place = number;
                            left += 1;
                        }
                        continue;
                    }
                }
                if let Some(code) = codes.get_mut(usize::from(number)) {
                    *code = self.end(fib, *walk, *address);
                }
            }
            count = left;
        }
        core::hint::black_box(touched);
    }
}

impl Walk {
    /// Through one node, if its bits end before the border; false when not. A walk
    /// that leaves what the node skips is at its end.
    #[inline(always)]
    fn step(&mut self, nodes: &Nodes<'_>) -> bool {
        let node = self.found;
        if node & SKIP != 0 {
            let skip = nodes.skip(node);
            if self.at + skip.length / 8 >= 8 {
                return false;
            }
            if (self.rest ^ skip.bits) >> ((64 - skip.length) & 63) != 0 {
                self.found = skip.other;
                return true;
            }
            self.at += skip.length / 8;
            self.rest <<= skip.length & 63;
        } else if self.at >= 8 {
            return false;
        }
        let [byte, ..] = self.rest.to_be_bytes();
        self.rest <<= 8;
        self.at += 1;
        self.through(nodes, node, byte);
        true
    }

    #[inline]
    fn through(&mut self, nodes: &Nodes<'_>, node: Slot, byte: u8) {
        let (inherit, found) = nodes.visit(node, byte);
        if inherit != 0 {
            self.best = inherit;
        }
        self.found = found;
    }
}

/// Through one node whose bits may be on both sides of the border of 64.
#[inline(never)]
fn low<B: Bits>(nodes: &Nodes<'_>, mut walk: Walk, address: B) -> Walk {
    let node = walk.found;
    let skip = nodes.skip(node);
    let differ = address.window(walk.at * 8) ^ skip.bits;
    if differ.leading_zeros() < u32::from(skip.length) {
        walk.found = skip.other;
        return walk;
    }
    walk.at += skip.length / 8;
    let [byte, ..] = address.window(walk.at * 8).to_be_bytes();
    walk.at += 1;
    walk.through(nodes, node, byte);
    walk
}
