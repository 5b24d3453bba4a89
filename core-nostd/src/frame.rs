//! A frame: bytes with headroom, and what a device told us or needs to know.

use core::fmt;
use core::net::IpAddr;

/// State of the checksum of a frame's (inner) TCP, UDP or ICMP payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Nothing is known: the field should be right, and nobody has checked it.
    #[default]
    None,
    /// The field holds the pseudo-header's sum only; whoever sends the frame on
    /// must sum from `start` to the end and store the result at `start + offset`
    /// (virtio's NEEDS_CSUM, Linux' CHECKSUM_PARTIAL).
    Partial {
        /// First byte to sum, counted from the frame's first byte.
        start: u16,
        /// Where the 16-bit field is, counted from `start`.
        offset: u16,
    },
    /// A device has verified it.
    Verified,
}

/// Whether the frame is a super-frame that stands for several segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Segmentation {
    /// One packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4 {
        /// Payload bytes of each segment but the last.
        size: u16,
    },
    /// TCP over IPv6.
    TcpV6 {
        /// Payload bytes of each segment but the last.
        size: u16,
    },
    /// UDP datagrams of one size (USO).
    Udp {
        /// Payload bytes of each datagram but the last.
        size: u16,
    },
}

/// The outer header of a tunnel packet, as the underlay port needs it for
/// sending or found it when receiving.
///
/// A port made of UDP sockets hands this to the kernel; the frame's bytes then
/// start at the VXLAN header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Underlay source address.
    pub src: IpAddr,
    /// Underlay destination address.
    pub dst: IpAddr,
    /// What stands between the outer IP header and the frame's bytes.
    pub l4: OuterL4,
    /// Traffic class octet: DSCP in the upper six bits, ECN in the lower two.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Don't-fragment flag (IPv4).
    pub df: bool,
}

/// The layer between the outer IP header and the tunnelled bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OuterL4 {
    /// UDP, host byte order.
    Udp {
        /// Source port; made from the inner flow's hash when the core encapsulates.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
        /// Whether the datagram has a checksum. Sockets that cannot tell say so of
        /// all that they receive.
        checksum: bool,
    },
    /// An IP protocol of its own (4: IPv4 in IP, 41: IPv6 in IP).
    Ip {
        /// The outer header's protocol number.
        protocol: u8,
    },
}

/// Why [`Frame::new`] refused a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// `start + len` lies behind the buffer's end.
    OutOfBuffer,
    /// The frame is longer than 65,535 bytes.
    TooLong,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FrameError::OutOfBuffer => "the frame does not lie within its buffer",
            FrameError::TooLong => "a frame has at most 65,535 bytes",
        })
    }
}

impl core::error::Error for FrameError {}

/// A frame in a buffer that somebody else owns.
#[derive(Debug)]
pub struct Frame<'b> {
    buffer: &'b mut [u8],
    start: usize,
    end: usize,
    /// Checksum state of the payload.
    pub checksum: Checksum,
    /// Whether this is a super-frame.
    pub segmentation: Segmentation,
    /// The outer header: set by underlay ports when they receive, by the core when it encapsulates.
    pub outer: Option<Outer>,
    /// The node that a packet without a tunnel goes to by a raw port: who is asked
    /// for a MAC address.
    pub(crate) neighbor: Option<IpAddr>,
}

/// What [`Frame::front_mut`] lends.
pub(crate) struct Front<'f, const N: usize> {
    pub(crate) bytes: &'f mut [u8; N],
    /// The frame's bytes behind these.
    pub(crate) rest: &'f mut [u8],
    pub(crate) outer: &'f mut Option<Outer>,
}

impl<'b> Frame<'b> {
    /// Free bytes that a shell leaves in front of each frame it hands in: room
    /// for the largest outer header (Ethernet, IPv6, UDP, VXLAN: 70 bytes) and a
    /// device's own header.
    pub const HEADROOM: usize = 128;

    /// The `len` bytes at `start` of `buffer`, with no offload state.
    ///
    /// # Errors
    /// [`FrameError`] when the frame does not fit the buffer or is longer than 65,535 bytes.
    pub fn new(buffer: &'b mut [u8], start: usize, len: usize) -> Result<Self, FrameError> {
        if len > usize::from(u16::MAX) {
            return Err(FrameError::TooLong);
        }
        let end = start.checked_add(len).ok_or(FrameError::OutOfBuffer)?;
        if end > buffer.len() {
            return Err(FrameError::OutOfBuffer);
        }
        Ok(Frame {
            buffer,
            start,
            end,
            checksum: Checksum::None,
            segmentation: Segmentation::None,
            outer: None,
            neighbor: None,
        })
    }

    /// The frame's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The frame's bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer
            .get_mut(self.start..self.end)
            .unwrap_or_default()
    }

    /// The frame's bytes, which always are in the buffer: for the packet path, where
    /// a way out that is never taken costs less than an empty slice.
    #[inline(always)]
    pub(crate) fn content(&self) -> Option<&[u8]> {
        self.buffer.get(self.start..self.end)
    }

    /// As [`Frame::content`].
    #[inline(always)]
    pub(crate) fn content_mut(&mut self) -> Option<&mut [u8]> {
        self.buffer.get_mut(self.start..self.end)
    }

    /// Number of bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Free bytes in front of the frame.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// The whole buffer and where in it the frame starts and ends, for a shell
    /// that puts a device header in front without copying.
    pub fn buffer_mut(&mut self) -> (&mut [u8], core::ops::Range<usize>) {
        (self.buffer, self.start..self.end)
    }

    /// The buffer that the frame was made of, and where in it the frame is now: for a
    /// shell whose devices keep buffers.
    pub fn into_buffer(self) -> (&'b mut [u8], core::ops::Range<usize>) {
        (self.buffer, self.start..self.end)
    }

    /// Grows the frame at its front and returns the new bytes, whose content is
    /// whatever was there. `None`, and no change, when the headroom is too small
    /// or the frame would exceed 65,535 bytes.
    #[inline(always)]
    pub fn push_front<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        let start = self.start.checked_sub(N)?;
        if self.end - start > usize::from(u16::MAX) {
            return None;
        }
        let new = self.buffer.get_mut(start..)?.first_chunk_mut()?;
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = start.checked_add(u16::try_from(N).ok()?)?;
        }
        self.start = start;
        Some(new)
    }

    /// The front of the frame's bytes with the free ones `before` them, `N` in all,
    /// and what is beside. `None` when there are not as many.
    #[inline(always)]
    pub(crate) fn front_mut<const N: usize>(&mut self, before: usize) -> Option<Front<'_, N>> {
        let start = self.start.checked_sub(before)?;
        let bytes = self.buffer.get_mut(start..self.end)?;
        let (bytes, rest) = bytes.split_first_chunk_mut()?;
        Some(Front {
            bytes,
            rest,
            outer: &mut self.outer,
        })
    }

    /// Lets the frame be `len` bytes elsewhere in its buffer, which must be there,
    /// without a look at its marks: for frames that have none.
    #[inline(always)]
    pub(crate) fn place(&mut self, start: usize, len: usize) {
        self.start = start;
        self.end = start + len;
    }

    /// Takes `count` bytes off the front. `None`, and no change, when the frame
    /// is shorter or its unfinished checksum starts within them.
    #[inline(always)]
    pub fn pop_front(&mut self, count: usize) -> Option<()> {
        if count > self.len() {
            return None;
        }
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = start.checked_sub(u16::try_from(count).ok()?)?;
        }
        self.start += count;
        Some(())
    }

    /// Cuts the frame to `len` bytes if it is longer.
    #[inline(always)]
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }

    /// Empties the frame: no bytes at [`Frame::HEADROOM`], no offload state.
    pub(crate) fn clear(&mut self) {
        self.start = Self::HEADROOM.min(self.buffer.len());
        self.end = self.start;
        self.checksum = Checksum::None;
        self.segmentation = Segmentation::None;
        self.outer = None;
        self.neighbor = None;
    }

    /// Takes over the offload state of a frame that this one becomes a part or a
    /// copy of.
    pub(crate) fn copy_marks(&mut self, from: &Frame<'_>) {
        self.checksum = from.checksum;
        self.segmentation = from.segmentation;
        self.outer = from.outer;
    }

    /// Free bytes behind the frame, as far as it may grow.
    pub fn tailroom(&self) -> usize {
        (self.buffer.len() - self.end).min(usize::from(u16::MAX).saturating_sub(self.len()))
    }

    /// Appends `bytes` to the frame. `None`, and no change, when they are more
    /// than the [tailroom](Frame::tailroom).
    pub fn push_back(&mut self, bytes: &[u8]) -> Option<()> {
        if bytes.len() > self.tailroom() {
            return None;
        }
        let end = self.end + bytes.len();
        self.buffer.get_mut(self.end..end)?.copy_from_slice(bytes);
        self.end = end;
        Some(())
    }

    /// Copies the frame into another buffer, behind [`Frame::HEADROOM`] free
    /// bytes, and lives there from now on. `None`, and no change, when it does not fit.
    pub fn move_to(&mut self, buffer: &'b mut [u8]) -> Option<()> {
        let end = Frame::HEADROOM.checked_add(self.len())?;
        let place = buffer.get_mut(Frame::HEADROOM..end)?;
        copy(place, self.bytes())?;
        self.buffer = buffer;
        self.start = Frame::HEADROOM;
        self.end = end;
        Some(())
    }

    /// Makes the frame `len` bytes long from its present start; used for frames
    /// that the gateway writes itself. `None`, and no change, when the buffer is
    /// too small.
    pub(crate) fn resize(&mut self, len: usize) -> Option<()> {
        let end = self.start.checked_add(len)?;
        if end > self.buffer.len() || len > usize::from(u16::MAX) {
            return None;
        }
        self.end = end;
        Some(())
    }
}

/// Copies between slices of one length. `None`, and no change, when the lengths
/// differ, over which `copy_from_slice` would panic.
pub(crate) fn copy(to: &mut [u8], from: &[u8]) -> Option<()> {
    if to.len() != from.len() {
        return None;
    }
    to.copy_from_slice(from);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offload_state_moves_with_the_bytes() {
        let mut buffer = [0xa5; 64];
        let mut frame = Frame::new(&mut buffer, 16, 40).unwrap();
        frame.checksum = Checksum::Partial {
            start: 34,
            offset: 6,
        };
        frame.push_front::<8>().unwrap().fill(1);
        assert_eq!(
            frame.checksum,
            Checksum::Partial {
                start: 42,
                offset: 6
            }
        );
        assert_eq!(frame.len(), 48);
        frame.pop_front(8).unwrap();
        assert_eq!(
            frame.checksum,
            Checksum::Partial {
                start: 34,
                offset: 6
            }
        );
        // What starts within the removed bytes could never be finished.
        assert_eq!(frame.pop_front(35), None);
        assert_eq!(frame.len(), 40);
    }

    #[test]
    fn a_frame_stays_within_its_buffer() {
        let mut buffer = [0; 32];
        assert_eq!(
            Frame::new(&mut buffer, 30, 3).unwrap_err(),
            FrameError::OutOfBuffer
        );
        assert_eq!(
            Frame::new(&mut buffer, usize::MAX, 2).unwrap_err(),
            FrameError::OutOfBuffer
        );
        let mut frame = Frame::new(&mut buffer, 4, 28).unwrap();
        assert!(frame.push_front::<5>().is_none());
        assert_eq!(frame.pop_front(29), None);
        frame.truncate(usize::MAX);
        assert_eq!(frame.len(), 28);
    }

    #[test]
    fn a_frame_grows_at_its_end_and_moves_with_its_bytes() {
        let mut large = [0xa5; Frame::HEADROOM + 8];
        let mut buffer = [0; 8];
        let mut frame = Frame::new(&mut buffer, 2, 4).unwrap();
        assert_eq!(frame.push_back(&[1, 2, 3]), None);
        assert_eq!((frame.len(), frame.tailroom()), (4, 2));
        frame.push_back(&[1, 2]).unwrap();
        assert_eq!(frame.bytes(), [0, 0, 0, 0, 1, 2]);
        frame.move_to(&mut large).unwrap();
        assert_eq!((frame.headroom(), frame.tailroom()), (Frame::HEADROOM, 2));
        frame.push_back(&[3]).unwrap();
        assert_eq!(frame.bytes(), [0, 0, 0, 0, 1, 2, 3]);
        let mut small = [0; Frame::HEADROOM + 6];
        assert_eq!(frame.move_to(&mut small), None);
        assert_eq!(frame.len(), 7);
    }

    #[test]
    fn a_frame_never_exceeds_65535_bytes() {
        let mut buffer = [0; 65_540];
        let mut frame = Frame::new(&mut buffer, 2, 65_530).unwrap();
        assert_eq!(frame.tailroom(), 5);
        assert_eq!(frame.push_back(&[0; 6]), None);
        frame.push_back(&[0; 5]).unwrap();
        assert_eq!((frame.len(), frame.tailroom()), (65_535, 0));
    }
}
