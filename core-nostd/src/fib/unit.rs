//! Units of nodes: the results of 1 to 128 neighbouring slots in at most one cache line.
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

use super::node::Slot;

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
const GUARD: u8 = 0x80;
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

/// The word at a place.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    u64::from_le_bytes(*word.unwrap_or(&[0; 8]))
}

/// Guards of the ends that lie before a slot, each in its lane's lowest bit.
#[inline(always)]
fn before(ends: u64, guards: u64, slot: u64) -> u64 {
    (!ends.wrapping_sub(slot) & guards) >> 7
}

/// The place of a slot's result, where the slot's unit of this form begins at `at`.
#[inline(always)]
pub(super) fn place(bytes: &[u8], at: usize, form: usize, slot: u8) -> usize {
    let slot = u64::from(slot & LOW) * ONES;
    let [first, second, third] = GUARDS.get(form & 15).copied().unwrap_or_default();
    let lanes = if form & 7 == LINE {
        let line = bytes.get(at..).and_then(<[u8]>::first_chunk::<24>);
        let line = line.unwrap_or(&[0; 24]);
        before(word(line, 0), first, slot)
            + before(word(line, 8), second, slot)
            + before(word(line, 16), third, slot)
    } else {
        before(word(bytes, at), first, slot)
    };
    let [.., run] = lanes.wrapping_mul(ONES).to_le_bytes();
    at + results(form) + (usize::from(run) << width(form))
}

/// What is at the place of a result.
#[inline(always)]
pub(super) fn read(bytes: &[u8], form: usize, at: usize) -> Slot {
    if form & WIDE == 0 {
        read_narrow(bytes, at)
    } else {
        let four = bytes.get(at..).and_then(<[u8]>::first_chunk);
        u32::from_le_bytes(*four.unwrap_or(&[0; 4]))
    }
}

/// The same, for results of two bytes.
#[inline(always)]
pub(super) fn read_narrow(bytes: &[u8], at: usize) -> Slot {
    let two = bytes.get(at..).and_then(<[u8]>::first_chunk);
    u32::from(u16::from_le_bytes(*two.unwrap_or(&[0; 2])))
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
        let result = read(unit, form, results(form) + (run << width(form)));
        slots.get_mut(from..upto).unwrap_or_default().fill(result);
        from = upto;
        if from >= slots.len() {
            break;
        }
    }
}

/// Writes a unit of its slots and returns the number of runs; `None` when there are too
/// many: then it is as it was. `first` is the number of the first slot.
pub(super) fn encode(unit: &mut [u8], form: usize, first: u8, slots: &[Slot]) -> Option<usize> {
    let mut runs = [(0, 0); capacity(LINE)];
    let runs = runs.get_mut(..capacity(form))?;
    let mut count = 0;
    for (number, pair) in (first & LOW..).zip(slots.windows(2)) {
        if let [slot, next] = pair
            && slot != next
        {
            *runs.get_mut(count)? = (number | GUARD, *slot);
            count += 1;
        }
    }
    *runs.get_mut(count)? = (LOW | GUARD, slots.last().copied().unwrap_or(0));
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
                        let at = place(&unit, 0, form, slot);
                        assert_eq!(read(&unit, form, at), *given, "{form} {runs} {slot}");
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
