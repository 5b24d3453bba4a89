//! Nodes of the lookup structure: 256 slots, compressed to the runs of equal results.
//!
//! A node is one block, and the slot that leads to it says where it is, into how many
//! units it is cut and of which form they are (`unit.rs`), so that a lookup reads one
//! unit, mostly one cache line, and nothing in between. Narrow nodes hold codes
//! only and have no node below them. Each unit has the node's `inherit`.
//!
//! A granule before the units, the header, says what the node's addresses have in
//! common, if it skips bits, and has the `inherit` of flat nodes.

use zerocopy::{FromZeros, Immutable};

use super::pages::{GRANULE, Pages};
use super::shortcut::Shortcuts;
use super::steps;
use super::store::Link;
use super::unit::{self, FLAT, FLAT_WIDE, Runs, Stretch, WIDE};

/// Slots of a node.
pub(super) const SLOTS: usize = 256;

/// What a lookup finds in a slot: 0 (nothing here: the best so far holds), a
/// value's code, or, by its upper two bits, where to go on.
pub(super) type Slot = u32;

/// Codes are smaller than this.
pub(super) const CODES: u32 = 1 << 16;
/// Goes on in the node at this place.
pub(super) const NODE: Slot = 1 << 30;
/// The same, if the address has the bits that [`Skip`] names.
pub(super) const SKIP: Slot = 2 << 30;
/// Goes on in the store, below this link; 0 is from its root.
pub(super) const STORE: Slot = 3 << 30;
/// Behind the tag: the store's link, or a node's form, split and place.
pub(super) const INDEX: u32 = NODE - 1;

/// Where a node's form is, the bits that choose a slot in its units, and its first
/// granule.
pub(super) const FORM: u32 = 26;
pub(super) const INSIDE: u32 = 23;
const PLACE: u32 = (1 << INSIDE) - 1;
/// Slots from here up to this lead to narrow nodes that skip nothing.
const NARROW_END: Slot = NODE | 8 << FORM;

/// Floats near this have no fraction: adding it rounds, and the low bits then are
/// the number.
const WHOLE: f32 = 12_582_912.;

/// Pairs of bytes in a granule.
const PAIRS: u32 = 16;

/// Granules that slots can name.
pub(super) const MAX_GRANULES: usize = 1 << INSIDE;

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

/// Places in a header.
const SKIP_BITS: usize = 0;
const SKIP_OTHER: usize = 8;
const SKIP_LENGTH: usize = 12;
const FLAT_INHERIT: usize = 16;

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

/// Nodes, which all FIBs share, and the shortcuts to what else is in their memory.
pub(super) struct Nodes<'a> {
    pub(super) state: &'a mut State,
    pub(super) pages: Pages<'a>,
    pub(super) shortcuts: Shortcuts<'a>,
}

pub(super) fn is_node(slot: Slot) -> bool {
    matches!(slot & !INDEX, NODE | SKIP)
}

/// A 32-bit index; on narrower machines the arrays are smaller than any it cannot hold.
#[inline]
pub(super) fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The place of a node's first unit.
#[inline]
fn start(node: Slot) -> usize {
    index(node & PLACE) * GRANULE
}

#[inline]
fn form(node: Slot) -> usize {
    index(node >> FORM & 15)
}

/// Bits that choose a slot in one unit.
#[inline]
fn inside(node: Slot) -> u32 {
    node >> INSIDE & 7
}

/// How to look into a unit of a node.
#[inline(always)]
pub(super) fn lens(node: Slot, unit: u32) -> u32 {
    node >> (FORM - unit::LENS) & 15 << unit::LENS | (unit & 8) << (unit::LENS + 1)
}

/// The `inherit` of a node, from one of its units; 0 for flat ones, which have none.
#[inline(always)]
pub(super) fn inherited(bytes: &[u8], node: Slot, unit: u32) -> u32 {
    if is_flat(node) {
        return 0;
    }
    let place = unit::inherit(form(node)) / 2;
    unit::read(bytes, form(node), index(unit) + place)
}

/// The logarithm of a unit's bytes.
#[inline]
fn unit_size(form: usize) -> usize {
    form & 7
}

/// Units of a node, and each one's place.
fn units(node: Slot) -> impl Iterator<Item = (u8, usize)> {
    let size = unit_size(form(node));
    let numbers = 0..SLOTS >> inside(node);
    numbers.map(move |number| {
        let first = number << inside(node);
        let first = u8::try_from(first).unwrap_or(0);
        (first, start(node) + (number << size))
    })
}

fn is_flat(node: Slot) -> bool {
    matches!(form(node), FLAT | FLAT_WIDE)
}

/// How a node is cut and kept.
#[derive(Clone, Copy)]
struct Shape {
    form: usize,
    /// The logarithm of the number of units.
    split: u8,
}

/// Shapes for codes alone, the smallest first. More units of a smaller form never hold
/// what fewer of a larger one of the same size do not.
const NARROW_SHAPES: [(usize, u8); 6] = [(4, 1), (5, 1), (4, 2), (6, 1), (6, 2), (FLAT, 8)];
/// Shapes for any slots.
const WIDE_SHAPES: [(usize, u8); 5] = [(13, 1), (14, 1), (14, 2), (14, 3), (FLAT_WIDE, 8)];

impl Shape {
    /// The smallest shape that a node's slots fit into.
    fn of(open: &Open) -> Self {
        let most = open.most_runs();
        let all = open.slots.iter().fold(0, |all, slot| all | slot);
        let wide = all >= CODES;
        let shapes: &[(usize, u8)] = if wide { &WIDE_SHAPES } else { &NARROW_SHAPES };
        let fits = |(form, split): &&(usize, u8)| {
            let runs = most.get(usize::from(*split)).copied().unwrap_or(1);
            index(runs) <= unit::capacity(*form)
        };
        let flat = if wide { FLAT_WIDE } else { FLAT };
        let (form, split) = shapes.iter().find(fits).copied().unwrap_or((flat, 8));
        Shape { form, split }
    }

    fn granules(self, header: bool) -> usize {
        let bytes = 1 << (usize::from(self.split) + unit_size(self.form));
        bytes / GRANULE + usize::from(header)
    }
}

impl Open {
    pub(super) fn empty() -> Self {
        Open {
            slots: [0; SLOTS],
            inherit: 0,
            skip: Skip::default(),
        }
    }

    /// The most runs that a unit has, for each split from 1 to 4.
    fn most_runs(&self) -> [u32; 5] {
        let mut last = self.slots.first().copied().unwrap_or(0);
        // Runs of each unit, and whether one goes on from the unit before.
        let mut units = [(0, 0); 16];
        let (sixteens, _) = self.slots.as_chunks::<16>();
        for (unit, sixteen) in units.iter_mut().zip(sixteens) {
            let marks = unit::changes(sixteen, last);
            let [.., end] = sixteen;
            last = *end;
            *unit = ((marks | 1).count_ones(), u32::from(!marks & 1));
        }
        let mut most = [0; 5];
        for (split, most) in most.iter_mut().enumerate().rev() {
            let count = 1usize << split;
            let runs = units.iter().take(count).map(|(runs, _)| *runs);
            *most = runs.max().unwrap_or(0);
            for half in 0..count / 2 {
                let (pairs, _) = units.as_chunks();
                let [(left, joined), (right, joint)] = pairs.get(half).copied().unwrap_or_default();
                if let Some(unit) = units.get_mut(half) {
                    *unit = (left + right - joint, joined);
                }
            }
        }
        most
    }
}

impl Nodes<'_> {
    /// The unit that has a slot of a node, as the number of its first pair of bytes.
    #[inline(always)]
    pub(super) fn unit(node: Slot, slot: u8) -> u32 {
        let unit = u32::from(slot) >> inside(node);
        (node & PLACE) * PAIRS + ((unit << (node >> FORM & 7)) >> 1)
    }

    /// The same, where several are asked for at a time: processors without shifts of
    /// each lane by its own number have multiplications of floats, whose exponents
    /// such numbers are. All of them are exact.
    #[inline(always)]
    pub(super) fn unit_of_many(node: Slot, slot: u8) -> u32 {
        const { assert!(INSIDE == f32::MANTISSA_DIGITS - 1) };
        let exponent = 7 << INSIDE;
        let ones = f32::from_bits(f32::to_bits(1.) - (node & exponent));
        let half = f32::from_bits(f32::to_bits(0.5) + (node >> (FORM - INSIDE) & exponent));
        // Rounds down: what is cut off is a multiple of 1 / 128.
        let unit = f32::from(slot) * ones - (0.5 - 1. / 256.) + WHOLE - WHOLE;
        let pair = (unit * half + WHOLE).to_bits();
        ((node & PLACE) * PAIRS).wrapping_add(pair.wrapping_sub(WHOLE.to_bits()))
    }

    /// The result in a slot of a node.
    #[inline(always)]
    pub(super) fn word(&self, node: Slot, slot: u8) -> Slot {
        steps::count();
        let unit = index(Self::unit(node, slot));
        unit::get(self.pages.bytes, unit, form(node), slot)
    }

    /// Whether a slot leads to a narrow node that skips nothing.
    #[inline(always)]
    pub(super) fn is_narrow(slot: Slot) -> bool {
        slot.wrapping_sub(NODE) < NARROW_END - NODE
    }

    /// Whether a slot leads to a wide node that skips nothing.
    #[inline(always)]
    pub(super) fn is_wide(slot: Slot) -> bool {
        slot.wrapping_sub(NARROW_END) < SKIP - NARROW_END
    }

    /// The code in a slot of such a node, or 0.
    #[inline(always)]
    pub(super) fn code(&self, node: Slot, slot: u8) -> u32 {
        steps::count();
        unit::get(
            self.pages.bytes,
            index(Self::unit(node, slot)),
            form(node) & 7,
            slot,
        )
    }

    /// A node's `inherit` and the result in its slot.
    #[inline]
    pub(super) fn visit(&self, node: Slot, slot: u8) -> (u32, Slot) {
        let found = self.word(node, slot);
        // A code is an answer: nobody asks for what it covers.
        if found.wrapping_sub(1) < CODES - 1 {
            return (0, found);
        }
        (self.inherit(node), found)
    }

    /// The code in a slot of a flat narrow node that skips nothing, from the memory of
    /// all nodes; 0 if the node is none.
    #[inline(always)]
    pub(super) fn flat(pairs: &[[u8; 2]], node: Slot, slot: u8) -> u32 {
        if node >> INSIDE != (NODE >> FORM | 1) << 3 {
            return 0;
        }
        steps::count();
        let code = pairs.get(start(node) / 2 + usize::from(slot));
        code.map_or(0, |code| u32::from(u16::from_le_bytes(*code)))
    }

    /// Writes the result in a slot. It must be the only one of its run, as those that
    /// lead to nodes are.
    pub(super) fn set(&mut self, node: Slot, slot: u8, result: Slot) {
        steps::count();
        let unit = index(Self::unit(node, slot));
        unit::set(self.pages.bytes, unit, form(node), slot, result);
    }

    /// Something of a line, so that it is on the way when it is asked for.
    #[inline(always)]
    pub(super) fn touch(&self, unit: u32) -> u32 {
        unit::read(self.pages.bytes, FLAT, index(unit))
    }

    /// Where a node's `inherit` is, and its form.
    #[inline]
    fn inherit_at(node: Slot) -> (usize, usize) {
        match form(node) {
            form @ (FLAT | FLAT_WIDE) => (start(node).wrapping_sub(GRANULE - FLAT_INHERIT), form),
            form => (start(node) + unit::inherit(form), form),
        }
    }

    /// The code of prefixes too short to be in a node's slots, or 0.
    #[inline]
    pub(super) fn inherit(&self, node: Slot) -> u32 {
        let (place, form) = Self::inherit_at(node);
        unit::read(self.pages.bytes, form, place / 2)
    }

    pub(super) fn set_inherit(&mut self, node: Slot, code: u32) {
        steps::count();
        let (place, form) = Self::inherit_at(node);
        if is_flat(node) {
            unit::write(self.pages.bytes, form, place, code);
            return;
        }
        for (_, unit) in units(node) {
            let place = unit + unit::inherit(form);
            unit::write(self.pages.bytes, form, place, code);
        }
    }

    /// The header of a node that has one.
    #[inline]
    fn header(&self, node: Slot) -> &[u8; GRANULE] {
        let header = self.pages.bytes.get(start(node).wrapping_sub(GRANULE)..);
        let header = header.and_then(<[u8]>::first_chunk);
        header.unwrap_or(&[0; GRANULE])
    }

    /// What a node skips.
    #[inline]
    pub(super) fn skip(&self, node: Slot) -> Skip {
        if node & !INDEX != SKIP {
            return Skip::default();
        }
        steps::count();
        let header = self.header(node);
        let (bits, rest) = header.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let (other, rest) = rest.split_first_chunk().unwrap_or((&[0; 4], &[]));
        Skip {
            bits: u64::from_le_bytes(*bits),
            length: rest.first().copied().unwrap_or(0),
            other: u32::from_le_bytes(*other),
        }
    }

    /// Writes what a header says of those that do not have the node's bits.
    pub(super) fn set_other(&mut self, node: Slot, code: u32) {
        if node & !INDEX == SKIP {
            steps::count();
            let place = start(node).wrapping_sub(GRANULE - SKIP_OTHER);
            unit::write(self.pages.bytes, WIDE, place, code);
        }
    }

    /// Takes a node apart into its slots.
    pub(super) fn open(&self, node: Slot) -> Open {
        steps::count();
        let mut open = Open::empty();
        open.inherit = self.inherit(node);
        open.skip = self.skip(node);
        let form = form(node);
        let bytes = self.pages.bytes.get(start(node)..).unwrap_or_default();
        if is_flat(node) {
            for (slot, at) in open
                .slots
                .iter_mut()
                .zip((0..).step_by(1 << unit_size(form)))
            {
                *slot = unit::read(bytes, form, at / 2);
            }
            return open;
        }
        let bytes = bytes.chunks(1 << unit_size(form));
        let slots = open.slots.chunks_mut(1 << inside(node));
        for ((unit, slots), (first, _)) in bytes.zip(slots).zip(units(node)) {
            unit::decode(unit, form, first, slots);
        }
        open
    }

    /// Makes a node of its slots, in the place of an old one (0: there is none).
    /// `None` when there is no room: the old one then is as it was.
    pub(super) fn close(&mut self, old: Slot, open: &Open) -> Option<Slot> {
        let shape = Shape::of(open);
        let skips = open.skip.length != 0;
        let header = skips || matches!(shape.form, FLAT | FLAT_WIDE);
        let old = is_node(old).then_some(old & PLACE);
        let block = self.pages.refit(old, shape.granules(header))?;
        let kind = if skips { SKIP } else { NODE };
        let form = u32::try_from(shape.form).unwrap_or(0) << FORM;
        let inside = u32::from(8 - shape.split) << INSIDE;
        let node = kind | form | inside | (block + u32::from(header));
        self.fill(node, open);
        Some(node)
    }

    /// Writes a node's units and its header.
    fn fill(&mut self, node: Slot, open: &Open) {
        steps::count();
        if open.skip.length != 0 {
            let at = start(node).wrapping_sub(GRANULE);
            let header = self.pages.bytes.get_mut(at..).unwrap_or_default();
            if let Some(bits) = header
                .get_mut(SKIP_BITS..)
                .and_then(<[u8]>::first_chunk_mut)
            {
                *bits = open.skip.bits.to_le_bytes();
            }
            if let Some(length) = header.get_mut(SKIP_LENGTH) {
                *length = open.skip.length;
            }
            self.set_other(node, open.skip.other);
        }
        self.set_inherit(node, open.inherit);
        let form = form(node);
        let bytes = self.pages.bytes.get_mut(start(node)..).unwrap_or_default();
        if is_flat(node) {
            for (slot, at) in open.slots.iter().zip((0..).step_by(1 << unit_size(form))) {
                unit::write(bytes, form, at, *slot);
            }
            return;
        }
        let bytes = bytes.chunks_mut(1 << unit_size(form));
        let slots = open.slots.chunks(1 << inside(node));
        for ((unit, slots), (first, _)) in bytes.zip(slots).zip(units(node)) {
            let fits = unit::encode(unit, form, first, slots);
            debug_assert!(fits.is_some(), "the shape was chosen for these slots");
        }
    }

    /// Writes some neighbouring slots of a narrow node, the first of which is `from`;
    /// false when they do not fit into its units, perhaps after a part of them, or when
    /// a smaller shape may do now.
    pub(super) fn repaint(&mut self, node: Slot, from: usize, codes: &[u32]) -> bool {
        match form(node) {
            FLAT => return self.repaint_flat(node, from, codes),
            WIDE.. => return false,
            _ => {}
        }
        let least = if inside(node) == 7 && form(node) == 4 {
            0
        } else {
            unit::capacity(form(node)) / 4
        };
        let mut fits = true;
        let last = (from + codes.len()).saturating_sub(1) >> inside(node);
        for number in from >> inside(node)..=last {
            let runs = self.repaint_unit(node, number, from, codes);
            // Those that were so few before have had their chance.
            fits &= runs.is_some_and(|runs| runs.after > least || runs.before <= least);
        }
        fits
    }

    fn repaint_flat(&mut self, node: Slot, from: usize, codes: &[u32]) -> bool {
        for (slot, code) in (from..).zip(codes) {
            unit::write(self.pages.bytes, FLAT, start(node) + 2 * slot, *code);
        }
        // What has become equal to a neighbour is a run less.
        let at = |slot: usize| unit::read(self.pages.bytes, FLAT, start(node) / 2 + slot);
        let before = from.checked_sub(1).map(at);
        let behind = from + codes.len();
        let behind = (behind < SLOTS).then(|| at(behind));
        before != codes.first().copied() && behind != codes.last().copied()
    }

    /// Writes those of the slots that are in one unit.
    fn repaint_unit(
        &mut self,
        node: Slot,
        number: usize,
        from: usize,
        codes: &[u32],
    ) -> Option<Runs> {
        steps::count();
        let (form, slots) = (form(node), 1 << inside(node));
        let at = start(node) + (number << unit_size(form));
        let unit = self.pages.bytes.get_mut(at..at + (1 << unit_size(form)))?;
        let first = number << inside(node);
        let codes = codes.get(first.saturating_sub(from)..)?;
        let from = from.saturating_sub(first);
        let codes = codes.get(..codes.len().min(slots - from))?;
        let low = |slot: usize| u8::try_from((first + slot) & (SLOTS / 2 - 1)).ok();
        let code = *codes.first()?;
        if codes.iter().all(|other| *other == code) {
            let stretch = Stretch {
                from: low(from)?,
                upto: low(from + codes.len() - 1)?,
                first: low(0)?,
                last: low(slots - 1)?,
            };
            return unit::paint(unit, form, stretch, code);
        }
        let before = unit::runs(unit, form);
        let mut open = [0; SLOTS / 2];
        let open = open.get_mut(..slots)?;
        unit::decode(unit, form, low(0)?, open);
        open.get_mut(from..from + codes.len())?
            .copy_from_slice(codes);
        let after = unit::encode(unit, form, low(0)?, open)?;
        Some(Runs { before, after })
    }

    /// Cuts off a slot's node, if it leads to one; it is taken apart later, if it has
    /// nodes below it.
    pub(super) fn drop(&mut self, slot: Slot) {
        if !is_node(slot) {
            return;
        }
        if form(slot) & WIDE == 0 {
            self.free(slot);
        } else {
            self.set_inherit(slot, self.state.dropped);
            self.state.dropped = slot;
        }
    }

    /// Cuts off all nodes that slots lead to.
    pub(super) fn drop_all(&mut self, open: &Open) {
        for slot in open.slots {
            self.drop(slot);
        }
    }

    /// Takes apart one node of those cut off; false when there is none.
    pub(super) fn take_apart(&mut self) -> bool {
        let node = self.state.dropped;
        if !is_node(node) {
            return false;
        }
        self.state.dropped = self.inherit(node);
        self.drop_all(&self.open(node));
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

#[cfg(test)]
impl Nodes<'_> {
    /// A node's form, and the logarithm of the number of its units.
    pub(super) fn shape(node: Slot) -> (usize, u32) {
        (form(node), 8 - inside(node))
    }

    /// Checks that an empty FIB has given everything back.
    pub(super) fn check_empty(&mut self) {
        while self.take_apart() {}
        assert_eq!(self.pages.in_use(), 0, "pages");
    }
}
