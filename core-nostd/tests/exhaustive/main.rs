//! All values, where a field is small enough for that.

#[path = "../common/mod.rs"]
mod common;

mod cobs;
mod ecn;
mod ipv4;
