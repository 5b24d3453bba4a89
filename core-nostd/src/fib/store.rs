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

/// Behind all positions.
const IS_THERE: u16 = u16::MAX;

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

/// What a change leaves known of the way to its prefix, so that nobody need walk from
/// the root again.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// The subtree of what shares as many of the prefix's first bits as were asked
    /// for, or all of a shorter one; 0 is none.
    pub(super) within: Link,
    /// The longest entry that holds the prefix and is shorter than these bits, and
    /// its length.
    pub(super) above: Option<(Link, u8)>,
    /// Where the prefix parts from all entries; behind its end if it is one.
    parts: u16,
}

/// Where a walk by a prefix stands.
#[derive(Clone, Copy)]
struct Walk {
    link: Link,
    /// The fork that leads there, and the one that leads to that.
    parent: Link,
    grandparent: Link,
    /// The last fork on the way where an entry ends.
    end: Link,
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
    fn new(position: u8, left: Link, right: Link) -> Self {
        Fork {
            left: u32::from(position) << 24 | left,
            right,
        }
    }

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

impl Walk {
    fn from(root: Link) -> Self {
        Walk {
            link: root,
            parent: 0,
            grandparent: 0,
            end: 0,
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

/// The position that the first `bits` bits of a prefix end at, or all of it.
fn stop<B>(prefix: Prefix<B>, bits: u8) -> u16 {
    2 * u16::from(prefix.length.min(bits))
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

    /// Goes on by `prefix`, up to the first link that no longer is before `position`.
    fn walk(&self, walk: &mut Walk, prefix: Prefix<B>, position: u16) {
        while let Some(fork) = self.fork(walk.link).filter(|fork| fork.before(position)) {
            walk.grandparent = walk.parent;
            walk.parent = walk.link;
            if fork.position().is_multiple_of(2) {
                walk.end = walk.link;
            }
            walk.link = fork.child(side(prefix, fork.position()));
        }
    }

    /// The entry that ended last on a walk's way, and its length.
    fn ended(&self, walk: &Walk) -> Option<(Link, u8)> {
        let fork = self.fork(walk.end)?;
        Some((fork.child(false), fork.position() / 2))
    }

    /// The way to the entry of a prefix, or of one that there once was.
    pub(super) fn way(&self, root: Link, prefix: Prefix<B>, bits: u8) -> Way {
        let mut walk = Walk::from(root);
        self.walk(&mut walk, prefix, stop(prefix, bits));
        Way {
            within: walk.link,
            above: self.ended(&walk),
            parts: IS_THERE,
        }
    }

    /// As [`Store::subtree`] of the first bits of the prefix whose way this is, below
    /// a link on that way.
    pub(super) fn along(&self, way: &Way, link: Link, start: Prefix<B>) -> Link {
        let position = 2 * u16::from(start.length);
        // Entries there are only if some go on as far with the prefix.
        if way.parts < position {
            return 0;
        }
        let mut walk = Walk::from(link);
        self.walk(&mut walk, start, position);
        walk.link
    }

    /// Adds or replaces an entry and returns the value that it had, and the way to
    /// it; `None` outside when it is new and the arrays are full.
    pub(super) fn insert(
        &mut self,
        root: &mut Link,
        prefix: Prefix<B>,
        value: V,
        bits: u8,
    ) -> Option<(Option<V>, Way)> {
        let stop = stop(prefix, bits);
        let mut walk = Walk::from(*root);
        self.walk(&mut walk, prefix, stop);
        let mut way = Way {
            within: walk.link,
            above: self.ended(&walk),
            parts: IS_THERE,
        };
        let near = self.descend(walk.link, prefix);
        let Some(found) = self.entry(near).map(Entry::prefix) else {
            *root = self.new_entry(prefix, value)?;
            way.within = *root;
            return Some((None, way));
        };
        if found == prefix {
            let entry = self.entries.get_mut(Self::index(near)?)?;
            return Some((Some(core::mem::replace(&mut entry.value, value)), way));
        }
        let position = parting(prefix, found);
        let entry = self.new_entry(prefix, value)?;
        let new = self.new_fork()?;
        if u16::from(position) < stop {
            // Alone, and what the walk passed behind that position is not its way.
            walk = Walk::from(*root);
            self.walk(&mut walk, prefix, position.into());
            way.within = entry;
            way.above = match found.covers(prefix) {
                true => Some((near, found.length)),
                false => self.ended(&walk),
            };
        } else {
            self.walk(&mut walk, prefix, position.into());
            if walk.link == way.within {
                way.within = new;
            }
        }
        let fork = self.fork_mut(new)?;
        *fork = match side(prefix, position) {
            false => Fork::new(position, entry, walk.link),
            true => Fork::new(position, walk.link, entry),
        };
        self.relink(root, walk.parent, (walk.link, new));
        Some((None, way))
    }

    /// Points the parent's link (or the root) at `new` in place of `old`.
    fn relink(&mut self, root: &mut Link, parent: Link, (old, new): (Link, Link)) {
        match self.fork_mut(parent) {
            None => *root = new,
            Some(fork) => fork.set_child(fork.child(true) == old, new),
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

    /// Removes an entry and returns its value, and the way to where it was.
    pub(super) fn remove(
        &mut self,
        root: &mut Link,
        prefix: Prefix<B>,
        bits: u8,
    ) -> Option<(V, Way)> {
        let mut walk = Walk::from(*root);
        self.walk(&mut walk, prefix, stop(prefix, bits));
        let mut way = Way {
            within: walk.link,
            above: self.ended(&walk),
            parts: 0,
        };
        self.walk(&mut walk, prefix, IS_THERE);
        let entry = self.entry(walk.link)?;
        if entry.prefix() != prefix {
            return None;
        }
        let value = entry.value;
        if way.within == walk.link {
            way.within = 0;
        }
        if let Some(fork) = self.fork(walk.parent) {
            let sibling = fork.child(fork.child(false) == walk.link);
            way.parts = fork.position().into();
            if way.within == walk.parent {
                way.within = sibling;
            }
            self.relink(root, walk.grandparent, (walk.parent, sibling));
            let free = self.state.free_forks;
            self.fork_mut(walk.parent)?.right = free;
            self.state.free_forks = walk.parent;
        } else {
            *root = 0;
        }
        let free = self.state.free_entries;
        self.entries.get_mut(Self::index(walk.link)?)?.bits = B::from_number(free);
        self.state.free_entries = walk.link & INDEX;
        self.state.len -= 1;
        Some((value, way))
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
        let mut walk = Walk::from(root);
        self.walk(&mut walk, prefix, IS_THERE);
        let found = self.entry(walk.link)?.prefix();
        let common = found.bits.common(prefix.bits).min(prefix.length);
        if found.length <= common {
            return Some(walk.link);
        }
        // Else what ended last on the way, if that was before it left `prefix`.
        let (link, length) = self.ended(&walk)?;
        if length <= common {
            return Some(link);
        }
        walk = Walk::from(root);
        self.walk(&mut walk, prefix, 2 * u16::from(common) + 1);
        self.ended(&walk).map(|(link, _)| link)
    }

    /// The subtree of the entries that `prefix` covers, itself not. There must be some:
    /// nothing is compared with one of them, which may be far down.
    pub(super) fn inside(&self, root: Link, prefix: Prefix<B>) -> Link {
        let mut walk = Walk::from(root);
        self.walk(&mut walk, prefix, 2 * u16::from(prefix.length));
        self.longer(walk.link, prefix.length)
    }

    /// What is longer than this in a subtree of entries that share so many bits.
    pub(super) fn longer(&self, link: Link, length: u8) -> Link {
        match self.fork(link) {
            Some(fork) if u16::from(fork.position()) == 2 * u16::from(length) => fork.child(true),
            None if self.entry(link).is_some_and(|entry| entry.length == length) => 0,
            _ => link,
        }
    }

    /// The subtree of the entries that `prefix` covers, itself included.
    pub(super) fn subtree(&self, root: Link, prefix: Prefix<B>) -> Link {
        let mut walk = Walk::from(root);
        self.walk(&mut walk, prefix, 2 * u16::from(prefix.length));
        match self.sample(walk.link) {
            Some(sample) if prefix.covers(sample) => walk.link,
            _ => 0,
        }
    }

    /// Some prefix of a subtree: one that is not far down, if there is one right beside
    /// the way to the first.
    pub(super) fn sample(&self, mut link: Link) -> Option<Prefix<B>> {
        while let Some(fork) = self.fork(link) {
            let [left, right] = [false, true].map(|side| fork.child(side));
            link = if left & ENTRY == 0 && right & ENTRY != 0 {
                right
            } else {
                left
            };
        }
        self.entry(link).map(Entry::prefix)
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
    /// own entries share at least `length` − 16 bits.
    pub(super) fn visit(&self, link: Link, length: u8, mut see: impl FnMut(Link, bool)) {
        self.visit_while(link, length, |link, longer| {
            see(link, longer);
            true
        });
    }

    /// The same until `see` says false; whether it never did.
    pub(super) fn visit_while(
        &self,
        link: Link,
        length: u8,
        mut see: impl FnMut(Link, bool) -> bool,
    ) -> bool {
        let end = 2 * u16::from(length);
        let mut stack = heapless::Vec::<Link, 36>::new();
        let mut next = link;
        while next != 0 {
            let go_on = match self.fork(next) {
                Some(fork) if fork.before(end) => {
                    // At most one for each position, of which there are 33.
                    let _ = stack.push(fork.child(true));
                    next = fork.child(false);
                    continue;
                }
                Some(fork) if u16::from(fork.position()) == end => {
                    see(fork.child(false), false) && see(fork.child(true), true)
                }
                Some(_) => see(next, true),
                None => {
                    let longer = self.entry(next).is_some_and(|e| e.length > length);
                    see(next, longer)
                }
            };
            if !go_on {
                return false;
            }
            next = stack.pop().unwrap_or(0);
        }
        true
    }
}
