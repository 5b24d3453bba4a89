//! How much of the stack was ever in use: it is painted before anything runs.

use core::hint::black_box;
use core::ptr;

/// What is in a word that nobody has used.
const PAINT: u64 = 0x5afe_57ac_5afe_57ac;
/// Bytes below the painter's own frame that are left alone: its calls may use them.
const OWN: usize = 512;

unsafe extern "C" {
    /// The stack's lowest byte, of the linker script.
    static stack_begin: u8;
    /// The byte behind the stack.
    static stack_end: u8;
}

/// The stack's lowest address and the one behind it.
fn bounds() -> (usize, usize) {
    let begin = (&raw const stack_begin).expose_provenance();
    let end = (&raw const stack_end).expose_provenance();
    (begin, end)
}

/// Paints what is free of the stack.
pub(super) fn paint() {
    let here = 0u64;
    let top = (&raw const *black_box(&here)).addr() - OWN;
    for address in (bounds().0..top & !7).step_by(8) {
        let word = ptr::with_exposed_provenance_mut::<u64>(address);
        // SAFETY: the word lies in the stack below everything that is in use; volatile,
        // so that the loop is not made a call with a frame of its own.
        unsafe { word.write_volatile(PAINT) };
    }
}

/// The most bytes of stack that were ever in use.
pub fn high_water() -> u32 {
    let (begin, end) = bounds();
    let unused = (begin..end)
        .step_by(8)
        .take_while(|&address| {
            let word = ptr::with_exposed_provenance::<u64>(address);
            // SAFETY: the word lies in the stack, and painted words are not in use by
            // anybody: the first other one ends this.
            unsafe { word.read_volatile() == PAINT }
        })
        .count();
    u32::try_from(end - begin - unused * 8).unwrap_or(u32::MAX)
}
