//! Brings the lookup structure of one FIB to what the store says, along one prefix.
//!
//! A node's slots hold the codes of prefixes that end within its eight bits; what is
//! shorter is in `inherit` of the nodes that it covers, or in the root's slots, the
//! shortest in a table of their own. So a change reaches at most the slots of one
//! stride, and the nodes right below one. Nodes are made where two prefixes go on
//! behind a slot, as deep as all of them agree; a single one is left to the store,
//! but behind an IPv4 root.

use super::Value;
use super::bits::{Bits, Prefix};
use super::family::Family;
use super::node::{INDEX, NODE, Nodes, Open, SLOTS, STORE, Skip, Slot, index, is_node};
use super::store::{Below, Link, Store, Way};

/// Bits between a slot and the node below it are at most so many.
const MAX_SKIP: u8 = 64;
/// Root slots that one code of the shortest prefixes stands for are at most so many.
pub(super) const MAX_ROOTS: usize = 256;

/// Carries one change into the lookup structure.
pub(super) struct Update<'u, 'a, B, V> {
    pub(super) family: &'u mut Family<'a, B, V>,
    pub(super) nodes: &'u mut Nodes<'a>,
    pub(super) fib: usize,
    /// What the store knows of the way to the prefix that changed.
    pub(super) way: Way,
    /// Whether something found no room, or was left for later.
    pub(super) pressed: bool,
}

/// Where a slot is.
#[derive(Clone, Copy)]
enum Place {
    /// Among its family's roots.
    Root(usize),
    /// A slot of a node.
    Node(Slot, u8),
}

/// A slot on the way down, and the node that it is in: that one's place, and the
/// slot's number there.
#[derive(Clone, Copy)]
struct Spot {
    place: Place,
    node: Option<(Place, u8)>,
}

/// How far the way to the prefix that changed has been followed.
struct Reach<B> {
    /// The slot there.
    end: Prefix<B>,
    /// What is this short is in no slot of the node that it is in.
    above: u8,
    /// A subtree of all that is longer and shares the bits up to the slot.
    from: Link,
    /// The subtree of what shares the slot's.
    link: Link,
}

/// A node that a new one above it takes over.
struct Kept<B> {
    slot: Slot,
    prefix: Prefix<B>,
}

/// What a slot is to hold: the subtree `deep` of what goes on behind it, where
/// `painted` is the code of what ends in it or before.
struct Behind<B> {
    slot: Prefix<B>,
    painted: u32,
    deep: Link,
}

/// Where a node for prefixes that agree in `common` bits begins.
fn node_depth(slot: u8, common: u8) -> u8 {
    slot + (common.saturating_sub(slot) & !7).min(MAX_SKIP)
}

impl<B: Bits, V: Value> Update<'_, '_, B, V> {
    fn code(&self, link: Link) -> u32 {
        let entry = self.family.store.at(link);
        entry.map_or(0, |(_, value)| u32::from(value.code()))
    }

    /// The code of the longest prefix below `from` that holds this one and is longer
    /// than `above`.
    fn longest(&self, from: Link, prefix: Prefix<B>, above: u8) -> u32 {
        let store = &self.family.store;
        match store.longest(from, prefix) {
            Some(link) if store.at(link).is_some_and(|(p, _)| p.length > above) => self.code(link),
            _ => 0,
        }
    }

    /// As [`Update::longest`] of what chooses root slots of the prefix that changed, or
    /// of all of a shorter one; longer than `above`, or any.
    fn longest_in_root(&self, prefix: Prefix<B>, above: Option<u8>) -> u32 {
        let itself = self.family.store.longest(self.way.within, prefix);
        let longest = itself.map(|link| (link, prefix.length)).or(self.way.above);
        match longest {
            Some((link, length)) if above.is_none_or(|above| length > above) => self.code(link),
            _ => 0,
        }
    }

    /// Visits the entries below `link` that are at most `length` bits long.
    fn each(&self, link: Link, length: u8, mut see: impl FnMut(Prefix<B>, u32)) {
        let store = &self.family.store;
        store.visit(link, length, |entry, longer| {
            if !longer && let Some((prefix, value)) = store.at(entry) {
                see(prefix, u32::from(value.code()));
            }
        });
    }

    fn slot(&self, place: Place) -> Slot {
        super::steps::count();
        match place {
            Place::Root(root) => self.family.roots.get(root).copied().unwrap_or(0),
            Place::Node(node, slot) => self.nodes.word(node, slot),
        }
    }

    /// Writes a slot. In a node it must be the only one of its run, as those that
    /// lead to nodes are.
    fn set_slot(&mut self, place: Place, slot: Slot) {
        super::steps::count();
        match place {
            Place::Root(root) => {
                if let Some(old) = self.family.roots.get_mut(root) {
                    *old = slot;
                }
            }
            Place::Node(node, number) => self.nodes.set(node, number, slot),
        }
    }

    /// Writes a node's new slots to where `old` is, whose slot is at `place`, or
    /// lets that slot ask the store. Returns whether there was room.
    fn close(&mut self, place: Place, old: Slot, open: &Open) -> bool {
        match self.nodes.close(old, open) {
            Some(new) => {
                if new != old {
                    self.set_slot(place, new);
                }
                true
            }
            None => {
                self.nodes.drop_all(open);
                self.nodes.free(old);
                self.set_slot(place, STORE);
                self.pressed = true;
                false
            }
        }
    }

    /// Brings in what changed at `prefix`.
    pub(super) fn run(&mut self, prefix: Prefix<B>) {
        if prefix.length <= self.family.short {
            self.paint_shorts(prefix);
        } else if prefix.length <= self.family.stride {
            self.paint_roots(prefix);
        } else {
            self.descend(prefix);
        }
    }

    fn paint_shorts(&mut self, prefix: Prefix<B>) {
        let above = (prefix, self.longest_in_root(prefix, None));
        let family = &mut *self.family;
        let places = family.shorts.get_mut(self.fib << family.short..);
        let places = places.unwrap_or_default();
        let set = |at, code| {
            if let Some(place) = places.get_mut(at) {
                *place = code;
            }
        };
        paint(&family.store, self.way.within, above, family.short, set);
    }

    fn paint_roots(&mut self, prefix: Prefix<B>) {
        let stride = self.family.stride;
        let inherited = self.longest_in_root(prefix, Some(self.family.short));
        let above = (prefix, inherited);
        let mut codes = [0; MAX_ROOTS];
        let first = index(prefix.bits.field(0, stride));
        let set = |at: usize, code| {
            if let Some(place) = at.checked_sub(first).and_then(|at| codes.get_mut(at)) {
                *place = code;
            }
        };
        let store = &self.family.store;
        paint(store, self.way.within, above, stride, set);
        let count = 1 << (stride - prefix.length);
        for (number, painted) in (first..).zip(codes).take(count) {
            let place = Place::Root((self.fib << stride) + number);
            let old = self.slot(place);
            let new = if old < NODE {
                painted
            } else if old & !INDEX == NODE {
                self.nodes.set_inherit(old, painted);
                old
            } else {
                let bits = u32::try_from(number).unwrap_or(0);
                let end = Prefix {
                    bits: B::from_wide(u128::from(bits) << (128 - u32::from(stride))),
                    length: stride,
                };
                let deep = self.family.store.inside(self.way.within, end);
                let behind = Behind {
                    slot: end,
                    painted,
                    deep,
                };
                self.cover(&behind, old)
            };
            self.set_slot(place, new);
        }
    }

    /// A change of a prefix that is longer than the roots' stride.
    fn descend(&mut self, prefix: Prefix<B>) {
        let end = prefix.truncate(self.family.stride);
        let root = index(end.bits.field(0, end.length));
        let mut spot = Spot {
            place: Place::Root((self.fib << end.length) + root),
            node: None,
        };
        let mut reach = Reach {
            end,
            above: self.family.short,
            from: self.way.within,
            link: self.way.within,
        };
        // Each turn is at least eight bits deeper.
        while reach.end.length < B::WIDTH {
            let Some(slot) = self.slot_on_way(&mut spot, &reach) else {
                return;
            };
            let Some(depth) = self.depth_of(slot, reach.end, prefix) else {
                return;
            };
            if prefix.length <= depth {
                let behind = self.behind(&reach);
                self.set_inherits(slot, &behind);
                return;
            }
            if prefix.length <= depth + 8 {
                self.paint_node((spot.place, slot), depth, reach.link, prefix);
                return;
            }
            let [_, _, _, number] = prefix.bits.field(depth, 8).to_be_bytes();
            spot = Spot {
                node: Some((spot.place, number)),
                place: Place::Node(slot, number),
            };
            let end = prefix.truncate(depth + 8);
            reach = Reach {
                end,
                above: depth,
                from: reach.link,
                link: self.family.store.along(&self.way, reach.link, end),
            };
        }
    }

    /// Where the node of a slot begins; `None` when it is none, or the prefix
    /// leaves its way before it.
    fn depth_of(&self, slot: Slot, end: Prefix<B>, prefix: Prefix<B>) -> Option<u8> {
        if !is_node(slot) {
            return None;
        }
        let skip = self.nodes.skip(slot);
        let differ = prefix.bits.window(end.length) ^ skip.bits;
        (differ.leading_zeros() >= u32::from(skip.length)).then_some(end.length + skip.length)
    }

    fn behind(&self, reach: &Reach<B>) -> Behind<B> {
        let end = reach.end;
        let painted = if end.length == self.family.stride {
            self.longest_in_root(end, Some(reach.above))
        } else {
            self.longest(reach.from, end, reach.above)
        };
        Behind {
            slot: end,
            painted,
            deep: self.family.store.longer(reach.link, end.length),
        }
    }

    /// Brings the slot that the prefix goes through to its right form; `None` when
    /// the node that it is in had to be given up.
    fn slot_on_way(&mut self, spot: &mut Spot, reach: &Reach<B>) -> Option<Slot> {
        let old = self.slot(spot.place);
        let end = reach.end.length;
        let deep = self.family.store.longer(reach.link, end);
        if is_node(old)
            && let Some(Below::Fork(common)) = self.family.store.below(deep)
            && self.node_depth_of(old, end) == node_depth(end, common)
        {
            return Some(self.settle(spot.place, old));
        }
        let behind = self.behind(reach);
        let new = self.form(&behind, old, true);
        if new == old {
            return Some(self.settle(spot.place, old));
        }
        if is_node(old) || matches!(spot.place, Place::Root(_)) {
            self.set_slot(spot.place, new);
        }
        if let (false, Some((place, number))) = (is_node(old) && is_node(new), spot.node) {
            let node = self.slot(place);
            let mut open = self.nodes.open(node);
            if let Some(slot) = open.slots.get_mut(usize::from(number)) {
                *slot = new;
            }
            if !self.close(place, node, &open) {
                return None;
            }
            spot.place = Place::Node(self.slot(place), number);
        }
        Some(new)
    }

    /// Moves a slot's node, if that helps to empty its page.
    fn settle(&mut self, place: Place, old: Slot) -> Slot {
        if !is_node(old) || !self.nodes.sparse(old) {
            return old;
        }
        let open = self.nodes.open(old);
        self.close(place, old, &open);
        self.slot(place)
    }

    fn node_depth_of(&self, slot: Slot, end: u8) -> u8 {
        end + self.nodes.skip(slot).length
    }

    /// A change of a prefix that ends in a node's slots, and is in the subtree at `from`.
    fn paint_node(&mut self, at: (Place, Slot), depth: u8, from: Link, prefix: Prefix<B>) {
        let (place, node) = at;
        let start = prefix.truncate(depth);
        let covered = prefix.slots(start.length);
        let above = self.longest(from, prefix, start.length);
        // Nothing longer ends in a slot that is a prefix's only one.
        let single = covered.len() == 1;
        if single && self.nodes.repaint(node, covered.start, &[above]) {
            return;
        }
        let mut painted = [0; SLOTS];
        let codes = painted.get_mut(covered.clone()).unwrap_or_default();
        codes.fill(above);
        let link = self.family.store.along(&self.way, from, prefix);
        self.each(link, start.length + 8, |found, code| {
            if let Some(covered) = painted.get_mut(found.slots(start.length)) {
                covered.fill(code);
            }
        });
        let painted = painted.get(covered.clone()).unwrap_or_default();
        if !single && self.nodes.repaint(node, covered.start, painted) {
            return;
        }
        let mut open = self.nodes.open(node);
        let slots = open.slots.get_mut(covered.clone()).unwrap_or_default();
        for (number, (slot, painted)) in covered.zip(slots.iter_mut().zip(painted)) {
            if *slot < NODE {
                *slot = *painted;
                continue;
            }
            let end = start.extend(number);
            let behind = Behind {
                slot: end,
                painted: *painted,
                deep: self.family.store.inside(link, end),
            };
            *slot = self.cover(&behind, *slot);
        }
        self.close(place, node, &open);
    }

    /// All slots of a node made anew of the subtree at `from`. Subtrees of several
    /// prefixes are left to the store, but the one that `kept` is the node of.
    fn build(&mut self, from: Link, start: Prefix<B>, kept: &mut Option<Kept<B>>) -> Open {
        let mut open = Open::empty();
        // What is longer than its slot, whose number is beside it.
        let mut longer_ones = heapless::Vec::<(Link, u8), SLOTS>::new();
        let store = &self.family.store;
        let link = store.subtree(from, start);
        store.visit(link, start.length + 8, |link, longer| {
            if longer {
                let sample = store.sample(link).map_or(start.bits, |sample| sample.bits);
                let [.., number] = sample.field(start.length, 8).to_be_bytes();
                let _ = longer_ones.push((link, number));
            } else if let Some((found, value)) = store.at(link)
                && found.length > start.length
                && let Some(covered) = open.slots.get_mut(found.slots(start.length))
            {
                covered.fill(u32::from(value.code()));
            }
        });
        for (deep, number) in &longer_ones {
            let (deep, number) = (*deep, usize::from(*number));
            let Some(slot) = open.slots.get_mut(number) else {
                continue;
            };
            let end = start.extend(number);
            let old = kept.take_if(|kept| end.covers(kept.prefix));
            let behind = Behind {
                slot: end,
                painted: *slot,
                deep,
            };
            let single = matches!(self.family.store.below(deep), Some(Below::Entry(_)));
            let grow = single || old.is_some();
            *slot = self.form(&behind, old.map_or(0, |old| old.slot), grow);
        }
        open
    }

    /// What a slot is to hold that held `old`, when only what is painted has changed.
    /// A node for several prefixes found no room before: many slots at once do not try
    /// again, but each when the update passes by what is behind it.
    fn cover(&mut self, behind: &Behind<B>, old: Slot) -> Slot {
        let single = || matches!(self.family.store.below(behind.deep), Some(Below::Entry(_)));
        let grow = is_node(old) || single();
        self.form(behind, old, grow)
    }

    /// What a slot is to hold that held `old`. Makes a node only if it may grow.
    fn form(&mut self, behind: &Behind<B>, old: Slot, grow: bool) -> Slot {
        let end = behind.slot.length;
        let store = &self.family.store;
        // In the root of IPv4, so that those alone are found as fast as others.
        let alone = B::WIDTH != 32 || end != self.family.stride;
        let common = match store.below(behind.deep) {
            None => {
                // What was there last was a single prefix, whose node leads to no others.
                if is_node(old) {
                    self.nodes.free(old);
                }
                return behind.painted;
            }
            Some(Below::Entry(_)) if alone && behind.painted == 0 => {
                self.nodes.drop(old);
                return Nodes::store(behind.deep);
            }
            Some(Below::Entry(prefix)) => prefix.length.saturating_sub(1),
            Some(Below::Fork(common)) => common,
        };
        let depth = node_depth(end, common);
        let had = is_node(old).then(|| self.node_depth_of(old, end));
        if had == Some(depth) {
            self.set_inherits(old, behind);
            return old;
        }
        if had.is_some_and(|had| had < depth)
            && let Some(slot) = self.lift(old, behind, depth)
        {
            return slot;
        }
        if !grow {
            self.nodes.drop(old);
        } else if let Some(slot) = self.new_node(behind, depth, old) {
            return slot;
        }
        self.pressed = true;
        // The store's subtree alone does not know what is painted.
        match behind.painted {
            0 => Nodes::store(behind.deep),
            _ => STORE,
        }
    }

    /// A new node, deep enough for what is behind the slot. The old one, if it is
    /// deeper, comes to be below the new one; else, and when there is no room, it is
    /// cut off.
    fn new_node(&mut self, behind: &Behind<B>, depth: u8, old: Slot) -> Option<Slot> {
        let end = behind.slot;
        let mut kept = self.keep(end, depth, old);
        let Some(sample) = self.family.store.sample(behind.deep) else {
            self.nodes.drop(kept?.slot);
            return None;
        };
        let start = Prefix {
            bits: sample.bits.truncate(depth),
            length: depth,
        };
        let mut open = self.build(behind.deep, start, &mut kept);
        if let Some(kept) = kept {
            self.nodes.drop(kept.slot);
        }
        open.skip = skip(end.length, depth, sample.bits, behind.painted);
        open.inherit = self.inherited(behind, depth);
        let mut slot = self.nodes.close(0, &open);
        if slot.is_none() && self.nodes.take_apart() {
            slot = self.nodes.close(0, &open);
        }
        if slot.is_none() {
            self.nodes.drop_all(&open);
        }
        slot
    }

    /// The old node behind a slot as one to keep below a new one at `depth`.
    fn keep(&mut self, end: Prefix<B>, depth: u8, old: Slot) -> Option<Kept<B>> {
        if !is_node(old) {
            return None;
        }
        let mut open = self.nodes.open(old);
        if end.length + open.skip.length <= depth {
            self.nodes.drop(old);
            return None;
        }
        let prefix = Prefix {
            bits: end.bits.with_window(end.length, open.skip.bits),
            length: end.length + open.skip.length,
        };
        // From the new node's slot on, which is eight bits behind its beginning.
        open.skip = skip(depth + 8, prefix.length, prefix.bits, 0);
        // It needs no more room than it has.
        let slot = self.nodes.close(old, &open)?;
        Some(Kept { slot, prefix })
    }

    /// Takes out the old node, of which one slot is left, and puts the node below
    /// that slot, which is to begin at `depth`, in its place.
    fn lift(&mut self, old: Slot, behind: &Behind<B>, depth: u8) -> Option<Slot> {
        let end = behind.slot.length;
        let from = self.node_depth_of(old, end);
        let sample = self.family.store.sample(behind.deep)?.bits;
        let [_, _, _, number] = sample.field(from, 8).to_be_bytes();
        let below = self.nodes.word(old, number);
        if !is_node(below) || self.node_depth_of(below, from + 8) != depth {
            return None;
        }
        let mut open = self.nodes.open(below);
        open.skip = skip(end, depth, sample, behind.painted);
        open.inherit = self.inherited(behind, depth);
        let slot = self.nodes.close(below, &open)?;
        self.nodes.free(old);
        Some(slot)
    }

    /// The code of what is too short for the slots of a node at `depth`.
    fn inherited(&self, behind: &Behind<B>, depth: u8) -> u32 {
        let mut inherited = behind.painted;
        self.each(behind.deep, depth, |_, code| inherited = code);
        inherited
    }

    /// Writes the codes of what is too short for a node's slots.
    fn set_inherits(&mut self, node: Slot, behind: &Behind<B>) {
        let depth = self.node_depth_of(node, behind.slot.length);
        let inherited = self.inherited(behind, depth);
        self.nodes.set_inherit(node, inherited);
        self.nodes.set_other(node, behind.painted);
    }
}

/// What a node at `depth` skips behind a slot that ends at `end`.
fn skip<B: Bits>(end: u8, depth: u8, bits: B, other: u32) -> Skip {
    Skip {
        bits: bits.truncate(depth).window(end),
        length: depth.saturating_sub(end),
        other,
    }
}

/// Calls `set` with each place, counted in `length` bits, that the prefix covers
/// and the code it is to have: that of `above`, or of an entry below `link` that is at
/// most `length` long. Later calls for one place override earlier ones.
fn paint<B: Bits, V: Value>(
    store: &Store<'_, B, V>,
    link: Link,
    above: (Prefix<B>, u32),
    length: u8,
    mut set: impl FnMut(usize, u32),
) {
    let mut cover = |prefix: Prefix<B>, code: u32| {
        let first = match length {
            0 => 0,
            _ => index(prefix.bits.field(0, length)),
        };
        for place in first..first + (1 << (length - prefix.length.min(length))) {
            super::steps::count();
            set(place, code);
        }
    };
    let (prefix, inherited) = above;
    cover(prefix, inherited);
    store.visit(link, length, |entry, longer| {
        if !longer && let Some((prefix, value)) = store.at(entry) {
            cover(prefix, u32::from(value.code()));
        }
    });
}
