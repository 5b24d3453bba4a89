//! What is for the gateway itself: ARP, neighbor discovery, echo.

use core::net::{IpAddr, Ipv6Addr};

use super::{Admitted, Exit, Ip, Parsed, deliver};
use crate::channel::Proxy;
use crate::tables::entry::{NetworkEntry, PortEntry, PortRole};
use crate::wire::icmp::{Error, HEADER_LEN};
use crate::wire::{arp, ethernet, icmpv4, icmpv6, ip, ipv6, nd};
use crate::{Checksum, DropReason, Fate, Frame, MacAddr, Segmentation};

/// TTL of the gateway's own packets.
pub(super) const TTL: u8 = 64;

/// What a packet on the link is about that routers keep to themselves.
pub(super) enum Discovery {
    /// Neighbor discovery (RFC 4861).
    Neighbor(nd::Message),
    /// Multicast listener discovery (RFC 3810).
    Listener,
}

/// Whom the gateway answers for: itself and, in the network mode, everybody in
/// the network but the asker.
fn stands_in_for(network: &NetworkEntry, asker: &PortEntry, target: IpAddr) -> bool {
    if network.gateways.has(target) {
        return true;
    }
    let own = match asker.role {
        PortRole::Host => network.node_addresses.has(target),
        _ => asker.addresses.has(target),
    };
    network.proxy == Proxy::Network && network.prefixes.covers(target) && !own
}

/// ARP proxy (RFC 826, RFC 1027), probes (RFC 5227) included. Gratuitous ARP
/// and replies change nothing.
pub(super) fn arp(
    network: &NetworkEntry,
    asker: &PortEntry,
    frame: &mut Frame<'_>,
    packet: &arp::Packet,
) -> Result<Fate, Exit> {
    if packet.operation == arp::Operation::Reply || packet.sender_ip == packet.target_ip {
        return Ok(Fate::Consume);
    }
    if !stands_in_for(network, asker, IpAddr::V4(packet.target_ip)) {
        return Err(DropReason::ArpTarget.into());
    }
    answer_arp(network.gateway_mac, packet, frame)?;
    Ok(Fate::Reply)
}

/// Turns an ARP request into the answer that its target is at `mac`.
pub(super) fn answer_arp(
    mac: MacAddr,
    request: &arp::Packet,
    frame: &mut Frame<'_>,
) -> Result<(), DropReason> {
    let reply = arp::Packet {
        operation: arp::Operation::Reply,
        sender_mac: mac,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    };
    write_arp(request.sender_mac, &reply, frame)
}

/// Writes an ARP packet from its sender to `dst`, Ethernet included.
pub(super) fn write_arp(
    dst: MacAddr,
    packet: &arp::Packet,
    frame: &mut Frame<'_>,
) -> Result<(), DropReason> {
    let ethernet = ethernet::Header {
        dst,
        src: packet.sender_mac,
        ethertype: ethernet::ARP,
    };
    frame
        .resize(ethernet::HEADER_LEN + arp::PACKET_LEN)
        .ok_or(DropReason::NoHeadroom)?;
    let written = frame.bytes_mut().split_first_chunk_mut();
    let written = written.and_then(|(first, rest)| Some((first, rest.first_chunk_mut()?)));
    let (header, rest) = written.ok_or(DropReason::NoHeadroom)?;
    ethernet.emit(header);
    packet.emit(rest);
    forget_offload(frame);
    Ok(())
}

/// Marks and outer header were the question's, and nothing of them fits the answer.
fn forget_offload(frame: &mut Frame<'_>) {
    frame.checksum = Checksum::None;
    frame.segmentation = Segmentation::None;
    frame.outer = None;
}

/// Whether the packet is about what stays on the link.
#[inline(always)]
pub(super) fn is_discovery(packet: &Ip<'_, '_, Parsed>) -> bool {
    let kind = packet.icmpv6_type();
    kind.is_some_and(|kind| icmpv6::is_listener_discovery(kind) || nd::is_nd(kind))
}

/// Reads what stays on the link.
#[cold]
pub(super) fn discovery(packet: &Ip<'_, '_, Parsed>) -> Result<Discovery, Exit> {
    if packet
        .icmpv6_type()
        .is_some_and(icmpv6::is_listener_discovery)
    {
        return Ok(Discovery::Listener);
    }
    let finished = packet.frame.checksum == Checksum::None;
    let message = nd::parse(packet.header, packet.payload(), finished);
    match message {
        Ok(message) if !packet.header.is_fragment() => Ok(Discovery::Neighbor(message)),
        // Fragmented messages are nobody's (RFC 6980).
        _ => Err(DropReason::NdMalformed.into()),
    }
}

/// ND proxy (RFC 4861 section 7.2.8): solicitations are answered as ARP requests
/// are, those of duplicate address detection included, all else is done.
#[cold]
pub(super) fn discover(
    network: &NetworkEntry,
    asker: &PortEntry,
    packet: Ip<'_, '_, Parsed>,
    message: &Discovery,
) -> Result<Fate, Exit> {
    let (target, mac) = match *message {
        Discovery::Neighbor(nd::Message::Solicitation { target, source_mac }) => {
            (target, source_mac)
        }
        _ => return Ok(Fate::Consume),
    };
    let detection = packet.src().is_unspecified();
    let own = IpAddr::V6(target);
    if detection
        && (asker.addresses.has(own) || target.is_unicast_link_local())
        && !network.gateways.has(own)
    {
        return Ok(Fate::Consume);
    }
    if !stands_in_for(network, asker, own) {
        return Err(DropReason::NdTarget.into());
    }
    let to = match (packet.src(), detection) {
        (IpAddr::V6(src), false) => (src, mac.unwrap_or(asker.mac)),
        _ => (ALL_NODES, ipv6::multicast_mac(ALL_NODES)),
    };
    let advertisement = nd::Advertisement {
        target,
        target_mac: Some(network.gateway_mac),
        router: true,
        solicited: !detection,
        // A proxy's answer must not replace the owner's (RFC 4861 section 7.2.8).
        overrides: network.gateways.has(own),
    };
    write_advertisement(network.gateway_mac, to, &advertisement, packet.frame)?;
    Ok(Fate::Reply)
}

/// All nodes on the link (RFC 4291 section 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Writes a neighbor advertisement from its target's address, Ethernet included.
pub(super) fn write_advertisement(
    mac: MacAddr,
    (dst, dst_mac): (Ipv6Addr, MacAddr),
    advertisement: &nd::Advertisement,
    frame: &mut Frame<'_>,
) -> Result<(), DropReason> {
    let addresses = (advertisement.target, dst);
    let message = write_discovery(addresses, (mac, dst_mac), frame)?;
    nd::emit_advertisement(advertisement, addresses, message);
    Ok(())
}

/// Writes the headers of a neighbor discovery message, and returns where that goes.
pub(super) fn write_discovery<'f>(
    (src, dst): (Ipv6Addr, Ipv6Addr),
    (src_mac, dst_mac): (MacAddr, MacAddr),
    frame: &'f mut Frame<'_>,
) -> Result<&'f mut [u8; nd::MESSAGE_LEN], DropReason> {
    const LEN: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + nd::MESSAGE_LEN;
    frame.resize(LEN).ok_or(DropReason::NoHeadroom)?;
    forget_offload(frame);
    let ethernet = ethernet::Header {
        dst: dst_mac,
        src: src_mac,
        ethertype: ethernet::IPV6,
    };
    let header = ipv6::Header {
        src,
        dst,
        traffic_class: 0,
        flow_label: 0,
        payload_len: 32,
        next_header: ip::ICMPV6,
        hop_limit: nd::HOP_LIMIT,
    };
    let written = frame
        .bytes_mut()
        .split_first_chunk_mut()
        .and_then(|(first, rest)| Some((first, rest.split_first_chunk_mut()?)))
        .and_then(|(first, (ip, rest))| Some((first, ip, rest.first_chunk_mut()?)));
    let (first, ip, message) = written.ok_or(DropReason::NoHeadroom)?;
    ethernet.emit(first);
    header.emit(ip);
    Ok(message)
}

/// Whether the packet is for one of the gateway's own addresses.
#[inline(always)]
pub(super) fn is_for_gateway(network: &NetworkEntry, packet: &Ip<'_, '_, Admitted<'_>>) -> bool {
    network.gateways.has(packet.dst())
}

/// Answers ping (RFC 792, RFC 4443) and refuses everything else.
#[cold]
pub(super) fn ip(
    network: &NetworkEntry,
    ethernet: &ethernet::Header,
    mut packet: Ip<'_, '_, Admitted<'_>>,
) -> Result<Fate, Exit> {
    match answer_echo(network.gateway_mac, ethernet, &mut packet)? {
        true => Ok(Fate::Reply),
        false => Err(refuse(&packet)),
    }
}

/// Turns a ping into its answer, from `mac`; `false` when it is none.
pub(super) fn answer_echo<S>(
    mac: MacAddr,
    ethernet: &ethernet::Header,
    packet: &mut Ip<'_, '_, S>,
) -> Result<bool, Exit> {
    if !is_echo_request(packet) {
        return Ok(false);
    }
    // No ping is a super-frame, and the reply's checksum is made from the request's.
    packet.frame.segmentation = Segmentation::None;
    deliver::finish_checksum(packet)?;
    let reply_to = match packet.header.is_v6() {
        false => icmpv4::reply_to_echo,
        true => icmpv6::reply_to_echo,
    };
    // It was a request; one that its own checksum overwrites makes no sense.
    reply_to(packet.payload_mut()).ok_or(DropReason::BadOffload)?;
    let reply = ethernet::Header {
        dst: ethernet.src,
        src: mac,
        ethertype: ethernet.ethertype,
    };
    ip::turn_round(packet.packet_mut(), TTL);
    if let Some(bytes) = packet.frame.bytes_mut().first_chunk_mut() {
        reply.emit(bytes);
    }
    packet.frame.outer = None;
    Ok(true)
}

fn is_echo_request<S>(packet: &Ip<'_, '_, S>) -> bool {
    let kind = match packet.header.is_v6() {
        false => icmpv4::ECHO_REQUEST,
        true => icmpv6::ECHO_REQUEST,
    };
    let message = packet.payload().first_chunk::<HEADER_LEN>();
    is_icmp(packet) && !packet.header.is_fragment() && message.is_some_and(|m| m[..2] == [kind, 0])
}

fn is_icmp<S>(packet: &Ip<'_, '_, S>) -> bool {
    match packet.header.is_v6() {
        false => packet.header.protocol == ip::ICMP,
        true => packet.header.protocol == ip::ICMPV6,
    }
}

fn refuse(packet: &Ip<'_, '_, Admitted<'_>>) -> Exit {
    match packet.header.protocol {
        _ if is_icmp(packet) => DropReason::GatewayProtocol.into(),
        ip::TCP | ip::UDP => DropReason::GatewayProtocol.with(Error::PortUnreachable),
        _ => DropReason::GatewayProtocol.with(Error::ProtocolUnreachable {
            named_at: packet.header.named_at,
        }),
    }
}
