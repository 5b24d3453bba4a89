//! The blocking client: std only, so that the CNI plugin starts fast.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{MAX_REQUEST, MAX_RESPONSE, Request, Response};
use crate::cni::CniError;

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("culvertd is not running, or runs elsewhere: there is no socket {}", .0.display())]
    NoSocket(PathBuf),
    /// There is a socket and nobody listens.
    #[error("culvertd is not running: nobody listens on {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("no permission to talk to culvertd at {}: run this as root", .0.display())]
    Permission(PathBuf),
    /// The deadline passed.
    #[error("culvertd at {} did not answer within {} seconds", .0.display(), .1.as_secs_f32())]
    Timeout(PathBuf, Duration),
    /// The connection ended before an answer came.
    #[error("culvertd at {} closed the connection without an answer; its log may say why", .0.display())]
    Closed(PathBuf),
    /// Another failure of the socket.
    #[error("talking to culvertd at {} failed: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The request does not fit into a line.
    #[error("the request has {0} bytes, the limit is {MAX_REQUEST}")]
    TooLong(usize),
    /// The answer is not what was asked for.
    #[error("culvertd at {} sent an answer that is not understood (are both of one version?): {problem}", .path.display())]
    BadAnswer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] CniError),
}

/// A connection to the daemon, with one deadline for all it does.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    timeout: Duration,
    deadline: Instant,
}

impl Client {
    /// Connects to the daemon's socket; everything on this connection ends within `timeout`.
    ///
    /// # Errors
    /// [`ClientError`], which tells a missing socket, a dead one and a forbidden one apart.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Client, ClientError> {
        let deadline = Instant::now() + timeout;
        let (sender, receiver) = mpsc::channel();
        let socket = path.to_owned();
        // A connect to a full backlog blocks without a limit; the thread can be left behind.
        thread::spawn(move || drop(sender.send(UnixStream::connect(socket))));
        let failed = |source| io_error(path, timeout, source);
        let stream = receiver
            .recv_timeout(timeout)
            .map_err(|_| ClientError::Timeout(path.to_owned(), timeout))?
            .map_err(failed)?;
        Ok(Client {
            stream: BufReader::new(stream),
            path: path.to_owned(),
            timeout,
            deadline,
        })
    }

    /// Sends `request` and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`]; after any but `Refused` and `TooLong` the connection is of no more use.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.bad(error.to_string()))?;
        line.push(b'\n');
        if line.len() > MAX_REQUEST {
            return Err(ClientError::TooLong(line.len()));
        }
        self.send(&line)?;
        let answer = self.receive()?;
        match serde_json::from_slice(&answer) {
            Ok(Response::Ok(value)) => Ok(value),
            Ok(Response::Error(error)) => Err(ClientError::Refused(error)),
            Err(error) => Err(self.bad(error.to_string())),
        }
    }

    fn send(&mut self, mut rest: &[u8]) -> Result<(), ClientError> {
        while !rest.is_empty() {
            let left = self.left()?;
            let stream = self.stream.get_mut();
            let written = stream
                .set_write_timeout(Some(left))
                .and_then(|()| stream.write(rest));
            match written {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error(&self.path, self.timeout, error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut line = Vec::new();
        loop {
            let left = self.left()?;
            let timed = self.stream.get_ref().set_read_timeout(Some(left));
            // One read a turn: `read_until` would start the timeout again for each piece.
            let piece = match timed.and_then(|()| self.stream.fill_buf()) {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error(&self.path, self.timeout, error)),
            };
            if piece.is_empty() {
                return Err(ClientError::Closed(self.path.clone()));
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let count = end.map_or(piece.len(), |end| end + 1);
            line.extend_from_slice(&piece[..count]);
            self.stream.consume(count);
            if end.is_some() {
                return Ok(line);
            }
            if line.len() >= MAX_RESPONSE {
                return Err(self.bad(format!("it is longer than {MAX_RESPONSE} bytes")));
            }
        }
    }

    fn left(&self) -> Result<Duration, ClientError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Timeout(self.path.clone(), self.timeout));
        }
        Ok(left)
    }

    fn bad(&self, problem: String) -> ClientError {
        ClientError::BadAnswer {
            path: self.path.clone(),
            problem,
        }
    }
}

fn io_error(path: &Path, timeout: Duration, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => ClientError::NoSocket(path),
        io::ErrorKind::ConnectionRefused => ClientError::NotRunning(path),
        io::ErrorKind::PermissionDenied => ClientError::Permission(path),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(path, timeout),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed(path),
        _ => ClientError::Io { path, source },
    }
}
