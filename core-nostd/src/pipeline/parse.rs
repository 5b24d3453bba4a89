//! Parsing: from bytes to a packet whose header and lengths are right.

use super::{Exit, Ip, Parsed};
use crate::wire::{arp, ethernet, ipv4, l4};
use crate::{Checksum, DropReason, Frame};

/// What a frame holds.
pub(super) enum Kind<'f, 'b> {
    Arp(&'f mut Frame<'b>, ethernet::Header, arp::Packet),
    Ip(ethernet::Header, Ip<'f, 'b, Parsed>),
}

/// Parses a frame from a pod or the host.
pub(super) fn frame<'f, 'b>(frame: &'f mut Frame<'b>) -> Result<Kind<'f, 'b>, Exit> {
    let (ethernet, payload) =
        ethernet::Header::parse(frame.bytes()).ok_or(DropReason::FrameTruncated)?;
    match ethernet.ethertype {
        ethernet::IPV4 => Ok(Kind::Ip(ethernet, ip(frame)?)),
        ethernet::ARP => {
            let packet = arp::Packet::parse(payload).ok_or(DropReason::ArpMalformed)?;
            Ok(Kind::Arp(frame, ethernet, packet))
        }
        ethernet::IPV6 => Err(DropReason::Ipv6.into()),
        ethernet::VLAN | ethernet::QINQ => Err(DropReason::VlanTagged.into()),
        _ => Err(DropReason::NotIp.into()),
    }
}

/// Parses the IPv4 packet behind an Ethernet header, and cuts off the padding
/// that Ethernet may have added.
pub(super) fn ip<'f, 'b>(frame: &'f mut Frame<'b>) -> Result<Ip<'f, 'b, Parsed>, Exit> {
    let packet = frame
        .bytes()
        .get(ethernet::HEADER_LEN..)
        .unwrap_or_default();
    let header = ipv4::Header::parse(packet).map_err(|error| match error {
        ipv4::Error::Truncated => DropReason::Ipv4Truncated,
        ipv4::Error::Version => DropReason::Ipv4Version,
        ipv4::Error::HeaderLength => DropReason::Ipv4HeaderLength,
        ipv4::Error::TotalLength => DropReason::Ipv4TotalLength,
        ipv4::Error::Checksum => DropReason::Ipv4Checksum,
    })?;
    frame.truncate(ethernet::HEADER_LEN + usize::from(header.total_len));
    check_checksum_mark(frame, &header)?;
    Ok(Ip {
        frame,
        header,
        state: Parsed,
    })
}

/// Refuses an unfinished checksum that lies outside the packet or within what
/// the guards look at, the IP header and the ports: whoever finishes it later
/// would write a source address or a tunnel's port that nobody has checked. A
/// pod with CAP_NET_RAW can mark any place (PACKET_VNET_HDR).
fn check_checksum_mark(frame: &Frame<'_>, header: &ipv4::Header) -> Result<(), Exit> {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return Ok(());
    };
    let payload = ethernet::HEADER_LEN + usize::from(header.header_len);
    let ports = match header.protocol {
        ipv4::TCP | ipv4::UDP => l4::PORTS_LEN,
        _ => 0,
    };
    let start = usize::from(start);
    let field = start + usize::from(offset);
    if start < payload || field < payload + ports || field + 2 > frame.len() {
        return Err(DropReason::BadOffload.into());
    }
    Ok(())
}
