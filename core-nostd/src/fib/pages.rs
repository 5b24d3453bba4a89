//! Blocks of 1 to 33 granules for nodes, from pages of one size class each.
//!
//! A granule is 32 bytes, a page 36 of them; sizes are those that nodes have, with and
//! without a header. A page with room is in its class's list; one that becomes empty
//! goes back to all classes.
//! What churn can do at worst is to leave few blocks in many pages; [`Pages::sparse`]
//! names blocks worth moving, and whoever owns a block moves it when it passes by.

use zerocopy::{FromZeros, Immutable};

use super::steps;

/// Bytes of a granule.
pub(super) const GRANULE: usize = 32;
/// Bytes of a page.
pub(super) const PAGE: usize = 36 * GRANULE;

const GRANULES: u32 = 36;

/// Block sizes, in granules.
const SIZES: [u8; 11] = [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33];

/// A page's bookkeeping.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct Meta {
    /// Blocks in use, a bit each.
    used: u64,
    /// Neighbours in the class's list of pages with room: page + 1, 0 is none.
    next: u32,
    previous: u32,
    class: u8,
}

/// Bookkeeping of all pages; all zero when none was ever used.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct State {
    /// Heads of the classes' lists, of pages with room.
    partial: [u32; SIZES.len()],
    /// Head of the list of empty pages.
    empty: u32,
    /// Pages that were ever in use.
    touched: u32,
    /// Pages in use.
    in_use: u32,
}

/// The block memory.
pub(super) struct Pages<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) metas: &'a mut [Meta],
    pub(super) state: &'a mut State,
}

fn size_of_class(class: u8) -> usize {
    let size = SIZES.get(usize::from(class));
    size.map_or(PAGE / GRANULE, |size| usize::from(*size))
}

impl Meta {
    fn blocks(&self) -> u32 {
        u32::try_from(PAGE / GRANULE / size_of_class(self.class)).unwrap_or(0)
    }

    fn is_full(&self) -> bool {
        self.used.count_ones() == self.blocks()
    }
}

impl Pages<'_> {
    fn meta(&mut self, page: u32) -> Option<&mut Meta> {
        steps::count();
        self.metas.get_mut(usize::try_from(page).ok()?)
    }

    /// Pages in use.
    pub(super) fn in_use(&self) -> u32 {
        self.state.in_use
    }

    fn page_of(block: u32) -> u32 {
        block / GRANULES
    }

    /// A block for so many granules in the place of an old one, which is given back; or
    /// that one itself, if it is of the right size. `None` when there is no room:
    /// the old one then is as it was.
    pub(super) fn refit(&mut self, old: Option<u32>, granules: usize) -> Option<u32> {
        let Some(old) = old else {
            return self.allocate(granules);
        };
        let page = Self::page_of(old);
        let class = self.meta(page)?.class;
        let size = size_of_class(class);
        let offset = usize::try_from(old % GRANULES).ok()? / size * size;
        let same = page * GRANULES + u32::try_from(offset).ok()?;
        if Self::class_of(granules) == Some(class) && !self.sparse(old) {
            return Some(same);
        }
        match self.allocate(granules) {
            Some(block) => {
                self.free(old);
                Some(block)
            }
            // Larger than need be, or in a bad place: good enough.
            None => (size >= granules).then_some(same),
        }
    }

    fn class_of(granules: usize) -> Option<u8> {
        let class = SIZES
            .iter()
            .position(|size| usize::from(*size) >= granules)?;
        u8::try_from(class).ok()
    }

    /// A block for so many granules, not cleared: of the next size, or where that has
    /// no room, of a larger one that has.
    fn allocate(&mut self, granules: usize) -> Option<u32> {
        let class = Self::class_of(granules)?;
        let head = *self.state.partial.get(usize::from(class))?;
        let page = match head.checked_sub(1).or_else(|| self.new_page(class)) {
            Some(page) => page,
            None => {
                let larger = self.state.partial.get(usize::from(class)..)?;
                larger.iter().find_map(|head| head.checked_sub(1))?
            }
        };
        let meta = self.meta(page)?;
        let index = (!meta.used).trailing_zeros();
        meta.used |= 1u64.checked_shl(index)?;
        let size = size_of_class(meta.class);
        if meta.is_full() {
            self.unlist(page);
        }
        let offset = usize::try_from(index).ok()? * size;
        Some(page * GRANULES + u32::try_from(offset).ok()?)
    }

    fn new_page(&mut self, class: u8) -> Option<u32> {
        let page = match self.state.empty.checked_sub(1) {
            Some(page) => {
                self.state.empty = self.meta(page)?.next;
                page
            }
            None => {
                let page = self.state.touched;
                self.meta(page)?;
                self.state.touched += 1;
                page
            }
        };
        *self.meta(page)? = Meta {
            used: 0,
            next: 0,
            previous: 0,
            class,
        };
        self.state.in_use += 1;
        self.list(page);
        Some(page)
    }

    /// Puts a page at the end that allocations do not take from first, if there is another.
    fn list(&mut self, page: u32) {
        let Some(class) = self.meta(page).map(|meta| usize::from(meta.class)) else {
            return;
        };
        let head = self.state.partial.get(class).copied().unwrap_or(0);
        // Behind the head: what fills up goes on doing so, what drains goes on too.
        let after = match head.checked_sub(1).and_then(|head| self.meta(head)) {
            None => 0,
            Some(first) => core::mem::replace(&mut first.next, page + 1),
        };
        if let Some(meta) = self.meta(page) {
            meta.previous = head;
            meta.next = after;
        }
        if let Some(after) = after.checked_sub(1).and_then(|after| self.meta(after)) {
            after.previous = page + 1;
        }
        if head == 0
            && let Some(head) = self.state.partial.get_mut(class)
        {
            *head = page + 1;
        }
    }

    fn unlist(&mut self, page: u32) {
        let Some(meta) = self.meta(page) else { return };
        let (next, previous, class) = (meta.next, meta.previous, usize::from(meta.class));
        (meta.next, meta.previous) = (0, 0);
        match previous.checked_sub(1) {
            Some(previous) => {
                if let Some(meta) = self.meta(previous) {
                    meta.next = next;
                }
            }
            None => {
                if let Some(head) = self.state.partial.get_mut(class) {
                    *head = next;
                }
            }
        }
        if let Some(meta) = next.checked_sub(1).and_then(|next| self.meta(next)) {
            meta.previous = previous;
        }
    }

    /// Gives the block of a granule back.
    pub(super) fn free(&mut self, block: u32) {
        let page = Self::page_of(block);
        let Some(meta) = self.meta(page) else { return };
        let was_full = meta.is_full();
        let offset = usize::try_from(block % GRANULES).unwrap_or(0);
        let index = offset / size_of_class(meta.class);
        meta.used &= !(1u64 << (index & 63));
        let empty = meta.used == 0;
        if was_full {
            self.list(page);
        }
        if empty {
            self.unlist(page);
            let next = self.state.empty;
            if let Some(meta) = self.meta(page) {
                meta.next = next;
                self.state.empty = page + 1;
                self.state.in_use -= 1;
            }
        }
    }

    /// Whether moving the block of a granule would help to empty its page: the page is less
    /// than half full, and another one of its class has room.
    pub(super) fn sparse(&mut self, block: u32) -> bool {
        let Some(meta) = self.meta(Self::page_of(block)) else {
            return false;
        };
        meta.previous != 0 && meta.used.count_ones() * 2 <= meta.blocks()
    }
}
