//! QEMU's machine `microvm`, one processor:
//! `-M microvm,ioapic2=off,pic=off,pit=off,rtc=off -global virtio-mmio.force-legacy=false
//! -device isa-debug-exit,iobase=0xf4,iosize=4`.

mod apic;
mod boot;
mod clock;
mod end;
mod fault;
mod ports;
mod serial;

pub use apic::{enable_interrupt, wakers};
pub use clock::{instructions, micros, sleep_until};
pub use end::{exit, restart};
pub use serial::serial_write;

/// Places where the machine may have a virtio device.
pub const SLOTS: usize = 8;

/// Bytes of registers and configuration of one slot.
pub const SLOT_SIZE: usize = 0x200;

/// The address of a slot's registers.
pub const fn slot_address(slot: usize) -> usize {
    0xfeb0_0000 + slot * SLOT_SIZE
}

/// Readies the machine for [`crate::image!`]'s function.
pub(super) fn start() {
    serial::start();
    fault::start();
    apic::start();
    clock::start();
}
