//! What is for the gateway itself: ARP, echo.

use core::net::IpAddr;

use super::{Admitted, Exit, Ip, deliver};
use crate::tables::entry::NetworkEntry;
use crate::wire::{arp, ethernet, icmpv4, ipv4};
use crate::{Checksum, DropReason, Fate, Frame, Segmentation};

/// TTL of the gateway's own packets.
pub(super) const TTL: u8 = 64;

/// ARP proxy: the gateway answers for its own addresses, probes (RFC 5227) for
/// them included, with its own MAC address, and for no others. Gratuitous ARP
/// and replies change nothing.
pub(super) fn arp(
    network: &NetworkEntry,
    frame: &mut Frame<'_>,
    packet: &arp::Packet,
) -> Result<Fate, Exit> {
    if packet.operation == arp::Operation::Reply || packet.sender_ip == packet.target_ip {
        return Ok(Fate::Consume);
    }
    if !network.gateways.has(IpAddr::V4(packet.target_ip)) {
        return Err(DropReason::ArpTarget.into());
    }
    let reply = arp::Packet {
        operation: arp::Operation::Reply,
        sender_mac: network.gateway_mac,
        sender_ip: packet.target_ip,
        target_mac: packet.sender_mac,
        target_ip: packet.sender_ip,
    };
    let ethernet = ethernet::Header {
        dst: packet.sender_mac,
        src: network.gateway_mac,
        ethertype: ethernet::ARP,
    };
    // Parsing found both in the frame.
    let (header, rest) = frame
        .bytes_mut()
        .split_first_chunk_mut()
        .ok_or(DropReason::FrameTruncated)?;
    ethernet.emit(header);
    reply.emit(rest.first_chunk_mut().ok_or(DropReason::ArpMalformed)?);
    frame.truncate(ethernet::HEADER_LEN + arp::PACKET_LEN);
    // These were the request's, and nothing of them fits an ARP packet.
    frame.checksum = Checksum::None;
    frame.segmentation = Segmentation::None;
    frame.outer = None;
    Ok(Fate::Reply)
}

/// Whether the packet is for one of the gateway's own addresses.
pub(super) fn is_for_gateway(network: &NetworkEntry, packet: &Ip<'_, '_, Admitted>) -> bool {
    network.gateways.has(packet.dst())
}

/// Answers ping (RFC 792) and refuses everything else.
pub(super) fn ip(
    network: &NetworkEntry,
    ethernet: &ethernet::Header,
    mut packet: Ip<'_, '_, Admitted>,
) -> Result<Fate, Exit> {
    let refused = match packet.header.protocol {
        ipv4::TCP | ipv4::UDP => icmpv4::Error::PortUnreachable,
        _ => icmpv4::Error::ProtocolUnreachable,
    };
    let header_len = usize::from(packet.header.header_len);
    let echo = packet.header.protocol == ipv4::ICMP && !packet.header.is_fragment();
    if echo {
        // The reply's checksum is made from the request's.
        deliver::finish_checksum(&mut packet)?;
    }
    let message = packet.packet_mut().get_mut(header_len..);
    let answered = message.filter(|_| echo).and_then(icmpv4::reply_to_echo);
    if answered.is_none() {
        let is_icmp = packet.header.protocol == ipv4::ICMP;
        return Err(match is_icmp {
            true => DropReason::GatewayProtocol.into(),
            false => DropReason::GatewayProtocol.with(refused),
        });
    }
    let reply = ethernet::Header {
        dst: ethernet.src,
        src: network.gateway_mac,
        ethertype: ethernet::IPV4,
    };
    let (src, dst) = (packet.header.src, packet.header.dst);
    ipv4::set_addresses_and_ttl(packet.packet_mut(), dst, src, TTL);
    if let Some(bytes) = packet.frame.bytes_mut().first_chunk_mut() {
        reply.emit(bytes);
    }
    packet.frame.outer = None;
    Ok(Fate::Reply)
}
