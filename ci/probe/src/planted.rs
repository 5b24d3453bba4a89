//! Faults for the check to find: from each function here, but those whose name
//! begins with `clean`, panic machinery or an allocator is reached.

use alloc::boxed::Box;
use core::hint::black_box;

/// An index that may be out of bounds.
#[inline(never)]
pub fn panic_by_index(bytes: &[u8], at: usize) -> Option<u8> {
    Some(bytes[at])
}

/// Slices that may differ in length.
#[inline(never)]
pub fn panic_by_copy(to: &mut [u8], from: &[u8]) {
    to.copy_from_slice(from);
}

/// A divisor that may be zero.
#[inline(never)]
pub fn panic_by_division(a: usize, b: usize) -> usize {
    a / b
}

/// A panic two calls away.
#[inline(never)]
pub fn panic_in_callee(bytes: &[u8], at: usize) -> u32 {
    black_box(middle(bytes, at)) + 1
}

#[inline(never)]
fn middle(bytes: &[u8], at: usize) -> u32 {
    black_box(u32::from(panic_by_index(bytes, at).unwrap_or(3))) + 2
}

/// A panic behind a table of functions: reached through data only.
#[inline(never)]
pub fn panic_through_table(choice: usize, a: usize, b: usize) -> usize {
    static TABLE: [fn(usize, usize) -> usize; 2] = [usize::wrapping_add, panic_by_division];
    TABLE.get(choice).map_or(0, |function| function(a, b))
}

trait Look {
    fn look(&self, at: usize) -> u8;
}

struct Bytes([u8; 4]);

impl Look for Bytes {
    #[inline(never)]
    fn look(&self, at: usize) -> u8 {
        self.0[at]
    }
}

/// A panic behind a vtable.
#[inline(never)]
pub fn panic_through_vtable(at: usize) -> u8 {
    let look: &dyn Look = &Bytes([1, 2, 3, 4]);
    black_box(look).look(at)
}

/// A box.
#[inline(never)]
pub fn allocation(value: u64) -> Box<u64> {
    Box::new(value)
}

/// A box behind a callee.
#[inline(never)]
pub fn allocation_in_callee(value: u64) -> u64 {
    *black_box(allocation(value)) + 1
}

/// Nothing: found here, a fault would be the check's own.
#[inline(never)]
pub fn clean(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

/// Nothing but memory functions, which are the compiler's.
#[inline(never)]
pub fn clean_copy(to: &mut [u8; 512], from: &[u8; 512]) {
    to.copy_from_slice(from);
}
