//! What the core is to know of the cluster: the configuration as operations.

use std::net::IpAddr;

use culvert_core::channel::{
    Encap, EncapSet, Endpoint, Network, NetworkOptions, NextHop, Offloads, Operation, Peer, Port,
    PortKind, Proxy, Route,
};
use culvert_core::{InvalidVni, IpPrefix, MacAddr, NetworkId, PeerId, PortId, Vni, heapless};
use ipnet::IpNet;

use crate::config::{Config, Node};
use crate::state::Attachment;

/// The underlay's port.
pub(super) const UNDERLAY: PortId = PortId(0);
/// The host's port.
pub(super) const HOST: PortId = PortId(1);
/// The pods' ports, as many as the core's storage has.
pub(super) const POD_PORTS: std::ops::RangeInclusive<u16> = 2..=4095;
/// The one network of this configuration.
pub(super) const NETWORK: NetworkId = NetworkId(0);
/// What VXLAN over IPv4 takes from the underlay's MTU, in bytes.
pub(super) const OVERHEAD: u32 = 50;

/// A configuration that the core has no form for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterError {
    /// The VNI needs more than 24 bits.
    #[error(transparent)]
    Vni(#[from] InvalidVni),
    /// More nodes than peer ids.
    #[error("{0} nodes are more than the core can have as peers")]
    TooManyNodes(usize),
    /// An MTU beyond 16 bits.
    #[error("an MTU of {0} is more than the core can handle; it takes up to 65535")]
    Mtu(u32),
}

/// This node's own address in the pods' network: the first of its block.
pub(super) fn node_address(node: &Node) -> IpAddr {
    node.pods.network()
}

/// The peer id of a node: its place in the cluster file.
fn peer_id(index: usize) -> Result<PeerId, ClusterError> {
    u16::try_from(index)
        .map(PeerId)
        .map_err(|_| ClusterError::TooManyNodes(index))
}

/// The node that a peer id stands for.
pub(super) fn node_of(config: &Config, peer: PeerId) -> Option<&Node> {
    config.cluster.nodes.get(usize::from(peer.0))
}

/// The underlay, the network, the host, the peers and their routes.
///
/// # Errors
/// [`ClusterError`].
pub(super) fn operations(
    config: &Config,
    underlay_mtu: u32,
) -> Result<Vec<Operation>, ClusterError> {
    let own = &config.node;
    let network = &config.cluster.network;
    let mut operations = vec![
        Operation::UpsertPort(Port {
            id: UNDERLAY,
            mtu: mtu(underlay_mtu)?,
            mac: MacAddr::ZERO,
            offloads: Offloads::NONE,
            kind: PortKind::Underlay,
        }),
        Operation::UpsertNetwork(Network {
            id: NETWORK,
            vni: Vni::new(network.vni)?,
            udp_port: network.udp_port,
            local: own.underlay,
            vtep_mac: own.vtep().into(),
            gateways: one(network.gateway),
            gateway_mac: network.gateway_mac.into(),
            node_addresses: one(node_address(own)),
            prefixes: heapless::Vec::new(),
            proxy: Proxy::LinkLocal,
            options: NetworkOptions::NONE,
            underlay: UNDERLAY,
        }),
        // An address of this node's block that no pod has must not leave by a wider route.
        route(own.pods, NextHop::Blackhole),
        route(host_net(node_address(own)), NextHop::Host),
        route(host_net(own.underlay), NextHop::Host),
    ];
    for (index, node) in config.cluster.nodes.iter().enumerate() {
        if node.name == own.name {
            continue;
        }
        let peer = peer_id(index)?;
        operations.push(Operation::UpsertPeer(Peer {
            id: peer,
            network: NETWORK,
            underlay: node.underlay,
            vtep_mac: node.vtep().into(),
            node_addresses: one(node.underlay),
            accepts: EncapSet::of(&[Encap::Vxlan]),
            transit: false,
        }));
        let next_hop = NextHop::Peer {
            peer,
            encap: Encap::Vxlan,
        };
        operations.push(route(node.pods, next_hop));
        operations.push(route(host_net(node.underlay), next_hop));
    }
    Ok(operations)
}

/// The host's port.
///
/// # Errors
/// [`ClusterError::Mtu`].
pub(super) fn host_port(mac: [u8; 6], pod_mtu: u32) -> Result<Operation, ClusterError> {
    Ok(Operation::UpsertPort(Port {
        id: HOST,
        mtu: mtu(pod_mtu)?,
        mac: MacAddr::new(mac),
        offloads: Offloads::CHECKSUM,
        kind: PortKind::Host { network: NETWORK },
    }))
}

/// A pod's port.
///
/// # Errors
/// [`ClusterError::Mtu`].
pub(super) fn pod_port(attachment: &Attachment, pod_mtu: u32) -> Result<Port, ClusterError> {
    Ok(Port {
        id: PortId(attachment.port),
        mtu: mtu(pod_mtu)?,
        mac: attachment.mac.into(),
        offloads: Offloads::CHECKSUM,
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
    let prefix = prefix.trunc();
    Operation::UpsertRoute(Route {
        network: NETWORK,
        prefix: IpPrefix::new(prefix.network(), prefix.prefix_len())
            .expect("a truncated prefix has no host bits"),
        next_hop,
    })
}

fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn one<const N: usize>(address: IpAddr) -> heapless::Vec<IpAddr, N> {
    std::iter::once(address).collect()
}
