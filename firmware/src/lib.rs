//! culvert's packet core on bare metal.
//!
//! An [`Appliance`] is everything that does not depend on the hardware: the main loop,
//! the roles of NICs, trunks, the control channel. A [`Board`] is the hardware: about
//! ten functions. The images for QEMU's machines are in `src/bin`.
#![no_std]

mod answer;
mod appliance;
#[cfg(all(
    target_os = "none",
    any(target_arch = "aarch64", target_arch = "x86_64", target_arch = "arm")
))]
pub mod arch;
pub mod bench;
mod board;
mod buffers;
mod control;
mod log;
#[cfg(all(
    target_os = "none",
    any(target_arch = "aarch64", target_arch = "x86_64")
))]
pub mod machine;
mod management;
pub mod memory;
#[cfg(all(target_os = "none", target_arch = "arm"))]
pub mod mps2;
mod nics;
mod plane;
pub mod trunk;
// Its queues are shared in words of 64 bits.
#[cfg(target_has_atomic = "64")]
pub mod virtio;
mod watch;

pub use appliance::Appliance;
pub use board::{Board, End};
pub use buffers::{BATCH, Batch, Buffer, Pool, shares};
#[cfg(feature = "management-auth")]
pub use management::{HEAP, Room};
pub use nics::MAX_PORTS;
pub use plane::SPARES;

/// NICs that an appliance has at most.
pub const MAX_NICS: usize = 32;

/// Bytes of a frame at most, Ethernet header and 802.1Q tag included.
pub const LARGEST_FRAME: usize = 1_800;

/// Bytes of a buffer: headroom, the largest frame, and room for what a tunnel takes
/// away, so that an error about it can be written in place.
pub const BUFFER_LEN: usize = 2_048;
