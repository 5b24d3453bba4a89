//! The FIB's operations.

use super::bits::{Bits, Prefix};
use super::family::{Family, Root};
use super::leaf::{self, Leaf};
use super::node::{Nodes, Slot};
use super::pages::{Meta, PAGE};
use super::store::{Entry, Fork, Way};
use super::{Fib, Full, State, Update, Usage, Value};

/// A family whose half of the FIB an operation works on.
pub trait Address: Bits {
    /// Whether it is IPv6.
    #[doc(hidden)]
    const V6: bool;

    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn of<'f, 'a, V>(fib: &'f Fib<'a, V>) -> &'f Family<'a, Self, V>;

    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn of_mut<'f, 'a, V>(
        fib: &'f mut Fib<'a, V>,
    ) -> (&'f mut Family<'a, Self, V>, &'f mut Nodes<'a>);
}

impl Address for u32 {
    const V6: bool = false;

    #[allow(private_interfaces)]
    #[inline]
    fn of<'f, 'a, V>(fib: &'f Fib<'a, V>) -> &'f Family<'a, Self, V> {
        &fib.v4
    }

    #[allow(private_interfaces)]
    fn of_mut<'f, 'a, V>(
        fib: &'f mut Fib<'a, V>,
    ) -> (&'f mut Family<'a, Self, V>, &'f mut Nodes<'a>) {
        (&mut fib.v4, &mut fib.nodes)
    }
}

impl Address for u128 {
    const V6: bool = true;

    #[allow(private_interfaces)]
    #[inline]
    fn of<'f, 'a, V>(fib: &'f Fib<'a, V>) -> &'f Family<'a, Self, V> {
        &fib.v6
    }

    #[allow(private_interfaces)]
    fn of_mut<'f, 'a, V>(
        fib: &'f mut Fib<'a, V>,
    ) -> (&'f mut Family<'a, Self, V>, &'f mut Nodes<'a>) {
        (&mut fib.v6, &mut fib.nodes)
    }
}

impl<V: Value + 'static> Fib<'_, V> {
    /// Prefixes that the storage holds, over all FIBs.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Prefixes in all FIBs.
    pub fn len(&self) -> u32 {
        self.v4.store.len() + self.v6.store.len()
    }

    /// Whether all FIBs are empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Prefixes that can still be added.
    pub fn room(&self) -> u32 {
        self.capacity.saturating_sub(self.len())
    }

    /// The code of the longest prefix of a FIB that holds this address; 0: none does.
    #[inline(always)]
    pub fn lookup<B: Address>(&self, fib: usize, address: B) -> u32 {
        B::of(self).find(&self.nodes, fib, address)
    }

    /// Where lookups of IPv4 addresses in a FIB start, for those who do many.
    #[inline(always)]
    pub fn start_v4(&self, fib: usize) -> Root<'_> {
        self.v4.start(&self.nodes, fib)
    }

    /// As [`Fib::lookup`] in the FIB that starts there.
    #[inline(always)]
    pub fn lookup_from(&self, root: Root<'_>, address: u32) -> u32 {
        self.v4.find_from(&self.nodes, root, address)
    }

    /// Looks up as many addresses as both slices have, and writes their codes. 64 of IPv4
    /// take each step together, so that the processor waits for all at once; those of
    /// IPv6 so only where tables are large and no prefixes have shortcuts.
    pub fn lookup_batch<B: Address>(&self, fib: usize, addresses: &[B], codes: &mut [u32]) {
        B::of(self).find_all(&self.nodes, fib, addresses, codes);
    }

    /// The value of exactly this prefix.
    pub fn get<B: Address>(&self, fib: usize, prefix: Prefix<B>) -> Option<&V> {
        let family = B::of(self);
        let link = family
            .store
            .find(*family.tries.get(fib)?, canonical(prefix))?;
        family.store.at(link).map(|(_, value)| value)
    }

    /// The value of exactly this prefix, to change anything but its code in place.
    pub fn get_mut<B: Address>(&mut self, fib: usize, prefix: Prefix<B>) -> Option<&mut V> {
        let (family, _) = B::of_mut(self);
        family
            .store
            .get_mut(*family.tries.get(fib)?, canonical(prefix))
    }

    /// The entry that follows `after`, which need not be there, in the order of
    /// addresses, a prefix before the longer ones that it holds; the first for `None`.
    pub fn next<B: Address>(&self, fib: usize, after: Option<Prefix<B>>) -> Option<(Prefix<B>, V)> {
        let family = B::of(self);
        let after = after.map(canonical);
        let link = family.store.next(*family.tries.get(fib)?, after)?;
        family
            .store
            .at(link)
            .map(|(prefix, value)| (prefix, *value))
    }

    /// Adds or replaces the entry of a prefix and returns the value that it had.
    /// Bits behind the prefix's length are taken as zero.
    ///
    /// # Errors
    /// [`Full`] when the entry is new and there is no room, or no such FIB.
    pub fn insert<B: Address>(
        &mut self,
        fib: usize,
        prefix: Prefix<B>,
        value: V,
    ) -> Result<Option<V>, Full> {
        let room = self.room();
        let prefix = canonical(prefix);
        let (family, _) = B::of_mut(self);
        let trie = family.tries.get(fib).copied().ok_or(Full)?;
        if room == 0 && family.store.find(trie, prefix).is_none() {
            return Err(Full);
        }
        let trie = family.tries.get_mut(fib).ok_or(Full)?;
        let (store, bits) = (&mut family.store, family.stride);
        let (old, way) = store.insert(trie, prefix, value, bits).ok_or(Full)?;
        if old.is_none_or(|old| old.code() != value.code()) {
            self.changed(fib, prefix, way);
        }
        Ok(old)
    }

    /// Removes the entry of a prefix and returns its value.
    pub fn remove<B: Address>(&mut self, fib: usize, prefix: Prefix<B>) -> Option<V> {
        let prefix = canonical(prefix);
        let (family, _) = B::of_mut(self);
        let trie = family.tries.get_mut(fib)?;
        let (old, way) = family.store.remove(trie, prefix, family.stride)?;
        self.changed(fib, prefix, way);
        Some(old)
    }

    /// Follows up a change in the lookup structure, with a bounded part of what had
    /// to be left earlier.
    fn changed<B: Address>(&mut self, fib: usize, prefix: Prefix<B>, way: Way) {
        self.update(fib, prefix, way);
        let _ = self.nodes.take_apart() && self.nodes.take_apart();
        self.heal(1);
    }

    fn update<B: Address>(&mut self, fib: usize, prefix: Prefix<B>, way: Way) {
        let (family, nodes) = B::of_mut(self);
        let mut update = Update {
            family,
            nodes,
            fib,
            way,
            pressed: false,
        };
        update.run(prefix);
        if update.pressed {
            // As many as there are prefixes, and ends of FIBs in both families.
            let fibs = u32::try_from(B::of(self).tries.len()).unwrap_or(u32::MAX);
            self.state.heal = self.len().saturating_add(fibs.saturating_mul(2));
        }
        if B::V6 && prefix.length >= leaf::START {
            self.renew_shortcut::<B>(fib, prefix, &way);
        }
    }

    /// Brings the leaf that a prefix is in to what the store has.
    fn renew_shortcut<B: Address>(&mut self, fib: usize, prefix: Prefix<B>, way: &Way) {
        let (family, nodes) = B::of_mut(self);
        let store = &family.store;
        let start = prefix.truncate(leaf::START);
        let leaf = match store.along(way, way.within, start) {
            0 => None,
            link => Leaf::of(store, link),
        };
        let first = start.bits.field(0, leaf::START);
        nodes
            .shortcuts
            .renew(&mut nodes.pages, fib, first, leaf.as_ref());
    }

    /// Passes by so many prefixes to bring what once found no room, or is in the way
    /// of what needs some, to a better place. Each step costs as much as an update;
    /// updates do one themselves. Does nothing when there is nothing to do.
    pub fn heal(&mut self, steps: u32) {
        for _ in 0..steps.min(self.state.heal) {
            self.state.heal = self.state.heal.saturating_sub(1);
            if self.state.v6 {
                self.heal_next::<u128>();
            } else {
                self.heal_next::<u32>();
            }
        }
    }

    fn heal_next<B: Address>(&mut self) {
        let State {
            fib,
            after,
            after_bits,
            after_length,
            ..
        } = *self.state;
        let index = usize::try_from(fib).unwrap_or(usize::MAX);
        let last = after.then(|| Prefix {
            bits: B::from_wide(after_bits),
            length: after_length,
        });
        match self.next::<B>(index, last) {
            Some((prefix, _)) => {
                self.state.after = true;
                self.state.after_bits = prefix.bits.wide();
                self.state.after_length = prefix.length;
                let family = B::of(self);
                let trie = family.tries.get(index).copied().unwrap_or(0);
                let way = family.store.way(trie, prefix, family.stride);
                self.update(index, prefix, way);
            }
            None => {
                self.state.after = false;
                self.state.fib = fib + 1;
                if index + 1 >= B::of(self).tries.len() {
                    self.state.fib = 0;
                    self.state.v6 = !B::V6;
                }
            }
        }
    }

    /// Memory in use.
    pub fn usage(&self) -> Usage {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let v4 = size_of::<Entry<u32, V>>() + size_of::<Fork>();
        let v6 = size_of::<Entry<u128, V>>() + size_of::<Fork>();
        let fibs = |tries: &[u32]| tries.iter().filter(|trie| **trie != 0).count();
        let root = (size_of::<Slot>() << self.v4.stride) + (size_of::<u32>() << self.v4.short);
        let page = PAGE + size_of::<Meta>();
        Usage {
            store: count(self.v4.store.len()) * v4 + count(self.v6.store.len()) * v6,
            lookup: (fibs(self.v4.tries) + fibs(self.v6.tries)) * root
                + count(self.nodes.pages.in_use()) * page
                + self.nodes.shortcuts.memory(),
            pressed: self.state.heal != 0,
        }
    }
}

/// The prefix without bits behind its length.
fn canonical<B: Bits>(prefix: Prefix<B>) -> Prefix<B> {
    let length = prefix.length.min(B::WIDTH);
    Prefix {
        bits: prefix.bits.truncate(length),
        length,
    }
}
