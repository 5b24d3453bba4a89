//! Delivery: rewriting a packet for the port it leaves by.

use core::net::IpAddr;

use super::route::{Hop, Tunnel, Way};
use super::{Exit, Ip, Ready};
use crate::channel::{NetworkOptions, Offloads};
use crate::tables::entry::{NetworkEntry, PeerEntry};
use crate::wire::{ethernet, ip, ipv6, l4, vxlan};
use crate::{Checksum, DropReason, MacAddr, Outer, OuterL4, PortId, Segmentation};

/// Bytes that the largest encapsulation adds to an IP packet: VXLAN over IPv6.
pub(crate) const LARGEST_OVERHEAD: u16 = Tunnel::Vxlan.overhead(true);

/// TTL of outer headers.
pub(super) const OUTER_TTL: u8 = 64;
/// Outer UDP source ports start here and end at 65535 (RFC 7348 section 5, RFC 6335).
pub(super) const FIRST_SOURCE_PORT: u16 = 49_152;

/// Rewrites the packet and says which port it leaves by.
#[inline(always)]
pub(super) fn deliver(mut packet: Ip<'_, '_, Ready<'_>>) -> Result<PortId, Exit> {
    let hop = packet.state.hop;
    let carried = match hop.way {
        Way::Tunnel(..) => Offloads::TUNNEL_CHECKSUM,
        _ => Offloads::CHECKSUM,
    };
    if !hop.port.offloads.has(carried) {
        finish_checksum(&mut packet)?;
    }
    packet.frame.outer = None;
    match hop.way {
        Way::Endpoint | Way::Host | Way::HostToPeer(_) => {
            rewrite(&mut packet, hop.port.mac, hop.network.gateway_mac)?;
        }
        Way::Tunnel(_, peer, Tunnel::Vxlan) => encap_vxlan(packet, &hop, peer)?,
        Way::Tunnel(_, peer, Tunnel::Ipip) => encap_ipip(packet, &hop, peer)?,
        // The neighbor's address comes with resolution.
        Way::Link(_, peer) => {
            rewrite(&mut packet, MacAddr::ZERO, hop.port.mac)?;
            packet.frame.neighbor = Some(peer.underlay.address());
        }
    }
    Ok(hop.port_id)
}

/// VXLAN encapsulation (RFC 7348): MAC addresses of the VTEPs, header, outer.
#[inline(always)]
fn encap_vxlan(
    mut packet: Ip<'_, '_, Ready<'_>>,
    hop: &Hop<'_>,
    peer: &PeerEntry,
) -> Result<(), Exit> {
    let network = hop.network;
    rewrite(&mut packet, peer.vtep_mac, network.vtep_mac)?;
    let l4 = OuterL4::Udp {
        src_port: source_port(flow_hash(packet.header)),
        dst_port: network.udp_port,
        checksum: !network.options.has(NetworkOptions::ZERO_UDP_CHECKSUM),
    };
    let outer = outer(
        packet.header.tos,
        (hop.network, peer.underlay.address()),
        l4,
    );
    let frame = packet.frame;
    vxlan::emit(
        network.vni,
        frame.push_front().ok_or(DropReason::NoHeadroom)?,
    );
    frame.outer = Some(outer);
    Ok(())
}

/// IP in IP (RFC 2003, RFC 2473, RFC 4213): the packet itself, without Ethernet.
#[inline(always)]
fn encap_ipip(packet: Ip<'_, '_, Ready<'_>>, hop: &Hop<'_>, peer: &PeerEntry) -> Result<(), Exit> {
    let protocol = match packet.header.is_v6() {
        false => ip::IPV4,
        true => ip::IPV6,
    };
    if packet.state.age {
        let bytes = packet.frame.content_mut();
        let bytes = bytes.and_then(|bytes| bytes.get_mut(ethernet::HEADER_LEN..));
        ip::decrement_ttl(bytes.ok_or(DropReason::FrameTruncated)?);
    }
    let outer = outer(
        packet.header.tos,
        (hop.network, peer.underlay.address()),
        OuterL4::Ip { protocol },
    );
    let frame = packet.frame;
    frame
        .pop_front(ethernet::HEADER_LEN)
        .ok_or(DropReason::BadOffload)?;
    frame.outer = Some(outer);
    Ok(())
}

/// The outer header of a packet with this traffic class octet.
#[inline(always)]
pub(super) fn outer(tos: u8, (network, dst): (&NetworkEntry, IpAddr), l4: OuterL4) -> Outer {
    Outer {
        src: network.local.address(),
        dst,
        l4,
        // RFC 6040 section 4.1, normal mode: DSCP and ECN are copied.
        tos,
        ttl: OUTER_TTL,
        df: !network.options.has(NetworkOptions::OUTER_MAY_FRAGMENT),
    }
}

/// Writes the Ethernet header, and lowers the TTL where this gateway is a hop.
#[inline(always)]
fn rewrite(packet: &mut Ip<'_, '_, Ready<'_>>, dst: MacAddr, src: MacAddr) -> Result<(), Exit> {
    // Group addresses follow from the packet's, whoever it is copied to.
    let dst = match ip::is_group(packet.dst()) {
        false => dst,
        true => ethernet::group_mac(packet.dst()),
    };
    let header = ethernet::Header {
        dst,
        src,
        ethertype: ethernet::ethertype(packet.dst()),
    };
    let age = packet.state.age;
    let bytes = packet.frame.content_mut();
    let bytes = bytes.and_then(|bytes| bytes.split_first_chunk_mut());
    let (first, rest) = bytes.ok_or(DropReason::FrameTruncated)?;
    header.emit(first);
    if age {
        ip::decrement_ttl(rest);
    }
    Ok(())
}

/// Finishes what the device left undone, for those who cannot. Of a super-frame
/// whoever cuts it finishes each segment.
#[inline(always)]
pub(super) fn finish_checksum<S>(packet: &mut Ip<'_, '_, S>) -> Result<(), Exit> {
    let Checksum::Partial { start, offset } = packet.frame.checksum else {
        return Ok(());
    };
    if packet.frame.segmentation != Segmentation::None {
        return Ok(());
    }
    let udp = packet.header.protocol == ip::UDP;
    let bytes = packet.frame.bytes_mut().get_mut(usize::from(start)..);
    bytes
        .and_then(|bytes| l4::finish(bytes, offset, udp))
        .ok_or(DropReason::BadOffload)?;
    packet.frame.checksum = Checksum::None;
    Ok(())
}

/// The outer source port, by the inner flow's hash.
#[inline(always)]
pub(super) fn source_port(hash: u64) -> u16 {
    // Its upper 14 bits.
    FIRST_SOURCE_PORT | u16::try_from(hash >> 50).unwrap_or(0)
}

/// A hash of a flow, so that flows spread over paths and queues while each keeps
/// its order. Fragments have no ports, so all of a packet's share the hash of
/// addresses and protocol.
#[inline(always)]
pub(super) fn flow_hash(header: &ip::Header) -> u64 {
    let (protocol, ports) = match (header.is_fragment(), header.is_v6()) {
        (false, _) => (header.protocol, header.ports),
        (true, false) => (header.protocol, None),
        // The fragments of a packet may name different ones (RFC 8200 section 4.5).
        (true, true) => (ipv6::FRAGMENT, None),
    };
    let (src, dst) = ports.unwrap_or((0, 0));
    let ports = u32::from(src) << 16 | u32::from(dst);
    hash(ip::mix(header.src, header.dst), protocol, ports)
}

/// A hash of mixed addresses, protocol, and source and destination port. The two halves
/// of a product depend on all bits of both factors (as in wyhash), so that neighbouring
/// addresses and ports spread evenly.
#[inline(always)]
pub(super) fn hash(addresses: u64, protocol: u8, ports: u32) -> u64 {
    let rest = u64::from(protocol) << 32 | u64::from(ports);
    let addresses = u128::from(addresses ^ 0x2d35_8dcc_aa6c_78a5);
    let product = addresses * u128::from(rest ^ 0x8bb8_4b93_962e_acc9);
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = product.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_be_bytes([i, j, k, l, m, n, o, p])
}
