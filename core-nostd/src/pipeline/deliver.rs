//! Delivery: rewriting a packet for the port it leaves by.

use core::net::IpAddr;

use super::route::{Hop, VxlanTunnel};
use super::{Exit, Ip, Ready};
use crate::wire::{ethernet, ipv4, l4, vxlan};
use crate::{Checksum, DropReason, MacAddr, Outer, OuterL4, PortId, Segmentation};

/// Bytes that VXLAN over IPv4 adds to an IP packet: outer IP 20, UDP 8, VXLAN 8,
/// inner Ethernet 14.
pub(crate) const VXLAN_OVERHEAD_V4: u16 = 50;
/// Bytes that VXLAN over IPv6 adds.
const VXLAN_OVERHEAD_V6: u16 = 70;

/// TTL of outer headers.
const OUTER_TTL: u8 = 64;
/// Outer UDP source ports start here and end at 65535 (RFC 7348 section 5, RFC 6335).
const FIRST_SOURCE_PORT: u16 = 49_152;

/// Largest IP packet that fits a next hop, in bytes.
pub(super) fn mtu(hop: &Hop) -> u16 {
    match hop {
        Hop::Local { mtu, .. } => *mtu,
        Hop::Vxlan { mtu, tunnel, .. } => mtu.saturating_sub(match tunnel.dst {
            IpAddr::V4(_) => VXLAN_OVERHEAD_V4,
            IpAddr::V6(_) => VXLAN_OVERHEAD_V6,
        }),
    }
}

/// Rewrites the packet and says which port it leaves by.
pub(super) fn deliver(mut packet: Ip<'_, '_, Ready>) -> Result<PortId, Exit> {
    let hop = packet.state.hop;
    if let Hop::Vxlan { .. } = hop {
        finish_checksum(&mut packet)?;
    }
    if packet.state.age {
        ipv4::decrement_ttl(packet.packet_mut());
    }
    match hop {
        Hop::Local {
            port,
            mac,
            gateway_mac,
            ..
        } => {
            rewrite_macs(&mut packet, mac, gateway_mac)?;
            packet.frame.outer = None;
            Ok(port)
        }
        Hop::Vxlan { port, tunnel, .. } => {
            encap_vxlan(packet, &tunnel)?;
            Ok(port)
        }
    }
}

/// VXLAN encapsulation (RFC 7348): MAC addresses of the VTEPs, header, outer.
fn encap_vxlan(mut packet: Ip<'_, '_, Ready>, tunnel: &VxlanTunnel) -> Result<(), Exit> {
    rewrite_macs(&mut packet, tunnel.dst_mac, tunnel.src_mac)?;
    let src_port = source_port(&packet);
    let frame = packet.frame;
    vxlan::emit(
        tunnel.vni,
        frame.push_front().ok_or(DropReason::NoHeadroom)?,
    );
    frame.outer = Some(Outer {
        src: tunnel.src,
        dst: tunnel.dst,
        l4: OuterL4::Udp {
            src_port,
            dst_port: tunnel.udp_port,
        },
        // RFC 6040 section 4.1, normal mode: DSCP and ECN are copied.
        tos: packet.header.tos,
        ttl: OUTER_TTL,
        df: true,
    });
    Ok(())
}

fn rewrite_macs(packet: &mut Ip<'_, '_, Ready>, dst: MacAddr, src: MacAddr) -> Result<(), Exit> {
    let bytes = packet.frame.bytes_mut().first_chunk_mut();
    let header = ethernet::Header {
        dst,
        src,
        ethertype: ethernet::IPV4,
    };
    header.emit(bytes.ok_or(DropReason::FrameTruncated)?);
    Ok(())
}

/// Finishes what the device left undone: sockets carry no such mark.
pub(super) fn finish_checksum<S>(packet: &mut Ip<'_, '_, S>) -> Result<(), Exit> {
    if packet.frame.segmentation != Segmentation::None {
        return Err(DropReason::SuperFrame.into());
    }
    let Checksum::Partial { start, offset } = packet.frame.checksum else {
        return Ok(());
    };
    let udp = packet.header.protocol == ipv4::UDP;
    let bytes = packet.frame.bytes_mut().get_mut(usize::from(start)..);
    bytes
        .and_then(|bytes| l4::finish(bytes, offset, udp))
        .ok_or(DropReason::BadOffload)?;
    packet.frame.checksum = Checksum::None;
    Ok(())
}

/// The outer source port: a hash of the inner flow, so that flows spread over
/// paths and queues while each keeps its order. Fragments have no ports, so all
/// of a packet's share the hash of addresses and protocol.
fn source_port<S>(packet: &Ip<'_, '_, S>) -> u16 {
    let header = &packet.header;
    let ports = match header.is_fragment() {
        true => None,
        false => l4::ports(header.protocol, packet.payload()),
    };
    let (src, dst) = ports.unwrap_or((0, 0));
    let addresses = u64::from(header.src.to_bits()) << 32 | u64::from(header.dst.to_bits());
    let rest = u64::from(header.protocol) << 32 | u64::from(src) << 16 | u64::from(dst);
    // A multiplication carries differences upwards only, so the shifts bring them
    // down again: neighbouring addresses and ports spread evenly (splitmix64).
    let mut hash = addresses.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ rest;
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let [high, low, ..] = (hash ^ hash >> 31).to_be_bytes();
    FIRST_SOURCE_PORT | u16::from_be_bytes([high, low]) >> 2
}
