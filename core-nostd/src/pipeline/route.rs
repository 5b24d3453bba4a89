//! Route lookup: from a destination to everything that sending needs to know.

use super::{Admitted, Context, Exit, Ip};
use crate::channel::{Encap, NextHop};
use crate::tables::entry::{NetworkEntry, PeerEntry, PortEntry, PortRole};
use crate::wire::icmp::Error;
use crate::wire::ip;
use crate::{DropReason, PeerId, PortId};

/// A next hop, resolved: where to, by which port, in which network.
#[derive(Clone, Copy)]
pub(super) struct Hop<'t> {
    pub(super) way: Way<'t>,
    pub(super) port_id: PortId,
    pub(super) port: &'t PortEntry,
    pub(super) network: &'t NetworkEntry,
    /// Largest IP packet that fits, in bytes, before encapsulation.
    pub(super) mtu: u16,
}

/// How a packet gets to its next hop.
#[derive(Clone, Copy)]
pub(super) enum Way<'t> {
    /// Into a pod of this node.
    Endpoint,
    /// To the host's own network stack.
    Host,
    /// To another node through the host, whose kernel has the route.
    HostToPeer(PeerId),
    /// To another node, in a tunnel.
    Tunnel(PeerId, &'t PeerEntry, Tunnel),
    /// To another node on the link of a raw Ethernet port, without a tunnel.
    Link(PeerId, &'t PeerEntry),
}

/// An encapsulation that adds headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tunnel {
    Vxlan,
    Ipip,
}

/// Looks the destination up.
#[inline(always)]
pub(super) fn lookup<'t>(
    context: Context<'t, '_>,
    packet: &Ip<'_, '_, Admitted<'t>>,
) -> Result<Hop<'t>, Exit> {
    let tables = context.tables;
    let no_route = || DropReason::NoRoute.with(Error::NoRoute);
    let network = packet.state.network;
    // A default route leads to no loopback and off no link (RFC 1812 section
    // 5.3.7, RFC 4291 section 2.5.6), least of all to the host's own.
    if !ip::is_host(packet.dst()) || ip::is_link_local(packet.dst()) {
        return Err(no_route());
    }
    let next_hop = tables.route(network, packet.dst()).ok_or_else(no_route)?;
    match next_hop {
        NextHop::Blackhole => Err(DropReason::Blackhole.with(Error::HostUnreachable)),
        NextHop::Endpoint(id) => {
            let port = tables.port(id).ok_or_else(no_route)?;
            Ok(local(network, id, port, Way::Endpoint))
        }
        NextHop::Host => host(context, network, Way::Host),
        NextHop::Peer { peer, encap } => to_peer(context, network, peer, encap),
    }
}

#[inline(always)]
pub(super) fn local<'t>(
    network: &'t NetworkEntry,
    port_id: PortId,
    port: &'t PortEntry,
    way: Way<'t>,
) -> Hop<'t> {
    Hop {
        way,
        port_id,
        port,
        network,
        mtu: port.mtu,
    }
}

#[inline(always)]
fn host<'t>(
    context: Context<'t, '_>,
    network: &'t NetworkEntry,
    way: Way<'t>,
) -> Result<Hop<'t>, Exit> {
    let missing = || DropReason::HostMissing.with(Error::HostUnreachable);
    if !network.has_host {
        return Err(missing());
    }
    let port = context.tables.port(network.host).ok_or_else(missing)?;
    Ok(local(network, network.host, port, way))
}

/// The hop to another node.
#[inline(always)]
pub(super) fn to_peer<'t>(
    context: Context<'t, '_>,
    network: &'t NetworkEntry,
    id: PeerId,
    encap: Encap,
) -> Result<Hop<'t>, Exit> {
    let no_route = || DropReason::NoRoute.with(Error::NoRoute);
    let tables = context.tables;
    let peer = tables.peer(id).ok_or_else(no_route)?;
    let port = tables.port(network.underlay).ok_or_else(no_route)?;
    let way = match encap {
        Encap::Vxlan => Way::Tunnel(id, peer, Tunnel::Vxlan),
        Encap::Ipip => Way::Tunnel(id, peer, Tunnel::Ipip),
        // Behind sockets the kernel has the link.
        Encap::Direct if port.role == PortRole::Underlay => {
            return host(context, network, Way::HostToPeer(id));
        }
        Encap::Direct => Way::Link(id, peer),
    };
    let path_mtu = peer.path_mtu(context.now).unwrap_or(port.mtu);
    let link_mtu = port.mtu.min(path_mtu);
    Ok(Hop {
        way,
        port_id: network.underlay,
        port,
        network,
        mtu: link_mtu.saturating_sub(overhead(&way)),
    })
}

/// Bytes that a tunnel adds to an IP packet.
#[inline(always)]
fn overhead(way: &Way<'_>) -> u16 {
    match way {
        Way::Tunnel(_, peer, tunnel) => tunnel.overhead(peer.underlay.address().is_ipv6()),
        _ => 0,
    }
}

impl Tunnel {
    /// Bytes that it adds to an IP packet: the outer IP header (20 or 40) and, for
    /// VXLAN, UDP 8, VXLAN 8 and inner Ethernet 14.
    pub(super) const fn overhead(self, over_v6: bool) -> u16 {
        let ip = match over_v6 {
            false => 20,
            true => 40,
        };
        match self {
            Tunnel::Vxlan => ip + 30,
            Tunnel::Ipip => ip,
        }
    }
}
