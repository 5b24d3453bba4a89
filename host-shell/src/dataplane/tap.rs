//! A port that is a TAP: frames with a virtio-net header, one a system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use culvert_core::offload::{Accepts, Layout, Segments};
use culvert_core::{Checksum, Frame, Segmentation};

use super::buffers::{Inbound, Received};
use super::{ShellCounter, ShellCounters, Tools};
use crate::sys::tap::Tap;
use crate::sys::vnet::{VirtioNetHeader, VnetChecksum, VnetGso, VnetSegmentation};

/// Reads that bring no frame, in one call of `receive`, at most.
const MALFORMED_BUDGET: usize = 64;

/// A TAP as a port.
pub struct TapPort {
    tap: Tap,
    accepts: Accepts,
    /// Another worker reads its frames: the device has one queue.
    read_elsewhere: bool,
}

impl TapPort {
    /// Octets of a super-frame at most, all headers included: those of a tunnel find room
    /// beside it in one IP packet, and its segments in one send.
    pub const LONGEST: u32 = 61_400;

    /// The TAP as a port that is offered super-frames of all kinds.
    pub fn new(tap: Tap) -> Self {
        TapPort::accepting(tap, Accepts::ALL)
    }

    /// The TAP as a port that is offered these kinds of super-frames; others are cut
    /// into packets first.
    pub fn accepting(tap: Tap, accepts: Accepts) -> Self {
        TapPort {
            tap,
            accepts,
            read_elsewhere: false,
        }
    }

    /// As [`TapPort::new`], for a worker that only writes: another one has a descriptor
    /// of the same queue, and reads.
    pub fn read_elsewhere(tap: Tap) -> Self {
        TapPort {
            read_elsewhere: true,
            ..TapPort::new(tap)
        }
    }

    /// Whether another worker reads the frames.
    pub(super) fn is_read_elsewhere(&self) -> bool {
        self.read_elsewhere
    }

    /// The TAP itself.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The super-frames that it is offered.
    pub(super) fn accepts(&self) -> Accepts {
        self.accepts
    }

    /// Reads frames until none waits or the batch is full.
    ///
    /// # Errors
    /// When the interface is gone.
    pub(super) fn receive(
        &self,
        inbound: &mut Inbound<'_>,
        counters: &ShellCounters,
    ) -> io::Result<()> {
        const AT: usize = Frame::HEADROOM - VirtioNetHeader::LEN;
        let mut malformed = 0;
        while let Some(slot) = inbound.slot() {
            // A frame that is no frame leaves the slot free for the next.
            let received = loop {
                let read = match self.tap.read(&mut slot[AT..]) {
                    Ok(read) => read,
                    Err(error) if is_transient(&error) => return Ok(()),
                    Err(error) => return Err(error),
                };
                if let Some(received) = slot.get(AT..AT + read).and_then(received) {
                    break received;
                }
                counters.add(ShellCounter::TapRxMalformed, 1);
                malformed += 1;
                if malformed == MALFORMED_BUDGET {
                    return Ok(());
                }
            };
            inbound.push(received);
        }
        Ok(())
    }

    /// Writes a frame. A super-frame that the port does not accept, or the kernel does
    /// not after all (UDP ones before Linux 6.2), is cut and written packet by packet.
    pub(super) fn send(&self, frame: &mut Frame<'_>, tools: &mut Tools<'_>) {
        let written = match self.takes(frame.segmentation) {
            true => self.write(frame),
            false => Err(io::ErrorKind::InvalidInput.into()),
        };
        match written {
            Ok(()) => {}
            Err(error) if is_refused(&error) && frame.segmentation != Segmentation::None => {
                self.send_segments(frame, tools);
            }
            Err(_) => tools.counters.add(ShellCounter::TapTxFailed, 1),
        }
    }

    fn takes(&self, segmentation: Segmentation) -> bool {
        match segmentation {
            Segmentation::None => true,
            Segmentation::TcpV4 { .. } => self.accepts.tcp_v4,
            Segmentation::TcpV6 { .. } => self.accepts.tcp_v6,
            Segmentation::Udp { .. } => self.accepts.udp,
        }
    }

    /// Writes a frame as it is, its header put in front of it in its headroom.
    fn write(&self, frame: &mut Frame<'_>) -> io::Result<()> {
        let header = header(frame).emit();
        let (buffer, range) = frame.buffer_mut();
        let start = range.start.checked_sub(VirtioNetHeader::LEN);
        let start = start.ok_or(io::ErrorKind::OutOfMemory)?;
        buffer[start..range.start].copy_from_slice(&header);
        self.tap.write(&buffer[start..range.end]).map(drop)
    }

    fn send_segments(&self, frame: &Frame<'_>, tools: &mut Tools<'_>) {
        let mut segments = match Segments::new(frame, Layout::ETHERNET) {
            Ok(segments) => segments,
            Err(error) => return tools.not_cut(&error),
        };
        const HEADER: usize = VirtioNetHeader::LEN;
        tools.scratch[..HEADER].copy_from_slice(&VirtioNetHeader::default().emit());
        while let Some(len) = segments.write_next(&mut tools.scratch[HEADER..]) {
            let segment = &tools.scratch[..HEADER + len];
            if self.tap.write(segment).is_err() {
                tools.counters.add(ShellCounter::TapTxFailed, 1);
            }
        }
    }
}

impl AsFd for TapPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}

pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(libc::EIO)
}

/// Whether the kernel can make no sense of what was written.
pub(super) fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

/// What a header says about the frame behind it.
fn received(bytes: &[u8]) -> Option<Received> {
    let header = VirtioNetHeader::parse(bytes).ok()?;
    Some(marked(&header, bytes.len() - VirtioNetHeader::LEN))
}

/// A frame of `len` bytes with the marks of its header.
pub(super) fn marked(header: &VirtioNetHeader, len: usize) -> Received {
    Received {
        start: 0,
        len,
        checksum: match header.checksum {
            VnetChecksum::None => Checksum::None,
            VnetChecksum::Partial { start, offset } => Checksum::Partial { start, offset },
            VnetChecksum::Valid => Checksum::Verified,
        },
        segmentation: header.gso.map_or(Segmentation::None, |gso| match gso.kind {
            VnetSegmentation::Tcp4 => Segmentation::TcpV4 { size: gso.size },
            VnetSegmentation::Tcp6 => Segmentation::TcpV6 { size: gso.size },
            VnetSegmentation::Udp => Segmentation::Udp { size: gso.size },
        }),
        outer: None,
    }
}

/// The header that tells the kernel what the core knows about a frame.
pub(super) fn header(frame: &Frame<'_>) -> VirtioNetHeader {
    let gso = |kind, size| {
        Some(VnetGso {
            kind,
            ecn: false,
            size,
        })
    };
    VirtioNetHeader {
        checksum: match frame.checksum {
            Checksum::None => VnetChecksum::None,
            Checksum::Partial { start, offset } => VnetChecksum::Partial { start, offset },
            Checksum::Verified => VnetChecksum::Valid,
        },
        gso: match frame.segmentation {
            Segmentation::None => None,
            Segmentation::TcpV4 { size } => gso(VnetSegmentation::Tcp4, size),
            Segmentation::TcpV6 { size } => gso(VnetSegmentation::Tcp6, size),
            Segmentation::Udp { size } => gso(VnetSegmentation::Udp, size),
        },
        hdr_len: 0,
    }
}
