//! The daemon's side of the socket.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::places::Places;
use super::{MAX_REQUEST, MAX_RESPONSE, Reply, Request, Response, socket_path};
use crate::cni::{CniError, code};

/// How long a client may take for a request line, or for reading an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Carries out requests.
///
/// Called for several connections at the same time. A call runs to its end even when the client
/// has gone, so an ADD is never left half done by an impatient runtime.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Reply, CniError>> + Send;
}

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon with this run directory is there already.
    #[error("another culvertd is running with {}; stop it, or set another run_dir", .0.display())]
    Running(PathBuf),
    /// Something else listens on the socket.
    #[error("another program listens on {}; stop it, or set another run_dir", .0.display())]
    Listening(PathBuf),
    /// The path is taken by something that is no socket.
    #[error("{} is there and is not a socket; remove it, or set another run_dir", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error("{what} {} failed: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The bound socket; the socket file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    inner: StdListener,
    path: PathBuf,
    /// Held locked for as long as the daemon listens.
    _lock: File,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A socket file left behind is harmless: the next start replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the socket of `run_dir` with mode 0600; makes the directory if it is missing.
///
/// A socket that nobody listens on is replaced. From the return on connections queue up, and
/// [`serve`] answers them: read the spool in between (see [`crate::spool`]).
///
/// # Errors
/// [`BindError`], above all when another daemon is there.
pub fn bind(run_dir: &Path) -> Result<Listener, BindError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| BindError::Io { what, path, source }
    };
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(run_dir)
        .map_err(failed("creating", run_dir))?;
    let lock_path = run_dir.join("culvertd.lock");
    // Whoever can open the file can lock it, and so keep the daemon from starting.
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed("creating", &lock_path))?;
    lock.set_permissions(fs::Permissions::from_mode(0o600))
        .map_err(failed("setting the mode of", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(BindError::Running(run_dir.to_owned())),
        Err(TryLockError::Error(source)) => return Err(failed("locking", &lock_path)(source)),
    }
    let path = socket_path(run_dir);
    refuse_live(&path)?;
    // Under another name first: nobody can connect before the mode is right, and the rename
    // replaces a stale socket without a gap.
    let new = run_dir.join("culvertd.new");
    let _ = fs::remove_file(&new);
    let inner = StdListener::bind(&new).map_err(failed("binding", &new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
        .map_err(failed("setting the mode of", &new))?;
    fs::rename(&new, &path).map_err(failed("renaming the new socket to", &path))?;
    inner
        .set_nonblocking(true)
        .map_err(failed("preparing", &path))?;
    Ok(Listener {
        inner,
        path,
        _lock: lock,
    })
}

fn refuse_live(path: &Path) -> Result<(), BindError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(BindError::Io {
                what: "looking at",
                path: path.to_owned(),
                source,
            });
        }
    };
    if !kind.is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match StdStream::connect(path) {
        Ok(_) => Err(BindError::Listening(path.to_owned())),
        Err(_) => Ok(()),
    }
}

/// Answers requests until it is dropped; a request being handled then is still finished if
/// the runtime goes on for as long.
///
/// When there are too many connections those that sleep are closed; if none does, new ones wait.
///
/// Must run in a tokio runtime with I/O and time.
///
/// # Errors
/// Only if the runtime does not take the socket. Failures of single connections end these alone.
pub async fn serve(listener: Listener, handler: Arc<impl Handler>) -> io::Result<()> {
    let socket = UnixListener::from_std(listener.inner.try_clone()?)?;
    let places = Places::new();
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: waiting frees some, spinning would not.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = places.take().await;
        let (handler, places) = (Arc::clone(&handler), Arc::clone(&places));
        tokio::spawn(async move { connection(stream, &*handler, &places, place).await });
    }
}

async fn connection(
    stream: UnixStream,
    handler: &impl Handler,
    places: &Places,
    _place: OwnedSemaphorePermit,
) {
    let mut stream = BufReader::new(stream);
    // An error here is a client that went away or fell asleep: nothing to do about it.
    while let Some(Ok(Some(line))) = places.client_turn(read_line(&mut stream)).await {
        let (response, more) = match line {
            Line::Complete(line) => (answer(&line, handler).await, true),
            Line::TooLong => (encode(&too_long()), false),
        };
        let sent = timeout(CLIENT_PATIENCE, stream.get_mut().write_all(&response));
        if !more || !matches!(places.client_turn(sent).await, Some(Ok(Ok(())))) {
            break;
        }
    }
}

enum Line {
    Complete(Vec<u8>),
    TooLong,
}

/// Reads one line; `None` at the end of the stream.
async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut limited = stream.take(u64::try_from(MAX_REQUEST).unwrap_or(u64::MAX));
    timeout(CLIENT_PATIENCE, limited.read_until(b'\n', &mut line)).await??;
    Ok(match line.last() {
        Some(b'\n') => Some(Line::Complete(line)),
        _ if line.len() == MAX_REQUEST => Some(Line::TooLong),
        // What has no newline was cut off: carrying it out could do half of what was meant.
        _ => None,
    })
}

async fn answer(line: &[u8], handler: &impl Handler) -> Vec<u8> {
    let response = match serde_json::from_slice(line) {
        Ok(request) => match handler.handle(request).await {
            Ok(reply) => Response::Ok(reply),
            Err(error) => Response::Error(error),
        },
        Err(error) => Response::Error(
            CniError::new(code::DECODE, "the request is not understood")
                .with_details(error.to_string()),
        ),
    };
    let bytes = encode(&response);
    if bytes.len() <= MAX_RESPONSE {
        return bytes;
    }
    let long = format!(
        "the answer has {} bytes, the limit is {MAX_RESPONSE}",
        bytes.len()
    );
    encode(&Response::<()>::Error(CniError::new(code::INTERNAL, long)))
}

fn too_long() -> Response<()> {
    let msg = format!("the request is longer than {MAX_REQUEST} bytes");
    Response::Error(CniError::new(code::DECODE, msg))
}

fn encode<T: serde::Serialize>(response: &Response<T>) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(response).unwrap_or_else(|error| {
        // Maps with keys that are no text are all that JSON refuses.
        tracing::error!(%error, "an answer has no JSON form");
        br#"{"error":{"code":103,"msg":"the answer has no JSON form"}}"#.to_vec()
    });
    bytes.push(b'\n');
    bytes
}
