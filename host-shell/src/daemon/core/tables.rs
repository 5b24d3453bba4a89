//! What is told to a core and asked of it: its tables, counters and events.

use std::sync::atomic::Ordering;

use culvert_core::channel::{
    Apply, Event, MAX_OPERATIONS, Operation, Owned, Owner, Page, Peer, Port, PortKind, PortStats,
    Read, Refusal, Request, Response, Route, Sync, Synced, Welcome,
};
use culvert_core::{Capacities, Counter, PortId, heapless};

use super::{Core, CoreError};

/// What becomes of a sync when an operation is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It is given up.
    Ends,
    /// It goes on without it.
    IsSkipped,
}

impl Core {
    /// Removes an attachment's port. Of an appliance that is not reached this succeeds:
    /// before anything else is told to it again, all ports go from it that the database
    /// does not have. Whoever calls this takes the attachment out of the database and holds
    /// [`Core::change`] all the while.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(in crate::daemon) async fn remove_port(&self, id: PortId) -> Result<(), CoreError> {
        let removal = [Operation::RemovePort(id)];
        let removed = self.apply(Owner::Attachment, &removal).await;
        self.or_later(removed)
    }

    /// Carries out at most [`MAX_OPERATIONS`] operations, all or none. When this
    /// returns every later frame is forwarded by the new tables.
    ///
    /// # Errors
    /// [`CoreError::Table`] names the operation that was refused.
    ///
    /// # Panics
    /// When there are more operations.
    pub(in crate::daemon) async fn apply(
        &self,
        owner: Owner,
        operations: &[Operation],
    ) -> Result<(), CoreError> {
        let transaction = self.next_transaction();
        let apply = Apply {
            transaction,
            owner,
            operations: heapless::Vec::from_slice(operations)
                .expect("callers keep transactions within the limit"),
        };
        match self.ask(Request::Apply(apply)).await? {
            Response::Applied { transaction: t } if t == transaction => Ok(()),
            Response::Refused(refusal) => Err(refused(refusal, operations)),
            _ => Err(CoreError::Confused),
        }
    }

    /// Replaces all entries of an owner by these, what others refer to first, without
    /// a gap and without touching another owner's. Returns how many entries went.
    ///
    /// # Errors
    /// [`CoreError`]; what was applied before a refused operation stays then, and
    /// nothing was removed.
    pub(in crate::daemon) async fn replace(
        &self,
        owner: Owner,
        operations: &[Operation],
    ) -> Result<u32, CoreError> {
        let (swept, _) = self.replace_by(owner, operations, Refused::Ends).await?;
        Ok(swept)
    }

    /// As [`Core::replace`], for operations of which none refers to another: those that
    /// are refused are left out. Returns their indices, and why.
    ///
    /// # Errors
    /// [`CoreError`] when the core is not reached any more.
    pub(in crate::daemon) async fn replace_what_can_be(
        &self,
        owner: Owner,
        operations: &[Operation],
    ) -> Result<Vec<(usize, CoreError)>, CoreError> {
        let (_, refused) = self
            .replace_by(owner, operations, Refused::IsSkipped)
            .await?;
        if refused.is_empty() {
            return Ok(refused);
        }
        // What was in the way has gone since.
        let again = self.replace_by(owner, operations, Refused::IsSkipped).await;
        Ok(again?.1)
    }

    async fn replace_by(
        &self,
        owner: Owner,
        operations: &[Operation],
        then: Refused,
    ) -> Result<(u32, Vec<(usize, CoreError)>), CoreError> {
        let _alone = self.shared.conversation.lock().await;
        let welcome = self.hello_again().await?;
        let transaction = self.next_transaction();
        let begin = Sync::Begin {
            transaction,
            owner,
            additions: additions(&welcome, operations),
        };
        self.sync(begin).await?;
        let mut refused = Vec::new();
        for (number, part) in operations.chunks(MAX_OPERATIONS).enumerate() {
            let first = number * MAX_OPERATIONS;
            let done = match self.apply(owner, part).await {
                Err(CoreError::Table { .. }) if then == Refused::IsSkipped => {
                    self.apply_each(owner, (first, part), &mut refused).await
                }
                other => other,
            };
            if let Err(error) = done {
                // Without an answer to that the core is gone.
                let _ = self.sync(Sync::Abort { transaction }).await;
                return Err(error);
            }
        }
        let synced = self.sync(Sync::End { transaction }).await?;
        Ok((synced.swept, refused))
    }

    /// Applies operations one by one, the first of which has the index `first`.
    async fn apply_each(
        &self,
        owner: Owner,
        (first, operations): (usize, &[Operation]),
        refused: &mut Vec<(usize, CoreError)>,
    ) -> Result<(), CoreError> {
        for (index, operation) in operations.iter().enumerate() {
            match self.apply(owner, std::slice::from_ref(operation)).await {
                Err(error @ CoreError::Table { .. }) => refused.push((first + index, error)),
                other => other?,
            }
        }
        Ok(())
    }

    /// Repeats a part of a sync until it is done.
    async fn sync(&self, sync: Sync) -> Result<Synced, CoreError> {
        loop {
            match self.ask(Request::Sync(sync)).await? {
                Response::Synced(synced) if synced.done => return Ok(synced),
                Response::Synced(_) => {}
                Response::Refused(refusal) => return Err(refused(refusal, &[])),
                _ => return Err(CoreError::Confused),
            }
        }
    }

    /// A transaction's number, another one each time. The link is not asked for it: who
    /// has that may wait for an answer, and nobody waits for this one in time.
    fn next_transaction(&self) -> u64 {
        let last = self.shared.transaction.fetch_add(1, Ordering::Relaxed);
        last.wrapping_add(1)
    }

    /// What happened in each core behind the number of its last event that is known, of
    /// one that is not given, from the first on.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(in crate::daemon) async fn events(
        &self,
        after: &[u64],
    ) -> Result<Vec<Vec<Event>>, CoreError> {
        let after = |core| after.get(core).copied().unwrap_or_default();
        let each = (0..self.count()).map(|core| Request::Events { after: after(core) });
        let answers = self.ask_each(each.collect()).await?.into_iter();
        let events = answers.map(|answer| match answer {
            Response::Events { events, .. } => Ok(events.into_iter().collect()),
            _ => Err(CoreError::Confused),
        });
        events.collect()
    }

    /// How many frames each core has taken in.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(in crate::daemon) async fn frames(&self) -> Result<Vec<u64>, CoreError> {
        let from = Counter::Rx.number();
        let each = vec![Request::Counters { from }; self.count()];
        let answers = self.ask_each(each).await?.into_iter();
        let frames = answers.map(|answer| match answer {
            Response::Counters { values, .. } => {
                let mut values = values.iter();
                let found = values.find(|(number, _)| *number == from);
                Ok(found.map_or(0, |(_, value)| *value))
            }
            _ => Err(CoreError::Confused),
        });
        frames.collect()
    }

    /// All ports and endpoints, as the core has them.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(in crate::daemon) async fn ports(
        &self,
    ) -> Result<Vec<(Owned<Port>, PortStats)>, CoreError> {
        let mut all: Vec<(Owned<Port>, PortStats)> = Vec::new();
        loop {
            let after = all.last().map(|(port, _)| port.entry.id);
            let page = self.ports_page(Read::Ports { after }).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// One page of ports.
    ///
    /// # Errors
    /// [`CoreError`]; [`CoreError::Confused`] when `read` is for another table.
    pub(in crate::daemon) async fn ports_page(
        &self,
        read: Read,
    ) -> Result<Vec<(Owned<Port>, PortStats)>, CoreError> {
        match self.read(read).await? {
            Page::Ports(page) => Ok(page.into_iter().collect()),
            _ => Err(CoreError::Confused),
        }
    }

    /// All peers, with the number of routes to each.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(in crate::daemon) async fn peers(&self) -> Result<Vec<(Owned<Peer>, u32)>, CoreError> {
        let mut all: Vec<(Owned<Peer>, u32)> = Vec::new();
        loop {
            let after = all.last().map(|(peer, _)| peer.entry.id);
            match self.read(Read::Peers { after }).await? {
                Page::Peers(page) if page.is_empty() => return Ok(all),
                Page::Peers(page) => all.extend(page),
                _ => return Err(CoreError::Confused),
            }
        }
    }

    /// All routes, ordered by network and prefix.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(in crate::daemon) async fn routes(&self) -> Result<Vec<Owned<Route>>, CoreError> {
        let mut all: Vec<Owned<Route>> = Vec::new();
        loop {
            let last = all.last();
            let after = last.map(|route| (route.entry.network, route.entry.prefix));
            match self.read(Read::Routes { after }).await? {
                Page::Routes(page) if page.is_empty() => return Ok(all),
                Page::Routes(page) => all.extend(page),
                _ => return Err(CoreError::Confused),
            }
        }
    }

    /// All counters that this version knows.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(in crate::daemon) async fn counters(&self) -> Result<Vec<(Counter, u64)>, CoreError> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            match self.ask(Request::Counters { from }).await? {
                Response::Counters { values, next } => {
                    let known = values.iter().filter_map(|(number, value)| {
                        Counter::from_number(*number).map(|counter| (counter, *value))
                    });
                    all.extend(known);
                    match next {
                        Some(next) if next > from => from = next,
                        _ => return Ok(all),
                    }
                }
                _ => return Err(CoreError::Confused),
            }
        }
    }

    async fn read(&self, read: Read) -> Result<Page, CoreError> {
        match self.ask(Request::Read(read)).await? {
            Response::Page(page) => Ok(page),
            _ => Err(CoreError::Confused),
        }
    }
}

/// Room for all of these, as far as there is any: some may be there already.
fn additions(welcome: &Welcome, operations: &[Operation]) -> Capacities {
    let (capacities, used) = (&welcome.capacities, &welcome.used);
    let mut wanted = Capacities::default();
    for operation in operations {
        match operation {
            Operation::UpsertNetwork(_) => wanted.networks += 1,
            Operation::UpsertPort(port) => {
                wanted.ports += 1;
                if let PortKind::Endpoint(endpoint) = &port.kind {
                    wanted.routes += u32::try_from(endpoint.addresses.len()).unwrap_or(u32::MAX);
                }
            }
            Operation::UpsertPeer(_) => wanted.peers += 1,
            Operation::UpsertRoute(_) => wanted.routes += 1,
            _ => {}
        }
    }
    let room = |wanted: u32, capacity: u32, used| wanted.min(capacity.saturating_sub(used));
    Capacities {
        networks: room(wanted.networks, capacities.networks, used.networks),
        ports: room(wanted.ports, capacities.ports, used.ports),
        peers: room(wanted.peers, capacities.peers, used.peers),
        routes: room(wanted.routes, capacities.routes, used.routes),
    }
}

fn refused(refusal: Refusal, operations: &[Operation]) -> CoreError {
    let operation = operations.get(usize::from(refusal.operation));
    CoreError::Table {
        operation: operation.map_or_else(|| "the sync".to_owned(), describe),
        error: refusal.error,
    }
}

/// An operation in words.
fn describe(operation: &Operation) -> String {
    match operation {
        Operation::UpsertNetwork(network) => format!("network {}", network.id),
        Operation::RemoveNetwork(id) => format!("the removal of network {id}"),
        Operation::UpsertPort(port) => format!("port {}", port.id),
        Operation::RemovePort(id) => format!("the removal of port {id}"),
        Operation::UpsertPeer(peer) => format!("peer {} ({})", peer.id, peer.underlay),
        Operation::RemovePeer(id) => format!("the removal of peer {id}"),
        Operation::UpsertRoute(route) => format!("the route to {}", route.prefix),
        Operation::RemoveRoute { prefix, .. } => format!("the removal of the route to {prefix}"),
        Operation::SetPathMtu { peer, .. } => format!("the path MTU of peer {peer}"),
    }
}
