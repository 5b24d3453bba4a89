//! QEMU's machine `virt` with a Cortex-A72, one processor, GICv2:
//! `-M virt -cpu cortex-a72 -global virtio-mmio.force-legacy=false`.

mod boot;
mod clock;
mod end;
mod fault;
mod gic;
mod serial;

pub use clock::{instructions, micros, sleep_until};
pub use end::{exit, restart};
pub use gic::{enable_interrupt, wakers};
pub use serial::serial_write;

/// Places where the machine may have a virtio device.
pub const SLOTS: usize = 32;

/// Bytes of registers and configuration of one slot.
pub const SLOT_SIZE: usize = 0x200;

/// The address of a slot's registers.
pub const fn slot_address(slot: usize) -> usize {
    0x0a00_0000 + slot * SLOT_SIZE
}

/// Readies the machine for [`crate::image!`]'s function.
pub(super) fn start() {
    serial::start();
    clock::start();
    gic::start();
}
