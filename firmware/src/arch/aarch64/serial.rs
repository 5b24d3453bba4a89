//! The serial line: a PL011.

use crate::arch::registers::Registers;

// SAFETY: the PL011 of `virt` is there; none of its registers starts a transfer.
const UART: Registers<0x1000> = unsafe { Registers::new(0x0900_0000) };

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const LINE: usize = 0x2c;
const CONTROL: usize = 0x30;

const FLAG_FULL: u32 = 1 << 5;
/// Eight bits a character, FIFO on.
const LINE_8_FIFO: u32 = 3 << 5 | 1 << 4;
/// UART and transmitter on.
const CONTROL_ON: u32 = 1 << 8 | 1;

pub(super) fn start() {
    UART.write(LINE, LINE_8_FIFO);
    UART.write(CONTROL, CONTROL_ON);
}

/// Writes bytes to the serial line; waits for as long as it takes.
pub fn serial_write(bytes: &[u8]) {
    for &byte in bytes {
        while UART.read(FLAGS) & FLAG_FULL != 0 {
            core::hint::spin_loop();
        }
        UART.write(DATA, u32::from(byte));
    }
}
