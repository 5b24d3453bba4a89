//! Brings the lookup structure of one FIB to what the store says, along one prefix.
//!
//! A node's slots hold the codes of prefixes that end within its six bits; what is
//! shorter is in `inherit` of the nodes that it covers, the shortest in a table of
//! their own. So a change reaches at most the nodes of one stride, and the groups
//! right below one node. Groups are made where two prefixes go on behind a slot, as
//! deep as all of them agree; a single one is left to the store.

use super::Value;
use super::bits::{Bits, Prefix};
use super::family::{Family, has_no_room};
use super::node::{GROUP, INDEX, Node, Nodes, Place, SLOTS, STORE, Skip, Slot, index, is_group};
use super::store::{Below, Link, Store};

/// Bits between a slot and the group below it are at most so many.
const MAX_SKIP: u8 = 64;

/// Carries one change into the lookup structure.
pub(super) struct Update<'u, 'a, B, V> {
    pub(super) family: &'u mut Family<'a, B, V>,
    pub(super) nodes: &'u mut Nodes<'a>,
    pub(super) fib: usize,
    /// Whether something found no room, or was left for later.
    pub(super) pressed: bool,
}

/// A group that a new one above it takes over.
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

/// The slots of a node at `start` that a prefix covers.
fn range<B: Bits>(start: u8, prefix: Prefix<B>) -> core::ops::Range<usize> {
    let first = index(prefix.bits.field(start, 6));
    let count = 1 << (start + 6).saturating_sub(prefix.length).min(6);
    first..first + count
}

/// The prefix behind `start` that the `count` bits of `number` choose.
fn extend<B: Bits>(start: Prefix<B>, number: usize, count: u8) -> Prefix<B> {
    let number = u64::try_from(number).unwrap_or(0);
    let window = number << (64 - u32::from(count));
    Prefix {
        bits: start.bits.with_window(start.length, window),
        length: start.length + count,
    }
}

/// Where a group for prefixes that agree in `common` bits begins.
fn group_depth(slot: u8, common: u8) -> u8 {
    slot + (common.saturating_sub(slot) & !7).min(MAX_SKIP)
}

impl<B: Bits, V: Value> Update<'_, '_, B, V> {
    fn trie(&self) -> Link {
        self.family.tries.get(self.fib).copied().unwrap_or(0)
    }

    fn code(&self, link: Link) -> u32 {
        let entry = self.family.store.at(link);
        entry.map_or(0, |(_, value)| value.code() & INDEX)
    }

    /// The code of the longest prefix that holds this one and is longer than `above`.
    fn longest(&self, prefix: Prefix<B>, above: Option<u8>) -> u32 {
        let store = &self.family.store;
        let Some(link) = store.longest(self.trie(), prefix) else {
            return 0;
        };
        match (store.at(link), above) {
            (Some((found, _)), Some(above)) if found.length <= above => 0,
            _ => self.code(link),
        }
    }

    /// Visits the entries below `link` that are at most `length` bits long.
    fn each(&self, link: Link, length: u8, mut see: impl FnMut(Prefix<B>, u32)) {
        let store = &self.family.store;
        store.visit(link, length, |entry, longer| {
            if !longer && let Some((prefix, value)) = store.at(entry) {
                see(prefix, value.code() & INDEX);
            }
        });
    }

    fn node(&mut self, place: Place) -> Node {
        super::steps::count();
        let node = match place {
            Place::Root(root) => self.family.roots.get(root).copied(),
            Place::Group(group, index) => self
                .nodes
                .group(group)
                .and_then(|group| group.0.get(index).copied()),
        };
        node.unwrap_or(Node {
            runs: 0,
            block: 0,
            inherit: 0,
        })
    }

    fn set_node(&mut self, place: Place, node: Node) {
        let old = match place {
            Place::Root(root) => self.family.roots.get_mut(root),
            Place::Group(group, index) => self
                .nodes
                .group(group)
                .and_then(|group| group.0.get_mut(index)),
        };
        if let Some(old) = old {
            *old = node;
        }
    }

    /// Writes a node's slots, or lets it ask the store.
    fn write(&mut self, place: Place, slots: &[Slot; SLOTS]) {
        let mut node = self.node(place);
        if !self.nodes.compress(&mut node, slots) {
            self.nodes.give_up(&mut node, slots);
            self.pressed = true;
        }
        self.set_node(place, node);
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
        let inherited = self.longest(prefix, None);
        let trie = self.trie();
        let family = &mut *self.family;
        let places = family.shorts.get_mut(self.fib << family.short..);
        let places = places.unwrap_or_default();
        paint(
            &family.store,
            trie,
            (prefix, inherited),
            family.short,
            |at, code| {
                if let Some(place) = places.get_mut(at) {
                    *place = code;
                }
            },
        );
    }

    fn paint_roots(&mut self, prefix: Prefix<B>) {
        let inherited = self.longest(prefix, Some(self.family.short));
        let trie = self.trie();
        let family = &mut *self.family;
        let places = family.roots.get_mut(self.fib << family.stride..);
        let places = places.unwrap_or_default();
        paint(
            &family.store,
            trie,
            (prefix, inherited),
            family.stride,
            |at, code| {
                if let Some(node) = places.get_mut(at) {
                    node.inherit = code;
                }
            },
        );
    }

    /// A change of a prefix that is longer than the roots' stride.
    fn descend(&mut self, prefix: Prefix<B>) {
        let mut start = prefix.truncate(self.family.stride);
        let root = index(start.bits.field(0, self.family.stride));
        let mut place = Place::Root((self.fib << self.family.stride) + root);
        // Each turn is at least eight bits deeper.
        while start.length < B::WIDTH {
            if has_no_room(self.node(place)) {
                self.build(place, start, &mut None);
                if has_no_room(self.node(place)) {
                    return;
                }
            }
            if prefix.length <= start.length + 6 {
                self.paint_node(place, start, prefix);
                return;
            }
            let slot = self.slot_on_way(place, start, prefix);
            let end = prefix.truncate(start.length + 6);
            let Some(depth) = self.depth_of(slot, end, prefix) else {
                return;
            };
            if prefix.length <= depth + 2 {
                let behind = self.behind(start.length, end);
                self.set_inherits(slot, &behind);
                return;
            }
            place = Place::Group(slot & INDEX, index(prefix.bits.field(depth, 2)));
            start = prefix.truncate(depth + 2);
        }
    }

    /// Where the group of a slot begins; `None` when it is none, or the prefix
    /// leaves its way before it.
    fn depth_of(&self, slot: Slot, end: Prefix<B>, prefix: Prefix<B>) -> Option<u8> {
        if !is_group(slot) {
            return None;
        }
        let skip = self.nodes.skip(slot & INDEX)?;
        let differ = prefix.bits.window(end.length) ^ skip.bits;
        (differ.leading_zeros() >= u32::from(skip.length)).then_some(end.length + skip.length)
    }

    fn behind(&self, start: u8, slot: Prefix<B>) -> Behind<B> {
        Behind {
            slot,
            painted: self.longest(slot, Some(start)),
            deep: self.family.store.inside(self.trie(), slot),
        }
    }

    /// Brings the slot that the prefix goes through to its right form.
    fn slot_on_way(&mut self, place: Place, start: Prefix<B>, prefix: Prefix<B>) -> Slot {
        let node = self.node(place);
        if self.nodes.pages.sparse(node.block) {
            let slots = self.nodes.expand(node);
            self.write(place, &slots);
        }
        let number = prefix.bits.field(start.length, 6);
        let words = &*self.nodes.pages.words;
        let old = words.get(node.word(number)).copied().unwrap_or(0);
        let end = prefix.truncate(start.length + 6);
        let deep = self.family.store.inside(self.trie(), end);
        if is_group(old)
            && let Some(Below::Fork(common)) = self.family.store.below(deep)
            && self.group_depth_of(old, end.length) == group_depth(end.length, common)
        {
            return old;
        }
        let behind = Behind {
            slot: end,
            painted: self.longest(end, Some(start.length)),
            deep,
        };
        let new = self.form(&behind, old, true);
        if new != old {
            let node = self.node(place);
            let mut slots = self.nodes.expand(node);
            if let Some(slot) = slots.get_mut(index(number)) {
                *slot = new;
            }
            self.write(place, &slots);
            if has_no_room(self.node(place)) {
                return 0;
            }
        }
        new
    }

    fn group_depth_of(&self, slot: Slot, end: u8) -> u8 {
        let skip = self.nodes.skip(slot & INDEX);
        end + skip.map_or(0, |skip| skip.length)
    }

    /// A change of a prefix that ends in this node's slots.
    fn paint_node(&mut self, place: Place, start: Prefix<B>, prefix: Prefix<B>) {
        let node = self.node(place);
        let mut slots = self.nodes.expand(node);
        let mut painted = [0; SLOTS];
        let link = self.family.store.subtree(self.trie(), start);
        self.each(link, start.length + 6, |found, code| {
            if found.length > start.length
                && let Some(covered) = painted.get_mut(range(start.length, found))
            {
                covered.fill(code);
            }
        });
        let numbered = slots.iter_mut().zip(painted).enumerate();
        let covered = range(start.length, prefix);
        for (number, (slot, painted)) in numbered.skip(covered.start).take(covered.len()) {
            if *slot < GROUP {
                *slot = painted;
                continue;
            }
            let end = extend(start, number, 6);
            let behind = Behind {
                slot: end,
                painted,
                deep: self.family.store.inside(self.trie(), end),
            };
            *slot = self.form(&behind, *slot, true);
        }
        self.write(place, &slots);
    }

    /// Makes all slots of a node anew. Subtrees of several prefixes are left to the
    /// store, but the one that `kept` is the group of.
    fn build(&mut self, place: Place, start: Prefix<B>, kept: &mut Option<Kept<B>>) {
        let mut slots = [0; SLOTS];
        let mut links = [0; SLOTS];
        let store = &self.family.store;
        let link = store.subtree(self.trie(), start);
        store.visit(link, start.length + 6, |link, longer| {
            if longer {
                let sample = store.sample(link).map_or(start.bits, |sample| sample.bits);
                if let Some(place) = links.get_mut(index(sample.field(start.length, 6))) {
                    *place = link;
                }
            } else if let Some((found, value)) = store.at(link)
                && found.length > start.length
                && let Some(covered) = slots.get_mut(range(start.length, found))
            {
                covered.fill(value.code() & INDEX);
            }
        });
        for (number, (slot, deep)) in slots.iter_mut().zip(links).enumerate() {
            if deep == 0 {
                continue;
            }
            let end = extend(start, number, 6);
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
        self.write(place, &slots);
    }

    /// What a slot is to hold that held `old`. Makes a group only if it may grow.
    fn form(&mut self, behind: &Behind<B>, old: Slot, grow: bool) -> Slot {
        let end = behind.slot.length;
        let store = &self.family.store;
        let common = match store.below(behind.deep) {
            None => {
                self.nodes.drop(old);
                return behind.painted;
            }
            Some(Below::Entry(_)) if behind.painted == 0 => {
                self.nodes.drop(old);
                return Nodes::store(behind.deep);
            }
            Some(Below::Entry(prefix)) => prefix.length.saturating_sub(1),
            Some(Below::Fork(common)) => common,
        };
        let depth = group_depth(end, common);
        let had = is_group(old).then(|| self.group_depth_of(old, end));
        if had == Some(depth) {
            self.set_inherits(old, behind);
            return old;
        }
        if had.is_some_and(|had| had < depth)
            && let Some(slot) = self.lift(old, behind, depth)
        {
            return slot;
        }
        if grow && let Some(slot) = self.new_group(behind, depth, old) {
            return slot;
        }
        self.nodes.drop(old);
        self.pressed = true;
        // The store's subtree alone does not know what is painted.
        match behind.painted {
            0 => Nodes::store(behind.deep),
            _ => STORE,
        }
    }

    /// A new group, deep enough for what is behind the slot. The old group, if it
    /// is deeper, comes to be below the new one.
    fn new_group(&mut self, behind: &Behind<B>, depth: u8, old: Slot) -> Option<Slot> {
        let end = behind.slot;
        let sample = self.family.store.sample(behind.deep)?.bits;
        let group = self.nodes.new_group()?;
        self.set_skip(group, end.length, depth, sample);
        let mut kept = self.keep(end, depth, old);
        let base = Prefix {
            bits: sample.truncate(depth),
            length: depth,
        };
        for number in 0..4 {
            let place = Place::Group(group, number);
            self.build(place, extend(base, number, 2), &mut kept);
        }
        if let Some(kept) = kept {
            self.nodes.drop(kept.slot);
        }
        let slot = self.nodes.slot_of(group);
        self.set_inherits(slot, behind);
        Some(slot)
    }

    /// The old group behind a slot as one to keep below a new one at `depth`.
    fn keep(&mut self, end: Prefix<B>, depth: u8, old: Slot) -> Option<Kept<B>> {
        if !is_group(old) {
            return None;
        }
        let skip = self.nodes.skip(old & INDEX)?;
        if end.length + skip.length <= depth {
            self.nodes.drop(old);
            return None;
        }
        let prefix = Prefix {
            bits: end.bits.with_window(end.length, skip.bits),
            length: end.length + skip.length,
        };
        // From the new group's slot on, which is eight bits behind its beginning.
        self.set_skip(old & INDEX, depth + 8, prefix.length, prefix.bits);
        let slot = self.nodes.slot_of(old & INDEX);
        Some(Kept { slot, prefix })
    }

    /// Says what a group at `depth` skips behind a slot that ends at `end`.
    fn set_skip(&mut self, group: u32, end: u8, depth: u8, bits: B) {
        let new = Skip {
            bits: bits.truncate(depth).window(end),
            length: depth.saturating_sub(end),
            other: 0,
        };
        if let Some(skip) = self.nodes.skip_mut(group) {
            *skip = new;
        }
    }

    /// Takes out the old group, of which one slot is left, and puts the group below
    /// that slot, which is to begin at `depth`, in its place.
    fn lift(&mut self, old: Slot, behind: &Behind<B>, depth: u8) -> Option<Slot> {
        let end = behind.slot.length;
        let from = self.group_depth_of(old, end);
        let sample = self.family.store.sample(behind.deep)?.bits;
        let place = Place::Group(old & INDEX, index(sample.field(from, 2)));
        let word = self.node(place).word(sample.field(from + 2, 6));
        let below = self.nodes.pages.words.get(word).copied()?;
        if !is_group(below) || self.group_depth_of(below, from + 8) != depth {
            return None;
        }
        self.nodes.free_shallow(old & INDEX);
        self.set_skip(below & INDEX, end, depth, sample);
        let slot = self.nodes.slot_of(below & INDEX);
        self.set_inherits(slot, behind);
        Some(slot)
    }

    /// Writes the codes of what is too short for a group's slots to its nodes.
    fn set_inherits(&mut self, slot: Slot, behind: &Behind<B>) {
        let depth = self.group_depth_of(slot, behind.slot.length);
        let mut codes = [behind.painted; 4];
        self.each(behind.deep, depth + 2, |found, code| {
            let first = index(found.bits.field(depth, 2));
            let count = 4usize >> found.length.saturating_sub(depth).min(2);
            if let Some(covered) = codes.get_mut(first..first + count) {
                covered.fill(code);
            }
        });
        if let Some(skip) = self.nodes.skip_mut(slot & INDEX) {
            skip.other = behind.painted;
        }
        if let Some(group) = self.nodes.group(slot & INDEX) {
            for (node, code) in group.0.iter_mut().zip(codes) {
                node.inherit = code;
            }
        }
    }
}

/// Calls `set` with each place, counted in `length` bits, that the prefix covers
/// and the code it is to have: that of `above`, or of an entry that is at most
/// `length` long. Later calls for one place override earlier ones.
fn paint<B: Bits, V: Value>(
    store: &Store<'_, B, V>,
    trie: Link,
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
    let link = store.subtree(trie, prefix);
    store.visit(link, length, |entry, longer| {
        if !longer && let Some((prefix, value)) = store.at(entry) {
            cover(prefix, value.code() & INDEX);
        }
    });
}
