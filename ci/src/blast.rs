//! A paced source and a sink of UDP datagrams, each sent and received by itself, without
//! the kernel's segmentation.
//!
//! A datagram's payload is 18 bytes unless asked otherwise, which makes an Ethernet frame
//! of 64 with its check sequence, the smallest there is. Layout, integers big-endian:
//! run number u32, kind u8 (0 data, 1 end), 3 bytes zero, number u64 (sequence
//! number of data, count of all data of an end), and zeros.

use std::io::IoSlice;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::cpu::Cpu;

/// Bytes of the smallest datagram's payload.
pub const PAYLOAD: usize = 18;
/// Bytes of the largest.
pub const LARGEST: usize = 2_000;
/// Datagrams a system call.
const BATCH: usize = 32;
/// What the sink prints when it listens.
pub const LISTENING: &str = "listening";
/// The sockets' buffers in bytes: about 0.1 s of a million datagrams a second.
const BUFFER: usize = 64 << 20;
/// How often the end is said: any one of them may be lost.
const ENDS: u32 = 10;
/// The highest sequence number that the sink keeps count of.
const MOST: u64 = 1 << 28;

/// What the source is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Datagrams a second; as fast as the kernel takes them when `None`.
    pub rate: Option<u64>,
    /// How long.
    pub time: Duration,
    /// Bytes of a datagram's payload, [`PAYLOAD`] to [`LARGEST`].
    pub payload: usize,
    /// To how many addresses in turns: the target's and those that follow it.
    pub spread: u32,
}

impl Load {
    /// The smallest datagrams to one address.
    #[must_use]
    pub fn smallest(rate: Option<u64>, time: Duration) -> Self {
        Self {
            rate,
            time,
            payload: PAYLOAD,
            spread: 1,
        }
    }
}

/// What the source did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Seconds from the first to the last.
    pub seconds: f64,
    /// Seconds that the machine's processors worked meanwhile, over all of them.
    pub busy: f64,
}

/// What the sink saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Datagrams that the source says it sent.
    pub expected: u64,
    /// Different datagrams received.
    pub received: u64,
    /// Datagrams that never came: `expected - received`.
    pub lost: u64,
    /// Datagrams that came after one with a higher number.
    pub reordered: u64,
    /// Datagrams that came again.
    pub duplicates: u64,
}

impl Seen {
    /// Lost of expected, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        if self.expected == 0 {
            0.0
        } else {
            as_f64(self.lost) / as_f64(self.expected)
        }
    }
}

/// A count as a float; exact below 2^53.
pub(crate) fn as_f64(count: u64) -> f64 {
    // Two exact halves: there is no lossless `From<u64>`.
    let (high, low) = (count >> 32, count & 0xffff_ffff);
    let half = |part: u64| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    half(high) * 4_294_967_296.0 + half(low)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Data(u64),
    End(u64),
}

fn emit(run: u32, message: Message) -> [u8; PAYLOAD] {
    let (kind, number) = match message {
        Message::Data(number) => (0, number),
        Message::End(count) => (1, count),
    };
    let mut bytes = [0; PAYLOAD];
    bytes[..4].copy_from_slice(&run.to_be_bytes());
    bytes[4] = kind;
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The message, unless it is another run's or no message at all.
fn parse(run: u32, bytes: &[u8]) -> Option<Message> {
    let bytes: &[u8; PAYLOAD] = bytes.first_chunk()?;
    if bytes[..4] != run.to_be_bytes() {
        return None;
    }
    let number = u64::from_be_bytes(bytes[8..16].try_into().ok()?);
    match bytes[4] {
        0 => Some(Message::Data(number)),
        1 => Some(Message::End(number)),
        _ => None,
    }
}

/// Sends datagrams to `target`, then says the end to the sink.
///
/// # Errors
/// When the socket cannot be made or refuses for a reason other than a full queue.
pub fn blast(target: SocketAddrV4, run: u32, load: Load) -> Result<Sent> {
    let Load { rate, time, .. } = load;
    ensure!(rate != Some(0), "a rate of 0 sends nothing");
    let mut source = Source::new(target, run, load)?;
    let (cpu, start) = (Cpu::read()?, Instant::now());
    while start.elapsed() < time {
        let due = match rate {
            Some(rate) => due(rate, start.elapsed()).saturating_sub(source.sent),
            None => u64::MAX,
        };
        let count = usize::try_from(due).unwrap_or(BATCH).min(BATCH);
        if count == 0 {
            sleep(Duration::from_micros(40));
            continue;
        }
        source.send(count)?;
    }
    let (seconds, work) = (start.elapsed().as_secs_f64(), cpu.since()?);
    source.say_end();
    Ok(Sent {
        sent: source.sent,
        seconds,
        busy: work.busy,
    })
}

/// How many datagrams are due after `elapsed` at `rate` a second.
fn due(rate: u64, elapsed: Duration) -> u64 {
    let nanos = u128::from(rate).saturating_mul(elapsed.as_nanos()) / 1_000_000_000;
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// The sending socket, and what it sends from.
struct Source {
    socket: UdpSocket,
    target: SocketAddrV4,
    run: u32,
    spread: u32,
    sent: u64,
    datagrams: Vec<Vec<u8>>,
    headers: MultiHeaders<SockaddrIn>,
    addresses: Vec<Option<SockaddrIn>>,
}

impl Source {
    fn new(target: SocketAddrV4, run: u32, load: Load) -> Result<Self> {
        let (payload, spread) = (load.payload, load.spread);
        ensure!(
            (PAYLOAD..=LARGEST).contains(&payload),
            "a payload of {payload} bytes is not in {PAYLOAD}..={LARGEST}"
        );
        ensure!(spread != 0, "datagrams to no address");
        let socket = UdpSocket::bind("0.0.0.0:0").context("no socket")?;
        if spread == 1 {
            let joined = socket.connect(target);
            joined.with_context(|| format!("cannot reach {target}"))?;
        }
        // On veth a datagram counts against its sender until it is received. A source
        // is to be held by its pace alone, not by that.
        setsockopt(&socket, sockopt::SndBufForce, &BUFFER)
            .context("cannot set the socket's buffer")?;
        Ok(Self {
            socket,
            target,
            run,
            spread,
            sent: 0,
            datagrams: vec![vec![0; payload]; BATCH],
            headers: MultiHeaders::preallocate(BATCH, None),
            addresses: vec![None; BATCH],
        })
    }

    /// Where datagram `number` goes; `None` with a connected socket.
    fn address(&self, number: u64) -> Option<SockaddrIn> {
        if self.spread == 1 {
            return None;
        }
        let step = u32::try_from(number % u64::from(self.spread)).unwrap_or(0);
        let address = Ipv4Addr::from_bits(self.target.ip().to_bits().wrapping_add(step));
        Some(SocketAddrV4::new(address, self.target.port()).into())
    }

    /// Sends up to `count` of the next datagrams, at most [`BATCH`].
    fn send(&mut self, count: usize) -> Result<()> {
        for (number, index) in (self.sent..).zip(0..count) {
            let message = emit(self.run, Message::Data(number));
            self.datagrams[index][..PAYLOAD].copy_from_slice(&message);
            self.addresses[index] = self.address(number);
        }
        let slices: [_; BATCH] =
            std::array::from_fn(|index| [IoSlice::new(&self.datagrams[index])]);
        let answer = sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            &slices[..count],
            &self.addresses[..count],
            [],
            MsgFlags::empty(),
        );
        match answer {
            Ok(results) => self.sent += u64::try_from(results.count())?,
            // A full queue: the datagrams were not sent, their numbers are used again.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => bail!("sending failed: {error}"),
        }
        Ok(())
    }

    fn say_end(&self) {
        let end = emit(self.run, Message::End(self.sent));
        for _ in 0..ENDS {
            // What is still queued drains first, so that the end is not lost with it.
            sleep(Duration::from_millis(10));
            let _ = self.socket.send_to(&end, self.target);
        }
    }
}

/// Counts what comes to `at` of the run `run` until the source has said the end.
/// Calls `listening` when the socket is open.
///
/// # Errors
/// When the socket cannot be made, or no end is said within `limit`.
pub fn sink(at: SocketAddrV4, run: u32, limit: Duration, listening: impl FnOnce()) -> Result<Seen> {
    let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen at {at}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("cannot set the socket's buffer")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    listening();
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut buffers = vec![[0u8; LARGEST]; BATCH];
    while start.elapsed() < limit {
        for length in receive(&socket, &mut buffers)?.into_iter().enumerate() {
            let (index, length) = length;
            match parse(run, &buffers[index][..length]) {
                Some(Message::Data(number)) => tally.note(number),
                Some(Message::End(count)) => return Ok(tally.finish(count)),
                None => {}
            }
        }
    }
    bail!(
        "no end of the datagrams within {} s ({} came)",
        limit.as_secs(),
        tally.seen.received
    )
}

/// Receives a batch; returns the lengths. Empty when nothing came for a while.
fn receive(socket: &UdpSocket, buffers: &mut [[u8; LARGEST]]) -> Result<Vec<usize>> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut slices: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| [IoSliceMut::new(buffer)])
        .collect();
    let flags = MsgFlags::MSG_WAITFORONE;
    match recvmmsg(
        socket.as_raw_fd(),
        &mut headers,
        slices.iter_mut(),
        flags,
        None,
    ) {
        Ok(results) => Ok(results.map(|message| message.bytes).collect()),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(Vec::new()),
        Err(error) => bail!("receiving failed: {error}"),
    }
}

/// Keeps count of sequence numbers.
#[derive(Debug, Default)]
struct Tally {
    seen: Seen,
    next: u64,
    came: Vec<u64>,
}

impl Tally {
    fn note(&mut self, number: u64) {
        let Ok(word) = usize::try_from(number.min(MOST) / 64) else {
            return;
        };
        if word >= self.came.len() {
            self.came.resize(word + 1024, 0);
        }
        let bit = 1 << (number % 64);
        if self.came[word] & bit != 0 {
            self.seen.duplicates += 1;
            return;
        }
        self.came[word] |= bit;
        self.seen.received += 1;
        if number < self.next {
            self.seen.reordered += 1;
        } else {
            self.next = number + 1;
        }
    }

    fn finish(self, expected: u64) -> Seen {
        let lost = expected.saturating_sub(self.seen.received);
        Seen {
            expected,
            lost,
            ..self.seen
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_back_and_strangers_are_not() {
        for message in [Message::Data(0), Message::Data(u64::MAX), Message::End(7)] {
            assert_eq!(parse(9, &emit(9, message)), Some(message));
            assert_eq!(parse(8, &emit(9, message)), None);
        }
        assert_eq!(parse(0, &[0; PAYLOAD - 1]), None);
        assert_eq!(parse(0, &[0; PAYLOAD + 1]), Some(Message::Data(0)));
        assert_eq!(
            parse(0, &[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            None
        );
    }

    #[test]
    fn a_tally_tells_loss_from_disorder_and_repetition() {
        let mut tally = Tally::default();
        [0, 1, 5, 3, 3, 70_000, 4]
            .into_iter()
            .for_each(|number| tally.note(number));
        let seen = tally.finish(70_001);
        let want = Seen {
            expected: 70_001,
            received: 6,
            lost: 69_995,
            reordered: 2,
            duplicates: 1,
        };
        assert_eq!(seen, want);
        assert!((seen.loss() - 69_995.0 / 70_001.0).abs() < 1e-9);
    }

    #[test]
    fn a_wild_sequence_number_takes_no_memory() {
        let mut tally = Tally::default();
        tally.note(u64::MAX - 1);
        assert!(tally.came.len() <= usize::try_from(MOST / 64).unwrap() + 1024);
    }

    #[test]
    fn the_pace_is_kept_without_drift() {
        assert_eq!(due(1_000, Duration::from_millis(1)), 1);
        assert_eq!(due(1_000, Duration::from_micros(999)), 0);
        assert_eq!(due(333_333, Duration::from_secs(3600)), 1_199_998_800);
        assert_eq!(due(u64::MAX, Duration::from_secs(u64::MAX)), u64::MAX);
        assert!((as_f64((1 << 40) + 1) - 1_099_511_627_777.0).abs() < 0.5);
    }

    #[test]
    fn datagrams_go_to_the_addresses_in_turns() {
        let target = "127.0.0.1:9".parse().unwrap();
        let load = Load {
            spread: 3,
            ..Load::smallest(None, Duration::ZERO)
        };
        let source = Source::new(target, 1, load).unwrap();
        let ends: Vec<_> = (0..4)
            .map(|number| source.address(number).unwrap().ip().octets()[3])
            .collect();
        assert_eq!(ends, [1, 2, 3, 1]);
        for wrong in [Load { spread: 0, ..load }, Load { payload: 3, ..load }] {
            assert!(Source::new(target, 1, wrong).is_err());
        }
    }

    #[test]
    fn an_end_that_never_comes_is_an_error() {
        let at = "127.0.0.1:0".parse().unwrap();
        let error = sink(at, 1, Duration::from_millis(250), || ()).unwrap_err();
        assert!(error.to_string().starts_with("no end"), "{error}");
    }
}
