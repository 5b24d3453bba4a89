//! From a pod into a tunnel.

use core::net::Ipv4Addr;

use super::super::route::Tunnel;
use super::super::{Context, deliver};
use super::Sent;
use super::plain::{
    IN_VXLAN, PACKET, Plain, ethernet, is_finished, is_plain_host, may_be_gateway, words,
};
use crate::channel::{Encap, NetworkOptions};
use crate::fib::Root;
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PeerEntry, PortEntry, PortRole};
use crate::wire::{ethernet, ip, ipv4, vxlan};
use crate::{Frame, Instant, MacAddr, Outer, OuterL4};

/// What is the same for all plain packets of a pod.
pub(super) struct Lane<'t> {
    now: Instant,
    pub(super) network: &'t NetworkEntry,
    /// The port that they leave by.
    pub(super) underlay: &'t PortEntry,
    routes: Root<'t>,
    port: &'t PortEntry,
    /// What they begin with: the gateway's and the pod's MAC address, and IPv4.
    ethernet: [u64; 2],
    /// The pod's first address.
    address: Ipv4Addr,
    /// A prefix that holds all the gateway's addresses, and its mask.
    gateways: (u32, u32),
    pub(super) header: [u8; vxlan::HEADER_LEN],
    /// What is behind the peer's MAC address in VXLAN: that of this node, and IPv4.
    pub(super) from_vtep: [u8; 8],
    pub(super) vxlan: Tunnelled,
    pub(super) ipip: Tunnelled,
}

/// What is the same for all plain packets of a pod in one kind of tunnel.
#[derive(Clone, Copy)]
pub(super) struct Tunnelled {
    /// Largest packet that fits.
    pub(super) mtu: u16,
    /// The outer header but for what depends on the packet; always there, to be
    /// copied as a whole.
    outer: Option<Outer>,
}

impl<'t> Lane<'t> {
    /// `None` when no packet of the port can go by the fast path.
    pub(super) fn new(context: Context<'t, '_>, port: &'t PortEntry) -> Option<Self> {
        let tables = context.tables;
        let network = tables.network(port.network)?;
        let underlay = tables.port(network.underlay)?;
        if !underlay.role.is_underlay() {
            return None;
        }
        let mut header = [0; vxlan::HEADER_LEN];
        vxlan::emit(network.vni, &mut header);
        let address = port.addresses.host_v4()?;
        // Peers have the IP version of their network.
        let local = network.local.address();
        let tunnelled = |tunnel: Tunnel, l4| Tunnelled {
            mtu: underlay
                .mtu
                .saturating_sub(tunnel.overhead(local.is_ipv6())),
            outer: Some(deliver::outer(0, (network, local), l4)),
        };
        let udp = OuterL4::Udp {
            src_port: 0,
            dst_port: network.udp_port,
            checksum: !network.options.has(NetworkOptions::ZERO_UDP_CHECKSUM),
        };
        let ip = OuterL4::Ip { protocol: ip::IPV4 };
        Some(Lane {
            now: context.now,
            network,
            underlay,
            routes: tables.routes.start_v4(network.id),
            port,
            ethernet: words(&ethernet(network.gateway_mac, port.mac)),
            address,
            gateways: network.gateways.common_v4(),
            header,
            from_vtep: *ethernet(MacAddr::ZERO, network.vtep_mac).last_chunk()?,
            vxlan: tunnelled(Tunnel::Vxlan, udp),
            ipip: tunnelled(Tunnel::Ipip, ip),
        })
    }

    /// Whether the packets leave by sockets.
    pub(super) fn by_sockets(&self) -> bool {
        self.underlay.role == PortRole::Underlay
    }

    /// Whether the pod has this address.
    #[inline(always)]
    fn owns(&self, address: Ipv4Addr) -> bool {
        address == self.address || self.port.addresses.has(address)
    }

    /// Reads a packet of the pod, when that is plain.
    #[inline(always)]
    pub(super) fn examine(
        &self,
        tables: &Tables<'_>,
        macs: &[u8; ethernet::HEADER_LEN],
        (packet, rest): (&[u8; PACKET], &[u8]),
    ) -> Option<Plain> {
        if words(macs) != self.ethernet {
            return None;
        }
        let plain = Plain::parse(packet, PACKET + rest.len())?;
        let to_tunnel = plain.protocol == ip::UDP && tables.may_be_tunnel_port(plain.dst_port());
        if to_tunnel
            || !self.owns(plain.src)
            || !is_plain_host(plain.dst)
            || may_be_gateway(self.gateways, plain.dst)
            || plain.may_be_clamped(self.network)
        {
            return None;
        }
        Some(plain)
    }

    /// The peer that a packet goes to, and in what.
    #[inline(always)]
    pub(super) fn route<'p>(
        &self,
        tables: &'p Tables<'_>,
        dst: Ipv4Addr,
    ) -> Option<(&'p PeerEntry, Encap)> {
        let (peer, encap) = tables.routes.lookup_from(self.routes, dst).peer()?;
        let peer = tables
            .peer(peer)
            .filter(|peer| peer.path_mtu(self.now).is_none())?;
        Some((peer, encap))
    }
}

/// The source port of a packet in VXLAN.
#[inline(always)]
pub(super) fn source_port(plain: &Plain) -> u16 {
    let addresses = ip::mix_v4(plain.src, plain.dst);
    deliver::source_port(deliver::hash(addresses, plain.protocol, plain.ports))
}

/// From a pod into a tunnel.
#[inline(always)]
pub(super) fn from_endpoint(
    tables: &Tables<'_>,
    lane: &Lane<'_>,
    frame: &mut Frame<'_>,
) -> Option<Sent> {
    if !is_finished(frame) {
        return None;
    }
    let start = frame.headroom();
    let front = frame.front_mut::<IN_VXLAN>(vxlan::HEADER_LEN)?;
    let (header, rest) = front.bytes.split_first_chunk_mut()?;
    let (macs, packet) = rest.split_first_chunk_mut()?;
    let packet = packet.first_chunk_mut()?;
    let plain = lane.examine(tables, macs, (packet, front.rest))?;
    let (peer, encap) = lane.route(tables, plain.dst)?;
    let (start, len) = match encap {
        Encap::Vxlan if plain.total_len <= lane.vxlan.mtu => {
            *header = lane.header;
            *macs.first_chunk_mut()? = peer.vtep_mac.bytes();
            *macs.last_chunk_mut()? = lane.from_vtep;
            *front.outer = lane.vxlan.outer;
            let l4 = front.outer.as_mut().map(|outer| &mut outer.l4);
            if let Some(OuterL4::Udp { src_port, .. }) = l4 {
                *src_port = source_port(&plain);
            }
            const FRONT: usize = vxlan::HEADER_LEN + ethernet::HEADER_LEN;
            (start - vxlan::HEADER_LEN, plain.len_behind(FRONT))
        }
        Encap::Ipip if plain.total_len <= lane.ipip.mtu => {
            *front.outer = lane.ipip.outer;
            (start + ethernet::HEADER_LEN, plain.len_behind(0))
        }
        _ => return None,
    };
    ipv4::lower_ttl(packet);
    if let Some(outer) = front.outer {
        outer.dst = peer.underlay.address();
        outer.tos = plain.tos;
    }
    frame.place(start, len);
    Some((lane.network.underlay, len))
}
