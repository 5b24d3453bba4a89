//! What the daemon works by at the moment: the configuration, this node's place on the
//! underlay, and the ids of the other nodes. A reload, or a change of the underlay's
//! device, replaces it as a whole.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use culvert_core::channel::{Offloads, Owned, Peer};
use culvert_core::{PeerId, PortId};

use super::cluster::{self, ClusterError};
use super::wire::Reach;
use super::{StartError, start_error, underlay};
use crate::config::{Config, Node};
use crate::netlink::UnderlayLink;
use crate::state::Attachment;

/// What the daemon works by.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) config: Config,
    pub(super) underlay: UnderlayLink,
    /// Largest IP packet of a pod that is added now, in bytes.
    pub(super) pod_mtu: u32,
    pub(super) peers: PeerIds,
    /// What a raw underlay port is told of the wire; `None` where sockets or an appliance
    /// have the underlay.
    pub(super) reach: Option<Reach>,
}

impl Site {
    /// Nodes that have an id `before` keep it.
    pub(super) fn new(
        config: Config,
        underlay: UnderlayLink,
        before: &PeerIds,
    ) -> Result<Site, StartError> {
        Ok(Site {
            pod_mtu: underlay::pod_mtu(&config, &underlay)?,
            peers: before.assign(&config).map_err(start_error)?,
            config,
            underlay,
            reach: None,
        })
    }

    /// The MTU of a pod's interface: what it was when the pod was added. A pod that is
    /// being added gets today's.
    pub(super) fn mtu_of(&self, attachment: &Attachment) -> u32 {
        match attachment.host.mtu {
            0 => self.pod_mtu,
            mtu => mtu,
        }
    }

    /// The port that tunnels leave by.
    pub(super) fn underlay_port(&self) -> PortId {
        let offload = self.config.offload.as_ref();
        offload.map_or(cluster::UNDERLAY, |offload| PortId(offload.uplink.port))
    }

    /// Whether tunnel packets come in by this port without their outer headers.
    pub(super) fn has_sockets(&self, port: PortId) -> bool {
        self.config.offload.is_none() && self.reach.is_none() && port == cluster::UNDERLAY
    }

    /// The port by which the node itself reaches pods; an appliance need not have one.
    pub(super) fn host_port(&self) -> Option<PortId> {
        match &self.config.offload {
            None => Some(cluster::HOST),
            Some(offload) => offload.host.as_ref().map(|host| PortId(host.port)),
        }
    }

    /// What the ports of pods and host do for frames that leave by them. An appliance's
    /// send what they are given.
    pub(super) fn offloads(&self) -> Offloads {
        match self.config.offload {
            None => Offloads::CHECKSUM,
            Some(_) => Offloads::NONE,
        }
    }

    /// The other nodes by their ids.
    pub(super) fn nodes(&self) -> BTreeMap<u16, &Node> {
        let nodes = self.config.peers();
        let nodes = nodes.filter_map(|node| Some((self.peers.of(node)?.0, node)));
        nodes.collect()
    }
}

/// The ids of the other nodes in the core, by underlay address: an id cannot get
/// another one while the core has it.
#[derive(Debug, Clone, Default)]
pub(super) struct PeerIds(BTreeMap<IpAddr, PeerId>);

impl PeerIds {
    /// The ids that a core has from an earlier daemon.
    pub(super) fn of_core(peers: &[(Owned<Peer>, u32)]) -> PeerIds {
        let peers = peers.iter().map(|(peer, _)| &peer.entry);
        PeerIds(peers.map(|peer| (peer.underlay, peer.id)).collect())
    }

    /// Ids for the nodes of a configuration: who had one keeps it. Nobody gets one of a
    /// node that is gone, which the core has until all others are there.
    ///
    /// # Errors
    /// [`ClusterError::TooManyNodes`].
    fn assign(&self, config: &Config) -> Result<PeerIds, ClusterError> {
        let taken: HashSet<u16> = self.0.values().map(|id| id.0).collect();
        let mut free = (0..=u16::MAX).filter(|id| !taken.contains(id));
        let mut ids = BTreeMap::new();
        for node in config.peers() {
            let id = match self.0.get(&node.underlay) {
                Some(id) => *id,
                None => free.next().map(PeerId).ok_or(ClusterError::TooManyNodes)?,
            };
            ids.insert(node.underlay, id);
        }
        Ok(PeerIds(ids))
    }

    /// The id of a node.
    pub(super) fn of(&self, node: &Node) -> Option<PeerId> {
        self.0.get(&node.underlay).copied()
    }
}
