//! Ports, and the host routes of endpoints.

use zerocopy::FromZeros;

use super::{Inverse, owned, slot, slot_mut, unique, unused};
use crate::channel::{NextHop, Operation, Owner, Port};
use crate::tables::entry::{PortEntry, PortRole, RouteEntry};
use crate::tables::error::{Reason, Table, TableError};
use crate::tables::{Tables, check};
use crate::{NetworkId, PortId};

impl Tables<'_> {
    pub(super) fn upsert_port(&mut self, owner: Owner, new: &Port) -> Result<Inverse, TableError> {
        let old = *slot(self.ports, Table::Ports, new.id.0)?;
        let present = old.role != PortRole::Absent;
        owned(present, old.owner, owner, Table::Ports)?;
        let mut entry = check::port_entry(new, owner)?;
        if present && (entry.role != old.role || entry.network != old.network) {
            return Err(TableError::Invalid(Reason::Immutable));
        }
        if !entry.role.is_underlay() {
            self.check_port_in_network(new.id, &old, &entry)?;
            if !present {
                self.count_network(entry.network, 1);
            }
        }
        if present {
            entry.references = old.references;
        }
        entry.stats = old.stats;
        entry.icmp = old.icmp;
        self.greet(new.id, &old, &mut entry);
        if entry.role == PortRole::Endpoint {
            self.replace_host_routes(new.id, &old, &entry)?;
        }
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
    pub(super) fn replace_host_routes(
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

    pub(super) fn remove_port(&mut self, owner: Owner, id: PortId) -> Result<Inverse, TableError> {
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
        if old.role == PortRole::Endpoint {
            self.replace_host_routes(id, &old, &gone)?;
        }
        if old.role == PortRole::Host {
            self.set_host(old.network, None);
        }
        match old.role.is_underlay() {
            true => self.neighbors.forget(id),
            false => self.count_network(old.network, -1),
        }
        *slot_mut(self.ports, Table::Ports, id.0)? = gone;
        Ok(Some(Operation::UpsertPort(old.message(id))))
    }

    pub(super) fn set_host(&mut self, id: NetworkId, host: Option<PortId>) {
        if let Some(network) = self.networks.get_mut(id.index()) {
            network.has_host = host.is_some();
            network.host = host.unwrap_or_default();
        }
    }
}
