//! The fast path: what nearly every packet is.
//!
//! A plain IPv4 packet of TCP or UDP, from a pod's own address to another node or
//! from another node to a pod, that needs no repair, no answer, and no decision but
//! its route. It looks at all that the stages look at and does to it what they do;
//! at the first doubt it leaves the frame as it was to them, who know every case and
//! every name of a drop. `tests/any_frame/fast.rs` holds one against the other.

use core::net::Ipv4Addr;

use heapless::Vec;

use super::route::Tunnel;
use super::{Arrival, decap, deliver};
use crate::channel::{Encap, NetworkOptions};
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PeerEntry, PortEntry, PortRole};
use crate::wire::ip::Address;
use crate::wire::{checksum, ethernet, ip, ipv4, vxlan};
use crate::{
    Checksum, Fate, Frame, MacAddr, NetworkId, Outer, OuterL4, Packet, PeerId, PortId, Segmentation,
};

/// Bytes of Ethernet and IPv4 header.
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
/// Bytes of IPv4 header and UDP header, or the front of TCP's.
const PACKET: usize = ipv4::HEADER_LEN + 8;

/// What is read of a plain packet.
struct Plain {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    tos: u8,
    protocol: u8,
    ports: (u16, u16),
    total_len: u16,
}

impl Plain {
    /// Reads an IPv4 packet that has no options, is whole, may be forwarded, and is
    /// TCP or UDP between two hosts.
    #[inline(always)]
    fn parse(packet: &[u8]) -> Option<Plain> {
        let h = packet.first_chunk::<PACKET>()?;
        let (header, _) = h.split_first_chunk::<{ ipv4::HEADER_LEN }>()?;
        let total_len = u16::from_be_bytes([h[2], h[3]]);
        let whole = u16::from_be_bytes([h[6], h[7]]) & 0x3fff == 0;
        let protocol = h[9];
        let plain = h[0] == 0x45 && whole && h[8] > 1;
        if !plain || protocol != ip::UDP && protocol != ip::TCP {
            return None;
        }
        let len = usize::from(total_len);
        if len < PACKET || len > packet.len() || !checksum::is_right(header) {
            return None;
        }
        let word = |a, b, c, d| Ipv4Addr::from_bits(u32::from_be_bytes([a, b, c, d]));
        let src = word(h[12], h[13], h[14], h[15]);
        let dst = word(h[16], h[17], h[18], h[19]);
        is_plain_host(dst).then_some(Plain {
            src,
            dst,
            tos: h[1],
            protocol,
            ports: (
                u16::from_be_bytes([h[20], h[21]]),
                u16::from_be_bytes([h[22], h[23]]),
            ),
            total_len,
        })
    }

    /// Whether MSS clamping may have something to do.
    #[inline(always)]
    fn may_be_clamped(&self, network: &NetworkEntry) -> bool {
        self.protocol == ip::TCP && network.options.has(NetworkOptions::CLAMP_MSS)
    }
}

/// Whether this is a host's address beyond question: in 1.0.0.0 to 223.255.255.255,
/// and no loopback.
#[inline(always)]
fn is_plain_host(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    bits.wrapping_sub(0x0100_0000) < 0xdf00_0000 && bits >> 24 != 127
}

/// Whether nothing is to be finished or cut.
#[inline(always)]
fn is_finished(frame: &Frame<'_>) -> bool {
    let partial = matches!(frame.checksum, Checksum::Partial { .. });
    frame.segmentation == Segmentation::None && !partial
}

/// Writes the Ethernet header of a plain packet and lowers its TTL.
#[inline(always)]
fn rewrite(headers: &mut [u8; HEADERS], dst: MacAddr, src: MacAddr) {
    let ethernet = ethernet::Header {
        dst,
        src,
        ethertype: ethernet::IPV4,
    };
    if let Some((first, packet)) = headers.split_first_chunk_mut() {
        ethernet.emit(first);
        ipv4::decrement_ttl(packet);
    }
}

/// What is the same for all plain packets of a pod.
#[derive(Clone, Copy)]
pub(super) struct Lane<'t> {
    network: &'t NetworkEntry,
    port: &'t PortEntry,
    /// What they begin with: the gateway's and the pod's MAC address, and IPv4.
    ethernet: [u8; ethernet::HEADER_LEN],
    /// A prefix that holds all the gateway's addresses, and its mask.
    gateways: (u32, u32),
    header: [u8; vxlan::HEADER_LEN],
    vxlan: Tunnelled,
    ipip: Tunnelled,
}

/// What is the same for all plain packets of a pod in one kind of tunnel.
#[derive(Clone, Copy)]
struct Tunnelled {
    /// Largest packet that fits.
    mtu: u16,
    /// The outer header but for what depends on the packet.
    outer: Outer,
}

impl<'t> Lane<'t> {
    /// `None` when no packet of the port can go by the fast path.
    pub(super) fn new(tables: &'t Tables<'_>, port: &'t PortEntry) -> Option<Self> {
        if port.role != PortRole::Endpoint {
            return None;
        }
        let network = tables.network(port.network)?;
        let underlay = tables.port(network.underlay)?;
        if underlay.role != PortRole::Underlay {
            return None;
        }
        let ethernet = ethernet::Header {
            dst: network.gateway_mac,
            src: port.mac,
            ethertype: ethernet::IPV4,
        };
        let (mut headers, mut header) = ([0; ethernet::HEADER_LEN], [0; vxlan::HEADER_LEN]);
        ethernet.emit(&mut headers);
        vxlan::emit(network.vni, &mut header);
        // Peers have the IP version of their network.
        let local = network.local.address();
        let tunnelled = |tunnel: Tunnel, l4| Tunnelled {
            mtu: underlay
                .mtu
                .saturating_sub(tunnel.overhead(local.is_ipv6())),
            outer: deliver::outer(0, (network, local), l4),
        };
        let udp = OuterL4::Udp {
            src_port: 0,
            dst_port: network.udp_port,
            checksum: !network.options.has(NetworkOptions::ZERO_UDP_CHECKSUM),
        };
        let ip = OuterL4::Ip { protocol: ip::IPV4 };
        Some(Lane {
            network,
            port,
            ethernet: headers,
            gateways: network.gateways.common_v4(),
            header,
            vxlan: tunnelled(Tunnel::Vxlan, udp),
            ipip: tunnelled(Tunnel::Ipip, ip),
        })
    }

    /// Whether the gateway may have this address.
    #[inline(always)]
    fn may_be_gateway(&self, address: Ipv4Addr) -> bool {
        let (bits, mask) = self.gateways;
        (address.to_bits() ^ bits) & mask == 0
    }
}

/// Ports that a run of plain packets may leave by before it is counted.
const PORTS: usize = 8;

/// What became of the plain packets at the front of a batch.
#[derive(Default)]
pub(crate) struct Run {
    /// How many they are.
    pub(crate) frames: usize,
    /// Their bytes as they came in.
    pub(crate) rx_bytes: u64,
    /// The ports that they leave by: frames and bytes, of neighbours together.
    pub(crate) sent: Vec<(PortId, u64, u64), PORTS>,
}

impl Run {
    /// Goes through a batch as long as its packets are plain.
    #[inline(always)]
    fn of(
        batch: &mut [Packet<'_>],
        mut decide: impl FnMut(&mut Frame<'_>) -> Option<PortId>,
    ) -> Run {
        let mut run = Run::default();
        let (mut last, mut bytes, mut counted) = (None, 0, 0);
        for packet in batch {
            let len = packet.frame.len();
            let Some(port) = decide(&mut packet.frame) else {
                break;
            };
            packet.fate = Fate::Forward(port);
            if last != Some(port) {
                run.leave(last, run.frames - counted, bytes);
                (last, bytes, counted) = (Some(port), 0, run.frames);
            }
            run.rx_bytes += wide(len);
            bytes += packet.frame.len();
            run.frames += 1;
            // The last ones want a place, too.
            if run.sent.len() + 1 == PORTS {
                break;
            }
        }
        run.leave(last, run.frames - counted, bytes);
        run
    }

    /// Counts what left by a port.
    fn leave(&mut self, port: Option<PortId>, frames: usize, bytes: usize) {
        let sent = port.map(|port| (port, wide(frames), wide(bytes)));
        // It ends before it is full.
        let _ = sent.map(|sent| self.sent.push(sent));
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Decides about the plain packets at the front of a batch. The frame behind them
/// is as it was.
#[inline(never)]
pub(super) fn run(arrival: &Arrival<'_, '_>, batch: &mut [Packet<'_>]) -> Run {
    let tables = arrival.context.tables;
    match (&arrival.lane, arrival.port.role) {
        (Some(lane), _) => Run::of(batch, |frame| from_endpoint(tables, lane, frame)),
        (None, PortRole::Underlay) => {
            let mut train = None;
            Run::of(batch, |frame| from_underlay(arrival, frame, &mut train))
        }
        _ => Run::default(),
    }
}

/// From a pod into a tunnel.
#[inline(always)]
fn from_endpoint(tables: &Tables<'_>, lane: &Lane<'_>, frame: &mut Frame<'_>) -> Option<PortId> {
    let (ethernet, packet) = frame.content()?.split_first_chunk()?;
    if *ethernet != lane.ethernet || !is_finished(frame) {
        return None;
    }
    let plain = Plain::parse(packet)?;
    let excess = packet.len() - usize::from(plain.total_len);
    let network = lane.network;
    let to_tunnel = plain.protocol == ip::UDP && tables.may_be_tunnel_port(plain.ports.1);
    if !lane.port.addresses.has(plain.src)
        || lane.may_be_gateway(plain.dst)
        || to_tunnel
        || plain.may_be_clamped(network)
    {
        return None;
    }
    let (peer, encap) = tables.route_code(network, plain.dst).peer()?;
    let peer = tables.peer(peer).filter(|peer| peer.path_mtu == 0)?;
    let start = frame.headroom();
    let outer = match encap {
        Encap::Vxlan if plain.total_len <= lane.vxlan.mtu => {
            const ALL: usize = vxlan::HEADER_LEN + HEADERS;
            let start = start.checked_sub(vxlan::HEADER_LEN)?;
            let all = frame.reshape::<ALL>(start, excess)?;
            let (header, rest) = all.split_first_chunk_mut()?;
            *header = lane.header;
            rewrite(rest.first_chunk_mut()?, peer.vtep_mac, network.vtep_mac);
            let outer = frame.outer.insert(lane.vxlan.outer);
            if let OuterL4::Udp { src_port, .. } = &mut outer.l4 {
                let addresses = Ipv4Addr::mix(plain.src, plain.dst);
                let hash = deliver::hash(addresses, plain.protocol, plain.ports);
                *src_port = deliver::source_port(hash);
            }
            outer
        }
        Encap::Ipip if plain.total_len <= lane.ipip.mtu => {
            let start = start + ethernet::HEADER_LEN;
            ipv4::decrement_ttl(frame.reshape::<{ ipv4::HEADER_LEN }>(start, excess)?);
            frame.outer.insert(lane.ipip.outer)
        }
        _ => return None,
    };
    outer.dst = peer.underlay.address();
    outer.tos = plain.tos;
    Some(network.underlay)
}

/// Where the last packet out of a tunnel went: its network, its destination, and the
/// pod's port. Packets come in trains to one pod.
type Train<'t> = Option<(NetworkId, Ipv4Addr, PortId, &'t PortEntry)>;

/// From a tunnel to a pod.
#[inline(always)]
fn from_underlay<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &mut Frame<'_>,
    train: &mut Train<'t>,
) -> Option<PortId> {
    let tables = arrival.context.tables;
    let outer = frame.outer.as_ref()?;
    if !is_finished(frame) {
        return None;
    }
    let bytes = frame.content()?;
    let (network, (id, port), excess, start) = match outer.l4 {
        OuterL4::Udp { dst_port, .. } => {
            const ALL: usize = vxlan::HEADER_LEN + ethernet::HEADER_LEN;
            let (headers, packet) = bytes.split_first_chunk::<ALL>()?;
            let (vxlan, ethernet) = headers.split_first_chunk::<{ vxlan::HEADER_LEN }>()?;
            let network = tables.network_by_vni(dst_port, vxlan::parse(vxlan).ok()?)?;
            let peer = tables.peer_by_underlay(network, outer.src)?;
            let (dst, _) = ethernet.split_first_chunk::<6>()?;
            let (_, ethertype) = ethernet.split_last_chunk::<2>()?;
            if network.underlay != arrival.context.ingress
                || *dst != network.vtep_mac.bytes()
                || *ethertype != ethernet::IPV4.to_be_bytes()
            {
                return None;
            }
            let opened = (network, peer, Tunnel::Vxlan);
            let (port, plain) = to_endpoint(arrival, opened, (frame, outer), packet, train)?;
            let excess = packet.len() - usize::from(plain.total_len);
            (network, port, excess, frame.headroom() + vxlan::HEADER_LEN)
        }
        OuterL4::Ip { protocol: ip::IPV4 } => {
            let (network, peer) = tables.ipip_peer(arrival.context.ingress, outer.src)?;
            let opened = (network, peer, Tunnel::Ipip);
            let (port, plain) = to_endpoint(arrival, opened, (frame, outer), bytes, train)?;
            let start = frame.headroom().checked_sub(ethernet::HEADER_LEN)?;
            (
                network,
                port,
                bytes.len() - usize::from(plain.total_len),
                start,
            )
        }
        OuterL4::Ip { .. } => return None,
    };
    rewrite(frame.reshape(start, excess)?, port.mac, network.gateway_mac);
    frame.outer = None;
    Some(id)
}

/// The pod's port that a plain packet out of a tunnel goes to.
#[inline(always)]
fn to_endpoint<'t>(
    arrival: &Arrival<'t, '_>,
    (network, (id, peer), tunnel): (&'t NetworkEntry, (PeerId, &PeerEntry), Tunnel),
    (frame, outer): (&Frame<'_>, &Outer),
    packet: &[u8],
    train: &mut Train<'t>,
) -> Option<((PortId, &'t PortEntry), Plain)> {
    let tables = arrival.context.tables;
    let plain = Plain::parse(packet)?;
    let encap = match tunnel {
        Tunnel::Vxlan => Encap::Vxlan,
        Tunnel::Ipip => Encap::Ipip,
    };
    if !peer.accepts.contains(encap)
        || !is_plain_host(plain.src)
        || network.gateways.has(plain.src)
        || plain.may_be_clamped(network)
        || decap::merged_ecn(plain.tos, outer.tos) != Some(plain.tos & 3)
    {
        return None;
    }
    let (back, _) = tables.route_code(network, plain.src).peer()?;
    let (port_id, port) = match *train {
        Some((last, dst, id, port)) if dst == plain.dst && last == network.id => (id, port),
        _ => {
            let id = tables.route_code(network, plain.dst).endpoint()?;
            let port = tables.port(id)?;
            *train = Some((network.id, plain.dst, id, port));
            (id, port)
        }
    };
    if back != id || plain.total_len > port.mtu {
        return None;
    }
    // A longer segment is one that stands for several.
    let overhead = tunnel.overhead(outer.src.is_v6());
    if plain.protocol == ip::TCP && plain.total_len > arrival.port.mtu.saturating_sub(overhead) {
        return None;
    }
    let unchecked = frame.checksum == Checksum::None;
    if unchecked && may_be_unfinished(&plain, packet) {
        return None;
    }
    Some(((port_id, port), plain))
}

/// Whether the checksum field may hold the sum of the pseudo-header only.
#[inline(always)]
fn may_be_unfinished(plain: &Plain, packet: &[u8]) -> bool {
    let len = plain.total_len - 20;
    let pseudo = checksum::pseudo_header_v4(plain.src, plain.dst, plain.protocol, len);
    let at = match plain.protocol {
        ip::UDP => ipv4::HEADER_LEN + 6,
        _ => ipv4::HEADER_LEN + 16,
    };
    let field = packet.get(at..).and_then(|rest| rest.first_chunk());
    // Both are the same modulo 2^16 - 1; what that takes for equal besides is rare.
    field.is_none_or(|field| {
        (pseudo + u64::from(!u16::from_be_bytes(*field))).is_multiple_of(0xffff)
    })
}

#[cfg(test)]
mod tests;
