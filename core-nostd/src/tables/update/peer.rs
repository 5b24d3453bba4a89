//! Peers.

use core::net::IpAddr;

use zerocopy::FromZeros;

use super::{Inverse, Writer, owned, slot, slot_mut, unique, unused};
use crate::addr::Key;
use crate::channel::{Encap, Operation, PATH_MTU_LIFETIME, Peer};
use crate::tables::entry::{KeyList, PeerEntry};
use crate::tables::error::{Reason, Table, TableError};
use crate::tables::{Tables, check};
use crate::wire::ipv6;
use crate::{Instant, PeerId};

/// Smaller ones are not believed of IPv4 (as Linux' min_pmtu): a forged error
/// must not choke a tunnel.
const LEAST_PATH_MTU_V4: u16 = 552;

impl Tables<'_> {
    pub(super) fn upsert_peer(
        &mut self,
        writer: Writer,
        new: &Peer,
    ) -> Result<Inverse, TableError> {
        let old = *slot(self.peers, Table::Peers, new.id.0)?;
        owned(old.present, old.owner, writer.owner, Table::Peers)?;
        if old.present && old.message(new.id) == *new {
            slot_mut(self.peers, Table::Peers, new.id.0)?.stamp = writer.stamp;
            return Ok(Some((Operation::UpsertPeer(new.clone()), old.stamp)));
        }
        let network = *self.need_network(new.network)?;
        check::unicast_mac(new.vtep_mac)?;
        check::unicast(new.underlay)?;
        new.node_addresses
            .iter()
            .try_for_each(|a| check::unicast(*a))?;
        if let Some((taken, _)) = self.peer_by_underlay(&network, new.underlay) {
            unique(taken.0, new.id.0, Table::Peers)?;
        }
        let key = Key::host(new.underlay);
        if key == network.local {
            return Err(TableError::Conflict {
                table: Table::Networks,
                id: new.network.0,
            });
        }
        if new.underlay.is_ipv6() != network.local.address().is_ipv6() {
            return Err(TableError::Invalid(Reason::IpVersion));
        }
        self.check_ipip(new)?;
        if old.present && (old.network != new.network || old.underlay != key) {
            return Err(TableError::Invalid(Reason::Immutable));
        }
        if !old.present {
            self.admit(writer.owner, Table::Peers, 1)?;
            self.book(writer.owner, Table::Peers, 1);
            self.count_network(new.network, 1);
        }
        *slot_mut(self.peers, Table::Peers, new.id.0)? = PeerEntry {
            present: true,
            owner: writer.owner,
            stamp: writer.stamp,
            network: new.network,
            underlay: key,
            vtep_mac: new.vtep_mac,
            node_addresses: KeyList::of_addresses(&new.node_addresses),
            accepts: new.accepts,
            transit: new.transit,
            references: old.references,
            path_mtu: old.path_mtu,
            path_mtu_until: old.path_mtu_until,
        };
        if !old.present {
            self.peers_by_underlay.insert(self.peers, new.id);
        }
        let inverse = match old.present {
            true => Operation::UpsertPeer(old.message(new.id)),
            false => Operation::RemovePeer(new.id),
        };
        Ok(Some((inverse, old.stamp)))
    }

    pub(in crate::tables) fn remove_peer(
        &mut self,
        writer: Writer,
        id: PeerId,
    ) -> Result<Inverse, TableError> {
        let old = *slot(self.peers, Table::Peers, id.0)?;
        if !old.present {
            return Ok(None);
        }
        owned(true, old.owner, writer.owner, Table::Peers)?;
        unused(old.references, Table::Peers, id.0)?;
        self.peers_by_underlay.remove(self.peers, id);
        self.count_network(old.network, -1);
        self.book(writer.owner, Table::Peers, -1);
        *slot_mut(self.peers, Table::Peers, id.0)? = PeerEntry::new_zeroed();
        Ok(Some((Operation::UpsertPeer(old.message(id)), old.stamp)))
    }

    /// IP in IP has no network identifier: of the networks that have a peer at
    /// this underlay address only one can take it.
    pub(super) fn check_ipip(&self, new: &Peer) -> Result<(), TableError> {
        if !new.accepts.contains(Encap::Ipip) {
            return Ok(());
        }
        let others = self
            .networks
            .iter()
            .filter(|n| n.present && n.id != new.network);
        for network in others {
            let other = self.peer_by_underlay(network, new.underlay);
            if let Some((taken, _)) = other.filter(|(_, peer)| peer.accepts.contains(Encap::Ipip)) {
                unique(taken.0, new.id.0, Table::Peers)?;
            }
        }
        Ok(())
    }

    pub(super) fn need_peer(&self, id: PeerId) -> Result<(), TableError> {
        slot(self.peers, Table::Peers, id.0)?;
        self.peer(id).map(|_| ()).ok_or(TableError::NotFound {
            table: Table::Peers,
            id: id.0,
        })
    }

    /// Sets what is known to get to a peer, for [`PATH_MTU_LIFETIME`]; 0 forgets it.
    pub(super) fn set_path_mtu(&mut self, now: Instant, id: PeerId, mtu: u16) {
        if let Some(peer) = self.peers.get_mut(id.index()).filter(|peer| peer.present) {
            peer.believe_path_mtu(now, mtu);
        }
    }

    /// Lowers what is known to get to a peer, outer headers included; what is
    /// believed now, if that is news. 0 tells nothing.
    pub(crate) fn learn_path_mtu(&mut self, now: Instant, id: PeerId, mtu: u16) -> Option<u16> {
        let peer = self.peer(id)?;
        let port_mtu = self.port(self.network(peer.network)?.underlay)?.mtu;
        let known = peer.path_mtu(now).unwrap_or(port_mtu).min(port_mtu);
        let believed = peer.least_path_mtu().max(mtu);
        if mtu == 0 || believed >= known {
            return None;
        }
        self.set_path_mtu(now, id, mtu);
        Some(believed)
    }
}

impl PeerEntry {
    /// Largest outer packet that is known to get to it, if anything is.
    pub(crate) fn path_mtu(&self, now: Instant) -> Option<u16> {
        (self.path_mtu != 0 && now < self.path_mtu_until).then_some(self.path_mtu)
    }

    fn least_path_mtu(&self) -> u16 {
        match self.underlay.address() {
            IpAddr::V4(_) => LEAST_PATH_MTU_V4,
            IpAddr::V6(_) => ipv6::MIN_MTU,
        }
    }

    fn believe_path_mtu(&mut self, now: Instant, mtu: u16) {
        self.path_mtu = match mtu {
            0 => 0,
            _ => mtu.max(self.least_path_mtu()),
        };
        self.path_mtu_until = now.after(PATH_MTU_LIFETIME);
    }
}
