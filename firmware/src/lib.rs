//! culvert's packet core on bare metal.
//!
//! [`Appliance`] is everything that does not depend on the hardware: the main loop,
//! the roles of NICs, trunks, the control channel. A [`Board`] is the hardware. The
//! images for QEMU's machines are in `src/bin`.
#![no_std]

pub mod board;
pub mod buffers;

pub use board::{Board, End};
pub use buffers::{BATCH, Batch, Buffer, Pool};

/// NICs that an appliance has at most.
pub const MAX_NICS: usize = 32;
