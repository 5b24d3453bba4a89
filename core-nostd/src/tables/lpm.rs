//! Longest-prefix match: a path-compressed binary trie in a fixed arena.
//!
//! Many tries share one arena; each is known by the index of its root, which
//! the caller keeps (0: empty). Capacity is promised in entries for any set and
//! any order of updates: a trie of n entries has at most n − 1 further nodes
//! where paths part, so an arena of 2 × capacity nodes always suffices, and a
//! freed node is as good as a new one (no fragmentation).
//!
//! Work is bounded by the key's length: a walk visits at most 33 nodes for IPv4
//! and 129 for IPv6. All-zero memory is the empty arena.

use zerocopy::{FromZeros, Immutable};

use crate::addr::{Family, Key, mask};

/// Index of a node plus one; 0 is none.
type Link = u32;

/// A node: an entry with a value, or a fork where the paths of two entries part.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct Node<V> {
    bits: u128,
    children: [Link; 2],
    family: Family,
    length: u8,
    has_value: bool,
    value: V,
}

/// The arena's bookkeeping.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct Arena {
    /// Head of the list of freed nodes, linked by their first child.
    free: Link,
    /// Nodes that were ever in use; those behind are untouched zeroes.
    touched: u32,
    entries: u32,
}

/// Roots of one network's tries.
#[derive(Clone, Copy, FromZeros, Immutable, Debug)]
pub(crate) struct Roots {
    v4: Link,
    v6: Link,
}

impl Roots {
    pub(crate) fn of(&self, key: Key) -> Link {
        match key.family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    pub(crate) fn of_mut(&mut self, key: Key) -> &mut Link {
        match key.family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Whether there is any entry.
    pub(crate) fn any(&self) -> bool {
        self.v4 != 0 || self.v6 != 0
    }

    /// The entry that follows `after` in this order: IPv4 before IPv6, then by
    /// address, a prefix before the longer ones that it holds.
    pub(crate) fn next<V: Copy>(&self, lpm: &Lpm<'_, V>, after: Option<Key>) -> Option<(Key, V)> {
        match after {
            Some(key) if key.family == Family::V6 => lpm.next(self.v6, Some(key)),
            after => lpm.next(self.v4, after).or_else(|| lpm.next(self.v6, None)),
        }
    }
}

/// The arena is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// Tries in a borrowed arena.
pub(crate) struct Lpm<'a, V> {
    pub(crate) nodes: &'a mut [Node<V>],
    pub(crate) arena: &'a mut Arena,
}

/// The value of bit `index` from the left, as an index of `children`.
fn bit(bits: u128, index: u8) -> usize {
    usize::from(index < 128 && bits & (1 << (127 - index)) != 0)
}

impl<V> Node<V> {
    fn key(&self) -> Key {
        Key {
            family: self.family,
            bits: self.bits,
            length: self.length,
        }
    }

    fn child(&self, side: usize) -> Link {
        self.children.get(side).copied().unwrap_or(0)
    }
}

impl<V: Copy> Lpm<'_, V> {
    /// Entries that the arena can hold, over all tries.
    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.nodes.len() / 2).unwrap_or(u32::MAX)
    }

    /// Entries in all tries.
    pub(crate) fn len(&self) -> u32 {
        self.arena.entries
    }

    /// Entries that can still be added.
    pub(crate) fn room(&self) -> u32 {
        self.capacity().saturating_sub(self.arena.entries)
    }

    fn node(&self, link: Link) -> Option<&Node<V>> {
        self.nodes.get(usize::try_from(link.checked_sub(1)?).ok()?)
    }

    fn node_mut(&mut self, link: Link) -> Option<&mut Node<V>> {
        self.nodes
            .get_mut(usize::try_from(link.checked_sub(1)?).ok()?)
    }

    /// The value of the longest prefix that covers `key`.
    pub(crate) fn lookup(&self, root: Link, key: Key) -> Option<&V> {
        let mut best = None;
        let mut link = root;
        while let Some(node) = self.node(link) {
            if !node.key().covers(key) {
                break;
            }
            if node.has_value {
                best = Some(&node.value);
            }
            if node.length >= key.length {
                break;
            }
            link = node.child(bit(key.bits, node.length));
        }
        best
    }

    /// The value of exactly this prefix.
    pub(crate) fn get(&self, root: Link, key: Key) -> Option<&V> {
        let mut link = root;
        while let Some(node) = self.node(link) {
            if !node.key().covers(key) {
                return None;
            }
            if node.length == key.length {
                return node.has_value.then_some(&node.value);
            }
            link = node.child(bit(key.bits, node.length));
        }
        None
    }

    /// The value of exactly this prefix, to be changed in place.
    pub(crate) fn get_mut(&mut self, root: Link, key: Key) -> Option<&mut V> {
        let (_, link) = self.descend(root, key);
        let node = self.node_mut(link).filter(|node| node.key() == key)?;
        node.has_value.then_some(&mut node.value)
    }

    /// Adds or replaces the entry of `key` and returns the value it had.
    ///
    /// # Errors
    /// [`Full`] when the entry is new and there is no room; nothing changes.
    pub(crate) fn insert(
        &mut self,
        root: &mut Link,
        key: Key,
        value: V,
    ) -> Result<Option<V>, Full> {
        let (parent, link) = self.descend(*root, key);
        let room = self.room();
        let same = self.node_mut(link).filter(|node| node.key() == key);
        if let Some(node) = same {
            let old = node.has_value.then_some(node.value);
            if old.is_none() && room == 0 {
                return Err(Full);
            }
            node.value = value;
            node.has_value = true;
            self.arena.entries += u32::from(old.is_none());
            return Ok(old);
        }
        if self.room() == 0 {
            return Err(Full);
        }
        let placed = self.place(link, key, value).ok_or(Full)?;
        self.arena.entries += 1;
        self.relink(root, parent, key, placed);
        Ok(None)
    }

    /// Walks to the first node that is not a proper prefix of `key`; returns it
    /// (or 0) and its parent (or 0).
    fn descend(&self, root: Link, key: Key) -> (Link, Link) {
        let mut parent = 0;
        let mut link = root;
        while let Some(node) = self.node(link) {
            if node.length >= key.length || !node.key().covers(key) {
                break;
            }
            parent = link;
            link = node.child(bit(key.bits, node.length));
        }
        (parent, link)
    }

    /// Makes a node for `key` that takes the place of `below`, which becomes its
    /// child or its sibling under a new fork. Returns the topmost new node.
    fn place(&mut self, below: Link, key: Key, value: V) -> Option<Link> {
        let entry = self.allocate()?;
        *self.node_mut(entry)? = Node {
            bits: key.bits,
            children: [0; 2],
            family: key.family,
            length: key.length,
            has_value: true,
            value,
        };
        let Some(other) = self.node(below).map(Node::key) else {
            return Some(entry);
        };
        if key.covers(other) {
            *self
                .node_mut(entry)?
                .children
                .get_mut(bit(other.bits, key.length))? = below;
            return Some(entry);
        }
        let fork = self.allocate()?;
        let differ = u8::try_from((key.bits ^ other.bits).leading_zeros()).ok()?;
        let length = differ.min(key.length).min(other.length);
        let mut children = [below; 2];
        *children.get_mut(bit(key.bits, length))? = entry;
        *self.node_mut(fork)? = Node {
            bits: key.bits & mask(length),
            children,
            family: key.family,
            length,
            has_value: false,
            value,
        };
        Some(fork)
    }

    /// Points the parent's link on the way to `key` (or the root) at `link`.
    fn relink(&mut self, root: &mut Link, parent: Link, key: Key, link: Link) {
        match self.node_mut(parent) {
            None => *root = link,
            Some(node) => {
                let side = bit(key.bits, node.length);
                if let Some(child) = node.children.get_mut(side) {
                    *child = link;
                }
            }
        }
    }

    fn allocate(&mut self) -> Option<Link> {
        if self.arena.free != 0 {
            let link = self.arena.free;
            self.arena.free = self.node(link)?.child(0);
            return Some(link);
        }
        let link = self.arena.touched + 1;
        self.node(link)?;
        self.arena.touched = link;
        Some(link)
    }

    fn release(&mut self, link: Link) {
        let next = self.arena.free;
        if let Some(node) = self.node_mut(link) {
            node.children = [next, 0];
            node.has_value = false;
            self.arena.free = link;
        }
    }

    /// Removes the entry of `key` and returns its value.
    pub(crate) fn remove(&mut self, root: &mut Link, key: Key) -> Option<V> {
        let mut grandparent = 0;
        let mut parent = 0;
        let mut link = *root;
        loop {
            let node = self.node(link)?;
            if !node.key().covers(key) {
                return None;
            }
            if node.length == key.length {
                break;
            }
            grandparent = parent;
            parent = link;
            link = node.child(bit(key.bits, node.length));
        }
        let node = self.node_mut(link)?;
        if !node.has_value {
            return None;
        }
        let value = node.value;
        node.has_value = false;
        let [left, right] = node.children;
        self.arena.entries -= 1;
        if left != 0 && right != 0 {
            return Some(value); // It stays as a fork.
        }
        self.relink(root, parent, key, left | right);
        self.release(link);
        self.collapse(root, grandparent, parent, key);
        Some(value)
    }

    /// Takes out `fork` if it has neither a value nor two children any more.
    fn collapse(&mut self, root: &mut Link, parent: Link, fork: Link, key: Key) {
        let Some(node) = self.node(fork) else { return };
        let [left, right] = node.children;
        if !node.has_value && (left == 0 || right == 0) {
            self.relink(root, parent, key, left | right);
            self.release(fork);
        }
    }

    /// The first entry behind `after` in the order of addresses, a prefix
    /// before the longer ones that it holds; the very first for `None`.
    pub(crate) fn next(&self, root: Link, after: Option<Key>) -> Option<(Key, V)> {
        let Some(after) = after else {
            return self.first(root);
        };
        // Of the subtrees passed on the way, the last that lies wholly behind `after`.
        let mut candidate = 0;
        let mut link = root;
        while let Some(node) = self.node(link) {
            let key = node.key();
            if (key.bits, key.length) > (after.bits, after.length) {
                candidate = link;
                break;
            }
            if !key.covers(after) {
                break;
            }
            if key.length == after.length {
                let [left, right] = node.children;
                if left != 0 || right != 0 {
                    candidate = if left != 0 { left } else { right };
                }
                break;
            }
            let side = bit(after.bits, node.length);
            if side == 0 && node.child(1) != 0 {
                candidate = node.child(1);
            }
            link = node.child(side);
        }
        self.first(candidate)
    }

    /// The first entry of a subtree.
    fn first(&self, mut link: Link) -> Option<(Key, V)> {
        loop {
            let node = self.node(link)?;
            if node.has_value {
                return Some((node.key(), node.value));
            }
            let [left, right] = node.children;
            link = if left != 0 { left } else { right };
        }
    }
}

#[cfg(test)]
mod tests;
