//! culvert-host
pub mod netlink;
pub mod sys;
pub mod whois;
