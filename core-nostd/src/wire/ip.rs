//! What forwarding looks at in an IP header of either version.

use core::net::IpAddr;

use super::{ipv4, ipv6};

/// Protocol number of ICMP for IPv4.
pub const ICMP: u8 = 1;
/// Protocol number of IPv4 in IP (RFC 2003).
pub const IPV4: u8 = 4;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of IPv6 in IP (RFC 4213, RFC 2473).
pub const IPV6: u8 = 41;
/// Protocol number of ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// Whether a packet is a fragment, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// A whole packet.
    Whole,
    /// The first fragment: it has the upper layer's header.
    First,
    /// A fragment without the upper layer's header.
    Later,
}

impl Fragment {
    /// By offset (in units of eight bytes) and the more-fragments flag.
    pub fn new(offset: u16, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        }
    }
}

/// Why a packet was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// As IPv4.
    V4(ipv4::Error),
    /// As IPv6.
    V6(ipv6::Error),
}

/// The header of an IPv4 or IPv6 packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same version.
    pub dst: IpAddr,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Protocol number of the upper layer, behind IPv6 extension headers.
    pub protocol: u8,
    /// Don't-fragment flag; always set for IPv6, where only senders fragment.
    pub dont_fragment: bool,
    /// Whether this is a fragment.
    pub fragment: Fragment,
    /// Whether the sender's options or routing header choose the route.
    pub source_routed: bool,
    /// Where the field that names the upper layer's protocol is, in bytes from the
    /// packet's start.
    pub named_at: u16,
    /// Bytes in front of the upper layer: options and extension headers count.
    pub header_len: u16,
    /// Header and payload in bytes.
    pub total_len: u16,
}

impl Header {
    /// Reads and checks an IPv4 header, options included.
    ///
    /// # Errors
    /// See [`ipv4::Header::parse`].
    #[inline]
    pub fn parse_v4(bytes: &[u8]) -> Result<Header, ipv4::Error> {
        let header = ipv4::Header::parse(bytes)?;
        let options = bytes.get(..usize::from(header.header_len));
        Ok(Header {
            src: IpAddr::V4(header.src),
            dst: IpAddr::V4(header.dst),
            tos: header.tos,
            ttl: header.ttl,
            protocol: header.protocol,
            dont_fragment: header.dont_fragment,
            fragment: Fragment::new(header.fragment_offset, header.more_fragments),
            source_routed: header.header_len > 20
                && ipv4::has_source_route(options.unwrap_or_default()),
            named_at: 9,
            header_len: u16::from(header.header_len),
            total_len: header.total_len,
        })
    }

    /// Reads and checks an IPv6 header, and walks its extension headers.
    ///
    /// # Errors
    /// See [`ipv6::Header::parse`] and [`ipv6::upper`].
    #[inline]
    pub fn parse_v6(bytes: &[u8]) -> Result<Header, ipv6::Error> {
        let header = ipv6::Header::parse(bytes)?;
        let upper = ipv6::upper(&header, bytes)?;
        Ok(Header {
            src: IpAddr::V6(header.src),
            dst: IpAddr::V6(header.dst),
            tos: header.traffic_class,
            ttl: header.hop_limit,
            protocol: upper.protocol,
            dont_fragment: true,
            fragment: upper.fragment,
            source_routed: upper.source_routed,
            named_at: upper.named_at,
            header_len: upper.offset,
            total_len: header
                .payload_len
                .checked_add(40)
                .ok_or(ipv6::Error::PayloadLength)?,
        })
    }

    /// Reads and checks the header of a packet of either version.
    ///
    /// # Errors
    /// [`Error`]; what is neither version 4 nor 6 fails as IPv4.
    pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
        match bytes.first().map(|first| first >> 4) {
            Some(6) => Header::parse_v6(bytes).map_err(Error::V6),
            _ => Header::parse_v4(bytes).map_err(Error::V4),
        }
    }

    /// Whether this is a fragment of a larger packet.
    pub fn is_fragment(&self) -> bool {
        self.fragment != Fragment::Whole
    }

    /// Whether this is IPv6.
    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }
}

/// Whether a single host can have this address as seen from another (RFC 1122
/// section 3.2.1.3, RFC 4291).
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => ipv4::is_host(v4),
        IpAddr::V6(v6) => ipv6::is_host(v6),
    }
}

/// Whether the address stands for more than one host.
pub fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// Lowers TTL or hop limit of the header at the front of `bytes` by one; the
/// IPv4 checksum is updated (RFC 1624). 0 and a truncated header are left alone.
#[inline(always)]
pub fn decrement_ttl(bytes: &mut [u8]) {
    match bytes {
        [first, ..] if *first >> 4 == 4 => ipv4::decrement_ttl(bytes),
        [_, _, _, _, _, _, _, hop_limit, ..] => *hop_limit = hop_limit.saturating_sub(1),
        _ => {}
    }
}

/// Sets the ECN field (RFC 3168) of the header at the front of `bytes`; the IPv4
/// checksum is updated. A truncated header is left alone.
pub fn set_ecn(bytes: &mut [u8], ecn: u8) {
    match bytes {
        [first, ..] if *first >> 4 == 4 => ipv4::set_ecn(bytes, ecn),
        // The traffic class begins in the middle of the first byte.
        [_, second, ..] => *second = *second & !0x30 | (ecn & 3) << 4,
        _ => {}
    }
}

/// Turns source and destination round and gives the header at the front of
/// `bytes` a new TTL or hop limit; the IPv4 checksum is updated. Checksums that
/// cover a pseudo-header stay right. A truncated header is left alone.
pub fn turn_round(bytes: &mut [u8], ttl: u8) {
    match Header::parse(bytes).map(|header| (header.src, header.dst)) {
        Ok((IpAddr::V4(src), IpAddr::V4(dst))) => {
            ipv4::set_addresses_and_ttl(bytes, dst, src, ttl);
        }
        Ok((IpAddr::V6(src), IpAddr::V6(dst))) => {
            if let Some(h) = bytes.first_chunk_mut::<{ ipv6::HEADER_LEN }>() {
                h[7] = ttl;
                h[8..24].copy_from_slice(&dst.octets());
                h[24..].copy_from_slice(&src.octets());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6() -> [u8; 40] {
        let mut out = [0; 40];
        ipv6::Header {
            src: "fd00::1".parse().unwrap(),
            dst: "fd00::2".parse().unwrap(),
            traffic_class: 0xfe,
            flow_label: 0x000f_ffff,
            payload_len: 0,
            next_header: TCP,
            hop_limit: 2,
        }
        .emit(&mut out);
        out
    }

    #[test]
    fn ipv6_fields_change_alone() {
        let mut bytes = v6();
        decrement_ttl(&mut bytes);
        for ecn in 0..4 {
            set_ecn(&mut bytes, ecn);
            let header = Header::parse(&bytes).unwrap();
            assert_eq!((header.tos, header.ttl), (0xfc | ecn, 1));
            assert_eq!(ipv6::Header::parse(&bytes).unwrap().flow_label, 0x000f_ffff);
        }
        decrement_ttl(&mut bytes);
        decrement_ttl(&mut bytes);
        turn_round(&mut bytes, 64);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.src, "fd00::2".parse::<IpAddr>().unwrap());
        assert_eq!(header.dst, "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!(header.ttl, 64);
    }

    #[test]
    fn fragments_by_offset_and_flag() {
        assert_eq!(Fragment::new(0, false), Fragment::Whole);
        assert_eq!(Fragment::new(0, true), Fragment::First);
        assert_eq!(Fragment::new(1, false), Fragment::Later);
        assert_eq!(Fragment::new(0x1fff, true), Fragment::Later);
    }

    #[test]
    fn truncated_headers_are_left_alone() {
        for len in 0..8 {
            let mut bytes = v6();
            let short = &mut bytes[..len];
            decrement_ttl(short);
            turn_round(short, 9);
            assert_eq!(short, &v6()[..len]);
        }
    }
}
