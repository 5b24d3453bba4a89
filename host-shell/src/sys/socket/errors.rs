//! Errors of peers, from a socket's error queue (ip(7), `IP_RECVERR`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{getsockopt, sockopt};

use super::wire::{self, RawAddress, RawControl};
use super::{Socket, socklen};

/// Who found that a datagram could not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorOrigin {
    /// This host, before the datagram left.
    Local,
    /// An ICMP or ICMPv6 message. Anyone can have made it up: it is a hint.
    Icmp {
        /// The message's type (ICMP's for an IPv4 peer, ICMPv6's for an IPv6 one).
        kind: u8,
        /// The message's code.
        code: u8,
        /// Who sent the message.
        from: Option<IpAddr>,
    },
}

/// One datagram to a peer that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerError {
    /// Where the datagram was sent to; the port is 0 for an IP protocol of its own.
    pub peer: SocketAddr,
    /// The error number that it amounts to, such as `ECONNREFUSED`.
    pub errno: i32,
    /// Who found it.
    pub origin: ErrorOrigin,
    /// The MTU in octets that the message tells, with `EMSGSIZE`; not checked
    /// for plausibility.
    pub mtu: Option<u32>,
}

/// Room for a fixed number of [`PeerError`]s; more are counted.
#[derive(Debug)]
pub struct PeerErrors {
    list: Vec<PeerError>,
    capacity: usize,
    lost: u64,
}

impl PeerErrors {
    /// Room for `capacity` errors; nothing is allocated later.
    pub fn new(capacity: usize) -> Self {
        Self {
            list: Vec::with_capacity(capacity),
            capacity,
            lost: 0,
        }
    }

    /// The errors since the last [`PeerErrors::clear`], oldest first.
    pub fn list(&self) -> &[PeerError] {
        &self.list
    }

    /// How many errors had no room since the last [`PeerErrors::clear`].
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Forgets all errors.
    pub fn clear(&mut self) {
        self.list.clear();
        self.lost = 0;
    }

    fn push(&mut self, error: Option<PeerError>) {
        match error {
            Some(error) if self.list.len() < self.capacity => self.list.push(error),
            _ => self.lost += 1,
        }
    }
}

/// Whether the kernel gives this error number to a socket for what an ICMP
/// message said of an earlier datagram (`icmp_err_convert`, `icmpv6_err_convert`).
pub(super) fn is_from_icmp(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EMSGSIZE
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EPROTO
            | libc::EACCES
    )
}

/// Bounds one drain: a flood of ICMP must not hold a worker.
const DRAIN_LIMIT: usize = 1024;

pub(super) fn drain(socket: &Socket, errors: &mut PeerErrors) -> io::Result<usize> {
    for count in 0..DRAIN_LIMIT {
        match next(socket) {
            Ok(error) => errors.push(error),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(count + take_pending(socket, errors)?);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(DRAIN_LIMIT)
}

/// Takes the socket's own error, which the kernel sets beside the queue: alone when
/// the queue has no room, or when it was drained in between. The socket would report
/// `EPOLLERR` for it until something is sent.
fn take_pending(socket: &Socket, errors: &mut PeerErrors) -> io::Result<usize> {
    if getsockopt(&socket.fd, sockopt::SocketError)? == 0 {
        return Ok(0);
    }
    errors.push(None);
    Ok(1)
}

/// Takes one error from the queue; `None` when the kernel does not say enough of it.
fn next(socket: &Socket) -> io::Result<Option<PeerError>> {
    let mut address = RawAddress::EMPTY;
    let mut control = RawControl::EMPTY;
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut address).cast();
    header.msg_namelen = socklen(wire::ADDRESS_SIZE);
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = wire::CONTROL_SIZE as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header's pointers are to live buffers of the lengths beside them, and
    // the kernel may write any bytes to those.
    let result = unsafe { libc::recvmsg(socket.fd.as_raw_fd(), &raw mut header, flags) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let peer = usize::try_from(header.msg_namelen)
        .ok()
        .and_then(|len| address.get(len));
    let extended = control
        .messages(header.msg_controllen as _)
        .find(|(level, kind, _)| {
            matches!(
                (*level, *kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            )
        })
        .and_then(|(_, _, data)| parse_extended(data));
    Ok(peer
        .zip(extended)
        .map(|(peer, (errno, origin, mtu))| PeerError {
            peer,
            errno,
            origin,
            mtu,
        }))
}

/// Parses `struct sock_extended_err` and the offender's address behind it.
fn parse_extended(data: &[u8]) -> Option<(i32, ErrorOrigin, Option<u32>)> {
    let errno = i32::try_from(u32::from_ne_bytes(wire::field(data, 0)?)).ok()?;
    let [origin, kind, code, _] = wire::field(data, 4)?;
    let info = u32::from_ne_bytes(wire::field(data, 8)?);
    let from = data
        .get(16..)
        .and_then(wire::parse_address)
        .map(|address| address.ip());
    let origin = match origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
            ErrorOrigin::Icmp { kind, code, from }
        }
        _ => ErrorOrigin::Local,
    };
    let mtu = (errno == libc::EMSGSIZE && info != 0).then_some(info);
    Some((errno, origin, mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_error_is_parsed_field_by_field() {
        let mut data = Vec::new();
        data.extend(libc::EMSGSIZE.to_ne_bytes());
        data.extend([2, 3, 4, 0]);
        data.extend(1400u32.to_ne_bytes());
        data.extend(0u32.to_ne_bytes());
        let mut offender = RawAddress::EMPTY;
        offender.set("10.0.0.9:0".parse().unwrap());
        data.extend(&offender.0[..16]);
        let from = Some("10.0.0.9".parse().unwrap());
        assert_eq!(
            parse_extended(&data),
            Some((
                libc::EMSGSIZE,
                ErrorOrigin::Icmp {
                    kind: 3,
                    code: 4,
                    from
                },
                Some(1400)
            ))
        );
        for len in 0..12 {
            assert_eq!(parse_extended(&data[..len]), None);
        }
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let mut errors = PeerErrors::new(1);
        let error = PeerError {
            peer: "10.0.0.1:1".parse().unwrap(),
            errno: libc::ECONNREFUSED,
            origin: ErrorOrigin::Local,
            mtu: None,
        };
        errors.push(Some(error));
        errors.push(Some(error));
        errors.push(None);
        assert_eq!((errors.list().len(), errors.lost()), (1, 2));
        errors.clear();
        assert_eq!((errors.list().len(), errors.lost()), (0, 0));
    }
}
