//! Guards: who may send what.

use core::net::{IpAddr, Ipv4Addr};

use super::{Admitted, Exit, Ip, Parsed};
use crate::channel::NextHop;
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PeerEntry, PortEntry};
use crate::wire::{arp, ethernet, ipv4, l4};
use crate::{DropReason, PeerId};

/// Source guard for a pod's packet: its own MAC, its own or an allowed address,
/// and no tunnel of its own making.
pub(super) fn endpoint<'f, 'b>(
    tables: &Tables<'_>,
    (network, port): (&NetworkEntry, &PortEntry),
    ethernet: &ethernet::Header,
    mut packet: Ip<'f, 'b, Parsed>,
) -> Result<Ip<'f, 'b, Admitted>, Exit> {
    if ethernet.src != port.mac {
        return Err(DropReason::SourceMac.into());
    }
    if !owns(port, packet.src()) || !may_be_source(network, packet.header.src) {
        return Err(DropReason::SourceIp.into());
    }
    let header_len = usize::from(packet.header.header_len);
    let header = packet.packet_mut().get(..header_len).unwrap_or_default();
    if ipv4::has_source_route(header) {
        return Err(DropReason::SourceRoute.into());
    }
    if is_tunnel(tables, &packet) && tables.is_node_underlay(packet.dst()) {
        return Err(DropReason::TunnelSpoof.into());
    }
    Ok(admit(port, packet))
}

/// Lets a packet of the host into the port's network.
pub(super) fn admit<'f, 'b>(port: &PortEntry, packet: Ip<'f, 'b, Parsed>) -> Ip<'f, 'b, Admitted> {
    packet.with(Admitted {
        network: port.network,
    })
}

/// Lets only frames through that are addressed to the gateway.
pub(super) fn addressed(network: &NetworkEntry, ethernet: &ethernet::Header) -> Result<(), Exit> {
    if ethernet.dst.is_group() {
        return Err(DropReason::DestinationGroup.into());
    }
    if ethernet.dst != network.gateway_mac {
        return Err(DropReason::DestinationMac.into());
    }
    Ok(())
}

/// Source guard for a pod's ARP packet. The sender address may be 0.0.0.0, as
/// in a probe (RFC 5227).
pub(super) fn arp(
    port: &PortEntry,
    ethernet: &ethernet::Header,
    packet: &arp::Packet,
) -> Result<(), Exit> {
    if ethernet.src != port.mac {
        return Err(DropReason::SourceMac.into());
    }
    if packet.sender_mac != port.mac {
        return Err(DropReason::ArpSenderMac.into());
    }
    if !packet.sender_ip.is_unspecified() && !owns(port, IpAddr::V4(packet.sender_ip)) {
        return Err(DropReason::ArpSenderIp.into());
    }
    Ok(())
}

/// Peer guard: the inner source must route back to the peer that the packet came
/// from, or be one of its node addresses.
pub(super) fn peer<'f, 'b>(
    tables: &Tables<'_>,
    network: &NetworkEntry,
    (id, peer): (PeerId, &PeerEntry),
    packet: Ip<'f, 'b, Parsed>,
) -> Result<Ip<'f, 'b, Admitted>, Exit> {
    let src = packet.src();
    let next_hop = tables.route(network, src).map(|route| route.next_hop);
    let routes_back = matches!(next_hop, Some(NextHop::Peer { peer, .. }) if peer == id);
    let known = routes_back || peer.node_addresses.has(src);
    if !known || !may_be_source(network, packet.header.src) {
        return Err(DropReason::PeerGuard.into());
    }
    Ok(packet.with(Admitted {
        network: network.id,
    }))
}

/// Whether anybody but the gateway can have the address. A wide prefix (a pod
/// that may send from anywhere, a default route to a peer) covers others, too.
fn may_be_source(network: &NetworkEntry, address: Ipv4Addr) -> bool {
    ipv4::is_host(address) && !network.gateways.has(IpAddr::V4(address))
}

fn owns(port: &PortEntry, address: IpAddr) -> bool {
    port.addresses.has(address) || port.allowed.covers(address)
}

/// Whether the packet looks like a tunnel packet to a node that gets it. The
/// first fragment has the ports; without it the others are never reassembled.
fn is_tunnel<S>(tables: &Tables<'_>, packet: &Ip<'_, '_, S>) -> bool {
    match packet.header.protocol {
        ipv4::IPIP | ipv4::IPV6_IN_IP => true,
        ipv4::UDP if packet.header.fragment_offset == 0 => {
            // Without ports the fragment is so short that the next one may bring them.
            match l4::ports(ipv4::UDP, packet.payload()) {
                Some((_, dst)) => tables.is_tunnel_port(dst),
                None => true,
            }
        }
        _ => false,
    }
}
