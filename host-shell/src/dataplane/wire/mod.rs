//! The underlay port that is a TAP: whole frames of the wire, tunnel packets as
//! super-frames in both directions.
//!
//! The kernel's traffic control joins the TAP to the underlay's device. What comes by it
//! has outer headers that the core reads and writes itself, as on an appliance.

mod train;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use culvert_core::offload::{Layout, Segments};
use culvert_core::wire::{ethernet, ip, udp, vxlan};
use culvert_core::{Checksum, Fate, Frame, Packet, PortId, Segmentation};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::buffers::{BATCH, Inbound, Received};
use super::tap::{self, is_refused, is_transient};
use super::{ShellCounter, ShellCounters, Tools};
use crate::sys::tap::Tap;
use crate::sys::vnet::{TunnelNetHeader, VnetSegmentation, VnetTunnel};
use train::{Head, Train};

/// Octets of the header of the TAP's frames.
const HEADER: usize = TunnelNetHeader::LEN;
/// Reads that bring no frame, in one call of `receive`, at most.
const MALFORMED_BUDGET: usize = 64;
/// The place of [`WirePort::receivers`] that says that datagrams of a train wait.
const AGAIN: usize = 1;
/// Octets from a tunnel packet's UDP header to the packet inside.
const VXLAN_HEADERS: u16 = 8 + 8 + 14;
const _: () = assert!(udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN == 30);

/// A TAP with tunnel offloads ([`crate::sys::tap::TapOffloads::TUNNEL`]) as the underlay.
pub struct WirePort {
    tap: Tap,
    train: Train,
    /// Readable while a part of the train waits, which the TAP does not know.
    again: EventFd,
}

impl WirePort {
    /// The TAP as a port.
    ///
    /// # Errors
    /// When the kernel has no event descriptor.
    pub fn new(tap: Tap) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(WirePort {
            tap,
            train: Train::new(),
            again: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// The descriptors that frames come in by, the same ones in the same order at all times.
    pub(super) fn receivers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.tap.as_fd(), self.again.as_fd()].into_iter()
    }

    /// Reads frames until none waits or the batch is full. `receiver` is the place of the
    /// descriptor among [`WirePort::receivers`] that has something.
    ///
    /// # Errors
    /// When the interface is gone.
    pub(super) fn receive(
        &mut self,
        receiver: usize,
        inbound: &mut Inbound<'_>,
        counters: &ShellCounters,
    ) -> io::Result<()> {
        if receiver == AGAIN {
            // What is left of the train writes it again.
            let _ = self.again.read();
        }
        let mut done = Ok(());
        while let Some(slot) = inbound.slot() {
            match self.read(slot, counters) {
                Ok(Some(received)) => inbound.push(received),
                Ok(None) => break,
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
        }
        if !self.train.is_empty() {
            let _ = self.again.write(1);
        }
        done
    }

    /// The next frame, which lies at [`Frame::HEADROOM`] of the slot.
    fn read(&mut self, slot: &mut [u8], counters: &ShellCounters) -> io::Result<Option<Received>> {
        const AT: usize = Frame::HEADROOM - HEADER;
        for _ in 0..MALFORMED_BUDGET {
            if let Some(received) = self.train.next(slot) {
                return Ok(Some(received));
            }
            let read = match self.tap.read(&mut slot[AT..]) {
                Ok(read) => read,
                Err(error) if is_transient(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(bytes) = slot.get(AT..AT + read) else {
                counters.add(ShellCounter::UnderlayRxTruncated, 1);
                continue;
            };
            let Ok(header) = TunnelNetHeader::parse(bytes) else {
                counters.add(ShellCounter::TapRxMalformed, 1);
                continue;
            };
            let received = tap::marked(&header.frame, read - HEADER);
            match (received.segmentation, header.tunnel) {
                (Segmentation::None, _) | (_, Some(_)) => return Ok(Some(received)),
                (_, None) => self.train.load(&bytes[HEADER..], &received, counters),
            }
        }
        Ok(None)
    }

    /// Sends the frames of a batch that leave by `port`, which is this one, in order.
    /// Those of one flow and one length leave as one super-frame.
    pub(super) fn send(
        &self,
        (port, ingress): (PortId, PortId),
        batch: &mut [Packet<'_>],
        tools: &mut Tools<'_>,
    ) {
        let leaves = |packet: &&mut Packet<'_>| match packet.fate {
            Fate::Forward(to) => to == port,
            Fate::Reply => ingress == port,
            _ => false,
        };
        let mut frames = heapless::Vec::<&mut Frame<'_>, BATCH>::new();
        for packet in batch.iter_mut().filter(leaves) {
            if frames.is_full() {
                self.send_all(&mut frames, tools);
                frames.clear();
            }
            // There is room: a full list has just been cleared.
            let _ = frames.push(&mut packet.frame);
        }
        self.send_all(&mut frames, tools);
    }

    fn send_all(&self, frames: &mut [&mut Frame<'_>], tools: &mut Tools<'_>) {
        let mut rest = frames;
        while !rest.is_empty() {
            let (together, others) = rest.split_at_mut(train::run(rest));
            if together.len() == 1 || self.send_train(together).is_err() {
                for frame in together {
                    self.send_one(frame, tools);
                }
            }
            rest = others;
        }
    }

    /// Writes frames as one super-frame, without gathering their bytes before.
    fn send_train(&self, frames: &mut [&mut Frame<'_>]) -> io::Result<()> {
        let head = Head::of(frames).ok_or(io::ErrorKind::InvalidInput)?;
        let mut parts = heapless::Vec::<io::IoSlice<'_>, { BATCH + 1 }>::new();
        let _ = parts.push(io::IoSlice::new(head.bytes()));
        for frame in frames.iter() {
            // Only so many are in a batch.
            let _ = parts.push(io::IoSlice::new(&frame.bytes()[head.headers..]));
        }
        self.tap.write_vectored(&parts).map(drop)
    }

    /// Writes a frame. A super-frame that the kernel cannot cut, as there are in IP in
    /// IP, is cut and written packet by packet.
    fn send_one(&self, frame: &mut Frame<'_>, tools: &mut Tools<'_>) {
        let written = match header(frame) {
            Some(header) => self.write(&header, frame),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        match written {
            Ok(()) => {}
            Err(error) if is_refused(&error) && frame.segmentation != Segmentation::None => {
                self.send_segments(frame, tools);
            }
            Err(error) => {
                tracing::debug!(%error, "a frame was not sent");
                tools.counters.add(ShellCounter::UnderlayTxFailed, 1);
            }
        }
    }

    /// Writes a frame as it is, its header put in front of it in its headroom.
    fn write(&self, header: &TunnelNetHeader, frame: &mut Frame<'_>) -> io::Result<()> {
        let (buffer, range) = frame.buffer_mut();
        let start = range.start.checked_sub(HEADER);
        let start = start.ok_or(io::ErrorKind::OutOfMemory)?;
        buffer[start..range.start].copy_from_slice(&header.emit());
        self.tap.write(&buffer[start..range.end]).map(drop)
    }

    fn send_segments(&self, frame: &Frame<'_>, tools: &mut Tools<'_>) {
        let layout = layout(frame.bytes()).map(|(layout, _)| layout);
        let segments = Segments::new(frame, layout.unwrap_or(Layout::ETHERNET));
        let mut segments = match segments {
            Ok(segments) => segments,
            Err(error) => return tools.not_cut(&error),
        };
        tools.scratch[..HEADER].copy_from_slice(&TunnelNetHeader::default().emit());
        while let Some(len) = segments.write_next(&mut tools.scratch[HEADER..]) {
            if self.tap.write(&tools.scratch[..HEADER + len]).is_err() {
                tools.counters.add(ShellCounter::UnderlayTxFailed, 1);
            }
        }
    }
}

/// The header that tells the kernel what the core knows about a frame; `None` for a
/// super-frame that the kernel cannot cut.
fn header(frame: &Frame<'_>) -> Option<TunnelNetHeader> {
    let mut header = TunnelNetHeader {
        frame: tap::header(frame),
        tunnel: None,
    };
    let Some(gso) = header.frame.gso else {
        return Some(header);
    };
    // The kernel makes the segments' checksums of an unfinished one only.
    let Checksum::Partial { start, .. } = frame.checksum else {
        return None;
    };
    let (_, tunnel) = layout(frame.bytes())?;
    header.tunnel = Some(tunnel?);
    let transport = frame.bytes().get(usize::from(start)..)?;
    let len = match gso.kind {
        VnetSegmentation::Udp => 8,
        VnetSegmentation::Tcp4 | VnetSegmentation::Tcp6 => u16::from(transport.get(12)? >> 4) * 4,
    };
    header.frame.hdr_len = start.checked_add(len)?;
    Some(header)
}

/// Where a tunnel packet has its headers; the kernel knows only of those behind UDP.
fn layout(bytes: &[u8]) -> Option<(Layout, Option<VnetTunnel>)> {
    const IP_AT: u16 = 14;
    const _: () = assert!(ethernet::HEADER_LEN == IP_AT as usize);
    let (_, packet) = ethernet::Header::parse(bytes)?;
    let outer = ip::Header::parse(packet).ok()?;
    let upper = IP_AT.checked_add(outer.header_len)?;
    let layout = |inner| Layout {
        inner,
        outer: Some(IP_AT),
    };
    match outer.protocol {
        ip::UDP => {
            let datagram = packet.get(usize::from(outer.header_len)..)?;
            let inner = upper.checked_add(VXLAN_HEADERS)?;
            let tunnel = VnetTunnel {
                over_v6: outer.is_v6(),
                checksum: udp::Header::parse(datagram)?.checksum != 0,
                outer_transport: upper,
                inner_network: inner,
            };
            Some((layout(inner), Some(tunnel)))
        }
        ip::IPV4 | ip::IPV6 => Some((layout(upper), None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::train::tests::packet;
    use super::*;

    #[test]
    fn the_kernel_is_told_where_a_tunnel_super_frame_has_its_headers() {
        for (v6, upper) in [(false, 34u16), (true, 54)] {
            // VXLAN, Ethernet, IPv4, TCP without options.
            let mut bytes = packet(v6, 50_000, &[0; 8 + 14 + 20 + 20 + 3000]);
            let start = upper + 8 + 8 + 14 + 20;
            bytes[usize::from(start) + 12] = 5 << 4;
            let len = bytes.len();
            let mut frame = Frame::new(&mut bytes, 0, len).unwrap();
            frame.checksum = Checksum::Partial { start, offset: 16 };
            assert_eq!(header(&frame).unwrap().tunnel, None);
            frame.segmentation = Segmentation::TcpV4 { size: 1400 };
            let tunnel = |checksum| VnetTunnel {
                over_v6: v6,
                checksum,
                outer_transport: upper,
                inner_network: upper + 30,
            };
            let found = header(&frame).unwrap();
            assert_eq!(found.tunnel, Some(tunnel(true)));
            assert_eq!(found.frame.hdr_len, start + 20);
            frame.bytes_mut()[usize::from(upper) + 6..][..2].fill(0);
            assert_eq!(header(&frame).unwrap().tunnel, Some(tunnel(false)));
            // The kernel finishes no checksum of such a frame that is finished.
            frame.checksum = Checksum::Verified;
            assert_eq!(header(&frame), None);
        }
    }

    #[test]
    fn ip_in_ip_is_cut_here() {
        let mut bytes = packet(true, 50_000, &[0; 3000]);
        bytes[20] = ip::IPV4;
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len).unwrap();
        frame.segmentation = Segmentation::TcpV4 { size: 1400 };
        frame.checksum = Checksum::Partial {
            start: 74,
            offset: 16,
        };
        assert_eq!(header(&frame), None);
        let expected = Layout {
            inner: 54,
            outer: Some(14),
        };
        assert_eq!(layout(frame.bytes()), Some((expected, None)));
    }
}
