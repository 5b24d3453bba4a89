//! IPv6 (RFC 8200).

use core::net::Ipv6Addr;

use super::ip;

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 40;
/// Smallest MTU of an IPv6 link (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// Extension headers that are walked at most.
pub const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// Protocol number of the fragment header.
pub const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Why a packet was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Shorter than the fixed header.
    Truncated,
    /// The version is not 6.
    Version,
    /// The payload length goes beyond the slice.
    PayloadLength,
    /// An extension header goes beyond the packet, a hop-by-hop header is not
    /// the first, or there are more than [`MAX_EXTENSIONS`].
    Extension,
}

/// The fixed header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Bytes behind the fixed header.
    pub payload_len: u16,
    /// Protocol number of what follows the fixed header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
}

impl Header {
    /// Reads and checks a header: version, payload length within the slice.
    ///
    /// # Errors
    /// [`Error`] says which check failed, in the order of its variants.
    pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
        let h = bytes.first_chunk::<HEADER_LEN>().ok_or(Error::Truncated)?;
        if h[0] >> 4 != 6 {
            return Err(Error::Version);
        }
        let payload_len = u16::from_be_bytes([h[4], h[5]]);
        if usize::from(payload_len) > bytes.len() - HEADER_LEN {
            return Err(Error::PayloadLength);
        }
        Ok(Header {
            src: address(h, 8),
            dst: address(h, 24),
            traffic_class: h[0] << 4 | h[1] >> 4,
            flow_label: u32::from_be_bytes([0, h[1] & 0x0f, h[2], h[3]]),
            payload_len,
            next_header: h[6],
            hop_limit: h[7],
        })
    }

    /// Writes the header.
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0x000f_ffff;
        out[..4].copy_from_slice(&first.to_be_bytes());
        out[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        out[6] = self.next_header;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.src.octets());
        out[24..].copy_from_slice(&self.dst.octets());
    }
}

fn address(header: &[u8; HEADER_LEN], at: usize) -> Ipv6Addr {
    let octets = header
        .get(at..)
        .and_then(|rest| rest.first_chunk::<16>())
        .copied();
    Ipv6Addr::from(octets.unwrap_or_default())
}

/// What lies behind the extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upper {
    /// Protocol number of the upper layer. For a fragment that is not the
    /// first: what the fragmented part of the packet begins with.
    pub protocol: u8,
    /// Where the upper layer begins, in bytes from the fixed header's start.
    pub offset: u16,
    /// Where the `next header` field that names the upper layer is.
    pub named_at: u16,
    /// Whether this is a fragment.
    pub fragment: ip::Fragment,
    /// Whether a routing header wishes for a detour: type 0 (RFC 5095), or
    /// segments that are left.
    pub source_routed: bool,
}

/// Walks the extension headers of a packet that `header` was parsed from.
///
/// # Errors
/// [`Error::Extension`].
pub fn upper(header: &Header, bytes: &[u8]) -> Result<Upper, Error> {
    let mut upper = Upper {
        protocol: header.next_header,
        offset: 40,
        named_at: 6,
        fragment: ip::Fragment::Whole,
        source_routed: false,
    };
    let packet = bytes
        .get(..HEADER_LEN + usize::from(header.payload_len))
        .ok_or(Error::Extension)?;
    for _ in 0..=MAX_EXTENSIONS {
        if !step(&mut upper, packet)? {
            return Ok(upper);
        }
    }
    Err(Error::Extension)
}

/// Passes over one extension header; `false` when there is none.
fn step(upper: &mut Upper, packet: &[u8]) -> Result<bool, Error> {
    let at = upper.offset;
    if !matches!(
        upper.protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
    ) || upper.fragment == ip::Fragment::Later
    {
        return Ok(false);
    }
    if upper.protocol == HOP_BY_HOP && at != 40 {
        return Err(Error::Extension);
    }
    let rest = packet.get(usize::from(at)..).ok_or(Error::Extension)?;
    let h = rest.first_chunk::<8>().ok_or(Error::Extension)?;
    let len = match upper.protocol {
        FRAGMENT => 8,
        AUTHENTICATION => (u16::from(h[1]) + 2) * 4,
        _ => (u16::from(h[1]) + 1) * 8,
    };
    if usize::from(len) > rest.len() {
        return Err(Error::Extension);
    }
    match upper.protocol {
        ROUTING => upper.source_routed |= h[2] == 0 || h[3] != 0,
        FRAGMENT => {
            let offset = u16::from_be_bytes([h[2], h[3]]);
            let fragment = ip::Fragment::new(offset >> 3, offset & 1 != 0);
            // An atomic fragment within a fragment makes it no whole packet.
            if fragment != ip::Fragment::Whole {
                upper.fragment = fragment;
            }
        }
        _ => {}
    }
    upper.protocol = h[0];
    upper.named_at = at;
    upper.offset = at.checked_add(len).ok_or(Error::Extension)?;
    Ok(true)
}

/// Whether a single host can have this address: not unspecified, loopback or multicast.
pub fn is_host(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

/// The solicited-node multicast address of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The Ethernet address of a multicast address (RFC 2464 section 7).
pub fn multicast_mac(address: Ipv6Addr) -> crate::MacAddr {
    let [.., a, b, c, d] = address.octets();
    crate::MacAddr::new([0x33, 0x33, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Header {
        Header {
            src: "fd00:244:1::2".parse().unwrap(),
            dst: "fd00:244:2::3".parse().unwrap(),
            traffic_class: 0xab,
            flow_label: 0x000c_def1,
            payload_len: 0,
            next_header: ip::UDP,
            hop_limit: 64,
        }
    }

    #[test]
    fn emit_then_parse_is_identity() {
        let mut out = [0xa5; HEADER_LEN];
        example().emit(&mut out);
        assert_eq!(Header::parse(&out), Ok(example()));
        assert_eq!(Header::parse(&out[..39]), Err(Error::Truncated));
        out[5] = 1;
        assert_eq!(Header::parse(&out), Err(Error::PayloadLength));
        for version in (0..16).filter(|version| *version != 6) {
            out[0] = version << 4;
            assert_eq!(Header::parse(&out), Err(Error::Version));
        }
    }

    /// A packet of these extension headers, (type, length in bytes, second word).
    fn packet(extensions: &[(u8, usize, [u8; 2])], last: u8, out: &mut [u8]) -> usize {
        let mut at = HEADER_LEN;
        let mut named_at = 6;
        out.fill(0);
        for (kind, len, word) in extensions {
            out[named_at] = *kind;
            named_at = at;
            out[at + 1] = u8::try_from(match *kind {
                AUTHENTICATION => len / 4 - 2,
                FRAGMENT => 0,
                _ => len / 8 - 1,
            })
            .unwrap();
            out[at + 2..at + 4].copy_from_slice(word);
            at += len;
        }
        let mut fixed = [0; HEADER_LEN];
        let next_header = if extensions.is_empty() { last } else { out[6] };
        Header {
            payload_len: u16::try_from(at - HEADER_LEN).unwrap(),
            next_header,
            ..example()
        }
        .emit(&mut fixed);
        out[..HEADER_LEN].copy_from_slice(&fixed);
        out[named_at] = last;
        at
    }

    fn walk(extensions: &[(u8, usize, [u8; 2])], last: u8) -> Result<Upper, Error> {
        let mut out = [0; 512];
        let len = packet(extensions, last, &mut out);
        upper(&Header::parse(&out[..len]).unwrap(), &out[..len])
    }

    #[test]
    fn extension_headers_are_walked_within_a_bound() {
        let plain = walk(&[], ip::TCP).unwrap();
        assert_eq!(
            (plain.protocol, plain.offset, plain.named_at),
            (ip::TCP, 40, 6)
        );
        let found = walk(
            &[
                (HOP_BY_HOP, 8, [0; 2]),
                (DESTINATION, 16, [0; 2]),
                (AUTHENTICATION, 24, [0; 2]),
            ],
            ip::UDP,
        )
        .unwrap();
        assert_eq!(
            (found.protocol, found.offset, found.named_at),
            (ip::UDP, 88, 64)
        );
        let many = [(DESTINATION, 8, [0; 2]); MAX_EXTENSIONS + 1];
        assert!(walk(&many[1..], ip::UDP).is_ok());
        assert_eq!(walk(&many, ip::UDP), Err(Error::Extension));
        let late = [(DESTINATION, 8, [0; 2]), (HOP_BY_HOP, 8, [0; 2])];
        assert_eq!(walk(&late, ip::UDP), Err(Error::Extension));
    }

    #[test]
    fn extension_headers_beyond_the_packet_are_refused() {
        let mut out = [0; 512];
        let extensions = [(DESTINATION, 8, [0; 2]), (ROUTING, 24, [4, 1])];
        let len = packet(&extensions, ip::UDP, &mut out);
        let whole = Header::parse(&out[..len]).unwrap();
        assert!(upper(&whole, &out[..len]).unwrap().source_routed);
        for payload_len in 0..whole.payload_len {
            let header = Header {
                payload_len,
                ..whole
            };
            assert_eq!(upper(&header, &out[..len]), Err(Error::Extension));
        }
    }

    #[test]
    fn fragments_are_told_apart() {
        let at = |word| walk(&[(FRAGMENT, 8, word)], ip::UDP).unwrap().fragment;
        assert_eq!(at([0, 0]), ip::Fragment::Whole); // An atomic fragment (RFC 6946).
        assert_eq!(at([0, 1]), ip::Fragment::First);
        assert_eq!(at([0, 8]), ip::Fragment::Later);
        assert_eq!(at([0xff, 0xf9]), ip::Fragment::Later);
        let nested = [(FRAGMENT, 8, [0, 1]), (FRAGMENT, 8, [0, 0])];
        let nested = walk(&nested, ip::UDP).unwrap();
        assert_eq!(nested.fragment, ip::Fragment::First);
        // Behind a later fragment's header there is payload, whatever it looks like.
        let later = walk(&[(FRAGMENT, 8, [0, 9])], DESTINATION).unwrap();
        assert_eq!((later.protocol, later.offset), (DESTINATION, 48));
    }

    #[test]
    fn source_routes_are_seen() {
        let at = |word| walk(&[(ROUTING, 8, word)], ip::UDP).unwrap().source_routed;
        assert!(at([0, 0]) && at([0, 1]) && at([4, 1]));
        assert!(!at([4, 0]));
    }

    #[test]
    fn multicast_addresses_follow_their_rfcs() {
        let node = solicited_node("fd00::12:3456".parse().unwrap());
        assert_eq!(node, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            multicast_mac(node),
            crate::MacAddr::new([0x33, 0x33, 0xff, 0x12, 0x34, 0x56])
        );
    }
}
