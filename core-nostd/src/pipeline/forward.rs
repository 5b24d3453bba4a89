//! Forwarding checks: TTL and MTU.

use super::{Exit, Ip, Ready, Routed, deliver, route::Hop};
use crate::wire::{icmpv4, ipv4, l4};
use crate::{DropReason, Segmentation};

/// Checks that the packet may be forwarded: its TTL outlives this gateway
/// (RFC 1812 section 5.3.1) and it fits the next hop (RFC 1191).
pub(super) fn check<'f, 'b>(packet: Ip<'f, 'b, Routed>) -> Result<Ip<'f, 'b, Ready>, Exit> {
    if packet.header.ttl <= 1 {
        return Err(DropReason::TtlExceeded.with(icmpv4::Error::TtlExceeded));
    }
    let mtu = deliver::mtu(&packet.state.hop);
    if packet_len(&packet)? > u32::from(mtu) {
        if !packet.header.dont_fragment {
            return Err(DropReason::TooBigToFragment.into());
        }
        return Err(DropReason::TooBig.with(icmpv4::Error::FragmentationNeeded { mtu }));
    }
    let hop = packet.state.hop;
    Ok(packet.with(Ready { hop, age: true }))
}

/// Lets a packet of the gateway's own through: it starts with a full TTL, and has
/// no more than the 576 bytes that every host must take (RFC 791 section 3.1).
pub(super) fn own<'f, 'b>(packet: Ip<'f, 'b, Routed>) -> Ip<'f, 'b, Ready> {
    let hop = packet.state.hop;
    packet.with(Ready { hop, age: false })
}

/// Whether the next hop is the host.
pub(super) fn is_host(packet: &Ip<'_, '_, Routed>) -> bool {
    matches!(packet.state.hop, Hop::Local { host: true, .. })
}

/// Whether the next hop is another node.
pub(super) fn is_tunnel(packet: &Ip<'_, '_, Routed>) -> bool {
    matches!(packet.state.hop, Hop::Vxlan { .. })
}

/// Length of the IP packet, or of the largest that a super-frame stands for.
fn packet_len<S>(packet: &Ip<'_, '_, S>) -> Result<u32, Exit> {
    let header = &packet.header;
    let total_len = u32::from(header.total_len);
    let (l4, size) = match (packet.frame.segmentation, header.protocol) {
        (Segmentation::None, _) => return Ok(total_len),
        (Segmentation::TcpV4 { size }, ipv4::TCP) => (l4::tcp_header_len(packet.payload()), size),
        (Segmentation::Udp { size }, ipv4::UDP) => (Some(l4::UDP_HEADER_LEN), size),
        _ => (None, 0),
    };
    // Fragments are cut already, and segments of nothing have no end.
    let l4 = l4.filter(|_| size > 0 && !header.is_fragment());
    let l4 = l4.ok_or(DropReason::BadOffload)?;
    let segment = u32::from(header.header_len) + u32::from(l4) + u32::from(size);
    Ok(segment.min(total_len))
}
