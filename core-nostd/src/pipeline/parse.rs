//! Parsing: from bytes to a packet whose header and lengths are right.

use super::{Exit, Ip, Parsed};
use crate::wire::{arp, ethernet, ip, ipv4, ipv6, l4};
use crate::{Checksum, DropReason, Frame};

/// What a frame holds.
pub(super) enum Kind<'f, 'b> {
    Arp(&'f mut Frame<'b>, ethernet::Header, arp::Packet),
    Ip(ethernet::Header, Ip<'f, 'b, Parsed>),
}

/// Parses a frame from a pod or the host.
#[inline(always)]
pub(super) fn frame<'f, 'b>(frame: &'f mut Frame<'b>) -> Result<Kind<'f, 'b>, Exit> {
    let (ethernet, payload) =
        ethernet::Header::parse(frame.bytes()).ok_or(DropReason::FrameTruncated)?;
    match ethernet.ethertype {
        ethernet::IPV4 | ethernet::IPV6 => Ok(Kind::Ip(ethernet, self::ip(frame)?)),
        ethernet::ARP => {
            let packet = arp::Packet::parse(payload).ok_or(DropReason::ArpMalformed)?;
            Ok(Kind::Arp(frame, ethernet, packet))
        }
        ethernet::VLAN | ethernet::QINQ => Err(DropReason::VlanTagged.into()),
        _ => Err(DropReason::NotIp.into()),
    }
}

/// Parses the IP packet behind an Ethernet header that announces one, and cuts
/// off the padding that Ethernet may have added.
#[inline(always)]
pub(super) fn ip<'f, 'b>(frame: &'f mut Frame<'b>) -> Result<Ip<'f, 'b, Parsed>, Exit> {
    let (ethernet, packet) =
        ethernet::Header::parse(frame.bytes()).ok_or(DropReason::FrameTruncated)?;
    let header = match ethernet.ethertype {
        ethernet::IPV6 => ip::Header::parse_v6(packet).map_err(refuse_v6)?,
        _ => ip::Header::parse_v4(packet).map_err(refuse_v4)?,
    };
    frame.truncate(ethernet::HEADER_LEN + usize::from(header.total_len));
    check_checksum_mark(frame, &header)?;
    Ok(Ip {
        frame,
        header,
        state: Parsed,
    })
}

fn refuse_v4(error: ipv4::Error) -> DropReason {
    match error {
        ipv4::Error::Truncated => DropReason::Ipv4Truncated,
        ipv4::Error::Version => DropReason::Ipv4Version,
        ipv4::Error::HeaderLength => DropReason::Ipv4HeaderLength,
        ipv4::Error::TotalLength => DropReason::Ipv4TotalLength,
        ipv4::Error::Checksum => DropReason::Ipv4Checksum,
    }
}

fn refuse_v6(error: ipv6::Error) -> DropReason {
    match error {
        ipv6::Error::Truncated => DropReason::Ipv6Truncated,
        ipv6::Error::Version => DropReason::Ipv6Version,
        ipv6::Error::PayloadLength => DropReason::Ipv6PayloadLength,
        ipv6::Error::Extension => DropReason::Ipv6Extension,
    }
}

/// Refuses an unfinished checksum that lies outside the packet or within what
/// the guards look at, the IP header and the ports: whoever finishes it later
/// would write a source address or a tunnel's port that nobody has checked. A
/// pod with CAP_NET_RAW can mark any place (PACKET_VNET_HDR).
#[inline(always)]
fn check_checksum_mark(frame: &Frame<'_>, header: &ip::Header) -> Result<(), Exit> {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return Ok(());
    };
    let payload = ethernet::HEADER_LEN + usize::from(header.header_len);
    let ports = match header.protocol {
        ip::TCP | ip::UDP => l4::PORTS_LEN,
        _ => 0,
    };
    let start = usize::from(start);
    let field = start + usize::from(offset);
    if start < payload || field < payload + ports || field + 2 > frame.len() {
        return Err(DropReason::BadOffload.into());
    }
    Ok(())
}
