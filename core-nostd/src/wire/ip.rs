//! What forwarding looks at in an IP header of either version.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ipv4, ipv6, l4};

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
    /// Source and destination port of TCP and UDP; `None` for other protocols, later
    /// fragments, and payloads that are too short for both.
    pub ports: Option<(u16, u16)>,
}

impl Header {
    /// Reads and checks the header of a packet of either version: an IPv4 header
    /// with its options, or an IPv6 header with its extension headers.
    ///
    /// # Errors
    /// [`Error`]; what is neither version 4 nor 6 fails as IPv4.
    pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
        let v6 = bytes.first().is_some_and(|first| first >> 4 == 6);
        Header::parse_as(v6, bytes)
    }

    /// As [`Header::parse`], of a packet that is to be IPv6 or not.
    ///
    /// # Errors
    /// [`Error`]; the other version's is one.
    #[inline(never)]
    pub fn parse_as(v6: bool, bytes: &[u8]) -> Result<Header, Error> {
        match v6 {
            true => parse_v6(bytes).map_err(Error::V6),
            false => parse_v4(bytes).map_err(Error::V4),
        }
    }

    /// Whether this is a fragment of a larger packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment != Fragment::Whole
    }

    /// Whether this is IPv6.
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }
}

/// The ports behind the IP headers, when there are any and `fragment` has them.
#[inline(always)]
fn ports(protocol: u8, fragment: Fragment, payload: &[u8]) -> Option<(u16, u16)> {
    match fragment {
        Fragment::Later => None,
        _ => l4::ports(protocol, payload),
    }
}

fn parse_v4(bytes: &[u8]) -> Result<Header, ipv4::Error> {
    let header = ipv4::Header::parse(bytes)?;
    let (header_len, total_len) = (u16::from(header.header_len), header.total_len);
    let fragment = Fragment::new(header.fragment_offset, header.more_fragments);
    let payload = bytes.get(usize::from(header_len)..usize::from(total_len));
    Ok(Header {
        src: header.src.into(),
        dst: header.dst.into(),
        tos: header.tos,
        ttl: header.ttl,
        protocol: header.protocol,
        dont_fragment: header.dont_fragment,
        fragment,
        source_routed: header_len > 20
            && ipv4::has_source_route(bytes.get(..usize::from(header_len)).unwrap_or_default()),
        named_at: 9,
        header_len,
        total_len,
        ports: ports(header.protocol, fragment, payload.unwrap_or_default()),
    })
}

fn parse_v6(bytes: &[u8]) -> Result<Header, ipv6::Error> {
    let header = ipv6::Header::parse(bytes)?;
    let upper = ipv6::upper(&header, bytes)?;
    let total_len = header.payload_len.checked_add(40);
    let total_len = total_len.ok_or(ipv6::Error::PayloadLength)?;
    let payload = bytes.get(usize::from(upper.offset)..usize::from(total_len));
    Ok(Header {
        src: header.src.into(),
        dst: header.dst.into(),
        tos: header.traffic_class,
        ttl: header.hop_limit,
        protocol: upper.protocol,
        dont_fragment: true,
        fragment: upper.fragment,
        source_routed: upper.source_routed,
        named_at: upper.named_at,
        header_len: upper.offset,
        total_len,
        ports: ports(upper.protocol, upper.fragment, payload.unwrap_or_default()),
    })
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

/// Whether the address is IPv6 and means something on one link only: fe80::/10 or `::`.
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

/// Both addresses as one number in which each bit counts, for hashes; 0 when their
/// versions differ.
pub fn mix(src: IpAddr, dst: IpAddr) -> u64 {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => mix_v4(src, dst),
        (IpAddr::V6(src), IpAddr::V6(dst)) => half(src).rotate_left(32) ^ half(dst),
        _ => 0,
    }
}

/// As [`mix`], of IPv4 addresses.
#[inline(always)]
pub fn mix_v4(src: Ipv4Addr, dst: Ipv4Addr) -> u64 {
    u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits())
}

/// The two halves of an IPv6 address as one number in which both count.
#[inline(always)]
fn half(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, e, f, g, h] = address.segments().map(u64::from);
    let high = a << 48 | b << 32 | c << 16 | d;
    let low = e << 48 | f << 32 | g << 16 | h;
    high.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ low
}

/// Lowers TTL or hop limit of the header at the front of `bytes` by one; the
/// IPv4 checksum is updated (RFC 1624). 0 and a truncated header are left alone.
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
