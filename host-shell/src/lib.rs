//! culvert-host

pub mod api;
pub mod cni;
pub mod mac;
pub mod netlink;
pub mod spool;
pub mod sys;
pub mod whois;
