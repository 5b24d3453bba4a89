//! Sending tunnel packets: each by its flow's socket, super-frames cut before.

use std::net::SocketAddr;

use culvert_core::offload::{Layout, Segments};
use culvert_core::{Fate, Frame, Outer, OuterL4, Packet, PortId, Segmentation};

use super::Underlay;
use crate::dataplane::buffers::BATCH;
use crate::dataplane::{ShellCounter, ShellCounters, Tools};
use crate::sys::socket::{
    Datagram, PeerErrors, SendBatch, SendStop, Socket, SocketKind, UdpSourcePool,
};

/// Datagrams for one socket.
type Datagrams<'d> = heapless::Vec<Datagram<'d>, BATCH>;

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
        let mut waiting = Datagrams::new();
        for (frame, outer) in frames {
            let whole = frame.segmentation == Segmentation::None;
            if !whole || waiting.is_full() {
                self.send_all(socket, &waiting);
                waiting.clear();
            }
            match whole {
                // There is room: a full list has just been cleared.
                true => drop(waiting.push(datagram(frame.bytes(), &outer))),
                false => self.send_segments(socket, frame, &outer),
            }
        }
        self.send_all(socket, &waiting);
    }

    /// Cuts a super-frame and sends its segments, as many at a time as have room.
    fn send_segments(&mut self, socket: &Socket, frame: &Frame<'_>, outer: &Outer) {
        let layout = match outer.l4 {
            OuterL4::Udp { .. } => Layout::VXLAN,
            OuterL4::Ip { .. } => Layout::IP,
        };
        let mut segments = match Segments::new(frame, layout) {
            Ok(segments) => segments,
            Err(error) => return self.tools.not_cut(&error),
        };
        let scratch = std::mem::take(&mut self.tools.scratch);
        while !segments.is_empty() {
            let mut datagrams = Datagrams::new();
            let mut room = &mut scratch[..];
            while !datagrams.is_full()
                && let Some(len) = segments.write_next(&mut *room)
            {
                let (segment, rest) = std::mem::take(&mut room).split_at_mut(len);
                // There is room, as the loop asks.
                let _ = datagrams.push(datagram(segment, outer));
                room = rest;
            }
            if datagrams.is_empty() {
                break; // No segment is larger than the scratch memory.
            }
            self.send_all(socket, &datagrams);
        }
        self.tools.scratch = scratch;
    }

    /// Sends all; what fails is counted and passed over.
    fn send_all(&mut self, socket: &Socket, mut datagrams: &[Datagram<'_>]) {
        let counters: &ShellCounters = self.tools.counters;
        while !datagrams.is_empty() {
            let report = socket.send_batch(self.batch, datagrams, self.errors);
            let rest = datagrams.get(report.sent..).unwrap_or_default();
            datagrams = match report.stop {
                None => return,
                Some(SendStop::WouldBlock) => {
                    let lost = u64::try_from(rest.len()).unwrap_or(u64::MAX);
                    return counters.add(ShellCounter::UnderlayTxFull, lost);
                }
                Some(SendStop::Failed(error)) => {
                    tracing::debug!(%error, "a tunnel packet was not sent");
                    counters.add(ShellCounter::UnderlayTxFailed, 1);
                    rest.get(1..).unwrap_or_default()
                }
            };
        }
    }
}

fn datagram<'p>(payload: &'p [u8], outer: &Outer) -> Datagram<'p> {
    let port = match outer.l4 {
        OuterL4::Udp { dst_port, .. } => dst_port,
        OuterL4::Ip { .. } => 0,
    };
    Datagram {
        payload,
        destination: SocketAddr::new(outer.dst, port),
        tos: outer.tos,
        ttl: outer.ttl,
    }
}
