//! Writes one result over neighbouring slots of a unit, without taking it apart: a few
//! runs move, where going over the slots would cost as much as the rest of an update.

use super::{GUARD, GUARDS, LINE, LOW, ONES, Slot, WIDE, before, capacity, ends, results, width};

/// Runs of a unit before and after slots were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Runs {
    pub(in super::super) before: usize,
    pub(in super::super) after: usize,
}

/// Some neighbouring slots of a unit, as the low bits of their numbers.
#[derive(Clone, Copy)]
pub(in super::super) struct Stretch {
    /// The first and the last one.
    pub(in super::super) from: u8,
    pub(in super::super) upto: u8,
    /// Those of the whole unit.
    pub(in super::super) first: u8,
    pub(in super::super) last: u8,
}

/// The words that have the ends of a unit's runs, and the guards of these.
struct Ends {
    words: [[u8; 8]; 3],
    guards: [u64; 3],
}

impl Ends {
    fn of(unit: &[u8], form: usize) -> Option<Self> {
        let mut words = [[0; 8]; 3];
        let (given, _) = unit.as_chunks();
        if form & 7 == LINE {
            words = *given.first_chunk()?;
        } else if let (Some(word), [given, ..]) = (words.first_mut(), given) {
            // Small units end behind their only word of ends.
            *word = *given;
        }
        let guards = *GUARDS.get(form & 15)?;
        Some(Ends { words, guards })
    }

    /// Ends that lie before a slot: the number of the run that has it.
    fn before(&self, slot: u8) -> usize {
        let slot = u64::from(slot & LOW) * ONES;
        let words = self.words.iter().zip(self.guards);
        let lanes: u64 = words.map(|(word, guards)| before(word, guards, slot)).sum();
        let [.., run] = lanes.wrapping_mul(ONES).to_le_bytes();
        usize::from(run)
    }

    /// Runs of the unit; the lanes that are left over lie before no slot.
    fn runs(&self) -> usize {
        self.before(LOW) + 1
    }
}

/// Runs of a unit.
pub(in super::super) fn runs(unit: &[u8], form: usize) -> usize {
    Ends::of(unit, form).map_or(1, |ends| ends.runs())
}

/// Writes a result over slots of a unit, so that it holds what [`super::encode`] would
/// write; `None` when there are too many runs then, or the result does not fit the
/// form: it is as it was.
pub(in super::super) fn paint(
    unit: &mut [u8],
    form: usize,
    stretch: Stretch,
    result: Slot,
) -> Option<Runs> {
    if form & WIDE == 0 {
        let code = u16::try_from(result).ok()?;
        paint_form(unit, form, stretch, code.to_le_bytes())
    } else {
        paint_form(unit, form, stretch, result.to_le_bytes())
    }
}

fn paint_form<const BYTES: usize>(
    unit: &mut [u8],
    form: usize,
    stretch: Stretch,
    new: [u8; BYTES],
) -> Option<Runs> {
    let old = Ends::of(unit, form)?;
    let (mut from, mut upto) = (old.before(stretch.from), old.before(stretch.upto));
    let before = old.runs();
    let (ends, results) = split(unit, form)?;
    let first = match from.checked_sub(1) {
        Some(earlier) => (ends.get(earlier)? & LOW) + 1,
        None => stretch.first,
    };
    let last = match ends.get(upto) {
        Some(end) if upto + 1 < before => end & LOW,
        _ => stretch.last,
    };
    // What is left of the runs on both sides, if it is not one with the new run.
    let mut left = first < stretch.from;
    if left {
        left = *results.get(from)? != new;
    } else if from > 0 && *results.get(from - 1)? == new {
        from -= 1;
    }
    let mut right = stretch.upto < last;
    if right {
        right = *results.get(upto)? != new;
    } else if upto + 1 < before && *results.get(upto + 1)? == new {
        upto += 1;
    }
    let at = from + usize::from(left);
    let behind = upto + usize::from(!right);
    let after = at + 1 + before.checked_sub(behind)?;
    if after > capacity(form) {
        return None;
    }
    // The new run or the right one ends where the last of the old ones did.
    shift(ends, upto, at + usize::from(right), before - 1 - upto);
    shift(results, behind, at + 1, before - behind);
    if left {
        *ends.get_mut(from)? = stretch.from.wrapping_sub(1) | GUARD;
    }
    if right {
        *ends.get_mut(at)? = stretch.upto | GUARD;
    }
    *results.get_mut(at)? = new;
    if after < before {
        ends.get_mut(after - 1..before - 1)?.fill(LOW | GUARD);
    }
    Some(Runs { before, after })
}

/// The ends of a unit's runs and their results.
fn split<const BYTES: usize>(
    unit: &mut [u8],
    form: usize,
) -> Option<(&mut [u8], &mut [[u8; BYTES]])> {
    debug_assert_eq!(BYTES, 1 << width(form));
    let (head, rest) = unit.split_at_mut_checked(results(form))?;
    let (results, _) = rest.as_chunks_mut();
    Some((
        head.get_mut(..ends(form))?,
        results.get_mut(..capacity(form))?,
    ))
}

/// Moves `count` items to another place, which may overlap.
fn shift<T: Copy>(items: &mut [T], from: usize, to: usize, count: usize) {
    let mut copy = |number: usize| {
        if let Some(item) = items.get(from + number).copied()
            && let Some(place) = items.get_mut(to + number)
        {
            *place = item;
        }
    };
    if to < from {
        (0..count).for_each(&mut copy);
    } else if to > from {
        (0..count).rev().for_each(&mut copy);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Random;
    use super::super::{decode, encode, inherit};
    use super::*;

    const FORMS: [usize; 5] = [4, 5, 6, 13, 14];

    /// What `encode` makes of the same slots.
    fn expected(
        unit: &[u8; 64],
        form: usize,
        (stretch, result): (Stretch, Slot),
    ) -> (Option<Runs>, [u8; 64]) {
        let mut slots = [0; 128];
        let slots = &mut slots[..=usize::from(stretch.last - stretch.first)];
        decode(unit, form, stretch.first, slots);
        let runs = |slots: &[Slot]| 1 + slots.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let before = runs(slots);
        let at = |slot: u8| usize::from(slot - stretch.first);
        slots[at(stretch.from)..=at(stretch.upto)].fill(result);
        let mut made = *unit;
        let after = encode(&mut made, form, stretch.first, slots);
        if let Some(after) = after {
            assert_eq!(after, runs(slots));
        }
        (after.map(|after| Runs { before, after }), made)
    }

    /// What of a unit counts: results behind the last run do not.
    fn parts(unit: &[u8; 64], form: usize, runs: usize) -> (&[u8], &[u8], &[u8]) {
        let behind = results(form);
        (
            &unit[..ends(form)],
            &unit[inherit(form)..behind],
            &unit[behind..behind + (runs << width(form))],
        )
    }

    /// A unit of random runs, of few values so that neighbours become equal.
    fn random_unit(random: &mut Random, form: usize, split: u32, first: u8) -> ([u8; 64], u8) {
        let mut unit = [0xee; 64];
        let count = 256usize >> split;
        let mut slots = [1; 128];
        let mut changes = random.below(u64::try_from(capacity(form)).unwrap());
        loop {
            for _ in 0..changes {
                let from = usize::try_from(random.below(128)).unwrap() % count;
                let value = 1 + u32::try_from(random.below(3)).unwrap();
                let upto = from + 1 + usize::try_from(random.below(6)).unwrap();
                slots[from..upto.min(count)].fill(value);
            }
            if encode(&mut unit, form, first, &slots[..count]).is_some() {
                break;
            }
            (slots, changes) = ([1; 128], changes / 2);
        }
        let last = first + u8::try_from(count - 1).unwrap();
        (unit, last)
    }

    /// Each form and split, with runs written over until they do not fit.
    #[test]
    fn painted_runs_are_what_taking_a_unit_apart_would_write() {
        let mut random = Random(5);
        let (mut refused, mut runs_seen) = ([0u32; 16], [[0u32; 22]; 16]);
        for round in 0..60_000u32 {
            let form = FORMS[usize::try_from(round).unwrap() % FORMS.len()];
            let split = 1 + u32::try_from(random.below(4)).unwrap();
            let number = u8::try_from(random.below(1 << split)).unwrap();
            let first = (number << (8 - split)) & LOW;
            let (mut unit, last) = random_unit(&mut random, form, split, first);
            let slots = u64::from(last - first) + 1;
            for _ in 0..8 {
                let [a, b] = [0; 2].map(|_: u8| first + u8::try_from(random.below(slots)).unwrap());
                let (from, upto) = match random.below(4) {
                    0 => (a, a),
                    1 => (first, a),
                    2 => (a, last),
                    _ => (a.min(b), a.max(b)),
                };
                let stretch = Stretch {
                    from,
                    upto,
                    first,
                    last,
                };
                let result = 1 + u32::try_from(random.below(4)).unwrap();
                let (fits, made) = expected(&unit, form, (stretch, result));
                let before = unit;
                let painted = paint(&mut unit, form, stretch, result);
                assert_eq!(painted, fits, "{form} {split} {from} {upto}");
                let Some(Runs { after, .. }) = painted else {
                    assert_eq!(unit, before);
                    refused[form] += 1;
                    continue;
                };
                assert_eq!(runs(&unit, form), after);
                let [is, should] = [&unit, &made].map(|unit| parts(unit, form, after));
                assert_eq!(is, should, "{form} {split} {from} {upto}");
                runs_seen[form][after] += 1;
            }
        }
        for form in FORMS {
            assert!(refused[form] > 0, "form {form} was never full");
            let seen = &runs_seen[form][1..=capacity(form)];
            assert!(seen.iter().all(|count| *count > 0), "{form}: {seen:?}");
        }
    }

    #[test]
    fn a_result_that_is_too_large_for_a_narrow_unit_changes_nothing() {
        let mut unit = [0; 64];
        encode(&mut unit, 5, 0, &[7; 128]).unwrap();
        let before = unit;
        let stretch = Stretch {
            from: 3,
            upto: 4,
            first: 0,
            last: LOW,
        };
        assert_eq!(paint(&mut unit, 5, stretch, 1 << 16), None);
        assert_eq!(unit, before);
    }
}
