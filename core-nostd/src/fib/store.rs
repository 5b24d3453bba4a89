//! The prefix store: exact and ordered, a crit-bit trie in two fixed arrays.
//!
//! A prefix is the string of its bits, each preceded by a 1 that says "goes on",
//! and closed by a 0: one string for each prefix, none the start of another, in
//! the order of addresses with a prefix before the longer ones that it holds. Two
//! strings first differ at a *position*: 2·l where one prefix ends after l bits
//! and the other goes on, 2·l + 1 where their bits l differ.
//!
//! n entries have exactly n − 1 forks, whatever they are: room for an entry and a
//! fork each is a promise that no order of updates can break. A walk passes at
//! most one fork a position, 64 for IPv4 and 256 for IPv6.

use zerocopy::{FromZeros, Immutable};

use super::bits::{Bits, Prefix};
use super::steps;

/// Index of an entry or a fork plus one, in 24 bits; 0 is none.
pub(super) type Link = u32;

/// Marks links to entries.
const ENTRY: u32 = 1 << 23;
const INDEX: u32 = ENTRY - 1;
const LINK: u32 = (1 << 24) - 1;

/// Entries that links can name.
pub(super) const MAX_ENTRIES: usize = (1 << 23) - 2;

/// A prefix and its value.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct Entry<B, V> {
    /// While the entry is free: the next free one.
    bits: B,
    value: V,
    length: u8,
}

/// Where two subtrees part. The upper 8 bits of `left` are the position; while the
/// fork is free, `right` is the next free one.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct Fork {
    left: u32,
    right: u32,
}

/// The store's bookkeeping; all zero when empty.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct State {
    len: u32,
    free_entries: u32,
    free_forks: u32,
    /// Entries and forks that were ever in use; those behind are zero.
    touched_entries: u32,
    touched_forks: u32,
}

/// The store in its borrowed arrays, which are of one length.
pub(super) struct Store<'a, B, V> {
    pub(super) entries: &'a mut [Entry<B, V>],
    pub(super) forks: &'a mut [Fork],
    pub(super) state: &'a mut State,
}

/// What lies below a link.
#[derive(Clone, Copy)]
pub(super) enum Below<B> {
    /// One entry.
    Entry(Prefix<B>),
    /// Entries that part behind so many bits.
    Fork(u8),
}

impl Fork {
    fn position(self) -> u8 {
        let [position, ..] = self.left.to_be_bytes();
        position
    }

    fn before(self, position: u16) -> bool {
        u16::from(self.position()) < position
    }

    fn child(self, side: bool) -> Link {
        (if side { self.right } else { self.left }) & LINK
    }

    fn set_child(&mut self, side: bool, link: Link) {
        let field = if side {
            &mut self.right
        } else {
            &mut self.left
        };
        *field = *field & !LINK | link;
    }
}

impl<B: Bits, V> Entry<B, V> {
    fn prefix(&self) -> Prefix<B> {
        Prefix {
            bits: self.bits,
            length: self.length,
        }
    }
}

/// On which side of a fork at `position` a prefix lies.
fn side<B: Bits>(prefix: Prefix<B>, position: u8) -> bool {
    let index = position / 2;
    if position.is_multiple_of(2) {
        prefix.length > index
    } else {
        prefix.bits.bit(index)
    }
}

/// Where the strings of two different prefixes part.
fn parting<B: Bits>(a: Prefix<B>, b: Prefix<B>) -> u8 {
    let common = a.bits.common(b.bits);
    let end = a.length.min(b.length);
    if common < end {
        2 * common + 1
    } else {
        end.saturating_mul(2)
    }
}

impl<B: Bits, V: Copy> Store<'_, B, V> {
    pub(super) fn len(&self) -> u32 {
        self.state.len
    }

    fn fork(&self, link: Link) -> Option<Fork> {
        steps::count();
        if link & ENTRY != 0 {
            return None;
        }
        let index = usize::try_from(link.checked_sub(1)?).ok()?;
        self.forks.get(index).copied()
    }

    fn fork_mut(&mut self, link: Link) -> Option<&mut Fork> {
        steps::count();
        let index = usize::try_from(link.checked_sub(1)?).ok()?;
        self.forks.get_mut(index)
    }

    fn index(link: Link) -> Option<usize> {
        if link & ENTRY == 0 {
            return None;
        }
        usize::try_from((link & INDEX).checked_sub(1)?).ok()
    }

    fn entry(&self, link: Link) -> Option<&Entry<B, V>> {
        steps::count();
        self.entries.get(Self::index(link)?)
    }

    /// The prefix and the value of an entry.
    pub(super) fn at(&self, link: Link) -> Option<(Prefix<B>, &V)> {
        self.entry(link).map(|entry| (entry.prefix(), &entry.value))
    }

    /// Something of an entry, so that its line is on the way when it is asked for.
    pub(super) fn touch(&self, link: Link) -> u32 {
        let entry = Self::index(link).and_then(|index| self.entries.get(index));
        entry.map_or(0, |entry| u32::from(entry.length))
    }

    /// The entry that a walk by `prefix` ends at.
    fn descend(&self, mut link: Link, prefix: Prefix<B>) -> Link {
        while let Some(fork) = self.fork(link) {
            link = fork.child(side(prefix, fork.position()));
        }
        link
    }

    /// The entry of exactly this prefix.
    pub(super) fn find(&self, root: Link, prefix: Prefix<B>) -> Option<Link> {
        let link = self.descend(root, prefix);
        (self.entry(link)?.prefix() == prefix).then_some(link)
    }

    /// The value of exactly this prefix, to change what lookups do not see of it.
    pub(super) fn get_mut(&mut self, root: Link, prefix: Prefix<B>) -> Option<&mut V> {
        let index = Self::index(self.find(root, prefix)?)?;
        Some(&mut self.entries.get_mut(index)?.value)
    }

    /// Adds or replaces an entry and returns the value that it had; `None` outside
    /// when it is new and the arrays are full.
    pub(super) fn insert(
        &mut self,
        root: &mut Link,
        prefix: Prefix<B>,
        value: V,
    ) -> Option<Option<V>> {
        let near = self.descend(*root, prefix);
        let Some(found) = self.entry(near).map(Entry::prefix) else {
            *root = self.new_entry(prefix, value)?;
            return Some(None);
        };
        if found == prefix {
            let entry = self.entries.get_mut(Self::index(near)?)?;
            return Some(Some(core::mem::replace(&mut entry.value, value)));
        }
        let position = parting(prefix, found);
        let entry = self.new_entry(prefix, value)?;
        let new = self.new_fork()?;
        let mut parent = None;
        let mut link = *root;
        while let Some(fork) = self.fork(link).filter(|fork| fork.position() < position) {
            let side = side(prefix, fork.position());
            parent = Some((link, side));
            link = fork.child(side);
        }
        let right = side(prefix, position);
        let fork = self.fork_mut(new)?;
        fork.left = u32::from(position) << 24;
        fork.right = 0;
        fork.set_child(right, entry);
        fork.set_child(!right, link);
        self.relink(root, parent, new);
        Some(None)
    }

    /// Points the parent's link (or the root) at `link`.
    fn relink(&mut self, root: &mut Link, parent: Option<(Link, bool)>, link: Link) {
        match parent {
            None => *root = link,
            Some((parent, side)) => {
                if let Some(fork) = self.fork_mut(parent) {
                    fork.set_child(side, link);
                }
            }
        }
    }

    fn new_entry(&mut self, prefix: Prefix<B>, value: V) -> Option<Link> {
        let free = self.state.free_entries;
        let link = if free != 0 {
            self.state.free_entries = self.entry(ENTRY | free)?.bits.number();
            free
        } else {
            let link = self.state.touched_entries + 1;
            self.entry(ENTRY | link)?;
            self.state.touched_entries = link;
            link
        };
        *self.entries.get_mut(Self::index(ENTRY | link)?)? = Entry {
            bits: prefix.bits,
            length: prefix.length,
            value,
        };
        self.state.len += 1;
        Some(ENTRY | link)
    }

    /// There are never more forks than entries.
    fn new_fork(&mut self) -> Option<Link> {
        let free = self.state.free_forks;
        if free != 0 {
            self.state.free_forks = self.fork(free)?.right;
            return Some(free);
        }
        let link = self.state.touched_forks + 1;
        self.fork(link)?;
        self.state.touched_forks = link;
        Some(link)
    }

    /// Removes an entry and returns its value.
    pub(super) fn remove(&mut self, root: &mut Link, prefix: Prefix<B>) -> Option<V> {
        let mut grandparent = None;
        let mut parent = None;
        let mut link = *root;
        while let Some(fork) = self.fork(link) {
            let side = side(prefix, fork.position());
            grandparent = parent;
            parent = Some((link, side));
            link = fork.child(side);
        }
        let entry = self.entry(link)?;
        if entry.prefix() != prefix {
            return None;
        }
        let value = entry.value;
        match parent {
            None => *root = 0,
            Some((fork, side)) => {
                let sibling = self.fork(fork)?.child(!side);
                self.relink(root, grandparent, sibling);
                let free = self.state.free_forks;
                self.fork_mut(fork)?.right = free;
                self.state.free_forks = fork;
            }
        }
        let free = self.state.free_entries;
        self.entries.get_mut(Self::index(link)?)?.bits = B::from_number(free);
        self.state.free_entries = link & INDEX;
        self.state.len -= 1;
        Some(value)
    }

    /// The first entry behind `after`, which need not be there; the very first for `None`.
    pub(super) fn next(&self, root: Link, after: Option<Prefix<B>>) -> Option<Link> {
        let Some(after) = after else {
            return self.first(root);
        };
        let near = self.entry(self.descend(root, after))?.prefix();
        let parts_at = (near != after).then(|| parting(near, after));
        let mut behind = 0;
        let mut link = root;
        while let Some(fork) = self.fork(link) {
            if parts_at.is_some_and(|position| fork.position() >= position) {
                break;
            }
            let side = side(after, fork.position());
            if !side {
                behind = fork.child(true);
            }
            link = fork.child(side);
        }
        match parts_at {
            Some(position) if !side(after, position) => self.first(link),
            _ => self.first(behind),
        }
    }

    /// The first entry of a subtree.
    fn first(&self, mut link: Link) -> Option<Link> {
        while let Some(fork) = self.fork(link) {
            link = fork.child(false);
        }
        (link != 0).then_some(link)
    }

    /// The entry with the longest prefix that covers `prefix`, itself included,
    /// among those below `root`.
    pub(super) fn longest(&self, root: Link, prefix: Prefix<B>) -> Option<Link> {
        let near = self.descend(root, prefix);
        let found = self.entry(near)?.prefix();
        let common = found.bits.common(prefix.bits).min(prefix.length);
        if found.length <= common {
            return Some(near);
        }
        // Prefixes that end on the way, before the way leaves `prefix`.
        let mut best = None;
        let mut link = root;
        while let Some(fork) = self.fork(link) {
            let position = fork.position();
            if position / 2 > common {
                break;
            }
            if position.is_multiple_of(2) {
                best = Some(fork.child(false));
            }
            link = fork.child(side(prefix, position));
        }
        best
    }

    /// The subtree of the entries that `prefix` covers, itself included.
    pub(super) fn subtree(&self, root: Link, prefix: Prefix<B>) -> Link {
        self.behind(root, prefix, 2 * u16::from(prefix.length))
    }

    /// The subtree of the entries that `prefix` covers, itself not.
    pub(super) fn inside(&self, root: Link, prefix: Prefix<B>) -> Link {
        if prefix.length >= B::WIDTH {
            return 0;
        }
        let link = self.subtree(root, prefix);
        match self.fork(link) {
            Some(fork) if fork.position() == 2 * prefix.length => fork.child(true),
            None if self.entry(link).is_some_and(|e| e.length == prefix.length) => 0,
            _ => link,
        }
    }

    fn behind(&self, root: Link, prefix: Prefix<B>, position: u16) -> Link {
        let mut link = root;
        while let Some(fork) = self.fork(link).filter(|fork| fork.before(position)) {
            link = fork.child(side(prefix, fork.position()));
        }
        match self.sample(link) {
            Some(sample) if prefix.covers(sample) => link,
            _ => 0,
        }
    }

    /// Some prefix of a subtree.
    pub(super) fn sample(&self, link: Link) -> Option<Prefix<B>> {
        self.entry(self.first(link)?).map(Entry::prefix)
    }

    /// What lies below a link: one entry, or entries that part.
    pub(super) fn below(&self, link: Link) -> Option<Below<B>> {
        match self.fork(link) {
            Some(fork) => Some(Below::Fork(fork.position() / 2)),
            None => self.entry(link).map(|e| Below::Entry(e.prefix())),
        }
    }

    /// Visits, in order, the entries of a subtree that are at most `length` bits
    /// long, and the subtrees of longer ones that share so many bits. The subtree's
    /// own entries share at least `length` − 13 bits.
    pub(super) fn visit(&self, link: Link, length: u8, mut see: impl FnMut(Link, bool)) {
        let end = 2 * u16::from(length);
        let mut stack = heapless::Vec::<Link, 32>::new();
        let mut next = link;
        while next != 0 {
            match self.fork(next) {
                Some(fork) if fork.before(end) => {
                    // At most one for each position, of which there are 26.
                    let _ = stack.push(fork.child(true));
                    next = fork.child(false);
                    continue;
                }
                Some(fork) if u16::from(fork.position()) == end => {
                    see(fork.child(false), false);
                    see(fork.child(true), true);
                }
                Some(_) => see(next, true),
                None => {
                    let longer = self.entry(next).is_some_and(|e| e.length > length);
                    see(next, longer);
                }
            }
            next = stack.pop().unwrap_or(0);
        }
    }
}
