//! Out of a tunnel to a pod.

use core::net::{IpAddr, Ipv4Addr};

use super::super::route::Tunnel;
use super::super::{Arrival, decap};
use super::Sent;
use super::plain::{
    IN_VXLAN, PACKET, Plain, dst, ethernet, is_finished, is_plain_host, may_be_gateway,
    may_be_unfinished, words,
};
use crate::channel::Encap;
use crate::fib::Root;
use crate::tables::Tables;
use crate::tables::entry::{Lookup, NetworkEntry, PeerEntry};
use crate::wire::{ethernet, ip, ipv4, vxlan};
use crate::{Checksum, Frame, OuterL4, PortId};

/// Bytes of VXLAN header and Ethernet header.
pub(super) const BEGIN: usize = vxlan::HEADER_LEN + ethernet::HEADER_LEN;

/// Where the last packet out of a tunnel came from and went: with the next one it is
/// mostly the same.
pub(super) struct Train<'t> {
    network: &'t NetworkEntry,
    routes: Root<'t>,
    /// In VXLAN the UDP port, the header, and the MAC address of this node's VTEP.
    udp_port: u16,
    front: [u64; 2],
    /// Longest TCP packet that is one segment.
    longest: u16,
    /// A prefix that holds all the gateway's addresses, and its mask.
    gateways: (u32, u32),
    stop: Stop,
}

/// Where the last packet came from, and the peer that has this address in the network of
/// the train. Worth its place where the stages before are longer than a lookup.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    address: Ipv4Addr,
    peer: Option<&'t PeerEntry>,
}

impl<'t> Source<'t> {
    /// None yet; no peer has 0.0.0.0.
    pub(super) const NONE: Source<'t> = Source {
        address: Ipv4Addr::UNSPECIFIED,
        peer: None,
    };
}

/// A packet as it came out of its tunnel.
#[derive(Clone, Copy)]
pub(super) struct Content<'p> {
    /// The packet's first bytes, and those behind as far as the frame goes.
    pub(super) front: &'p [u8; PACKET],
    pub(super) rest: &'p [u8],
    /// Bytes that the packet can have.
    pub(super) room: usize,
    /// Whether no device has vouched for it.
    pub(super) unchecked: bool,
    /// Of the outer header.
    pub(super) src: &'p IpAddr,
    pub(super) tos: &'p u8,
}

/// A pod that packets out of a tunnel go to.
#[derive(Clone, Copy)]
struct Stop {
    dst: Ipv4Addr,
    port: PortId,
    mtu: u16,
    ethernet: [u8; ethernet::HEADER_LEN],
}

impl Stop {
    /// The pod that has an address.
    fn at(tables: &Tables<'_>, network: &NetworkEntry, dst: Ipv4Addr) -> Option<Stop> {
        if !is_plain_host(dst) {
            return None;
        }
        let id = tables.route_code(network, dst).endpoint()?;
        let port = tables.port(id)?;
        Some(Stop {
            dst,
            port: id,
            mtu: port.mtu,
            ethernet: ethernet(port.mac, network.gateway_mac),
        })
    }
}

impl<'t> Train<'t> {
    fn new(
        arrival: &Arrival<'t, '_>,
        network: &'t NetworkEntry,
        dst: Ipv4Addr,
        tunnel: Tunnel,
    ) -> Option<Self> {
        let overhead = tunnel.overhead(network.local.address().is_ipv6());
        let tables = arrival.context.tables;
        Some(Train {
            network,
            routes: tables.routes.start_v4(network.id),
            udp_port: 0,
            front: [0; 2],
            longest: arrival.port.mtu.saturating_sub(overhead),
            gateways: network.gateways.common_v4(),
            stop: Stop::at(tables, network, dst)?,
        })
    }

    /// The train of a packet in VXLAN that begins with these bytes.
    #[cold]
    #[inline(never)]
    pub(super) fn of_vxlan(
        arrival: &Arrival<'t, '_>,
        (udp_port, front): (u16, &[u8; ethernet::HEADER_LEN]),
        dst: Ipv4Addr,
    ) -> Option<Self> {
        let (header, vtep) = front.split_first_chunk::<{ vxlan::HEADER_LEN }>()?;
        let vni = vxlan::parse(header).ok()?;
        let network = arrival.context.tables.network_by_vni(udp_port, vni)?;
        if network.underlay != arrival.context.ingress || *vtep != network.vtep_mac.bytes() {
            return None;
        }
        let train = Train::new(arrival, network, dst, Tunnel::Vxlan)?;
        Some(Train {
            udp_port,
            front: words(front),
            ..train
        })
    }

    /// The train of a packet in VXLAN as it came in; whether it is plain shows later.
    pub(super) fn of_first_vxlan(arrival: &Arrival<'t, '_>, frame: &Frame<'_>) -> Option<Self> {
        let OuterL4::Udp { dst_port, .. } = frame.outer.as_ref()?.l4 else {
            return None;
        };
        let (front, packet) = frame
            .content()?
            .split_first_chunk::<IN_VXLAN>()?
            .0
            .split_last_chunk::<PACKET>()?;
        Self::of_vxlan(arrival, (dst_port, front.first_chunk()?), dst(packet)?)
    }

    /// As [`Train::of_first_vxlan`], in IP in IP.
    pub(super) fn of_first_ipip(arrival: &Arrival<'t, '_>, frame: &Frame<'_>) -> Option<Self> {
        let packet = frame.content()?.first_chunk()?;
        Self::of_ipip(arrival, frame.outer.as_ref()?.src, dst(packet)?)
    }

    /// The train of a packet in IP in IP, which names no network.
    #[cold]
    #[inline(never)]
    pub(super) fn of_ipip(
        arrival: &Arrival<'t, '_>,
        underlay: IpAddr,
        dst: Ipv4Addr,
    ) -> Option<Self> {
        let (tables, ingress) = (arrival.context.tables, arrival.context.ingress);
        let (network, _) = tables.ipip_peer(ingress, underlay)?;
        Train::new(arrival, network, dst, Tunnel::Ipip)
    }

    /// Whether packets in VXLAN to this port that begin with this are of its network.
    #[inline(always)]
    fn begins(&self, udp_port: u16, front: [u64; 2]) -> bool {
        self.udp_port == udp_port && self.front == front
    }

    /// Whether a packet comes from the peer of the network that has its source. A
    /// route leads to a peer of its own network, where only one has an address: it
    /// is the one that the outer source stands for.
    #[inline(always)]
    fn comes_from(
        &self,
        tables: &Tables<'_>,
        (underlay, encap): (&IpAddr, Encap),
        src: Ipv4Addr,
    ) -> bool {
        let route = tables.routes.lookup_from(self.routes, src).peer_id();
        let peer = route.and_then(|id| tables.peers.get(id.index()));
        peer.is_some_and(|peer| peer.is_at(underlay) && peer.accepts.contains(encap))
    }

    /// As [`Train::comes_from`], with a look at where the last packet came from.
    #[inline(always)]
    fn comes_from_same(
        &self,
        (tables, last): (&'t Tables<'_>, &mut Source<'t>),
        (underlay, encap): (&IpAddr, Encap),
        src: Ipv4Addr,
    ) -> bool {
        if src != last.address {
            let route = tables.routes.lookup_from(self.routes, src).peer_id();
            let peer = route.and_then(|id| tables.peers.get(id.index()));
            *last = Source { address: src, peer };
        }
        let peer = last.peer;
        peer.is_some_and(|peer| peer.is_at(underlay) && peer.accepts.contains(encap))
    }

    /// As [`Train::comes_from`], where it costs a call.
    #[cold]
    #[inline(never)]
    fn comes_from_now(&self, tables: &'t Tables<'_>, underlay: IpAddr, src: Ipv4Addr) -> bool {
        self.comes_from(tables, (&underlay, Encap::Ipip), src)
    }

    /// Goes to another pod from now on.
    #[inline(never)]
    fn turn(&mut self, tables: &Tables<'_>, dst: Ipv4Addr) -> Option<()> {
        self.stop = Stop::at(tables, self.network, dst)?;
        Some(())
    }

    /// Whether a packet is one segment with nothing left to do on it.
    #[inline(always)]
    fn is_done(&self, plain: &Plain, content: Content<'_>) -> Option<()> {
        let unchecked = content.unchecked;
        match plain.protocol {
            ip::UDP => {
                let field = content.front.last_chunk()?;
                if unchecked && may_be_unfinished(plain, ip::UDP, field) {
                    return None;
                }
            }
            _ => {
                // A longer segment is one that stands for several.
                if plain.total_len > self.longest || plain.may_be_clamped(self.network) {
                    return None;
                }
                // Of TCP, 16 bytes are in front of it.
                let field = content.rest.get(8..)?.first_chunk()?;
                if unchecked && may_be_unfinished(plain, ip::TCP, field) {
                    return None;
                }
            }
        }
        Some(())
    }

    /// Takes a packet that comes from its peer along, unless something about it needs
    /// a second look.
    #[inline(always)]
    fn take(&mut self, tables: &Tables<'_>, plain: &Plain, outer_tos: u8) -> Option<()> {
        let network = self.network;
        if !is_plain_host(plain.src)
            || may_be_gateway(self.gateways, plain.src) && plain.src.is_in(&network.gateways)
        {
            return None;
        }
        // An outer header without ECN changes nothing.
        let ecn = Some(plain.tos & 3);
        if outer_tos & 3 != 0 && decap::merged_ecn(plain.tos, outer_tos) != ecn {
            return None;
        }
        if plain.dst != self.stop.dst {
            self.turn(tables, plain.dst)?;
        }
        (plain.total_len <= self.stop.mtu).then_some(())
    }

    /// Takes along a packet in VXLAN to a UDP port that begins with these bytes.
    #[inline(always)]
    pub(super) fn admit_vxlan(
        &mut self,
        (arrival, mut last): (&Arrival<'t, '_>, Option<&mut Source<'t>>),
        (udp_port, begin): (u16, &[u8; BEGIN]),
        content: Content<'_>,
    ) -> Option<Plain> {
        let (begin, ethertype) = begin.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
        if ethertype.last_chunk() != Some(&ethernet::IPV4.to_be_bytes()) {
            return None;
        }
        let plain = Plain::parse(content.front, content.room)?;
        if !self.begins(udp_port, words(begin)) {
            *self = Train::of_vxlan(arrival, (udp_port, begin), plain.dst)?;
            if let Some(last) = &mut last {
                **last = Source::NONE;
            }
        }
        self.is_done(&plain, content)?;
        let tables = arrival.context.tables;
        let from = (content.src, Encap::Vxlan);
        let comes = match last {
            Some(last) => self.comes_from_same((tables, last), from, plain.src),
            None => self.comes_from(tables, from, plain.src),
        };
        if !comes {
            return None;
        }
        self.take(tables, &plain, *content.tos)?;
        Some(plain)
    }

    /// Takes along a packet in IP in IP.
    #[inline(always)]
    pub(super) fn admit_ipip(
        &mut self,
        (arrival, mut last): (&Arrival<'t, '_>, Option<&mut Source<'t>>),
        content: Content<'_>,
    ) -> Option<Plain> {
        let tables = arrival.context.tables;
        let plain = Plain::parse(content.front, content.room)?;
        // Only one peer at an address, of all networks, may send this way: if the last
        // network has it, it is the one.
        let from = (content.src, Encap::Ipip);
        let comes = match &mut last {
            Some(last) => self.comes_from_same((tables, last), from, plain.src),
            None => self.comes_from(tables, from, plain.src),
        };
        if !comes {
            if let Some(last) = last {
                *last = Source::NONE;
            }
            *self = Train::of_ipip(arrival, *content.src, plain.dst)?;
            if !self.comes_from_now(tables, *content.src, plain.src) {
                return None;
            }
        }
        self.is_done(&plain, content)?;
        self.take(tables, &plain, *content.tos)?;
        Some(plain)
    }

    /// Lets the packet off that was taken along last: writes its Ethernet header and
    /// lowers its TTL.
    #[inline(always)]
    pub(super) fn let_off(&self, macs: &mut [u8; ethernet::HEADER_LEN], packet: &mut [u8; PACKET]) {
        *macs = self.stop.ethernet;
        ipv4::lower_ttl(packet);
    }

    /// The port that it goes to.
    #[inline(always)]
    pub(super) fn port(&self) -> PortId {
        self.stop.port
    }
}

/// Out of VXLAN to a pod.
#[inline(always)]
pub(super) fn from_vxlan<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &mut Frame<'_>,
    train: &mut Train<'t>,
) -> Option<Sent> {
    if !is_finished(frame) {
        return None;
    }
    let start = frame.headroom() + vxlan::HEADER_LEN;
    let unchecked = frame.checksum == Checksum::None;
    let front = frame.front_mut::<IN_VXLAN>(0)?;
    let outer = front.outer.as_ref()?;
    let OuterL4::Udp {
        dst_port: udp_port, ..
    } = outer.l4
    else {
        return None;
    };
    let (begin, packet) = front.bytes.split_first_chunk_mut::<BEGIN>()?;
    let packet = packet.first_chunk_mut()?;
    let content = Content {
        front: packet,
        rest: front.rest,
        room: PACKET + front.rest.len(),
        unchecked,
        src: &outer.src,
        tos: &outer.tos,
    };
    let plain = train.admit_vxlan((arrival, None), (udp_port, begin), content)?;
    train.let_off(begin.last_chunk_mut()?, packet);
    *front.outer = None;
    let len = plain.len_behind(ethernet::HEADER_LEN);
    frame.place(start, len);
    Some((train.port(), len))
}

/// Out of IP in IP to a pod, behind an Ethernet header, for which there must be room
/// in the largest frame, too.
#[inline(always)]
pub(super) fn from_ipip<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &mut Frame<'_>,
    train: &mut Train<'t>,
) -> Option<Sent> {
    const ALL: usize = ethernet::HEADER_LEN + PACKET;
    const LONGEST: usize = 65_535 - ethernet::HEADER_LEN;
    if !is_finished(frame) {
        return None;
    }
    let start = frame.headroom().checked_sub(ethernet::HEADER_LEN)?;
    let unchecked = frame.checksum == Checksum::None;
    let front = frame.front_mut::<ALL>(ethernet::HEADER_LEN)?;
    let outer = front.outer.as_ref()?;
    let OuterL4::Ip { protocol: ip::IPV4 } = outer.l4 else {
        return None;
    };
    if PACKET + front.rest.len() > LONGEST {
        return None;
    }
    let (macs, packet) = front.bytes.split_first_chunk_mut()?;
    let packet = packet.first_chunk_mut()?;
    let content = Content {
        front: packet,
        rest: front.rest,
        room: PACKET + front.rest.len(),
        unchecked,
        src: &outer.src,
        tos: &outer.tos,
    };
    let plain = train.admit_ipip((arrival, None), content)?;
    train.let_off(macs, packet);
    *front.outer = None;
    let len = plain.len_behind(ethernet::HEADER_LEN);
    frame.place(start, len);
    Some((train.port(), len))
}
