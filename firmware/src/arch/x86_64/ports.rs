//! I/O ports.

use core::arch::asm;

/// Writes a byte to a port.
///
/// # Safety
/// What the device behind it does of that touches no memory.
pub(super) unsafe fn write8(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

/// Writes 32 bits to a port.
///
/// # Safety
/// As for [`write8`].
pub(super) unsafe fn write32(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
    }
}

/// Reads a byte of a port.
///
/// # Safety
/// As for [`write8`].
pub(super) unsafe fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}
