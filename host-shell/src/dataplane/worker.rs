//! The worker's loop.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant as Clock};

use culvert_core::offload::{Layout, Target, coalesce};
use culvert_core::{Fate, Gateway, Host, Instant, Originated, Packet, PortId};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::buffers::Buffers;
use super::control::ControlEnd;
use super::{Command, Driver, Never, ShellCounter, ShellCounters, Tools, Underlay, WorkerOptions};
use crate::sys::zeroed::Zeroed;

/// How often the core is asked for what it has to say by itself.
const TICK: Duration = Duration::from_millis(100);

/// Batches taken from one port before the others have their turn.
const TURNS: usize = 4;
/// Ready descriptors looked at in one wait.
const EVENTS: usize = 64;

/// Memory to cut super-frames into: a batch of usual segments.
const SCRATCH: usize = 1 << 17;

/// Epoll tokens: ports are `port << 8`, with the place of the descriptor among the
/// port's receivers in the lowest octet, or [`ERRORS_ONLY`].
const ERRORS_ONLY: u64 = 0xff;
const TOKEN_CONTROL: u64 = u64::MAX;
const TOKEN_WAKE: u64 = u64::MAX - 1;

/// Where commands come from.
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) wake: Arc<EventFd>,
}

/// Starts the thread, which is on its processor when this returns.
pub(super) fn spawn(
    options: WorkerOptions,
    control: UnixStream,
    inbox: Inbox,
    counters: Arc<ShellCounters>,
    alive: oneshot::Sender<Never>,
) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let control = ControlEnd::new(control);
    epoll.add(
        &control,
        EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_CONTROL),
    )?;
    epoll.add(
        &*inbox.wake,
        EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_WAKE),
    )?;
    let name = format!("culvert-{}", options.number);
    let (said, pinned) = mpsc::channel();
    let run = move || {
        let is_pinned = options.cpu.map_or(Ok(()), pin);
        let goes_on = is_pinned.is_ok();
        // Who waits for it has not gone.
        let _ = said.send(is_pinned);
        if !goes_on {
            return;
        }
        // Dropped at the end, be it a panic: that is how the control plane learns of it.
        let _alive = alive;
        // Page by page as it is touched; never on a stack.
        let mut storage = match Zeroed::<Host>::new() {
            Ok(storage) => storage,
            Err(error) => {
                return tracing::error!(%error, "no memory for the tables; nothing is forwarded");
            }
        };
        let mut gateway = storage.gateway();
        gateway.set_announcing(options.announces);
        let mut worker = WorkerThread {
            epoll,
            gateway,
            control,
            inbox,
            ports: HashMap::new(),
            buffers: Buffers::new(),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            counters,
            started: options.started,
            ticked: Clock::now(),
            spin: options.spin,
            worked: Clock::now(),
        };
        match worker.run() {
            Ok(()) => tracing::debug!("the data-plane worker has stopped"),
            // The control plane lets go of the channel when it ends.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                tracing::debug!("the data-plane worker's channel was closed");
            }
            Err(error) => tracing::error!(%error, "the data-plane worker has failed"),
        }
    };
    thread::Builder::new().name(name).spawn(run)?;
    pinned.recv().map_err(io::Error::other)?
}

/// Keeps the calling thread on a processor.
fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| {
            let why = format!(
                "a worker cannot run on processor {cpu}: {} (is it online, and in the control group's cpuset?)",
                errno.desc()
            );
            io::Error::new(io::Error::from(errno).kind(), why)
        })
}

struct WorkerThread<'a> {
    epoll: Epoll,
    gateway: Gateway<'a>,
    control: ControlEnd,
    inbox: Inbox,
    ports: HashMap<PortId, Driver>,
    buffers: Buffers,
    scratch: Box<[u8]>,
    counters: Arc<ShellCounters>,
    started: Clock,
    /// When the core was last asked for what it has to say by itself.
    ticked: Clock,
    /// For how long to poll after work.
    spin: Duration,
    /// When a port last had something.
    worked: Clock,
}

impl WorkerThread<'_> {
    /// Serves ports, control and commands until told to stop.
    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = match self.epoll.wait(&mut events, self.until_sleep_ends()) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..ready] {
                match event.data() {
                    TOKEN_CONTROL => self.serve_control()?,
                    TOKEN_WAKE => {
                        if !self.carry_out_commands() {
                            return Ok(());
                        }
                    }
                    token => {
                        self.serve_port(token, event.events());
                        if !self.spin.is_zero() {
                            self.worked = Clock::now();
                        }
                    }
                }
            }
            if self.ticked.elapsed() >= TICK {
                self.tick();
            }
        }
    }

    /// How long to sleep at most: not at all soon after work, if so configured. Rounded
    /// up, so that the core is not asked early and the loop does not spin.
    fn until_sleep_ends(&self) -> EpollTimeout {
        if !self.spin.is_zero() && self.worked.elapsed() < self.spin {
            return EpollTimeout::ZERO;
        }
        let rest = TICK.saturating_sub(self.ticked.elapsed()).as_millis() + 1;
        EpollTimeout::from(u16::try_from(rest).unwrap_or(u16::MAX))
    }

    /// Sends what the core has to say by itself: announcements of new endpoints.
    fn tick(&mut self) {
        self.ticked = Clock::now();
        let now = self.now();
        let (_, mut spares) = self.buffers.packets();
        let mut originated = Originated::new(&mut spares);
        self.gateway.tick(now, &mut originated);
        let mut tools = Tools {
            counters: &self.counters,
            scratch: &mut self.scratch,
        };
        let made = originated.into_made();
        // All of it is forwarded: the port it came in by does not matter.
        send(&mut self.ports, PortId::default(), made, &mut tools);
    }

    fn serve_control(&mut self) -> io::Result<()> {
        let was_blocked = self.control.is_blocked();
        self.control.turn(&mut self.gateway)?;
        let blocked = self.control.is_blocked();
        if blocked != was_blocked {
            // Only one of both, or a full stream would keep the loop spinning.
            let flags = match blocked {
                true => EpollFlags::EPOLLOUT,
                false => EpollFlags::EPOLLIN,
            };
            let mut event = EpollEvent::new(flags, TOKEN_CONTROL);
            self.epoll.modify(&self.control, &mut event)?;
        }
        Ok(())
    }

    /// Returns whether to go on.
    fn carry_out_commands(&mut self) -> bool {
        let _ = self.inbox.wake.read();
        loop {
            match self.inbox.commands.try_recv() {
                Ok(Command::Attach(port, driver, done)) => {
                    let result = self.attach(port, driver);
                    // Whoever asked may have given up; the port is served either way.
                    let _ = done.send(result);
                }
                Ok(Command::Detach(port, done)) => {
                    let _ = done.send(self.detach(port));
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn attach(&mut self, port: PortId, driver: Driver) -> io::Result<Option<Driver>> {
        let before = self.detach(port);
        let token = u64::from(port.0) << 8;
        let watch =
            |fd: BorrowedFd<'_>, flags, token| self.epoll.add(fd, EpollEvent::new(flags, token));
        match &driver {
            Driver::Tap(tap) if tap.is_read_elsewhere() => {}
            Driver::Tap(tap) => watch(tap.as_fd(), EpollFlags::EPOLLIN, token)?,
            Driver::Underlay(underlay) => {
                for (fd, place) in underlay.receivers().zip(0..ERRORS_ONLY) {
                    watch(fd, EpollFlags::EPOLLIN, token | place)?;
                }
                for fd in underlay.senders() {
                    watch(fd, EpollFlags::empty(), token | ERRORS_ONLY)?;
                }
            }
            Driver::Wire(wire) => {
                for (fd, place) in wire.receivers().zip(0..ERRORS_ONLY) {
                    watch(fd, EpollFlags::EPOLLIN, token | place)?;
                }
            }
        }
        self.ports.insert(port, driver);
        Ok(before)
    }

    fn detach(&mut self, port: PortId) -> Option<Driver> {
        let driver = self.ports.remove(&port)?;
        self.counters.clear_failed(port);
        self.unwatch(&driver);
        Some(driver)
    }

    fn unwatch(&self, driver: &Driver) {
        // What is not watched (a TAP that has gone) cannot be unwatched again.
        match driver {
            Driver::Tap(tap) => drop(self.epoll.delete(tap)),
            Driver::Underlay(underlay) => {
                for fd in underlay.receivers().chain(underlay.senders()) {
                    let _ = self.epoll.delete(fd);
                }
            }
            Driver::Wire(wire) => {
                for fd in wire.receivers() {
                    let _ = self.epoll.delete(fd);
                }
            }
        }
    }

    fn serve_port(&mut self, token: u64, flags: EpollFlags) {
        let port = PortId(u16::try_from(token >> 8).unwrap_or(u16::MAX));
        let receiver = usize::try_from(token & ERRORS_ONLY).unwrap_or(usize::MAX);
        if flags.contains(EpollFlags::EPOLLERR) {
            let now = self.now();
            if let Some(Driver::Underlay(underlay)) = self.ports.get_mut(&port) {
                underlay.drain_errors(&self.counters);
                learn_path_mtus(&mut self.gateway, now, (port, underlay));
            }
        }
        let mut turns = 0;
        while turns < TURNS || self.has_left(port) {
            turns += 1;
            match self.run_batch(port, receiver) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%port, %error, "a port's device is gone");
                    self.counters.set_failed(port, error.to_string());
                    if let Some(driver) = self.ports.get(&port) {
                        self.unwatch(driver);
                    }
                    return;
                }
            }
        }
    }

    /// Whether frames of a port wait that no descriptor tells of.
    fn has_left(&self, port: PortId) -> bool {
        match self.ports.get(&port) {
            Some(Driver::Underlay(underlay)) => underlay.has_left(),
            _ => false,
        }
    }

    fn now(&self) -> Instant {
        let micros = self.started.elapsed().as_micros();
        Instant::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Takes one batch from one of a port's receivers to its fates; returns whether
    /// more may wait.
    fn run_batch(&mut self, port: PortId, receiver: usize) -> io::Result<bool> {
        let mut inbound = self.buffers.inbound();
        match self.ports.get_mut(&port) {
            None => return Ok(false),
            Some(Driver::Tap(tap)) => tap.receive(&mut inbound, &self.counters)?,
            Some(Driver::Underlay(sockets)) => {
                sockets.receive(receiver, &mut inbound, &self.counters)?;
            }
            Some(Driver::Wire(wire)) => wire.receive(receiver, &mut inbound, &self.counters)?,
        }
        let now = self.now();
        let more = self.buffers.is_full();
        let (mut packets, mut spares) = self.buffers.packets();
        if packets.is_empty() {
            return Ok(false);
        }
        let mut originated = Originated::new(&mut spares);
        self.gateway
            .process(now, port, &mut packets, &mut originated);
        let made = originated.into_made();
        join(&self.ports, &mut packets);
        let mut tools = Tools {
            counters: &self.counters,
            scratch: &mut self.scratch,
        };
        for batch in [&mut packets[..], made] {
            for port in send(&mut self.ports, port, batch, &mut tools) {
                if let Some(Driver::Underlay(underlay)) = self.ports.get_mut(&port) {
                    learn_path_mtus(&mut self.gateway, now, (port, underlay));
                }
            }
        }
        Ok(more)
    }
}

/// Tells the core what an underlay's sockets have learned of path MTUs.
fn learn_path_mtus(
    gateway: &mut Gateway<'_>,
    now: Instant,
    (port, underlay): (PortId, &mut Underlay),
) {
    for (peer, mtu) in underlay.path_mtus() {
        gateway.path_mtu_exceeded(now, port, peer, mtu);
    }
}

/// Joins packets of a flow into super-frames where their port takes those.
fn join(ports: &HashMap<PortId, Driver>, packets: &mut [Packet<'_>]) {
    if packets.len() < 2 {
        return;
    }
    coalesce(packets, &mut std::iter::empty(), |packet| {
        let Fate::Forward(port) = packet.fate else {
            return None;
        };
        let Some(Driver::Tap(tap)) = ports.get(&port) else {
            return None;
        };
        Some(Target {
            port,
            accepts: tap.accepts(),
            layout: Layout::ETHERNET,
        })
    });
}

/// Underlay ports that a batch leaves by.
type Underlays = heapless::Vec<PortId, 4>;

/// Sends a batch out of the ports that its fates name; returns the underlays among them.
fn send(
    ports: &mut HashMap<PortId, Driver>,
    ingress: PortId,
    batch: &mut [Packet<'_>],
    tools: &mut Tools<'_>,
) -> Underlays {
    let mut underlays = Underlays::new();
    for packet in batch.iter_mut() {
        let to = match packet.fate {
            Fate::Forward(port) => port,
            Fate::Reply => ingress,
            _ => continue,
        };
        if packet.frame.is_empty() {
            continue; // It was joined to another.
        }
        match ports.get(&to) {
            Some(Driver::Tap(tap)) => tap.send(&mut packet.frame, tools),
            Some(Driver::Underlay(_) | Driver::Wire(_)) => {
                if !underlays.contains(&to) && underlays.push(to).is_err() {
                    tools.counters.add(ShellCounter::PortGone, 1);
                }
            }
            None => tools.counters.add(ShellCounter::PortGone, 1),
        }
    }
    for port in &underlays {
        match ports.get_mut(port) {
            Some(Driver::Underlay(underlay)) => underlay.send(*port, batch, tools),
            Some(Driver::Wire(wire)) => wire.send((*port, ingress), batch, tools),
            _ => {}
        }
    }
    underlays
}
