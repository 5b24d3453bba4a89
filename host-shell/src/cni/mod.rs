//! The Container Network Interface, specification 1.1.0: what a runtime passes in and expects back.
//!
//! Plain data without I/O besides [`Environment::from_process`]; the plugin and the daemon read
//! the same types. Source: <https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>.

mod env;
mod error;
mod netconf;
mod result;
mod version;

pub use env::{Command, Environment, ifname_problem};
pub use error::{CniError, code};
pub use netconf::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, NetConf, Wanted};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use version::{SUPPORTED, Version, version_answer};
