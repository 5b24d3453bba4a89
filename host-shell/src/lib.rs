//! culvert-host

pub mod api;
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
pub mod whois;
