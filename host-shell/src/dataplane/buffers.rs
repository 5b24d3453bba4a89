//! The worker's memory for frames, allocated once.

use culvert_core::{Checksum, Frame, Outer, Packet, Segmentation};

/// Frames that go through the core at a time.
pub(super) const BATCH: usize = 64;
/// Bytes after which a batch ends: a few super-frames, which stay in the processor's
/// second-level cache from the read to the write. Super-frames in all slots in turn, 4 MB,
/// would go through memory.
const ENOUGH: usize = 1 << 17;
/// Largest frame: what one UDP datagram or TAP read can bring.
pub(super) const LARGEST: usize = 65_535;
/// Bytes from one slot to the next. The odd cache lines behind the largest frame
/// keep the stride off a power of two, where all frames' headers would compete
/// for the same cache sets.
const SLOT: usize = Frame::HEADROOM + LARGEST + 1 + 3 * 64;
/// Spare frames for what the gateway makes of one batch: ICMP errors, fragments,
/// copies. Each takes the largest frame; what is never used costs no memory.
const SPARES: usize = 64;

/// What a driver says about a frame that it put into a slot.
pub(super) struct Received {
    /// Bytes that stand in front of it and are none of it.
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) checksum: Checksum,
    pub(super) segmentation: Segmentation,
    pub(super) outer: Option<Outer>,
}

/// A batch's frames and what the gateway makes itself meanwhile.
pub(super) struct Buffers {
    slots: Box<[u8]>,
    spares: Box<[u8]>,
    received: heapless::Vec<Received, BATCH>,
    bytes: usize,
    early: bool,
}

/// Frames received, in order, for a driver to fill.
pub(super) struct Inbound<'i> {
    slots: std::slice::ChunksExactMut<'i, u8>,
    received: &'i mut heapless::Vec<Received, BATCH>,
    bytes: &'i mut usize,
    early: &'i mut bool,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Buffers {
            slots: vec![0; BATCH * SLOT].into_boxed_slice(),
            spares: vec![0; SPARES * SLOT].into_boxed_slice(),
            received: heapless::Vec::new(),
            bytes: 0,
            early: false,
        }
    }

    /// Whether the batch ended because it has enough, so that more may wait.
    pub(super) fn is_full(&self) -> bool {
        self.received.is_full() || self.bytes >= ENOUGH || self.early
    }

    /// Empty slots for the next batch.
    pub(super) fn inbound(&mut self) -> Inbound<'_> {
        self.received.clear();
        self.bytes = 0;
        self.early = false;
        Inbound {
            slots: self.slots.chunks_exact_mut(SLOT),
            received: &mut self.received,
            bytes: &mut self.bytes,
            early: &mut self.early,
        }
    }

    /// The frames received, for the core, and spares.
    pub(super) fn packets(
        &mut self,
    ) -> (
        heapless::Vec<Packet<'_>, BATCH>,
        heapless::Vec<Packet<'_>, SPARES>,
    ) {
        let slots = self.slots.chunks_exact_mut(SLOT);
        let packets = slots.zip(&self.received).filter_map(|(slot, received)| {
            let start = Frame::HEADROOM + received.start;
            let mut frame = Frame::new(slot, start, received.len).ok()?;
            frame.checksum = received.checksum;
            frame.segmentation = received.segmentation;
            frame.outer = received.outer;
            Some(Packet::new(frame))
        });
        let spares = self.spares.chunks_exact_mut(SLOT);
        let spares =
            spares.filter_map(|spare| Frame::new(spare, Frame::HEADROOM, 0).ok().map(Packet::new));
        (packets.collect(), spares.collect())
    }
}

/// What a frame counts towards [`ENOUGH`]: its bytes, and those of a small packet for each
/// segment, so that super-frames of tiny segments do not hold up the other ports.
fn work(received: &Received) -> usize {
    const A_PACKET: usize = 512;
    let segments = match received.segmentation {
        Segmentation::None => 0,
        Segmentation::TcpV4 { size }
        | Segmentation::TcpV6 { size }
        | Segmentation::Udp { size } => received.len / usize::from(size.max(1)),
    };
    received.len + segments.saturating_mul(A_PACKET)
}

impl<'i> Inbound<'i> {
    /// The next slot; `None` when the batch is full. The frame belongs at
    /// [`Frame::HEADROOM`]; a device's header may stand in front of it.
    pub(super) fn slot(&mut self) -> Option<&'i mut [u8]> {
        if *self.bytes >= ENOUGH {
            return None;
        }
        self.slots.next()?.get_mut(..Frame::HEADROOM + LARGEST)
    }

    /// All slots that are left, each from where its frame belongs.
    pub(super) fn frames(&mut self) -> impl Iterator<Item = &'i mut [u8]> {
        self.slots
            .by_ref()
            .filter_map(|slot| slot.get_mut(Frame::HEADROOM..Frame::HEADROOM + LARGEST))
    }

    /// Ends the batch though there are free slots and more may wait.
    pub(super) fn stop_early(&mut self) {
        *self.early = true;
    }

    /// Says what is in the slot that was taken least recently and not spoken for.
    pub(super) fn push(&mut self, received: Received) {
        *self.bytes += work(&received);
        // There are as many places as slots.
        let _ = self.received.push(received);
    }
}
