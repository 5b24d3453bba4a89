//! The worker's loop.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant as Clock;

use culvert_core::{Fate, Gateway, Host, Instant, Originated, Packet, PortId};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use tokio::sync::oneshot;
use zerocopy::FromZeros;

use super::buffers::{BATCH, Buffers};
use super::control::ControlEnd;
use super::{Command, Driver, Never, ShellCounter, ShellCounters};

/// Batches taken from one port before the others have their turn.
const TURNS: usize = 4;
/// Ready descriptors looked at in one wait.
const EVENTS: usize = 64;

/// Epoll tokens: ports are `port << 1`, with the lowest bit set for descriptors
/// that report errors only.
const TOKEN_CONTROL: u64 = u64::MAX;
const TOKEN_WAKE: u64 = u64::MAX - 1;

/// Where commands come from.
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) wake: Arc<EventFd>,
}

/// Starts the thread.
pub(super) fn spawn(
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
    let run = move || {
        // Dropped at the end, be it a panic: that is how the control plane learns of it.
        let _alive = alive;
        // Zeroed by the allocator, page by page as it is touched; never on a stack.
        let mut storage = match Host::new_box_zeroed() {
            Ok(storage) => storage,
            Err(_) => return tracing::error!("no memory for the tables; nothing is forwarded"),
        };
        let mut worker = WorkerThread {
            epoll,
            gateway: storage.gateway(),
            control,
            inbox,
            ports: HashMap::new(),
            buffers: Buffers::new(),
            counters,
            started: Clock::now(),
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
    thread::Builder::new()
        .name("culvert-worker".to_owned())
        .spawn(run)?;
    Ok(())
}

struct WorkerThread<'a> {
    epoll: Epoll,
    gateway: Gateway<'a>,
    control: ControlEnd,
    inbox: Inbox,
    ports: HashMap<PortId, Driver>,
    buffers: Buffers,
    counters: Arc<ShellCounters>,
    started: Clock,
}

impl WorkerThread<'_> {
    /// Serves ports, control and commands until told to stop.
    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
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
                    token => self.serve_port(token, event.events()),
                }
            }
        }
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
        let token = u64::from(port.0) << 1;
        let watch =
            |fd: BorrowedFd<'_>, flags, token| self.epoll.add(fd, EpollEvent::new(flags, token));
        match &driver {
            Driver::Tap(tap) => watch(tap.as_fd(), EpollFlags::EPOLLIN, token)?,
            Driver::Underlay(underlay) => {
                watch(underlay.receiver(), EpollFlags::EPOLLIN, token)?;
                for fd in underlay.senders() {
                    watch(fd, EpollFlags::empty(), token | 1)?;
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
                let _ = self.epoll.delete(underlay.receiver());
                for fd in underlay.senders() {
                    let _ = self.epoll.delete(fd);
                }
            }
        }
    }

    fn serve_port(&mut self, token: u64, flags: EpollFlags) {
        let port = PortId(u16::try_from(token >> 1).unwrap_or(u16::MAX));
        if flags.contains(EpollFlags::EPOLLERR)
            && let Some(Driver::Underlay(underlay)) = self.ports.get_mut(&port)
        {
            underlay.drain_errors(&self.counters);
        }
        for _ in 0..TURNS {
            match self.run_batch(port) {
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

    /// Takes one batch from a port to its fates; returns whether more may wait.
    fn run_batch(&mut self, port: PortId) -> io::Result<bool> {
        let mut inbound = self.buffers.inbound();
        match self.ports.get_mut(&port) {
            None => return Ok(false),
            Some(Driver::Tap(tap)) => tap.receive(&mut inbound, &self.counters)?,
            Some(Driver::Underlay(sockets)) => sockets.receive(&mut inbound, &self.counters)?,
        }
        let (mut packets, mut spares) = self.buffers.packets();
        if packets.is_empty() {
            return Ok(false);
        }
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut originated = Originated::new(&mut spares);
        self.gateway.process(
            Instant::from_micros(micros),
            port,
            &mut packets,
            &mut originated,
        );
        let made = originated.into_made();
        for batch in [&mut packets[..], made] {
            send(&mut self.ports, port, batch, &self.counters);
        }
        Ok(packets.len() == BATCH)
    }
}

/// Sends a batch out of the ports that its fates name.
fn send(
    ports: &mut HashMap<PortId, Driver>,
    ingress: PortId,
    batch: &mut [Packet<'_>],
    counters: &ShellCounters,
) {
    let mut underlays = heapless::Vec::<PortId, 4>::new();
    for packet in batch.iter_mut() {
        let to = match packet.fate {
            Fate::Forward(port) => port,
            Fate::Reply => ingress,
            _ => continue,
        };
        match ports.get(&to) {
            Some(Driver::Tap(tap)) => tap.send(&mut packet.frame, counters),
            Some(Driver::Underlay(_)) => {
                if !underlays.contains(&to) && underlays.push(to).is_err() {
                    counters.add(ShellCounter::PortGone, 1);
                }
            }
            None => counters.add(ShellCounter::PortGone, 1),
        }
    }
    for port in underlays {
        if let Some(Driver::Underlay(underlay)) = ports.get_mut(&port) {
            underlay.send(port, batch, counters);
        }
    }
}
