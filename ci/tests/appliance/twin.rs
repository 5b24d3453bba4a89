//! The appliance as a thread of the test: the image's main loop and core, on a board
//! whose NICs and console are the sockets that QEMU would have.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as HostInstant};

use culvert_core::{Appliance as Memory, Frame, Instant, MacAddr, Packet};
use culvert_firmware::{Appliance, BUFFER_LEN, Batch, Board, Buffer, End, Pool};
use culvert_lab::appliance::Outside;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use zerocopy::FromZeros;

/// Buffers, spares included.
const BUFFERS: usize = 160;

/// The thread, and what the test holds; both go together.
pub(crate) struct Twin {
    pub outside: Outside,
    /// Closed at the end, which wakes the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Option<End>>>,
}

/// A NIC: its socket, and what waits for room there.
struct Nic {
    mac: MacAddr,
    socket: UnixDatagram,
    sending: VecDeque<Vec<u8>>,
}

/// The board.
struct Sockets<'t> {
    nics: &'t mut [Nic],
    listener: &'t UnixListener,
    console: &'t mut Option<UnixStream>,
    stop: &'t UnixStream,
    booted: HostInstant,
}

/// Unwinds the thread at the test's end.
struct Stopped;

impl Twin {
    /// An appliance with NICs of these MAC addresses, connected.
    pub(crate) fn start(macs: &[MacAddr]) -> Twin {
        let mut outside = Outside::new(macs.iter().copied()).unwrap();
        let nics = outside.wires().iter().map(|wire| {
            let socket = UnixDatagram::bind(wire.theirs()).unwrap();
            socket.connect(wire.ours()).unwrap();
            socket.set_nonblocking(true).unwrap();
            Nic {
                mac: wire.mac(),
                socket,
                sending: VecDeque::new(),
            }
        });
        let nics: Vec<_> = nics.collect();
        let listener = UnixListener::bind(outside.console()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || live(nics, &listener, &theirs));
        outside.connect().unwrap();
        Twin {
            outside,
            stop: Some(ours),
            thread: Some(thread),
        }
    }

    /// What it ended with.
    pub(crate) fn ended(&mut self) -> Option<End> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the twin has panicked");
        }
    }
}

/// Boots again and again, until it is switched off or the test ends.
fn live(mut nics: Vec<Nic>, listener: &UnixListener, stop: &UnixStream) -> Option<End> {
    let mut console = None;
    loop {
        let mut memory = Memory::new_box_zeroed().unwrap();
        let board = Sockets {
            nics: &mut nics,
            listener,
            console: &mut console,
            stop,
            booted: HostInstant::now(),
        };
        let pool = Pool::new(Box::leak(Box::new(buffers())));
        let gateway = memory.gateway();
        let run = || Appliance::new(board, gateway, pool).run();
        let unwound = match catch_unwind(AssertUnwindSafe(run)) {
            Err(unwound) => unwound,
            Ok(never) => never,
        };
        match unwound.downcast::<End>().map(|end| *end) {
            Ok(End::Restart) => {}
            Ok(off) => return Some(off),
            Err(other) if other.is::<Stopped>() => return None,
            Err(other) => resume_unwind(other),
        }
    }
}

/// Buffers live as long as the process; nobody could give them back behind a panic.
fn buffers() -> heapless::Vec<Buffer, BUFFERS> {
    let one = |_| -> Buffer { Box::leak(vec![0xa5; BUFFER_LEN].into_boxed_slice()) };
    (0..BUFFERS).map(one).collect()
}

impl Sockets<'_> {
    /// Takes the place of whoever was at the console before.
    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            *self.console = Some(stream);
        }
    }
}

impl Nic {
    fn send_waiting(&mut self) {
        while let Some(frame) = self.sending.front() {
            match self.socket.send(frame) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Our end is gone, and the frame is lost as on any wire.
                Ok(_) | Err(_) => self.sending.pop_front(),
            };
        }
    }
}

impl Board for Sockets<'_> {
    fn nics(&self) -> usize {
        self.nics.len()
    }

    fn mac(&self, nic: usize) -> MacAddr {
        self.nics[nic].mac
    }

    fn receive(&mut self, nic: usize, pool: &mut Pool, batch: &mut Batch) {
        while !batch.is_full() {
            let Some(buffer) = pool.take() else { return };
            // What was in it before must not matter.
            buffer.fill(0xa5);
            let Ok(len) = self.nics[nic].socket.recv(&mut buffer[Frame::HEADROOM..]) else {
                return pool.give(buffer);
            };
            let frame = Frame::new(buffer, Frame::HEADROOM, len).unwrap();
            assert!(batch.push(Packet::new(frame)).is_ok());
        }
    }

    fn send(&mut self, nic: usize, pool: &mut Pool, frame: Frame<'static>) -> bool {
        self.nics[nic].sending.push_back(frame.bytes().to_vec());
        pool.give_frame(frame);
        true
    }

    fn flush(&mut self, nic: usize, _pool: &mut Pool) {
        self.nics[nic].send_waiting();
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.accept();
        let Some(console) = self.console.as_mut() else {
            return 0;
        };
        match console.read(bytes) {
            Ok(0) => {
                *self.console = None;
                0
            }
            Ok(len) => len,
            Err(_) => 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.console.as_mut().map(|console| console.write(bytes)) {
            Some(Ok(len)) => len,
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => 0,
            // Nobody listens: QEMU throws it away, too.
            _ => bytes.len(),
        }
    }

    fn now(&mut self) -> Instant {
        let micros = self.booted.elapsed().as_micros();
        Instant::from_micros(micros.try_into().unwrap())
    }

    fn sleep(&mut self, until: Instant) {
        for nic in &mut *self.nics {
            nic.send_waiting();
        }
        let left = until.micros().saturating_sub(self.now().micros());
        let left = PollTimeout::try_from(Duration::from_micros(left)).unwrap();
        let (read, write) = (PollFlags::POLLIN, PollFlags::POLLIN | PollFlags::POLLOUT);
        let console = self.console.as_ref().map(AsFd::as_fd);
        let mut all = vec![
            PollFd::new(self.stop.as_fd(), read),
            PollFd::new(self.listener.as_fd(), read),
        ];
        all.extend(console.map(|console| PollFd::new(console, read)));
        all.extend(self.nics.iter().map(|nic| {
            let events = if nic.sending.is_empty() { read } else { write };
            PollFd::new(nic.socket.as_fd(), events)
        }));
        poll(&mut all, left).unwrap();
        if all[0].any() == Some(true) {
            resume_unwind(Box::new(Stopped));
        }
    }

    fn end(&mut self, how: End) -> ! {
        resume_unwind(Box::new(how))
    }
}
