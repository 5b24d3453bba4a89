//! The shell's end of the control channel.

mod tables;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdGuard, PoisonError};
use std::time::Duration;

use culvert_core::TableError;
use culvert_core::channel::{
    Board, BoardAnswer, Error, Hello, PROTOCOL, Request, Response, SCHEMA, Welcome,
};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Notify, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{Instant, timeout, timeout_at};

use super::link::Stream;
use super::replicas::Replicas;

/// How long a core in this process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an appliance may take: an ADD that meets a silent one fails within five
/// seconds as a whole.
const PATIENCE_WITH_APPLIANCE: Duration = Duration::from_secs(3);

/// How long an appliance may take to answer Hello.
const PATIENCE_FOR_HELLO: Duration = Duration::from_secs(2);

/// Why the core did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoreError {
    /// The channel broke: the worker has ended, or the other end was closed.
    #[error("the channel to the packet core is gone: {0}")]
    Gone(#[from] std::io::Error),
    /// The channel to an appliance broke.
    #[error("the appliance at {channel}: connection lost ({why})")]
    Lost {
        /// Its address.
        channel: String,
        /// How it broke.
        why: std::io::ErrorKind,
    },
    /// No answer in time.
    #[error("the packet core has not answered within {} s", .0.as_secs())]
    Silent(Duration),
    /// What came is no answer.
    #[error("what came from the packet core is no message: {0}")]
    Garbage(Error),
    /// The core got something else than was sent.
    #[error("the packet core could not read what it was told: {0}")]
    Garbled(Error),
    /// No answer in time from an appliance.
    #[error("the appliance at {channel} has not answered within {} s", .patience.as_secs())]
    Unanswered {
        /// Its address.
        channel: String,
        /// How long was waited.
        patience: Duration,
    },
    /// The core has lost its tables and the epoch.
    #[error("the packet core has restarted")]
    Restarted,
    /// Somebody else has the core's ear for longer than this question waits.
    #[error("the packet core is being told its tables, and that takes more than {} s", .0.as_secs())]
    Busy(Duration),
    /// There is no channel at the moment.
    #[error("{0}")]
    Down(String),
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
    /// The workers do not have the same tables any more, which is a fault of the program.
    #[error("the workers' tables differ, and packets would be forwarded by either: {0}")]
    Diverged(String),
}

impl CoreError {
    /// Whether it is the channel's, so that nobody knows what the core has done.
    fn breaks(&self) -> bool {
        matches!(
            self,
            CoreError::Gone(_)
                | CoreError::Lost { .. }
                | CoreError::Unanswered { .. }
                | CoreError::Silent(_)
                | CoreError::Garbage(_)
                | CoreError::Garbled(_)
                | CoreError::Restarted
                | CoreError::Confused
        )
    }

    /// Whether the core is not reached, be it for now or just so.
    pub(super) fn is_absence(&self) -> bool {
        self.breaks() || matches!(self, CoreError::Down(_))
    }
}

/// How the channel to a core is.
#[derive(Debug, Clone)]
pub(super) enum ChannelState {
    /// The core has all tables, and changes are told at once.
    Connected,
    /// The core answers, and is being told its tables.
    Replaying(Instant),
    /// The core is not reached.
    Down {
        /// Since when.
        since: Instant,
        /// What is wrong.
        why: String,
    },
}

/// Whom [`Core`] speaks to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// The workers of this process, which are there or nothing is.
    Workers,
    /// An appliance, which comes and goes, by this channel.
    Appliance(String),
}

/// The core, reached through its channel; where there are several workers, the core of
/// each. Requests are answered one at a time.
pub(super) struct Core {
    shared: Arc<Shared>,
    /// Whether it speaks while the core is being told its tables.
    replays: bool,
}

struct Shared {
    kind: Kind,
    /// Offered at Hello.
    epoch: u64,
    replicas: Mutex<Replicas>,
    /// How many cores there are.
    count: usize,
    /// How the cores have come to differ.
    diverged: StdMutex<Option<String>>,
    /// The last transaction's number.
    transaction: AtomicU64,
    state: StdMutex<(ChannelState, u64)>,
    broken: Notify,
    /// Held by a sync, and by whoever says Hello, which would break it.
    conversation: Mutex<()>,
    /// Shared by those who change one attachment in database and core, and alone for
    /// who tells the core what the database has.
    changes: RwLock<()>,
}

impl Core {
    fn new(kind: Kind, epoch: u64, state: ChannelState, replicas: Replicas) -> Core {
        Core {
            shared: Arc::new(Shared {
                kind,
                epoch,
                count: replicas.count(),
                replicas: Mutex::new(replicas),
                diverged: StdMutex::default(),
                // Anywhere, as ids do: another daemon's had other numbers.
                transaction: AtomicU64::new(RandomState::new().hash_one(0) >> 33),
                state: StdMutex::new((state, 0)),
                broken: Notify::new(),
                conversation: Mutex::default(),
                changes: RwLock::default(),
            }),
            replays: false,
        }
    }

    /// Says Hello on the fresh channels to all workers, offering `epoch`.
    ///
    /// # Errors
    /// [`CoreError`]; above all when the protocol versions do not match.
    pub(super) async fn of_workers(
        channels: Vec<StdStream>,
        epoch: u64,
    ) -> Result<Core, CoreError> {
        let mut streams: Vec<Box<dyn Stream>> = Vec::new();
        for channel in channels {
            streams.push(Box::new(UnixStream::from_std(channel)?));
        }
        let replicas = Replicas::of(streams);
        let core = Core::new(Kind::Workers, epoch, ChannelState::Connected, replicas);
        let welcome = core.say_hello().await?;
        core.state().1 = welcome.epoch;
        Ok(core)
    }

    /// A core in an appliance, which is not reached yet and will be by `channel`.
    pub(super) fn of_appliance(epoch: u64, channel: String) -> Core {
        let down = ChannelState::Down {
            since: Instant::now(),
            why: "the channel to the appliance was not opened yet".to_owned(),
        };
        Core::new(Kind::Appliance(channel), epoch, down, Replicas::one())
    }

    /// Goes on by another stream: says Hello, and keeps all others out until
    /// [`Core::open`]. Returns what the core is, and who may tell it its tables.
    ///
    /// # Errors
    /// [`CoreError`]; the channel is down then.
    pub(super) async fn reconnect(
        &self,
        stream: Box<dyn Stream>,
    ) -> Result<(Welcome, Core), CoreError> {
        self.shared.replicas.lock().await.attach(stream);
        let replayer = Core {
            shared: Arc::clone(&self.shared),
            replays: true,
        };
        // Nobody else speaks: the channel is down to them.
        let welcome = replayer.say_hello().await?;
        *self.state() = (ChannelState::Replaying(Instant::now()), welcome.epoch);
        Ok((welcome, replayer))
    }

    /// The epoch of the core's life as far as it is known; 0 before the first Hello.
    pub(super) fn epoch(&self) -> u64 {
        self.state().1
    }

    /// Lets everybody in, if the channel did not break since [`Core::reconnect`].
    pub(super) fn open(&self) {
        let mut state = self.state();
        if matches!(state.0, ChannelState::Replaying(_)) {
            state.0 = ChannelState::Connected;
        }
    }

    /// Lets go of a stream that is of no use any more: a serial line has one owner.
    pub(super) async fn let_go(&self) {
        self.shared.replicas.lock().await.detach();
    }

    /// Gives the channel up until the next [`Core::reconnect`], and says why.
    pub(super) async fn close(&self, why: String) {
        self.shared.replicas.lock().await.detach();
        self.set_down(why);
    }

    /// Resolves when the channel is down.
    pub(super) async fn broken(&self) {
        loop {
            // Registered before the look, so that no wake-up falls in between.
            let broken = self.shared.broken.notified();
            if matches!(self.channel_state(), ChannelState::Down { .. }) {
                return;
            }
            broken.await;
        }
    }

    /// How the channel is.
    pub(super) fn channel_state(&self) -> ChannelState {
        self.state().0.clone()
    }

    /// Whether anything can be asked now.
    ///
    /// # Errors
    /// [`CoreError::Down`], which says why not.
    pub(super) fn ready(&self) -> Result<(), CoreError> {
        if let Some(how) = self.divergence().clone() {
            return Err(CoreError::Diverged(how));
        }
        let age = |since: &Instant| since.elapsed().as_secs();
        match &self.state().0 {
            ChannelState::Connected => Ok(()),
            _ if self.replays => Ok(()),
            ChannelState::Replaying(since) => Err(CoreError::Down(format!(
                "the appliance is being told its tables, since {} s",
                age(since)
            ))),
            ChannelState::Down { since, why } => Err(CoreError::Down(format!(
                "the appliance is not reached, since {} s: {why}",
                age(since)
            ))),
        }
    }

    /// Waits for its turn to change an attachment in database and core. While it is held
    /// the core is told nothing that the database says.
    pub(super) async fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.shared.changes.read().await
    }

    /// Waits until nobody changes an attachment, and keeps them all out.
    pub(super) async fn no_changes(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.changes.write().await
    }

    fn state(&self) -> StdGuard<'_, (ChannelState, u64)> {
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn set_down(&self, why: String) {
        let mut state = self.state();
        let since = match state.0 {
            ChannelState::Down { since, .. } => since,
            _ => Instant::now(),
        };
        state.0 = ChannelState::Down { since, why };
        drop(state);
        self.shared.broken.notify_waiters();
    }

    fn is_appliance(&self) -> bool {
        matches!(self.shared.kind, Kind::Appliance(_))
    }

    /// The error with the channel's address where it is that.
    fn named(&self, error: CoreError) -> CoreError {
        match (error, &self.shared.kind) {
            (CoreError::Gone(source), Kind::Appliance(channel)) => CoreError::Lost {
                channel: channel.clone(),
                why: source.kind(),
            },
            (CoreError::Silent(patience), Kind::Appliance(channel)) => CoreError::Unanswered {
                channel: channel.clone(),
                patience,
            },
            (error, _) => error,
        }
    }

    fn patience(&self) -> Duration {
        match self.shared.kind {
            Kind::Workers => PATIENCE,
            Kind::Appliance(_) => PATIENCE_WITH_APPLIANCE,
        }
    }

    /// What of a core that is not reached need not be an error: an appliance is told
    /// all that database and configuration say before anything else is asked of it, and
    /// that is why it must be told again now.
    ///
    /// # Errors
    /// Any other one.
    pub(super) fn or_later<T: Default>(&self, done: Result<T, CoreError>) -> Result<T, CoreError> {
        match done {
            Err(error) if self.is_appliance() && error.is_absence() => {
                tracing::debug!("the appliance learns of a change later: {error}");
                if self.ready().is_ok() {
                    self.set_down(error.to_string());
                }
                Ok(T::default())
            }
            done => done,
        }
    }

    /// Asks a device's shell what is not for the core.
    ///
    /// # Errors
    /// [`CoreError`]; `Refused` with `Unsupported` by a shell that knows nothing of it.
    pub(super) async fn board(&self, request: Board) -> Result<BoardAnswer, CoreError> {
        match self.ask(Request::Board(request)).await? {
            Response::Board(answer) => Ok(answer),
            _ => Err(CoreError::Confused),
        }
    }

    /// The core's state of things: epoch, capacities, use of the tables.
    ///
    /// # Errors
    /// [`CoreError`]; [`CoreError::Restarted`] when its tables are gone, and
    /// [`CoreError::Busy`] while a sync goes on.
    pub(super) async fn welcome(&self) -> Result<Welcome, CoreError> {
        // Whoever tells an appliance its tables has the conversation all the while.
        self.ready()?;
        let patience = match self.shared.kind {
            Kind::Workers => PATIENCE,
            Kind::Appliance(_) => PATIENCE_FOR_HELLO,
        };
        let alone = timeout(patience, self.shared.conversation.lock()).await;
        let _alone = alone.map_err(|_| CoreError::Busy(patience))?;
        self.hello_again().await
    }

    async fn hello_again(&self) -> Result<Welcome, CoreError> {
        let welcome = self.say_hello().await?;
        if welcome.previous_epoch == self.state().1 {
            return Ok(welcome);
        }
        Err(CoreError::Restarted)
    }

    /// Whether an answer to another Hello than the channel's first says that the core has
    /// restarted: it has the epoch again then, and would answer as if it had its tables.
    fn has_restarted(&self, answer: &Response) -> bool {
        let mut state = self.state();
        let known = match state.0 {
            ChannelState::Down { .. } => None,
            ChannelState::Connected | ChannelState::Replaying(_) => Some(state.1),
        };
        let restarted = matches!((answer, known), (Response::Hello(welcome), Some(known))
            if welcome.previous_epoch != known);
        if restarted {
            // At the next Hello it will seem to be the life that was known before.
            state.1 = 0;
        }
        restarted
    }

    async fn say_hello(&self) -> Result<Welcome, CoreError> {
        let hello = Request::Hello(Hello {
            version: PROTOCOL,
            epoch: self.shared.epoch,
            schema: SCHEMA,
        });
        match self.ask(hello).await? {
            Response::Hello(welcome) => Ok(welcome),
            _ => Err(CoreError::Confused),
        }
    }

    /// Asks for one answer of all cores together.
    async fn ask(&self, request: Request) -> Result<Response, CoreError> {
        let answers = self.exchange(Question::Together(Box::new(request))).await?;
        answers.into_iter().next().ok_or(CoreError::Confused)
    }

    /// Asks each core something of its own; returns their answers in their order.
    async fn ask_each(&self, requests: Vec<Request>) -> Result<Vec<Response>, CoreError> {
        self.exchange(Question::Each(requests)).await
    }

    async fn exchange(&self, question: Question) -> Result<Vec<Response>, CoreError> {
        if self.shared.count == 1 {
            return self.exchange_now(question).await;
        }
        // Who asks may give up at any point, and what one core was told all must be.
        let core = Core {
            shared: Arc::clone(&self.shared),
            replays: self.replays,
        };
        let exchange = tokio::spawn(async move { core.exchange_now(question).await });
        exchange
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error).into()))
    }

    /// Asks when it is this question's turn; waiting for that is a part of the patience.
    async fn exchange_now(&self, question: Question) -> Result<Vec<Response>, CoreError> {
        self.ready()?;
        let patience = match (&question, &self.shared.kind) {
            // Nobody waits for it, and a stream that brings no answer is tried again.
            (Question::Together(request), Kind::Appliance(_))
                if matches!(**request, Request::Hello(_)) =>
            {
                PATIENCE_FOR_HELLO
            }
            _ => self.patience(),
        };
        let deadline = Instant::now() + patience;
        let silent = |_| self.named(CoreError::Silent(patience));
        let replicas = timeout_at(deadline, self.shared.replicas.lock()).await;
        let mut replicas = replicas.map_err(silent)?;
        // It may have broken meanwhile.
        self.ready()?;
        let wait = (deadline, patience);
        let answers = match &question {
            Question::Together(request) => replicas.ask(request, wait).await.map(|one| vec![one]),
            Question::Each(requests) => replicas.ask_each(requests, wait).await,
        };
        let error = match answers {
            Ok(answers) if self.is_appliance() && answers.iter().any(|a| self.has_restarted(a)) => {
                CoreError::Restarted
            }
            Ok(answers) => return Ok(answers),
            Err(CoreError::Refused(Error::NoEpoch)) => CoreError::Restarted,
            Err(error) => self.named(error),
        };
        if error.breaks() && self.is_appliance() {
            // What still comes of it is an answer to nothing.
            replicas.detach();
            // Before whoever waits for the link has it.
            self.set_down(error.to_string());
        }
        if let CoreError::Diverged(how) = &error {
            *self.divergence() = Some(how.clone());
            self.shared.broken.notify_waiters();
        }
        Err(error)
    }

    /// Resolves when the workers' tables have come to differ, with the reason.
    pub(super) async fn diverged(&self) -> String {
        loop {
            let broken = self.shared.broken.notified();
            if let Some(how) = self.divergence().clone() {
                return how;
            }
            broken.await;
        }
    }

    fn divergence(&self) -> StdGuard<'_, Option<String>> {
        let diverged = self.shared.diverged.lock();
        diverged.unwrap_or_else(PoisonError::into_inner)
    }

    /// How many cores there are: one in each worker.
    pub(super) fn count(&self) -> usize {
        self.shared.count
    }
}

/// What is asked.
enum Question {
    /// All cores, for one answer.
    Together(Box<Request>),
    /// Each core, in their order.
    Each(Vec<Request>),
}

#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod tests;
