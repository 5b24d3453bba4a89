//! The daemon's local API: JSON lines over the Unix stream socket `run_dir/culvertd.sock`.
//!
//! A client sends one [`Request`] object a line and gets one [`Response`] object a line, in the
//! order of its requests. A request line has at most [`MAX_REQUEST`] bytes, a response line at
//! most [`MAX_RESPONSE`]. The socket belongs to root and has mode 0600.
//!
//! ```text
//! → {"method":"status"}
//! ← {"ok":{"version":"0.1.0","node":"n1",…}}
//! → {"method":"nonsense"}
//! ← {"error":{"code":6,"msg":"the request is not understood","details":"unknown variant …"}}
//! ```

mod client;
mod places;
mod server;
mod types;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use client::{Client, ClientError};
pub use server::{BindError, Handler, Listener, bind, serve};
pub use types::{
    Appliance, Counter, Endpoint, Event, EventKind, Events, Health, Nic, Peer, Pool, Reloaded,
    Route, Status, TableUse, Underlay, Worker,
};

use crate::cni::{CniError, Environment};

/// Longest request line in bytes, with its newline.
pub const MAX_REQUEST: usize = 1 << 20;
/// Longest response line in bytes, with its newline: room for the largest table's listing.
pub const MAX_RESPONSE: usize = 64 << 20;

/// Where a daemon with this run directory listens.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("culvertd.sock")
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Request {
    /// A runtime's CNI call, passed on by the plugin.
    Cni(CniRequest),
    /// How the daemon is.
    Status,
    /// The pods' interfaces.
    Endpoints,
    /// The core's routes.
    Routes,
    /// The other nodes.
    Peers,
    /// The core's counters.
    Counters,
    /// What happened in the core.
    Events {
        /// The number of the last event that the client knows; 0 for all that are kept.
        after: u64,
    },
    /// Read the configuration again, and work by it.
    Reload,
}

/// A CNI call.
///
/// The configuration travels as the runtime gave it: the daemon reads it with
/// [`NetConf::from_value`](crate::cni::NetConf::from_value), the same function that the plugin
/// used, so nothing is lost on the way and nothing trusts the client. The environment is checked
/// again when it is decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CniRequest {
    /// Command, container, namespace, interface and arguments.
    pub environment: Environment,
    /// The network configuration from stdin.
    pub config: Value,
}

/// What the daemon answers to a [`Request`] of the same name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// ADD: the result in the version that the configuration asks for; `null` for other commands.
    Cni(Value),
    /// How the daemon is.
    Status(Box<Status>),
    /// The pods' interfaces.
    Endpoints(Vec<Endpoint>),
    /// The core's routes.
    Routes(Vec<Route>),
    /// The other nodes.
    Peers(Vec<Peer>),
    /// The core's counters.
    Counters(Vec<Counter>),
    /// What happened in the core.
    Events(Events),
    /// What has changed, a line each.
    Reload(Vec<String>),
}

/// A response line: `{"ok": …}` or `{"error": {"code", "msg", "details"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response<T> {
    /// It worked.
    Ok(T),
    /// It did not; codes as in CNI.
    Error(CniError),
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
