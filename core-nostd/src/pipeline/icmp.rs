//! ICMP errors of the gateway's own (RFC 792, RFC 1122 section 3.2.2, RFC 1812
//! section 4.3, RFC 4443 section 2.4).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Context, Exit, local};
use crate::bucket::Bucket;
use crate::frame::copy;
use crate::tables::entry::NetworkEntry;
use crate::wire::icmp::{Error, HEADER_LEN};
use crate::wire::{ethernet, icmpv4, icmpv6, ip, ipv4, ipv6, nd};
use crate::{DropReason, Frame, NetworkId, PortId};

/// Largest ICMP error as an IPv4 packet in bytes (RFC 1812 section 4.3.2.3).
const MAX_V4: usize = 576;
/// Largest frame that this module makes, before encapsulation.
pub(crate) const MAX_FRAME: usize = ethernet::HEADER_LEN + icmpv6::MAX_ERROR;

/// Limits the errors about packets from one port: a second, and at once (as
/// Linux' icmp_msgs_per_sec and icmp_msgs_burst).
pub(crate) type Limit = Bucket<1000, 50>;

/// What an error is about, and who is told.
pub(crate) struct About<'p> {
    from: IpAddr,
    packet: &'p [u8],
}

/// As much of a packet as an error quotes at most.
pub(crate) const MAX_QUOTE: usize = icmpv6::MAX_ERROR;

impl About<'_> {
    /// The sender.
    pub(crate) fn from(&self) -> IpAddr {
        self.from
    }

    /// The same about a copy, so that the packet's frame is free.
    pub(crate) fn copied<'c>(&self, copy: &'c mut [u8; MAX_QUOTE]) -> About<'c> {
        let len = self.packet.len().min(MAX_QUOTE);
        for (copy, byte) in copy.iter_mut().zip(self.packet) {
            *copy = *byte;
        }
        About {
            from: self.from,
            packet: copy.get(..len).unwrap_or_default(),
        }
    }
}

/// The packet in a frame that was dropped after parsing. `None` when no error may
/// be sent about it: ICMP errors, IPv4 fragments but the first, broadcast and
/// multicast (but for too large IPv6 packets), sources that are no single host.
pub(crate) fn about<'p>(error: Error, frame: &'p Frame<'_>) -> Option<About<'p>> {
    let (ethernet, packet) = ethernet::Header::parse(frame.bytes())?;
    let header = ip::Header::parse(packet).ok()?;
    let message_type = packet.get(usize::from(header.header_len)).copied();
    let later = header.fragment == ip::Fragment::Later;
    let refused = match header.is_v6() {
        false => {
            let icmp = header.protocol == ip::ICMP;
            later || icmp && message_type.is_none_or(icmpv4::is_error)
        }
        true => {
            let icmp = header.protocol == ip::ICMPV6;
            let quiet = |kind| icmpv6::is_error(kind) || nd::is_nd(kind);
            icmp && (later || message_type.is_none_or(quiet))
        }
    };
    let too_big_v6 = header.is_v6() && matches!(error, Error::TooBig { .. });
    let group = ethernet.dst.is_group() || ip::is_group(header.dst);
    if refused || group && !too_big_v6 || !ip::is_host(header.src) {
        return None;
    }
    let packet = packet.get(..usize::from(header.total_len))?;
    Some(About {
        from: header.src,
        packet,
    })
}

/// Writes the error into an empty frame and sends it on its way, as any packet
/// to that sender would go; returns the port it leaves by.
pub(crate) fn send(
    context: Context<'_, '_>,
    network_id: NetworkId,
    (error, about): (Error, &About<'_>),
    frame: &mut Frame<'_>,
) -> Result<PortId, Exit> {
    let network = context
        .tables
        .network(network_id)
        .ok_or(DropReason::NoRoute)?;
    let src = source(context, network, about.from).ok_or(DropReason::NoRoute)?;
    let written = match (src, about.from) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => write_v4((src, dst), (error, about.packet), frame),
        (IpAddr::V6(src), IpAddr::V6(dst)) => write_v6((src, dst), (error, about.packet), frame),
        _ => None,
    };
    written.ok_or(DropReason::NoHeadroom)?;
    super::send(context, network_id, frame, false)
}

/// Who tells `to`: to pods and the host the gateway is who they know, and a peer
/// takes only what comes from this node's own addresses.
fn source(context: Context<'_, '_>, network: &NetworkEntry, to: IpAddr) -> Option<IpAddr> {
    let port = context.tables.port(context.ingress)?;
    let gateway = network.gateways.first_like(to);
    match gateway.filter(|_| !port.role.is_underlay()) {
        None => network.node_addresses.first_like(to),
        gateway => gateway,
    }
}

/// Writes Ethernet, IPv4, ICMP and the quote; the Ethernet addresses come with delivery.
fn write_v4(
    (src, dst): (Ipv4Addr, Ipv4Addr),
    (error, about): (Error, &[u8]),
    frame: &mut Frame<'_>,
) -> Option<()> {
    const HEADERS: usize = ipv4::HEADER_LEN + HEADER_LEN;
    let quote = about.get(..about.len().min(MAX_V4 - HEADERS))?;
    let header = ipv4::Header {
        src,
        dst,
        // Internetwork control (RFC 1812 section 4.3.2.5).
        tos: 0xc0,
        ident: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: local::TTL,
        protocol: ip::ICMP,
        header_len: 20,
        total_len: u16::try_from(HEADERS + quote.len()).ok()?,
    };
    frame.resize(ethernet::HEADER_LEN + HEADERS + quote.len())?;
    let rest = write_ethernet(ethernet::IPV4, frame)?;
    let (ip, rest) = rest.split_first_chunk_mut()?;
    let (icmp, rest) = rest.split_first_chunk_mut()?;
    header.emit(ip);
    icmpv4::emit_error(error, quote, icmp);
    copy(rest, quote)
}

/// Writes Ethernet, IPv6, ICMPv6 and the quote; the Ethernet addresses come with delivery.
fn write_v6(
    (src, dst): (Ipv6Addr, Ipv6Addr),
    (error, about): (Error, &[u8]),
    frame: &mut Frame<'_>,
) -> Option<()> {
    const HEADERS: usize = ipv6::HEADER_LEN + HEADER_LEN;
    let quote = about.get(..about.len().min(icmpv6::MAX_ERROR - HEADERS))?;
    let header = ipv6::Header {
        src,
        dst,
        traffic_class: 0xc0,
        flow_label: 0,
        payload_len: u16::try_from(HEADER_LEN + quote.len()).ok()?,
        next_header: ip::ICMPV6,
        hop_limit: local::TTL,
    };
    frame.resize(ethernet::HEADER_LEN + HEADERS + quote.len())?;
    let rest = write_ethernet(ethernet::IPV6, frame)?;
    let (ip, rest) = rest.split_first_chunk_mut()?;
    let (icmp, rest) = rest.split_first_chunk_mut()?;
    header.emit(ip);
    icmpv6::emit_error(error, (src, dst), quote, icmp);
    copy(rest, quote)
}

/// Writes an Ethernet header without addresses and returns what is behind it.
fn write_ethernet<'f>(ethertype: u16, frame: &'f mut Frame<'_>) -> Option<&'f mut [u8]> {
    let header = ethernet::Header {
        dst: crate::MacAddr::ZERO,
        src: crate::MacAddr::ZERO,
        ethertype,
    };
    let (first, rest) = frame.bytes_mut().split_first_chunk_mut()?;
    header.emit(first);
    Some(rest)
}
