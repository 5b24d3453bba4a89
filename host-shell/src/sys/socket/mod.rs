//! Sockets of the underlay: UDP, and IP protocols of their own by raw sockets.
//! Both are batched, with the IP header's fields of every datagram.
//!
//! Every socket sets DF, if not told otherwise, and ignores the kernel's idea of the
//! path MTU (`IP_PMTUDISC_PROBE`): the core knows the MTU of each peer. ICMP errors are
//! read from the socket's error queue ([`PeerErrors`]); the kernel would
//! otherwise report one peer's error at the next send to another peer.
//!
//! Of an IP protocol's datagrams the kernel writes the header when they are sent,
//! and has put fragments together before they are received. Other takers of the
//! protocol, such as a kernel's own tunnel devices, get a copy of each.

mod errors;
mod filter;
mod message;
mod pool;
mod wire;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{SockaddrStorage, bind, getsockname, setsockopt, sockopt};

pub use errors::{ErrorOrigin, PeerError, PeerErrors};
pub use message::{Datagram, MAX_SEGMENTS, Received, RecvBatch, SendBatch, SendReport, SendStop};
pub use pool::{SOURCE_PORTS, UdpSourcePool};

/// The TTL or hop limit that a socket sends with unless a [`Datagram`] says otherwise.
pub const DEFAULT_TTL: u8 = 64;

/// What a socket's datagrams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// UDP datagrams.
    Udp,
    /// The payloads of IP packets.
    Ip {
        /// The packets' protocol number or next header.
        protocol: u8,
    },
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketKind::Udp => f.write_str("UDP"),
            SocketKind::Ip { protocol } => write!(f, "IP protocol {protocol}"),
        }
    }
}

/// Why an underlay socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel gives no socket of this family and kind.
    #[error("cannot make the {kind} socket for {}: {source}{}", address.ip(), make_hint(source))]
    Make {
        /// What the socket was to be for.
        kind: SocketKind,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the kernel said; `EAFNOSUPPORT` where IPv6 is off, `EPERM` for a
        /// raw socket without CAP_NET_RAW.
        source: io::Error,
    },
    /// The kernel refuses an option.
    #[error("cannot set {option} on the {kind} socket for {address}: {source}")]
    Option {
        /// What the socket is for.
        kind: SocketKind,
        /// The address that was asked for.
        address: SocketAddr,
        /// The socket option.
        option: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address or port cannot be had; [`crate::whois`] says who has it.
    #[error("cannot bind the {kind} socket to {address}: {source}")]
    Bind {
        /// What the socket is for.
        kind: SocketKind,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the kernel said; `EADDRINUSE` or `EADDRNOTAVAIL` mostly.
        source: io::Error,
    },
    /// No port of [`SOURCE_PORTS`] is free at the address.
    #[error("cannot bind {wanted} UDP source ports at {address}: only {found} of {}-{} are free",
            SOURCE_PORTS.start(), SOURCE_PORTS.end())]
    NoFreePort {
        /// The address.
        address: IpAddr,
        /// How many sockets were asked for.
        wanted: usize,
        /// How many free ports were found.
        found: usize,
    },
}

fn make_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (run as root, or with CAP_NET_RAW)",
        _ => "",
    }
}

/// How a socket is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// Receive buffer in octets, as `SO_RCVBUF` counts them.
    pub receive_buffer: usize,
    /// Send buffer in octets, as `SO_SNDBUF` counts them.
    pub send_buffer: usize,
    /// UDP datagrams leave without a checksum; over IPv6 such ones are taken in,
    /// too (RFC 6935), which over IPv4 they always are.
    pub zero_udp_checksum: bool,
    /// IPv4 packets leave without the don't-fragment flag; none is larger than the
    /// device's MTU all the same.
    pub may_fragment: bool,
    /// UDP datagrams of one flow may be received joined, where the kernel can do so
    /// (`UDP_GRO`, Linux 5.0).
    pub join: bool,
    /// The port is shared with the sockets that [`Socket::share_port`] was called for
    /// and others with this option: each flow has its datagrams at one of them.
    pub shares_port: bool,
}

impl Default for SocketOptions {
    /// Buffers of 8 MiB: about 5 ms of 10 Gbit/s in small datagrams. Checksums,
    /// no fragments, nothing joined.
    fn default() -> Self {
        Self {
            receive_buffer: 8 << 20,
            send_buffer: 8 << 20,
            zero_udp_checksum: false,
            may_fragment: false,
            join: false,
            shares_port: false,
        }
    }
}

/// A bound, unconnected, non-blocking socket, closed on exec.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    kind: SocketKind,
    local: SocketAddr,
    can_segment: AtomicBool,
}

impl Socket {
    /// Binds a UDP socket to `address` in the calling thread's network namespace.
    ///
    /// Port 0 takes a free port. An IPv6 socket is for IPv6 only. Buffers larger
    /// than the system's limit need CAP_NET_ADMIN, and are cut to the limit
    /// without it.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn udp(address: SocketAddr, options: SocketOptions) -> Result<Self, SocketError> {
        Self::bind(SocketKind::Udp, address, options)
    }

    /// Binds a raw socket for the packets of an IP protocol to `address` in the
    /// calling thread's network namespace. Buffers are as for [`Socket::udp`].
    /// The ports of its datagrams' addresses are 0 when sending and of no meaning
    /// when receiving.
    ///
    /// # Errors
    /// See [`SocketError`]; CAP_NET_RAW is needed.
    pub fn ip(address: IpAddr, protocol: u8, options: SocketOptions) -> Result<Self, SocketError> {
        let kind = SocketKind::Ip { protocol };
        Self::bind(kind, SocketAddr::new(address, 0), options)
    }

    fn bind(
        kind: SocketKind,
        address: SocketAddr,
        options: SocketOptions,
    ) -> Result<Self, SocketError> {
        let fd = make(kind, address).map_err(|source| SocketError::Make {
            kind,
            address,
            source,
        })?;
        set_options(&fd, kind, address, options).map_err(|(option, source)| {
            SocketError::Option {
                kind,
                address,
                option,
                source,
            }
        })?;
        let bound = bind(fd.as_raw_fd(), &SockaddrStorage::from(address))
            .map_err(io::Error::from)
            .and_then(|()| bound_address(&fd, address));
        let local = bound.map_err(|source| SocketError::Bind {
            kind,
            address,
            source,
        })?;
        // The option's value is that of a socket without: only whether it is known counts.
        let known = set_int(&fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let can_segment = kind == SocketKind::Udp && !options.zero_udp_checksum && known;
        Ok(Self {
            fd,
            kind,
            local,
            can_segment: AtomicBool::new(can_segment),
        })
    }

    /// Whether a [`Datagram`] may stand for several: the kernel cuts UDP with checksums
    /// (`UDP_SEGMENT`, Linux 4.18).
    pub fn can_segment(&self) -> bool {
        self.can_segment.load(Ordering::Relaxed)
    }

    /// Has no [`Datagram`] stand for several from now on: the device that they leave by
    /// has no checksum offload, which kernels before 6.11 want for it (`EIO`).
    pub fn stop_segmenting(&self) {
        self.can_segment.store(false, Ordering::Relaxed);
    }

    /// What its datagrams are.
    pub fn kind(&self) -> SocketKind {
        self.kind
    }

    /// The address and port that it is bound to; a raw socket has its protocol
    /// number in the port's place.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether its packets are IPv6 packets in another one.
    fn has_inner_v6(&self) -> bool {
        let protocol = libc::IPPROTO_IPV6;
        matches!(self.kind, SocketKind::Ip { protocol: own } if libc::c_int::from(own) == protocol)
    }

    /// Whether what is received begins with the outer IP header.
    fn has_outer_header(&self) -> bool {
        self.kind != SocketKind::Udp && self.local.is_ipv4()
    }

    /// Receives as many datagrams as wait, are buffers, and fit `batch`.
    ///
    /// The n-th of the returned datagrams is in the n-th buffer. An
    /// empty result means that none waits. Errors of peers go to `errors`.
    ///
    /// # Errors
    /// What the kernel says, peers' errors apart: `ENOMEM`, or `EFAULT` and the like.
    pub fn recv_batch<'r, 'b>(
        &self,
        batch: &'r mut RecvBatch,
        buffers: impl IntoIterator<Item = &'b mut [u8]>,
        errors: &mut PeerErrors,
    ) -> io::Result<&'r [Received]> {
        message::receive(self, batch, buffers, errors)
    }

    /// Receives one datagram, or several that the kernel has joined, into `pieces` one
    /// after the other, for UDP. `None` means that none waits. Errors of peers go to
    /// `errors`.
    ///
    /// # Errors
    /// As [`Socket::recv_batch`].
    pub fn recv_scattered(
        &self,
        batch: &mut RecvBatch,
        pieces: &mut [IoSliceMut<'_>],
        errors: &mut PeerErrors,
    ) -> io::Result<Option<Received>> {
        message::receive_scattered(self, batch, pieces, errors)
    }

    /// Sends `datagrams` in their order until one fails.
    ///
    /// An error that belongs to another peer is drained into `errors` and the
    /// datagram is tried once more. See [`SendReport`] for what is told.
    pub fn send_batch(
        &self,
        batch: &mut SendBatch,
        datagrams: &[Datagram<'_>],
        errors: &mut PeerErrors,
    ) -> SendReport {
        message::send(self, batch, datagrams, errors)
    }

    /// Lets sockets with [`SocketOptions::shares_port`] be bound to this one's address
    /// and port from now on. Until then nobody shared it: whoever binds first and
    /// calls this has found the port free.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn share_port(&self) -> io::Result<()> {
        Ok(setsockopt(&self.fd, sockopt::ReusePort, &true)?)
    }

    /// Moves what is in the socket's error queue to `errors`, and gives how many
    /// errors there were, those that did not fit included.
    ///
    /// To be called when the socket reports `EPOLLERR`.
    ///
    /// # Errors
    /// What the kernel says, such as `ENOMEM`.
    pub fn drain_errors(&self, errors: &mut PeerErrors) -> io::Result<usize> {
        errors::drain(self, errors)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

type IntOption = (&'static str, libc::c_int, libc::c_int, libc::c_int);

const V4_OPTIONS: &[IntOption] = &[
    ("IP_PKTINFO", libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
    ("IP_RECVTOS", libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
    ("IP_RECVTTL", libc::IPPROTO_IP, libc::IP_RECVTTL, 1),
    ("IP_RECVERR", libc::IPPROTO_IP, libc::IP_RECVERR, 1),
    (
        "IP_MTU_DISCOVER",
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::IP_PMTUDISC_PROBE,
    ),
    (
        "IP_TTL",
        libc::IPPROTO_IP,
        libc::IP_TTL,
        DEFAULT_TTL as libc::c_int,
    ),
];

const V6_OPTIONS: &[IntOption] = &[
    (
        "IPV6_RECVPKTINFO",
        libc::IPPROTO_IPV6,
        libc::IPV6_RECVPKTINFO,
        1,
    ),
    (
        "IPV6_RECVTCLASS",
        libc::IPPROTO_IPV6,
        libc::IPV6_RECVTCLASS,
        1,
    ),
    (
        "IPV6_RECVHOPLIMIT",
        libc::IPPROTO_IPV6,
        libc::IPV6_RECVHOPLIMIT,
        1,
    ),
    ("IPV6_RECVERR", libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    (
        "IPV6_MTU_DISCOVER",
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
        libc::IPV6_PMTUDISC_PROBE,
    ),
    (
        "IPV6_UNICAST_HOPS",
        libc::IPPROTO_IPV6,
        libc::IPV6_UNICAST_HOPS,
        DEFAULT_TTL as libc::c_int,
    ),
];

/// Instead of `IP_PMTUDISC_PROBE`, which sets the flag.
const V4_MAY_FRAGMENT: IntOption = (
    "IP_MTU_DISCOVER",
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::IP_PMTUDISC_INTERFACE,
);

const SHARED_PORT: IntOption = ("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);

/// Raw sockets have only ever one IP version.
const V6_ONLY: IntOption = ("IPV6_V6ONLY", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1);

const V4_ZERO_CHECKSUM: &[IntOption] = &[("SO_NO_CHECK", libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)];

const V6_ZERO_CHECKSUM: &[IntOption] = &[
    (
        "UDP_NO_CHECK6_TX",
        libc::IPPROTO_UDP,
        libc::UDP_NO_CHECK6_TX,
        1,
    ),
    (
        "UDP_NO_CHECK6_RX",
        libc::IPPROTO_UDP,
        libc::UDP_NO_CHECK6_RX,
        1,
    ),
];

fn make(kind: SocketKind, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let (sort, protocol) = match kind {
        SocketKind::Udp => (libc::SOCK_DGRAM, 0),
        SocketKind::Ip { protocol } => (libc::SOCK_RAW, libc::c_int::from(protocol)),
    };
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes integers only.
    let fd = unsafe { libc::socket(family, sort | flags, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_options(
    fd: &OwnedFd,
    kind: SocketKind,
    address: SocketAddr,
    options: SocketOptions,
) -> Result<(), (&'static str, io::Error)> {
    set_buffers(fd, options)?;
    let (common, zero_checksum) = match address {
        SocketAddr::V4(_) => (V4_OPTIONS, V4_ZERO_CHECKSUM),
        SocketAddr::V6(_) => (V6_OPTIONS, V6_ZERO_CHECKSUM),
    };
    let udp = kind == SocketKind::Udp;
    let v6_only = (udp && address.is_ipv6()).then_some(&V6_ONLY);
    let zero_checksum = zero_checksum
        .iter()
        .filter(|_| udp && options.zero_udp_checksum);
    let may_fragment = options.may_fragment && address.is_ipv4();
    let may_fragment = may_fragment.then_some(&V4_MAY_FRAGMENT);
    let further = v6_only.into_iter().chain(zero_checksum).chain(may_fragment);
    let shares_port = options.shares_port.then_some(&SHARED_PORT);
    let further = further.chain(shares_port);
    for &(option, level, name, value) in common.iter().chain(further) {
        set_int(fd, level, name, value).map_err(|source| (option, source))?;
    }
    if udp && options.join {
        // A kernel that does not know it joins nothing, which is as good.
        let _ = set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    }
    Ok(())
}

fn set_buffers(fd: &OwnedFd, options: SocketOptions) -> Result<(), (&'static str, io::Error)> {
    // The kernel doubles the value and keeps it in 31 bits.
    let limit = |size: usize| size.min(1 << 29);
    let (receive, send) = (limit(options.receive_buffer), limit(options.send_buffer));
    setsockopt(fd, sockopt::RcvBufForce, &receive)
        .or_else(|_| setsockopt(fd, sockopt::RcvBuf, &receive))
        .map_err(|errno| ("SO_RCVBUF", errno.into()))?;
    setsockopt(fd, sockopt::SndBufForce, &send)
        .or_else(|_| setsockopt(fd, sockopt::SndBuf, &send))
        .map_err(|errno| ("SO_SNDBUF", errno.into()))
}

fn set_int(fd: &OwnedFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let size = socklen(size_of::<libc::c_int>());
    // SAFETY: the pointer is to a live integer of the given size, which the kernel copies.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn bound_address(fd: &OwnedFd, asked: SocketAddr) -> io::Result<SocketAddr> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let v4 = name.as_sockaddr_in().map(|v4| (v4.ip(), v4.port()).into());
    let v6 = name.as_sockaddr_in6().map(|v6| (v6.ip(), v6.port()).into());
    Ok(v4.or(v6).unwrap_or(asked))
}

/// The size of a structure of this module as the socket calls want it.
fn socklen(size: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(size).unwrap_or(libc::socklen_t::MAX)
}
