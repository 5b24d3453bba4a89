//! The data plane: worker threads that own ports and run the packet core.
//!
//! A worker runs to completion: it takes a batch of frames from a ready port,
//! lets the core decide, sends what is to be sent, and only then looks at the
//! next port. Its tables change through the control channel and nothing else;
//! descriptors, which cannot travel there, come beside it.

mod buffers;
mod control;
mod counters;
mod tap;
mod underlay;
mod wire;
mod worker;
mod workers;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant as Clock};

use culvert_core::PortId;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

pub use counters::{ShellCounter, ShellCounters};
pub use tap::TapPort;
pub use underlay::{Underlay, UnderlayOptions};
pub use wire::WirePort;
pub use workers::{Plan, Started, Workers};

/// What a port is made of.
pub enum Driver {
    /// A TAP: a pod's interface or the host's.
    Tap(TapPort),
    /// Sockets: the underlay.
    Underlay(Box<Underlay>),
    /// A TAP joined to the underlay's device: the underlay, outer headers included.
    Wire(Box<WirePort>),
}

/// What sending needs of the worker.
struct Tools<'t> {
    counters: &'t ShellCounters,
    /// Memory to cut super-frames into, a few times the largest frame.
    scratch: &'t mut [u8],
}

impl Tools<'_> {
    /// Counts a super-frame that cannot be sent.
    fn not_cut(&self, error: &culvert_core::offload::SegmentError) {
        tracing::debug!(%error, "a super-frame was not cut into segments");
        self.counters.add(ShellCounter::SegmentFailed, 1);
    }
}

/// What the control plane asks of a worker beside the channel.
enum Command {
    /// Serve this port from now on. A port of the same id is replaced, and given back.
    Attach(PortId, Driver, oneshot::Sender<io::Result<Option<Driver>>>),
    /// Serve it no longer, and give it back.
    Detach(PortId, oneshot::Sender<Option<Driver>>),
    /// End the thread.
    Stop,
}

/// Resolves, with an error, when the worker's thread ends for whatever reason.
pub type WorkerEnded = oneshot::Receiver<Never>;

/// There is no such value.
#[derive(Debug)]
pub enum Never {}

/// The worker has ended; nothing is forwarded any more.
#[derive(Debug, thiserror::Error)]
#[error("the data-plane worker has ended")]
pub struct WorkerGone;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Its number among the workers, in its thread's name.
    pub number: usize,
    /// The processor that it is to run on; any of those that the process may use where
    /// there is none.
    pub cpu: Option<usize>,
    /// For how long it polls its ports after work before it sleeps. It takes its
    /// processor for all of that time.
    pub spin: Duration,
    /// Whether it announces new addresses, as one of several workers must.
    pub announces: bool,
    /// When the time began that its core knows.
    pub started: Clock,
}

impl Default for WorkerOptions {
    /// The only worker: on any processor, without polling.
    fn default() -> Self {
        WorkerOptions {
            number: 0,
            cpu: None,
            spin: Duration::ZERO,
            announces: true,
            started: Clock::now(),
        }
    }
}

/// The control plane's hold on a worker thread. Dropping it ends the thread.
pub struct Worker {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    counters: Arc<ShellCounters>,
}

impl Worker {
    /// Starts the only worker, with empty tables. Returns the shell's end of its control
    /// channel too (non-blocking), and what resolves when the thread has ended.
    ///
    /// # Errors
    /// When the kernel gives no thread, socket pair, epoll or event descriptor.
    pub fn start() -> io::Result<(Worker, UnixStream, WorkerEnded)> {
        Worker::start_with(WorkerOptions::default())
    }

    /// As [`Worker::start`], a worker that works like this.
    ///
    /// # Errors
    /// As [`Worker::start`], and when it cannot run on its processor.
    pub fn start_with(options: WorkerOptions) -> io::Result<(Worker, UnixStream, WorkerEnded)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let (commands, receiver) = mpsc::channel();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let counters = Arc::new(ShellCounters::default());
        let inbox = worker::Inbox {
            commands: receiver,
            wake: Arc::clone(&wake),
        };
        let (alive, ended) = oneshot::channel();
        worker::spawn(options, theirs, inbox, Arc::clone(&counters), alive)?;
        let worker = Worker {
            commands,
            wake,
            counters,
        };
        Ok((worker, ours, ended))
    }

    /// Hands a port to the worker; returns a port that had the id before.
    ///
    /// # Errors
    /// When the worker has ended or cannot wait for the port's descriptors.
    pub async fn attach(&self, port: PortId, driver: Driver) -> io::Result<Option<Driver>> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Attach(port, driver, done))
            .map_err(io::Error::other)?;
        answer.await.map_err(|_| io::Error::other(WorkerGone))?
    }

    /// Takes a port from the worker, which does not touch it afterwards. `None`
    /// when the worker has no such port.
    ///
    /// # Errors
    /// [`WorkerGone`].
    pub async fn detach(&self, port: PortId) -> Result<Option<Driver>, WorkerGone> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Detach(port, done))?;
        answer.await.map_err(|_| WorkerGone)
    }

    /// What the drivers have counted.
    pub fn counters(&self) -> &ShellCounters {
        &self.counters
    }

    fn send(&self, command: Command) -> Result<(), WorkerGone> {
        self.commands.send(command).map_err(|_| WorkerGone)?;
        // A full counter wakes as well as one more.
        let _ = self.wake.write(1);
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // If it has ended already there is nothing to stop.
        let _ = self.send(Command::Stop);
    }
}
