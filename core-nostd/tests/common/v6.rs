//! IPv6 packets, made by etherparse as far as it can.

use etherparse::{Icmpv6Header, Icmpv6Type, IpNumber, Ipv6Header, PacketBuilder};

use super::*;

const fn v6(segments: [u16; 8]) -> [u8; 16] {
    std::net::Ipv6Addr::new(
        segments[0],
        segments[1],
        segments[2],
        segments[3],
        segments[4],
        segments[5],
        segments[6],
        segments[7],
    )
    .octets()
}

pub const A6: [u8; 16] = v6([0xfd00, 0x244, 1, 0, 0, 0, 0, 2]);
pub const B6: [u8; 16] = v6([0xfd00, 0x244, 1, 0, 0, 0, 0, 3]);
pub const HOST6: [u8; 16] = v6([0xfd00, 0x244, 1, 0, 0, 0, 0, 0]);
pub const NOBODY6: [u8; 16] = v6([0xfd00, 0x244, 1, 0, 0, 0, 0, 0x99]);
pub const REMOTE6: [u8; 16] = v6([0xfd00, 0x244, 2, 0, 0, 0, 0, 2]);
pub const REMOTE6_3: [u8; 16] = v6([0xfd00, 0x244, 3, 0, 0, 0, 0, 2]);
pub const NODE6_1: [u8; 16] = v6([0xfd00, 0x77, 0, 0, 0, 0, 0, 1]);
pub const NODE6_2: [u8; 16] = v6([0xfd00, 0x77, 0, 0, 0, 0, 0, 2]);
pub const GATEWAY6: [u8; 16] = v6([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
pub const LINK_LOCAL6: [u8; 16] = v6([0xfe80, 0, 0, 0, 0x858, 0xaff, 0xfef4, 0x102]);
pub const STRANGER6: [u8; 16] = v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 8]);
pub const ALL_NODES6: [u8; 16] = v6([0xff02, 0, 0, 0, 0, 0, 0, 1]);
pub const UNSPECIFIED6: [u8; 16] = [0; 16];

pub fn udp6(src_mac: [u8; 6], src: [u8; 16], dst: [u8; 16], payload: &[u8]) -> Vec<u8> {
    udp6_ports(src_mac, src, dst, (1234, 80), payload)
}

pub fn udp6_ports(
    src_mac: [u8; 6],
    src: [u8; 16],
    dst: [u8; 16],
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac, GATEWAY_MAC)
        .ipv6(src, dst, 64)
        .udp(ports.0, ports.1);
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

pub fn tcp6(src_mac: [u8; 6], src: [u8; 16], dst: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac, GATEWAY_MAC)
        .ipv6(src, dst, 64)
        .tcp(1234, 80, 7, 1000);
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

pub fn echo6(src_mac: [u8; 6], src: [u8; 16], dst: [u8; 16]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac, GATEWAY_MAC)
        .ipv6(src, dst, 64)
        .icmpv6_echo_request(7, 1);
    let mut out = Vec::new();
    builder.write(&mut out, b"culvert").unwrap();
    out
}

/// An IPv6 packet with anything behind the fixed header.
pub fn packet6(
    src_mac: [u8; 6],
    (src, dst): ([u8; 16], [u8; 16]),
    (next_header, hop_limit): (u8, u8),
    payload: &[u8],
) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: payload.len().try_into().unwrap(),
        next_header: IpNumber(next_header),
        hop_limit,
        source: src,
        destination: dst,
        ..Ipv6Header::default()
    };
    let mut frame = [&GATEWAY_MAC[..], &src_mac, &[0x86, 0xdd]].concat();
    frame.extend(header.to_bytes());
    frame.extend(payload);
    frame
}

/// Puts extension headers, (type, bytes without their first), in front of the
/// upper layer of an IPv6 frame.
pub fn extended(mut frame: Vec<u8>, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let last = frame[20];
    let (mut chain, mut kinds) = (Vec::new(), extensions.iter().skip(1));
    for (_, rest) in extensions {
        chain.push(kinds.next().map_or(last, |(kind, _)| *kind));
        chain.extend(*rest);
    }
    frame[20] = extensions.first().map_or(last, |(kind, _)| *kind);
    frame.splice(54..54, chain);
    let len = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame
}

/// The fragment header without its first byte, for [`extended`].
pub fn fragment6(offset: u16, more: bool) -> [u8; 7] {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [0, high, low, 0, 0, 0, 9]
}

/// An ICMPv6 message with a correct checksum.
pub fn icmp6(
    src_mac: [u8; 6],
    addresses: ([u8; 16], [u8; 16]),
    hop_limit: u8,
    message: &[u8],
) -> Vec<u8> {
    let kind = Icmpv6Type::Unknown {
        type_u8: message[0],
        code_u8: message[1],
        bytes5to8: [message[4], message[5], message[6], message[7]],
    };
    let header = Icmpv6Header::with_checksum(kind, addresses.0, addresses.1, &message[8..]);
    let mut payload = header.unwrap().to_bytes().to_vec();
    payload.extend(&message[8..]);
    packet6(src_mac, addresses, (58, hop_limit), &payload)
}

/// A neighbor solicitation (135) or advertisement (136) with this link-layer
/// address option.
pub fn neighbor(
    kind: u8,
    addresses: ([u8; 16], [u8; 16]),
    target: [u8; 16],
    mac: Option<[u8; 6]>,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    if let Some(mac) = mac {
        message.extend([kind - 134, 1]);
        message.extend(mac);
    }
    icmp6(MAC_A, addresses, 255, &message)
}

/// The solicitation that pod A sends for an address, to its solicited-node group.
pub fn solicitation(src: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    let group = culvert_core::wire::ipv6::solicited_node(target.into());
    let mac = (src != UNSPECIFIED6).then_some(MAC_A);
    let mut frame = neighbor(135, (src, group.octets()), target, mac);
    frame[..6].copy_from_slice(&culvert_core::wire::ipv6::multicast_mac(group).bytes());
    frame
}

/// Rewrites a frame's IPv6 header through etherparse.
pub fn edit_ip6(frame: &mut [u8], edit: impl FnOnce(&mut Ipv6Header)) {
    let (mut header, _) = Ipv6Header::from_slice(&frame[14..]).unwrap();
    edit(&mut header);
    frame[14..54].copy_from_slice(&header.to_bytes());
}

/// An IP-in-IP packet as an underlay port made of sockets hands it in: the packet
/// of this frame, from node 2.
pub fn ipip(frame: &[u8]) -> Input {
    let protocol = match frame[12..14] {
        [8, 0] => 4,
        _ => 41,
    };
    let mut input = vxlan(&[], 1);
    input.bytes = frame[14..].to_vec();
    input.outer.as_mut().unwrap().l4 = OuterL4::Ip { protocol };
    input
}
