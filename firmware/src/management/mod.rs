//! The management port: a NIC with addresses of its own, for ping and, behind a
//! pre-shared key, for the control channel over TCP.

use culvert_core::channel::BoardRefusal;

#[cfg(not(feature = "management"))]
mod absent;
#[cfg(feature = "management")]
mod address;
#[cfg(feature = "management-auth")]
mod auth;
#[cfg(feature = "management")]
mod device;
#[cfg(feature = "management")]
mod port;

#[cfg(not(feature = "management"))]
pub(crate) use absent::{Management, check};
#[cfg(feature = "management-auth")]
pub use auth::Room;
#[cfg(feature = "management")]
pub(crate) use port::{Management, check};

/// Bytes of the heap that authentication needs: the image's allocator has as many, and
/// nothing else uses it. They are more than four times what was ever in use.
#[cfg(feature = "management-auth")]
pub const HEAP: usize = 4 * 1024;

/// What the management port can do, and has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Powers {
    /// Whether it can authenticate hosts, or why not.
    pub(crate) authentication: Result<(), BoardRefusal>,
    /// Connections that ended before they had shown the key.
    pub(crate) refused: u32,
}
