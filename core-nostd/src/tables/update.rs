//! Transactions: every change of a table goes through here.
//!
//! An operation checks everything first and then changes; a transaction keeps
//! the inverse of each operation done and, when one is refused, carries them out
//! backwards. The log holds [`MAX_OPERATIONS`] operations, about 5 KiB of stack.

use heapless::Vec;

use super::entry::{KeyList, NetworkEntry, PeerEntry, PortEntry, PortRole, RouteEntry};
use super::error::{Feature, Reason, Table, TableError};
use super::{Tables, check};
use crate::addr::Key;
use crate::channel::{
    Encap, MAX_OPERATIONS, Network, NextHop, Operation, Owner, Peer, Port, PortStats, Route,
};
use crate::{IpPrefix, NetworkId, PeerId, PortId};
use zerocopy::FromZeros;

/// What undoes an operation; `None` when it changed nothing.
type Inverse = Option<Operation>;

impl Tables<'_> {
    /// Carries out all operations or none; see [`crate::Gateway::apply`].
    pub(crate) fn apply(
        &mut self,
        owner: Owner,
        operations: &[Operation],
    ) -> Result<(), (usize, TableError)> {
        // The log must be able to undo all of them.
        if operations.len() > MAX_OPERATIONS {
            let limit = u32::try_from(MAX_OPERATIONS).unwrap_or(u32::MAX);
            return Err((MAX_OPERATIONS, TableError::TooManyOperations { limit }));
        }
        let mut log = Vec::<Operation, MAX_OPERATIONS>::new();
        for (index, operation) in operations.iter().enumerate() {
            match self.apply_one(owner, operation) {
                Ok(None) => {}
                Ok(Some(inverse)) => {
                    // As long as the list of operations, whose length was checked.
                    let _ = log.push(inverse);
                }
                Err(error) => {
                    while let Some(inverse) = log.pop() {
                        let undone = self.apply_one(owner, &inverse);
                        debug_assert!(undone.is_ok(), "undo was refused: {undone:?}");
                    }
                    return Err((index, error));
                }
            }
        }
        // What is undone by a removal was added: its counts start at zero. Until
        // here they stayed, so that undoing a removal brings them back.
        for inverse in &log {
            if let Operation::RemovePort(id) = inverse
                && let Some(port) = self.ports.get_mut(id.index())
            {
                port.stats = PortStats::default();
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, owner: Owner, operation: &Operation) -> Result<Inverse, TableError> {
        match operation {
            Operation::UpsertNetwork(network) => self.upsert_network(owner, network),
            Operation::RemoveNetwork(id) => self.remove_network(owner, *id),
            Operation::UpsertPort(port) => self.upsert_port(owner, port),
            Operation::RemovePort(id) => self.remove_port(owner, *id),
            Operation::UpsertPeer(peer) => self.upsert_peer(owner, peer),
            Operation::RemovePeer(id) => self.remove_peer(owner, *id),
            Operation::UpsertRoute(route) => self.upsert_route(owner, route),
            Operation::RemoveRoute { network, prefix } => {
                self.remove_route(owner, *network, *prefix)
            }
        }
    }

    fn upsert_network(&mut self, owner: Owner, new: &Network) -> Result<Inverse, TableError> {
        let old = *slot(self.networks, Table::Networks, new.id.0)?;
        owned(old.present, old.owner, owner, Table::Networks)?;
        check::network(new)?;
        let underlay = self.port(new.underlay).ok_or(TableError::NotFound {
            table: Table::Ports,
            id: new.underlay.0,
        })?;
        if underlay.role != PortRole::Underlay {
            return Err(TableError::Invalid(Reason::PortKind));
        }
        if let Some(taken) = self.network_by_vni(new.udp_port, new.vni) {
            unique(taken.id.0, new.id.0, Table::Networks)?;
        }
        self.check_own_addresses(&old, new)?;
        if old.present {
            self.count_port(old.underlay, -1);
        }
        self.count_port(new.underlay, 1);
        let entry = slot_mut(self.networks, Table::Networks, new.id.0)?;
        *entry = NetworkEntry {
            present: true,
            owner,
            id: new.id,
            vni: new.vni,
            udp_port: new.udp_port,
            local: Key::host(new.local),
            vtep_mac: new.vtep_mac,
            gateways: KeyList::new(new.gateways.iter().map(|a| Key::host(*a))),
            gateway_mac: new.gateway_mac,
            node_address: Key::host(new.node_address),
            underlay: new.underlay,
            ..old
        };
        Ok(Some(if old.present {
            Operation::UpsertNetwork(old.message(new.id))
        } else {
            Operation::RemoveNetwork(new.id)
        }))
    }

    /// Checks that what is the gateway's own is nobody else's: no peer is at this
    /// node's underlay address, no endpoint at a gateway address.
    fn check_own_addresses(&self, old: &NetworkEntry, new: &Network) -> Result<(), TableError> {
        if let Some((taken, _)) = self.peer_by_underlay(old, new.local) {
            return Err(TableError::Conflict {
                table: Table::Peers,
                id: taken.0,
            });
        }
        for address in &new.gateways {
            let key = Key::host(*address);
            let next_hop = self.routes.get(old.route_roots.of(key), key);
            let Some(NextHop::Endpoint(id)) = next_hop.map(|route| route.next_hop) else {
                continue;
            };
            if self
                .port(id)
                .is_some_and(|port| port.addresses.has(*address))
            {
                return Err(TableError::Conflict {
                    table: Table::Ports,
                    id: id.0,
                });
            }
        }
        Ok(())
    }

    fn remove_network(&mut self, owner: Owner, id: NetworkId) -> Result<Inverse, TableError> {
        let old = *slot(self.networks, Table::Networks, id.0)?;
        if !old.present {
            return Ok(None);
        }
        owned(true, old.owner, owner, Table::Networks)?;
        unused(old.references, Table::Networks, id.0)?;
        self.count_port(old.underlay, -1);
        *slot_mut(self.networks, Table::Networks, id.0)? = NetworkEntry::new_zeroed();
        Ok(Some(Operation::UpsertNetwork(old.message(id))))
    }

    fn upsert_port(&mut self, owner: Owner, new: &Port) -> Result<Inverse, TableError> {
        let old = *slot(self.ports, Table::Ports, new.id.0)?;
        let present = old.role != PortRole::Absent;
        owned(present, old.owner, owner, Table::Ports)?;
        let mut entry = check::port_entry(new, owner)?;
        if present && (entry.role != old.role || entry.network != old.network) {
            return Err(TableError::Invalid(Reason::Immutable));
        }
        if entry.role != PortRole::Underlay {
            self.check_port_in_network(new.id, &old, &entry)?;
            if !present {
                self.count_network(entry.network, 1);
            }
        }
        if present {
            entry.references = old.references;
        }
        entry.stats = old.stats;
        self.replace_host_routes(new.id, &old, &entry)?;
        if entry.role == PortRole::Host {
            self.set_host(entry.network, Some(new.id));
        }
        *slot_mut(self.ports, Table::Ports, new.id.0)? = entry;
        Ok(Some(if present {
            Operation::UpsertPort(old.message(new.id))
        } else {
            Operation::RemovePort(new.id)
        }))
    }

    /// Checks what an endpoint or host port needs of its network.
    fn check_port_in_network(
        &self,
        id: PortId,
        old: &PortEntry,
        entry: &PortEntry,
    ) -> Result<(), TableError> {
        let network = self.need_network(entry.network)?;
        if entry.role == PortRole::Host {
            return match network.has_host {
                true => unique(network.host.0, id.0, Table::Ports),
                false => Ok(()),
            };
        }
        for key in entry.addresses.iter() {
            if network.gateways.has(key.address()) {
                return Err(TableError::Conflict {
                    table: Table::Networks,
                    id: entry.network.0,
                });
            }
            let route = self.routes.get(network.route_roots.of(key), key);
            match route.map(|route| route.next_hop) {
                None => {}
                Some(NextHop::Endpoint(port)) if port != id => unique(port.0, id.0, Table::Ports)?,
                Some(NextHop::Endpoint(_)) if old.addresses.has(key.address()) => {}
                Some(_) => {
                    return Err(TableError::Conflict {
                        table: Table::Routes,
                        id: entry.network.0,
                    });
                }
            }
        }
        let added = entry.addresses.count_not_in(&old.addresses);
        let removed = old.addresses.count_not_in(&entry.addresses);
        if added > self.routes.room() + removed {
            return Err(self.routes_full());
        }
        Ok(())
    }

    /// Replaces the host routes of a port's old addresses by those of its new
    /// ones. Room was checked before.
    fn replace_host_routes(
        &mut self,
        id: PortId,
        old: &PortEntry,
        new: &PortEntry,
    ) -> Result<(), TableError> {
        let full = self.routes_full();
        let index = new.network.index();
        let Some(network) = self.networks.get_mut(index).filter(|n| n.present) else {
            return Ok(());
        };
        for key in old.addresses.iter() {
            self.routes.remove(network.route_roots.of_mut(key), key);
        }
        let route = RouteEntry {
            next_hop: NextHop::Endpoint(id),
            owner: new.owner,
        };
        for key in new.addresses.iter() {
            self.routes
                .insert(network.route_roots.of_mut(key), key, route)
                .map_err(|_| full)?;
        }
        Ok(())
    }

    fn remove_port(&mut self, owner: Owner, id: PortId) -> Result<Inverse, TableError> {
        let old = *slot(self.ports, Table::Ports, id.0)?;
        if old.role == PortRole::Absent {
            return Ok(None);
        }
        owned(true, old.owner, owner, Table::Ports)?;
        unused(old.references, Table::Ports, id.0)?;
        let gone = PortEntry {
            network: old.network,
            stats: old.stats,
            ..PortEntry::new_zeroed()
        };
        self.replace_host_routes(id, &old, &gone)?;
        if old.role == PortRole::Host {
            self.set_host(old.network, None);
        }
        if old.role != PortRole::Underlay {
            self.count_network(old.network, -1);
        }
        *slot_mut(self.ports, Table::Ports, id.0)? = gone;
        Ok(Some(Operation::UpsertPort(old.message(id))))
    }

    fn upsert_peer(&mut self, owner: Owner, new: &Peer) -> Result<Inverse, TableError> {
        let old = *slot(self.peers, Table::Peers, new.id.0)?;
        owned(old.present, old.owner, owner, Table::Peers)?;
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
        if old.present && (old.network != new.network || old.underlay != key) {
            return Err(TableError::Invalid(Reason::Immutable));
        }
        let index = new.network.index();
        if let Some(network) = self.networks.get_mut(index) {
            self.peers_by_underlay
                .insert(network.peer_roots.of_mut(key), key, new.id)
                .map_err(|_| TableError::TableFull {
                    table: Table::Peers,
                    capacity: self.peers_by_underlay.capacity(),
                })?;
        }
        if !old.present {
            self.count_network(new.network, 1);
        }
        *slot_mut(self.peers, Table::Peers, new.id.0)? = PeerEntry {
            present: true,
            owner,
            network: new.network,
            underlay: key,
            vtep_mac: new.vtep_mac,
            node_addresses: KeyList::new(new.node_addresses.iter().map(|a| Key::host(*a))),
            accepts: new.accepts,
            references: old.references,
        };
        Ok(Some(if old.present {
            Operation::UpsertPeer(old.message(new.id))
        } else {
            Operation::RemovePeer(new.id)
        }))
    }

    fn remove_peer(&mut self, owner: Owner, id: PeerId) -> Result<Inverse, TableError> {
        let old = *slot(self.peers, Table::Peers, id.0)?;
        if !old.present {
            return Ok(None);
        }
        owned(true, old.owner, owner, Table::Peers)?;
        unused(old.references, Table::Peers, id.0)?;
        if let Some(network) = self.networks.get_mut(old.network.index()) {
            let root = network.peer_roots.of_mut(old.underlay);
            self.peers_by_underlay.remove(root, old.underlay);
        }
        self.count_network(old.network, -1);
        *slot_mut(self.peers, Table::Peers, id.0)? = PeerEntry::new_zeroed();
        Ok(Some(Operation::UpsertPeer(old.message(id))))
    }

    fn upsert_route(&mut self, owner: Owner, new: &Route) -> Result<Inverse, TableError> {
        check::ipv4_only(new.prefix.address())?;
        self.check_next_hop(new)?;
        let key = new.prefix.key();
        let old = self.changeable_route(owner, new.network, key)?;
        let full = self.routes_full();
        let Some(network) = self.networks.get_mut(new.network.index()) else {
            return Ok(None);
        };
        let entry = RouteEntry {
            next_hop: new.next_hop,
            owner,
        };
        self.routes
            .insert(network.route_roots.of_mut(key), key, entry)
            .map_err(|_| full)?;
        self.count_next_hop(new.next_hop, 1);
        Ok(Some(match old {
            Some(old) => {
                self.count_next_hop(old.next_hop, -1);
                Operation::UpsertRoute(Route {
                    next_hop: old.next_hop,
                    ..*new
                })
            }
            None => {
                self.count_network(new.network, 1);
                Operation::RemoveRoute {
                    network: new.network,
                    prefix: new.prefix,
                }
            }
        }))
    }

    fn remove_route(
        &mut self,
        owner: Owner,
        network: NetworkId,
        prefix: IpPrefix,
    ) -> Result<Inverse, TableError> {
        let key = prefix.key();
        if self.network(network).is_none() {
            return Ok(None);
        }
        let Some(old) = self.changeable_route(owner, network, key)? else {
            return Ok(None);
        };
        if let Some(entry) = self.networks.get_mut(network.index()) {
            self.routes.remove(entry.route_roots.of_mut(key), key);
        }
        self.count_next_hop(old.next_hop, -1);
        self.count_network(network, -1);
        Ok(Some(Operation::UpsertRoute(Route {
            network,
            prefix,
            next_hop: old.next_hop,
        })))
    }

    /// The route of exactly this key, if there is one and this owner may change it.
    fn changeable_route(
        &self,
        owner: Owner,
        network: NetworkId,
        key: Key,
    ) -> Result<Option<RouteEntry>, TableError> {
        let roots = self.need_network(network)?.route_roots;
        let Some(route) = self.routes.get(roots.of(key), key) else {
            return Ok(None);
        };
        owned(true, route.owner, owner, Table::Routes)?;
        if let NextHop::Endpoint(port) = route.next_hop {
            let mut addresses = self.port(port).into_iter().flat_map(|p| p.addresses.iter());
            if addresses.any(|address| address == key) {
                return Err(TableError::Invalid(Reason::EndpointRoute));
            }
        }
        Ok(Some(*route))
    }

    fn check_next_hop(&self, route: &Route) -> Result<(), TableError> {
        self.need_network(route.network)?;
        match route.next_hop {
            NextHop::Blackhole | NextHop::Host => Ok(()),
            NextHop::Endpoint(port) => match self.port(port) {
                Some(p) if p.role == PortRole::Endpoint && p.network == route.network => Ok(()),
                Some(_) => Err(TableError::Invalid(Reason::PortKind)),
                None => Err(TableError::NotFound {
                    table: Table::Ports,
                    id: port.0,
                }),
            },
            NextHop::Peer { peer, encap } => match encap {
                Encap::Ipip => Err(TableError::Unsupported(Feature::Ipip)),
                Encap::Direct => Err(TableError::Unsupported(Feature::Direct)),
                Encap::Vxlan => self
                    .peer(peer)
                    .filter(|p| p.network == route.network)
                    .map(|_| ())
                    .ok_or(TableError::NotFound {
                        table: Table::Peers,
                        id: peer.0,
                    }),
            },
        }
    }

    fn need_network(&self, id: NetworkId) -> Result<&NetworkEntry, TableError> {
        self.network(id).ok_or(TableError::NotFound {
            table: Table::Networks,
            id: id.0,
        })
    }

    fn routes_full(&self) -> TableError {
        TableError::TableFull {
            table: Table::Routes,
            capacity: self.routes.capacity(),
        }
    }

    fn count_network(&mut self, id: NetworkId, step: i32) {
        if let Some(network) = self.networks.get_mut(id.index()) {
            network.references = network.references.saturating_add_signed(step);
        }
    }

    fn count_port(&mut self, id: PortId, step: i32) {
        if let Some(port) = self.ports.get_mut(id.index()) {
            port.references = port.references.saturating_add_signed(step);
        }
    }

    fn count_next_hop(&mut self, next_hop: NextHop, step: i32) {
        match next_hop {
            NextHop::Blackhole | NextHop::Host => {}
            NextHop::Endpoint(port) => self.count_port(port, step),
            NextHop::Peer { peer, .. } => {
                if let Some(peer) = self.peers.get_mut(peer.index()) {
                    peer.references = peer.references.saturating_add_signed(step);
                }
            }
        }
    }

    fn set_host(&mut self, id: NetworkId, host: Option<PortId>) {
        if let Some(network) = self.networks.get_mut(id.index()) {
            network.has_host = host.is_some();
            network.host = host.unwrap_or_default();
        }
    }
}

fn slot<T>(table: &[T], name: Table, id: u16) -> Result<&T, TableError> {
    table
        .get(usize::from(id))
        .ok_or_else(|| out_of_range(table, name, id))
}

fn slot_mut<T>(table: &mut [T], name: Table, id: u16) -> Result<&mut T, TableError> {
    let error = out_of_range(table, name, id);
    table.get_mut(usize::from(id)).ok_or(error)
}

fn out_of_range<T>(table: &[T], name: Table, id: u16) -> TableError {
    TableError::IdOutOfRange {
        table: name,
        id,
        capacity: u32::try_from(table.len()).unwrap_or(u32::MAX),
    }
}

fn owned(present: bool, old: Owner, new: Owner, table: Table) -> Result<(), TableError> {
    if present && old != new {
        return Err(TableError::OwnedBy { table, owner: old });
    }
    Ok(())
}

fn unused(references: u32, table: Table, id: u16) -> Result<(), TableError> {
    match references {
        0 => Ok(()),
        _ => Err(TableError::InUse { table, id }),
    }
}

/// Refuses what entry `taken` has already, unless that is `id` itself.
fn unique(taken: u16, id: u16, table: Table) -> Result<(), TableError> {
    if taken == id {
        return Ok(());
    }
    Err(TableError::Conflict { table, id: taken })
}
