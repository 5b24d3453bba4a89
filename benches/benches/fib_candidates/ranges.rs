//! What all builders start from: the routes as sorted disjoint ranges of addresses.

use crate::routes::{Key, Route};

/// The addresses from `start` (left-aligned) to the next range's.
#[derive(Clone, Copy)]
pub struct Range {
    pub start: u128,
    /// The next hop, 0 without a route.
    pub hop: u16,
}

/// The routes' ranges: the first starts at 0, neighbours have different next hops.
pub fn ranges<K: Key>(routes: &[Route<K>]) -> Vec<Range> {
    let route = |(bits, length, hop): &Route<K>| (bits.wide(), *length, *hop);
    let mut sorted: Vec<(u128, u8, u32)> = routes.iter().map(route).collect();
    sorted.sort_unstable();
    let mut found = Vec::new();
    // Last addresses and next hops of the prefixes around the place.
    let mut around = vec![(u128::MAX, 0)];
    push(&mut found, 0, 0);
    for (start, length, hop) in sorted {
        leave(&mut found, &mut around, start);
        push(&mut found, start, hop);
        let host_bits = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        around.push((start | host_bits, hop));
    }
    leave(&mut found, &mut around, u128::MAX);
    found
}

/// Ends the prefixes whose last address is before `place`.
fn leave(found: &mut Vec<Range>, around: &mut Vec<(u128, u32)>, place: u128) {
    while let Some((last, _)) = around.pop_if(|(last, _)| *last < place) {
        let (_, hop) = around.last().expect("all addresses are around");
        push(found, last + 1, *hop);
    }
}

fn push(found: &mut Vec<Range>, start: u128, hop: u32) {
    let hop = u16::try_from(hop).expect("a small next hop");
    found.pop_if(|last| last.start == start);
    if found.last().is_none_or(|last| last.hop != hop) {
        found.push(Range { start, hop });
    }
}

/// The slots of `stride` bits behind the `depth` bits of `base`, each with its first
/// address and the ranges in it; `of` are those of all slots. Slots behind an address's
/// last bit are alike.
pub fn slots(
    of: &[Range],
    base: u128,
    depth: u32,
    stride: u32,
) -> impl Iterator<Item = (u128, &[Range])> {
    let over = (depth + stride).saturating_sub(128);
    let bits = 128 + over - depth - stride;
    let (mut first, mut last) = (0, 0);
    (0..1u128 << stride).map(move |slot| {
        let start = base | ((slot >> over) << bits);
        let end = start | ((1 << bits) - 1);
        let starts_by = |range: usize, at| of.get(range).is_some_and(|range| range.start <= at);
        while starts_by(first + 1, start) {
            first += 1;
        }
        while starts_by(last + 1, end) {
            last += 1;
        }
        (start, &of[first..=last])
    })
}

/// A key whose bits are taken from the left.
pub trait Path: Key {
    type Rest: Copy;
    fn rest(self) -> Self::Rest;
    /// The next bits as a number; zeros follow the last one.
    fn take<const BITS: u32>(rest: &mut Self::Rest) -> usize;
}

impl Path for u32 {
    type Rest = u64;

    #[inline(always)]
    fn rest(self) -> u64 {
        u64::from(self) << 32
    }

    #[inline(always)]
    fn take<const BITS: u32>(rest: &mut u64) -> usize {
        let field = *rest >> (64 - BITS);
        *rest <<= BITS;
        field as usize
    }
}

impl Path for u128 {
    type Rest = u128;

    #[inline(always)]
    fn rest(self) -> u128 {
        self
    }

    #[inline(always)]
    fn take<const BITS: u32>(rest: &mut u128) -> usize {
        let field = *rest >> (128 - BITS);
        *rest <<= BITS;
        field as usize
    }
}

/// A number of things that a packed word can hold.
pub fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("fewer than 2^32")
}
