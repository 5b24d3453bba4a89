//! The board's serial lines: CMSDK UARTs, which hold one character each way.

use crate::arch::registers::Registers;

const DATA: usize = 0x00;
const STATE: usize = 0x04;
const CONTROL: usize = 0x08;
const INTERRUPTS: usize = 0x0c;
const DIVISOR: usize = 0x10;

const STATE_TX_FULL: u32 = 1;
const STATE_RX_FULL: u32 = 1 << 1;
/// Transmitter and receiver.
const CONTROL_ON: u32 = 0b11;
/// Interrupts of both.
const CONTROL_INTERRUPTS: u32 = 0b1100;
const ALL_INTERRUPTS: u32 = 0b1111;
/// 115,200 bits a second, of a clock of 25 MHz.
const BAUD_115200: u32 = 217;

// SAFETY: the board's UART 0 is there; none of its registers starts a transfer.
const LOG: Registers<0x1000> = unsafe { Registers::new(0x4000_4000) };
// SAFETY: so is UART 1.
const CONSOLE: Registers<0x1000> = unsafe { Registers::new(0x4000_5000) };

/// Interrupts of the console's receiver and transmitter.
const CONSOLE_INTERRUPTS: [usize; 2] = [2, 3];

pub(super) fn start() {
    LOG.write(DIVISOR, BAUD_115200);
    LOG.write(CONTROL, CONTROL_ON);
}

/// Writes bytes to the serial line for logs, the first; waits for as long as it takes.
pub fn serial_write(bytes: &[u8]) {
    for &byte in bytes {
        while LOG.read(STATE) & STATE_TX_FULL != 0 {
            core::hint::spin_loop();
        }
        LOG.write(DATA, u32::from(byte));
    }
}

/// The second serial line, which never waits and whose interrupts end sleeps.
pub struct Uart(());

impl Uart {
    /// Switches the line on.
    pub fn start() -> Self {
        CONSOLE.write(DIVISOR, BAUD_115200);
        CONSOLE.write(CONTROL, CONTROL_ON | CONTROL_INTERRUPTS);
        for number in CONSOLE_INTERRUPTS {
            super::enable_interrupt(number);
        }
        Uart(())
    }

    /// Whether a byte has come in.
    pub fn readable(&self) -> bool {
        CONSOLE.read(STATE) & STATE_RX_FULL != 0
    }

    /// The byte that has come in.
    pub fn read(&mut self) -> Option<u8> {
        self.readable().then(|| {
            let [byte, ..] = CONSOLE.read(DATA).to_le_bytes();
            byte
        })
    }

    /// Sends a byte; `false` when there is no room.
    pub fn write(&mut self, byte: u8) -> bool {
        let room = CONSOLE.read(STATE) & STATE_TX_FULL == 0;
        if room {
            CONSOLE.write(DATA, u32::from(byte));
        }
        room
    }

    /// Takes back the interrupts that were asked for.
    pub fn quiet(&mut self) {
        CONSOLE.write(INTERRUPTS, ALL_INTERRUPTS);
    }
}
