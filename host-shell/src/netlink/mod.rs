//! Interfaces, addresses and routes of a network namespace, over rtnetlink.

mod address;
mod changes;
mod joint;
mod link;
mod qdisc;
mod route;
mod tc;

use std::io;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use rtnetlink::Handle;
use tokio::sync::Mutex;

use crate::sys::netns::{NetNs, NetNsError};

pub use address::InterfaceAddress;
pub use changes::Changes;
pub use joint::{filter_from_tap, filters_to_tap};
pub use link::{Link, OperState, UnderlayLink, VxlanDevice};
pub use route::{NextHop, PROTOCOL_CULVERT, PROTOCOL_STATIC, Route, RouteScope};
pub use tc::{Filter, Hand, PresentFilter, Word};

/// Why a request to the kernel's network configuration failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace could not be entered.
    #[error("cannot connect to netlink: {0}")]
    Namespace(#[from] NetNsError),
    /// The socket could not be made.
    #[error("cannot connect to netlink: {source}")]
    Connect {
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no interface of that name.
    #[error("cannot {doing}: there is no interface \"{link}\"")]
    NoSuchLink {
        /// What was being done.
        doing: String,
        /// The name.
        link: String,
    },
    /// The kernel refused a request.
    #[error("cannot {doing}: {source}")]
    Refused {
        /// What was being done, to which interface, address or prefix.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection ended, or an answer made no sense.
    #[error("cannot {doing}: {what}")]
    Protocol {
        /// What was being done.
        doing: String,
        /// What went wrong.
        what: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NoSuchLink { .. } => Some(libc::ENODEV),
            Self::Refused { source, .. } | Self::Connect { source } => source.raw_os_error(),
            Self::Namespace(_) | Self::Protocol { .. } => None,
        }
    }

    /// Whether what was to be changed or deleted is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether a route's next hop is not on the interface's link.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH))
    }

    /// Whether what was to be added is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// A connection to the network configuration of one namespace. Clones share it;
/// it ends when the last is dropped.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    /// A socket takes one dump at a time; to another one the kernel says EBUSY.
    dumping: Arc<Mutex<()>>,
}

impl Netlink {
    /// Connects to the namespace `ns`, or to the calling thread's for `None`.
    ///
    /// A task on the calling runtime serves the connection until the last clone is
    /// dropped. The namespace lives as long as the connection.
    ///
    /// # Errors
    /// [`NetlinkError::Namespace`] or [`NetlinkError::Connect`], the latter too
    /// when no runtime with I/O is there.
    pub fn connect(ns: Option<&NetNs>) -> Result<Self, NetlinkError> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|error| NetlinkError::Connect {
                source: io::Error::other(error),
            })?;
        let open = || {
            let _inside = runtime.enter();
            rtnetlink::new_connection()
        };
        let opened = match ns {
            Some(ns) => ns.run(open)?,
            None => open(),
        };
        let (connection, handle, _) = opened.map_err(|source| NetlinkError::Connect { source })?;
        runtime.spawn(connection);
        Ok(Self {
            handle,
            dumping: Arc::default(),
        })
    }

    /// Everything that a dump brings, which is asked for when no other one is under way.
    async fn dump<T, S>(&self, ask: impl FnOnce() -> S) -> Result<Vec<T>, rtnetlink::Error>
    where
        S: Stream<Item = Result<T, rtnetlink::Error>>,
    {
        let _alone = self.dumping.lock().await;
        ask().try_collect().await
    }
}

/// Makes the error of a request; `doing` completes "cannot …".
fn failed(doing: impl Into<String>, error: rtnetlink::Error) -> NetlinkError {
    let doing = doing.into();
    match error {
        rtnetlink::Error::NetlinkError(message) => NetlinkError::Refused {
            doing,
            source: message.to_io(),
        },
        rtnetlink::Error::RequestFailed => NetlinkError::Protocol {
            doing,
            what: "the netlink connection has ended".to_owned(),
        },
        other => NetlinkError::Protocol {
            doing,
            what: other.to_string(),
        },
    }
}

/// As [`failed`], where `ENODEV` means that `link` does not exist.
fn link_failed(link: &str, doing: String, error: rtnetlink::Error) -> NetlinkError {
    match failed(doing, error) {
        NetlinkError::Refused { doing, source } if source.raw_os_error() == Some(libc::ENODEV) => {
            NetlinkError::NoSuchLink {
                doing,
                link: link.to_owned(),
            }
        }
        error => error,
    }
}
