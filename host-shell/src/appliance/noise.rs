//! The control channel over TCP, authenticated and encrypted by a pre-shared key: the
//! host's end of [`culvert_core::channel::noise`].

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use culvert_core::channel::noise::{
    GREETING_LEN, LENGTH_LEN, MAX_RECORD, MAX_RECORDS, PATTERN, PROLOGUE, TAG_LEN,
};
use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tracing::warn;

use super::key::Key;

/// How long connecting may take, and then the handshake.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the stream in a message.
const PAYLOAD: usize = 1024;

/// Why there is no channel to an appliance, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum NoiseError {
    /// Nobody accepts the connection.
    #[error("cannot connect to the appliance at {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The appliance has ended the handshake.
    #[error(
        "the appliance at {address} refused the handshake: it has another key, \
         or is no appliance"
    )]
    Refused {
        /// Where.
        address: String,
    },
    /// What answered has not the key.
    #[error("what answers at {address} is no appliance with this key")]
    OtherKey {
        /// Where.
        address: String,
    },
    /// The handshake was not answered.
    #[error(
        "the appliance at {address} has not answered the handshake within {} s",
        PATIENCE.as_secs()
    )]
    Silent {
        /// Where.
        address: String,
    },
    /// The connection has ended.
    #[error("the appliance at {address} has closed the connection")]
    Closed {
        /// Where.
        address: String,
    },
    /// The connection has broken.
    #[error("the connection to the appliance at {address} broke: {source}")]
    Broken {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A message was not the appliance's.
    #[error("a message from {address} was forged or damaged on its way")]
    Forged {
        /// Where.
        address: String,
    },
}

/// Connects to an appliance's management port, and shows it the key. The stream that is
/// returned carries the channel's bytes; it ends when the connection does, which is
/// said in the log.
///
/// `address` is an IP address or a name with a port, as in `192.0.2.9:7373`.
///
/// # Errors
/// [`NoiseError`], each within ten seconds.
pub async fn connect(address: &str, key: &Key) -> Result<UnixStream, NoiseError> {
    let failed = |source| NoiseError::Connect {
        address: address.to_owned(),
        source,
    };
    let connecting = timeout(PATIENCE, TcpStream::connect(address)).await;
    let mut stream = connecting
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    // Requests are small, and each is waited for.
    stream.set_nodelay(true).map_err(failed)?;
    let shaking = timeout(PATIENCE, shake_hands(&mut stream, address, key)).await;
    let noise = shaking.unwrap_or_else(|_| {
        Err(NoiseError::Silent {
            address: address.to_owned(),
        })
    })?;
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let address = address.to_owned();
    tokio::spawn(async move {
        if let Err(e) = carry(stream, far, noise, &address).await {
            warn!("{e}");
        }
    });
    Ok(near)
}

/// The handshake, and the message that shows that its first one was not an old one.
async fn shake_hands(
    stream: &mut TcpStream,
    address: &str,
    key: &Key,
) -> Result<TransportState, NoiseError> {
    let broken = |source: io::Error| match source.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => NoiseError::Refused {
            address: address.to_owned(),
        },
        _ => NoiseError::Broken {
            address: address.to_owned(),
            source,
        },
    };
    let other_key = |_| NoiseError::OtherKey {
        address: address.to_owned(),
    };
    let mut handshake = initiator(key).map_err(other_key)?;
    let mut greeting = [0; GREETING_LEN];
    let len = handshake
        .write_message(&[], &mut greeting)
        .map_err(other_key)?;
    let record = behind_length(&greeting[..len]);
    stream.write_all(&record).await.map_err(broken)?;
    let mut length = [0; LENGTH_LEN];
    stream.read_exact(&mut length).await.map_err(broken)?;
    if usize::from(u16::from_be_bytes(length)) != GREETING_LEN {
        return Err(other_key(snow::Error::Input));
    }
    let mut answer = [0; GREETING_LEN];
    stream.read_exact(&mut answer).await.map_err(broken)?;
    handshake
        .read_message(&answer, &mut [])
        .map_err(other_key)?;
    let mut noise = handshake.into_transport_mode().map_err(other_key)?;
    let mut nod = [0; TAG_LEN];
    noise.write_message(&[], &mut nod).map_err(other_key)?;
    stream
        .write_all(&behind_length(&nod))
        .await
        .map_err(broken)?;
    Ok(noise)
}

fn initiator(key: &Key) -> Result<HandshakeState, snow::Error> {
    let builder = Builder::new(PATTERN.parse()?).prologue(PROLOGUE)?;
    builder.psk(0, key.bytes())?.build_initiator()
}

/// A message with its length in front.
fn behind_length(message: &[u8]) -> Vec<u8> {
    // Not longer than `MAX_RECORD`.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}

/// Carries the stream's bytes until one side ends, which is no error when it is this
/// one.
async fn carry(
    mut stream: TcpStream,
    mut near: UnixStream,
    noise: TransportState,
    address: &str,
) -> Result<(), NoiseError> {
    let noise = Mutex::new(noise);
    let (from_there, to_there) = stream.split();
    let (from_here, to_here) = near.split();
    let ended = tokio::select! {
        ended = outward(from_here, to_there, &noise) => ended,
        ended = inward(from_there, to_here, &noise) => ended,
    };
    let address = address.to_owned();
    ended.map_err(|end| match end {
        End::Closed => NoiseError::Closed { address },
        End::Broken(source) => NoiseError::Broken { address, source },
        End::Forged => NoiseError::Forged { address },
    })
}

/// How a connection ends that this side has not ended.
enum End {
    Closed,
    Broken(io::Error),
    Forged,
}

/// Encrypts what comes from here, until nothing more does.
async fn outward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    noise: &Mutex<TransportState>,
) -> Result<(), End> {
    let mut payload = [0; PAYLOAD];
    let mut sealed = [0; PAYLOAD + TAG_LEN];
    loop {
        let read = from.read(&mut payload).await.unwrap_or(0);
        if read == 0 {
            return Ok(());
        }
        let len = {
            let mut noise = noise.lock().map_err(|_| End::Closed)?;
            // Long before its numbers come again; whoever wants to goes on by another.
            if noise.sending_nonce() >= MAX_RECORDS {
                return Err(End::Closed);
            }
            let len = noise.write_message(&payload[..read], &mut sealed);
            len.map_err(|_| End::Closed)?
        };
        let record = behind_length(&sealed[..len]);
        to.write_all(&record).await.map_err(End::Broken)?;
    }
}

/// Decrypts what comes from there, until nothing more does or nobody listens here.
async fn inward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    noise: &Mutex<TransportState>,
) -> Result<(), End> {
    let ended = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => End::Closed,
        _ => End::Broken(e),
    };
    let mut record = [0; MAX_RECORD];
    let mut payload = [0; MAX_RECORD];
    loop {
        let mut length = [0; LENGTH_LEN];
        from.read_exact(&mut length).await.map_err(ended)?;
        let length = usize::from(u16::from_be_bytes(length));
        let record = record.get_mut(..length).ok_or(End::Forged)?;
        from.read_exact(record).await.map_err(ended)?;
        let len = {
            let mut noise = noise.lock().map_err(|_| End::Closed)?;
            let len = noise.read_message(record, &mut payload);
            len.map_err(|_| End::Forged)?
        };
        if to.write_all(&payload[..len]).await.is_err() {
            return Ok(());
        }
    }
}
