//! Forwarding checks: TTL and MTU, loops, TCP MSS.

use super::route::Way;
use super::{Exit, Ip, Ready, Routed};
use crate::channel::NetworkOptions;
use crate::tables::entry::PeerEntry;
use crate::wire::icmp::Error;
use crate::wire::{checksum, ip, ipv6, l4};
use crate::{Checksum, DropReason, PeerId, Segmentation};

/// Checks that the packet may be forwarded: its TTL outlives this gateway
/// (RFC 1812 section 5.3.1) and it fits the next hop (RFC 1191, RFC 8201).
#[inline(always)]
pub(super) fn check<'f, 'b, 't>(
    mut packet: Ip<'f, 'b, Routed<'t>>,
) -> Result<Ip<'f, 'b, Ready<'t>>, Exit> {
    if packet.header.ttl <= 1 {
        return Err(DropReason::TtlExceeded.with(Error::TtlExceeded));
    }
    let hop = packet.state.hop;
    fits(&packet)?;
    if hop.network.options.has(NetworkOptions::CLAMP_MSS) {
        let first = packet.header.fragment != ip::Fragment::Later;
        if packet.header.protocol == ip::TCP && first {
            let headers = match packet.header.is_v6() {
                false => 40,
                true => 60,
            };
            // A partial checksum is summed over the new value later.
            let partial = matches!(packet.frame.checksum, Checksum::Partial { .. });
            let limit = hop.mtu.saturating_sub(headers);
            clamp_mss(packet.payload_mut(), limit, partial);
        }
    }
    Ok(unchecked(packet, true))
}

/// Checks that the packet fits its next hop.
#[inline(always)]
pub(super) fn fits(packet: &Ip<'_, '_, Routed<'_>>) -> Result<(), Exit> {
    let mtu = packet.state.hop.mtu;
    match packet_len(packet)? <= u32::from(mtu) {
        true => Ok(()),
        false => {
            let header = &*packet.header;
            let version = (header.is_v6(), header.dont_fragment);
            Err(too_big(version, packet.frame.segmentation, mtu))
        }
    }
}

#[cold]
fn too_big((v6, dont_fragment): (bool, bool), segmentation: Segmentation, mtu: u16) -> Exit {
    if dont_fragment {
        // Nobody sends smaller IPv6 packets than any link must carry (RFC 8200
        // section 5), so telling less would be in vain.
        let mtu = match v6 {
            false => mtu,
            true => mtu.max(ipv6::MIN_MTU),
        };
        return DropReason::TooBig.with(Error::TooBig { mtu });
    }
    match segmentation {
        Segmentation::None => Exit::Fragment { mtu },
        _ => DropReason::TooBigSuperFrame.into(),
    }
}

/// Lets a packet through that this gateway made or checked before.
#[inline(always)]
pub(super) fn unchecked<'f, 'b, 't>(
    packet: Ip<'f, 'b, Routed<'t>>,
    age: bool,
) -> Ip<'f, 'b, Ready<'t>> {
    let hop = packet.state.hop;
    packet.with(Ready { hop, age })
}

/// Refuses what the host sent and would come back to it, or what its kernel was
/// to send to another node itself.
#[inline(always)]
pub(super) fn leaves_host(packet: &Ip<'_, '_, Routed<'_>>) -> Result<(), Exit> {
    match packet.state.hop.way {
        Way::Host => Err(DropReason::HostLoop.into()),
        Way::HostToPeer(_) => Err(DropReason::DirectLoop.into()),
        _ => Ok(()),
    }
}

/// Refuses what came from another node and would go to another, unless both are
/// transit peers, and always what would go back: no loops.
#[inline(always)]
pub(super) fn transits(
    packet: &Ip<'_, '_, Routed<'_>>,
    (from, peer): (PeerId, &PeerEntry),
) -> Result<(), Exit> {
    let (to, to_transit) = match packet.state.hop.way {
        Way::Endpoint | Way::Host => return Ok(()),
        Way::HostToPeer(id) => (id, false),
        Way::Tunnel(id, to, _) | Way::Link(id, to) => (id, to.transit),
    };
    if to == from {
        return Err(DropReason::TunnelLoop.into());
    }
    match peer.transit && to_transit {
        true => Ok(()),
        false => Err(DropReason::TransitDenied.into()),
    }
}

/// Length of the IP packet, or of the largest that a super-frame stands for.
#[inline(always)]
fn packet_len<S>(packet: &Ip<'_, '_, S>) -> Result<u32, Exit> {
    let header = &*packet.header;
    let total_len = u32::from(header.total_len);
    let (l4, size) = match (packet.frame.segmentation, header.protocol, header.is_v6()) {
        (Segmentation::None, ..) => return Ok(total_len),
        (Segmentation::TcpV4 { size }, ip::TCP, false)
        | (Segmentation::TcpV6 { size }, ip::TCP, true) => {
            (l4::tcp_header_len(packet.payload()), size)
        }
        (Segmentation::Udp { size }, ip::UDP, _) => (Some(l4::UDP_HEADER_LEN), size),
        _ => (None, 0),
    };
    // Fragments are cut already, and segments of nothing have no end.
    let l4 = l4.filter(|_| size > 0 && !header.is_fragment());
    let l4 = l4.ok_or(DropReason::BadOffload)?;
    let segment = u32::from(header.header_len) + u32::from(l4) + u32::from(size);
    Ok(segment.min(total_len))
}

/// Lowers the MSS option of a TCP SYN to what fits the next hop: its MTU less
/// the IP and TCP headers without options (RFC 4459 section 3.2, RFC 6691).
#[inline(never)]
fn clamp_mss(segment: &mut [u8], limit: u16, partial: bool) {
    let Some((at, mss)) = l4::syn_mss(segment) else {
        return;
    };
    if mss <= limit {
        return;
    }
    replace(segment, at, limit);
    if let (false, Some(sum)) = (partial, word(segment, 16)) {
        // The option may begin at an odd offset; the sum sees its bytes swapped then.
        let seen = |value: u16| match at % 2 {
            0 => value,
            _ => value.swap_bytes(),
        };
        replace(segment, 16, checksum::update(sum, seen(mss), seen(limit)));
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*word))
}

fn replace(bytes: &mut [u8], at: usize, value: u16) {
    let word = bytes.get_mut(at..);
    if let Some(word) = word.and_then(|rest| rest.first_chunk_mut::<2>()) {
        *word = value.to_be_bytes();
    }
}
