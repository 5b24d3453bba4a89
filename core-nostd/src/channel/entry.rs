//! Entries with what most of them have, for shells that write them by hand. Fields
//! that differ are set afterwards: all of them are public.

use core::net::{IpAddr, Ipv4Addr};

use heapless::Vec;

use super::{
    Encap, EncapSet, Endpoint, Network, NetworkOptions, NextHop, Offloads, Peer, Port, PortKind,
    Proxy, Route,
};
use crate::{IpPrefix, MacAddr, NetworkId, PeerId, PortId, Vni};

/// VXLAN's UDP port (RFC 7348 section 8.1); Linux and flannel use 8472.
const VXLAN_PORT: u16 = 4789;

impl Network {
    /// A network of VXLAN tunnels on UDP port 4789 between this node's address
    /// `local` and others, by the port `underlay`.
    ///
    /// Its gateway is 169.254.1.1 with the MAC address ee:ee:ee:ee:ee:ee; it has no
    /// node addresses, no prefixes and no options.
    pub fn new(id: NetworkId, vni: Vni, local: IpAddr, underlay: PortId) -> Self {
        Network {
            id,
            vni,
            udp_port: VXLAN_PORT,
            local,
            vtep_mac: MacAddr::vtep_for(local),
            gateways: one(Ipv4Addr::new(169, 254, 1, 1).into()),
            gateway_mac: MacAddr::new([0xee; 6]),
            node_addresses: Vec::new(),
            prefixes: Vec::new(),
            proxy: Proxy::LinkLocal,
            options: NetworkOptions::NONE,
            underlay,
        }
    }
}

impl Port {
    /// A port without a MAC address of its own and without offloads.
    pub fn new(id: PortId, mtu: u16, kind: PortKind) -> Self {
        Port {
            id,
            mtu,
            mac: MacAddr::ZERO,
            offloads: Offloads::NONE,
            kind,
        }
    }

    /// A pod's port, without offloads. Its MTU is the underlay's less what the
    /// tunnel adds: 50 for VXLAN over IPv4, 70 over IPv6.
    pub fn endpoint(id: PortId, mtu: u16, mac: MacAddr, endpoint: Endpoint) -> Self {
        Port {
            mac,
            ..Port::new(id, mtu, PortKind::Endpoint(endpoint))
        }
    }
}

impl Endpoint {
    /// An endpoint with one address and no further allowed prefixes.
    pub fn with_address(network: NetworkId, address: IpAddr) -> Self {
        Endpoint {
            network,
            addresses: one(address),
            allowed: Vec::new(),
        }
    }
}

impl Peer {
    /// A node with the MAC address that culvert gives to its VTEP, which sends
    /// nothing but VXLAN and nothing from an address of its own.
    pub fn new(id: PeerId, network: NetworkId, underlay: IpAddr) -> Self {
        Peer {
            id,
            network,
            underlay,
            vtep_mac: MacAddr::vtep_for(underlay),
            node_addresses: Vec::new(),
            accepts: EncapSet::of(&[Encap::Vxlan]),
            transit: false,
        }
    }

    /// A route to a prefix behind this node.
    pub fn route(&self, prefix: IpPrefix, encap: Encap) -> Route {
        Route {
            network: self.network,
            prefix,
            next_hop: NextHop::Peer {
                peer: self.id,
                encap,
            },
        }
    }
}

fn one<T, const N: usize>(item: T) -> Vec<T, N> {
    let mut list = Vec::new();
    // One fits.
    let _ = list.push(item);
    list
}
