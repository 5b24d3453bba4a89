//! The management's NIC as smoltcp sees it: frames that wait, and frames to send.

use culvert_core::Frame;
use heapless::{Deque, Vec};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::{Buffer, Pool};

/// Frames that can wait for the stack; more are dropped.
pub(crate) const WAITING: usize = 32;
/// Frames that the stack makes in a turn.
pub(crate) const MADE: usize = 8;
/// Bytes of its frames at most, Ethernet header included.
const MTU: usize = 1_514;

/// Frames that have come in.
pub(crate) type Waiting = Deque<Frame<'static>, WAITING>;

/// What the stack reads from and writes to in one turn.
pub(crate) struct Device<'t> {
    waiting: &'t mut Waiting,
    /// The buffer of the frame that was read last.
    used: Option<Buffer>,
    out: Out<'t>,
}

/// Where frames are made.
pub(crate) struct Out<'t> {
    scratch: &'t mut Scratch,
    pool: &'t mut Pool,
    made: Vec<Frame<'static>, MADE>,
}

/// Room for the frame that is being made.
pub(crate) struct Scratch([u8; MTU]);

impl Scratch {
    pub(crate) const fn new() -> Self {
        Scratch([0; MTU])
    }
}

impl<'t> Device<'t> {
    pub(crate) fn new(
        waiting: &'t mut Waiting,
        pool: &'t mut Pool,
        scratch: &'t mut Scratch,
    ) -> Self {
        let made = Vec::new();
        let out = Out {
            scratch,
            pool,
            made,
        };
        Device {
            waiting,
            used: None,
            out,
        }
    }

    /// Drops the frame that is next unless it is for the stack; returns whether it, if
    /// there is one, is.
    #[cfg(feature = "management-auth")]
    pub(crate) fn sift(&mut self, mut is_wanted: impl FnMut(&[u8]) -> bool) -> bool {
        let is_wanted = self.waiting.front().is_none_or(|f| is_wanted(f.bytes()));
        if !is_wanted && let Some(frame) = self.waiting.pop_front() {
            self.out.pool.give_frame(frame);
        }
        is_wanted
    }

    /// The frames that were made.
    pub(crate) fn into_made(mut self) -> Vec<Frame<'static>, MADE> {
        self.give_back();
        self.out.made
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.used.take() {
            self.out.pool.give(buffer);
        }
    }
}

impl Out<'_> {
    /// Whether a frame can be made now.
    fn has_room(&self) -> bool {
        !self.made.is_full() && !self.pool.is_empty()
    }

    /// Puts the frame that stands in `scratch` behind those that were made; without
    /// room it is lost, as on a wire.
    fn push(&mut self, len: usize) {
        let bytes = self.scratch.0.get(..len).unwrap_or_default();
        let Some(buffer) = self.pool.take() else {
            return;
        };
        if let Some(to) = buffer.get_mut(Frame::HEADROOM..Frame::HEADROOM + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        if let Ok(frame) = Frame::new(buffer, Frame::HEADROOM, bytes.len())
            && let Err(frame) = self.made.push(frame)
        {
            self.pool.give_frame(frame);
        }
    }
}

impl<'t> phy::Device for Device<'t> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'a, 't>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_, 't>)> {
        self.give_back();
        if !self.out.has_room() {
            return None;
        }
        let frame = self.waiting.pop_front()?;
        let used = &mut self.used;
        Some((Received { frame, used }, Sending(&mut self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_, 't>> {
        self.out.has_room().then_some(Sending(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities.max_burst_size = Some(MADE);
        capabilities
    }
}

/// A frame that has come in. The stack consumes each, and so its buffer comes back.
pub(crate) struct Received<'a> {
    frame: Frame<'static>,
    used: &'a mut Option<Buffer>,
}

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(self.frame.bytes());
        *self.used = Some(self.frame.into_buffer().0);
        result
    }
}

/// Leave to make one frame.
pub(crate) struct Sending<'a, 't>(&'a mut Out<'t>);

impl phy::TxToken for Sending<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let bytes = self.0.scratch.0.get_mut(..len).unwrap_or_default();
        // What is not written must not be what a frame before had there.
        bytes.fill(0);
        let result = write(bytes);
        self.0.push(len);
        result
    }
}
