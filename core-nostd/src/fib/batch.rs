//! Batches of lookups where 16 bits choose the root slot, a step for all at a time.
//!
//! What a lookup waits for is memory, and a processor waits for many lines at once, if
//! it meets the loads soon enough: so each loop here does one small thing for all
//! addresses of a batch, and the one that touches the lines does nothing else.

use core::hint::black_box;

use super::family::WIDE;
use super::node::{CODES, NODE, Nodes, SKIP, Slot, code, index, inherited, narrow_code};

/// Addresses that are looked up at a time.
pub(super) const BATCH: usize = 64;

/// The code in a slot of a node that skips nothing, or what it inherits; 0 where that
/// is not all.
#[inline(always)]
fn first_code(bytes: &[u8], node: Slot, unit: u32, slot: u8) -> u32 {
    if !(NODE..SKIP).contains(&node) {
        return 0;
    }
    let found = code(bytes, node, unit, slot);
    if found == 0 {
        return inherited(bytes, node, unit);
    }
    if found < CODES { found } else { 0 }
}

/// The codes of addresses for which a root slot and one node are enough; 0 for others.
/// Returns whether there are no others.
#[inline(never)]
pub(super) fn first_nodes(
    bytes: &[u8],
    table: &[Slot; WIDE],
    addresses: &[u32; BATCH],
    codes: &mut [u32; BATCH],
) -> bool {
    let mut slots = [0; BATCH];
    for (slot, address) in slots.iter_mut().zip(addresses) {
        let [a, b, ..] = address.to_be_bytes();
        let found = table.get(usize::from(u16::from_be_bytes([a, b])));
        *slot = found.copied().unwrap_or(0);
    }
    let mut units = [0u32; BATCH];
    for ((unit, slot), address) in units.iter_mut().zip(&slots).zip(addresses) {
        let [_, _, third, _] = address.to_be_bytes();
        // Codes lead nowhere.
        let node = if *slot < NODE { 0 } else { *slot };
        *unit = Nodes::unit(node, third);
    }
    let (pairs, _) = bytes.as_chunks();
    let mut touched = 0;
    for unit in &units {
        let pair: &[u8; 2] = pairs.get(index(*unit)).unwrap_or(&[0; 2]);
        touched ^= u16::from_ne_bytes(*pair);
    }
    black_box(touched);
    // Those that are not done: mostly few.
    let mut others = [0; BATCH];
    let mut count = 0;
    let of_each = slots.iter().zip(&units).zip(addresses);
    for (number, (code, ((slot, unit), address))) in (0u8..).zip(codes.iter_mut().zip(of_each)) {
        let [_, _, third, _] = address.to_be_bytes();
        *code = if *slot < NODE {
            *slot
        } else if Nodes::is_narrow(*slot) {
            narrow_code(bytes, *slot, *unit, third)
        } else {
            0
        };
        if let Some(other) = others.get_mut(count % BATCH) {
            *other = number;
        }
        count += usize::from(*code == 0);
    }
    let mut all = true;
    for number in others.iter().take(count) {
        let number = usize::from(*number) % BATCH;
        let slot = slots.get(number).copied().unwrap_or(0);
        if let (Some(code), Some(unit), Some(address)) = (
            codes.get_mut(number),
            units.get(number),
            addresses.get(number),
        ) {
            let [_, _, third, _] = address.to_be_bytes();
            *code = first_code(bytes, slot, *unit, third);
            all &= *code != 0;
        }
    }
    all
}
