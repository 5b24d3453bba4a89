//! Transactions: every change of a table goes through here.
//!
//! An operation checks everything first and then changes; a transaction keeps
//! the inverse of each operation done and, when one is refused, carries them out
//! backwards. The log holds [`MAX_OPERATIONS`] operations, about 5 KiB of stack.

use heapless::Vec;

use super::Tables;
use super::entry::{NetworkEntry, Stamp};
use super::error::{Table, TableError};
use crate::channel::{MAX_OPERATIONS, NextHop, Operation, Owner, PortStats};
use crate::{Instant, NetworkId, PortId};

mod network;
mod peer;
mod port;
mod route;

/// What undoes an operation, and the stamp that its entry had before; `None` when
/// it changed nothing.
type Inverse = Option<(Operation, Stamp)>;

/// Who writes.
#[derive(Clone, Copy)]
pub(super) struct Writer {
    pub(super) owner: Owner,
    /// What entries are stamped with.
    pub(super) stamp: Stamp,
}

impl Tables<'_> {
    /// Carries out all operations or none; see [`crate::Gateway::apply`].
    pub(crate) fn apply(
        &mut self,
        now: Instant,
        owner: Owner,
        operations: &[Operation],
    ) -> Result<(), (usize, TableError)> {
        // The log must be able to undo all of them.
        if operations.len() > MAX_OPERATIONS {
            let limit = u32::try_from(MAX_OPERATIONS).unwrap_or(u32::MAX);
            return Err((MAX_OPERATIONS, TableError::TooManyOperations { limit }));
        }
        let writer = Writer {
            owner,
            stamp: self.sync.stamp(owner),
        };
        let mut log = Vec::<(Operation, Stamp), MAX_OPERATIONS>::new();
        for (index, operation) in operations.iter().enumerate() {
            match self.apply_one(writer, operation) {
                Ok(None) => {}
                Ok(Some(inverse)) => {
                    // As long as the list of operations, whose length was checked.
                    let _ = log.push(inverse);
                }
                Err(error) => {
                    while let Some((inverse, stamp)) = log.pop() {
                        let undone = self.apply_one(Writer { stamp, ..writer }, &inverse);
                        debug_assert!(undone.is_ok(), "undo was refused: {undone:?}");
                    }
                    return Err((index, error));
                }
            }
        }
        // What is undone by a removal was added: its counts start at zero. Until
        // here they stayed, so that undoing a removal brings them back.
        for (inverse, _) in &log {
            if let Operation::RemovePort(id) = inverse
                && let Some(port) = self.ports.get_mut(id.index())
            {
                port.stats = PortStats::default();
            }
        }
        // No operation looks at path MTUs, and no inverse could bring back until
        // when one was believed: they are set when nothing is refused any more.
        for operation in operations {
            if let Operation::SetPathMtu { peer, mtu } = operation {
                self.set_path_mtu(now, *peer, *mtu);
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, writer: Writer, operation: &Operation) -> Result<Inverse, TableError> {
        match operation {
            Operation::UpsertNetwork(network) => self.upsert_network(writer, network),
            Operation::RemoveNetwork(id) => self.remove_network(writer, *id),
            Operation::UpsertPort(port) => self.upsert_port(writer, port),
            Operation::RemovePort(id) => self.remove_port(writer, *id),
            Operation::UpsertPeer(peer) => self.upsert_peer(writer, peer),
            Operation::RemovePeer(id) => self.remove_peer(writer, *id),
            Operation::UpsertRoute(route) => self.upsert_route(writer, route),
            Operation::RemoveRoute { network, prefix } => {
                self.remove_route(writer, *network, *prefix)
            }
            Operation::SetPathMtu { peer, .. } => self.need_peer(*peer).map(|()| None),
        }
    }

    fn need_network(&self, id: NetworkId) -> Result<&NetworkEntry, TableError> {
        self.network(id).ok_or(TableError::NotFound {
            table: Table::Networks,
            id: id.0,
        })
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
