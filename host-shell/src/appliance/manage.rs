//! What an appliance is told of its management port, over its console.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_core::channel::{
    Board, BoardAnswer, BoardRefusal, MAX_ADDRESSES, Management, PresharedKey, Request, Response,
    Role, WireAddress,
};
use ipnet::IpNet;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::key::Key;
use crate::daemon::{CoreError, Link};

/// The TCP port of the control channel, unless somebody wants another.
pub const TCP_PORT: u16 = 7373;
/// How long each answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why an appliance was not told, or did not take it.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// Nobody listens at the socket.
    #[error("the console {console} cannot be opened: {source}; is the appliance running?")]
    Open {
        /// The socket.
        console: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It was opened, and is of no use.
    #[error(
        "no appliance answers at {console}: {why}; a console serves one host at a time, \
         perhaps culvertd"
    )]
    Lost {
        /// The socket.
        console: PathBuf,
        /// Why not.
        why: String,
    },
    /// The appliance did not do it.
    #[error("{0}")]
    Refused(String),
}

/// The message that says where a management port is.
///
/// # Errors
/// What there is too much of, beginning with its name.
pub fn management(
    addresses: &[IpNet],
    gateways: &[IpAddr],
    tcp_port: u16,
) -> Result<Management, String> {
    let wire = addresses.iter().map(|own| WireAddress {
        address: own.addr(),
        prefix_length: own.prefix_len(),
    });
    let mut told = Management {
        tcp_port,
        ..Management::default()
    };
    for own in wire {
        let pushed = told.addresses.push(own);
        pushed.map_err(|_| {
            let count = addresses.len();
            format!("addresses are {count}; a port can have {MAX_ADDRESSES}")
        })?;
    }
    for gateway in gateways {
        let pushed = told.gateways.push(*gateway);
        pushed.map_err(|_| {
            let count = gateways.len();
            format!("gateways are {count}; there can be one of each IP version")
        })?;
    }
    Ok(told)
}

/// Tells the appliance at a console, a Unix socket, its management addresses and its key;
/// without one its TCP port is closed. Returns whether a NIC of it is for management, as
/// far as its roles are known.
///
/// # Errors
/// [`ManageError`], within a few seconds.
pub async fn manage(
    console: &Path,
    port: &Management,
    key: Option<&Key>,
) -> Result<bool, ManageError> {
    let opened = UnixStream::connect(console).await;
    let stream = opened.map_err(|source| ManageError::Open {
        console: console.to_owned(),
        source,
    })?;
    let mut link = Link::new();
    link.attach(Box::new(stream));
    let lost = |error: CoreError| ManageError::Lost {
        console: console.to_owned(),
        why: error.to_string(),
    };
    let mut ask = async |request: Request| {
        let deadline = Instant::now() + PATIENCE;
        link.ask(&request, (deadline, PATIENCE)).await
    };
    // Hello is for who tells it its tables.
    ask(Request::Ping).await.map_err(lost)?;
    for request in requests(port, key) {
        let answer = match ask(Request::Board(request.clone())).await {
            Ok(Response::Board(answer)) => Ok(answer),
            Ok(_) => Err(CoreError::Confused),
            Err(error) => Err(error),
        };
        let judged = match answer {
            Ok(answer) => judge(&request, &answer),
            Err(CoreError::Refused(error)) => Err(format!("the appliance said: {error}")),
            Err(error) => return Err(lost(error)),
        };
        judged.map_err(ManageError::Refused)?;
    }
    let mut from = 0;
    loop {
        let nics = match ask(Request::Board(Board::Nics { from })).await {
            Ok(Response::Board(BoardAnswer::Nics(nics))) => nics,
            Ok(_) => return Err(lost(CoreError::Confused)),
            Err(error) => return Err(lost(error)),
        };
        if nics.iter().any(|nic| nic.role == Role::Management) {
            return Ok(true);
        }
        let count = u8::try_from(nics.len()).unwrap_or(u8::MAX);
        match from.checked_add(count) {
            Some(next) if count > 0 => from = next,
            _ => return Ok(false),
        }
    }
}

/// What there is to tell, in this order.
pub(crate) fn requests(port: &Management, key: Option<&Key>) -> [Board; 2] {
    let key = key.map(|key| PresharedKey(*key.bytes()));
    [Board::SetManagement(port.clone()), Board::SetKey { key }]
}

/// Whether the appliance has done one of [`requests`].
///
/// # Errors
/// In words: what it refused, and why.
pub(crate) fn judge(request: &Board, answer: &BoardAnswer) -> Result<(), String> {
    match (request, answer) {
        (_, BoardAnswer::Done) => Ok(()),
        // It can open no port, and was to keep it closed.
        (
            Board::SetKey { key: None },
            BoardAnswer::Refused(BoardRefusal::NoAuthentication | BoardRefusal::NoRandomness),
        ) => Ok(()),
        (Board::SetKey { .. }, BoardAnswer::Refused(why)) => Err(format!(
            "the appliance has its management addresses and refused the key, so that its TCP port stays closed: {why}"
        )),
        (_, BoardAnswer::Refused(why)) => Err(format!(
            "the appliance refused its management addresses: {why}"
        )),
        _ => Err("the appliance answered something else than was asked".to_owned()),
    }
}
