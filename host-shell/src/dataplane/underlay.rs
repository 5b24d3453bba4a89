//! The underlay port: UDP sockets for VXLAN.
//!
//! One socket receives on the networks' port; a pool of sockets sends, because a
//! socket has one source port and the outer source port is the tunnel's flow
//! entropy (RFC 7348 section 5).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use culvert_core::{Checksum, Fate, Outer, OuterL4, Packet, PortId, Segmentation};

use super::buffers::{BATCH, Inbound, Received};
use super::{ShellCounter, ShellCounters};
use crate::sys::udp::{
    Datagram, PeerErrors, RecvBatch, SendBatch, SendStop, UdpError, UdpOptions, UdpSocket,
    UdpSourcePool,
};

/// Errors of peers kept between two looks at them.
const PEER_ERRORS: usize = 64;

/// UDP sockets as a port.
pub struct UdpUnderlay {
    receiver: UdpSocket,
    senders: UdpSourcePool,
    receive: RecvBatch,
    send: SendBatch,
    errors: PeerErrors,
}

impl UdpUnderlay {
    /// Binds the sockets at this node's underlay address, in the calling thread's
    /// network namespace: one on `udp_port`, the pool on ports of its own.
    ///
    /// # Errors
    /// [`UdpError`]; [`crate::whois::explain_bind_error`] finds out who is in the way.
    pub fn bind(address: IpAddr, udp_port: u16) -> Result<Self, UdpError> {
        let options = UdpOptions::default();
        let receiver = UdpSocket::bind(SocketAddr::new(address, udp_port), options)?;
        let senders = UdpSourcePool::bind(address, UdpSourcePool::DEFAULT_SIZE, options)?;
        Ok(UdpUnderlay {
            receiver,
            senders,
            receive: RecvBatch::new(BATCH),
            send: SendBatch::new(BATCH),
            errors: PeerErrors::new(PEER_ERRORS),
        })
    }

    /// Receives datagrams until none waits or the batch is full.
    ///
    /// # Errors
    /// What the kernel says when it is not a peer's error.
    pub(super) fn receive(
        &mut self,
        inbound: &mut Inbound<'_>,
        counters: &ShellCounters,
    ) -> io::Result<()> {
        let dst_port = self.receiver.local_addr().port();
        let frames = inbound.frames();
        let all = self
            .receiver
            .recv_batch(&mut self.receive, frames, &mut self.errors)?;
        for datagram in all {
            if datagram.truncated {
                counters.add(ShellCounter::UnderlayRxTruncated, 1);
            }
            inbound.push(Received {
                len: datagram.len,
                checksum: Checksum::None,
                segmentation: Segmentation::None,
                outer: Some(Outer {
                    src: datagram.source.ip(),
                    dst: datagram.destination,
                    l4: OuterL4::Udp {
                        src_port: datagram.source.port(),
                        dst_port,
                        checksum: true,
                    },
                    tos: datagram.tos,
                    ttl: datagram.ttl,
                    // A socket does not show the flag; nothing needs it on receipt.
                    df: false,
                }),
            });
        }
        self.count_peer_errors(counters);
        Ok(())
    }

    /// Sends the packets that leave by this port, in order within each flow.
    pub(super) fn send(&mut self, port: PortId, packets: &[Packet<'_>], counters: &ShellCounters) {
        let mine = |packet: &Packet<'_>| match (packet.fate, packet.frame.outer) {
            (Fate::Forward(to), Some(outer)) if to == port => Some(outer),
            _ => None,
        };
        let mut used = 0u64;
        for outer in packets.iter().filter_map(mine) {
            used |= 1 << (self.senders.index_for(src_port(&outer)) & 63);
        }
        for (index, socket) in self.senders.sockets().iter().enumerate() {
            if used & 1 << (index & 63) == 0 {
                continue;
            }
            let datagrams = packets.iter().filter_map(|packet| {
                let outer = mine(packet)?;
                (self.senders.index_for(src_port(&outer)) == index)
                    .then(|| datagram(packet, &outer))
            });
            let datagrams: heapless::Vec<Datagram<'_>, BATCH> = datagrams.take(BATCH).collect();
            send_all(
                socket,
                &mut self.send,
                &datagrams,
                &mut self.errors,
                counters,
            );
        }
        self.count_peer_errors(counters);
    }

    /// Takes in what peers reported by ICMP, on whichever socket.
    pub(super) fn drain_errors(&mut self, counters: &ShellCounters) {
        for socket in self.senders.sockets().iter().chain([&self.receiver]) {
            // It fails only for want of memory; the next event tries again.
            let _ = socket.drain_errors(&mut self.errors);
        }
        self.count_peer_errors(counters);
    }

    fn count_peer_errors(&mut self, counters: &ShellCounters) {
        for error in self.errors.list() {
            tracing::debug!(?error, "a peer reported an error");
            counters.add(ShellCounter::UnderlayPeerErrors, 1);
        }
        counters.add(ShellCounter::UnderlayPeerErrors, self.errors.lost());
        self.errors.clear();
    }

    /// The descriptor that gets readable.
    pub(super) fn receiver(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }

    /// The descriptors that only ever report errors.
    pub(super) fn senders(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.senders.sockets().iter().map(AsFd::as_fd)
    }
}

fn src_port(outer: &Outer) -> u16 {
    match outer.l4 {
        OuterL4::Udp { src_port, .. } => src_port,
        OuterL4::Ip { .. } => 0,
    }
}

fn datagram<'p>(packet: &'p Packet<'_>, outer: &Outer) -> Datagram<'p> {
    let port = match outer.l4 {
        OuterL4::Udp { dst_port, .. } => dst_port,
        OuterL4::Ip { .. } => 0,
    };
    Datagram {
        payload: packet.frame.bytes(),
        destination: SocketAddr::new(outer.dst, port),
        tos: outer.tos,
        ttl: outer.ttl,
    }
}

/// Sends all; what fails is counted and passed over.
fn send_all(
    socket: &UdpSocket,
    batch: &mut SendBatch,
    mut datagrams: &[Datagram<'_>],
    errors: &mut PeerErrors,
    counters: &ShellCounters,
) {
    while !datagrams.is_empty() {
        let report = socket.send_batch(batch, datagrams, errors);
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
