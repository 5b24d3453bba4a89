//! culvert on Linux: the daemon `culvertd`, the CNI plugin `culvert-cni` and the
//! command line `culvert`.
//!
//! - [`daemon`] is the control plane, [`dataplane`] the worker around the packet core.
//! - [`config`], [`cni`], [`api`], [`spool`], [`state`] and [`ipam`] are what comes
//!   in from people and runtimes, and what outlives the process.
//! - [`appliance`] builds the image for bare metal, has QEMU run it, and speaks to it
//!   over TCP.
//! - [`netlink`], [`sysctl`], [`sys`] and [`whois`] talk to the kernel; all `unsafe` is in [`sys`].

pub mod api;
pub mod appliance;
pub mod cni;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod ipam;
pub mod mac;
pub mod netlink;
pub mod spool;
pub mod state;
pub mod sys;
pub mod sysctl;
pub mod whois;
