//! Interrupts: the processor's own controller and the machine's. Lines only wake the
//! processor: the handlers note who called.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::registers::Registers;

use super::SLOTS;

// SAFETY: the local APIC is there; nothing of it touches memory, and interrupts go to
// the handlers of `fault` only.
pub(super) const LOCAL: Registers<0x400> = unsafe { Registers::new(0xfee0_0000) };
// SAFETY: the I/O APIC of `microvm` is there; as above.
const IO: Registers<0x20> = unsafe { Registers::new(0xfec0_0000) };

/// Spurious-interrupt vector, and the bit that switches the APIC on.
const SPURIOUS: usize = 0xf0;
const ON: u32 = 1 << 8;

const IO_SELECT: usize = 0x00;
const IO_WINDOW: usize = 0x10;
/// First word of a line's entry; the second says which processor.
const IO_ENTRIES: u32 = 0x10;

/// The first slot's line, with ACPI and without a second I/O APIC.
const FIRST_LINE: u32 = 16;

/// Vectors of the handlers that note: as many as [`WAKERS`] has bits.
pub(super) const FIRST_VECTOR: u32 = 32;
/// The timer's, the last of them.
pub(super) const TIMER_VECTOR: u32 = 63;
/// The vector that means nothing.
pub(super) const SPURIOUS_VECTOR: u32 = 0xff;

/// Who has called since it was last asked, by vector.
pub(super) static WAKERS: AtomicU32 = AtomicU32::new(0);

pub(super) fn start() {
    LOCAL.write(SPURIOUS, ON | SPURIOUS_VECTOR);
}

/// Lets a slot's device end [`super::sleep_until`].
///
/// # Panics
/// When there is no such slot.
pub fn enable_interrupt(slot: usize) {
    assert!(slot < SLOTS);
    let slot = u32::try_from(slot).unwrap_or(0);
    let entry = IO_ENTRIES + (FIRST_LINE + slot) * 2;
    // To processor 0; edge-triggered, so that the handler need not know the device.
    for (register, value) in [(entry + 1, 0), (entry, FIRST_VECTOR + slot)] {
        IO.write(IO_SELECT, register);
        IO.write(IO_WINDOW, value);
    }
}

/// The slots whose interrupt has asked for attention since the last call, one bit each.
/// One that comes before its device is told of the last does not show.
pub fn wakers() -> u32 {
    WAKERS.swap(0, Ordering::Relaxed) & ((1 << SLOTS) - 1)
}
