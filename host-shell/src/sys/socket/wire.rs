//! Socket addresses and control messages as bytes, in the kernel's layout.
//!
//! All of it is safe code over byte arrays: the kernel writes whole structures
//! in native byte order, ports and addresses in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroUsize;

/// Room for a `sockaddr_in6`, the larger of the two.
pub(super) const ADDRESS_SIZE: usize = 28;

/// Room for the control messages that a received datagram or error has: an
/// extended error with an IPv6 address (64), packet information (40), traffic
/// class, hop limit and the size of joined datagrams (24 each).
pub(super) const CONTROL_SIZE: usize = 208;

/// Octets of a `cmsghdr`: length, level, kind.
const HEADER_SIZE: usize = size_of::<usize>() + 8;

/// A `sockaddr_in` or `sockaddr_in6`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct RawAddress(pub(super) [u8; ADDRESS_SIZE]);

/// A buffer of control messages, aligned as `cmsghdr` demands.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct RawControl(pub(super) [u8; CONTROL_SIZE]);

impl RawAddress {
    pub(super) const EMPTY: Self = Self([0; ADDRESS_SIZE]);

    /// Writes `address` and gives the length of its structure.
    pub(super) fn set(&mut self, address: SocketAddr) -> usize {
        let bytes = &mut self.0;
        match address {
            SocketAddr::V4(v4) => {
                put(bytes, 0, &family(libc::AF_INET).to_ne_bytes());
                put(bytes, 2, &v4.port().to_be_bytes());
                put(bytes, 4, &v4.ip().octets());
                put(bytes, 8, &[0; 8]);
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                put(bytes, 0, &family(libc::AF_INET6).to_ne_bytes());
                put(bytes, 2, &v6.port().to_be_bytes());
                put(bytes, 4, &v6.flowinfo().to_ne_bytes());
                put(bytes, 8, &v6.ip().octets());
                put(bytes, 24, &v6.scope_id().to_ne_bytes());
                size_of::<libc::sockaddr_in6>()
            }
        }
    }

    /// The address in the first `len` bytes; `None` for another family.
    pub(super) fn get(&self, len: usize) -> Option<SocketAddr> {
        parse_address(self.0.get(..len)?)
    }
}

/// Parses a `sockaddr_in` or `sockaddr_in6`.
pub(super) fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let kind = libc::c_int::from(u16::from_ne_bytes(field(bytes, 0)?));
    let port = u16::from_be_bytes(field(bytes, 2)?);
    match kind {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(field::<4>(bytes, 4)?);
            Some(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(field::<16>(bytes, 8)?);
            let scope = u32::from_ne_bytes(field(bytes, 24)?);
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

impl RawControl {
    pub(super) const EMPTY: Self = Self([0; CONTROL_SIZE]);

    /// Appends a message of one `int` as [`RawControl::push`] does.
    pub(super) fn push_int(&mut self, used: usize, level: i32, kind: i32, value: u8) -> usize {
        self.push(used, level, kind, &libc::c_int::from(value).to_ne_bytes())
    }

    /// Appends a message after the first `used` bytes and gives how many are used then.
    pub(super) fn push(&mut self, used: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let len = HEADER_SIZE + data.len();
        let word = size_of::<usize>();
        let message = &mut self.0[used..used + align(len)];
        message.fill(0);
        put(message, 0, &len.to_ne_bytes());
        put(message, word, &level.to_ne_bytes());
        put(message, word + 4, &kind.to_ne_bytes());
        put(message, HEADER_SIZE, data);
        used + align(len)
    }

    /// The messages in the first `len` bytes.
    pub(super) fn messages(&self, len: usize) -> Messages<'_> {
        Messages {
            rest: self.0.get(..len).unwrap_or(&self.0),
        }
    }
}

/// A control message: level, kind, data.
pub(super) type Message<'a> = (i32, i32, &'a [u8]);

/// Walks over control messages; ends at the first that is cut short.
pub(super) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let word = size_of::<usize>();
        let len = usize::from_ne_bytes(field(self.rest, 0)?);
        let level = i32::from_ne_bytes(field(self.rest, word)?);
        let kind = i32::from_ne_bytes(field(self.rest, word + 4)?);
        let data = self.rest.get(HEADER_SIZE..len)?;
        self.rest = self.rest.get(align(len)..).unwrap_or_default();
        Some((level, kind, data))
    }
}

/// What the IP header of a received datagram said, and how many it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IpInfo {
    pub(super) destination: Option<IpAddr>,
    pub(super) tos: Option<u8>,
    pub(super) ttl: Option<u8>,
    /// Octets of each of several datagrams.
    pub(super) segment: Option<NonZeroUsize>,
}

impl IpInfo {
    /// Takes from a message what it says of the IP header.
    pub(super) fn add(&mut self, (level, kind, data): Message<'_>) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                self.destination = field::<4>(data, 8).map(|ip| Ipv4Addr::from(ip).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.destination = field::<16>(data, 0).map(|ip| Ipv6Addr::from(ip).into());
            }
            // IP_TOS comes as one octet, the others as an int of 0 to 255.
            (libc::IPPROTO_IP, libc::IP_TOS) => self.tos = data.first().copied(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => self.tos = small_int(data),
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                self.ttl = small_int(data);
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = field(data, 0).map(i32::from_ne_bytes);
                let size = size.and_then(|size| usize::try_from(size).ok());
                self.segment = size.and_then(NonZeroUsize::new);
            }
            _ => {}
        }
    }
}

fn small_int(data: &[u8]) -> Option<u8> {
    u8::try_from(i32::from_ne_bytes(field(data, 0)?)).ok()
}

/// `N` octets of `bytes` at `at`.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn family(value: libc::c_int) -> libc::sa_family_t {
    // AF_INET and AF_INET6, both below 256.
    libc::sa_family_t::try_from(value).unwrap_or_default()
}

/// `CMSG_ALIGN`; a length near the type's limit stays what it is.
fn align(len: usize) -> usize {
    len.checked_next_multiple_of(size_of::<usize>())
        .unwrap_or(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in [
            "10.1.2.3:8472",
            "0.0.0.0:0",
            "[fe80::1%7]:4789",
            "[::]:65535",
        ] {
            let address: SocketAddr = text.parse().unwrap();
            let mut raw = RawAddress([0xff; ADDRESS_SIZE]);
            let len = raw.set(address);
            assert_eq!(raw.get(len), Some(address));
            assert_eq!(raw.get(len - 9), None, "{text} cut short");
        }
        assert_eq!(RawAddress::EMPTY.get(ADDRESS_SIZE), None);
        assert_eq!(RawAddress::EMPTY.get(1000), None);
    }

    #[test]
    fn control_messages_are_read_as_they_were_written() {
        let mut control = RawControl::EMPTY;
        let used = control.push_int(0, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0xb8);
        let used = control.push_int(used, libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, 3);
        let mut info = IpInfo::default();
        control.messages(used).for_each(|message| info.add(message));
        assert_eq!(
            info,
            IpInfo {
                destination: None,
                tos: Some(0xb8),
                ttl: Some(3),
                segment: None,
            }
        );
    }

    #[test]
    fn broken_control_messages_end_the_walk() {
        for len in [0, 1, 15, 17, CONTROL_SIZE + 1, usize::MAX] {
            let mut control = RawControl::EMPTY;
            control.0[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            assert!(
                control.messages(CONTROL_SIZE).take(100).count() < 100,
                "{len}"
            );
        }
        assert_eq!(RawControl::EMPTY.messages(usize::MAX).count(), 0);
    }
}
