//! Room in the tables: what is taken, and what a sync has reserved.

use zerocopy::{FromZeros, Immutable};

use super::Tables;
use super::error::{Table, TableError};
use super::storage::Capacities;
use crate::channel::Owner;

/// Entries in use in the tables that do not count their own.
#[derive(FromZeros, Immutable)]
pub(crate) struct Used {
    networks: u32,
    ports: u32,
    peers: u32,
}

impl Capacities {
    pub(super) fn of(&self, table: Table) -> u32 {
        match table {
            Table::Networks => self.networks,
            Table::Ports => self.ports,
            Table::Peers => self.peers,
            Table::Routes => self.routes,
        }
    }

    fn of_mut(&mut self, table: Table) -> &mut u32 {
        match table {
            Table::Networks => &mut self.networks,
            Table::Ports => &mut self.ports,
            Table::Peers => &mut self.peers,
            Table::Routes => &mut self.routes,
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// So many more (or, below 0, less) entries.
fn changed(number: u32, change: i64) -> u32 {
    let number = i64::from(number).saturating_add(change).max(0);
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Tables<'_> {
    /// What the tables can hold.
    pub(crate) fn capacities(&self) -> Capacities {
        Capacities {
            networks: count(self.networks.len()),
            ports: count(self.ports.len()),
            peers: count(self.peers.len()),
            routes: self.routes.capacity(),
        }
    }

    /// Entries in use.
    pub(crate) fn used(&self) -> Capacities {
        Capacities {
            networks: self.used.networks,
            ports: self.used.ports,
            peers: self.used.peers,
            routes: self.routes.len(),
        }
    }

    /// Entries that a table still has room for.
    pub(super) fn room(&self, table: Table) -> u32 {
        let capacity = self.capacities().of(table);
        capacity.saturating_sub(self.used().of(table))
    }

    pub(super) fn full(&self, table: Table) -> TableError {
        TableError::TableFull {
            table,
            capacity: self.capacities().of(table),
        }
    }

    /// Checks that this owner may add so many entries to a table: within its own
    /// reservation, or beside the other owner's.
    pub(super) fn admit(&self, owner: Owner, table: Table, count: u32) -> Result<(), TableError> {
        let reservation = self.sync.reservation();
        let reserved = reservation.map_or(0, |(_, reserved)| reserved.of(table));
        if reservation.is_some_and(|(holder, _)| holder == owner) {
            return match count <= reserved {
                true => Ok(()),
                false => Err(TableError::SyncReservation { table, reserved }),
            };
        }
        match count <= self.room(table).saturating_sub(reserved) {
            true => Ok(()),
            false => Err(self.full(table)),
        }
    }

    /// Books entries of an owner that came or, below 0, went. What the holder of a
    /// reservation removes is reserved for what it adds later, so that undoing a
    /// transaction brings its reservation back, too.
    pub(super) fn book(&mut self, owner: Owner, table: Table, change: i64) {
        match table {
            Table::Networks => self.used.networks = changed(self.used.networks, change),
            Table::Ports => self.used.ports = changed(self.used.ports, change),
            Table::Peers => self.used.peers = changed(self.used.peers, change),
            // They count themselves.
            Table::Routes => {}
        }
        if let Some(reserved) = self.sync.reservation_mut(owner) {
            let reserved = reserved.of_mut(table);
            *reserved = changed(*reserved, -change);
        }
    }
}
