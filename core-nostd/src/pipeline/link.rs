//! What the neighbors of a raw port say: ARP, neighbor discovery, and ICMP errors
//! about tunnel packets; and what is said to them. All that comes in here has a
//! header that is right and is for this node, for all, or for a group of nodes.

use core::net::{IpAddr, Ipv6Addr};

use super::{deliver, local};
use crate::events::Events;
use crate::neighbors::Heard;
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PortEntry};
use crate::wire::quote::Quote;
use crate::wire::{arp, checksum, ethernet, icmp, icmpv4, ip, ipv6, l4, nd};
use crate::{Checksum, DropReason, Fate, Frame, Instant, MacAddr, PeerId, PortId};

/// Code of "fragmentation needed and DF set" (RFC 792).
const FRAGMENTATION_NEEDED: u8 = 4;
/// MTUs of links, for routers that tell none (RFC 1191 section 7.1).
const PLATEAUS: [u16; 7] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006];

/// Where something was heard.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) now: Instant,
    pub(crate) port: PortId,
}

/// Takes in what a neighbor said, and answers it.
#[cold]
pub(crate) fn receive(
    (tables, events): (&mut Tables<'_>, &mut Events),
    place: Place,
    frame: &mut Frame<'_>,
) -> Result<Fate, DropReason> {
    let (ethernet, payload) =
        ethernet::Header::parse(frame.bytes()).ok_or(DropReason::FrameTruncated)?;
    if ethernet.ethertype == ethernet::ARP {
        let packet = arp::Packet::parse(payload).ok_or(DropReason::ArpMalformed)?;
        return receive_arp(tables, place, (&ethernet, &packet), frame);
    }
    let header = ip::Header::parse(payload).map_err(|_| DropReason::OuterMalformed)?;
    let message = payload.get(usize::from(header.header_len)..usize::from(header.total_len));
    let message = message.ok_or(DropReason::OuterMalformed)?;
    let kind = message.first().copied().unwrap_or(0);
    if header.is_v6() && nd::is_nd(kind) {
        // Fragmented messages are nobody's (RFC 6980).
        let finished = frame.checksum == Checksum::None;
        let read = nd::parse(&header, message, finished).ok();
        let read = read.filter(|_| !header.is_fragment());
        let read = read.ok_or(DropReason::NdMalformed)?;
        return receive_discovery(tables, place, (&ethernet, &header, &read), frame);
    }
    let finished = frame.checksum == Checksum::None;
    let Some((quote, mtu)) = too_big(&header, message, finished) else {
        return Ok(Fate::Punt);
    };
    Ok(match lower_path_mtu((tables, events), place, &quote, mtu) {
        true => Fate::Consume,
        false => Fate::Punt,
    })
}

/// Whether a sender's address and MAC address can be believed: it must be on the
/// link. Who is not, and asks for us, is answered all the same: Linux asks in the
/// name of the packet that it wants to send, whatever its source. Every node has a
/// link-local address, which is nobody's tunnel's end unless the port has such a
/// prefix.
fn believed(
    port: &PortEntry,
    (sender, mac): (IpAddr, MacAddr),
    asks_us: bool,
) -> Result<bool, DropReason> {
    if port.addresses.has(sender) && mac != port.mac {
        return Err(DropReason::AddressConflict);
    }
    let link_local = matches!(sender, IpAddr::V6(v6) if v6.is_unicast_link_local());
    match port.allowed.covers(sender) {
        false if !asks_us && !link_local => Err(DropReason::NeighborOffLink),
        on_link => Ok(on_link),
    }
}

/// ARP (RFC 826). Probes (RFC 5227) ask without saying who.
fn receive_arp(
    tables: &mut Tables<'_>,
    place: Place,
    (ethernet, packet): (&ethernet::Header, &arp::Packet),
    frame: &mut Frame<'_>,
) -> Result<Fate, DropReason> {
    let port = tables.port(place.port).ok_or(DropReason::PortUnknown)?;
    let (own_mac, sender) = (port.mac, IpAddr::V4(packet.sender_ip));
    if !packet.sender_mac.is_device() {
        return Err(DropReason::ArpMalformed);
    }
    let for_us = port.addresses.has(IpAddr::V4(packet.target_ip));
    let asks_us = for_us && packet.operation == arp::Operation::Request;
    let told = (sender, packet.sender_mac);
    if !packet.sender_ip.is_unspecified() && believed(port, told, asks_us)? {
        let heard = match for_us && !asks_us && ethernet.dst == own_mac {
            true => Heard::Answer,
            false => Heard::News,
        };
        let from = (place.port, sender);
        let neighbors = &mut tables.neighbors;
        neighbors.hear(place.now, from, packet.sender_mac, heard);
    }
    if !asks_us || packet.sender_mac == own_mac {
        return Ok(Fate::Consume);
    }
    local::answer_arp(own_mac, packet, frame)?;
    Ok(Fate::Reply)
}

/// Neighbor discovery (RFC 4861 section 7.2).
fn receive_discovery(
    tables: &mut Tables<'_>,
    place: Place,
    (ethernet, header, message): (&ethernet::Header, &ip::Header, &nd::Message),
    frame: &mut Frame<'_>,
) -> Result<Fate, DropReason> {
    let port = *tables.port(place.port).ok_or(DropReason::PortUnknown)?;
    let told = match *message {
        nd::Message::Solicitation { source_mac, .. } => source_mac,
        nd::Message::Advertisement(told) => told.target_mac,
        // The gateways of a raw port are configured.
        nd::Message::RouterSolicitation | nd::Message::Router => return Ok(Fate::Consume),
    };
    let mac = told.unwrap_or(ethernet.src);
    if !mac.is_device() {
        return Err(DropReason::NdMalformed);
    }
    match *message {
        nd::Message::Solicitation { target, source_mac } => {
            let asks_us = port.addresses.has(IpAddr::V6(target));
            let told = (header.src, mac);
            let known = !header.src.is_unspecified() && believed(&port, told, asks_us)?;
            if known && source_mac.is_some() {
                let from = (place.port, header.src);
                tables.neighbors.hear(place.now, from, mac, Heard::News);
            }
            if !asks_us || ethernet.src == port.mac {
                return Ok(Fate::Consume);
            }
            answer_solicitation(&port, (header.src, mac), target, frame)?;
            Ok(Fate::Reply)
        }
        nd::Message::Advertisement(told) => {
            let target = IpAddr::V6(told.target);
            if !believed(&port, (target, mac), false)? {
                return Ok(Fate::Consume);
            }
            let heard = match (told.solicited && ethernet.dst == port.mac, told.overrides) {
                (true, true) => Heard::Answer,
                (true, false) => Heard::Confirmation,
                (false, true) => Heard::News,
                (false, false) => Heard::Hint,
            };
            let from = (place.port, target);
            tables.neighbors.hear(place.now, from, mac, heard);
            Ok(Fate::Consume)
        }
        nd::Message::RouterSolicitation | nd::Message::Router => Ok(Fate::Consume),
    }
}

fn answer_solicitation(
    port: &PortEntry,
    (src, mac): (IpAddr, MacAddr),
    target: Ipv6Addr,
    frame: &mut Frame<'_>,
) -> Result<(), DropReason> {
    let all = (local::ALL_NODES, ipv6::multicast_mac(local::ALL_NODES));
    let (to, solicited) = match src {
        IpAddr::V6(src) if !src.is_unspecified() => ((src, mac), true),
        // Duplicate address detection (RFC 4862 section 5.4.3): it is ours.
        _ => (all, false),
    };
    let advertisement = nd::Advertisement {
        target,
        target_mac: Some(port.mac),
        router: false,
        solicited,
        overrides: true,
    };
    local::write_advertisement(port.mac, to, &advertisement, frame)
}

/// The packet that an ICMP message says was too big, and the MTU that it names;
/// `None` when it says something else or is damaged.
fn too_big(header: &ip::Header, message: &[u8], finished: bool) -> Option<(Quote, u16)> {
    let (fixed, quoted) = message.split_first_chunk::<{ icmp::HEADER_LEN }>()?;
    let whole = match header.is_v6() {
        false => checksum::fold(checksum::sum(message)) == 0xffff,
        true => l4::is_valid(header, message),
    };
    if finished && !whole {
        return None;
    }
    let quote = Quote::parse(quoted)?;
    let mtu = match header.is_v6() {
        false if fixed[..2] == [icmpv4::UNREACHABLE, FRAGMENTATION_NEEDED] => {
            u16::from_be_bytes([fixed[6], fixed[7]])
        }
        true => {
            let mtu = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
            u16::try_from(mtu).unwrap_or(u16::MAX)
        }
        false => return None,
    };
    match mtu {
        0 => {
            let mut lower = PLATEAUS.into_iter().filter(|mtu| *mtu < quote.total_len);
            Some((quote, lower.next().unwrap_or(1)))
        }
        mtu => Some((quote, mtu)),
    }
}

/// Lowers the path MTU of the peers that the quoted packet may have gone to, in all
/// networks: the path is the same. `false` when it is none of a tunnel.
fn lower_path_mtu(
    (tables, events): (&mut Tables<'_>, &mut Events),
    place: Place,
    quote: &Quote,
    mtu: u16,
) -> bool {
    let mut matched = false;
    for index in 0..tables.networks.len() {
        if let Some(peer) = quoted_peer(tables, place, quote, index) {
            if let Some(mtu) = tables.learn_path_mtu(place.now, peer, mtu) {
                events.path_mtu(place.now, peer, mtu);
            }
            matched = true;
        }
    }
    matched
}

/// The peer of the network at this index that the quoted packet went to.
fn quoted_peer(tables: &Tables<'_>, place: Place, quote: &Quote, index: usize) -> Option<PeerId> {
    let network = tables.networks.get(index)?;
    let ours = network.present
        && network.underlay == place.port
        && network.local.address() == quote.src
        && is_ours(network, quote);
    let peer = tables.peer_by_underlay(network, quote.dst);
    peer.filter(|_| ours).map(|(id, _)| id)
}

/// Whether the quoted packet is one of a tunnel as this node makes them.
fn is_ours(network: &NetworkEntry, quote: &Quote) -> bool {
    match quote.protocol {
        ip::IPV4 | ip::IPV6 => true,
        ip::UDP => quote
            .ports
            .is_some_and(|(src, dst)| src >= deliver::FIRST_SOURCE_PORT && dst == network.udp_port),
        _ => false,
    }
}

/// Writes a question about a neighbor into an empty frame: to itself when its MAC
/// address is to be verified, otherwise to all.
pub(crate) fn write_question(
    port: &PortEntry,
    neighbor: IpAddr,
    to: Option<MacAddr>,
    frame: &mut Frame<'_>,
) -> Result<(), DropReason> {
    let own = port.address_towards(neighbor);
    match (own.ok_or(DropReason::UnderlayNoRoute)?, neighbor) {
        (IpAddr::V4(own), IpAddr::V4(neighbor)) => {
            let request = arp::Packet {
                operation: arp::Operation::Request,
                sender_mac: port.mac,
                sender_ip: own,
                target_mac: MacAddr::ZERO,
                target_ip: neighbor,
            };
            local::write_arp(to.unwrap_or(MacAddr::BROADCAST), &request, frame)
        }
        (IpAddr::V6(own), IpAddr::V6(neighbor)) => {
            let group = ipv6::solicited_node(neighbor);
            let (dst, dst_mac) = match to {
                Some(mac) => (neighbor, mac),
                None => (group, ipv6::multicast_mac(group)),
            };
            let message = local::write_discovery((own, dst), (port.mac, dst_mac), frame)?;
            nd::emit_solicitation(neighbor, (own, dst), port.mac, message);
            Ok(())
        }
        _ => Err(DropReason::UnderlayNoRoute),
    }
}

/// Writes into an empty frame that an address is at `mac`: an ARP announcement
/// (RFC 5227 section 2.3) or an unsolicited advertisement (RFC 4861 section 7.2.6).
pub(crate) fn write_announcement(
    address: IpAddr,
    mac: MacAddr,
    router: bool,
    frame: &mut Frame<'_>,
) -> Result<(), DropReason> {
    match address {
        IpAddr::V4(address) => {
            let announcement = arp::Packet {
                operation: arp::Operation::Request,
                sender_mac: mac,
                sender_ip: address,
                target_mac: MacAddr::ZERO,
                target_ip: address,
            };
            local::write_arp(MacAddr::BROADCAST, &announcement, frame)
        }
        IpAddr::V6(target) => {
            let all = (local::ALL_NODES, ipv6::multicast_mac(local::ALL_NODES));
            let advertisement = nd::Advertisement {
                target,
                target_mac: Some(mac),
                router,
                solicited: false,
                overrides: true,
            };
            local::write_advertisement(mac, all, &advertisement, frame)
        }
    }
}
