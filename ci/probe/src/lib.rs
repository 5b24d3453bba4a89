//! What `ci/no-panic` looks at in the release objects of a bare-metal target.
//!
//! The core's entry points as functions of this crate, so that generic ones are
//! compiled too, and faults that the check must find to be believed.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod control;
pub mod data;
pub mod planted;
