//! Nodes of the lookup structure: 256 slots, compressed to the runs of equal results.
//!
//! A node is one block of words, and the slot that leads to it says where and in
//! which of three forms, so that a lookup reads nothing in between:
//!
//! | form | words | a slot's word |
//! |---|---|---|
//! | few | 2 of ends, `inherit`, one for each of up to 8 runs | by comparing with all ends at once |
//! | ranked | 16 of marks, `inherit`, one for each run | by the marks up to it, mostly counted already |
//! | flat | one for each slot, `inherit` | directly |
//!
//! None needs an instruction that counts bits. Four words before the node say what
//! its addresses have in common, if it skips bits.

use zerocopy::{FromZeros, Immutable};

use super::pages::Pages;
use super::steps;
use super::store::Link;

/// Slots of a node.
pub(super) const SLOTS: usize = 256;

/// What a lookup finds in a slot: 0 (nothing here: the best so far holds), a
/// value's code, or, by its upper two bits, where to go on.
pub(super) type Slot = u32;

/// Codes are smaller than this.
pub(super) const CODES: u32 = 1 << 30;
/// Goes on in the node at this place.
pub(super) const NODE: Slot = 1 << 30;
/// The same, if the address has the bits that [`Skip`] names.
pub(super) const SKIP: Slot = 2 << 30;
/// Goes on in the store, below this link; 0 is from its root.
pub(super) const STORE: Slot = 3 << 30;
/// The store's link.
pub(super) const INDEX: u32 = CODES - 1;

/// A node's form, and the index of its first word.
const FORM: u32 = 3 << 28;
const FEW: u32 = 0;
const RANKED: u32 = 1 << 28;
const FLAT: u32 = 2 << 28;
const PLACE: u32 = RANKED - 1;

/// Places that slots can name.
pub(super) const MAX_WORDS: usize = 1 << 28;

/// Runs of a node of few.
const FEW_RUNS: usize = 8;
/// Ranked nodes have at most so many runs while there is room for flat ones.
const RANKED_RUNS: usize = 64;
/// Words before a node that skips.
const SKIP_WORDS: u32 = 4;

/// A one in each of seven lanes of nine bits, for comparisons that do not carry.
const LANES: u64 = 1 | 1 << 9 | 1 << 18 | 1 << 27 | 1 << 36 | 1 << 45 | 1 << 54;

/// How many bits a byte has.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const BITS: [u8; 256] = {
    let mut bits = [0; 256];
    let mut byte = 1;
    while byte < 256 {
        bits[byte] = bits[byte / 2] + if byte % 2 == 1 { 1 } else { 0 };
        byte += 1;
    }
    bits
};

/// What a node's addresses have in common beyond the slot that leads to it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Skip {
    /// The bits behind the slot's, left-aligned; those that do not count are zero.
    pub(super) bits: u64,
    /// How many of them count: 8, 16, … 64; 0 when the node skips nothing.
    pub(super) length: u8,
    /// The code for addresses that do not have these bits, or 0.
    pub(super) other: u32,
}

/// A node taken apart into its slots.
pub(super) struct Open {
    pub(super) slots: [Slot; SLOTS],
    /// The code of prefixes too short to be in this node's slots, or 0.
    pub(super) inherit: u32,
    pub(super) skip: Skip,
}

/// The nodes' bookkeeping.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(super) struct State {
    /// Nodes cut off, whose own nodes have not been yet: a list through `inherit`.
    dropped: Slot,
}

/// Nodes, which all FIBs share.
pub(super) struct Nodes<'a> {
    pub(super) state: &'a mut State,
    pub(super) pages: Pages<'a>,
}

pub(super) fn is_node(slot: Slot) -> bool {
    matches!(slot & !INDEX, NODE | SKIP)
}

/// A 32-bit index; on narrower machines the arrays are smaller than any it cannot hold.
#[inline]
pub(super) fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[inline]
fn start(node: Slot) -> usize {
    index(node & PLACE)
}

/// Where `inherit` is, from a node's first word.
#[inline]
fn inherit_at(node: Slot) -> usize {
    match node & FORM {
        FEW => 2,
        RANKED => 16,
        _ => SLOTS,
    }
}

/// The words of a node with so many runs.
fn size(form: u32, runs: usize) -> usize {
    match form {
        FEW => 3 + FEW_RUNS,
        RANKED => 17 + runs,
        _ => 1 + SLOTS,
    }
}

/// The run of a slot, by the last slots of runs before the last.
#[inline]
fn few([low, high]: [u32; 2], slot: u8) -> usize {
    let ends = u64::from(high) << 32 | u64::from(low);
    // Ends that are before the slot lose their guard.
    let behind = ends.wrapping_sub(u64::from(slot) * LANES) & LANES << 8;
    index((behind.trailing_zeros() * 57) >> 9)
}

/// The run of a slot: eight slots' marks of beginnings and the number before each.
#[inline]
fn ranked(marks: &[u32; 16], slot: u8) -> usize {
    let marks: &[[u8; 2]; 32] = zerocopy::transmute_ref!(marks);
    let group = marks.get(usize::from(slot >> 3));
    let [marks, before] = group.copied().unwrap_or_default();
    let [upto, ..] = (u32::from(marks) << (!slot & 7)).to_le_bytes();
    let runs = BITS.get(usize::from(upto)).copied().unwrap_or(0);
    usize::from(before) + usize::from(runs)
}

impl Open {
    pub(super) fn empty() -> Self {
        Open {
            slots: [0; SLOTS],
            inherit: 0,
            skip: Skip::default(),
        }
    }

    /// Visits the runs of equal slots: their number, first slot and word.
    fn runs(&self, mut see: impl FnMut(usize, usize, Slot)) -> usize {
        let mut count = 0;
        let mut last = !self.slots.first().copied().unwrap_or(0);
        let (eights, _) = self.slots.as_chunks::<8>();
        for (first, eight) in (0..).step_by(8).zip(eights) {
            // Most go on with the run before.
            if eight.iter().fold(0, |differ, word| differ | (word ^ last)) == 0 {
                continue;
            }
            for (slot, word) in (first..).zip(eight) {
                if *word != last {
                    last = *word;
                    see(count, slot, *word);
                    count += 1;
                }
            }
        }
        count
    }
}

impl Nodes<'_> {
    /// Where the word of a node's slot is.
    pub(super) fn place(&self, node: Slot, slot: u8) -> usize {
        let words = &*self.pages.words;
        let at = start(node);
        let inside = if node & FLAT != 0 {
            usize::from(slot)
        } else if node & RANKED != 0 {
            let marks = words.get(at..at + 16).and_then(<[u32]>::first_chunk);
            17 + ranked(marks.unwrap_or(&[0; 16]), slot)
        } else {
            let ends = words.get(at..at + 2).and_then(<[u32]>::first_chunk);
            3 + few(*ends.unwrap_or(&[0; 2]), slot)
        };
        at + inside
    }

    /// The result in a node's slot.
    #[inline]
    pub(super) fn word(&self, node: Slot, slot: u8) -> Slot {
        steps::count();
        let words = &*self.pages.words;
        let at = start(node);
        if node & FLAT != 0 {
            return self.read(at + usize::from(slot));
        }
        if node & RANKED != 0 {
            let marks = words.get(at..at + 16).and_then(<[u32]>::first_chunk);
            return match marks {
                Some(marks) => self.read(at + 17 + ranked(marks, slot)),
                None => 0,
            };
        }
        match words.get(at..at + 3 + FEW_RUNS) {
            Some([low, high, _, results @ ..]) => {
                let result = results.get(few([*low, *high], slot));
                result.copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// A node's `inherit` and the result in its slot.
    #[inline]
    pub(super) fn visit(&self, node: Slot, slot: u8) -> (u32, Slot) {
        steps::count();
        let words = &*self.pages.words;
        let at = start(node);
        if node & FLAT != 0 {
            let block = words.get(at..at + SLOTS + 1).unwrap_or_default();
            let word = block.get(usize::from(slot)).copied().unwrap_or(0);
            return (block.get(SLOTS).copied().unwrap_or(0), word);
        }
        if node & RANKED != 0 {
            let head = words.get(at..at + 17);
            let Some((marks, [inherit])) = head.and_then(<[u32]>::split_first_chunk) else {
                return (0, 0);
            };
            return (*inherit, self.read(at + 17 + ranked(marks, slot)));
        }
        match words.get(at..at + 3 + FEW_RUNS) {
            Some([low, high, inherit, results @ ..]) => {
                let result = results.get(few([*low, *high], slot));
                (*inherit, result.copied().unwrap_or(0))
            }
            _ => (0, 0),
        }
    }

    /// The result in a slot of a flat node that skips nothing, or 0 if it is none.
    #[inline(always)]
    pub(super) fn flat(&self, node: Slot, slot: u8) -> Slot {
        if node & !PLACE != NODE | FLAT {
            return 0;
        }
        steps::count();
        self.read(start(node) + usize::from(slot))
    }

    #[inline]
    pub(super) fn read(&self, place: usize) -> u32 {
        self.pages.words.get(place).copied().unwrap_or(0)
    }

    pub(super) fn write(&mut self, place: usize, word: u32) {
        steps::count();
        if let Some(old) = self.pages.words.get_mut(place) {
            *old = word;
        }
    }

    /// A node's first word, so that its line is on the way when it is asked for.
    #[inline]
    pub(super) fn touch(&self, node: Slot) -> u32 {
        self.read(start(node))
    }

    /// The code of prefixes too short to be in a node's slots, or 0.
    #[inline]
    pub(super) fn inherit(&self, node: Slot) -> u32 {
        self.read(start(node) + inherit_at(node))
    }

    pub(super) fn set_inherit(&mut self, node: Slot, code: u32) {
        self.write(start(node) + inherit_at(node), code);
    }

    /// What a node skips.
    #[inline]
    pub(super) fn skip(&self, node: Slot) -> Skip {
        if node & !INDEX != SKIP {
            return Skip::default();
        }
        steps::count();
        let end = start(node);
        let words = self.pages.words.get(end.wrapping_sub(4)..end);
        let words = words.and_then(<[u32]>::first_chunk);
        let [low, high, length, other] = *words.unwrap_or(&[0; 4]);
        let [length, ..] = length.to_le_bytes();
        Skip {
            bits: u64::from(high) << 32 | u64::from(low),
            length,
            other,
        }
    }

    /// Writes what the words before a node say of those that do not have its bits.
    pub(super) fn set_other(&mut self, node: Slot, code: u32) {
        if node & !INDEX == SKIP {
            self.write(start(node).wrapping_sub(1), code);
        }
    }

    /// Takes a node apart into its slots.
    pub(super) fn open(&self, node: Slot) -> Open {
        steps::count();
        let mut open = Open::empty();
        open.inherit = self.inherit(node);
        open.skip = self.skip(node);
        let words = &*self.pages.words;
        let words = words.get(start(node)..).unwrap_or_default();
        match node & FORM {
            FEW => {
                let [low, high] = *words.first_chunk().unwrap_or(&[0; 2]);
                let ends = u64::from(high) << 32 | u64::from(low);
                let mut first = 0;
                for (lane, word) in (0..).step_by(9).zip(words.iter().skip(3).take(FEW_RUNS)) {
                    let [end, ..] = ends.wrapping_shr(lane).to_le_bytes();
                    let end = if lane < 63 { end } else { 255 };
                    let run = open.slots.get_mut(first..=usize::from(end));
                    run.unwrap_or_default().fill(*word);
                    first = usize::from(end) + 1;
                }
            }
            RANKED => {
                let marks = words.first_chunk().unwrap_or(&[0; 16]);
                let marks: &[[u8; 2]; 32] = zerocopy::transmute_ref!(marks);
                let mut results = words.iter().skip(17);
                let mut word = results.next().copied().unwrap_or(0);
                for (eight, [mut begins, _]) in open.slots.chunks_mut(8).zip(*marks) {
                    for slot in eight {
                        if begins & 1 != 0 {
                            word = results.next().copied().unwrap_or(0);
                        }
                        *slot = word;
                        begins >>= 1;
                    }
                }
            }
            _ => {
                for (slot, word) in open.slots.iter_mut().zip(words) {
                    *slot = *word;
                }
            }
        }
        open
    }

    /// Makes a node of its slots, in the place of an old one (0: there is none).
    /// `None` when there is no room: the old one then is as it was.
    pub(super) fn close(&mut self, old: Slot, open: &Open) -> Option<Slot> {
        let runs = open.runs(|_, _, _| ());
        let skips = open.skip.length != 0;
        let before = if skips { SKIP_WORDS } else { 0 };
        let old = is_node(old).then_some(old & PLACE);
        // Flat when there are many; and where that finds no room, perhaps ranked.
        let forms = match runs {
            0..=FEW_RUNS => [FEW; 2],
            _ if runs <= RANKED_RUNS => [RANKED, FLAT],
            _ => [FLAT, RANKED],
        };
        let (form, block) = forms.into_iter().find_map(|form| {
            let words = index(before) + size(form, runs);
            Some((form, self.pages.refit(old, words)?))
        })?;
        let kind = if skips { SKIP } else { NODE };
        let node = kind | form | (block + before);
        self.fill(node, open);
        Some(node)
    }

    /// Writes the words of a node.
    fn fill(&mut self, node: Slot, open: &Open) {
        steps::count();
        let Skip {
            bits,
            length,
            other,
        } = open.skip;
        if length != 0 {
            let from = start(node).wrapping_sub(index(SKIP_WORDS));
            let half = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or(0);
            let words = [half(bits), half(bits >> 32), length.into(), other];
            let place = self.pages.words.get_mut(from..);
            for (place, word) in place.unwrap_or_default().iter_mut().zip(words) {
                *place = word;
            }
        }
        self.set_inherit(node, open.inherit);
        let words = self.pages.words.get_mut(start(node)..);
        let words = words.unwrap_or_default();
        match node & FORM {
            FEW => fill_few(words, open),
            RANKED => fill_ranked(words, open),
            _ => {
                for (word, slot) in words.iter_mut().zip(open.slots) {
                    *word = slot;
                }
            }
        }
    }

    /// Cuts off a slot's node, if it leads to one; it is taken apart later.
    pub(super) fn drop(&mut self, slot: Slot) {
        if is_node(slot) {
            self.set_inherit(slot, self.state.dropped);
            self.state.dropped = slot;
        }
    }

    /// Takes apart one node of those cut off; false when there is none.
    pub(super) fn take_apart(&mut self) -> bool {
        let node = self.state.dropped;
        if !is_node(node) {
            return false;
        }
        self.state.dropped = self.inherit(node);
        for slot in self.open(node).slots {
            self.drop(slot);
        }
        self.free(node);
        true
    }

    /// Gives back a node, but not those below it.
    pub(super) fn free(&mut self, node: Slot) {
        self.pages.free(node & PLACE);
    }

    /// Whether a node is where it keeps a page from becoming empty.
    pub(super) fn sparse(&mut self, node: Slot) -> bool {
        self.pages.sparse(node & PLACE)
    }

    /// A link as a slot's value.
    pub(super) fn store(link: Link) -> Slot {
        STORE | link
    }
}

fn fill_few(words: &mut [u32], open: &Open) {
    // Where there are no more runs, lanes say that the last one ends behind all.
    let mut ends = (LANES << 8) | (LANES * 0xff);
    let results = words.get_mut(3..3 + FEW_RUNS).unwrap_or_default();
    open.runs(|run, first, word| {
        if let Some(place) = results.get_mut(run) {
            *place = word;
        }
        if let (Some(before), Ok(first)) = (run.checked_sub(1), u64::try_from(first)) {
            let lane = before * 9;
            ends = ends & !(0xff << lane) | first.wrapping_sub(1) << lane;
        }
    });
    if let Some([low, high]) = words.first_chunk_mut() {
        *low = u32::try_from(ends & 0xffff_ffff).unwrap_or(0);
        *high = u32::try_from(ends >> 32).unwrap_or(0);
    }
}

fn fill_ranked(words: &mut [u32], open: &Open) {
    let mut begins = [0u8; 32];
    open.runs(|run, first, word| {
        if let Some(place) = words.get_mut(17 + run) {
            *place = word;
        }
        // The first run is there anyway.
        if run != 0
            && let Some(eight) = begins.get_mut(first / 8)
        {
            *eight |= 1 << (first % 8);
        }
    });
    let mut before = 0u8;
    let marks = begins.map(|marks| {
        let pair = [marks, before];
        before = before.wrapping_add(BITS.get(usize::from(marks)).copied().unwrap_or(0));
        pair
    });
    let marks: [u32; 16] = zerocopy::transmute!(marks);
    for (place, marks) in words.iter_mut().zip(marks) {
        *place = marks;
    }
}

#[cfg(test)]
impl Nodes<'_> {
    /// Checks that an empty FIB has given everything back.
    pub(super) fn check_empty(&mut self) {
        while self.take_apart() {}
        assert_eq!(self.pages.in_use(), 0, "pages");
    }
}
