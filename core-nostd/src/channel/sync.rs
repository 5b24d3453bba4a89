//! How a shell replaces everything that one owner has in the core.
//!
//! After a restart, or whenever its source of routes starts from scratch, a shell
//! knows what an owner's entries should be, but not what the core has. Removing
//! everything first would stop traffic; so it syncs:
//!
//! 1. [`Sync::Begin`] reserves room for what will be there more than now: the new
//!    entries while the old are still there. A shell that does not know what is
//!    there reserves what it is going to send, as far as `Hello` told of room for
//!    it; `End` gives back what was not used.
//! 2. `Apply` with all of the owner's entries as upserts, in as many transactions
//!    as it takes, what others refer to first: each names its entry and changes
//!    only what differs. Removals are allowed, too. The other owner's transactions
//!    go on in between.
//! 3. [`Sync::End`] removes the owner's entries that were not named.
//!
//! `Begin` and `End` are sent again, the same message, until the answer says
//! `done`: each does a bounded piece of work, so that no frame waits for long.
//! Until `End` is sent nothing is removed, and what is in the old and in the new
//! set forwards all the time.
//!
//! Some changes cannot be made in place: an id that gets another network or
//! underlay address (`Immutable`), an address or VNI that an old entry still has
//! (`Conflict`), an id of the other owner's (`OwnedBy`), a table without room. Such
//! an upsert is refused; the shell goes on, names neither it nor what refers to it,
//! and begins another sync when this one has swept what was in the way.
//!
//! Any of these messages may be sent again when its answer did not come. A shell
//! that gives up sends [`Sync::Abort`]: what was applied stays, nothing is swept. A
//! sync that breaks because the channel is lost ends like that with the next `Hello`.

use serde::{Deserialize, Serialize};

use super::Owner;
use crate::tables::storage::Capacities;

/// Replaces one owner's entries without a gap: entries that are not named by an
/// upsert of the owner between `Begin` and `End` are removed by `End`, those of
/// the other owner are left alone. The shell repeats `Begin` and `End` until
/// [`Synced::done`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Sync {
    /// Begins, and breaks a sync of the same owner that did not end.
    ///
    /// Refused as `TableFull` when a table has no room for the additions, and as
    /// `SyncRunning` while the other owner's runs.
    Begin {
        /// Chosen by the shell, another one for each sync: the running sync's
        /// number again, with the same owner and additions, goes on with it.
        transaction: u64,
        /// Whose entries are replaced.
        owner: Owner,
        /// By how many entries the owner may grow until `End`, table by table;
        /// an endpoint's addresses count as routes. Nobody else gets this room,
        /// and what the owner adds beyond it, balanced by what it removes, is
        /// refused as `SyncReservation`.
        additions: Capacities,
    },
    /// Gives the rest of the reservation back and sweeps what was not named:
    /// routes, ports, peers, networks, and at last underlay ports, on which the
    /// networks stood. What entries that stay refer to is kept, and counted.
    ///
    /// Refused as `SyncNotRunning` when this sync was broken or never begun.
    End {
        /// The number of the sync.
        transaction: u64,
    },
    /// Gives the sync up: nothing (more) is swept, what was applied stays. An
    /// unknown number is answered as done.
    Abort {
        /// The number of the sync.
        transaction: u64,
    },
}

/// Answers [`Sync`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Synced {
    /// The transaction of the request.
    pub transaction: u64,
    /// Whether the request is carried out; the same request must be sent again otherwise.
    pub done: bool,
    /// Entries that were removed so far since the first `End`; an endpoint with
    /// its host routes is one.
    pub swept: u32,
    /// Entries that were not named but kept, because entries that stay refer to
    /// them: the other owner's, or named ones.
    pub kept: u32,
}
