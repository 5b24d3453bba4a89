//! The serial line: a 16550.

use super::ports;

/// The first serial line's ports.
const UART: u16 = 0x3f8;
const DATA: u16 = UART;
const INTERRUPTS: u16 = UART + 1;
const FIFO: u16 = UART + 2;
const LINE: u16 = UART + 3;
const STATUS: u16 = UART + 5;

/// The transmitter takes a byte.
const STATUS_READY: u8 = 1 << 5;

pub(super) fn start() {
    // No interrupts; FIFO on; eight bits a character.
    for (port, value) in [(INTERRUPTS, 0), (FIFO, 1), (LINE, 3)] {
        // SAFETY: a 16550 touches no memory.
        unsafe { ports::write8(port, value) };
    }
}

/// Writes bytes to the serial line; waits for as long as it takes.
pub fn serial_write(bytes: &[u8]) {
    for &byte in bytes {
        while status() & STATUS_READY == 0 {
            core::hint::spin_loop();
        }
        // SAFETY: as above.
        unsafe { ports::write8(DATA, byte) };
    }
}

fn status() -> u8 {
    // SAFETY: as above.
    unsafe { ports::read8(STATUS) }
}
