//! Outer headers on raw Ethernet ports: read when a frame comes in, written when a
//! tunnel packet leaves. Behind sockets the kernel does both.

use core::net::IpAddr;

use super::{Context, Exit, Parsed, decap, deliver, local, parse};
use crate::channel::{Encap, NetworkOptions, Offloads};
use crate::tables::Tables;
use crate::tables::entry::PortEntry;
use crate::wire::{checksum, ethernet, icmpv4, icmpv6, ip, ipv4, ipv6, l4, nd, udp, vxlan};
use crate::{Checksum, DropReason, Fate, Frame, Outer, OuterL4, Segmentation};

/// Where a UDP header has its checksum, in bytes.
const UDP_CHECKSUM: u16 = 6;

/// What came in by a raw port.
pub(super) enum Arrival<'t> {
    /// A tunnel packet, which now is as it comes from sockets.
    Tunnel,
    /// A packet of a peer that needs no tunnel.
    Direct(decap::Opened<'t>),
    /// Something for the node itself, and what becomes of it.
    Local(Fate),
}

/// Reads the outer headers of a frame and takes those of a tunnel packet off.
#[cold]
#[inline(never)]
pub(super) fn receive<'t>(
    context: Context<'t, '_>,
    port: &PortEntry,
    frame: &mut Frame<'_>,
) -> Result<Arrival<'t>, Exit> {
    frame.outer = None;
    let (ethernet, packet) =
        ethernet::Header::parse(frame.bytes()).ok_or(DropReason::FrameTruncated)?;
    let group = ethernet.dst.is_group();
    if !group && ethernet.dst != port.mac {
        return Err(DropReason::WireMac.into());
    }
    let header = match ethernet.ethertype {
        ethernet::ARP => return Err(Exit::Link),
        ethernet::IPV4 | ethernet::IPV6 => {
            ip::Header::parse_as(ethernet.ethertype == ethernet::IPV6, packet)
        }
        ethernet::VLAN | ethernet::QINQ => return Err(DropReason::VlanTagged.into()),
        _ => return Err(DropReason::NotIp.into()),
    };
    let header = header.map_err(|_| DropReason::OuterMalformed)?;
    let upper = packet.get(usize::from(header.header_len)..);
    let kind = upper.and_then(|upper| upper.first()).copied().unwrap_or(0);
    let own = port.addresses.has(header.dst);
    let icmpv6 = header.is_v6() && header.protocol == ip::ICMPV6;
    if icmpv6 && nd::is_nd(kind) && (own || ip::is_group(header.dst)) {
        return Err(Exit::Link);
    }
    if group || ip::is_group(header.dst) {
        return Err(DropReason::WireGroup.into());
    }
    frame.truncate(ethernet::HEADER_LEN + usize::from(header.total_len));
    if !own {
        return direct(context, &header).map(Arrival::Direct);
    }
    if header.is_fragment() {
        return Err(DropReason::OuterFragment.into());
    }
    match (header.protocol, header.is_v6()) {
        (ip::UDP, _) => udp(context.tables, &header, frame),
        (ip::IPV4 | ip::IPV6, _) => {
            let l4 = OuterL4::Ip {
                protocol: header.protocol,
            };
            open(&header, l4, usize::from(header.header_len), frame)
        }
        (ip::ICMP, false) if kind == icmpv4::UNREACHABLE => Err(Exit::Link),
        (ip::ICMPV6, true) if kind == icmpv6::PACKET_TOO_BIG => Err(Exit::Link),
        (ip::ICMP, false) | (ip::ICMPV6, true) => echo(port, &ethernet, frame),
        _ => Ok(Arrival::Local(Fate::Punt)),
    }
}

/// A packet that is for somebody behind this node: its source tells the peer.
fn direct<'t>(context: Context<'t, '_>, header: &ip::Header) -> Result<decap::Opened<'t>, Exit> {
    let (network, peer) = context
        .tables
        .direct_peer(context.ingress, header.src)
        .ok_or(DropReason::WireDestination)?;
    decap::accepted(peer.1, Encap::Direct)?;
    Ok(decap::Opened {
        network,
        peer,
        // There is no other header to merge.
        outer_tos: header.tos,
        for_all: false,
        tunnel: None,
        v6: header.is_v6(),
    })
}

/// A UDP datagram to this node: a tunnel packet, when a network has its tunnels on
/// that port.
fn udp<'t>(
    tables: &Tables<'_>,
    header: &ip::Header,
    frame: &mut Frame<'_>,
) -> Result<Arrival<'t>, Exit> {
    let at = ethernet::HEADER_LEN + usize::from(header.header_len);
    let datagram = frame.bytes().get(at..).unwrap_or_default();
    let fields = udp::Header::parse(datagram).ok_or(DropReason::OuterMalformed)?;
    if !tables.is_tunnel_port(fields.dst_port) {
        return Ok(Arrival::Local(Fate::Punt));
    }
    let datagram = datagram.get(..usize::from(fields.len)).unwrap_or_default();
    match fields.checksum {
        0 => may_be_zero(tables, header, fields.dst_port, datagram)?,
        // Marks are a device's that vouches for it, or has not made it yet.
        _ if frame.checksum == Checksum::None && !l4::is_valid(header, datagram) => {
            return Err(DropReason::OuterChecksum.into());
        }
        _ => {}
    }
    let l4 = OuterL4::Udp {
        src_port: fields.src_port,
        dst_port: fields.dst_port,
        checksum: fields.checksum != 0,
    };
    frame.truncate(at + usize::from(fields.len));
    let headers = usize::from(header.header_len) + udp::HEADER_LEN;
    open(header, l4, headers, frame)
}

/// Whether a tunnel packet may come without a checksum: over IPv4 always, over
/// IPv6 where the network has agreed to that (RFC 6935 section 5).
fn may_be_zero(
    tables: &Tables<'_>,
    header: &ip::Header,
    dst_port: u16,
    datagram: &[u8],
) -> Result<(), Exit> {
    let tunnelled = datagram.get(udp::HEADER_LEN..).unwrap_or_default();
    let vni = vxlan::parse(tunnelled).ok().filter(|_| header.is_v6());
    let network = vni.and_then(|vni| tables.network_by_vni(dst_port, vni));
    match network.is_none_or(|n| n.options.has(NetworkOptions::ZERO_UDP_CHECKSUM)) {
        true => Ok(()),
        false => Err(DropReason::OuterChecksumZero.into()),
    }
}

/// Takes Ethernet and `headers` bytes behind it off a tunnel packet.
fn open<'t>(
    header: &ip::Header,
    l4: OuterL4,
    headers: usize,
    frame: &mut Frame<'_>,
) -> Result<Arrival<'t>, Exit> {
    let upper = ethernet::HEADER_LEN + usize::from(header.header_len);
    let of_outer = |start: u16| usize::from(start) <= upper;
    match frame.checksum {
        // What the device said was about the datagram, which is verified or came
        // from this machine's memory.
        Checksum::Verified => frame.checksum = Checksum::None,
        Checksum::Partial { start, .. } if of_outer(start) => frame.checksum = Checksum::None,
        _ => {}
    }
    frame
        .pop_front(ethernet::HEADER_LEN + headers)
        .ok_or(DropReason::BadOffload)?;
    frame.outer = Some(Outer {
        src: header.src,
        dst: header.dst,
        l4,
        tos: header.tos,
        ttl: header.ttl,
        df: header.dont_fragment,
    });
    Ok(Arrival::Tunnel)
}

/// Answers ping to this node; other ICMP is the shell's.
fn echo<'t>(
    port: &PortEntry,
    ethernet: &ethernet::Header,
    frame: &mut Frame<'_>,
) -> Result<Arrival<'t>, Exit> {
    let mut room = None;
    let mut packet: super::Ip<'_, '_, Parsed> = parse::ip(frame, &mut room)?;
    let fate = match local::answer_echo(port.mac, ethernet, &mut packet)? {
        true => Fate::Reply,
        false => Fate::Punt,
    };
    Ok(Arrival::Local(fate))
}

/// Writes the outer IP header, and UDP where there is one, in front of a tunnel
/// packet. `ident` counts the packets that may be fragmented. The port has `offloads`.
///
/// The lengths are those of the whole frame, also of a super-frame. That one's UDP
/// checksum, when it is to have one, is the sum of the pseudo-header: whoever cuts
/// it writes lengths and checksums of the segments.
pub(crate) fn emit(
    outer: &Outer,
    (ident, offloads): (&mut u16, Offloads),
    frame: &mut Frame<'_>,
) -> Result<(), DropReason> {
    let label = flow_label(outer, frame);
    let protocol = match outer.l4 {
        OuterL4::Ip { protocol } => protocol,
        OuterL4::Udp { .. } => {
            emit_udp(outer, offloads, frame)?;
            ip::UDP
        }
    };
    let payload_len = u16::try_from(frame.len()).map_err(|_| DropReason::NoHeadroom)?;
    match (outer.src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let out = frame.push_front().ok_or(DropReason::NoHeadroom)?;
            let header = ipv4::Header {
                src,
                dst,
                tos: outer.tos,
                ident: identification(outer.df, ident),
                dont_fragment: outer.df,
                more_fragments: false,
                fragment_offset: 0,
                ttl: outer.ttl,
                protocol,
                header_len: 20,
                total_len: payload_len.saturating_add(20),
            };
            header.emit(out);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let out = frame.push_front().ok_or(DropReason::NoHeadroom)?;
            let header = ipv6::Header {
                src,
                dst,
                traffic_class: outer.tos,
                flow_label: label,
                payload_len,
                next_header: protocol,
                hop_limit: outer.ttl,
            };
            header.emit(out);
        }
        _ => return Err(DropReason::OuterMissing),
    }
    Ok(())
}

/// The identification of a packet (RFC 6864 section 4): of one that is never
/// fragmented it means nothing; of others it should not come again while fragments
/// with it may be on their way, which at more than 500 packets a second only the
/// checksums of the inner packets keep harmless.
fn identification(df: bool, ident: &mut u16) -> u16 {
    match df {
        true => 0,
        false => {
            *ident = ident.wrapping_add(1);
            *ident
        }
    }
}

fn emit_udp(outer: &Outer, offloads: Offloads, frame: &mut Frame<'_>) -> Result<(), DropReason> {
    let OuterL4::Udp {
        src_port,
        dst_port,
        checksum,
    } = outer.l4
    else {
        return Err(DropReason::OuterMissing);
    };
    let out = frame.push_front().ok_or(DropReason::NoHeadroom)?;
    udp::Header {
        src_port,
        dst_port,
        len: 0,
        checksum: 0,
    }
    .emit(out);
    let len = u16::try_from(frame.len()).map_err(|_| DropReason::NoHeadroom)?;
    if let Some(field) = frame.bytes_mut().get_mut(4..6) {
        field.copy_from_slice(&len.to_be_bytes());
    }
    if !checksum {
        return Ok(());
    }
    let pseudo = checksum::pseudo_header(outer.src, outer.dst, ip::UDP, len);
    // A device finishes one checksum.
    let unfinished = matches!(frame.checksum, Checksum::Partial { .. });
    let left = offloads.has(Offloads::OUTER_CHECKSUM) && !unfinished;
    let sum = match frame.segmentation {
        Segmentation::None if left => {
            // Counted from the UDP header, which the frame begins with now.
            frame.checksum = Checksum::Partial {
                start: 0,
                offset: UDP_CHECKSUM,
            };
            checksum::fold(pseudo)
        }
        Segmentation::None => checksum::finish(pseudo + sum(frame)?),
        _ => checksum::fold(pseudo),
    };
    // Zero would mean that there is none (RFC 768).
    let sum = if sum == 0 { 0xffff } else { sum };
    if let Some(field) = frame.bytes_mut().get_mut(6..8) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// The sum of a datagram whose inner checksum may be unfinished. When it will be
/// finished, all that it covers sums up to the complement of what the field holds
/// now, so that part need not be read.
fn sum(frame: &Frame<'_>) -> Result<u64, DropReason> {
    let bytes = frame.bytes();
    let Checksum::Partial { start, offset } = frame.checksum else {
        return Ok(checksum::sum(bytes));
    };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let field = bytes.get(start + offset..);
    let field = field.and_then(|field| field.first_chunk::<2>());
    let (before, field) = bytes
        .get(..start)
        .filter(|_| start.is_multiple_of(2))
        .zip(field)
        .ok_or(DropReason::BadOffload)?;
    Ok(checksum::sum(before) + u64::from(!u16::from_be_bytes(*field)))
}

/// The flow label of the outer header: one for each inner flow (RFC 6438 section 3).
fn flow_label(outer: &Outer, frame: &Frame<'_>) -> u32 {
    if outer.dst.is_ipv4() {
        return 0;
    }
    let hash = match outer.l4 {
        // Made of the inner flow already.
        OuterL4::Udp { src_port, .. } => u64::from(src_port).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        OuterL4::Ip { .. } => {
            let Ok(inner) = ip::Header::parse(frame.bytes()) else {
                return 0;
            };
            deliver::flow_hash(&inner)
        }
    };
    u32::try_from(hash >> 44).unwrap_or(0)
}
