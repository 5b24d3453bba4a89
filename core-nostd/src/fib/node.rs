//! Nodes of the lookup structure: 64 slots, compressed to the runs of equal results.

use zerocopy::{FromZeros, Immutable};

use super::pages::Pages;
use super::steps;
use super::store::Link;

/// Slots of a node.
pub(super) const SLOTS: usize = 64;

/// What a lookup finds in a slot: 0 (nothing here: the best so far holds), a
/// value's code, or, by its upper two bits, where to go on.
pub(super) type Slot = u32;

/// Codes are smaller than this.
pub(super) const CODES: u32 = 1 << 30;
/// Goes on in the group of nodes with this index.
pub(super) const GROUP: Slot = 1 << 30;
/// The same, if the address has the bits that [`Skip`] names.
pub(super) const SKIP: Slot = 2 << 30;
/// Goes on in the store, below this link; 0 is from its root.
pub(super) const STORE: Slot = 3 << 30;
/// The store's link or the group's index.
pub(super) const INDEX: u32 = CODES - 1;

/// The block that holds a single 0, of nodes that have no results.
pub(super) const NOTHING: u32 = 0;
/// The block that holds a single [`STORE`], of nodes whose results found no room.
pub(super) const NO_ROOM: u32 = 1;

/// A node.
#[derive(Clone, Copy, FromZeros, Immutable)]
#[repr(C)]
pub(super) struct Node {
    /// Bit i: slot i differs from slot i − 1. Bit 0 is never set.
    pub(super) runs: u64,
    /// The block with one word for each run.
    pub(super) block: u32,
    /// The code of prefixes too short to be in this node's slots, or 0.
    pub(super) inherit: u32,
}

/// The nodes that follow one slot: the next two bits choose one of four, the six
/// behind them the slot. Just a cache line.
#[derive(Clone, Copy, FromZeros, Immutable)]
#[repr(C, align(64))]
pub(super) struct Group(pub(super) [Node; 4]);

/// What a group's addresses have in common beyond the slot that leads to it.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct Skip {
    /// The bits behind the slot's, left-aligned; those that do not count are zero.
    pub(super) bits: u64,
    /// How many of them count: 8, 16, … 64.
    pub(super) length: u8,
    /// The code for addresses that do not have these bits, or 0. Of groups that are
    /// free or to be taken apart: the next such group plus one.
    pub(super) other: u32,
}

/// Where a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Among its family's roots.
    Root(usize),
    /// In a group.
    Group(u32, usize),
}

/// The groups' bookkeeping.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct State {
    free: u32,
    /// Groups cut off, whose own groups have not been freed yet.
    dropped: u32,
    touched: u32,
    in_use: u32,
}

/// Groups and blocks, which all FIBs share.
pub(super) struct Nodes<'a> {
    pub(super) groups: &'a mut [Group],
    pub(super) skips: &'a mut [Skip],
    pub(super) state: &'a mut State,
    pub(super) pages: Pages<'a>,
}

pub(super) fn is_group(slot: Slot) -> bool {
    matches!(slot & !INDEX, GROUP | SKIP)
}

impl Node {
    /// Where the word of a slot is.
    #[inline]
    pub(super) fn word(&self, slot: u32) -> usize {
        // Without bit 0 the runs that begin at or before the slot are its run's number.
        let runs = self.runs << (!slot & 63);
        index(self.block.wrapping_add(runs.count_ones()))
    }
}

/// A 32-bit index; on narrower machines the arrays are smaller than any it cannot hold.
#[inline]
pub(super) fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Nodes<'_> {
    /// The result in a node's slot.
    #[inline]
    pub(super) fn word(&self, node: &Node, slot: u32) -> Slot {
        steps::count();
        let words = &*self.pages.words;
        words.get(node.word(slot)).copied().unwrap_or(0)
    }

    /// The node of a slot's group that a byte's upper two bits choose.
    #[inline]
    pub(super) fn below(&self, slot: Slot, byte: u32) -> Option<&Node> {
        steps::count();
        let group = self.groups.get(index(slot & INDEX))?;
        group.0.get(index(byte >> 6))
    }

    /// Groups in use, those that wait to be taken apart among them.
    pub(super) fn groups_in_use(&self) -> u32 {
        self.state.in_use
    }

    pub(super) fn group(&mut self, group: u32) -> Option<&mut Group> {
        steps::count();
        self.groups.get_mut(index(group))
    }

    pub(super) fn skip(&self, group: u32) -> Option<Skip> {
        steps::count();
        self.skips.get(index(group)).copied()
    }

    pub(super) fn skip_mut(&mut self, group: u32) -> Option<&mut Skip> {
        steps::count();
        self.skips.get_mut(index(group))
    }

    /// All slots of a node.
    pub(super) fn expand(&self, node: Node) -> [Slot; SLOTS] {
        let count = index(node.runs.count_ones()) + 1;
        let words = self.pages.words(node.block, count);
        let mut runs = words.iter();
        let mut slots = [0; SLOTS];
        let mut word = runs.next().copied().unwrap_or(0);
        let mut begins = node.runs;
        for slot in &mut slots {
            if begins & 1 != 0 {
                word = runs.next().copied().unwrap_or(0);
            }
            *slot = word;
            begins >>= 1;
        }
        slots
    }

    /// Writes all slots of a node; false when there is no room: it then has what
    /// it had before.
    pub(super) fn compress(&mut self, node: &mut Node, slots: &[Slot; SLOTS]) -> bool {
        let mut words = [0; SLOTS];
        let mut runs = 0u64;
        let mut count = 0;
        let mut last = None;
        for (slot, word) in slots.iter().enumerate() {
            if last != Some(*word) {
                last = Some(*word);
                runs |= 1 << slot;
                if let Some(place) = words.get_mut(count) {
                    *place = *word;
                }
                count += 1;
            }
        }
        runs &= !1;
        if runs == 0 && last == Some(0) {
            self.pages.free(node.block);
            (node.runs, node.block) = (0, NOTHING);
            return true;
        }
        let size = self.pages.size(node.block);
        if size < count || size > count * 2 || self.pages.sparse(node.block) {
            match self.pages.allocate(count, STORE) {
                Some(block) => {
                    self.pages.free(node.block);
                    node.block = block;
                }
                None if size < count => return false,
                // Larger than need be, or in a bad place: good enough.
                None => {}
            }
        }
        let words = words.get(..count).unwrap_or_default();
        let block = self.pages.words_mut(node.block, count);
        for (place, word) in block.iter_mut().zip(words) {
            *place = *word;
        }
        node.runs = runs;
        true
    }

    /// Makes a node that cannot have these slots one that asks the store; what the
    /// slots lead to is cut off.
    pub(super) fn give_up(&mut self, node: &mut Node, slots: &[Slot; SLOTS]) {
        for slot in slots {
            self.drop(*slot);
        }
        self.pages.free(node.block);
        (node.runs, node.block) = (0, NO_ROOM);
        // Even if there never was a page to put this block into.
        self.pages.share(STORE);
    }

    /// Cuts off what a node's slots lead to and frees its block.
    fn cut(&mut self, node: Node) {
        let mut words = [0; SLOTS];
        let count = index(node.runs.count_ones()) + 1;
        let held = self.pages.words(node.block, count);
        for (copy, word) in words.iter_mut().zip(held) {
            *copy = *word;
        }
        for word in words.into_iter().filter(|word| is_group(*word)) {
            self.drop(word);
        }
        self.pages.free(node.block);
    }

    /// Cuts off a slot's group, if it leads to one; it is taken apart later.
    pub(super) fn drop(&mut self, slot: Slot) {
        if !is_group(slot) {
            return;
        }
        let next = self.state.dropped;
        if let Some(skip) = self.skip_mut(slot & INDEX) {
            skip.other = next;
            self.state.dropped = (slot & INDEX) + 1;
        }
    }

    /// Takes apart one group of those cut off; false when there is none.
    pub(super) fn take_apart(&mut self) -> bool {
        let Some(group) = self.state.dropped.checked_sub(1) else {
            return false;
        };
        self.state.dropped = self.skip(group).map_or(0, |skip| skip.other);
        let nodes = self.group(group).map(|group| group.0);
        for node in nodes.into_iter().flatten() {
            self.cut(node);
        }
        self.free_group(group);
        true
    }

    /// A group of empty nodes.
    pub(super) fn new_group(&mut self) -> Option<u32> {
        if self.state.free == 0 {
            self.take_apart();
        }
        let group = match self.state.free.checked_sub(1) {
            Some(group) => {
                self.state.free = self.skip(group)?.other;
                group
            }
            None => {
                let group = self.state.touched;
                self.group(group)?;
                self.state.touched += 1;
                group
            }
        };
        *self.group(group)? = Group::new_zeroed();
        *self.skip_mut(group)? = Skip::new_zeroed();
        self.state.in_use += 1;
        Some(group)
    }

    /// Gives back a group whose nodes have no blocks.
    pub(super) fn free_group(&mut self, group: u32) {
        let next = self.state.free;
        if let Some(skip) = self.skip_mut(group) {
            skip.other = next;
            self.state.free = group + 1;
            self.state.in_use -= 1;
        }
    }

    /// Gives back a group and its blocks, but not the groups below.
    pub(super) fn free_shallow(&mut self, group: u32) {
        let nodes = self.group(group).map(|group| group.0);
        for node in nodes.into_iter().flatten() {
            self.pages.free(node.block);
        }
        self.free_group(group);
    }

    /// The slot value that leads to a group.
    pub(super) fn slot_of(&self, group: u32) -> Slot {
        match self.skip(group) {
            Some(skip) if skip.length != 0 => SKIP | group,
            _ => GROUP | group,
        }
    }

    /// A link as a slot's value.
    pub(super) fn store(link: Link) -> Slot {
        STORE | link
    }
}

#[cfg(test)]
impl Nodes<'_> {
    /// Checks that an empty FIB has given everything back.
    pub(super) fn check_empty(&mut self) {
        while self.take_apart() {}
        assert_eq!(self.state.in_use, 0, "groups");
        // The page with the shared block stays.
        assert!(self.pages.in_use() <= 1, "{} pages", self.pages.in_use());
    }
}
