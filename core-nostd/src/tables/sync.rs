//! Syncs: an owner's entries are named anew, and what was not named is swept.
//!
//! Each sync of an owner has a generation, and each entry the stamp of the
//! generation that named it last. A stamp is a byte, so generations come round:
//! after [`MAX_UNSWEPT`] syncs that broke, `Begin` first takes all stamps away.
//! Both walks go through the tables in steps of [`STEP`].

use zerocopy::{FromZeros, Immutable};

use super::Tables;
use super::entry::Stamp;
use super::error::{Table, TableError};
use super::storage::Capacities;
use super::update::Writer;
use crate::addr::Key;
use crate::channel::{Owner, Sync, Synced};
use crate::{NetworkId, PeerId, PortId};

/// Entries that one step looks at, at most: some 15 µs among a million routes
/// that lie scattered in memory.
const STEP: u32 = 32;
/// A removal takes as long as so many looks.
const REMOVAL: u32 = 2;
/// Generations that may have left stamps behind at once: all values but 0, for no
/// stamp, and the one that begins.
const MAX_UNSWEPT: u8 = 254;

/// How far a sync is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros, Immutable)]
#[repr(u8)]
enum Phase {
    /// There is none, or it broke.
    Idle = 0,
    /// It has begun, but old stamps have to go first.
    Clearing,
    /// Entries are being named.
    Naming,
    /// What was not named is being removed.
    Sweeping,
    /// All is done; kept for an `End` that is sent again.
    Done,
}

/// An owner's generations.
#[derive(Clone, Copy, FromZeros, Immutable)]
struct Generations {
    /// Of the last sync; 0 before the first.
    last: Stamp,
    /// How many have begun since the last one that ended.
    unswept: u8,
}

impl Generations {
    fn advance(&mut self) {
        self.last = self.last % Stamp::MAX + 1;
        self.unswept += 1;
    }
}

/// The order of a walk: what refers to others before those.
#[derive(Clone, Copy, PartialEq, Eq, FromZeros, Immutable)]
#[repr(u8)]
enum Stage {
    Routes = 0,
    /// Endpoints and host ports, which are in a network.
    Ports,
    Peers,
    Networks,
    /// Underlay ports, which networks are on.
    Underlays,
}

/// Where a walk is.
#[derive(Clone, Copy, FromZeros, Immutable)]
struct Cursor {
    stage: Stage,
    /// The next id; of the networks', in the stage of routes.
    index: u16,
    /// The last route seen in that network.
    after: Key,
    has_after: bool,
}

/// A sync and how far it is.
#[derive(FromZeros, Immutable)]
pub(crate) struct Progress {
    phase: Phase,
    owner: Owner,
    transaction: u64,
    additions: Capacities,
    /// What is left of them.
    reserved: Capacities,
    generations: [Generations; 2],
    cursor: Cursor,
    swept: u32,
    kept: u32,
}

impl Progress {
    fn is_running(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Done)
    }

    fn generations(&self, owner: Owner) -> Generations {
        let [attachment, cluster] = self.generations;
        match owner {
            Owner::Attachment => attachment,
            Owner::Cluster => cluster,
        }
    }

    fn generations_mut(&mut self) -> &mut Generations {
        let [attachment, cluster] = &mut self.generations;
        match self.owner {
            Owner::Attachment => attachment,
            Owner::Cluster => cluster,
        }
    }

    /// What an owner's upserts are stamped with now.
    pub(super) fn stamp(&self, owner: Owner) -> Stamp {
        let naming = matches!(self.phase, Phase::Naming | Phase::Sweeping);
        match naming && self.owner == owner {
            true => self.generations(owner).last,
            false => 0,
        }
    }

    /// Room that is reserved, and for whom.
    pub(super) fn reservation(&self) -> Option<(Owner, &Capacities)> {
        matches!(self.phase, Phase::Clearing | Phase::Naming)
            .then_some((self.owner, &self.reserved))
    }

    /// This owner's own reservation.
    pub(super) fn reservation_mut(&mut self, owner: Owner) -> Option<&mut Capacities> {
        let (holder, _) = self.reservation()?;
        (holder == owner).then_some(&mut self.reserved)
    }

    fn start_walk(&mut self, phase: Phase) {
        self.phase = phase;
        self.cursor = Cursor::start_of(Stage::Routes);
    }

    fn answer(&self) -> Synced {
        Synced {
            transaction: self.transaction,
            done: matches!(self.phase, Phase::Naming | Phase::Done),
            swept: self.swept,
            kept: self.kept,
        }
    }
}

impl Cursor {
    fn start_of(stage: Stage) -> Self {
        Cursor {
            stage,
            ..Cursor::new_zeroed()
        }
    }

    fn next_stage(&mut self) -> bool {
        let stage = match self.stage {
            Stage::Routes => Stage::Ports,
            Stage::Ports => Stage::Peers,
            Stage::Peers => Stage::Networks,
            Stage::Networks => Stage::Underlays,
            Stage::Underlays => return false,
        };
        *self = Cursor::start_of(stage);
        true
    }

    /// Goes on to the next id, or the next stage behind the end of a table;
    /// whether there is any.
    fn next_index(&mut self, len: usize) -> bool {
        self.has_after = false;
        match self.index.checked_add(1) {
            Some(next) if usize::from(next) < len => {
                self.index = next;
                true
            }
            _ => self.next_stage(),
        }
    }
}

/// What a walk does to the entries of its owner that do not have its generation's stamp.
#[derive(Clone, Copy)]
struct Visitor {
    writer: Writer,
    sweeps: bool,
}

/// What became of an entry.
enum Outcome {
    Passed,
    /// It is the owner's and stays.
    Unstamped,
    Removed,
}

impl Tables<'_> {
    /// Carries out a part of a sync; see [`crate::Gateway::sync`].
    pub(crate) fn sync(&mut self, sync: &Sync) -> Result<Synced, TableError> {
        match *sync {
            Sync::Begin {
                transaction,
                owner,
                additions,
            } => self.begin_sync(transaction, owner, additions),
            Sync::End { transaction } => self.end_sync(transaction),
            Sync::Abort { transaction } => {
                let known = self.sync.transaction == transaction;
                if known && self.sync.is_running() {
                    self.abort_sync();
                }
                let answer = match known {
                    true => self.sync.answer(),
                    false => Synced::default(),
                };
                Ok(Synced {
                    transaction,
                    done: true,
                    ..answer
                })
            }
        }
    }

    /// Ends a running sync where it is, and forgets one that is done.
    pub(crate) fn abort_sync(&mut self) {
        self.sync.phase = Phase::Idle;
    }

    fn begin_sync(
        &mut self,
        transaction: u64,
        owner: Owner,
        additions: Capacities,
    ) -> Result<Synced, TableError> {
        let running = self.sync.is_running();
        if running && self.sync.owner != owner {
            let owner = self.sync.owner;
            return Err(TableError::SyncRunning { owner });
        }
        let same = (self.sync.transaction, self.sync.additions) == (transaction, additions);
        if running && same {
            if self.sync.phase == Phase::Clearing {
                self.walk();
            }
            return Ok(Synced {
                done: self.sync.phase != Phase::Clearing,
                ..self.sync.answer()
            });
        }
        let all = [Table::Networks, Table::Ports, Table::Peers, Table::Routes];
        for table in all {
            if additions.of(table) > self.room(table) {
                return Err(self.full(table));
            }
        }
        *self.sync = Progress {
            owner,
            transaction,
            additions,
            reserved: additions,
            generations: self.sync.generations,
            ..Progress::new_zeroed()
        };
        if self.sync.generations(owner).unswept >= MAX_UNSWEPT {
            self.sync.start_walk(Phase::Clearing);
        } else {
            self.sync.generations_mut().advance();
            self.sync.phase = Phase::Naming;
        }
        Ok(self.sync.answer())
    }

    fn end_sync(&mut self, transaction: u64) -> Result<Synced, TableError> {
        if self.sync.transaction != transaction {
            return Err(TableError::SyncNotRunning);
        }
        match self.sync.phase {
            Phase::Idle | Phase::Clearing => return Err(TableError::SyncNotRunning),
            Phase::Naming => {
                self.sync.start_walk(Phase::Sweeping);
                self.walk();
            }
            Phase::Sweeping => self.walk(),
            Phase::Done => {}
        }
        Ok(self.sync.answer())
    }

    /// Goes one step through the tables, and on to the next phase at their end.
    fn walk(&mut self) {
        let owner = self.sync.owner;
        let sweeps = self.sync.phase == Phase::Sweeping;
        let generation = match sweeps {
            true => self.sync.generations(owner).last,
            false => 0,
        };
        let writer = Writer {
            owner,
            stamp: generation,
        };
        let visitor = Visitor { writer, sweeps };
        let mut budget = STEP;
        while let Some(left) = budget.checked_sub(1) {
            budget = match self.visit(visitor) {
                Outcome::Removed => {
                    self.sync.swept += 1;
                    left.saturating_sub(REMOVAL - 1)
                }
                Outcome::Unstamped => {
                    self.sync.kept += u32::from(sweeps);
                    left
                }
                Outcome::Passed => left,
            };
            if !self.advance() {
                return self.end_walk(sweeps);
            }
        }
    }

    fn end_walk(&mut self, swept: bool) {
        self.sync.generations_mut().unswept = 0;
        if swept {
            self.sync.phase = Phase::Done;
        } else {
            self.sync.generations_mut().advance();
            self.sync.phase = Phase::Naming;
        }
    }

    /// Moves the cursor to the next entry; whether there is any.
    fn advance(&mut self) -> bool {
        let cursor = &mut self.sync.cursor;
        let len = match cursor.stage {
            // The route that was seen is what the next one follows.
            Stage::Routes if cursor.has_after => return true,
            Stage::Routes | Stage::Networks => self.networks.len(),
            Stage::Ports | Stage::Underlays => self.ports.len(),
            Stage::Peers => self.peers.len(),
        };
        cursor.next_index(len)
    }

    /// Looks at the entry under the cursor.
    fn visit(&mut self, visitor: Visitor) -> Outcome {
        let entry = match self.sync.cursor.stage {
            Stage::Routes => self.next_route(),
            _ => self.entry_by_id(),
        };
        let writer = visitor.writer;
        if entry.is_none_or(|(owner, stamp)| owner != writer.owner || stamp == writer.stamp) {
            return Outcome::Passed;
        }
        if visitor.sweeps && self.remove_visited(writer).is_ok() {
            return Outcome::Removed;
        }
        if let Some(stamp) = self.visited_stamp() {
            *stamp = 0;
        }
        Outcome::Unstamped
    }

    /// Moves the cursor to the next route of its network, if there is one, and
    /// reads it; host routes of endpoints stand and fall with their port.
    fn next_route(&mut self) -> Option<(Owner, Stamp)> {
        let cursor = &mut self.sync.cursor;
        let after = cursor.has_after.then_some(cursor.after);
        cursor.has_after = false;
        let network = NetworkId(cursor.index);
        let present = self.networks.get(network.index())?.present;
        let (key, route) = self.routes.next(network, after).filter(|_| present)?;
        (cursor.after, cursor.has_after) = (key, true);
        let own = !self.is_host_route(key, &route);
        own.then_some((route.owner, route.stamp))
    }

    /// The entry with the cursor's id, if the stage is about it.
    fn entry_by_id(&self) -> Option<(Owner, Stamp)> {
        let index = self.sync.cursor.index;
        match self.sync.cursor.stage {
            Stage::Routes => None,
            Stage::Peers => {
                let peer = self.peer(PeerId(index))?;
                Some((peer.owner, peer.stamp))
            }
            Stage::Networks => {
                let network = self.network(NetworkId(index))?;
                Some((network.owner, network.stamp))
            }
            stage @ (Stage::Ports | Stage::Underlays) => {
                let port = self.port(PortId(index))?;
                let in_stage = port.role.is_underlay() == (stage == Stage::Underlays);
                in_stage.then_some((port.owner, port.stamp))
            }
        }
    }

    /// Removes the entry under the cursor.
    fn remove_visited(&mut self, writer: Writer) -> Result<(), TableError> {
        let Cursor {
            stage,
            index,
            after,
            ..
        } = self.sync.cursor;
        let removed = match stage {
            Stage::Routes => self.remove_route(writer, NetworkId(index), after.prefix()),
            Stage::Ports | Stage::Underlays => self.remove_port(writer, PortId(index)),
            Stage::Peers => self.remove_peer(writer, PeerId(index)),
            Stage::Networks => self.remove_network(writer, NetworkId(index)),
        };
        removed.map(|_| ())
    }

    /// The stamp of the entry under the cursor.
    fn visited_stamp(&mut self) -> Option<&mut Stamp> {
        let Cursor {
            stage,
            index,
            after,
            ..
        } = self.sync.cursor;
        let index = usize::from(index);
        match stage {
            Stage::Routes => {
                let network = NetworkId(self.sync.cursor.index);
                self.routes.stamp_mut(network, after)
            }
            Stage::Ports | Stage::Underlays => Some(&mut self.ports.get_mut(index)?.stamp),
            Stage::Peers => Some(&mut self.peers.get_mut(index)?.stamp),
            Stage::Networks => Some(&mut self.networks.get_mut(index)?.stamp),
        }
    }
}
