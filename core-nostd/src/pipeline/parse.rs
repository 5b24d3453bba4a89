//! Parsing: from bytes to a packet whose header and lengths are right.

use super::{Exit, Ip, Parsed};
use crate::wire::{arp, ethernet, ip, ipv4, ipv6, l4};
use crate::{Checksum, DropReason, Frame};

/// Parses the Ethernet header of a frame.
#[inline(always)]
pub(super) fn ethernet(frame: &Frame<'_>) -> Result<ethernet::Header, Exit> {
    let bytes = frame.content().ok_or(DropReason::FrameTruncated)?;
    let parsed = ethernet::Header::parse(bytes);
    let (ethernet, _) = parsed.ok_or(DropReason::FrameTruncated)?;
    Ok(ethernet)
}

/// Parses the ARP packet behind an Ethernet header that announces one.
pub(super) fn arp(frame: &Frame<'_>) -> Result<arp::Packet, Exit> {
    let packet = frame.bytes().get(ethernet::HEADER_LEN..);
    let packet = packet.and_then(arp::Packet::parse);
    Ok(packet.ok_or(DropReason::ArpMalformed)?)
}

/// Why a frame that is neither IP nor ARP is refused.
#[cold]
pub(super) fn refuse(ethertype: u16) -> Exit {
    match ethertype {
        ethernet::VLAN | ethernet::QINQ => DropReason::VlanTagged.into(),
        _ => DropReason::NotIp.into(),
    }
}

/// Parses the IP packet of either version behind an Ethernet header; `room` takes what
/// is read of its own.
pub(super) fn ip<'f, 'b>(
    frame: &'f mut Frame<'b>,
    room: &'f mut Option<ip::Header>,
) -> Result<Ip<'f, 'b, Parsed>, Exit> {
    let first = frame.bytes().get(ethernet::HEADER_LEN);
    let v6 = first.is_some_and(|first| first >> 4 == 6);
    ip_of(frame, room, v6)
}

/// Parses the IP packet behind an Ethernet header that announces one of this
/// version, and cuts off the padding that Ethernet may have added.
#[inline(never)]
pub(super) fn ip_of<'f, 'b>(
    frame: &'f mut Frame<'b>,
    room: &'f mut Option<ip::Header>,
    v6: bool,
) -> Result<Ip<'f, 'b, Parsed>, Exit> {
    let bytes = frame.content().ok_or(DropReason::FrameTruncated)?;
    let packet = bytes.get(ethernet::HEADER_LEN..);
    let packet = packet.ok_or(DropReason::FrameTruncated)?;
    let header = room.insert(ip::Header::parse_as(v6, packet).map_err(refuse_ip)?);
    frame.truncate(ethernet::HEADER_LEN + usize::from(header.total_len));
    check_checksum_mark(frame, header)?;
    Ok(Ip {
        frame,
        header,
        state: Parsed,
    })
}

fn refuse_ip(error: ip::Error) -> DropReason {
    match error {
        ip::Error::V4(error) => refuse_v4(error),
        ip::Error::V6(error) => refuse_v6(error),
    }
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
