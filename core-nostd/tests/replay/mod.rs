//! Golden captures: a folder holds tables, input frames with their times, and what
//! a gateway must make of them. `captures/README.md` says how to read one.
//!
//! This module needs nothing but the core's public interface, and asks a gateway
//! only what the trait [`Node`] has: the control channel, frames, and ticks. The
//! test beside it plays the cases on the core itself; a harness that has a booted
//! image behind a serial line and network devices implements the same trait and
//! takes this module as it is (`#[path]`), so that both are held to the same files.
//! It is no crate because the core's tests need it, and nothing may point from the
//! core to the crates around it.

#![allow(dead_code, reason = "each harness uses its own part")]
#![allow(
    unreachable_pub,
    reason = "shared by test crates, public to nobody else"
)]

mod case;
mod compare;
mod operations;
mod pcap;
mod play;

pub use case::*;
pub use compare::*;
pub use pcap::*;
pub use play::*;
