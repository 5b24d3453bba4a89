//! The tables and a sync as they should be: the model of transactions, and beside
//! it what the running sync has named and reserved, counted anew each time.

use culvert_core::channel::*;
use culvert_core::*;

use super::CAPACITIES;
use super::dump::Dump;
use super::model::Model;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Name {
    Network(NetworkId),
    Port(PortId),
    Peer(PeerId),
    Route(NetworkId, IpPrefix),
}

#[derive(Clone, Debug)]
pub(crate) struct Running {
    owner: Owner,
    transaction: u64,
    additions: [u32; 4],
    /// The owner's entries at the beginning.
    own: [u32; 4],
    named: Vec<Name>,
    sweeping: bool,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct World {
    pub(crate) tables: Model,
    pub(crate) running: Option<Running>,
}

fn list_of(capacities: Capacities) -> [u32; 4] {
    let Capacities {
        networks,
        ports,
        peers,
        routes,
    } = capacities;
    [networks, ports, peers, routes]
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap()
}

/// Entries of an owner, or all.
pub(crate) fn usage(tables: &Model, owner: Option<Owner>) -> [u32; 4] {
    fn count<T>(entries: &[Owned<T>], owner: Option<Owner>) -> u32 {
        let own = entries
            .iter()
            .filter(|e| owner.is_none_or(|o| e.owner == o));
        small(own.count())
    }
    [
        count(&tables.networks, owner),
        count(&tables.ports, owner),
        count(&tables.peers, owner),
        count(&tables.listed_routes(), owner),
    ]
}

/// What the core told, without the host routes of endpoints.
pub(crate) fn adopted(dump: &Dump) -> Model {
    let mut tables = Model {
        networks: dump.networks.clone(),
        ports: dump.ports.iter().map(|(port, _)| port.clone()).collect(),
        peers: dump.peers.iter().map(|(peer, _)| peer.clone()).collect(),
        routes: Vec::new(),
    };
    let host_routes = tables.listed_routes();
    let routes = dump.routes.iter();
    let explicit = routes.filter(|route| !host_routes.contains(route));
    tables.routes = explicit.cloned().collect();
    tables
}

/// Whether each entry of `less` is in `more`.
pub(crate) fn contains(more: &Model, less: &Model) -> bool {
    less.networks.iter().all(|e| more.networks.contains(e))
        && less.ports.iter().all(|e| more.ports.contains(e))
        && less.peers.iter().all(|e| more.peers.contains(e))
        && less.routes.iter().all(|e| more.routes.contains(e))
}

pub(crate) fn entries(tables: &Model) -> u32 {
    let Model {
        networks,
        ports,
        peers,
        routes,
    } = tables;
    small(networks.len() + ports.len() + peers.len() + routes.len())
}

impl World {
    /// `None`, and no change, when it is to be refused.
    pub(crate) fn apply(&mut self, owner: Owner, operations: &[Operation]) -> Option<()> {
        let before = self.clone();
        let done = operations.iter().try_for_each(|operation| {
            self.tables.apply_one(owner, operation)?;
            self.name(owner, operation);
            self.within_reservation(owner)
        });
        if done.is_none() {
            *self = before;
        }
        done
    }

    fn name(&mut self, owner: Owner, operation: &Operation) {
        let Some(running) = self.running.as_mut().filter(|r| r.owner == owner) else {
            return;
        };
        let (name, add) = match operation {
            Operation::UpsertNetwork(network) => (Name::Network(network.id), true),
            Operation::RemoveNetwork(id) => (Name::Network(*id), false),
            Operation::UpsertPort(port) => (Name::Port(port.id), true),
            Operation::RemovePort(id) => (Name::Port(*id), false),
            Operation::UpsertPeer(peer) => (Name::Peer(peer.id), true),
            Operation::RemovePeer(id) => (Name::Peer(*id), false),
            Operation::UpsertRoute(route) => (Name::Route(route.network, route.prefix), true),
            Operation::RemoveRoute { network, prefix } => (Name::Route(*network, *prefix), false),
            Operation::SetPathMtu { .. } => return,
        };
        running.named.retain(|named| *named != name);
        if add {
            running.named.push(name);
        }
    }

    /// What the running sync may still add, and nobody else.
    fn reserved(&self) -> Option<(Owner, [i64; 4])> {
        let running = self.running.as_ref().filter(|r| !r.sweeping)?;
        let own = usage(&self.tables, Some(running.owner));
        let reserved = std::array::from_fn(|table| {
            let limit = i64::from(running.own[table]) + i64::from(running.additions[table]);
            limit - i64::from(own[table])
        });
        Some((running.owner, reserved))
    }

    fn within_reservation(&self, writer: Owner) -> Option<()> {
        let Some((owner, reserved)) = self.reserved() else {
            return Some(());
        };
        let used = usage(&self.tables, None);
        let fits = (0..4).all(|table| match writer == owner {
            true => reserved[table] >= 0,
            false => i64::from(used[table]) + reserved[table] <= i64::from(CAPACITIES[table]),
        });
        fits.then_some(())
    }

    /// Begins a sync, or goes on with it.
    pub(crate) fn begin(
        &mut self,
        transaction: u64,
        owner: Owner,
        additions: Capacities,
    ) -> Result<(), TableError> {
        let additions = list_of(additions);
        if let Some(running) = &self.running {
            if running.owner != owner {
                let owner = running.owner;
                return Err(TableError::SyncRunning { owner });
            }
            if (running.transaction, running.additions) == (transaction, additions) {
                return Ok(());
            }
        }
        let used = usage(&self.tables, None);
        let tables = [Table::Networks, Table::Ports, Table::Peers, Table::Routes];
        for (index, table) in tables.into_iter().enumerate() {
            let capacity = CAPACITIES[index];
            if used[index] + additions[index] > capacity {
                return Err(TableError::TableFull { table, capacity });
            }
        }
        self.running = Some(Running {
            owner,
            transaction,
            additions,
            own: usage(&self.tables, Some(owner)),
            named: Vec::new(),
            sweeping: false,
        });
        Ok(())
    }

    /// Whether this sync runs.
    pub(crate) fn runs(&self, transaction: u64) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.transaction == transaction)
    }

    /// Begins to sweep; whether that is new.
    pub(crate) fn sweep(&mut self) -> bool {
        let running = self.running.as_mut().unwrap();
        !std::mem::replace(&mut running.sweeping, true)
    }

    /// The tables as they are when the sweep is over, and how many entries that
    /// were not named are still referred to.
    pub(crate) fn swept(&self) -> (Model, u32) {
        let running = self.running.as_ref().unwrap();
        let mut tables = self.tables.clone();
        let mut kept = 0;
        for (owner, operation) in self.tables.removals() {
            let name = match operation {
                Operation::RemoveNetwork(id) => Name::Network(id),
                Operation::RemovePort(id) => Name::Port(id),
                Operation::RemovePeer(id) => Name::Peer(id),
                Operation::RemoveRoute { network, prefix } => Name::Route(network, prefix),
                _ => panic!("{operation:?} is no removal"),
            };
            if owner == running.owner && !running.named.contains(&name) {
                let removed = tables.apply(owner, std::slice::from_ref(&operation));
                kept += u32::from(removed.is_none());
            }
        }
        (tables, kept)
    }
}
