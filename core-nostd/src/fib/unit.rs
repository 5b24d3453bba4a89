//! Units of nodes: the results of 1 to 128 neighbouring slots in at most a cache line's
//! bytes, and in one line, where no header moves its node by half of one.
//!
//! A unit keeps its slots as runs of equal results, in one of these forms; a node is
//! 2^k units side by side, and k is its *split*:
//!
//! | form | bytes | runs | ends of runs | `inherit` | results |
//! |---|---|---|---|---|---|
//! | narrow | 16 | 5 | at 0 | at 4 | at 6, of two bytes: codes only |
//! | narrow | 32 | 9 | at 0 | at 8 | at 10 |
//! | narrow | 64 | 21 | at 0 | at 20 | at 22 |
//! | narrow, flat | 2 | 1 | | | at 0 |
//! | wide | 32 | 5 | at 0 | at 4 | at 8, of four bytes: any slot |
//! | wide | 64 | 12 | at 0 | at 12 | at 16 |
//! | wide, flat | 4 | 1 | | | at 0 |
//!
//! The end of a run is the low seven bits of its last slot under a guard bit, in a
//! byte; the last run has none, lanes that are left over hold the largest. All ends
//! of a word are compared with a slot by one subtraction that cannot carry, and the
//! guards that it takes are counted by one multiplication: no branch depends on what
//! a unit holds, and no instruction that counts bits is needed. Numbers are little
//! endian.

use super::node::{Slot, index};

mod paint;

pub(super) use paint::{Runs, Stretch, paint, runs};

/// The form's bit that says that results have four bytes; the others are the
/// logarithm of the unit's size.
pub(super) const WIDE: usize = 8;
/// Results of two and four bytes without ends.
pub(super) const FLAT: usize = 1;
pub(super) const FLAT_WIDE: usize = WIDE | 2;
/// Units of 64 bytes have ends in more than one word.
const LINE: usize = 6;

/// A one in each lane.
const ONES: u64 = 0x0101_0101_0101_0101;
pub(super) const GUARD: u8 = 0x80;
/// The bit that lenses begin at: the logarithm of their size, which saves a shift.
pub(super) const LENS: u32 = 6;
/// The low bits of a slot's number: no unit has more slots.
const LOW: u8 = 0x7f;

/// Ends of runs that a unit of a form has room for.
const fn ends(form: usize) -> usize {
    match form {
        4 | 13 => 4,
        5 => 8,
        6 => 20,
        14 => 11,
        _ => 0,
    }
}

/// Where results begin in a unit of each form.
const RESULTS: [u8; 16] = [0, 0, 0, 0, 6, 10, 22, 0, 0, 0, 0, 0, 0, 8, 16, 0];

/// The guards of the ends that each form has.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const GUARDS: [[u64; 3]; 16] = {
    let mut guards = [[0; 3]; 16];
    let mut form = 0;
    while form < 16 {
        let mut end = 0;
        while end < ends(form) {
            guards[form][end / 8] |= 0x80 << (end % 8 * 8);
            end += 1;
        }
        form += 1;
    }
    guards
};

/// How to look into a unit through the granule that it begins in.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Lens {
    /// Ones where the granule has an end of the unit's.
    ends: [u8; 32],
    /// The pair that the results begin with.
    results: usize,
}

/// For each form, and again for each whose unit begins in the granule's second half.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static LENSES: [Lens; 32] = {
    let none = Lens {
        ends: [0; 32],
        results: 0,
    };
    let mut lenses = [none; 32];
    let mut lens = 0;
    while lens < 32 {
        let form = lens & 15;
        let first = lens / 16 * 16;
        let mut end = 0;
        while end < ends(form) && first + end < 32 {
            lenses[lens].ends[first + end] = 1;
            end += 1;
        }
        lenses[lens].results = RESULTS[form] as usize / 2;
        lens += 1;
    }
    lenses
};

/// Runs that a unit of a form has room for.
pub(super) const fn capacity(form: usize) -> usize {
    ends(form) + 1
}

/// Bytes of a result of a form, as their logarithm.
#[inline(always)]
const fn width(form: usize) -> usize {
    1 + (form >> 3)
}

/// Where results begin in a unit of a form.
#[inline(always)]
fn results(form: usize) -> usize {
    usize::from(RESULTS.get(form & 15).copied().unwrap_or(0))
}

/// Where `inherit` is in a unit of a form that is not flat.
#[inline(always)]
pub(super) fn inherit(form: usize) -> usize {
    results(form).wrapping_sub(1 << width(form))
}

/// Guards of the ends that lie before a slot, each in its lane's lowest bit.
#[inline(always)]
fn before(ends: &[u8; 8], guards: u64, slot: u64) -> u64 {
    (!u64::from_le_bytes(*ends).wrapping_sub(slot) & guards) >> 7
}

/// The pair of bytes that a slot's result begins with, where the unit of this form
/// begins with the pair `unit`; `None` behind the end of the memory.
#[inline(always)]
fn find(bytes: &[u8], unit: usize, form: usize, slot: u8) -> Option<usize> {
    let slot = u64::from(slot & LOW) * ONES;
    let [first, second, third] = *GUARDS.get(form & 15)?;
    let lanes = if form & 7 == LINE {
        // A header before it moves a node by half a line.
        let (halves, _) = bytes.as_chunks::<32>();
        let (words, _) = halves.get(unit / 16)?.as_chunks();
        let [a, b, c, ..] = words else { return None };
        before(a, first, slot) + before(b, second, slot) + before(c, third, slot)
    } else {
        let (units, _) = bytes.as_chunks::<16>();
        before(units.get(unit / 8)?.first_chunk()?, first, slot)
    };
    let [.., run] = lanes.wrapping_mul(ONES).to_le_bytes();
    Some(unit + results(form) / 2 + (usize::from(run) << (width(form) - 1)))
}

/// The result in a slot, where the slot's unit of this form begins with this pair of
/// bytes.
#[inline(always)]
pub(super) fn get(bytes: &[u8], unit: usize, form: usize, slot: u8) -> Slot {
    match find(bytes, unit, form, slot) {
        Some(pair) => read(bytes, form, pair),
        None => 0,
    }
}

/// The pair that a unit's results begin with, and the number of the run that has a slot;
/// `None` behind the end of the memory. Unlike in [`find`], no branch depends on the
/// form, so that those of many lookups are never taken wrong, and all bytes of a granule
/// are compared at once, where the processor can. `lens` has the form from the bit
/// [`LENS`] on, and above it whether the unit begins in a granule's second half; `end`
/// is the slot's low seven bits under a guard.
#[inline(always)]
fn find_run(bytes: &[u8], unit: usize, lens: u32, end: u8) -> Option<(usize, u8)> {
    let (granules, _) = bytes.as_chunks::<32>();
    let granule = granules.get(unit / 16)?;
    let lens = LENSES.get(usize::try_from(lens >> LENS & 31).unwrap_or(0))?;
    let slot = end.cast_signed();
    let mut run = 0u8;
    for (end, one) in granule.iter().zip(&lens.ends) {
        let before = u8::from(end.cast_signed() < slot);
        run = run.wrapping_add(0u8.wrapping_sub(before) & *one);
    }
    Some((unit + lens.results, run))
}

/// The result of a narrow unit, by [`find_run`].
#[inline(always)]
pub(super) fn get_narrow(bytes: &[u8], unit: usize, lens: u32, end: u8) -> Option<u32> {
    let (first, run) = find_run(bytes, unit, lens, end)?;
    let (codes, _) = bytes.as_chunks();
    let code = codes.get(first + usize::from(run))?;
    Some(u32::from(u16::from_le_bytes(*code)))
}

/// The result of a wide unit, by [`find_run`].
#[inline(always)]
pub(super) fn get_wide(bytes: &[u8], unit: usize, lens: u32, end: u8) -> Option<Slot> {
    let (first, run) = find_run(bytes, unit, lens, end)?;
    let (slots, _) = bytes.as_chunks();
    let slot = slots.get(first / 2 + usize::from(run))?;
    Some(u32::from_le_bytes(*slot))
}

/// Writes the result of the run that has a slot.
pub(super) fn set(bytes: &mut [u8], unit: usize, form: usize, slot: u8, result: Slot) {
    if let Some(pair) = find(bytes, unit, form, slot) {
        write(bytes, form, 2 * pair, result);
    }
}

/// The result that begins with this pair of bytes.
#[inline(always)]
pub(super) fn read(bytes: &[u8], form: usize, pair: usize) -> Slot {
    if form & WIDE == 0 {
        let (codes, _) = bytes.as_chunks();
        let code = codes.get(pair);
        code.map_or(0, |code| u32::from(u16::from_le_bytes(*code)))
    } else {
        let (slots, _) = bytes.as_chunks();
        let slot = slots.get(pair / 2);
        slot.map_or(0, |slot| u32::from_le_bytes(*slot))
    }
}

/// Writes a result; one that does not fit the form is none of its.
pub(super) fn write(bytes: &mut [u8], form: usize, at: usize, slot: Slot) {
    let bytes = bytes.get_mut(at..).unwrap_or_default();
    if form & WIDE == 0 {
        if let (Some(two), Ok(code)) = (bytes.first_chunk_mut(), u16::try_from(slot)) {
            *two = code.to_le_bytes();
        }
    } else if let Some(four) = bytes.first_chunk_mut() {
        *four = slot.to_le_bytes();
    }
}

/// Writes out the slots of a unit; `first` is the number of the first one.
pub(super) fn decode(unit: &[u8], form: usize, first: u8, slots: &mut [Slot]) {
    let mut from = 0;
    let ends = unit.get(..ends(form)).unwrap_or_default();
    for run in 0..capacity(form) {
        // The last run's end is not there: it goes as far as the unit.
        let end = ends.get(run).map_or(LOW, |end| end & LOW);
        let upto = usize::from(end.saturating_sub(first & LOW)) + 1;
        let upto = upto.min(slots.len());
        let result = read(unit, form, (results(form) + (run << width(form))) / 2);
        slots.get_mut(from..upto).unwrap_or_default().fill(result);
        from = upto;
        if from >= slots.len() {
            break;
        }
    }
}

/// Marks those of sixteen slots that differ from the one before them.
pub(super) fn changes(slots: &[Slot; 16], before: Slot) -> u16 {
    let [earlier @ .., _] = slots;
    let (mut marks, mut bit) = (u16::from(slots.first() != Some(&before)), 1);
    // A sum of bits, which the compiler makes a few comparisons of four slots each.
    for (slot, earlier) in slots.iter().skip(1).zip(earlier) {
        bit <<= 1;
        marks |= if slot == earlier { 0 } else { bit };
    }
    marks
}

/// Writes a unit of its slots, sixteen or a multiple, and returns the number of runs;
/// `None` when there are too many: then it is as it was. `first` is the number of the
/// first slot.
pub(super) fn encode(unit: &mut [u8], form: usize, first: u8, slots: &[Slot]) -> Option<usize> {
    let mut runs = [(0, 0); capacity(LINE)];
    let runs = runs.get_mut(..capacity(form))?;
    let mut count = 0;
    let mut result = slots.first().copied().unwrap_or(0);
    let (sixteens, _) = slots.as_chunks();
    for (number, sixteen) in (first & LOW..).step_by(16).zip(sixteens) {
        // What the slot before has.
        let mut marks = changes(sixteen, result);
        while marks != 0 {
            let at = marks.trailing_zeros();
            let end = number
                .wrapping_add(u8::try_from(at).unwrap_or(0))
                .wrapping_sub(1);
            *runs.get_mut(count)? = (end | GUARD, result);
            count += 1;
            result = sixteen.get(index(at)).copied().unwrap_or(0);
            marks &= marks - 1;
        }
    }
    *runs.get_mut(count)? = (LOW | GUARD, result);
    for (number, (end, slot)) in runs.iter().take(count + 1).enumerate() {
        if number < ends(form)
            && let Some(place) = unit.get_mut(number)
        {
            *place = *end;
        }
        let at = results(form) + (number << width(form));
        write(unit, form, at, *slot);
    }
    let rest = unit.get_mut(count + 1..ends(form));
    rest.unwrap_or_default().fill(LOW | GUARD);
    Some(count + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form with as many runs as it holds, one more, and fewer.
    #[test]
    fn units_give_back_what_was_put_in() {
        for (form, split) in [(4, 1), (4, 4), (5, 1), (6, 2), (13, 1), (14, 2), (14, 1)] {
            let slots = 256usize >> split;
            for runs in 1..=capacity(form) + 1 {
                for unit_number in 0..1u8 << split {
                    let first = unit_number << (8 - split);
                    let result = |slot: usize| {
                        let run = (slot * runs / slots).min(runs - 1);
                        u32::try_from(run).unwrap() + 1
                    };
                    let given: heapless::Vec<Slot, 128> = (0..slots).map(result).collect();
                    let mut unit = [0xee; 64];
                    let fits = encode(&mut unit, form, first, &given);
                    let expected = runs.min(slots);
                    let expected = (expected <= capacity(form)).then_some(expected);
                    assert_eq!(fits, expected, "{form} {runs}");
                    if fits.is_none() {
                        assert_eq!(unit, [0xee; 64]);
                        continue;
                    }
                    let mut back = [0; 128];
                    let back = back.get_mut(..slots).unwrap();
                    decode(&unit, form, first, back);
                    assert_eq!(back, given.as_slice());
                    for (slot, given) in (first..=255).zip(&given) {
                        let found = get(&unit, 0, form, slot);
                        assert_eq!(found, *given, "{form} {runs} {slot}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_units_hold_does_not_overlap() {
        for (form, bytes) in [(4, 16), (5, 32), (6, 64), (13, 32), (14, 64)] {
            assert!(ends(form) <= inherit(form));
            assert_eq!(inherit(form) + (1 << width(form)), results(form));
            assert!(results(form) + (capacity(form) << width(form)) <= bytes);
        }
    }
}
