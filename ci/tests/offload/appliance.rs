//! A stand-in for an appliance: the packet core between TAPs, told its tables over a
//! socket. It can restart, fall silent, talk garbage and hang up.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Clock};

use culvert_core::channel::{
    Board, BoardAnswer, BoardRefusal, Description, FrameDecoder, Health, MAX_FRAME, Nic, Role,
    serve_with,
};
use culvert_core::{Appliance, Fate, Frame, Gateway, Instant, Originated, Packet, PortId};
use culvert_host::sys::netns::NetNs;
use culvert_host::sys::tap::{Tap, TapOffloads, TapOptions};
use culvert_host::sys::vnet::VirtioNetHeader;
use culvert_host::sys::zeroed::Zeroed;

/// A frame and the virtio-net header that TAPs want in front of it.
const LARGEST: usize = 1600;
const HEADER: usize = VirtioNetHeader::LEN;
const TICK: Duration = Duration::from_millis(100);

/// How the stand-in treats its control channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Mood {
    Answers,
    Silent,
    Garbage,
    Gone,
}

/// The stand-in; it ends when it is dropped.
pub(crate) struct StandIn {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    mood: AtomicU8,
    restart: AtomicBool,
    stop: AtomicBool,
    forwarded: AtomicU64,
}

impl StandIn {
    /// Starts it on a socket, with these TAPs in these namespaces as its ports.
    pub(crate) fn start(path: &Path, ports: &[(PortId, &str, &str)]) -> StandIn {
        let ports: Vec<(PortId, Tap)> = ports
            .iter()
            .map(|(id, namespace, name)| (*id, tap(namespace, name)))
            .collect();
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            mood: AtomicU8::new(Mood::Answers as u8),
            restart: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            forwarded: AtomicU64::new(0),
        });
        let inside = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut line = Line::default();
            while !inside.stop.load(Ordering::SeqCst) {
                inside.restart.store(false, Ordering::SeqCst);
                let mut storage = Zeroed::<Appliance>::new().unwrap();
                live(&inside, storage.gateway(), &ports, &mut line);
            }
        });
        StandIn {
            shared,
            thread: Some(thread),
        }
    }

    /// Treats the channel like this from now on.
    pub(crate) fn set(&self, mood: Mood) {
        self.shared.mood.store(mood as u8, Ordering::SeqCst);
    }

    /// Loses everything but the connection, as a machine that is reset behind QEMU's
    /// socket.
    pub(crate) fn restart(&self) {
        self.shared.restart.store(true, Ordering::SeqCst);
        while self.shared.restart.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Frames that it has sent.
    pub(crate) fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::SeqCst)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.shared.path);
    }
}

fn tap(namespace: &str, name: &str) -> Tap {
    let ns = NetNs::open(&Path::new("/var/run/netns").join(namespace)).unwrap();
    let options = TapOptions {
        offloads: TapOffloads::NONE,
    };
    ns.run(|| Tap::create(name, options)).unwrap().unwrap()
}

/// One life, until it is to stop or to restart.
fn live(shared: &Shared, mut gateway: Gateway<'_>, ports: &[(PortId, Tap)], line: &mut Line) {
    let (started, mut ticked) = (Clock::now(), Clock::now());
    let mut buffers = vec![vec![0; Frame::HEADROOM + LARGEST]; 9];
    while !shared.stop.load(Ordering::SeqCst) && !shared.restart.load(Ordering::SeqCst) {
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap();
        let now = Instant::from_micros(micros);
        let mut busy = line.turn(shared, &mut gateway, micros);
        for (port, tap) in ports {
            busy |= forward(shared, &mut gateway, (now, *port, tap), ports, &mut buffers);
        }
        if ticked.elapsed() >= TICK {
            ticked = Clock::now();
            let mut spares = packets(&mut buffers);
            let mut originated = Originated::new(&mut spares);
            gateway.tick(now, &mut originated);
            send(shared, PortId(0), originated.into_made(), ports);
        }
        if !busy {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

fn packets(buffers: &mut [Vec<u8>]) -> Vec<Packet<'_>> {
    let frames = buffers.iter_mut();
    let frames = frames.map(|buffer| Frame::new(buffer, Frame::HEADROOM, 0).unwrap());
    frames.map(Packet::new).collect()
}

/// Takes one frame from a port to its fate; returns whether there was one.
fn forward(
    shared: &Shared,
    gateway: &mut Gateway<'_>,
    (now, port, tap): (Instant, PortId, &Tap),
    ports: &[(PortId, Tap)],
    buffers: &mut [Vec<u8>],
) -> bool {
    let (first, rest) = buffers.split_first_mut().unwrap();
    // A TAP whose namespace is gone brings nothing.
    let read = tap.read(&mut first[Frame::HEADROOM - HEADER..]);
    let Ok(len) = read else { return false };
    let frame = Frame::new(first, Frame::HEADROOM, len - HEADER).unwrap();
    let mut batch = [Packet::new(frame)];
    let mut spares = packets(rest);
    let mut originated = Originated::new(&mut spares);
    gateway.process(now, port, &mut batch, &mut originated);
    let made = originated.into_made();
    send(shared, port, &mut batch, ports);
    send(shared, port, made, ports);
    true
}

fn send(shared: &Shared, ingress: PortId, batch: &mut [Packet<'_>], ports: &[(PortId, Tap)]) {
    for packet in batch {
        let to = match packet.fate {
            Fate::Forward(port) => port,
            Fate::Reply => ingress,
            _ => continue,
        };
        let Some((_, tap)) = ports.iter().find(|(port, _)| *port == to) else {
            continue;
        };
        let (buffer, range) = packet.frame.buffer_mut();
        let start = range.start - HEADER;
        buffer[start..range.start].fill(0);
        if tap.write(&buffer[start..range.end]).is_ok() {
            shared.forwarded.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// The control channel's socket and whoever is connected, one at a time as with QEMU.
#[derive(Default)]
struct Line {
    listener: Option<UnixListener>,
    stream: Option<UnixStream>,
    decoder: FrameDecoder,
}

impl Line {
    /// Serves what has come in; returns whether anything has.
    fn turn(&mut self, shared: &Shared, gateway: &mut Gateway<'_>, micros: u64) -> bool {
        let mood = shared.mood.load(Ordering::SeqCst);
        if mood == Mood::Gone as u8 {
            if self.listener.take().is_some() {
                let _ = fs::remove_file(&shared.path);
            }
            self.stream = None;
            return false;
        }
        let listener = self.listener.get_or_insert_with(|| {
            let listener = UnixListener::bind(&shared.path).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let Some(stream) = &mut self.stream else {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                self.stream = Some(stream);
            }
            return false;
        };
        let mut chunk = [0; 512];
        let read = match stream.read(&mut chunk) {
            Ok(0) => {
                self.stream = None;
                return false;
            }
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => {
                self.stream = None;
                return false;
            }
        };
        if mood == Mood::Silent as u8 {
            return true;
        }
        let (mut answers, mut out) = (Vec::new(), vec![0; MAX_FRAME]);
        self.decoder.feed(&chunk[..read], |event| {
            let len = serve_with(gateway, &event, &mut out, |gateway, board| {
                answer(gateway, board, micros)
            });
            answers.extend_from_slice(&out[..len]);
        });
        if mood == Mood::Garbage as u8 && !answers.is_empty() {
            answers = b"no such thing as a frame\0".repeat(20);
        }
        // Whoever hangs up meanwhile is noticed by the next read.
        let _ = stream.set_nonblocking(false);
        let _ = stream.write_all(&answers);
        let _ = stream.set_nonblocking(true);
        true
    }
}

/// What stands in for the board: one NIC, whose role can be told.
fn answer(_: &mut Gateway<'_>, board: &Board, micros: u64) -> Option<BoardAnswer> {
    let mac = Role::Port(PortId(0)).mac();
    Some(match board {
        Board::Describe => BoardAnswer::Description(Description {
            architecture: "stand-in".parse().unwrap(),
            version: "1.2.3".parse().unwrap(),
            nics: 1,
            largest_frame: 1514,
            buffers: 9,
            management: false,
        }),
        Board::Nics { from: 0 } => BoardAnswer::Nics(
            [Nic {
                mac,
                role: Role::of(mac),
                rx_frames: 1,
                rx_unclaimed: 2,
                rx_too_long: 0,
                tx_frames: 3,
                tx_full: 4,
            }]
            .into_iter()
            .collect(),
        ),
        Board::Nics { .. } => BoardAnswer::Nics(culvert_core::heapless::Vec::new()),
        Board::Health => BoardAnswer::Health(Health {
            micros,
            ..Health::default()
        }),
        Board::SetRole { mac: asked, .. } if *asked == mac => BoardAnswer::Done,
        Board::SetRole { mac, .. } => BoardAnswer::Refused(BoardRefusal::NoNic(*mac)),
        _ => return None,
    })
}
