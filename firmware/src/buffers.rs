//! Buffers: who has a frame has its buffer, and nobody copies.

use culvert_core::{Frame, Packet};
use heapless::{Vec, VecView};

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
