//! Decapsulation: from an outer header to the inner Ethernet frame.

use super::{Admitted, Exit, Ip, deliver};
use crate::channel::Encap;
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PeerEntry};
use crate::wire::{checksum, ethernet, ipv4, l4, vxlan};
use crate::{Checksum, DropReason, Frame, OuterL4, PeerId, PortId, Segmentation};

/// A tunnel packet whose tunnel is known; the frame now starts at the inner
/// Ethernet header.
pub(super) struct Opened<'t> {
    pub(super) network: &'t NetworkEntry,
    pub(super) peer: (PeerId, &'t PeerEntry),
    /// Traffic class octet of the outer header.
    pub(super) outer_tos: u8,
}

/// Finds network and peer of a VXLAN packet (RFC 7348) and takes its header off.
pub(super) fn open<'t>(
    tables: &'t Tables<'_>,
    ingress: PortId,
    frame: &mut Frame<'_>,
) -> Result<Opened<'t>, Exit> {
    let outer = frame.outer.take().ok_or(DropReason::OuterMissing)?;
    let OuterL4::Udp { dst_port, .. } = outer.l4 else {
        return Err(DropReason::OuterMissing.into());
    };
    let vni = vxlan::parse(frame.bytes()).map_err(|error| match error {
        vxlan::Error::Truncated => DropReason::VxlanTruncated,
        vxlan::Error::NoVni => DropReason::VxlanFlags,
    })?;
    let network = tables
        .network_by_vni(dst_port, vni)
        .filter(|network| network.underlay == ingress)
        .ok_or(DropReason::UnknownVni)?;
    let peer = tables
        .peer_by_underlay(network, outer.src)
        .ok_or(DropReason::UnknownPeer)?;
    if !peer.1.accepts.contains(Encap::Vxlan) {
        return Err(DropReason::EncapNotAllowed.into());
    }
    frame
        .pop_front(vxlan::HEADER_LEN)
        .ok_or(DropReason::BadOffload)?;
    let (inner, _) = ethernet::Header::parse(frame.bytes()).ok_or(DropReason::FrameTruncated)?;
    if inner.dst != network.vtep_mac {
        return Err(DropReason::VtepMac.into());
    }
    match inner.ethertype {
        ethernet::IPV4 => Ok(Opened {
            network,
            peer,
            outer_tos: outer.tos,
        }),
        ethernet::IPV6 => Err(DropReason::Ipv6.into()),
        _ => Err(DropReason::InnerNotIp.into()),
    }
}

/// Recognises what a peer on the same machine left to a device that never came:
/// an unfinished checksum, and TCP super-frames without their mark.
///
/// A super-frame's segment size is not told; the largest that fits the tunnel is
/// as good as the sender's, since a receiver sees a byte stream either way.
pub(super) fn restore_offload<'f, 'b>(
    tables: &Tables<'_>,
    network: &NetworkEntry,
    packet: Ip<'f, 'b, Admitted>,
) -> Result<Ip<'f, 'b, Admitted>, Exit> {
    let header = packet.header;
    if packet.frame.checksum != Checksum::None || header.is_fragment() {
        return Ok(packet);
    }
    let Some(offset) = l4::checksum_offset(header.protocol) else {
        return Ok(packet);
    };
    let start = u16::try_from(ethernet::HEADER_LEN).unwrap_or(0) + u16::from(header.header_len);
    let partial = Checksum::Partial { start, offset };
    let mtu = tables.port(network.underlay).map_or(0, |port| {
        port.mtu.saturating_sub(deliver::VXLAN_OVERHEAD_V4)
    });
    let unfinished = l4::is_unfinished(&header, packet.payload());
    let oversize = header.protocol == ipv4::TCP && header.total_len > mtu;
    // One that is neither finished nor unfinished is wrong, and must stay so.
    if oversize && (unfinished || l4::is_valid(&header, packet.payload())) {
        let tcp = l4::tcp_header_len(packet.payload()).ok_or(DropReason::BadOffload)?;
        let headers = u16::from(header.header_len) + u16::from(tcp);
        let size = mtu.checked_sub(headers).filter(|size| *size > 0);
        unfinish_tcp_checksum(packet.frame, &header)?;
        packet.frame.checksum = partial;
        packet.frame.segmentation = Segmentation::TcpV4 {
            size: size.ok_or(DropReason::BadOffload)?,
        };
    } else if unfinished {
        packet.frame.checksum = partial;
    }
    Ok(packet)
}

/// Puts the pseudo-header's sum into the checksum field of a TCP super-frame, as
/// whoever cuts it expects.
fn unfinish_tcp_checksum(frame: &mut Frame<'_>, header: &ipv4::Header) -> Result<(), Exit> {
    let start = ethernet::HEADER_LEN + usize::from(header.header_len);
    let len = header.total_len - u16::from(header.header_len);
    let pseudo = checksum::pseudo_header_v4(header.src, header.dst, header.protocol, len);
    let field = frame
        .bytes_mut()
        .get_mut(start + 16..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
        .ok_or(DropReason::BadOffload)?;
    *field = checksum::fold(pseudo).to_be_bytes();
    Ok(())
}

/// The inner ECN field after decapsulation (RFC 6040 section 4.2, figure 4).
pub(super) fn merge_ecn<'f, 'b>(
    mut packet: Ip<'f, 'b, Admitted>,
    outer_tos: u8,
) -> Result<Ip<'f, 'b, Admitted>, Exit> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const CE: u8 = 3;
    let inner = packet.header.tos & 3;
    let merged = match (inner, outer_tos & 3) {
        (NOT_ECT, CE) => return Err(DropReason::EcnCe.into()),
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (CE, _) => CE,
        (_, ECT_1) => ECT_1,
        (inner, _) => inner,
    };
    if merged != inner {
        ipv4::set_ecn(packet.packet_mut(), merged);
        packet.header.tos = packet.header.tos & !3 | merged;
    }
    Ok(packet)
}
