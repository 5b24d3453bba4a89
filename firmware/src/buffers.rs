//! Buffers: who has a frame has its buffer, and nobody copies.

use culvert_core::{Frame, Packet};
use heapless::{Vec, VecView};

use crate::MAX_NICS;

/// A buffer for one frame, its headroom included.
pub type Buffer = &'static mut [u8];

/// Frames that go through the core at a time.
pub const BATCH: usize = 64;

/// Frames of one NIC on their way through the core.
pub type Batch = Vec<Packet<'static>, BATCH>;

/// The buffers that nobody has.
pub struct Pool {
    free: &'static mut VecView<Buffer>,
}

impl Pool {
    /// A pool of these, whose room is for as many as there will ever be.
    pub fn new(free: &'static mut VecView<Buffer>) -> Self {
        Pool { free }
    }

    /// A buffer, whatever is in it.
    #[inline]
    pub fn take(&mut self) -> Option<Buffer> {
        self.free.pop()
    }

    /// Gives a buffer back.
    #[inline]
    pub fn give(&mut self, buffer: Buffer) {
        // There is room for all that there are.
        let _ = self.free.push(buffer);
    }

    /// Gives back the buffer of a frame.
    #[inline]
    pub fn give_frame(&mut self, frame: Frame<'static>) {
        self.give(frame.into_buffer().0);
    }

    /// Number of buffers that are free.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Number of buffers that there are, in use or not.
    pub fn capacity(&self) -> usize {
        self.free.capacity()
    }

    /// Whether all are in use.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }
}

/// How many of a pool's buffers each of so many NICs may have: to receive into, and in
/// its send queue. An eighth stays for what is on its way, whatever NICs do not send; a
/// send queue has room for a batch, where there are 128 buffers for each NIC.
pub const fn shares(buffers: usize, nics: usize) -> (usize, usize) {
    let nics = match nics {
        0 => 1,
        1..=MAX_NICS => nics,
        _ => MAX_NICS,
    };
    (buffers / 8 * 3 / nics, buffers / 2 / nics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::BUFFERS;

    #[test]
    fn nics_that_send_nothing_leave_some_for_the_others() {
        for nics in 1..=MAX_NICS {
            let (receive, send) = shares(BUFFERS, nics);
            assert!(nics * (receive + send) <= BUFFERS - BUFFERS / 8);
            assert!(send >= BATCH, "{nics}");
            assert!(receive >= BATCH / 2, "{nics}");
        }
    }
}
