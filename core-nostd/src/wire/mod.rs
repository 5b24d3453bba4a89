//! Header formats, one protocol a file.
//!
//! `parse` reads a header from the front of a slice and refuses what it cannot
//! be; `emit` writes one into an array of its exact size. Fields are in host
//! byte order; only these files know byte offsets.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv4;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod l4;
pub mod nd;
pub mod quote;
pub mod udp;
pub mod vxlan;
