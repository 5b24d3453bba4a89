//! What the core is to know of the cluster: the configuration as operations.

use std::net::IpAddr;

use culvert_core::channel::{
    EncapSet, Endpoint, Network, NetworkOptions, NextHop, Offloads, Operation, Peer, Port,
    PortKind, Route, Wire, WireAddress,
};
use culvert_core::{InvalidVni, IpPrefix, MacAddr, NetworkId, PeerId, PortId, Vni, heapless};
use ipnet::IpNet;

use super::site::Site;
use super::underlay;
use super::wire::Reach;
use crate::config::{self, Config, Node, Uplink};
use crate::mac::Mac;
use crate::state::Attachment;

/// The underlay's port where a worker forwards.
pub(super) const UNDERLAY: PortId = PortId(0);
/// The host's port there.
pub(super) const HOST: PortId = PortId(1);
/// The pods' ports there, as many as the core's storage has.
pub(super) const POD_PORTS: std::ops::RangeInclusive<u16> = 2..=4095;
/// The one network of this configuration.
pub(super) const NETWORK: NetworkId = NetworkId(0);

/// A configuration that the core has no form for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterError {
    /// The VNI needs more than 24 bits.
    #[error(transparent)]
    Vni(#[from] InvalidVni),
    /// More nodes than peer ids.
    #[error("the nodes are more than the core can have as peers")]
    TooManyNodes,
    /// An MTU beyond 16 bits.
    #[error("an MTU of {0} is more than the core can handle; it takes up to 65535")]
    Mtu(u32),
}

/// All that the cluster owns in the core: the underlay, the network, the host, the
/// peers and their routes, what others refer to first.
///
/// # Errors
/// [`ClusterError`].
pub(super) fn operations(site: &Site) -> Result<Vec<Operation>, ClusterError> {
    let (config, underlay) = (&site.config, &site.underlay);
    let own = &config.node;
    let mut operations = vec![underlay_port(site)?, network(site)?];
    operations.extend(host_port(site)?);
    operations.push(route(host_net(own.underlay), NextHop::Host));
    // An address of this node's block that no pod has must not leave by a wider route.
    let blocks = own.pods.iter();
    operations.extend(blocks.map(|block| route(*block, NextHop::Blackhole)));
    let addresses = own.addresses();
    operations.extend(addresses.map(|address| route(host_net(address), NextHop::Host)));
    for node in config.peers() {
        let id = site.peers.of(node).ok_or(ClusterError::TooManyNodes)?;
        operations.push(peer(&config.cluster.network, id, node));
        // What pods say to the node itself goes where their other packets go.
        for destination in node.pods.iter().copied().chain([host_net(node.underlay)]) {
            let encap = underlay::encap_to(config, underlay, (node, destination.addr()));
            operations.push(route(destination, NextHop::Peer { peer: id, encap }));
        }
    }
    Ok(operations)
}

/// The port that tunnels leave by: sockets of this node, or the appliance's raw port.
fn underlay_port(site: &Site) -> Result<Operation, ClusterError> {
    let (mac, kind) = match (&site.config.offload, &site.reach) {
        (Some(offload), _) => (offload.uplink.mac.into(), wire(&offload.uplink)),
        (None, Some(reach)) => (reach.mac.into(), reach.port_kind()),
        (None, None) => (MacAddr::ZERO, PortKind::Underlay),
    };
    let offloads = site.reach.as_ref().map(|_| Reach::OFFLOADS);
    Ok(Operation::UpsertPort(Port {
        id: site.underlay_port(),
        mtu: mtu(site.underlay.link.mtu)?,
        mac,
        offloads: offloads.unwrap_or(Offloads::NONE),
        kind,
    }))
}

fn wire(uplink: &Uplink) -> PortKind {
    let addresses = uplink.addresses.iter().map(|own| WireAddress {
        address: own.addr(),
        prefix_length: own.prefix_len(),
    });
    // The configuration has at most as many of both.
    PortKind::Wire(Wire {
        addresses: addresses.collect(),
        gateways: uplink.gateways.iter().copied().collect(),
    })
}

fn network(site: &Site) -> Result<Operation, ClusterError> {
    let config = &site.config;
    let (own, network) = (&config.node, &config.cluster.network);
    let switches = [
        (network.flood, NetworkOptions::FLOOD),
        (network.clamp_mss, NetworkOptions::CLAMP_MSS),
        (!network.udp_checksum, NetworkOptions::ZERO_UDP_CHECKSUM),
        (!network.outer_df, NetworkOptions::OUTER_MAY_FRAGMENT),
    ];
    let on = switches.into_iter().filter(|(on, _)| *on);
    Ok(Operation::UpsertNetwork(Network {
        id: NETWORK,
        vni: Vni::new(network.vni)?,
        udp_port: network.udp_port,
        local: own.underlay,
        vtep_mac: own.vtep().into(),
        gateways: network.gateways().collect(),
        gateway_mac: network.gateway_mac.into(),
        node_addresses: own.addresses().collect(),
        prefixes: network.prefixes.iter().copied().map(ip_prefix).collect(),
        proxy: network.proxy,
        options: on.fold(NetworkOptions::NONE, |all, (_, one)| all.with(one)),
        underlay: site.underlay_port(),
    }))
}

fn peer(network: &config::Network, id: PeerId, node: &Node) -> Operation {
    Operation::UpsertPeer(Peer {
        id,
        network: NETWORK,
        underlay: node.underlay,
        vtep_mac: node.vtep().into(),
        node_addresses: std::iter::once(node.underlay).collect(),
        accepts: EncapSet::of(&network.accept),
        transit: node.transit,
    })
}

/// The node's own port, if it has one.
fn host_port(site: &Site) -> Result<Option<Operation>, ClusterError> {
    let Some(id) = site.host_port() else {
        return Ok(None);
    };
    Ok(Some(Operation::UpsertPort(Port {
        id,
        mtu: mtu(site.pod_mtu)?,
        mac: host_mac(&site.config).into(),
        offloads: site.offloads(),
        kind: PortKind::Host { network: NETWORK },
    })))
}

/// The MAC address of the host's device.
pub(super) fn host_mac(config: &Config) -> Mac {
    let addresses: Vec<IpAddr> = config.node.addresses().collect();
    Mac::for_pod(&addresses)
}

/// A pod's port.
///
/// # Errors
/// [`ClusterError::Mtu`].
pub(super) fn pod_port(attachment: &Attachment, site: &Site) -> Result<Port, ClusterError> {
    Ok(Port {
        id: PortId(attachment.port),
        mtu: mtu(site.mtu_of(attachment))?,
        mac: attachment.mac.into(),
        offloads: site.offloads(),
        kind: PortKind::Endpoint(Endpoint {
            network: NETWORK,
            addresses: attachment.addresses.iter().copied().collect(),
            allowed: heapless::Vec::new(),
        }),
    })
}

fn mtu(mtu: u32) -> Result<u16, ClusterError> {
    u16::try_from(mtu).map_err(|_| ClusterError::Mtu(mtu))
}

fn route(prefix: IpNet, next_hop: NextHop) -> Operation {
    Operation::UpsertRoute(Route {
        network: NETWORK,
        prefix: ip_prefix(prefix),
        next_hop,
    })
}

fn ip_prefix(prefix: IpNet) -> IpPrefix {
    let prefix = prefix.trunc();
    IpPrefix::new(prefix.network(), prefix.prefix_len())
        .expect("a truncated prefix has no host bits")
}

fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
pub(super) mod tests;
