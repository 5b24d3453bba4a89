//! Packets made by hand.

use std::net::Ipv4Addr;

pub(crate) const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// The Internet checksum (RFC 1071) over `bytes`, starting from `sum`.
pub(crate) fn checksum(sum: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]))
    });
    let mut sum = sum + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An Ethernet frame with an IPv4 packet from [`PEER_MAC`].
pub(crate) fn ipv4(
    to: [u8; 6],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![
        0x45, 0, length[0], length[1], 0, 1, 0x40, 0, 64, protocol, 0, 0,
    ];
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(0, &header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(PEER_MAC);
    frame.extend([8, 0]);
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// An ICMP echo request.
pub(crate) fn echo(sequence: u8) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, sequence];
    icmp.extend(b"culvert");
    let sum = checksum(0, &icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    icmp
}

/// The sum of UDP's pseudo-header over IPv4, not complemented.
pub(crate) fn pseudo_sum(source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> u16 {
    let mut header = Vec::new();
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend([0, 17]);
    header.extend(u16::try_from(length).unwrap().to_be_bytes());
    !checksum(0, &header)
}

/// A UDP datagram with whatever checksum.
pub(crate) fn udp(source: u16, destination: u16, sum: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut datagram = Vec::new();
    for field in [source, destination, length, sum] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    datagram
}
