//! The packet that an ICMP error quotes (RFC 792, RFC 4443 section 2.4 c).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ipv4, ipv6, l4};

/// The start of a packet of one's own, as somebody on its way sends it back. It is
/// cut off, so lengths and checksums say nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// Who sent the packet.
    pub src: IpAddr,
    /// Where it went.
    pub dst: IpAddr,
    /// Protocol number of what follows the IP header.
    pub protocol: u8,
    /// UDP or TCP source and destination port.
    pub ports: Option<(u16, u16)>,
    /// Header and payload of the whole packet in bytes.
    pub total_len: u16,
}

impl Quote {
    /// Reads a quoted packet of either version; `None` when it does not go as far
    /// as the header's end or is a fragment but the first.
    pub fn parse(bytes: &[u8]) -> Option<Quote> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &[u8]) -> Option<Quote> {
        let h = bytes.first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let header_len = usize::from(h[0] & 0x0f) * 4;
        let payload = bytes.get(header_len..)?;
        let offset = u16::from_be_bytes([h[6], h[7]]) & 0x1fff;
        if header_len < ipv4::HEADER_LEN || offset != 0 {
            return None;
        }
        Some(Quote {
            src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            dst: IpAddr::V4(Ipv4Addr::new(h[16], h[17], h[18], h[19])),
            protocol: h[9],
            ports: l4::ports(h[9], payload),
            total_len: u16::from_be_bytes([h[2], h[3]]),
        })
    }

    /// Extension headers are not walked: tunnel packets have none.
    fn parse_v6(bytes: &[u8]) -> Option<Quote> {
        let (h, payload) = bytes.split_first_chunk::<{ ipv6::HEADER_LEN }>()?;
        let (src, rest) = h.get(8..)?.split_first_chunk::<16>()?;
        let len = u16::from_be_bytes([h[4], h[5]]);
        Some(Quote {
            src: IpAddr::V6(Ipv6Addr::from(*src)),
            dst: IpAddr::V6(Ipv6Addr::from(*rest.first_chunk::<16>()?)),
            protocol: h[6],
            ports: l4::ports(h[6], payload),
            total_len: len.saturating_add(40),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip;

    #[test]
    fn a_quote_is_read_as_far_as_it_goes() {
        let mut v4 = [0u8; 28];
        ipv4::Header {
            src: Ipv4Addr::new(192, 0, 2, 1),
            dst: Ipv4Addr::new(192, 0, 2, 2),
            tos: 0,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 60,
            protocol: ip::UDP,
            header_len: 20,
            total_len: 1500,
        }
        .emit(v4.first_chunk_mut().unwrap());
        v4[20..24].copy_from_slice(&[0xc0, 1, 0x12, 0xb5]);
        let quote = Quote::parse(&v4).unwrap();
        assert_eq!(quote.ports, Some((0xc001, 4789)));
        assert_eq!((quote.protocol, quote.total_len), (ip::UDP, 1500));
        assert_eq!(quote.src, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(Quote::parse(&v4[..23]).unwrap().ports, None);
        for len in 0..20 {
            assert_eq!(Quote::parse(&v4[..len]), None, "{len} bytes");
        }
        v4[7] = 1;
        assert_eq!(Quote::parse(&v4), None, "a later fragment");
        v4[0] = 0x44;
        assert_eq!(Quote::parse(&v4), None, "a header of 16 bytes");

        let mut v6 = [0u8; 44];
        let header = ipv6::Header {
            src: "fd00::1".parse().unwrap(),
            dst: "fd00::2".parse().unwrap(),
            traffic_class: 0,
            flow_label: 1,
            payload_len: 1400,
            next_header: ip::UDP,
            hop_limit: 3,
        };
        header.emit(v6.first_chunk_mut().unwrap());
        v6[43] = 9;
        let quote = Quote::parse(&v6).unwrap();
        assert_eq!(
            (quote.src, quote.dst),
            (header.src.into(), header.dst.into())
        );
        assert_eq!((quote.ports, quote.total_len), (Some((0, 9)), 1440));
        assert_eq!(Quote::parse(&v6[..39]), None);
        assert_eq!(Quote::parse(&[0x50; 60]), None);
    }
}
