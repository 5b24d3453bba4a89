//! Frames that wait for a neighbor's MAC address.

use zerocopy::{FromZeros, Immutable};

use crate::frame::copy;
use crate::{Checksum, DropReason, Frame, Segmentation};

/// Bytes of the longest frame that can wait.
pub(crate) const MAX_FRAME: usize = 2048;

/// Room for one frame. All zero is free.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct Slot {
    /// Length of the frame; 0: free.
    len: u16,
    /// Where an unfinished checksum starts and its field's offset; 0: there is none.
    partial: [u16; 2],
    bytes: [u8; MAX_FRAME],
}

impl Slot {
    pub(super) fn is_free(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Keeps a copy of the frame.
    pub(super) fn store(&mut self, frame: &Frame<'_>) -> Result<(), DropReason> {
        let room = self.bytes.get_mut(..frame.len());
        let room = room.filter(|room| frame.segmentation == Segmentation::None && !room.is_empty());
        let room = room.ok_or(DropReason::QueueTooLong)?;
        copy(room, frame.bytes()).ok_or(DropReason::QueueTooLong)?;
        self.len = u16::try_from(frame.len()).map_err(|_| DropReason::QueueTooLong)?;
        self.partial = match frame.checksum {
            Checksum::Partial { start, offset } => [start, offset],
            _ => [0, 0],
        };
        Ok(())
    }

    /// Copies what was stored into an empty frame; `None` when that is too small.
    pub(super) fn copy_to(&self, frame: &mut Frame<'_>) -> Option<()> {
        frame.resize(usize::from(self.len))?;
        let bytes = self.bytes.get(..usize::from(self.len))?;
        copy(frame.bytes_mut(), bytes)?;
        frame.segmentation = Segmentation::None;
        frame.outer = None;
        frame.checksum = match self.partial {
            [0, _] => Checksum::None,
            [start, offset] => Checksum::Partial { start, offset },
        };
        Some(())
    }
}
