//! The underlay port: UDP sockets for VXLAN, raw sockets for IP in IP.
//!
//! For VXLAN one socket receives on the networks' port; a pool of sockets sends,
//! because a socket has one source port and the outer source port is the tunnel's
//! flow entropy (RFC 7348 section 5). IP in IP has no such entropy: of each of its
//! two protocols one socket receives and sends.

mod receive;
mod send;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use culvert_core::wire::ip;
use culvert_core::{Packet, PortId};

use self::receive::{From, Trains};
use super::buffers::{BATCH, Inbound};
use super::{ShellCounter, ShellCounters, Tools};
use crate::sys::socket::{
    PeerErrors, RecvBatch, SendBatch, Socket, SocketError, SocketKind, SocketOptions, UdpSourcePool,
};

/// Errors of peers kept between two looks at them.
const PEER_ERRORS: usize = 64;

/// What an underlay port has to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayOptions {
    /// This node's underlay address; the outer headers are of its IP version.
    pub address: IpAddr,
    /// The UDP port of VXLAN, where VXLAN is used.
    pub udp_port: Option<u16>,
    /// Whether IP in IP is used, with inner packets of both IP versions.
    pub ipip: bool,
    /// Outer UDP checksums are zero, and over IPv6 zero ones are accepted (RFC 6935).
    pub zero_udp_checksum: bool,
    /// Outer IPv4 headers have no don't-fragment flag.
    pub may_fragment: bool,
}

/// The sockets of VXLAN.
struct Vxlan {
    receiver: Socket,
    senders: UdpSourcePool,
}

/// Sockets as a port.
pub struct Underlay {
    vxlan: Option<Vxlan>,
    /// None, or one for each inner IP version.
    ipip: Vec<Socket>,
    receive: RecvBatch,
    trains: Trains,
    send: SendBatch,
    errors: PeerErrors,
    /// Peers and the largest packets that get to them, as errors said.
    path_mtus: heapless::Vec<(IpAddr, u16), PEER_ERRORS>,
}

impl Underlay {
    /// Binds the sockets at this node's underlay address, in the calling thread's
    /// network namespace: for VXLAN one on the UDP port and the pool on ports of
    /// its own, for IP in IP one for each inner IP version.
    ///
    /// # Errors
    /// [`SocketError`]; [`crate::whois::explain_bind_error`] finds out who is in the way.
    pub fn bind(options: UnderlayOptions) -> Result<Self, SocketError> {
        Underlay::bind_one(options, (0, 1))
    }

    /// As [`Underlay::bind`], for so many workers: each has all sockets, and each flow
    /// that comes in has its packets at one of them.
    ///
    /// # Errors
    /// As [`Underlay::bind`].
    pub fn bind_all(options: UnderlayOptions, workers: u8) -> Result<Vec<Self>, SocketError> {
        let all = (0..workers).map(|worker| Underlay::bind_one(options, (worker, workers)));
        all.collect()
    }

    /// Binds the sockets of one of so many workers; the first must be first.
    fn bind_one(
        options: UnderlayOptions,
        (worker, workers): (u8, u8),
    ) -> Result<Self, SocketError> {
        let address = options.address;
        let sockets = SocketOptions {
            zero_udp_checksum: options.zero_udp_checksum,
            may_fragment: options.may_fragment,
            ..SocketOptions::default()
        };
        let vxlan = |port| -> Result<Vxlan, SocketError> {
            let receiver = SocketOptions {
                join: true,
                shares_port: worker > 0,
                ..sockets
            };
            let receiver = Socket::udp(SocketAddr::new(address, port), receiver)?;
            if workers > 1 {
                set(&receiver, "SO_REUSEPORT", receiver.share_port())?;
            }
            let senders = UdpSourcePool::bind(address, UdpSourcePool::DEFAULT_SIZE, sockets)?;
            Ok(Vxlan { receiver, senders })
        };
        let ipip = |protocol| -> Result<Socket, SocketError> {
            let socket = Socket::ip(address, protocol, sockets)?;
            if workers > 1 {
                set(
                    &socket,
                    "SO_ATTACH_FILTER",
                    socket.take_part(worker, workers),
                )?;
            }
            Ok(socket)
        };
        let protocols = [ip::IPV4, ip::IPV6].into_iter().filter(|_| options.ipip);
        Ok(Underlay {
            vxlan: options.udp_port.map(vxlan).transpose()?,
            ipip: protocols.map(ipip).collect::<Result<_, _>>()?,
            receive: RecvBatch::new(BATCH),
            trains: Trains::new(),
            send: SendBatch::new(BATCH),
            errors: PeerErrors::new(PEER_ERRORS),
            path_mtus: heapless::Vec::new(),
        })
    }

    /// The sockets that datagrams come in by, the same ones in the same order at
    /// all times.
    pub(super) fn receivers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.receiving().map(AsFd::as_fd)
    }

    /// The descriptors that only ever report errors.
    pub(super) fn senders(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pool().iter().map(AsFd::as_fd)
    }

    fn receiving(&self) -> impl Iterator<Item = &Socket> {
        let vxlan = self.vxlan.iter().map(|vxlan| &vxlan.receiver);
        vxlan.chain(&self.ipip)
    }

    fn pool(&self) -> &[Socket] {
        let vxlan = self.vxlan.as_ref();
        vxlan.map_or(&[], |vxlan| vxlan.senders.sockets())
    }

    /// Receives from one of the [`Underlay::receivers`], by its place among them,
    /// until no datagram waits or the batch is full.
    ///
    /// # Errors
    /// What the kernel says when it is not a peer's error.
    pub(super) fn receive(
        &mut self,
        receiver: usize,
        inbound: &mut Inbound<'_>,
        counters: &ShellCounters,
    ) -> io::Result<()> {
        let vxlan = self.vxlan.iter().map(|vxlan| &vxlan.receiver);
        let Some(socket) = vxlan.chain(&self.ipip).nth(receiver) else {
            return Ok(());
        };
        let mut from = From {
            socket,
            batch: &mut self.receive,
            errors: &mut self.errors,
            counters,
        };
        let done = match socket.kind() {
            SocketKind::Udp => self.trains.receive(&mut from, inbound),
            SocketKind::Ip { .. } => from.receive(inbound),
        };
        self.take_errors(counters);
        done
    }

    /// Whether datagrams wait that no descriptor tells of.
    pub(super) fn has_left(&self) -> bool {
        self.trains.has_left()
    }

    /// Sends the packets that leave by this port, in order within each flow.
    pub(super) fn send(&mut self, port: PortId, packets: &[Packet<'_>], tools: &mut Tools<'_>) {
        send::send(self, port, packets, tools);
        self.take_errors(tools.counters);
    }

    /// Takes in what peers reported by ICMP, on whichever socket.
    pub(super) fn drain_errors(&mut self, counters: &ShellCounters) {
        let vxlan = self.vxlan.as_ref();
        let vxlan = vxlan.map(|vxlan| vxlan.senders.sockets().iter().chain([&vxlan.receiver]));
        for socket in vxlan.into_iter().flatten().chain(&self.ipip) {
            // It fails only for want of memory; the next event tries again.
            let _ = socket.drain_errors(&mut self.errors);
        }
        self.take_errors(counters);
    }

    /// What errors said of the largest packet (outer header included, in bytes) that
    /// gets to a peer at an underlay address, since this was asked last.
    pub(super) fn path_mtus(&mut self) -> impl Iterator<Item = (IpAddr, u16)> {
        std::mem::take(&mut self.path_mtus).into_iter()
    }

    /// Counts the errors that have come in and keeps what they say of path MTUs.
    fn take_errors(&mut self, counters: &ShellCounters) {
        for error in self.errors.list() {
            tracing::debug!(?error, "a peer reported an error");
            counters.add(ShellCounter::UnderlayPeerErrors, 1);
            if let Some(mtu) = error.mtu.and_then(|mtu| u16::try_from(mtu).ok()) {
                // One that has no room comes again with the next packet that is too large.
                let _ = self.path_mtus.push((error.peer.ip(), mtu));
            }
        }
        counters.add(ShellCounter::UnderlayPeerErrors, self.errors.lost());
        self.errors.clear();
    }
}

fn set(socket: &Socket, option: &'static str, done: io::Result<()>) -> Result<(), SocketError> {
    done.map_err(|source| SocketError::Option {
        kind: socket.kind(),
        address: socket.local_addr(),
        option,
        source,
    })
}
