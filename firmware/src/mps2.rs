//! The board `mps2-an386`: one NIC, which copies, and two serial lines.

use culvert_core::{Frame, Instant, MacAddr, Packet};

use crate::arch::{self, Lan9118, Uart};
use crate::{Batch, Board, End, LARGEST_FRAME, Pool};

/// The board.
pub struct Mps2 {
    nic: Lan9118,
    control: Uart,
}

impl Mps2 {
    /// The board with these devices.
    pub fn new(nic: Lan9118, control: Uart) -> Self {
        Mps2 { nic, control }
    }
}

impl Board for Mps2 {
    fn nics(&self) -> usize {
        1
    }

    fn mac(&self, _nic: usize) -> MacAddr {
        self.nic.mac()
    }

    fn receive(&mut self, _nic: usize, pool: &mut Pool, batch: &mut Batch) {
        while !batch.is_full() && self.nic.readable() {
            // Frames stay in the NIC as long as there is no buffer.
            let Some(buffer) = pool.take() else { return };
            let room = buffer.get_mut(Frame::HEADROOM..).unwrap_or_default();
            let room = room.get_mut(..LARGEST_FRAME).unwrap_or_default();
            match self.nic.receive(room) {
                Some(len @ 1..) => {
                    if let Ok(frame) = Frame::new(buffer, Frame::HEADROOM, len) {
                        // The batch is not full.
                        let _ = batch.push(Packet::new(frame));
                    }
                }
                _ => pool.give(buffer),
            }
        }
    }

    fn send(&mut self, _nic: usize, pool: &mut Pool, frame: Frame<'static>) -> bool {
        let sent = self.nic.send(frame.bytes());
        pool.give_frame(frame);
        sent
    }

    fn flush(&mut self, _nic: usize, _pool: &mut Pool) {
        self.nic.forget_sent();
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut len = 0;
        for place in bytes {
            let Some(byte) = self.control.read() else {
                break;
            };
            *place = byte;
            len += 1;
        }
        len
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.iter().take_while(|byte| self.control.write(**byte));
        taken.count()
    }

    fn now(&mut self) -> Instant {
        Instant::from_micros(arch::micros())
    }

    fn sleep(&mut self, until: Instant) {
        if self.nic.readable() || self.control.readable() {
            return;
        }
        arch::sleep_until(until.micros(), || {
            self.nic.quiet();
            self.control.quiet();
        });
    }

    fn end(&mut self, how: End) -> ! {
        match how {
            End::Restart => arch::restart(),
            End::Off(status) => arch::exit(status),
        }
    }

    fn stack(&mut self) -> u32 {
        arch::high_water()
    }
}
