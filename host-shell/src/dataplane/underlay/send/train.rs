//! Datagrams for one socket, laid out so that the kernel takes many at a time.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::Range;

use culvert_core::{Outer, OuterL4};

use crate::dataplane::buffers::BATCH;
use crate::sys::socket::{Datagram, MAX_SEGMENTS, Socket};

/// Pieces of all trains that wait: as many segments, of a header and a payload, as the
/// largest super-frames of a batch usually have.
pub(super) const PIECES: usize = 512;

/// Bytes of a train at most: UDP's 65,535, without UDP's and IP's headers.
const LONGEST: usize = 65_535 - 8 - 40;

/// A piece of a datagram.
pub(super) enum Piece<'f> {
    /// Bytes of a frame.
    Bytes(&'f [u8]),
    /// Bytes of the scratch memory.
    Header(Range<usize>),
}

/// Where a datagram goes, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct To {
    address: SocketAddr,
    tos: u8,
    ttl: u8,
}

impl To {
    /// As the outer header has it.
    pub(super) fn of(outer: &Outer) -> To {
        let port = match outer.l4 {
            OuterL4::Udp { dst_port, .. } => dst_port,
            OuterL4::Ip { .. } => 0,
        };
        To {
            address: SocketAddr::new(outer.dst, port),
            tos: outer.tos,
            ttl: outer.ttl,
        }
    }
}

/// Datagrams of one size, but for a last one that is smaller, to one place.
pub(super) struct Train {
    to: To,
    /// Places among the pieces.
    pieces: Range<usize>,
    /// Octets of each datagram but the last.
    size: usize,
    count: usize,
    bytes: usize,
    /// Whether another may follow.
    open: bool,
}

impl Train {
    /// As the socket takes it; `slices` are those of all pieces.
    pub(super) fn datagram<'a>(&self, slices: &'a [IoSlice<'a>]) -> Datagram<'a> {
        let several = self.count > 1;
        Datagram {
            pieces: slices.get(self.pieces.clone()).unwrap_or_default(),
            segment: u16::try_from(self.size)
                .ok()
                .and_then(NonZeroU16::new)
                .filter(|_| several),
            destination: self.to.address,
            tos: self.to.tos,
            ttl: self.to.ttl,
        }
    }
}

/// What waits for one socket.
pub(super) struct Trains<'f> {
    pub(super) pieces: heapless::Vec<Piece<'f>, PIECES>,
    pub(super) trains: heapless::Vec<Train, BATCH>,
    /// Bytes of the scratch memory that are in use.
    pub(super) headers: usize,
    /// Datagrams of a train at most.
    most: usize,
}

impl<'f> Trains<'f> {
    pub(super) fn new(socket: &Socket) -> Self {
        Trains {
            pieces: heapless::Vec::new(),
            trains: heapless::Vec::new(),
            headers: 0,
            most: match socket.can_segment() {
                true => MAX_SEGMENTS,
                false => 1,
            },
        }
    }

    /// Whether another datagram of so many pieces has room.
    pub(super) fn has_room(&self, pieces: usize) -> bool {
        self.pieces.len() + pieces <= PIECES && !self.trains.is_full()
    }

    /// Appends a datagram of `len` bytes, for which there is room.
    pub(super) fn push<const N: usize>(&mut self, to: To, pieces: [Piece<'f>; N], len: usize) {
        let start = self.pieces.len();
        for piece in pieces {
            // There is room, as was asked.
            let _ = self.pieces.push(piece);
        }
        let end = self.pieces.len();
        match self.trains.last_mut() {
            Some(train)
                if train.open
                    && train.to == to
                    && len <= train.size
                    && train.count < self.most
                    && train.bytes + len <= LONGEST =>
            {
                train.pieces.end = end;
                train.count += 1;
                train.bytes += len;
                train.open = len == train.size;
            }
            _ => {
                // There is room, as was asked.
                let _ = self.trains.push(Train {
                    to,
                    pieces: start..end,
                    size: len,
                    count: 1,
                    bytes: len,
                    open: len > 0,
                });
            }
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.trains.clear();
        self.headers = 0;
    }
}
