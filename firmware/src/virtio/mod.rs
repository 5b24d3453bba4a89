//! Drivers of virtio devices behind memory-mapped registers.
//!
//! The crate virtio-drivers reads and writes the registers. Queues are our own: its
//! queue notifies too rarely once its index has wrapped, keeps half of itself on the
//! stack while it is made, and takes several times the instructions for a frame.

#[cfg(all(
    target_os = "none",
    any(target_arch = "aarch64", target_arch = "x86_64")
))]
pub mod console;
#[cfg(all(
    target_os = "none",
    any(target_arch = "aarch64", target_arch = "x86_64")
))]
pub mod device;
#[cfg(all(
    target_os = "none",
    any(target_arch = "aarch64", target_arch = "x86_64")
))]
pub mod entropy;
#[cfg(all(
    target_os = "none",
    any(target_arch = "aarch64", target_arch = "x86_64")
))]
pub mod nic;
pub mod queue;
