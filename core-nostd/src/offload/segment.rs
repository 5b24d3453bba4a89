//! Cutting a super-frame into segments.

use core::fmt;
use core::num::NonZeroUsize;

use super::Layout;
use super::headers::{CWR, FIN, HeaderError, Headers, Ip, PSH, RST, SYN, Transport, URG, get, set};
use crate::wire::{checksum, ip, l4};
use crate::{Checksum, Frame, Segmentation};

/// Segments that a super-frame has at most: 64 KB of eight bytes each, the least
/// that Linux lets a TCP segment carry; UDP has 128 at most there.
pub const MAX_SEGMENTS: u16 = 8192;

/// Why a frame cannot be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentError {
    /// [`Segmentation::None`].
    NotMarked,
    /// The segment size is 0, or makes more than [`MAX_SEGMENTS`] segments.
    Size,
    /// No IP packet of right lengths and header checksum begins at [`Layout::inner`].
    NotIp,
    /// The packet is a fragment.
    Fragment,
    /// The packet is not of the marked kind, or it is source routed.
    Kind,
    /// The TCP or UDP header is truncated or has an impossible length.
    Transport,
    /// A TCP packet with SYN, RST or URG: which segment they belong to is not known.
    TcpFlags,
    /// The unfinished checksum is not the packet's TCP or UDP checksum.
    ChecksumMark,
    /// The frame came without a word on its checksum, which is wrong: segments
    /// with right ones would hide that.
    Checksum,
    /// There is no IP header at [`Layout::outer`] whose payload, UDP or IP in IP,
    /// ends with the inner packet.
    Outer,
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SegmentError::NotMarked => "the frame is not marked as a super-frame",
            SegmentError::Size => "the segment size is 0 or makes more than 8,192 segments",
            SegmentError::NotIp => "no valid IP packet is where the layout says",
            SegmentError::Fragment => "a fragment cannot be cut into segments",
            SegmentError::Kind => "the packet is not what the segmentation mark says",
            SegmentError::Transport => "the TCP or UDP header is not whole",
            SegmentError::TcpFlags => "a super-frame has none of the TCP flags SYN, RST and URG",
            SegmentError::ChecksumMark => "the unfinished checksum is not that of TCP or UDP",
            SegmentError::Checksum => "the checksum of the super-frame is wrong",
            SegmentError::Outer => "the outer header does not enclose the inner packet",
        })
    }
}

impl core::error::Error for SegmentError {}

impl From<HeaderError> for SegmentError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::NotIp => SegmentError::NotIp,
            HeaderError::Fragment => SegmentError::Fragment,
            HeaderError::Protocol => SegmentError::Kind,
            HeaderError::Transport => SegmentError::Transport,
        }
    }
}

/// The segments of a super-frame, written one at a time.
///
/// As Linux and virtio cut: IPv4 identification (outer and inner) counts up by one
/// from segment to segment, FIN and PSH are the last segment's, CWR the first's;
/// all else is copied. Every checksum is complete. Two may be zero, which says
/// that there is none, and stay so: an outer UDP checksum (RFC 7348 section 4.1,
/// RFC 6935), and the inner one of a UDP super-frame that is neither marked as
/// unfinished nor, over IPv6, unverified. Bytes behind the packet's end are left out.
#[derive(Clone, Debug)]
pub struct Segments<'f> {
    /// The frame up to the packet's end.
    bytes: &'f [u8],
    headers: Headers,
    outer: Option<Outer>,
    /// Payload bytes in each segment but the last.
    size: NonZeroUsize,
    /// Offset of the next segment's payload.
    next: usize,
    index: u16,
    /// What the checksum is summed from, without the length; `None` leaves it out.
    seed: Option<u64>,
    /// Whether to sum it up.
    finish: bool,
}

/// An outer header among the frame's bytes.
#[derive(Clone, Copy, Debug)]
struct Outer {
    ip: Ip,
    /// Whether it is UDP, and has a checksum.
    udp: Option<bool>,
}

impl<'f> Segments<'f> {
    /// Looks at the frame and its marks; nothing is written.
    ///
    /// A verified checksum is not looked at again; an unfinished one is finished
    /// from what its field holds, right or not; any other is checked, which reads
    /// the whole payload.
    ///
    /// # Errors
    /// [`SegmentError`] when marks, layout and bytes do not agree.
    pub fn new(frame: &'f Frame<'_>, layout: Layout) -> Result<Self, SegmentError> {
        let bytes = frame.bytes();
        let size = match frame.segmentation {
            Segmentation::None => return Err(SegmentError::NotMarked),
            Segmentation::TcpV4 { size }
            | Segmentation::TcpV6 { size }
            | Segmentation::Udp { size } => usize::from(size),
        };
        let headers = Headers::parse(bytes, usize::from(layout.inner))?;
        check_kind(frame.segmentation, &headers)?;
        let payload = headers.ip.end - headers.payload;
        let size = NonZeroUsize::new(size)
            .filter(|size| payload.div_ceil(size.get()) <= usize::from(MAX_SEGMENTS))
            .ok_or(SegmentError::Size)?;
        Ok(Segments {
            bytes: bytes.get(..headers.ip.end).ok_or(SegmentError::NotIp)?,
            outer: layout
                .outer
                .map(|at| Outer::parse(bytes, usize::from(at), &headers))
                .transpose()?,
            size,
            next: headers.payload,
            index: 0,
            seed: seed(frame, &headers)?,
            finish: true,
            headers,
        })
    }

    /// Leaves the segments' checksums unfinished, for a frame whose packet is not in a
    /// tunnel. Each segment must have [`Segments::mark`] then.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        self.finish = self.outer.is_some();
        self
    }

    /// The state of the segments' checksums.
    pub fn mark(&self) -> Checksum {
        let start = u16::try_from(self.headers.ip.payload).ok();
        match start.filter(|_| !self.finish && self.seed.is_some()) {
            Some(start) => Checksum::Partial {
                start,
                offset: self.headers.checksum_offset(),
            },
            None => Checksum::None,
        }
    }

    /// Passes over the next `count` segments, as if they had been written.
    pub fn skip(&mut self, count: u16) {
        let bytes = self.size.get().saturating_mul(usize::from(count));
        self.next = self.next.saturating_add(bytes).min(self.bytes.len());
        self.index = self.index.wrapping_add(count);
    }

    /// Segments that are still to be written.
    pub fn len(&self) -> usize {
        let rest = self.bytes.len() - self.next;
        // A packet without payload is one segment.
        let empty = self.index == 0 && rest == 0;
        rest.div_ceil(self.size.get()) + usize::from(empty)
    }

    /// Whether all segments are written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the next segment; `None` when all are written. All segments but
    /// the last are equally long, and the last is not longer.
    pub fn next_len(&self) -> Option<usize> {
        let rest = self.bytes.len() - self.next;
        (!self.is_empty()).then_some(self.headers.payload + rest.min(self.size.get()))
    }

    /// Writes the next segment to the front of `out` and returns its length.
    /// `None`, and no change, when all are written or `out` is too small.
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let len = self.next_len()?;
        let out = out.get_mut(..len)?;
        let (header, place) = out.split_at_mut_checked(self.headers.payload)?;
        let (_, payload) = self.write_next_header(header)?;
        place.get_mut(..payload.len())?.copy_from_slice(payload);
        Some(len)
    }

    /// Writes the next segment's headers to the front of `out`, and returns their length
    /// and the payload that belongs behind them, where it is in the super-frame: for
    /// devices that gather a packet from several places. `None`, and no change, when all
    /// are written or `out` is too small.
    pub fn write_next_header(&mut self, out: &mut [u8]) -> Option<(usize, &'f [u8])> {
        let bytes = self.bytes;
        let header_len = self.headers.payload;
        let len = self.next_len()?;
        let next = self.next + (len - header_len);
        let payload = bytes.get(self.next..next)?;
        let header = out.get_mut(..header_len)?;
        header.copy_from_slice(bytes.get(..header_len)?);
        self.write_headers(header, payload, next == bytes.len())?;
        self.next = next;
        self.index = self.index.wrapping_add(1);
        Some((header_len, payload))
    }

    /// Makes the copied headers those of the present segment, which has this payload.
    fn write_headers(&self, header: &mut [u8], payload: &[u8], last: bool) -> Option<()> {
        let Headers { ip, transport, .. } = &self.headers;
        let end = header.len() + payload.len();
        let len = u16::try_from(end.checked_sub(ip.payload)?).ok()?;
        ip.update(header, end, self.index)?;
        if let Transport::Tcp { sequence, flags } = *transport {
            let sent = u32::try_from(self.next - self.headers.payload).ok()?;
            let not_last = if last { 0 } else { FIN | PSH };
            let not_first = if self.index == 0 { 0 } else { CWR };
            let flags = flags & !not_last & !not_first;
            self.headers
                .update_tcp(header, sequence.wrapping_add(sent), flags)?;
        }
        let seed = self.seed.map(|seed| checksum::fold(seed + u64::from(len)));
        self.headers.update(header, end, seed.unwrap_or_default())?;
        if seed.is_some() && self.finish {
            let sum = checksum::sum_of_two(header.get(ip.payload..)?, payload);
            let sum = match checksum::finish(sum) {
                // Zero would mean that there is none (RFC 768).
                0 if *transport == Transport::Udp => 0xffff,
                sum => sum,
            };
            self.headers.update(header, end, sum)?;
        }
        match self.outer {
            Some(outer) => outer.write((header, payload), self.index, ip.payload, seed),
            None => Some(()),
        }
    }
}

/// Whether the mark's kind is the packet's, and the packet one that can be cut.
fn check_kind(mark: Segmentation, headers: &Headers) -> Result<(), SegmentError> {
    let kind_fits = match (mark, headers.transport) {
        (Segmentation::TcpV4 { .. }, Transport::Tcp { .. }) => headers.ip.ident.is_some(),
        (Segmentation::TcpV6 { .. }, Transport::Tcp { .. }) => headers.ip.ident.is_none(),
        (Segmentation::Udp { .. }, Transport::Udp) => true,
        _ => false,
    };
    match headers.transport {
        _ if !kind_fits => Err(SegmentError::Kind),
        Transport::Tcp { flags, .. } if flags & (SYN | RST | URG) != 0 => {
            Err(SegmentError::TcpFlags)
        }
        _ => Ok(()),
    }
}

/// What the segments' checksums are summed from besides their bytes and length;
/// `None` when they have none.
fn seed(frame: &Frame<'_>, headers: &Headers) -> Result<Option<u64>, SegmentError> {
    let field = headers.checksum(frame.bytes());
    let absent = headers.transport == Transport::Udp && field == 0;
    match frame.checksum {
        Checksum::Partial { start, offset } => {
            if usize::from(start) != headers.ip.payload || offset != headers.checksum_offset() {
                return Err(SegmentError::ChecksumMark);
            }
            // Minus the length that it was made with, in ones' complement.
            Ok(Some(u64::from(field) + u64::from(!headers.transport_len())))
        }
        Checksum::Verified if absent => Ok(None),
        Checksum::None if absent && headers.ip.ident.is_some() => Ok(None),
        Checksum::None if !headers.is_valid(frame.bytes()) => Err(SegmentError::Checksum),
        Checksum::None | Checksum::Verified => Ok(Some(headers.ip.pseudo)),
    }
}

impl Outer {
    fn parse(frame: &[u8], at: usize, inner: &Headers) -> Result<Outer, SegmentError> {
        const UDP_LEN: usize = 4;
        const UDP_CHECKSUM: usize = 6;
        let outer = Ip::parse(frame, at).map_err(|_| SegmentError::Outer)?;
        let udp_header = usize::from(l4::UDP_HEADER_LEN);
        let field = |offset| get(frame, outer.payload + offset).map(u16::from_be_bytes);
        let (udp, encloses) = match outer.protocol {
            ip::UDP => {
                let len = field(UDP_LEN).map(usize::from) == Some(outer.end - outer.payload);
                let has_checksum = field(UDP_CHECKSUM).is_some_and(|sum| sum != 0);
                (
                    Some(has_checksum),
                    len && outer.payload + udp_header <= inner.ip.at,
                )
            }
            ip::IPV4 => (
                None,
                outer.payload == inner.ip.at && inner.ip.ident.is_some(),
            ),
            ip::IPV6 => (
                None,
                outer.payload == inner.ip.at && inner.ip.ident.is_none(),
            ),
            _ => return Err(SegmentError::Outer),
        };
        if !encloses || outer.end != inner.ip.end {
            return Err(SegmentError::Outer);
        }
        Ok(Outer { ip: outer, udp })
    }

    /// Makes the copied outer headers those of a segment of this header and payload. Its
    /// transport header is at `inner`, with the checksum that `inner_sum` became.
    fn write(
        &self,
        (header, payload): (&mut [u8], &[u8]),
        index: u16,
        inner: usize,
        inner_sum: Option<u16>,
    ) -> Option<()> {
        let end = header.len() + payload.len();
        self.ip.update(header, end, index)?;
        let Some(has_checksum) = self.udp else {
            return Some(());
        };
        let len = u16::try_from(end.checked_sub(self.ip.payload)?).ok()?;
        let udp = header.get_mut(self.ip.payload..)?;
        set(udp, 4, len.to_be_bytes())?;
        set(udp, 6, [0, 0])?;
        if !has_checksum {
            return Some(());
        }
        let inner = inner.checked_sub(self.ip.payload)?;
        let covered = match inner_sum {
            // What the inner checksum covers sums up to the complement of its
            // pseudo-header, so it need not be read again. Only if it begins at an
            // even place do its words lie as the outer sum takes them.
            Some(sum) if inner % 2 == 0 => checksum::sum(udp.get(..inner)?) + u64::from(!sum),
            _ => checksum::sum_of_two(udp, payload),
        };
        let sum = checksum::finish(self.ip.pseudo_header(len) + covered);
        set(udp, 6, (if sum == 0 { 0xffff } else { sum }).to_be_bytes())
    }
}
