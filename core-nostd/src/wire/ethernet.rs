//! Ethernet II (IEEE 802.3 clause 3).

use core::net::IpAddr;

use super::ipv6;
use crate::MacAddr;

/// Length of an untagged header in bytes.
pub const HEADER_LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const QINQ: u16 = 0x88a8;

/// An Ethernet II header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// EtherType of the payload.
    pub ethertype: u16,
}

impl Header {
    /// Reads the header and returns it with the payload; `None` when the slice is too short.
    #[inline(always)]
    pub fn parse(bytes: &[u8]) -> Option<(Header, &[u8])> {
        let (h, payload) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let header = Header {
            dst: MacAddr::new([h[0], h[1], h[2], h[3], h[4], h[5]]),
            src: MacAddr::new([h[6], h[7], h[8], h[9], h[10], h[11]]),
            ethertype: u16::from_be_bytes([h[12], h[13]]),
        };
        Some((header, payload))
    }

    /// Writes the header.
    #[inline(always)]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let (dst, rest) = out.split_at_mut(6);
        let (src, ethertype) = rest.split_at_mut(6);
        dst.copy_from_slice(&self.dst.bytes());
        src.copy_from_slice(&self.src.bytes());
        ethertype.copy_from_slice(&self.ethertype.to_be_bytes());
    }
}

/// The EtherType of packets to an address.
#[inline(always)]
pub fn ethertype(address: IpAddr) -> u16 {
    match address.is_ipv6() {
        false => IPV4,
        true => IPV6,
    }
}

/// The Ethernet address of a broadcast or multicast IP address (RFC 1112 section
/// 6.4, RFC 2464 section 7).
#[cold]
pub fn group_mac(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, b, c, d] = v4.octets();
            MacAddr::new([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V4(_) => MacAddr::BROADCAST,
        IpAddr::V6(v6) => ipv6::multicast_mac(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emit_then_parse_is_identity() {
        let header = Header {
            dst: MacAddr::new([1, 2, 3, 4, 5, 6]),
            src: MacAddr::new([7, 8, 9, 10, 11, 12]),
            ethertype: ARP,
        };
        let mut out = [0xa5; HEADER_LEN];
        header.emit(&mut out);
        assert_eq!(Header::parse(&out), Some((header, &[][..])));
        assert_eq!(Header::parse(&out[..13]), None);
    }

    #[test]
    fn group_addresses_follow_their_rfcs() {
        for (address, mac) in [
            ("224.128.0.251", [0x01, 0x00, 0x5e, 0, 0, 0xfb]),
            ("255.255.255.255", [0xff; 6]),
            ("ff02::fb", [0x33, 0x33, 0, 0, 0, 0xfb]),
        ] {
            assert_eq!(group_mac(address.parse().unwrap()), MacAddr::new(mac));
        }
    }
}
