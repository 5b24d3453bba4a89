//! What a board provides: everything that the appliance needs of its hardware.

use culvert_core::{Frame, Instant, MacAddr};

use crate::buffers::{Batch, Pool};

/// A board. One thread calls all of it; nothing here may be called from an interrupt.
///
/// Frames are whole Ethernet frames without their checksum. They live in buffers of
/// the appliance's [`Pool`]: a driver takes buffers for its receive queue from there,
/// hands them on in frames, and puts those back that it has sent.
pub trait Board {
    /// Number of NICs, at most [`crate::MAX_NICS`]; it never changes.
    fn nics(&self) -> usize;

    /// A NIC's own MAC address.
    fn mac(&self, nic: usize) -> MacAddr;

    /// Appends to the batch what a NIC has received, oldest first, until the batch is
    /// full or nothing waits, and gives the NIC other buffers from the pool. Each frame
    /// has at least [`Frame::HEADROOM`] free bytes in front of it. Of one that is longer
    /// than [`crate::LARGEST_FRAME`] any part that is longer too will do: it is counted,
    /// and goes no further.
    fn receive(&mut self, nic: usize, pool: &mut Pool, batch: &mut Batch);

    /// Puts a frame into a NIC's send queue and tells whether there was room; its buffer
    /// goes back to the pool when it is sent or, without room, at once. The device may
    /// learn of it as late as at [`Board::flush`].
    fn send(&mut self, nic: usize, pool: &mut Pool, frame: Frame<'static>) -> bool;

    /// Tells a NIC that there are frames to send, and takes back the buffers of those
    /// that it has sent.
    fn flush(&mut self, nic: usize, pool: &mut Pool);

    /// Bytes of the control channel that have come in, as many as there are and fit;
    /// returns how many.
    fn read(&mut self, bytes: &mut [u8]) -> usize;

    /// Sends as many of these bytes of the control channel as there is room for;
    /// returns how many. Never waits.
    fn write(&mut self, bytes: &[u8]) -> usize;

    /// Time since the board started. It never goes backwards.
    fn now(&mut self) -> Instant;

    /// Sleeps until something has come in or the time has come; returns at once when
    /// something waits already. It may return early.
    fn sleep(&mut self, until: Instant);

    /// Starts anew or switches off.
    fn end(&mut self, how: End) -> !;

    /// Fills in random bytes that nobody can foretell; `false` where there is no
    /// source of them, and without that no key is safe.
    fn random(&mut self, _bytes: &mut [u8]) -> bool {
        false
    }

    /// Instructions that the processor has carried out, where it counts them.
    fn instructions(&mut self) -> u64 {
        0
    }

    /// The most bytes of stack that were ever in use, where that is known. Asked for once
    /// a second.
    fn stack(&mut self) -> u32 {
        0
    }
}

/// How a board ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It starts anew, with empty tables.
    Restart,
    /// It goes off; an emulator ends with this status.
    Off(u8),
}
