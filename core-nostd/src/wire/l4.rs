//! What the core reads of TCP and UDP: ports, checksums, payload offsets.

use super::{checksum, ip};

/// Length of both ports, which TCP and UDP begin with, in bytes.
pub const PORTS_LEN: usize = 4;

/// Length of the UDP header in bytes.
pub const UDP_HEADER_LEN: u8 = 8;

/// Source and destination port of the TCP or UDP header at the front of
/// `payload`; `None` for other protocols and truncated headers.
#[inline(always)]
pub fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    if !matches!(protocol, ip::TCP | ip::UDP) {
        return None;
    }
    let p = payload.first_chunk::<PORTS_LEN>()?;
    Some((
        u16::from_be_bytes([p[0], p[1]]),
        u16::from_be_bytes([p[2], p[3]]),
    ))
}

/// Offset of the checksum field in the header of this protocol.
#[inline(always)]
pub fn checksum_offset(protocol: u8) -> Option<u16> {
    match protocol {
        ip::TCP => Some(16),
        ip::UDP => Some(6),
        ip::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Length of the TCP header at the front of `payload` in bytes; `None` when it
/// is truncated or impossible.
pub fn tcp_header_len(payload: &[u8]) -> Option<u8> {
    let header = payload.first_chunk::<20>()?;
    let len = (header[12] >> 4) * 4;
    (len >= 20 && usize::from(len) <= payload.len()).then_some(len)
}

/// Whether the TCP, UDP or ICMPv6 checksum of a packet verifies. `packet` is what
/// the IP headers leave of it.
pub fn is_valid(header: &ip::Header, packet: &[u8]) -> bool {
    let Ok(len) = u16::try_from(packet.len()) else {
        return false;
    };
    let pseudo = checksum::pseudo_header(header.src, header.dst, header.protocol, len);
    checksum::fold(pseudo + checksum::sum(packet)) == 0xffff
}

/// Whether the TCP, UDP or ICMPv6 checksum of a packet is unfinished: its field
/// holds the folded sum of the pseudo-header, and the packet does not verify.
///
/// Peers on the same machine hand over such packets (the sending kernel left
/// the rest to a device that never came). `packet` is what the IP headers leave of it.
#[inline(always)]
pub fn is_unfinished(header: &ip::Header, packet: &[u8]) -> bool {
    let Some(offset) = checksum_offset(header.protocol) else {
        return false;
    };
    let field = packet
        .get(usize::from(offset)..)
        .and_then(|rest| rest.first_chunk::<2>());
    let (Some(field), Ok(len)) = (field, u16::try_from(packet.len())) else {
        return false;
    };
    let pseudo = checksum::pseudo_header(header.src, header.dst, header.protocol, len);
    u16::from_be_bytes(*field) == checksum::fold(pseudo) && !is_valid(header, packet)
}

/// Finishes a checksum: sums `bytes` (which starts where the sum starts) over
/// the pseudo-header sum that the field holds, and stores the result at
/// `offset`. `None`, and no change, when the field is not within `bytes`.
///
/// `udp` stores 0xffff instead of zero, which would mean "none" (RFC 768).
pub fn finish(bytes: &mut [u8], offset: u16, udp: bool) -> Option<()> {
    let offset = usize::from(offset);
    bytes.get(offset..)?.first_chunk::<2>()?;
    let mut sum = checksum::finish(checksum::sum(bytes));
    if udp && sum == 0 {
        sum = 0xffff;
    }
    *bytes.get_mut(offset..)?.first_chunk_mut::<2>()? = sum.to_be_bytes();
    Some(())
}

/// The maximum segment size option of the TCP SYN at the front of `segment`:
/// where its value is, and the value in bytes (RFC 9293 section 3.7.1). `None`
/// when it is no SYN or has none.
pub fn syn_mss(segment: &[u8]) -> Option<(usize, u16)> {
    const SYN: u8 = 2;
    let len = usize::from(tcp_header_len(segment)?);
    if segment.get(13)? & SYN == 0 {
        return None;
    }
    let mut at = 20;
    while at < len {
        match *segment.get(at..len)? {
            [1, ..] => at += 1,
            [2, 4, high, low, ..] => return Some((at + 2, u16::from_be_bytes([high, low]))),
            [kind, option, ..] if kind != 0 && option >= 2 => at += usize::from(option),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn header(protocol: u8) -> ip::Header {
        ip::Header {
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            tos: 0,
            ttl: 64,
            protocol,
            dont_fragment: true,
            fragment: ip::Fragment::Whole,
            source_routed: false,
            named_at: 6,
            header_len: 20,
            total_len: 20 + 24,
            ports: None,
        }
    }

    #[test]
    fn unfinished_checksums_are_recognised_and_finished() {
        for (protocol, offset) in [(ip::TCP, 16usize), (ip::UDP, 6)] {
            for seed in 0..=255u8 {
                let mut packet = [0u8; 24];
                for (byte, value) in packet.iter_mut().zip(seed..=255) {
                    *byte = value;
                }
                let header = header(protocol);
                let pseudo = checksum::pseudo_header(header.src, header.dst, protocol, 24);
                packet[offset..offset + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
                assert!(is_unfinished(&header, &packet));
                finish(&mut packet, u16::try_from(offset).unwrap(), false).unwrap();
                assert!(!is_unfinished(&header, &packet));
                assert_eq!(checksum::fold(pseudo + checksum::sum(&packet)), 0xffff);
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_not_an_unfinished_one() {
        let icmp = header(ip::ICMP);
        let header = header(ip::UDP);
        let mut packet = [7u8; 24];
        packet[6..8].copy_from_slice(&[0x12, 0x34]);
        assert!(!is_unfinished(&header, &packet));
        assert!(!is_unfinished(&header, &packet[..7]));
        assert!(!is_unfinished(&icmp, &packet));
    }

    #[test]
    fn udp_never_gets_a_zero_checksum() {
        // A sum of 0xffff finishes to zero.
        let mut packet = [0xff, 0xff, 0, 0, 0, 0, 0, 0];
        finish(&mut packet, 6, true).unwrap();
        assert_eq!(&packet[6..], &[0xff, 0xff]);
        assert_eq!(finish(&mut packet, 7, true), None);
    }

    #[test]
    fn tcp_header_lengths() {
        let mut header = [0u8; 60];
        for nibble in 0..16u8 {
            header[12] = nibble << 4;
            let expected = (nibble >= 5).then_some(nibble * 4);
            assert_eq!(tcp_header_len(&header), expected);
        }
        header[12] = 0x60;
        assert_eq!(tcp_header_len(&header[..23]), None);
        assert_eq!(tcp_header_len(&header[..19]), None);
    }

    #[test]
    fn the_mss_is_found_in_syns_only() {
        let mut segment = [0u8; 32];
        segment[12] = 0x80;
        segment[13] = 2;
        segment[20..].copy_from_slice(&[1, 3, 3, 7, 2, 4, 5, 180, 1, 1, 4, 2]);
        assert_eq!(syn_mss(&segment), Some((26, 1460)));
        segment[13] = 0x10;
        assert_eq!(syn_mss(&segment), None);
        segment[13] = 0x12;
        assert_eq!(syn_mss(&segment), Some((26, 1460)));
        for (at, value) in [
            (22, 0),
            (22, 1),
            (22, 200),
            (21, 0),
            (25, 3),
            (24, 0),
            (12, 0x60),
        ] {
            let mut wrong = segment;
            wrong[at] = value;
            assert_eq!(syn_mss(&wrong), None, "byte {at}");
        }
        assert_eq!(syn_mss(&segment[..31]), None);
    }
}
