//! What etherparse and smoltcp, which we did not write, say of a packet.

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

/// Checks a packet that leaves: etherparse and smoltcp read the same in it, and
/// the IPv4 checksum is right.
pub fn agreed(packet: &[u8]) {
    match packet[0] >> 4 {
        4 => {
            let theirs = Ipv4Packet::new_checked(packet).unwrap();
            let (header, _) = etherparse::Ipv4Header::from_slice(packet).unwrap();
            assert!(theirs.verify_checksum());
            assert_eq!(
                usize::from(theirs.total_len()),
                packet.len(),
                "nothing behind it"
            );
            assert_eq!(theirs.src_addr().octets(), header.source);
            assert_eq!(theirs.dst_addr().octets(), header.destination);
            assert_eq!(theirs.hop_limit(), header.time_to_live);
            assert_eq!(u8::from(theirs.next_header()), header.protocol.0);
            assert_eq!(theirs.frag_offset(), header.fragment_offset.value() * 8);
            assert_eq!(theirs.more_frags(), header.more_fragments);
        }
        6 => {
            let theirs = Ipv6Packet::new_checked(packet).unwrap();
            let (header, _) = etherparse::Ipv6Header::from_slice(packet).unwrap();
            assert_eq!(theirs.total_len(), packet.len(), "nothing behind it");
            assert_eq!(theirs.src_addr().octets(), header.source);
            assert_eq!(theirs.dst_addr().octets(), header.destination);
            assert_eq!(theirs.hop_limit(), header.hop_limit);
            assert_eq!(u8::from(theirs.next_header()), header.next_header.0);
        }
        version => panic!("version {version}"),
    }
}

/// The source address in a packet.
pub fn source(packet: &[u8]) -> Vec<u8> {
    match packet[0] >> 4 {
        4 => packet[12..16].to_vec(),
        _ => packet[8..24].to_vec(),
    }
}

/// Checksums as found and as they should be: of the IPv4 header, and of UDP, TCP,
/// ICMP and ICMPv6 where there is one.
fn checksums(packet: &PacketHeaders<'_>) -> Vec<(u16, u16)> {
    let payload = packet.payload.slice();
    let mut all = Vec::new();
    let transport = match (&packet.net, &packet.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), transport) => {
            all.push((ip.header_checksum, ip.calc_header_checksum()));
            match transport {
                Some(TransportHeader::Udp(udp)) => {
                    (udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap())
                }
                Some(TransportHeader::Tcp(tcp)) => {
                    (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap())
                }
                Some(TransportHeader::Icmpv4(icmp)) => {
                    (icmp.checksum, icmp.icmp_type.calc_checksum(payload))
                }
                _ => return all,
            }
        }
        (Some(NetHeaders::Ipv6(ip, _)), transport) => match transport {
            Some(TransportHeader::Udp(udp)) => {
                (udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap())
            }
            Some(TransportHeader::Tcp(tcp)) => {
                (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).unwrap())
            }
            Some(TransportHeader::Icmpv6(icmp)) => {
                let sum = icmp.icmp_type;
                let sum = sum.calc_checksum(ip.source, ip.destination, payload);
                (icmp.checksum, sum.unwrap())
            }
            _ => return all,
        },
        _ => return all,
    };
    all.push(transport);
    all
}

/// Parses a frame with etherparse and checks the checksums of IPv4, UDP, TCP,
/// ICMP and ICMPv6.
pub fn verified(frame: &[u8]) -> PacketHeaders<'_> {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let is_ip = matches!(
        packet.net,
        Some(NetHeaders::Ipv4(..) | NetHeaders::Ipv6(..))
    );
    assert!(is_ip, "not IP: {packet:?}");
    for (found, expected) in checksums(&packet) {
        assert_eq!(found, expected, "checksum");
    }
    packet
}

/// Whether a frame has a whole transport layer with a right checksum.
pub fn is_sound(frame: &[u8]) -> bool {
    let Ok(packet) = PacketHeaders::from_ethernet_slice(frame) else {
        return false;
    };
    let mut checksums = checksums(&packet).into_iter();
    packet.transport.is_some() && checksums.all(|(found, expected)| found == expected)
}
