//! Ports, and the host routes of endpoints.

use zerocopy::FromZeros;

use super::{Inverse, Writer, owned, slot, slot_mut, unique, unused};
use crate::channel::{NextHop, Operation, Port};
use crate::tables::entry::{PortEntry, PortRole, RouteEntry};
use crate::tables::error::{Reason, Table, TableError};
use crate::tables::{Tables, check};
use crate::{NetworkId, PortId};

impl Tables<'_> {
    pub(super) fn upsert_port(
        &mut self,
        writer: Writer,
        new: &Port,
    ) -> Result<Inverse, TableError> {
        let old = *slot(self.ports, Table::Ports, new.id.0)?;
        let present = old.role != PortRole::Absent;
        owned(present, old.owner, writer.owner, Table::Ports)?;
        if present && old.message(new.id) == *new {
            slot_mut(self.ports, Table::Ports, new.id.0)?.stamp = writer.stamp;
            return Ok(Some((Operation::UpsertPort(new.clone()), old.stamp)));
        }
        let mut entry = check::port_entry(new, writer.owner)?;
        if present && (entry.role != old.role || entry.network != old.network) {
            return Err(TableError::Invalid(Reason::Immutable));
        }
        if !entry.role.is_underlay() {
            self.check_port_in_network(new.id, &old, &entry)?;
        }
        if !present {
            self.admit(writer.owner, Table::Ports, 1)?;
            self.book(writer.owner, Table::Ports, 1);
            if !entry.role.is_underlay() {
                self.count_network(entry.network, 1);
            }
        }
        if present {
            entry.references = old.references;
        }
        entry.stamp = writer.stamp;
        entry.stats = old.stats;
        entry.icmp = old.icmp;
        self.greet(new.id, &old, &mut entry);
        if entry.role == PortRole::Endpoint {
            self.replace_host_routes(writer, new.id, &old, &entry)?;
        }
        if entry.role == PortRole::Host {
            self.set_host(entry.network, Some(new.id));
        }
        *slot_mut(self.ports, Table::Ports, new.id.0)? = entry;
        let inverse = match present {
            true => Operation::UpsertPort(old.message(new.id)),
            false => Operation::RemovePort(new.id),
        };
        Ok(Some((inverse, old.stamp)))
    }

    /// Sees to what neighbors must learn of a port that is new or changed, and to
    /// what a wire must learn anew of its neighbors.
    fn greet(&mut self, id: PortId, old: &PortEntry, entry: &mut PortEntry) {
        let moved = entry.role == PortRole::Wire && entry.mac != old.mac;
        entry.announce_since(old, moved);
        if entry.announce != 0 {
            self.neighbors.head.announce(self.ports.len());
        }
        if old.role == PortRole::Wire && (moved || entry.allowed != old.allowed) {
            self.neighbors.forget(id);
        }
    }

    /// Checks what an endpoint or host port needs of its network.
    pub(super) fn check_port_in_network(
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
            let route = self.routes.get(entry.network, key);
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
        self.admit(entry.owner, Table::Routes, added.saturating_sub(removed))
    }

    /// Replaces the host routes of a port's old addresses by those of its new
    /// ones. Room was checked before.
    pub(super) fn replace_host_routes(
        &mut self,
        writer: Writer,
        id: PortId,
        old: &PortEntry,
        new: &PortEntry,
    ) -> Result<(), TableError> {
        let full = self.full(Table::Routes);
        if self.network(new.network).is_none() {
            return Ok(());
        }
        for key in old.addresses.iter() {
            self.routes.remove(new.network, key);
        }
        let route = RouteEntry {
            next_hop: NextHop::Endpoint(id),
            owner: writer.owner,
            stamp: 0,
        };
        for key in new.addresses.iter() {
            self.routes
                .insert(new.network, key, route)
                .map_err(|_| full)?;
        }
        let added = new.addresses.count_not_in(&old.addresses);
        let removed = old.addresses.count_not_in(&new.addresses);
        self.book(
            writer.owner,
            Table::Routes,
            i64::from(added) - i64::from(removed),
        );
        Ok(())
    }

    pub(in crate::tables) fn remove_port(
        &mut self,
        writer: Writer,
        id: PortId,
    ) -> Result<Inverse, TableError> {
        let old = *slot(self.ports, Table::Ports, id.0)?;
        if old.role == PortRole::Absent {
            return Ok(None);
        }
        owned(true, old.owner, writer.owner, Table::Ports)?;
        unused(old.references, Table::Ports, id.0)?;
        let gone = PortEntry {
            network: old.network,
            stats: old.stats,
            ..PortEntry::new_zeroed()
        };
        if old.role == PortRole::Endpoint {
            self.replace_host_routes(writer, id, &old, &gone)?;
        }
        if old.role == PortRole::Host {
            self.set_host(old.network, None);
        }
        match old.role.is_underlay() {
            true => self.neighbors.forget(id),
            false => self.count_network(old.network, -1),
        }
        self.book(writer.owner, Table::Ports, -1);
        *slot_mut(self.ports, Table::Ports, id.0)? = gone;
        Ok(Some((Operation::UpsertPort(old.message(id)), old.stamp)))
    }

    pub(super) fn set_host(&mut self, id: NetworkId, host: Option<PortId>) {
        if let Some(network) = self.networks.get_mut(id.index()) {
            network.has_host = host.is_some();
            network.host = host.unwrap_or_default();
        }
    }
}
