//! The data path: no panic may be reached from any of these.

use core::net::IpAddr;

use culvert_core::offload::{self, Layout, Segments, Target};
use culvert_core::{Frame, Gateway, Instant, Originated, Packet, PortId};

/// Endpoint, host and underlay: all three `from_*` files of the pipeline.
#[inline(never)]
pub fn process(
    gateway: &mut Gateway<'_>,
    now: Instant,
    ingress: PortId,
    batch: &mut [Packet<'_>],
    spares: &mut [Packet<'_>],
) -> usize {
    let mut originated = Originated::new(spares);
    gateway.process(now, ingress, batch, &mut originated);
    originated.into_made().len()
}

/// Timers.
#[inline(never)]
pub fn tick(gateway: &mut Gateway<'_>, now: Instant, spares: &mut [Packet<'_>]) -> usize {
    let mut originated = Originated::new(spares);
    gateway.tick(now, &mut originated);
    originated.into_made().len()
}

/// What a socket's error queue says.
#[inline(never)]
pub fn path_mtu_exceeded(gateway: &mut Gateway<'_>, port: PortId, underlay: IpAddr, mtu: u16) {
    gateway.path_mtu_exceeded(Instant::ZERO, port, underlay, mtu);
}

/// Cutting a super-frame.
#[inline(never)]
pub fn segments(frame: &Frame<'_>, layout: Layout, out: &mut [u8]) -> Option<usize> {
    let mut segments = Segments::new(frame, layout).ok()?;
    let mut written = segments.len();
    while let Some(len) = segments.next_len() {
        segments.write_next(out.get_mut(..len)?)?;
        written += len;
    }
    Some(written)
}

/// Joining a batch.
#[inline(never)]
pub fn coalesce<'b>(
    batch: &mut [Packet<'b>],
    spares: &mut dyn Iterator<Item = &'b mut [u8]>,
    target: Target,
) -> usize {
    offload::coalesce(batch, spares, |packet| {
        (!packet.frame.is_empty()).then_some(target)
    })
}

/// Everything that a driver does with a frame.
#[inline(never)]
pub fn frame<'b>(buffer: &'b mut [u8], other: &'b mut [u8], at: usize, len: usize) -> Option<u8> {
    let mut frame = Frame::new(buffer, at, len).ok()?;
    frame.push_front::<12>()?.fill(0);
    frame.pop_front(len)?;
    frame.push_back(&[1, 2, 3])?;
    frame.truncate(at);
    frame.move_to(other)?;
    let room = frame.headroom() + frame.tailroom() + frame.len();
    frame.bytes_mut().first_mut()?.clone_from(&7);
    let (buffer, range) = frame.buffer_mut();
    buffer.get(range)?.get(room).copied()
}
