//! Segmentation offload in software: [`Segments`] cuts a super-frame into the
//! packets that it stands for, [`coalesce`] joins consecutive packets of a flow
//! into a super-frame. Each undoes the other exactly.
//!
//! Both work from what a [`Frame`] knows of itself and from where its IP headers
//! are ([`Layout`]). IPv6 extension headers are copied from segment to segment.

mod headers;
mod join;
mod segment;

pub use join::{Accepts, MAX_DATAGRAMS, Target, coalesce};
pub use segment::{MAX_SEGMENTS, SegmentError, Segments};

use crate::wire::l4;
use crate::{Checksum, Frame, Segmentation};

/// Where a frame's IP headers are, in bytes from its first one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The header of the packet that is cut or joined: in a tunnel, the inner one.
    pub inner: u16,
    /// The header of the tunnel, when it is among the frame's bytes: behind it
    /// comes UDP (VXLAN), or `inner` directly (IP in IP).
    pub outer: Option<u16>,
}

impl Layout {
    /// The frame is an IP packet.
    pub const IP: Layout = Layout::at(0);
    /// An Ethernet frame.
    pub const ETHERNET: Layout = Layout::at(14);
    /// A VXLAN header and an Ethernet frame, as they go through a UDP socket.
    pub const VXLAN: Layout = Layout::at(8 + 14);

    const fn at(inner: u16) -> Layout {
        Layout { inner, outer: None }
    }

    /// The layout after `count` bytes were put in front of the frame. `None` when
    /// an offset exceeds 65,535.
    #[must_use]
    pub fn push_front(self, count: u16) -> Option<Layout> {
        let outer = match self.outer {
            Some(outer) => Some(outer.checked_add(count)?),
            None => None,
        };
        let inner = self.inner.checked_add(count)?;
        Some(Layout { inner, outer })
    }
}

/// How many packets a frame stands for: 1 unless it is a super-frame.
///
/// Cheap, for counters: it looks at one byte of the frame at most and checks
/// nothing. It is exact for a super-frame that [`Segments::new`] takes and whose
/// checksum is unfinished, as devices hand them over; for another it counts the
/// headers as payload.
pub fn segments(frame: &Frame<'_>) -> u32 {
    let (size, tcp) = match frame.segmentation {
        Segmentation::None => return 1,
        Segmentation::TcpV4 { size } | Segmentation::TcpV6 { size } => (size, true),
        Segmentation::Udp { size } => (size, false),
    };
    let headers = match frame.checksum {
        Checksum::Partial { start, .. } => {
            let start = usize::from(start);
            let l4 = frame.bytes().get(start..).unwrap_or_default();
            let len = match tcp {
                true => l4::tcp_header_len(l4).unwrap_or_default(),
                false => l4::UDP_HEADER_LEN,
            };
            start + usize::from(len)
        }
        Checksum::None | Checksum::Verified => 0,
    };
    let payload = frame.len().saturating_sub(headers);
    let segments = payload.div_ceil(usize::from(size.max(1))).max(1);
    u32::try_from(segments).unwrap_or(u32::MAX)
}
