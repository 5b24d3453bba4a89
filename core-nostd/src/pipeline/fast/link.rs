//! From a pod into a tunnel that leaves by a raw Ethernet port: all outer headers at
//! once.

use core::net::{IpAddr, Ipv4Addr};

use super::super::deliver;
use super::lane::{Lane, source_port};
use super::plain::{PACKET, ethernet as ethernet_header, is_finished};
use super::{Sent, Used};
use crate::channel::{Encap, NetworkOptions, Offloads};
use crate::tables::Tables;
use crate::tables::entry::{PeerEntry, PortEntry};
use crate::wire::{checksum, ethernet, ip, ipv4, udp, vxlan};
use crate::{Frame, MacAddr, PortId};

/// Bytes of Ethernet and IPv4 header.
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
/// Bytes in front of a packet in VXLAN.
const IN_VXLAN: usize = HEADERS + udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN;
/// Largest packet of a tunnel that is a frame with an Ethernet header.
const LONGEST: u16 = 65_535 - 14;
/// Bytes that IPv4 and what is between it and the packet add.
const VXLAN_OVERHEAD: u16 = 50;
const IPIP_OVERHEAD: u16 = 20;

/// What is the same for all tunnel packets of a pod on a raw port, and where the last
/// one went: the next one mostly goes there, too.
pub(super) struct Link<'t> {
    id: PortId,
    port: &'t PortEntry,
    /// A prefix that is on the link, and its mask.
    near: (u32, u32),
    /// What they begin with but for what depends on the packet.
    vxlan: [u8; IN_VXLAN],
    ipip: [u8; HEADERS],
    /// The sums of these IPv4 headers.
    vxlan_sum: u64,
    ipip_sum: u64,
    /// What the sums of all UDP datagrams have in common, pseudo-headers included, in
    /// the machine's byte order; if they are to have one.
    datagram: Option<u64>,
    /// Where the last packet went to, and by whom in what.
    dst: Ipv4Addr,
    way: Option<(&'t PeerEntry, Encap)>,
    /// The last peer, and whom it was handed to. Nobody has 0.0.0.0.
    to: Ipv4Addr,
    next_hop: Ipv4Addr,
    mac: MacAddr,
}

impl<'t> Link<'t> {
    /// `None` when no packet of the lane can go by the fast path.
    pub(super) fn new(lane: &Lane<'t>) -> Option<Self> {
        let (network, port) = (lane.network, lane.underlay);
        // What may be fragmented is numbered.
        if network.options.has(NetworkOptions::OUTER_MAY_FRAGMENT) {
            return None;
        }
        // Its sums need not be made.
        if port.offloads.has(Offloads::OUTER_CHECKSUM) {
            return None;
        }
        let IpAddr::V4(src) = network.local.address() else {
            return None;
        };
        let ethernet = ethernet_header(MacAddr::ZERO, port.mac);
        let headers = |protocol| {
            let mut headers = [0; HEADERS];
            let (macs, packet) = headers.split_at_mut(ethernet::HEADER_LEN);
            macs.copy_from_slice(&ethernet);
            let header = ipv4::Header {
                src,
                dst: Ipv4Addr::UNSPECIFIED,
                tos: 0,
                ident: 0,
                dont_fragment: true,
                more_fragments: false,
                fragment_offset: 0,
                ttl: deliver::OUTER_TTL,
                protocol,
                header_len: 20,
                total_len: 0,
            };
            if let Some(packet) = packet.first_chunk_mut() {
                header.emit(packet);
            }
            headers
        };
        let ipip = headers(ip::IPV4);
        let mut vxlan = [0; IN_VXLAN];
        *vxlan.first_chunk_mut()? = headers(ip::UDP);
        [vxlan[36], vxlan[37]] = network.udp_port.to_be_bytes();
        *vxlan.get_mut(42..)?.first_chunk_mut()? = lane.header;
        *vxlan.last_chunk_mut()? = lane.from_vtep;
        let has_checksum = !network.options.has(NetworkOptions::ZERO_UDP_CHECKSUM);
        let pseudo = native32(src.octets()) + native16([0, ip::UDP]);
        let common = checksum::fold(checksum::sum_native(vxlan.get(HEADERS..)?));
        let datagram = has_checksum.then(|| pseudo + u64::from(common));
        Some(Link {
            id: network.underlay,
            port,
            near: port.allowed.first_v4(),
            vxlan_sum: sum_without_checksum(&vxlan)?,
            ipip_sum: sum_without_checksum(&ipip)?,
            vxlan,
            ipip,
            datagram,
            dst: Ipv4Addr::UNSPECIFIED,
            way: None,
            to: Ipv4Addr::UNSPECIFIED,
            next_hop: Ipv4Addr::UNSPECIFIED,
            mac: MacAddr::ZERO,
        })
    }

    /// The peer that a packet goes to, and in what.
    #[inline(always)]
    fn way(
        &mut self,
        tables: &'t Tables<'_>,
        lane: &Lane<'t>,
        dst: Ipv4Addr,
    ) -> Option<(&'t PeerEntry, Encap)> {
        if dst != self.dst {
            self.way = lane.route(tables, dst);
            self.dst = dst;
        }
        self.way
    }

    /// Whose MAC address packets to a peer get, which counts as sent to it: `None`
    /// when anything else is to be done about that neighbor.
    #[inline(always)]
    fn turn(&mut self, tables: &Tables<'_>, to: Ipv4Addr, used: &mut Used) -> Option<MacAddr> {
        if to != self.to {
            self.turn_now(tables, to, used)?;
        }
        Some(self.mac)
    }

    #[inline(never)]
    fn turn_now(&mut self, tables: &Tables<'_>, to: Ipv4Addr, used: &mut Used) -> Option<()> {
        let (bits, mask) = self.near;
        let next_hop = match (to.to_bits() ^ bits) & mask == 0 {
            true => to,
            false => self.port.next_hop_v4(to)?,
        };
        if next_hop != self.next_hop {
            let (place, mac) = tables.neighbors.settled(self.id, next_hop)?;
            used.push(place).ok()?;
            (self.next_hop, self.mac) = (next_hop, mac);
        }
        self.to = to;
        Some(())
    }
}

/// The sum of the IPv4 header behind an Ethernet header, but for its checksum.
fn sum_without_checksum(headers: &[u8]) -> Option<u64> {
    let header: &[u8; ipv4::HEADER_LEN] = headers.get(ethernet::HEADER_LEN..)?.first_chunk()?;
    Some(checksum::sum(&header[..10]) + checksum::sum(&header[12..]))
}

/// From a pod into a tunnel by a raw port.
#[inline(always)]
pub(super) fn from_endpoint<'t>(
    tables: &'t Tables<'_>,
    lane: &Lane<'t>,
    (link, used): (&mut Link<'t>, &mut Used),
    frame: &mut Frame<'_>,
) -> Option<Sent> {
    const BEFORE: usize = IN_VXLAN - ethernet::HEADER_LEN;
    if !is_finished(frame) {
        return None;
    }
    let start = frame.headroom();
    let front = frame.front_mut::<{ IN_VXLAN + PACKET }>(BEFORE)?;
    let (headers, packet) = front.bytes.split_first_chunk_mut::<IN_VXLAN>()?;
    let packet = packet.first_chunk_mut()?;
    let plain = lane.examine(tables, headers.last_chunk()?, (packet, front.rest))?;
    let (peer, encap) = link.way(tables, lane, plain.dst)?;
    let to = Ipv4Addr::from_bits(peer.underlay.bits_v4());
    let total_len = plain.total_len;
    let (start, len) = match encap {
        Encap::Vxlan if total_len <= lane.vxlan.mtu.min(LONGEST - VXLAN_OVERHEAD) => {
            let payload = front.rest.get(..usize::from(total_len) - PACKET)?;
            let mac = link.turn(tables, to, used)?;
            let source_port = source_port(&plain);
            let vtep = peer.vtep_mac.bytes();
            let udp_len = total_len + (VXLAN_OVERHEAD - 20);
            *headers = link.vxlan;
            let around = (mac, plain.tos, to);
            finish(
                headers.first_chunk_mut()?,
                link.vxlan_sum,
                around,
                udp_len + 20,
            );
            [headers[34], headers[35]] = source_port.to_be_bytes();
            [headers[38], headers[39]] = udp_len.to_be_bytes();
            *headers.get_mut(50..)?.first_chunk_mut()? = vtep;
            if let Some(common) = link.datagram {
                // The inner IPv4 header is right, so that it adds nothing.
                let l4: &[u8; 8] = packet.last_chunk()?;
                let [a, b, c, d, e, f] = vtep;
                let own = common
                    + native32([a, b, c, d])
                    + native32(to.octets())
                    + native16([e, f])
                    + native16(source_port.to_be_bytes())
                    + 2 * native16(udp_len.to_be_bytes());
                let sum = checksum::add(own, u64::from_ne_bytes(*l4));
                let sum = checksum::add(sum, checksum::sum_native(payload));
                // Zero would mean that there is none (RFC 768).
                let sum = match checksum::finish(sum) {
                    0 => 0xffff,
                    sum => sum,
                };
                [headers[40], headers[41]] = sum.to_ne_bytes();
            }
            (start - BEFORE, plain.len_behind(IN_VXLAN))
        }
        Encap::Ipip if total_len <= lane.ipip.mtu.min(LONGEST - IPIP_OVERHEAD) => {
            let mac = link.turn(tables, to, used)?;
            let headers = headers.last_chunk_mut()?;
            *headers = link.ipip;
            let around = (mac, plain.tos, to);
            finish(headers, link.ipip_sum, around, total_len + IPIP_OVERHEAD);
            (
                start + ethernet::HEADER_LEN - HEADERS,
                plain.len_behind(HEADERS),
            )
        }
        _ => return None,
    };
    ipv4::lower_ttl(packet);
    *front.outer = None;
    frame.place(start, len);
    Some((link.id, len))
}

fn native32(bytes: [u8; 4]) -> u64 {
    u32::from_ne_bytes(bytes).into()
}

fn native16(bytes: [u8; 2]) -> u64 {
    u16::from_ne_bytes(bytes).into()
}

/// Writes what depends on the packet: the neighbor's MAC address, type of service and
/// destination, length and checksum.
#[inline(always)]
fn finish(
    headers: &mut [u8; HEADERS],
    sum: u64,
    (mac, tos, dst): (MacAddr, u8, Ipv4Addr),
    len: u16,
) {
    let (macs, header) = headers.split_at_mut(ethernet::HEADER_LEN);
    if let (Some(to), Some(header)) = (macs.first_chunk_mut(), header.first_chunk_mut()) {
        *to = mac.bytes();
        let header: &mut [u8; ipv4::HEADER_LEN] = header;
        let sum = sum + u64::from(tos) + u64::from(len) + u64::from(dst.to_bits());
        header[1] = tos;
        [header[2], header[3]] = len.to_be_bytes();
        [header[10], header[11]] = checksum::finish(sum).to_be_bytes();
        [header[16], header[17], header[18], header[19]] = dst.octets();
    }
}
