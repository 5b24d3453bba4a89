//! Route lookup: from a destination to everything that sending needs to know.

use core::net::IpAddr;

use super::{Admitted, Exit, Ip, Routed};
use crate::channel::{Encap, NextHop};
use crate::tables::Tables;
use crate::tables::entry::{NetworkEntry, PortEntry};
use crate::wire::icmpv4;
use crate::{DropReason, MacAddr, PortId, Vni};

/// A next hop, resolved.
#[derive(Clone, Copy)]
pub(super) enum Hop {
    /// A pod of this node or the host.
    Local {
        port: PortId,
        mtu: u16,
        /// Ethernet destination.
        mac: MacAddr,
        /// Ethernet source.
        gateway_mac: MacAddr,
        host: bool,
    },
    /// Another node, by VXLAN.
    Vxlan {
        port: PortId,
        /// Of the underlay.
        mtu: u16,
        tunnel: VxlanTunnel,
    },
}

/// One direction of a VXLAN tunnel.
#[derive(Clone, Copy)]
pub(super) struct VxlanTunnel {
    pub(super) vni: Vni,
    pub(super) udp_port: u16,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) src_mac: MacAddr,
    pub(super) dst_mac: MacAddr,
}

/// Looks the destination up.
pub(super) fn lookup<'f, 'b>(
    tables: &Tables<'_>,
    packet: Ip<'f, 'b, Admitted>,
) -> Result<Ip<'f, 'b, Routed>, Exit> {
    // This network is flooded nowhere.
    if packet.header.dst.is_broadcast() || packet.header.dst.is_multicast() {
        return Err(DropReason::DestinationGroup.into());
    }
    let no_route = || DropReason::NoRoute.with(icmpv4::Error::NetUnreachable);
    let network = tables.network(packet.state.network).ok_or_else(no_route)?;
    let route = tables.route(network, packet.dst()).ok_or_else(no_route)?;
    let hop = match route.next_hop {
        NextHop::Blackhole => {
            return Err(DropReason::Blackhole.with(icmpv4::Error::HostUnreachable));
        }
        NextHop::Endpoint(id) => {
            let port = tables.port(id).ok_or_else(no_route)?;
            local(network, id, port, false)
        }
        NextHop::Host => {
            if !network.has_host {
                return Err(DropReason::HostMissing.with(icmpv4::Error::HostUnreachable));
            }
            let port = tables.port(network.host).ok_or_else(no_route)?;
            local(network, network.host, port, true)
        }
        NextHop::Peer { peer, encap } => {
            let peer = tables.peer(peer).ok_or_else(no_route)?;
            let underlay = tables.port(network.underlay).ok_or_else(no_route)?;
            match encap {
                Encap::Vxlan => Hop::Vxlan {
                    port: network.underlay,
                    mtu: underlay.mtu,
                    tunnel: VxlanTunnel {
                        vni: network.vni,
                        udp_port: network.udp_port,
                        src: network.local.address(),
                        dst: peer.underlay.address(),
                        src_mac: network.vtep_mac,
                        dst_mac: peer.vtep_mac,
                    },
                },
                // The tables take no such route in this version.
                Encap::Ipip | Encap::Direct => return Err(no_route()),
            }
        }
    };
    Ok(packet.with(Routed { hop }))
}

fn local(network: &NetworkEntry, id: PortId, port: &PortEntry, host: bool) -> Hop {
    Hop::Local {
        port: id,
        mtu: port.mtu,
        mac: port.mac,
        gateway_mac: network.gateway_mac,
        host,
    }
}
