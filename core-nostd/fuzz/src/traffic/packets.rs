//! Packets whose fields are often right, with checksums that are made last, so that
//! what was changed before gets behind them.

use std::net::IpAddr;

use super::packet::Packet;
use crate::Reader;
use crate::common::*;

/// Addresses that mean something to a node, and some that do to all.
const V4: [[u8; 4]; 24] = [
    [10, 244, 1, 2],
    [10, 244, 1, 3],
    [10, 244, 2, 2],
    [10, 244, 3, 2],
    [10, 244, 4, 2],
    [10, 244, 5, 2],
    [10, 245, 1, 2],
    [10, 245, 2, 2],
    [10, 245, 6, 2],
    [10, 244, 1, 0],
    [10, 244, 1, 99],
    [10, 245, 1, 1],
    [169, 254, 1, 1],
    [192, 168, 77, 1],
    [192, 168, 77, 2],
    [192, 168, 77, 3],
    [192, 168, 78, 6],
    [10, 99, 0, 5],
    [8, 8, 8, 8],
    [224, 0, 0, 1],
    [239, 1, 2, 3],
    [255, 255, 255, 255],
    [127, 0, 0, 1],
    [0, 0, 0, 0],
];

fn v6_of(v4: [u8; 4]) -> [u8; 16] {
    let of = |network: u16, node: u8, last: u8| {
        let [n0, n1] = network.to_be_bytes();
        let mut address = [0; 16];
        address[..6].copy_from_slice(&[0xfd, 0, n0, n1, 0, node]);
        address[15] = last;
        address
    };
    match v4 {
        [10, 244, node, last] => of(0x244, node, last),
        [10, 245, node, last] => of(0x245, node, last),
        [192, 168, 77, n] => ipv6("fd00:77::", n),
        [192, 168, 78, n] => ipv6("fd00:78::", n),
        [10, 99, ..] => ipv6("fd99::", 5),
        [169, ..] => GATEWAY6,
        [224, ..] => ALL_NODES6,
        [239, _, _, n] => ipv6("ff05::", n),
        [255, ..] => LINK_LOCAL6,
        [127, ..] => ipv6("::", 1),
        [0, ..] => UNSPECIFIED6,
        _ => STRANGER6,
    }
}

/// The address with this last byte.
pub(super) fn ipv6(first: &str, last: u8) -> [u8; 16] {
    let mut address = first.parse::<std::net::Ipv6Addr>().expect(first).octets();
    address[15] = last;
    address
}

/// An address; mostly one of those that mean something.
fn address(reader: &mut Reader<'_>, v6: bool) -> IpAddr {
    match (reader.u8(), v6) {
        (255, false) => IpAddr::from(reader.array::<4>()),
        (255, true) => IpAddr::from(reader.array::<16>()),
        (n, false) => IpAddr::from(V4[usize::from(n) % V4.len()]),
        (n, true) => IpAddr::from(v6_of(V4[usize::from(n) % V4.len()])),
    }
}

/// As [`address`], mostly the version's one of two.
fn source(reader: &mut Reader<'_>, v6: bool, usual: ([u8; 4], [u8; 16])) -> IpAddr {
    match (reader.rarely(8), v6) {
        (true, _) => address(reader, v6),
        (false, false) => usual.0.into(),
        (false, true) => usual.1.into(),
    }
}

fn port(reader: &mut Reader<'_>) -> u16 {
    match reader.u8() {
        255 => reader.u16(),
        n => [80, 8472, 4789, 53, 67, 547, 50_000, 443][usize::from(n) % 8],
    }
}

/// A payload: a few bytes of the input's, then others.
fn payload(reader: &mut Reader<'_>) -> Vec<u8> {
    let len = match reader.below(8) {
        0..4 => reader.u8().into(),
        4 | 5 => 1200 + 2 * usize::from(reader.u8()),
        6 => usize::from(reader.u16()) % 9000,
        _ => usize::from(reader.u16()).min(64_000),
    };
    let first = reader.u8();
    let pattern = (0..len).map(|at| first.wrapping_add(at.to_le_bytes()[0]));
    pattern.collect()
}

/// A transport layer without its checksum: protocol and bytes.
fn transport(reader: &mut Reader<'_>, v6: bool, depth: u8) -> (u8, Vec<u8>) {
    let icmp = if v6 { 58 } else { 1 };
    match reader.below(16) {
        0..4 => udp(reader),
        4..7 => tcp(reader),
        7 => {
            let kind = match (reader.flag(), v6) {
                (false, false) => 8,
                (false, true) => 128,
                (true, false) => 0,
                (true, true) => 129,
            };
            let mut message = vec![kind, 0, 0, 0, 0, 7, 0, 1];
            message.extend(payload(reader));
            (icmp, message)
        }
        8 | 9 => {
            // An error about a packet of somebody's.
            let (kind, code) = match v6 {
                false => (
                    reader.pick(&[3, 3, 11, 12, 4, 5]),
                    reader.pick(&[4, 0, 1, 3, 13]),
                ),
                true => (reader.pick(&[2, 1, 3, 4, 137]), reader.pick(&[0, 1, 4])),
            };
            let mut message = vec![kind, code, 0, 0, 0, 0];
            message.extend(reader.u16().to_be_bytes());
            message.extend(quoted(reader, v6, depth));
            (icmp, message)
        }
        10 | 11 if v6 => (icmp, discovery(reader)),
        10 | 11 => (2, vec![0x16, 0, 0, 0, 224, 0, 0, 1]),
        12 => {
            let inner_v6 = reader.flag();
            let number = if inner_v6 { 41 } else { 4 };
            (number, quoted(reader, inner_v6, depth))
        }
        13 => (reader.u8(), payload(reader)),
        _ => udp(reader),
    }
}

fn udp(reader: &mut Reader<'_>) -> (u8, Vec<u8>) {
    let mut datagram = Vec::new();
    datagram.extend(port(reader).to_be_bytes());
    datagram.extend(port(reader).to_be_bytes());
    let payload = payload(reader);
    let len = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    (17, datagram)
}

fn tcp(reader: &mut Reader<'_>) -> (u8, Vec<u8>) {
    let mut segment = Vec::new();
    segment.extend(port(reader).to_be_bytes());
    segment.extend(port(reader).to_be_bytes());
    segment.extend([0, 0, 0, 7, 0, 0, 0, 9]);
    let flags = match reader.u8() {
        255 => reader.u8(),
        n => [0x10, 0x18, 0x02, 0x12, 0x11, 0x90][usize::from(n) % 6],
    };
    let [high, low] = reader.u16().to_be_bytes();
    let options = match reader.below(6) {
        0 | 1 => vec![],
        2 => vec![2, 4, high, low],
        3 => vec![1, 2, 4, high, low, 1, 1, 1],
        4 => vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        _ => reader.array::<8>().to_vec(),
    };
    let words = u8::try_from((20 + options.len()) / 4).expect("small");
    segment.extend([words << 4, flags, 0x10, 0, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload(reader));
    (6, segment)
}

/// Neighbor and listener discovery.
fn discovery(reader: &mut Reader<'_>) -> Vec<u8> {
    let kind = reader.pick(&[135, 135, 136, 136, 133, 134, 137, 130, 131, 132, 143]);
    let flags = reader.u8();
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    if let IpAddr::V6(target) = address(reader, true) {
        message.extend(target.octets());
    }
    match reader.below(4) {
        0 => {}
        n => {
            let option = if kind == 136 { 2 } else { 1 };
            message.extend([option, 1]);
            message.extend(mac(reader, [MAC_A, HOST_MAC, node_mac(2)][n - 1]));
        }
    }
    message
}

/// The front of a packet, such as ICMP errors quote, or a whole small one.
fn quoted(reader: &mut Reader<'_>, v6: bool, depth: u8) -> Vec<u8> {
    if depth > 0 {
        let len = reader.u8().into();
        return reader.take(len).to_vec();
    }
    let src = if reader.flag() { V4[13] } else { V4[2] };
    let mut packet = ip_packet(reader, (src, v6_of(src)), v6, depth + 1).bytes;
    if reader.flag() {
        packet.truncate(64);
    }
    packet
}

/// MAC address of a node on a raw Ethernet port's link.
pub(super) fn node_mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

fn mac(reader: &mut Reader<'_>, usual: [u8; 6]) -> [u8; 6] {
    match reader.u8() {
        0..240 => usual,
        n => [
            MAC_A,
            MAC_B,
            GATEWAY_MAC,
            HOST_MAC,
            VTEP_1,
            node_mac(1),
            node_mac(2),
            [0xff; 6],
            [0x33, 0x33, 0, 0, 0, 1],
            [0; 6],
        ][usize::from(n) % 10],
    }
}

/// An IP packet of either version.
pub(super) fn any_packet(reader: &mut Reader<'_>, usual: ([u8; 4], [u8; 16])) -> Packet {
    let v6 = reader.flag();
    ip_packet(reader, usual, v6, 0)
}

fn ip_packet(reader: &mut Reader<'_>, usual: ([u8; 4], [u8; 16]), v6: bool, depth: u8) -> Packet {
    let src = source(reader, v6, usual);
    let dst = address(reader, v6);
    let ttl = reader.pick(&[64, 64, 64, 255, 255, 2, 1, 0]);
    let tos = reader.u8();
    let (protocol, payload) = transport(reader, v6, depth);
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let fields = (src.octets(), dst.octets(), ttl, tos);
            v4_packet(reader, fields, protocol, payload)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let fields = (src.octets(), dst.octets(), ttl, tos);
            v6_packet(reader, fields, protocol, payload)
        }
        _ => unreachable!("both are of this version"),
    };
    if reader.rarely(4) {
        for _ in 0..=reader.below(3) {
            let at = usize::from(reader.u8());
            let value = reader.u8();
            if let Some(byte) = packet.bytes.get_mut(at) {
                *byte ^= value;
            }
        }
    }
    let kept = reader.below(16);
    packet.make_checksums(kept != 14, kept != 15);
    packet
}

/// Makes a packet just as long as some port's MTU, or a byte more or less, at times.
fn stretch(reader: &mut Reader<'_>, payload: &mut Vec<u8>, headers: usize, protocol: u8) {
    if !reader.rarely(6) {
        return;
    }
    let mtu: usize = reader.pick(&[1450, 1400, 1500, 1280, 1480, 1430, 1460, 9000]);
    payload.resize((mtu + reader.below(3) - 1).saturating_sub(headers), 0x5a);
    let len = u16::try_from(payload.len()).expect("16 bits");
    if let (17, Some(field)) = (protocol, payload.get_mut(4..6)) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

fn v4_packet(
    reader: &mut Reader<'_>,
    (src, dst, ttl, tos): ([u8; 4], [u8; 4], u8, u8),
    protocol: u8,
    mut payload: Vec<u8>,
) -> Packet {
    let options = match reader.below(8) {
        6 => reader.pick(&[
            &[1, 1, 1, 1][..],
            &[0x83, 7, 4, 10, 244, 2, 2, 0],
            &[7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0],
        ]),
        7 => {
            let len = reader.below(11) * 4;
            let options = reader.take(len);
            &options[..options.len() / 4 * 4]
        }
        _ => &[],
    };
    let fragment: u16 = match reader.below(16) {
        0..6 => 0,
        6..11 => 0x4000,
        11 => 0x2000,
        12 => 0x2000 | (reader.u16() % 8192),
        13 => reader.u16() % 8192,
        14 => 0x8000,
        _ => reader.u16(),
    };
    let header_len = 20 + options.len();
    stretch(reader, &mut payload, header_len, protocol);
    payload.truncate(65_535 - 14 - 8 - header_len);
    let words = u8::try_from(header_len / 4).expect("small");
    let total = u16::try_from(header_len + payload.len()).expect("16 bits");
    let mut bytes = vec![0x40 | words, tos];
    bytes.extend(total.to_be_bytes());
    bytes.extend(reader.u16().to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([ttl, protocol, 0, 0]);
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(options);
    bytes.extend(payload);
    Packet {
        bytes,
        l4: header_len,
        protocol,
        v6: false,
        fragment: fragment & 0x3fff != 0,
    }
}

fn v6_packet(
    reader: &mut Reader<'_>,
    (src, dst, ttl, tos): ([u8; 16], [u8; 16], u8, u8),
    protocol: u8,
    mut payload: Vec<u8>,
) -> Packet {
    let (chain, first, fragment) = match reader.below(4) {
        3 => extensions(reader, protocol),
        _ => (vec![], protocol, false),
    };
    stretch(reader, &mut payload, 40 + chain.len(), protocol);
    payload.truncate(65_535 - 14 - 8 - 40 - chain.len());
    let len = u16::try_from(chain.len() + payload.len()).expect("16 bits");
    let mut bytes = vec![0x60 | tos >> 4, tos << 4, 0, 0];
    bytes.extend(len.to_be_bytes());
    bytes.extend([first, ttl]);
    bytes.extend(src);
    bytes.extend(dst);
    let l4 = 40 + chain.len();
    bytes.extend(chain);
    bytes.extend(payload);
    Packet {
        bytes,
        l4,
        protocol,
        v6: true,
        fragment,
    }
}

/// Extension headers in front of this protocol, the first one's number, and whether
/// one is a fragment header.
fn extensions(reader: &mut Reader<'_>, protocol: u8) -> (Vec<u8>, u8, bool) {
    let kinds: Vec<u8> = match reader.below(8) {
        0 => vec![60; 9],
        n => (0..n % 3 + 1)
            .map(|_| reader.pick(&[60, 0, 44, 44, 43, 51, 135, 60]))
            .collect(),
    };
    let mut chain = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(protocol);
        let rest = match *kind {
            44 => {
                let [high, low] = match reader.below(4) {
                    0 => 0u16,
                    1 => 1,
                    _ => reader.u16() & !6,
                }
                .to_be_bytes();
                [0, high, low, 0, 0, 0, 9]
            }
            60 => [0, 1, 4, 0, 0, 0, 0],
            0 => [0, 5, 2, 0, 0, 1, 0],
            43 => [0, 4, 0, 0, 0, 0, 0],
            _ => reader.array(),
        };
        chain.push(next);
        chain.extend(rest);
    }
    (chain, kinds[0], kinds.contains(&44))
}

/// An Ethernet frame around a packet; padded, cut or tagged at times.
pub(super) fn ethernet(
    reader: &mut Reader<'_>,
    (dst, src): ([u8; 6], [u8; 6]),
    packet: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(packet.len() + 64);
    frame.extend(mac(reader, dst));
    frame.extend(mac(reader, src));
    let kind = match packet.first().map(|first| first >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [8, 0],
    };
    frame.extend(match reader.u8() {
        0..250 => kind,
        n => [
            [8, 0],
            [0x86, 0xdd],
            [8, 6],
            [0x81, 0],
            [0x88, 0xa8],
            [0, 0],
        ][usize::from(n) % 6],
    });
    frame.extend(packet);
    match reader.below(16) {
        14 => frame.resize(frame.len() + reader.below(60), 0xa5),
        15 => frame.truncate(usize::from(reader.u16()) % (frame.len() + 1)),
        _ => {}
    }
    frame.truncate(65_535 - 8);
    frame
}

/// An ARP packet in a frame from this sender.
pub(super) fn arp(
    reader: &mut Reader<'_>,
    (own_mac, own): ([u8; 6], [u8; 4]),
    usual_dst: [u8; 6],
) -> Vec<u8> {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => unreachable!("IPv4 was asked for"),
    };
    let operation = reader.pick(&[1, 1, 1, 2, 2, 0, 3]);
    let sender = v4(source(reader, false, (own, [0; 16])));
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(mac(reader, own_mac));
    packet.extend(sender);
    packet.extend(mac(reader, [0; 6]));
    packet.extend(match reader.rarely(8) {
        false => v4(address(reader, false)),
        true => sender,
    });
    if reader.rarely(8) {
        let at = reader.below(28);
        packet[at] = reader.u8();
    }
    let mut frame = ethernet(reader, (usual_dst, own_mac), &packet);
    if frame.len() >= 14 && frame[12..14] == [8, 0] {
        frame[12..14].copy_from_slice(&[8, 6]);
    }
    frame
}

/// The outer headers of a packet of this protocol between two nodes, with checksums.
pub(super) fn outer(
    reader: &mut Reader<'_>,
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    payload: Vec<u8>,
) -> Packet {
    let (ttl, tos) = (64, reader.u8());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let fields = (src.octets(), dst.octets(), ttl, tos);
            v4_packet(reader, fields, protocol, payload)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let fields = (src.octets(), dst.octets(), ttl, tos);
            v6_packet(reader, fields, protocol, payload)
        }
        // A node has addresses of one version.
        (_, dst) => outer(reader, (dst, dst), protocol, payload),
    }
    .with_checksums(reader)
}
