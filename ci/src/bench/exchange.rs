//! Small exchanges between two places: requests of one byte over UDP and their answers,
//! and TCP connections that are opened and closed at once.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::statistics::quantile;

/// How long an answer may take until its request counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// Exchanges before those that are measured.
const WARM_UP: u32 = 200;
/// Connections that are open at a time.
const CONNECTIONS: u64 = 16;

/// How long requests took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Requests with an answer.
    pub answered: u64,
    /// Requests without.
    pub lost: u64,
    /// Microseconds from the request to the answer: the median.
    pub p50: f64,
    /// That 99 % took at most.
    pub p99: f64,
    /// That 99.9 % took at most.
    pub p999: f64,
}

/// How many connections were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Opened and closed by both sides.
    pub made: u64,
    /// Refused or reset.
    pub failed: u64,
    /// Seconds.
    pub seconds: f64,
}

/// Sends every datagram back, until the process is ended. Calls `listening` when the
/// socket is open.
///
/// # Errors
/// When the socket cannot be made or fails.
pub fn echo(at: SocketAddrV4, listening: impl FnOnce()) -> Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen at {at}"))?;
    listening();
    let mut bytes = [0; 64];
    loop {
        let (length, from) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..length], from)?;
    }
}

/// Sends requests of one byte for `time`, each when the one before is answered.
///
/// # Errors
/// When the socket cannot be made or fails, or next to nothing is answered.
pub fn requests(target: SocketAddrV4, time: Duration) -> Result<Latency> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("no socket")?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..WARM_UP {
        exchange(&socket, 0)?;
    }
    let (start, mut lost, mut times) = (Instant::now(), 0, Vec::new());
    for number in (1..=u8::MAX).cycle() {
        if start.elapsed() >= time {
            break;
        }
        match exchange(&socket, number)? {
            Some(took) => times.push(took.as_secs_f64() * 1e6),
            None => lost += 1,
        }
    }
    let answered = u64::try_from(times.len())?;
    ensure!(
        answered > 100,
        "{answered} requests answered, {lost} not: too few to tell"
    );
    let at = |part| quantile(&mut times.clone(), part);
    Ok(Latency {
        answered,
        lost,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    })
}

/// Sends one request and waits for its answer; `None` when that does not come.
fn exchange(socket: &UdpSocket, number: u8) -> Result<Option<Duration>> {
    let mut answer = [0; 2];
    let start = Instant::now();
    socket.send(&[number])?;
    loop {
        match socket.recv(&mut answer) {
            Ok(1) if answer[0] == number => return Ok(Some(start.elapsed())),
            // A late answer to a request that was given up.
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("no answer"),
        }
    }
}

/// Takes connections and closes them at once, until the process is ended. Calls
/// `listening` when the socket is open.
///
/// # Errors
/// When the socket cannot be made or fails.
pub fn accept(at: SocketAddrV4, listening: impl FnOnce()) -> Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen at {at}"))?;
    listening();
    for stream in listener.incoming() {
        drop(stream?);
    }
    Ok(())
}

/// Opens connections for `time`, sixteen at a time, each of which ends when the other
/// side has closed it.
///
/// # Errors
/// When no connection can be made.
pub fn connections(target: SocketAddrV4, time: Duration) -> Result<Connections> {
    let (made, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                while start.elapsed() < time {
                    let count = if connection(target) { &made } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let (made, failed) = (made.into_inner(), failed.into_inner());
    if made == 0 {
        bail!("no connection to {target} ({failed} failed)");
    }
    Ok(Connections {
        made,
        failed,
        seconds,
    })
}

/// Whether a connection was made and closed in order.
fn connection(target: SocketAddrV4) -> bool {
    let end = |mut stream: TcpStream| stream.read(&mut [0]);
    matches!(TcpStream::connect(target).and_then(end), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address below the ports that programs are given, another in each process.
    fn loopback(number: u16) -> SocketAddrV4 {
        let process = u16::try_from(std::process::id() % 5_000).unwrap();
        SocketAddrV4::new([127, 0, 0, 1].into(), 20_000 + 2 * process + number)
    }

    #[test]
    fn requests_are_answered_and_timed() {
        let at = loopback(0);
        let (ready, listens) = std::sync::mpsc::channel();
        thread::spawn(move || echo(at, || ready.send(()).unwrap()));
        listens.recv().unwrap();
        let seen = requests(at, Duration::from_millis(100)).unwrap();
        assert!(seen.answered > 100 && seen.lost == 0, "{seen:?}");
        assert!(0.0 < seen.p50 && seen.p50 <= seen.p99 && seen.p99 <= seen.p999);
    }

    #[test]
    fn silence_is_an_error_and_no_hang() {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(nobody.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(exchange(&socket, 1).unwrap(), None);
    }

    #[test]
    fn connections_are_counted() {
        let at = loopback(1);
        assert!(connections(at, Duration::from_millis(10)).is_err());
        let (ready, listens) = std::sync::mpsc::channel();
        thread::spawn(move || accept(at, || ready.send(()).unwrap()));
        listens.recv().unwrap();
        let seen = connections(at, Duration::from_millis(50)).unwrap();
        assert!(seen.made > 0 && seen.failed == 0, "{seen:?}");
    }
}
