//! What the core reads of TCP and UDP: ports, checksums, payload offsets.

use super::{checksum, ipv4};

/// Length of both ports, which TCP and UDP begin with, in bytes.
pub const PORTS_LEN: usize = 4;

/// Length of the UDP header in bytes.
pub const UDP_HEADER_LEN: u8 = 8;

/// Source and destination port of the TCP or UDP header at the front of
/// `payload`; `None` for other protocols and truncated headers.
pub fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    if !matches!(protocol, ipv4::TCP | ipv4::UDP) {
        return None;
    }
    let p = payload.first_chunk::<PORTS_LEN>()?;
    Some((
        u16::from_be_bytes([p[0], p[1]]),
        u16::from_be_bytes([p[2], p[3]]),
    ))
}

/// Offset of the checksum field in the header of this protocol.
pub fn checksum_offset(protocol: u8) -> Option<u16> {
    match protocol {
        ipv4::TCP => Some(16),
        ipv4::UDP => Some(6),
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

/// Whether the TCP or UDP checksum of an IPv4 packet verifies. `packet` is the
/// IP payload.
pub fn is_valid(header: &ipv4::Header, packet: &[u8]) -> bool {
    let Ok(len) = u16::try_from(packet.len()) else {
        return false;
    };
    let pseudo = checksum::pseudo_header_v4(header.src, header.dst, header.protocol, len);
    checksum::fold(pseudo + checksum::sum(packet)) == 0xffff
}

/// Whether the TCP or UDP checksum of an IPv4 packet is unfinished: its field
/// holds the folded sum of the pseudo-header, and the packet does not verify.
///
/// Peers on the same machine hand over such packets (the sending kernel left
/// the rest to a device that never came). `packet` is the IP payload.
pub fn is_unfinished(header: &ipv4::Header, packet: &[u8]) -> bool {
    let Some(offset) = checksum_offset(header.protocol) else {
        return false;
    };
    let field = packet
        .get(usize::from(offset)..)
        .and_then(|rest| rest.first_chunk::<2>());
    let (Some(field), Ok(len)) = (field, u16::try_from(packet.len())) else {
        return false;
    };
    let pseudo = checksum::pseudo_header_v4(header.src, header.dst, header.protocol, len);
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

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    fn header(protocol: u8) -> ipv4::Header {
        ipv4::Header {
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, 2),
            tos: 0,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol,
            header_len: 20,
            total_len: 20 + 24,
        }
    }

    #[test]
    fn unfinished_checksums_are_recognised_and_finished() {
        for (protocol, offset) in [(ipv4::TCP, 16usize), (ipv4::UDP, 6)] {
            for seed in 0..=255u8 {
                let mut packet = [0u8; 24];
                for (byte, value) in packet.iter_mut().zip(seed..=255) {
                    *byte = value;
                }
                let ip = header(protocol);
                let pseudo = checksum::pseudo_header_v4(ip.src, ip.dst, protocol, 24);
                packet[offset..offset + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
                assert!(is_unfinished(&ip, &packet));
                finish(&mut packet, u16::try_from(offset).unwrap(), false).unwrap();
                assert!(!is_unfinished(&ip, &packet));
                assert_eq!(checksum::fold(pseudo + checksum::sum(&packet)), 0xffff);
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_not_an_unfinished_one() {
        let ip = header(ipv4::UDP);
        let mut packet = [7u8; 24];
        packet[6..8].copy_from_slice(&[0x12, 0x34]);
        assert!(!is_unfinished(&ip, &packet));
        assert!(!is_unfinished(&ip, &packet[..7]));
        assert!(!is_unfinished(&header(ipv4::ICMP), &packet));
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
}
