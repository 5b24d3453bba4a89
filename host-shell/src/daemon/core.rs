//! The shell's end of the control channel.

use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use culvert_core::channel::{
    Apply, Error, Event, FrameDecoder, FrameEvent, Hello, MAX_FRAME, MAX_MESSAGE, MAX_OPERATIONS,
    Operation, Owned, Owner, PROTOCOL, Page, Peer, Port, PortKind, PortStats, Read, Refusal,
    Request, Response, Route, SCHEMA, Sync, Synced, Welcome, decode_response, encode_frame,
    encode_request,
};
use culvert_core::{Capacities, Counter, TableError, heapless};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long the core may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the core did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CoreError {
    /// The channel broke: the worker has ended.
    #[error("the packet core is gone: {0}")]
    Gone(#[from] std::io::Error),
    /// No answer in time.
    #[error("the packet core has not answered within {} s", PATIENCE.as_secs())]
    Silent,
    /// The core could not carry the request out at all.
    #[error(transparent)]
    Refused(#[from] Error),
    /// A transaction was refused; nothing was changed.
    #[error("the packet core refused {operation}: {error}")]
    Table {
        /// Which operation, in words.
        operation: String,
        /// Why.
        error: TableError,
    },
    /// The answer is of another kind than the question.
    #[error("the packet core answered something else than was asked")]
    Confused,
}

/// The core, reached through its channel. Requests are answered one at a time.
pub(super) struct Core {
    link: Mutex<Link>,
    /// Held by a sync, and by whoever says Hello, which would break it.
    conversation: Mutex<()>,
}

struct Link {
    stream: UnixStream,
    decoder: FrameDecoder,
    last_id: u32,
    last_transaction: u64,
}

impl Core {
    /// Says Hello on a fresh channel, offering `epoch`.
    ///
    /// # Errors
    /// [`CoreError`]; above all when the protocol versions do not match.
    pub(super) async fn hello(stream: StdStream, epoch: u64) -> Result<(Core, Welcome), CoreError> {
        let core = Core {
            link: Mutex::new(Link {
                stream: UnixStream::from_std(stream)?,
                decoder: FrameDecoder::new(),
                last_id: 0,
                last_transaction: 0,
            }),
            conversation: Mutex::default(),
        };
        let hello = Request::Hello(Hello {
            version: PROTOCOL,
            epoch,
            schema: SCHEMA,
        });
        match core.ask(hello).await? {
            Response::Hello(welcome) => Ok((core, welcome)),
            _ => Err(CoreError::Confused),
        }
    }

    /// Carries out at most [`MAX_OPERATIONS`] operations, all or none. When this
    /// returns every later frame is forwarded by the new tables.
    ///
    /// # Errors
    /// [`CoreError::Table`] names the operation that was refused.
    ///
    /// # Panics
    /// When there are more operations.
    pub(super) async fn apply(
        &self,
        owner: Owner,
        operations: &[Operation],
    ) -> Result<(), CoreError> {
        let mut link = self.link.lock().await;
        link.last_transaction += 1;
        let transaction = link.last_transaction;
        let apply = Apply {
            transaction,
            owner,
            operations: heapless::Vec::from_slice(operations)
                .expect("callers keep transactions within the limit"),
        };
        match link.ask(&Request::Apply(apply)).await? {
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
    pub(super) async fn replace(
        &self,
        (owner, epoch): (Owner, u64),
        operations: &[Operation],
    ) -> Result<u32, CoreError> {
        let _alone = self.conversation.lock().await;
        let welcome = self.hello_again(epoch).await?;
        let transaction = self.next_transaction().await;
        let begin = Sync::Begin {
            transaction,
            owner,
            additions: additions(&welcome, operations),
        };
        self.sync(begin).await?;
        for part in operations.chunks(MAX_OPERATIONS) {
            if let Err(error) = self.apply(owner, part).await {
                // Without an answer to that the core is gone.
                let _ = self.sync(Sync::Abort { transaction }).await;
                return Err(error);
            }
        }
        let synced = self.sync(Sync::End { transaction }).await?;
        Ok(synced.swept)
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

    async fn next_transaction(&self) -> u64 {
        let mut link = self.link.lock().await;
        link.last_transaction += 1;
        link.last_transaction
    }

    /// What happened behind an event's number, and how many events are lost.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(super) async fn events(&self, after: u64) -> Result<(Vec<Event>, u64), CoreError> {
        match self.ask(Request::Events { after }).await? {
            Response::Events { events, lost } => Ok((events.into_iter().collect(), lost)),
            _ => Err(CoreError::Confused),
        }
    }

    /// The channel's state of things: epoch, capacities, use of the tables.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(super) async fn welcome(&self, epoch: u64) -> Result<Welcome, CoreError> {
        let _alone = self.conversation.lock().await;
        self.hello_again(epoch).await
    }

    async fn hello_again(&self, epoch: u64) -> Result<Welcome, CoreError> {
        let hello = Request::Hello(Hello {
            version: PROTOCOL,
            epoch,
            schema: SCHEMA,
        });
        match self.ask(hello).await? {
            Response::Hello(welcome) => Ok(welcome),
            _ => Err(CoreError::Confused),
        }
    }

    /// All ports and endpoints, as the core has them.
    ///
    /// # Errors
    /// [`CoreError`].
    pub(super) async fn ports(&self) -> Result<Vec<(Owned<Port>, PortStats)>, CoreError> {
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
    pub(super) async fn ports_page(
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
    pub(super) async fn peers(&self) -> Result<Vec<(Owned<Peer>, u32)>, CoreError> {
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
    pub(super) async fn routes(&self) -> Result<Vec<Owned<Route>>, CoreError> {
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
    pub(super) async fn counters(&self) -> Result<Vec<(Counter, u64)>, CoreError> {
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

    async fn ask(&self, request: Request) -> Result<Response, CoreError> {
        self.link.lock().await.ask(&request).await
    }
}

impl Link {
    async fn ask(&mut self, request: &Request) -> Result<Response, CoreError> {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let id = self.last_id;
        let mut message = vec![0; MAX_MESSAGE];
        let mut frame = vec![0; MAX_FRAME];
        let len = encode_request(id, request, &mut message)
            .and_then(|len| encode_frame(&mut message, len, &mut frame))
            .ok_or(Error::TooLarge)?;
        let exchange = async {
            self.stream.write_all(&frame[..len]).await?;
            self.answer_to(id).await
        };
        match timeout(PATIENCE, exchange).await {
            Ok(Ok(Response::Error(error))) => Err(error.into()),
            Ok(other) => other,
            Err(_) => Err(CoreError::Silent),
        }
    }

    /// Reads until the answer with this id; late answers to others are passed over.
    async fn answer_to(&mut self, id: u32) -> Result<Response, CoreError> {
        let mut chunk = vec![0; MAX_FRAME];
        loop {
            let read = self.stream.read(&mut chunk).await?;
            if read == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            let mut found = None;
            self.decoder.feed(&chunk[..read], |event| {
                let answer = match event {
                    FrameEvent::Message(message) => {
                        decode_response(message).map_err(|e| (e.id, e.error))
                    }
                    FrameEvent::Damaged => Err((0, Error::Damaged)),
                    FrameEvent::TooLarge => Err((0, Error::TooLarge)),
                };
                match answer {
                    Ok((to, response)) if to == id || to == 0 => found = Some(Ok(response)),
                    Err((to, error)) if to == id || to == 0 => found = Some(Err(error)),
                    _ => {}
                }
            });
            if let Some(answer) = found {
                return Ok(answer?);
            }
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
