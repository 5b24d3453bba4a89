//! Frames on the underlay, made by etherparse.

use std::net::IpAddr;

use culvert_core::MacAddr;
use etherparse::{ArpOperation, PacketBuilder};

use super::node::{node_address, node_mac};
use crate::common::arp_packet;

/// A packet behind Ethernet and IP headers, from node `n` to node 1.
pub(crate) fn packet(v6: bool, n: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(node_mac(n), node_mac(1));
    let builder = match (node_address(v6, n), node_address(v6, 1)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        other => panic!("{other:?}"),
    };
    let mut out = Vec::new();
    builder.write(&mut out, protocol.into(), payload).unwrap();
    out
}

/// UDP from node `n` to node 1 with its checksum.
pub(crate) fn udp_between_nodes(v6: bool, n: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(node_mac(n), node_mac(1));
    let builder = match (node_address(v6, n), node_address(v6, 1)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        other => panic!("{other:?}"),
    };
    let mut out = Vec::new();
    let builder = builder.udp(50_000, port);
    builder.write(&mut out, payload).unwrap();
    out
}

/// The VXLAN header of a network and an inner frame from node `n`'s VTEP to node
/// 1's: the packet of `frame` with other MAC addresses.
pub(crate) fn vxlan_payload(v6: bool, n: u8, vni: u32, frame: &[u8]) -> Vec<u8> {
    let vtep = |n| MacAddr::vtep_for(node_address(v6, n)).bytes();
    let [_, a, b, c] = vni.to_be_bytes();
    let header = [8, 0, 0, 0, a, b, c, 0];
    [&header[..], &vtep(1), &vtep(n), &frame[12..]].concat()
}

/// A frame of node `n`'s pod in VXLAN with VNI 1 on port 8472.
pub(crate) fn in_vxlan(v6: bool, n: u8, frame: &[u8]) -> Vec<u8> {
    udp_between_nodes(v6, n, 8472, &vxlan_payload(v6, n, 1, frame))
}

/// The packet of a frame in IP from node `n`.
pub(crate) fn in_ip(v6: bool, n: u8, frame: &[u8]) -> Vec<u8> {
    let protocol = if frame[12..14] == [8, 0] { 4 } else { 41 };
    packet(v6, n, protocol, &frame[14..])
}

/// Setup `n` answers node 1's question who has its address.
pub(crate) fn answer(v6: bool, n: u8) -> Vec<u8> {
    answer_for(node_address(v6, n), node_mac(n))
}

/// The device with this MAC address has that address.
pub(crate) fn answer_for(address: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    match (address, node_address(address.is_ipv6(), 1)) {
        (IpAddr::V4(address), IpAddr::V4(own)) => {
            let to = (node_mac(1), own.octets());
            let mut frame = arp_packet(ArpOperation::REPLY, (mac, address.octets()), to);
            frame[..6].copy_from_slice(&node_mac(1));
            frame
        }
        (IpAddr::V6(address), IpAddr::V6(own)) => {
            // Solicited, and it replaces what was known (RFC 4861 section 4.4).
            let payload = [&address.octets()[..], &[2, 1], &mac].concat();
            discovery((136, 0x60), (mac, node_mac(1)), (address, own), &payload)
        }
        other => panic!("{other:?}"),
    }
}

/// A neighbor discovery message with these flags.
pub(crate) fn discovery(
    (kind, flags): (u8, u8),
    macs: ([u8; 6], [u8; 6]),
    (src, dst): (std::net::Ipv6Addr, std::net::Ipv6Addr),
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(src.octets(), dst.octets(), 255)
        .icmpv6_raw(kind, 0, [flags, 0, 0, 0]);
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

/// The bytes of an IPv6 address.
pub(crate) fn ip_octets(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}
