//! Decapsulation: from an outer header to the inner packet behind an Ethernet header.

use super::route::Tunnel;
use super::{Admitted, Context, Exit, Ip};
use crate::channel::{Encap, NetworkOptions};
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PeerEntry};
use crate::wire::{checksum, ethernet, ip, l4, vxlan};
use crate::{Checksum, DropReason, Frame, Outer, OuterL4, PeerId, Segmentation};

/// A packet from another node whose peer is known; the frame now starts at the
/// inner Ethernet header.
pub(super) struct Opened<'t> {
    pub(super) network: &'t NetworkEntry,
    pub(super) peer: (PeerId, &'t PeerEntry),
    /// Traffic class octet of the outer header.
    pub(super) outer_tos: u8,
    /// Whether the inner frame is addressed to a group.
    pub(super) for_all: bool,
    /// What it came in, if in anything.
    pub(super) tunnel: Option<Tunnel>,
    /// Whether it is IPv6.
    pub(super) v6: bool,
}

/// Finds network and peer of a tunnel packet and takes its tunnel header off.
#[inline(always)]
pub(super) fn open<'t>(
    context: Context<'t, '_>,
    frame: &mut Frame<'_>,
) -> Result<Opened<'t>, Exit> {
    let outer = frame.outer.take().ok_or(DropReason::OuterMissing)?;
    match outer.l4 {
        OuterL4::Udp { dst_port, .. } => open_vxlan(context, frame, &outer, dst_port),
        OuterL4::Ip { protocol } => open_ipip(context, frame, &outer, protocol),
    }
}

/// VXLAN (RFC 7348).
#[inline(always)]
fn open_vxlan<'t>(
    context: Context<'t, '_>,
    frame: &mut Frame<'_>,
    outer: &Outer,
    dst_port: u16,
) -> Result<Opened<'t>, Exit> {
    let tables = context.tables;
    let vni = vxlan::parse(frame.bytes()).map_err(|error| match error {
        vxlan::Error::Truncated => DropReason::VxlanTruncated,
        vxlan::Error::NoVni => DropReason::VxlanFlags,
    })?;
    let network = tables
        .network_by_vni(dst_port, vni)
        .filter(|network| network.underlay == context.ingress)
        .ok_or(DropReason::UnknownVni)?;
    let peer = tables
        .peer_by_underlay(network, outer.src)
        .ok_or(DropReason::UnknownPeer)?;
    accepted(peer.1, Encap::Vxlan)?;
    frame
        .pop_front(vxlan::HEADER_LEN)
        .ok_or(DropReason::BadOffload)?;
    let (inner, _) = ethernet::Header::parse(frame.bytes()).ok_or(DropReason::FrameTruncated)?;
    let group = inner.dst.is_group() && network.options.has(NetworkOptions::FLOOD);
    if inner.dst != network.vtep_mac && !group {
        return Err(DropReason::VtepMac.into());
    }
    let v6 = inner.ethertype == ethernet::IPV6;
    if !v6 && inner.ethertype != ethernet::IPV4 {
        return Err(DropReason::InnerNotIp.into());
    }
    Ok(Opened {
        network,
        peer,
        outer_tos: outer.tos,
        for_all: group,
        tunnel: Some(Tunnel::Vxlan),
        v6,
    })
}

/// IP in IP (RFC 2003, RFC 2473, RFC 4213). It names no network: the one that has
/// a peer at the outer source that may use it takes the packet. An Ethernet header
/// goes in front, as the rest of the pipeline expects.
#[inline(always)]
fn open_ipip<'t>(
    context: Context<'t, '_>,
    frame: &mut Frame<'_>,
    outer: &Outer,
    protocol: u8,
) -> Result<Opened<'t>, Exit> {
    let ethertype = match protocol {
        ip::IPV4 => ethernet::IPV4,
        ip::IPV6 => ethernet::IPV6,
        _ => return Err(DropReason::OuterMissing.into()),
    };
    let (network, peer) = context
        .tables
        .ipip_peer(context.ingress, outer.src)
        .ok_or(DropReason::UnknownPeer)?;
    accepted(peer.1, Encap::Ipip)?;
    let header = ethernet::Header {
        dst: network.vtep_mac,
        src: peer.1.vtep_mac,
        ethertype,
    };
    header.emit(frame.push_front().ok_or(DropReason::NoHeadroom)?);
    Ok(Opened {
        network,
        peer,
        outer_tos: outer.tos,
        for_all: false,
        tunnel: Some(Tunnel::Ipip),
        v6: protocol == ip::IPV6,
    })
}

#[inline(always)]
pub(super) fn accepted(peer: &PeerEntry, encap: Encap) -> Result<(), Exit> {
    match peer.accepts.contains(encap) {
        true => Ok(()),
        false => Err(DropReason::EncapNotAllowed.into()),
    }
}

/// Recognises what a peer on the same machine left to a device that never came:
/// an unfinished checksum, and TCP super-frames without their mark.
///
/// A super-frame's segment size is not told; the largest that fits the tunnel is
/// as good as the sender's, since a receiver sees a byte stream either way.
#[inline(always)]
pub(super) fn restore_offload<'f, 'b, 't>(
    tables: &Tables<'_>,
    opened: &Opened<'_>,
    packet: Ip<'f, 'b, Admitted<'t>>,
) -> Result<Ip<'f, 'b, Admitted<'t>>, Exit> {
    let header = *packet.header;
    if packet.frame.checksum != Checksum::None || header.is_fragment() {
        return Ok(packet);
    }
    let Some(offset) = l4::checksum_offset(header.protocol) else {
        return Ok(packet);
    };
    let start = u16::try_from(ethernet::HEADER_LEN).unwrap_or(0) + header.header_len;
    let partial = Checksum::Partial { start, offset };
    let over_v6 = opened.network.local.address().is_ipv6();
    let overhead = opened.tunnel.map_or(0, |tunnel| tunnel.overhead(over_v6));
    let mtu = tables
        .port(opened.network.underlay)
        .map_or(0, |port| port.mtu.saturating_sub(overhead));
    let unfinished = l4::is_unfinished(&header, packet.payload());
    let oversize = header.protocol == ip::TCP && header.total_len > mtu;
    // One that is neither finished nor unfinished is wrong, and must stay so.
    if oversize && (unfinished || l4::is_valid(&header, packet.payload())) {
        let tcp = l4::tcp_header_len(packet.payload()).ok_or(DropReason::BadOffload)?;
        let headers = header.header_len + u16::from(tcp);
        let size = mtu.checked_sub(headers).filter(|size| *size > 0);
        let size = size.ok_or(DropReason::BadOffload)?;
        unfinish_tcp_checksum(packet.frame, &header)?;
        packet.frame.checksum = partial;
        packet.frame.segmentation = match header.is_v6() {
            false => Segmentation::TcpV4 { size },
            true => Segmentation::TcpV6 { size },
        };
    } else if unfinished {
        packet.frame.checksum = partial;
    }
    Ok(packet)
}

/// Puts the pseudo-header's sum into the checksum field of a TCP super-frame, as
/// whoever cuts it expects.
fn unfinish_tcp_checksum(frame: &mut Frame<'_>, header: &ip::Header) -> Result<(), Exit> {
    let start = ethernet::HEADER_LEN + usize::from(header.header_len);
    let len = header.total_len - header.header_len;
    let pseudo = checksum::pseudo_header(header.src, header.dst, header.protocol, len);
    let field = frame
        .bytes_mut()
        .get_mut(start + 16..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
        .ok_or(DropReason::BadOffload)?;
    *field = checksum::fold(pseudo).to_be_bytes();
    Ok(())
}

/// Merges the ECN field of the outer header into the inner one.
#[inline(always)]
pub(super) fn merge_ecn<'f, 'b, 't>(
    mut packet: Ip<'f, 'b, Admitted<'t>>,
    outer_tos: u8,
) -> Result<Ip<'f, 'b, Admitted<'t>>, Exit> {
    let inner = packet.header.tos & 3;
    let merged = merged_ecn(inner, outer_tos).ok_or(DropReason::EcnCe)?;
    if merged != inner {
        ip::set_ecn(packet.packet_mut(), merged);
        packet.header.tos = packet.header.tos & !3 | merged;
    }
    Ok(packet)
}

/// The inner ECN field after decapsulation, of both traffic class octets (RFC 6040
/// section 4.2, figure 4); `None`: the packet is to be dropped.
#[inline(always)]
pub(super) fn merged_ecn(inner_tos: u8, outer_tos: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const CE: u8 = 3;
    match (inner_tos & 3, outer_tos & 3) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (CE, _) => Some(CE),
        (_, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}
