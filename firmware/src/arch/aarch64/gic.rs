//! The interrupt controller, GICv2. Its lines only wake the processor: they stay
//! pending until the device is told, and are never taken.

use crate::arch::registers::Registers;

use super::SLOTS;

// SAFETY: the GICv2 of `virt` is there; nothing of it touches memory.
const DISTRIBUTOR: Registers<0x1000> = unsafe { Registers::new(0x0800_0000) };
// SAFETY: as above.
const INTERFACE: Registers<0x1000> = unsafe { Registers::new(0x0801_0000) };

const DISTRIBUTOR_CONTROL: usize = 0x000;
const ENABLE: usize = 0x100;
const PENDING: usize = 0x200;
const PRIORITY: usize = 0x400;
const TARGETS: usize = 0x800;
const INTERFACE_CONTROL: usize = 0x00;
const PRIORITY_MASK: usize = 0x04;

/// The virtual timer's.
const TIMER: usize = 27;
/// The first slot's.
const FIRST: usize = 32 + 16;

pub(super) fn start() {
    DISTRIBUTOR.write(DISTRIBUTOR_CONTROL, 1);
    INTERFACE.write(PRIORITY_MASK, 0xff);
    INTERFACE.write(INTERFACE_CONTROL, 1);
    enable(TIMER);
}

/// Lets an interrupt through to this processor.
fn enable(interrupt: usize) {
    let shift = interrupt % 4 * 8;
    let of_four = interrupt / 4 * 4;
    let priorities = DISTRIBUTOR.read(PRIORITY + of_four);
    DISTRIBUTOR.write(PRIORITY + of_four, priorities & !(0xff << shift));
    let targets = DISTRIBUTOR.read(TARGETS + of_four);
    DISTRIBUTOR.write(TARGETS + of_four, targets | 1 << shift);
    DISTRIBUTOR.write(ENABLE + interrupt / 32 * 4, 1 << (interrupt % 32));
}

/// Lets a slot's device end [`super::sleep_until`].
///
/// # Panics
/// When there is no such slot.
pub fn enable_interrupt(slot: usize) {
    assert!(slot < SLOTS);
    enable(FIRST + slot);
}

/// The slots whose interrupt asks for attention, one bit each. It goes on asking until
/// its device is told.
pub fn wakers() -> u32 {
    let words = |i: usize| DISTRIBUTOR.read(PENDING + i * 4);
    words(FIRST / 32) >> (FIRST % 32) | words(FIRST / 32 + 1) << (32 - FIRST % 32)
}
