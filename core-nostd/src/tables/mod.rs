//! The tables: what the pipeline reads and the control channel writes.
//!
//! Code and storage are apart: [`storage::Storage`] has the capacities as const
//! generics, [`Tables`] borrows its arrays as slices and is not generic.

mod check;
pub(crate) mod entry;
pub(crate) mod error;
pub(crate) mod read;
mod room;
pub(crate) mod routes;
pub(crate) mod storage;
pub(crate) mod sync;
mod underlays;
mod update;

use core::net::IpAddr;

use crate::addr::Key;
use crate::channel::{Encap, NextHop};
use crate::neighbors::Neighbors;
use crate::{NetworkId, PeerId, PortId, Vni};
use entry::{Lookup, NetworkEntry, PeerEntry, PortEntry, PortRole};
use room::Used;
use routes::{Code, Routes};
use sync::Progress;
use underlays::Underlays;

/// The tables as the code sees them.
pub(crate) struct Tables<'a> {
    pub(crate) networks: &'a mut [NetworkEntry],
    pub(crate) ports: &'a mut [PortEntry],
    pub(crate) peers: &'a mut [PeerEntry],
    /// (network, prefix) → next hop.
    pub(crate) routes: Routes<'a>,
    /// (network, underlay address) → peer.
    pub(crate) peers_by_underlay: Underlays<'a>,
    /// (raw port, address on its link) → MAC address.
    pub(crate) neighbors: Neighbors<'a>,
    pub(crate) used: &'a mut Used,
    /// The UDP ports of tunnels; see [`Tables::is_tunnel_port`].
    pub(crate) tunnel_ports: &'a mut u64,
    pub(crate) sync: &'a mut Progress,
}

impl Tables<'_> {
    /// The network with this id.
    #[inline(always)]
    pub(crate) fn network(&self, id: NetworkId) -> Option<&NetworkEntry> {
        self.networks.get(id.index()).filter(|entry| entry.present)
    }

    /// The port with this id.
    #[inline(always)]
    pub(crate) fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports
            .get(id.index())
            .filter(|entry| entry.role != PortRole::Absent)
    }

    /// The peer with this id.
    #[inline(always)]
    pub(crate) fn peer(&self, id: PeerId) -> Option<&PeerEntry> {
        self.peers.get(id.index()).filter(|entry| entry.present)
    }

    /// The network that has this VNI on this UDP port.
    #[inline(always)]
    pub(crate) fn network_by_vni(&self, udp_port: u16, vni: Vni) -> Option<&NetworkEntry> {
        self.networks
            .iter()
            .find(|entry| entry.present && entry.vni == vni && entry.udp_port == udp_port)
    }

    /// The peer of a network at this underlay address.
    #[inline(always)]
    pub(crate) fn peer_by_underlay(
        &self,
        network: &NetworkEntry,
        underlay: IpAddr,
    ) -> Option<(PeerId, &PeerEntry)> {
        let find = |key| self.peers_by_underlay.find(self.peers, network.id, key);
        // Of each version alone the key is half known.
        match underlay {
            IpAddr::V4(v4) => find(Key::v4(v4.to_bits(), 32)),
            v6 => find(Key::host(v6)),
        }
    }

    /// The network on this underlay port, and its peer at this underlay address,
    /// that takes IP in IP from there; otherwise the first that knows the peer.
    pub(crate) fn ipip_peer(
        &self,
        port: PortId,
        underlay: IpAddr,
    ) -> Option<(&NetworkEntry, (PeerId, &PeerEntry))> {
        self.sender(port, Encap::Ipip, |network| {
            self.peer_by_underlay(network, underlay)
        })
    }

    /// The network on this raw port, and its peer, that a packet without a tunnel
    /// comes from: its source routes back there, and the peer may do so; otherwise
    /// the first that has such a route.
    pub(crate) fn direct_peer(
        &self,
        port: PortId,
        src: IpAddr,
    ) -> Option<(&NetworkEntry, (PeerId, &PeerEntry))> {
        self.sender(port, Encap::Direct, |network| {
            match self.route(network, src)? {
                NextHop::Peer { peer, .. } => Some((peer, self.peer(peer)?)),
                _ => None,
            }
        })
    }

    /// Who sent a packet that names no network: of the networks on a port the one
    /// whose peer may send it so; otherwise the first that knows the peer.
    fn sender<'s>(
        &'s self,
        port: PortId,
        encap: Encap,
        peer_in: impl Fn(&'s NetworkEntry) -> Option<(PeerId, &'s PeerEntry)>,
    ) -> Option<(&'s NetworkEntry, (PeerId, &'s PeerEntry))> {
        let mut known = None;
        let networks = self.networks.iter();
        for network in networks.filter(|n| n.present && n.underlay == port) {
            let Some(peer) = peer_in(network) else {
                continue;
            };
            if peer.1.accepts.contains(encap) {
                return Some((network, peer));
            }
            known = known.or(Some((network, peer)));
        }
        known
    }

    /// The next hop of the longest prefix that holds `address`.
    #[inline(always)]
    pub(crate) fn route<A: Lookup>(&self, network: &NetworkEntry, address: A) -> Option<NextHop> {
        self.route_code(network, address).next_hop()
    }

    /// What [`Tables::route`] answers, as it is kept.
    #[inline(always)]
    pub(crate) fn route_code<A: Lookup>(&self, network: &NetworkEntry, address: A) -> Code {
        self.routes.lookup(network.id, address)
    }

    /// Whether this is the underlay address of a node (this one or a peer) in any network.
    pub(crate) fn is_node_underlay(&self, address: IpAddr) -> bool {
        self.networks.iter().filter(|n| n.present).any(|network| {
            network.local.address() == address || self.peer_by_underlay(network, address).is_some()
        })
    }

    /// Whether any network has its tunnels on this UDP port. One bit for 1024 ports
    /// tells that of nearly all there is none, without a look at the networks.
    #[inline(always)]
    pub(crate) fn is_tunnel_port(&self, udp_port: u16) -> bool {
        self.may_be_tunnel_port(udp_port) && self.has_tunnel_port(udp_port)
    }

    /// Whether that is not out of the question at the first glance.
    #[inline(always)]
    pub(crate) fn may_be_tunnel_port(&self, udp_port: u16) -> bool {
        *self.tunnel_ports >> (udp_port % 64) & 1 != 0
    }

    #[cold]
    fn has_tunnel_port(&self, udp_port: u16) -> bool {
        self.networks
            .iter()
            .any(|network| network.present && network.udp_port == udp_port)
    }

    /// Takes in that a network came, changed or went.
    fn survey_tunnel_ports(&mut self) {
        let networks = self.networks.iter().filter(|network| network.present);
        let bits = networks.map(|network| 1 << (network.udp_port % 64));
        *self.tunnel_ports = bits.fold(0, |all, bit| all | bit);
    }
}
