//! The underlay as raw Ethernet: outer headers, neighbors, path MTU.

#![allow(unreachable_pub, reason = "shared by the files of this test crate")]

mod announcements;
mod any;
mod cluster;
mod errors;
mod neighbors;
mod news;
mod node;
#[path = "../common/raw_ports.rs"]
mod raw_ports;
mod reasons;
mod receiving;
mod sending;
mod unreachable;
#[path = "../common/verdicts.rs"]
mod verdicts;
