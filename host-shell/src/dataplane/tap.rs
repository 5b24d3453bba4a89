//! A port that is a TAP: frames with a virtio-net header, one a system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use culvert_core::{Checksum, Frame, Segmentation};

use super::buffers::{Inbound, Received};
use super::{ShellCounter, ShellCounters};
use crate::sys::tap::Tap;
use crate::sys::vnet::{VirtioNetHeader, VnetChecksum, VnetGso, VnetSegmentation};

/// Reads that bring no frame, in one call of `receive`, at most.
const MALFORMED_BUDGET: usize = 64;

/// A TAP as a port.
pub struct TapPort {
    tap: Tap,
}

impl TapPort {
    /// The TAP as a port.
    pub fn new(tap: Tap) -> Self {
        TapPort { tap }
    }

    /// The TAP itself.
    pub fn tap(&self) -> &Tap {
        &self.tap
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
                if let Some(received) = received(&slot[AT..AT + read]) {
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

    /// Writes a frame, its header put in front of it in its headroom.
    pub(super) fn send(&self, frame: &mut Frame<'_>, counters: &ShellCounters) {
        let header = header(frame);
        let (buffer, range) = frame.buffer_mut();
        let Some(start) = range.start.checked_sub(VirtioNetHeader::LEN) else {
            return counters.add(ShellCounter::TapTxFailed, 1);
        };
        buffer[start..range.start].copy_from_slice(&header.emit());
        if self.tap.write(&buffer[start..range.end]).is_err() {
            counters.add(ShellCounter::TapTxFailed, 1);
        }
    }
}

impl AsFd for TapPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(libc::EIO)
}

/// What a header says about the frame behind it.
fn received(bytes: &[u8]) -> Option<Received> {
    let header = VirtioNetHeader::parse(bytes).ok()?;
    Some(Received {
        len: bytes.len() - VirtioNetHeader::LEN,
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
    })
}

/// The header that tells the kernel what the core knows about a frame.
fn header(frame: &Frame<'_>) -> VirtioNetHeader {
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
