//! Sending tunnel packets: each by its flow's socket; those of one size and peer that
//! follow each other in one piece, for the kernel to cut.

mod train;

use std::io::IoSlice;

use culvert_core::offload::{Layout, Segments};
use culvert_core::{Fate, Frame, Outer, OuterL4, Packet, PortId, Segmentation};

use self::train::{PIECES, Piece, To, Trains};
use super::Underlay;
use crate::dataplane::buffers::BATCH;
use crate::dataplane::{ShellCounter, ShellCounters, Tools};
use crate::sys::socket::{
    Datagram, PeerErrors, SendBatch, SendStop, Socket, SocketKind, UdpSourcePool,
};

/// Sends the packets of a batch that leave by `port`: socket by socket, each in order.
pub(super) fn send(
    underlay: &mut Underlay,
    port: PortId,
    packets: &[Packet<'_>],
    tools: &mut Tools<'_>,
) {
    let sockets = Sockets {
        pool: underlay.vxlan.as_ref().map(|vxlan| &vxlan.senders),
        ipip: &underlay.ipip,
    };
    let mut exit = Exit {
        batch: &mut underlay.send,
        errors: &mut underlay.errors,
        tools,
    };
    let mine = |packet: &Packet<'_>| match (packet.fate, packet.frame.outer) {
        (Fate::Forward(to), Some(outer)) if to == port => Some(outer),
        _ => None,
    };
    let mut used = 0u64;
    for outer in packets.iter().filter_map(mine) {
        match sockets.index_for(&outer) {
            Some(index) => used |= 1 << (index & 63),
            None => exit.tools.counters.add(ShellCounter::UnderlayTxFailed, 1),
        }
    }
    for (index, socket) in sockets.all().enumerate() {
        if used & 1 << (index & 63) == 0 {
            continue;
        }
        let frames = packets.iter().filter_map(|packet| {
            let outer = mine(packet)?;
            (sockets.index_for(&outer) == Some(index)).then_some((&packet.frame, outer))
        });
        exit.send(socket, frames);
    }
}

/// The sockets that packets leave by.
struct Sockets<'s> {
    pool: Option<&'s UdpSourcePool>,
    ipip: &'s [Socket],
}

impl<'s> Sockets<'s> {
    fn udp(&self) -> &'s [Socket] {
        self.pool.map_or(&[], |pool| pool.sockets())
    }

    fn all(&self) -> impl Iterator<Item = &'s Socket> {
        self.udp().iter().chain(self.ipip)
    }

    /// The place among [`Sockets::all`] of the socket for a packet; `None` when
    /// there is none for its tunnel.
    fn index_for(&self, outer: &Outer) -> Option<usize> {
        match outer.l4 {
            OuterL4::Udp { src_port, .. } => Some(self.pool?.index_for(src_port)),
            OuterL4::Ip { protocol } => {
                let kind = SocketKind::Ip { protocol };
                let index = self.ipip.iter().position(|socket| socket.kind() == kind)?;
                Some(self.udp().len() + index)
            }
        }
    }
}

/// What sending needs besides a socket.
struct Exit<'e, 't> {
    batch: &'e mut SendBatch,
    errors: &'e mut PeerErrors,
    tools: &'e mut Tools<'t>,
}

impl Exit<'_, '_> {
    /// Sends frames by a socket, in this order.
    fn send<'f, 'b: 'f>(
        &mut self,
        socket: &Socket,
        frames: impl Iterator<Item = (&'f Frame<'b>, Outer)>,
    ) {
        let mut trains = Trains::new(socket);
        for (frame, outer) in frames {
            let to = To::of(&outer);
            match frame.segmentation {
                Segmentation::None => {
                    let bytes = frame.bytes();
                    if !trains.has_room(1) {
                        self.send_trains(socket, &mut trains);
                    }
                    trains.push(to, [Piece::Bytes(bytes)], bytes.len());
                }
                _ => self.cut(socket, &mut trains, frame, &outer),
            }
        }
        self.send_trains(socket, &mut trains);
    }

    /// Cuts a super-frame: each segment's headers are written beside, and its payload
    /// stays where it is.
    fn cut<'f>(
        &mut self,
        socket: &Socket,
        trains: &mut Trains<'f>,
        frame: &'f Frame<'_>,
        outer: &Outer,
    ) {
        let layout = match outer.l4 {
            OuterL4::Udp { .. } => Layout::VXLAN,
            OuterL4::Ip { .. } => Layout::IP,
        };
        let mut segments = match Segments::new(frame, layout) {
            Ok(segments) => segments,
            Err(error) => return self.tools.not_cut(&error),
        };
        let to = To::of(outer);
        while !segments.is_empty() {
            let room = self.tools.scratch.get_mut(trains.headers..);
            let header = match trains.has_room(2) {
                true => segments.write_next_header(room.unwrap_or_default()),
                false => None,
            };
            match header {
                Some((len, payload)) => {
                    let header = Piece::Header(trains.headers..trains.headers + len);
                    trains.headers += len;
                    let pieces = [header, Piece::Bytes(payload)];
                    trains.push(to, pieces, len + payload.len());
                }
                // No header is larger than the scratch memory.
                None if trains.trains.is_empty() => {
                    return self.tools.counters.add(ShellCounter::SegmentFailed, 1);
                }
                None => self.send_trains(socket, trains),
            }
        }
    }

    /// Sends all that wait, and forgets them.
    fn send_trains(&mut self, socket: &Socket, trains: &mut Trains<'_>) {
        let scratch = &*self.tools.scratch;
        let slices = trains.pieces.iter().map(|piece| match piece {
            Piece::Bytes(bytes) => IoSlice::new(bytes),
            Piece::Header(range) => IoSlice::new(scratch.get(range.clone()).unwrap_or_default()),
        });
        let slices: heapless::Vec<IoSlice<'_>, PIECES> = slices.collect();
        let datagrams = trains.trains.iter().map(|train| train.datagram(&slices));
        let datagrams: heapless::Vec<Datagram<'_>, BATCH> = datagrams.collect();
        send_all(
            (socket, self.batch, self.errors),
            &datagrams,
            self.tools.counters,
        );
        trains.clear();
    }
}

/// What a socket needs to send by.
type Way<'w> = (&'w Socket, &'w mut SendBatch, &'w mut PeerErrors);

/// Sends all; what fails is counted and passed over.
fn send_all(
    (socket, batch, errors): Way<'_>,
    mut datagrams: &[Datagram<'_>],
    counters: &ShellCounters,
) {
    while !datagrams.is_empty() {
        let report = socket.send_batch(batch, datagrams, errors);
        let rest = datagrams.get(report.sent..).unwrap_or_default();
        datagrams = match (report.stop, rest.split_first()) {
            (None, _) | (_, None) => return,
            (Some(SendStop::WouldBlock), _) => {
                let lost: u64 = rest.iter().map(count).sum();
                return counters.add(ShellCounter::UnderlayTxFull, lost);
            }
            (Some(SendStop::Failed(error)), Some((failed, behind))) => {
                match failed.segment {
                    // The kernel, or the device, does not cut this; each may go by itself.
                    Some(_) if is_uncut(&error) => {
                        if error.raw_os_error() == Some(libc::EIO) {
                            tracing::info!(%error, "the underlay's device does not cut datagrams; each is sent by itself");
                            socket.stop_segmenting();
                        }
                        send_each((socket, batch, errors), failed, counters);
                    }
                    _ => {
                        tracing::debug!(%error, "tunnel packets were not sent");
                        counters.add(ShellCounter::UnderlayTxFailed, count(failed));
                    }
                }
                behind
            }
        };
    }
}

/// Whether an error may be one of cutting only.
fn is_uncut(error: &std::io::Error) -> bool {
    let number = error.raw_os_error();
    matches!(number, Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// How many datagrams it stands for.
fn count(datagram: &Datagram<'_>) -> u64 {
    let bytes: usize = datagram.pieces.iter().map(|piece| piece.len()).sum();
    let count = datagram
        .segment
        .map_or(1, |size| bytes.div_ceil(usize::from(size.get())));
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Sends each datagram of a train by itself.
fn send_each((socket, batch, errors): Way<'_>, train: &Datagram<'_>, counters: &ShellCounters) {
    let size = train.segment.map_or(usize::MAX, |size| size.get().into());
    let mut rest = train.pieces;
    while !rest.is_empty() {
        // A datagram is as many pieces as make up its size, and none reaches into the next.
        let mut len = 0;
        let whole = rest.iter().position(|piece| {
            len += piece.len();
            len >= size
        });
        let (pieces, behind) = rest.split_at(whole.map_or(rest.len(), |last| last + 1));
        let datagram = Datagram {
            pieces,
            segment: None,
            ..*train
        };
        send_all((socket, batch, errors), &[datagram], counters);
        rest = behind;
    }
}
