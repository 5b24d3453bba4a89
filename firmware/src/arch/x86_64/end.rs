//! Off and on: isa-debug-exit where the emulator has it, ACPI's registers.

use core::arch::asm;
use core::ptr;

use super::ports;

/// isa-debug-exit: QEMU ends with twice what is written here and one.
const DEBUG_EXIT: u16 = 0xf4;

/// ACPI's sleep control register, and what switches off: SLP_EN, SLP_TYP 5.
const SLEEP_CONTROL: usize = 0xfea0_0200;
const OFF: u8 = 1 << 5 | 5 << 2;

/// ACPI's reset register, and what resets.
const RESET: usize = 0xfea0_0202;
const RESET_NOW: u8 = 0x42;

/// Ends with a status: QEMU exits with twice this and one when it has isa-debug-exit,
/// any other machine is switched off.
pub fn exit(status: u8) -> ! {
    // SAFETY: whoever is there, if anybody, ends everything.
    unsafe { ports::write32(DEBUG_EXIT, status.into()) };
    acpi(SLEEP_CONTROL, OFF);
    stop()
}

/// Starts the machine anew.
pub fn restart() -> ! {
    acpi(RESET, RESET_NOW);
    stop()
}

/// Writes one of ACPI's registers.
fn acpi(register: usize, value: u8) {
    let register = ptr::with_exposed_provenance_mut::<u8>(register);
    // SAFETY: `microvm` has these registers there, which touch no memory.
    unsafe { register.write_volatile(value) };
}

/// Nothing more. The emulator may take a moment before it stops the processor; a
/// machine without ACPI waits for ever.
fn stop() -> ! {
    loop {
        // SAFETY: waits, with interrupts masked.
        unsafe { asm!("hlt", options(nomem, nostack, preserves_flags)) };
    }
}
