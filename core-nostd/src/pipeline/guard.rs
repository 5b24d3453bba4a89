//! Guards: who may send what.

use core::net::IpAddr;

use super::local::Discovery;
use super::{Admitted, Exit, Ip, Parsed, decap};
use crate::channel::{NetworkOptions, NextHop};
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PortEntry};
use crate::wire::{arp, ethernet, ip, nd};
use crate::{DropReason, PeerId};

/// Source guard: a pod has one MAC address.
#[inline(always)]
pub(super) fn source_mac(port: &PortEntry, ethernet: &ethernet::Header) -> Result<(), Exit> {
    match ethernet.src == port.mac {
        true => Ok(()),
        false => Err(DropReason::SourceMac.into()),
    }
}

/// Source guard for a pod's packet: its own or an allowed address, and no tunnel
/// of its own making.
#[inline(always)]
pub(super) fn endpoint<'f, 'b, 't>(
    tables: &Tables<'_>,
    (network, port): (&'t NetworkEntry, &PortEntry),
    packet: Ip<'f, 'b, Parsed>,
) -> Result<Ip<'f, 'b, Admitted<'t>>, Exit> {
    // Its own addresses are a host's, and no gateway's: the tables see to that.
    if !port.addresses.has(packet.src()) || ip::is_link_local(packet.src()) {
        allowed((network, port), packet.src(), packet.is_for_dhcp())?;
    }
    if packet.header.source_routed {
        return Err(DropReason::SourceRoute.into());
    }
    if is_tunnel(tables, &packet) && tables.is_node_underlay(packet.dst()) {
        return Err(DropReason::TunnelSpoof.into());
    }
    Ok(packet.with(Admitted { network }))
}

/// Whether a pod may send from an address that is not simply its own.
#[inline(never)]
fn allowed(
    (network, port): (&NetworkEntry, &PortEntry),
    src: IpAddr,
    for_dhcp: bool,
) -> Result<(), Exit> {
    not_dhcp(src, for_dhcp)?;
    if ip::is_link_local(src) {
        return Err(DropReason::LinkLocalSource.into());
    }
    match port.allowed.covers(src) && may_be_source(network, src) {
        true => Ok(()),
        false => Err(DropReason::SourceIp.into()),
    }
}

/// Lets a packet of the host into its port's network.
#[inline(always)]
pub(super) fn host<'f, 'b, 't>(
    network: &'t NetworkEntry,
    packet: Ip<'f, 'b, Parsed>,
) -> Result<Ip<'f, 'b, Admitted<'t>>, Exit> {
    not_dhcp(packet.src(), packet.is_for_dhcp())?;
    if ip::is_link_local(packet.src()) {
        return Err(DropReason::LinkLocalSource.into());
    }
    Ok(packet.with(Admitted { network }))
}

/// Lets only frames through that are addressed to the gateway, or to all where
/// the network floods.
#[inline(always)]
pub(super) fn addressed(
    network: &NetworkEntry,
    ethernet: &ethernet::Header,
    packet: &Ip<'_, '_, Admitted<'_>>,
) -> Result<(), Exit> {
    floods(network, ethernet.dst.is_group(), packet, None)?;
    if ethernet.dst != network.gateway_mac {
        return Err(DropReason::DestinationMac.into());
    }
    Ok(())
}

/// Turns broadcast and multicast away from the router's path: to be copied where
/// the network floods, dropped elsewhere. A packet for one in a frame for all is
/// dropped, too (RFC 1122 section 3.3.6): everybody would forward it.
///
/// Neighbor discovery gets here from other nodes only; a copy with its hop limit
/// of 255 would be believed.
#[inline(always)]
pub(super) fn floods(
    network: &NetworkEntry,
    frame_for_all: bool,
    packet: &Ip<'_, '_, Admitted<'_>>,
    from: Option<PeerId>,
) -> Result<(), Exit> {
    if !ip::is_group(packet.dst()) {
        return match frame_for_all {
            false => Ok(()),
            true => Err(DropReason::DestinationGroup.into()),
        };
    }
    if packet.icmpv6_type().is_some_and(nd::is_nd) {
        return Err(DropReason::NdMalformed.into());
    }
    match network.options.has(NetworkOptions::FLOOD) {
        true => Err(Exit::Flood { from }),
        false => Err(DropReason::DestinationGroup.into()),
    }
}

/// Source guard for a pod's ARP packet. The sender address may be 0.0.0.0, as
/// in a probe (RFC 5227).
pub(super) fn arp(
    port: &PortEntry,
    ethernet: &ethernet::Header,
    packet: &arp::Packet,
) -> Result<(), Exit> {
    source_mac(port, ethernet)?;
    if packet.sender_mac != port.mac {
        return Err(DropReason::ArpSenderMac.into());
    }
    if !packet.sender_ip.is_unspecified() && !owns(port, IpAddr::V4(packet.sender_ip)) {
        return Err(DropReason::ArpSenderIp.into());
    }
    Ok(())
}

/// Source guard for a pod's neighbor discovery: its sender is link-local,
/// unspecified (duplicate address detection) or the pod's own, and what it says
/// of itself is true.
pub(super) fn discovery(
    port: &PortEntry,
    packet: &Ip<'_, '_, Parsed>,
    message: &Discovery,
) -> Result<(), Exit> {
    if packet.header.source_routed {
        return Err(DropReason::SourceRoute.into());
    }
    let mine = |address: IpAddr| ip::is_link_local(address) || owns(port, address);
    if !mine(packet.src()) {
        return Err(DropReason::NdSenderIp.into());
    }
    let Discovery::Neighbor(message) = *message else {
        return Ok(());
    };
    let told = match message {
        nd::Message::Solicitation { source_mac, .. } => source_mac,
        nd::Message::Advertisement(advertisement) => {
            let target = IpAddr::V6(advertisement.target);
            if !mine(target) || target.is_unspecified() {
                return Err(DropReason::NdSenderIp.into());
            }
            advertisement.target_mac
        }
        nd::Message::RouterSolicitation => None,
        nd::Message::Router => return Err(DropReason::NdRouter.into()),
    };
    match told.is_none_or(|mac| mac == port.mac) {
        true => Ok(()),
        false => Err(DropReason::NdSenderMac.into()),
    }
}

/// Peer guard: the inner source must route back to the peer that the packet came
/// from, or be one of its node addresses.
#[inline(always)]
pub(super) fn peer<'f, 'b, 't>(
    tables: &Tables<'_>,
    opened: &decap::Opened<'t>,
    packet: Ip<'f, 'b, Parsed>,
) -> Result<Ip<'f, 'b, Admitted<'t>>, Exit> {
    let (id, peer) = opened.peer;
    let src = packet.src();
    let next_hop = tables.route(opened.network, src);
    let routes_back = matches!(next_hop, Some(NextHop::Peer { peer, .. }) if peer == id);
    let known = routes_back || peer.node_addresses.has(src);
    if !known || ip::is_link_local(src) || !may_be_source(opened.network, src) {
        return Err(DropReason::PeerGuard.into());
    }
    Ok(packet.with(Admitted {
        network: opened.network,
    }))
}

/// Whether anybody but the gateway can have the address. A wide prefix (a pod
/// that may send from anywhere, a default route to a peer) covers others, too.
#[inline(always)]
fn may_be_source(network: &NetworkEntry, address: IpAddr) -> bool {
    ip::is_host(address) && !network.gateways.has(address)
}

#[inline(always)]
fn owns(port: &PortEntry, address: IpAddr) -> bool {
    port.addresses.has(address) || port.allowed.covers(address)
}

/// Refuses the questions of DHCP clients that have no address yet (RFC 2131 section
/// 4.1, RFC 8415 section 7.2).
#[inline(always)]
fn not_dhcp(src: IpAddr, for_dhcp: bool) -> Result<(), Exit> {
    match for_dhcp && (src.is_unspecified() || ip::is_link_local(src)) {
        true => Err(DropReason::Dhcp.into()),
        false => Ok(()),
    }
}

/// Whether the packet looks like a tunnel packet to a node that gets it. The
/// first fragment has the ports; without it the others are never reassembled.
#[inline(always)]
fn is_tunnel<S>(tables: &Tables<'_>, packet: &Ip<'_, '_, S>) -> bool {
    match packet.header.protocol {
        ip::IPV4 | ip::IPV6 => true,
        ip::UDP if packet.header.fragment != ip::Fragment::Later => {
            // Without ports the fragment is so short that the next one may bring them.
            match packet.header.ports {
                Some((_, dst)) => tables.is_tunnel_port(dst),
                None => true,
            }
        }
        _ => false,
    }
}
