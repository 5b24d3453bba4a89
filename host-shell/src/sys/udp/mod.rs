//! UDP sockets of the underlay: batched, with the IP header's fields of every datagram.
//!
//! Every socket sets DF and ignores the kernel's idea of the path MTU
//! (`IP_PMTUDISC_PROBE`): the core knows the MTU of each peer. ICMP errors are
//! read from the socket's error queue ([`PeerErrors`]); the kernel would
//! otherwise report one peer's error at the next send to another peer.

mod errors;
mod message;
mod pool;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, setsockopt, socket,
    sockopt,
};

pub use errors::{ErrorOrigin, PeerError, PeerErrors};
pub use message::{Datagram, Received, RecvBatch, SendBatch, SendReport, SendStop};
pub use pool::{SOURCE_PORTS, UdpSourcePool};

/// The TTL or hop limit that a socket sends with unless a [`Datagram`] says otherwise.
pub const DEFAULT_TTL: u8 = 64;

/// Why an underlay socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// The kernel gives no socket of this family.
    #[error("cannot make a UDP socket for {address}: {source}")]
    Socket {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the kernel said; `EAFNOSUPPORT` where IPv6 is off.
        source: io::Error,
    },
    /// The kernel refuses an option.
    #[error("cannot set {option} on the UDP socket for {address}: {source}")]
    Option {
        /// The address that was asked for.
        address: SocketAddr,
        /// The socket option.
        option: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address or port cannot be had; [`crate::whois`] says who has it.
    #[error("cannot bind the UDP address {address}: {source}")]
    Bind {
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
        address: std::net::IpAddr,
        /// How many sockets were asked for.
        wanted: usize,
        /// How many free ports were found.
        found: usize,
    },
}

/// Sizes of a socket's kernel buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpOptions {
    /// Receive buffer in octets, as `SO_RCVBUF` counts them.
    pub receive_buffer: usize,
    /// Send buffer in octets, as `SO_SNDBUF` counts them.
    pub send_buffer: usize,
}

impl Default for UdpOptions {
    /// 8 MiB each: about 5 ms of 10 Gbit/s in small datagrams.
    fn default() -> Self {
        Self {
            receive_buffer: 8 << 20,
            send_buffer: 8 << 20,
        }
    }
}

/// A bound, unconnected, non-blocking UDP socket, closed on exec.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    local: SocketAddr,
}

impl UdpSocket {
    /// Binds `address` in the calling thread's network namespace.
    ///
    /// Port 0 takes a free port. An IPv6 socket is for IPv6 only. Buffers larger
    /// than the system's limit need CAP_NET_ADMIN, and are cut to the limit
    /// without it.
    ///
    /// # Errors
    /// See [`UdpError`].
    pub fn bind(address: SocketAddr, options: UdpOptions) -> Result<Self, UdpError> {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd =
            socket(family, SockType::Datagram, flags, None).map_err(|errno| UdpError::Socket {
                address,
                source: errno.into(),
            })?;
        set_buffers(&fd, options).map_err(|(option, source)| UdpError::Option {
            address,
            option,
            source,
        })?;
        for &(option, level, name, value) in options_of(address) {
            set_int(&fd, level, name, value).map_err(|source| UdpError::Option {
                address,
                option,
                source,
            })?;
        }
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(|errno| UdpError::Bind {
            address,
            source: errno.into(),
        })?;
        let local =
            bound_address(&fd, address).map_err(|source| UdpError::Bind { address, source })?;
        Ok(Self { fd, local })
    }

    /// The address and port that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Receives as many datagrams as wait, are buffers, and fit `batch`.
    ///
    /// The n-th of the returned datagrams is at the start of the n-th buffer. An
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

    /// Makes the socket drop whatever arrives, so that strangers cannot fill its
    /// receive buffer. Errors of peers still arrive.
    fn refuse_datagrams(&self) -> io::Result<()> {
        // One classic BPF instruction: return 0, keep nothing of the datagram.
        let mut program = [libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: 0,
        }];
        let filter = libc::sock_fprog {
            len: 1,
            filter: program.as_mut_ptr(),
        };
        let size = socklen(size_of::<libc::sock_fprog>());
        // SAFETY: the pointers are to a live filter of one instruction, which the kernel copies.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                size,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl AsFd for UdpSocket {
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
    ("IPV6_V6ONLY", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1),
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

fn options_of(address: SocketAddr) -> &'static [IntOption] {
    if address.is_ipv4() {
        V4_OPTIONS
    } else {
        V6_OPTIONS
    }
}

fn set_buffers(fd: &OwnedFd, options: UdpOptions) -> Result<(), (&'static str, io::Error)> {
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
