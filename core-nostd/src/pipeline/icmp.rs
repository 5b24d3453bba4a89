//! ICMP errors of the gateway's own (RFC 792, RFC 1122 section 3.2.2, RFC 1812
//! section 4.3).

use core::net::{IpAddr, Ipv4Addr};

use zerocopy::{FromZeros, Immutable};

use super::{Admitted, Exit, IcmpError, Ip, deliver, forward, local, route};
use crate::tables::Tables;
use crate::wire::{ethernet, icmpv4, ipv4};
use crate::{Checksum, DropReason, Frame, Instant, NetworkId, PortId, Segmentation};

/// Largest ICMP error as an IP packet in bytes (RFC 1812 section 4.3.2.3).
const MAX_PACKET: usize = 576;
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + icmpv4::HEADER_LEN;
const MAX_QUOTE: usize = MAX_PACKET - ipv4::HEADER_LEN - icmpv4::HEADER_LEN;
/// Largest frame that this module makes, before encapsulation.
pub(crate) const MAX_FRAME: usize = HEADERS + MAX_QUOTE;

/// Errors a second, and how many may come at once (as Linux' icmp_msgs_per_sec
/// and icmp_msgs_burst).
const RATE: u64 = 1000;
const BURST: u64 = 50;

/// A token bucket. All zero is full, as long as time starts at zero.
#[derive(FromZeros, Immutable)]
pub(crate) struct Bucket {
    /// When the bucket was or will be full again, in microseconds.
    full_at: u64,
}

impl Bucket {
    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        const COST: u64 = 1_000_000 / RATE;
        let full_at = self.full_at.max(now.micros()).saturating_add(COST);
        if full_at > now.micros().saturating_add(BURST * COST) {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

/// An error message about a packet.
pub(crate) struct Message<'p> {
    error: icmpv4::Error,
    from_underlay: bool,
    to: Ipv4Addr,
    quote: &'p [u8],
}

/// The error about the packet in a frame that was dropped after parsing. `None`
/// when no error may be sent about it: ICMP errors, fragments but the first,
/// broadcast and multicast, sources that are no single host.
pub(crate) fn about<'p>(error: &IcmpError, frame: &'p Frame<'_>) -> Option<Message<'p>> {
    let (ethernet, packet) = ethernet::Header::parse(frame.bytes())?;
    let header = ipv4::Header::parse(packet).ok()?;
    let payload = packet.get(usize::from(header.header_len)..)?;
    let about_error =
        header.protocol == ipv4::ICMP && payload.first().is_none_or(|kind| icmpv4::is_error(*kind));
    let group = ethernet.dst.is_group() || header.dst.is_broadcast() || header.dst.is_multicast();
    if about_error || group || !ipv4::is_host(header.src) || header.fragment_offset != 0 {
        return None;
    }
    Some(Message {
        error: error.error,
        from_underlay: error.from_underlay,
        to: header.src,
        quote: packet.get(..packet.len().min(MAX_QUOTE))?,
    })
}

/// Writes the message into an empty frame and sends it on its way, as any packet
/// to that sender would go; returns the port it leaves by.
pub(crate) fn send(
    tables: &Tables<'_>,
    network_id: NetworkId,
    message: &Message<'_>,
    frame: &mut Frame<'_>,
) -> Result<PortId, Exit> {
    let network = tables.network(network_id).ok_or(DropReason::NoRoute)?;
    // A peer takes only what comes from this node's own addresses; to pods and
    // the host the gateway is who they know.
    let gateway = network.gateways.iter().next();
    let source = match (message.from_underlay, gateway) {
        (false, Some(gateway)) => gateway,
        _ => network.node_address,
    };
    let IpAddr::V4(src) = source.address() else {
        return Err(DropReason::NoRoute.into());
    };
    let header = write(message, src, frame).ok_or(DropReason::NoHeadroom)?;
    let packet = Ip {
        frame,
        header,
        state: Admitted {
            network: network_id,
        },
    };
    let packet = route::lookup(tables, packet)?;
    deliver::deliver(forward::own(packet))
}

/// Writes Ethernet, IP and ICMP; the Ethernet addresses come with delivery.
fn write(message: &Message<'_>, src: Ipv4Addr, frame: &mut Frame<'_>) -> Option<ipv4::Header> {
    frame.checksum = Checksum::None;
    frame.segmentation = Segmentation::None;
    frame.outer = None;
    frame.resize(HEADERS + message.quote.len())?;
    let total_len = u16::try_from(frame.len() - ethernet::HEADER_LEN).ok()?;
    let header = ipv4::Header {
        src,
        dst: message.to,
        // RFC 1812 section 4.3.2.5: internetwork control.
        tos: 0xc0,
        // An atomic datagram needs no identification (RFC 6864 section 4.1).
        ident: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: local::TTL,
        protocol: ipv4::ICMP,
        header_len: 20,
        total_len,
    };
    let (_, rest) = frame
        .bytes_mut()
        .split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    let (ip, rest) = rest.split_first_chunk_mut()?;
    let (icmp, quote) = rest.split_first_chunk_mut()?;
    header.emit(ip);
    message.error.emit(message.quote, icmp);
    quote.copy_from_slice(message.quote);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_gives_a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new_zeroed();
        let mut at = |micros| bucket.take(Instant::from_micros(micros));
        let granted = (0..1000).filter(|_| at(5)).count();
        assert_eq!(granted, 50);
        assert!(!at(1004));
        assert!(at(1005));
        assert!(!at(1005));
        let granted = (0..1_000_000).step_by(100).filter(|t| at(2000 + t)).count();
        assert!((990..=1002).contains(&granted), "{granted}");
        // After a rest the whole burst is there again, and no more.
        let granted = (0..1000).filter(|_| at(10_000_000)).count();
        assert_eq!(granted, 50);
    }
}
