//! Leaves of IPv6: what 16 bits of an address choose, as the ends of runs and their codes.
//!
//! | leaf | bytes | runs | ends | codes |
//! |---|---|---|---|---|
//! | short | 64 | 16 | 16 of two bytes, the last unused | 16 of two bytes |
//! | long | 128 | 32 | 32 | 32 |
//!
//! An end is the last number of a run with its first bit flipped, so that signed
//! comparisons order it, which vectors have; ends that are not used are the largest.
//! Numbers are in the machine's byte order.

use zerocopy::IntoBytes;

use super::Value;
use super::bits::{Bits, Prefix};
use super::node::index;
use super::store::{Link, Store};

/// Bits in front of those that choose in a leaf, and behind these.
pub(super) const START: u8 = 32;
pub(super) const END: u8 = 48;

/// Runs in a short leaf and in a long one.
const SHORT: usize = 16;
const LONG: usize = 32;
/// Runs on the way to a leaf, before equal neighbours become one.
const PAINTED: usize = 48;
/// Prefixes that are looked at for one leaf.
const LOOKED_AT: usize = 64;

/// Bytes of a short leaf; a long one has twice as many.
pub(super) const LINE: usize = 64;

/// Bytes of the ends, or of the codes, of a short leaf.
const HALF: usize = 2 * SHORT;

/// Flips the bit that makes signed numbers order as unsigned ones.
#[inline(always)]
pub(super) fn flip(number: u16) -> i16 {
    (number ^ 0x8000).cast_signed()
}

/// A leaf as it is made, before it is written to its lines.
pub(super) struct Leaf {
    ends: [i16; LONG],
    codes: [u16; LONG],
    /// Runs in use.
    count: usize,
}

/// Runs by their ends, in order; the last one ends with the last number.
struct Runs {
    runs: heapless::Vec<(u16, u16), PAINTED>,
}

impl Runs {
    /// Gives the numbers from `first` to `last` a code; false when there is no room.
    fn paint(&mut self, first: u16, last: u16, code: u16) -> bool {
        let from = self.runs.partition_point(|(end, _)| *end < first);
        let upto = self.runs.partition_point(|(end, _)| *end < last);
        let begin = match from.checked_sub(1).and_then(|before| self.runs.get(before)) {
            Some((end, _)) => end.wrapping_add(1),
            None => 0,
        };
        let tail = self.runs.get(upto).copied();
        let head = self.runs.get(from).copied();
        let mut fresh = heapless::Vec::<(u16, u16), 3>::new();
        if let Some((_, before)) = head.filter(|_| begin < first) {
            let _ = fresh.push((first.wrapping_sub(1), before));
        }
        let _ = fresh.push((last, code));
        if let Some(tail) = tail.filter(|(end, _)| *end > last) {
            let _ = fresh.push(tail);
        }
        let mut rest = heapless::Vec::<(u16, u16), PAINTED>::new();
        let behind = self.runs.get(upto + 1..).unwrap_or_default();
        let kept = rest.extend_from_slice(behind).is_ok();
        self.runs.truncate(from);
        kept && self.runs.extend_from_slice(&fresh).is_ok()
            && self.runs.extend_from_slice(&rest).is_ok()
    }

    /// Makes equal neighbours one.
    fn join(&mut self) {
        let mut kept: usize = 0;
        for at in 0..self.runs.len() {
            let Some(run) = self.runs.get(at).copied() else {
                break;
            };
            let last = kept.checked_sub(1).and_then(|last| self.runs.get_mut(last));
            match last {
                Some(last) if last.1 == run.1 => last.0 = run.0,
                _ => {
                    if let Some(place) = self.runs.get_mut(kept) {
                        *place = run;
                    }
                    kept += 1;
                }
            }
        }
        self.runs.truncate(kept);
    }
}

/// The first and last number that a prefix covers, of those that its 16 bits behind
/// [`START`] choose.
fn range<B: Bits>(prefix: Prefix<B>) -> (u16, u16) {
    let [_, _, high, low] = prefix.bits.field(START, END - START).to_be_bytes();
    let first = u16::from_be_bytes([high, low]);
    let free = u32::from(END.saturating_sub(prefix.length.max(START)));
    let covered = 0xffffu16.checked_shr(16 - free).unwrap_or(0);
    (first, first | covered)
}

impl Leaf {
    /// What the entries below `link`, which share [`START`] bits, answer for each of
    /// the next 16 bits: 0 where these do not suffice, or no entry there does. `None`
    /// when that is everywhere, or has more runs than a leaf.
    pub(super) fn of<B: Bits, V: Value>(store: &Store<'_, B, V>, link: Link) -> Option<Self> {
        let mut runs = Runs {
            runs: heapless::Vec::new(),
        };
        let _ = runs.runs.push((u16::MAX, 0));
        let mut left = LOOKED_AT;
        let all = store.visit_while(link, END, |link, longer| {
            let Some(enough) = left.checked_sub(1) else {
                return false;
            };
            left = enough;
            let (prefix, code) = if longer {
                (store.sample(link), 0)
            } else {
                let entry = store.at(link);
                (
                    entry.map(|(prefix, _)| prefix),
                    entry.map_or(0, |(_, value)| value.code()),
                )
            };
            let (first, last) = prefix.map_or((0, 0), range);
            runs.paint(first, last, code)
        });
        runs.join();
        if !all || runs.runs.len() > LONG || runs.runs.iter().all(|(_, code)| *code == 0) {
            return None;
        }
        let mut leaf = Leaf {
            ends: [i16::MAX; LONG],
            codes: [0; LONG],
            count: runs.runs.len(),
        };
        let places = leaf.ends.iter_mut().zip(&mut leaf.codes);
        for ((end, code), (run_end, run_code)) in places.zip(&runs.runs) {
            (*end, *code) = (flip(*run_end), *run_code);
        }
        Some(leaf)
    }

    pub(super) fn is_long(&self) -> bool {
        self.count > SHORT
    }

    /// Writes it to its lines.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        let (ends, _) = self.ends.as_bytes().as_chunks::<HALF>();
        let (codes, _) = self.codes.as_bytes().as_chunks::<HALF>();
        let halves = if self.is_long() { 2 } else { 1 };
        let halves = ends.iter().take(halves).chain(codes.iter().take(halves));
        let (places, _) = bytes.as_chunks_mut::<HALF>();
        for (place, half) in places.iter_mut().zip(halves) {
            *place = *half;
        }
    }
}

/// How many ends of a leaf's first line are before a number, in eight lanes. A call, for
/// of what it sees the sum of the compiler makes scalar code.
#[inline(never)]
pub(super) fn before(line: &[u8; LINE], number: i16, long: bool) -> [i16; 8] {
    let ends: [[i16; 8]; 4] = zerocopy::transmute!(*line);
    let [first, second, ..] = ends;
    if long {
        lanes(&ends, number)
    } else {
        lanes(&[first, second], number)
    }
}

#[inline(always)]
fn lanes<const N: usize>(ends: &[[i16; 8]; N], number: i16) -> [i16; 8] {
    let mut before = [0; 8];
    for ends in ends {
        for (before, end) in before.iter_mut().zip(ends) {
            *before += i16::from(*end < number);
        }
    }
    before
}

/// The sum of the lanes: the run's number.
#[inline(always)]
pub(super) fn run(before: [i16; 8]) -> usize {
    let [low, high]: [u64; 2] = zerocopy::transmute!(before);
    let sum = (low + high).wrapping_mul(0x0001_0001_0001_0001) >> 48;
    index(u32::try_from(sum).unwrap_or(0))
}

/// The code of a run of a leaf at this line.
#[inline(always)]
pub(super) fn code(bytes: &[u8], line: usize, long: bool, run: usize) -> u32 {
    let codes = if long { LONG } else { SHORT };
    let (pairs, _) = bytes.as_chunks();
    let code = pairs.get(line * (LINE / 2) + codes + run);
    code.map_or(0, |code| u32::from(u16::from_ne_bytes(*code)))
}
