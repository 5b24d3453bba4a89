//! QEMU's machine `mps2-an386`: ARM's MPS2 board as a Cortex-M4 at 25 MHz, with one NIC:
//! `qemu-system-arm -M mps2-an386 -cpu cortex-m4`.

mod boot;
mod clock;
mod end;
mod fault;
mod lan9118;
mod uart;

pub use clock::{enable_interrupt, instructions, micros, sleep_until};
pub use end::{exit, restart};
pub use lan9118::Lan9118;
pub use uart::{Uart, serial_write};

/// Readies the machine for [`crate::image!`]'s function.
pub(super) fn start() {
    // Interrupts are never taken: a pending one ends a sleep all the same.
    cortex_m::interrupt::disable();
    clock::start();
    uart::start();
}
