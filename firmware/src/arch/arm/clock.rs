//! Time and sleep: one of the board's timers counts on, the processor's own timer and
//! the interrupts of devices end a sleep.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::arch::registers::Registers;

// SAFETY: CMSDK timer 0 is there; it has no way to memory.
const TIMER: Registers<0x1000> = unsafe { Registers::new(0x4000_0000) };
// SAFETY: the Cortex-M4's system control space: what is used of it here governs the
// timer and which interrupts are pending.
const SYSTEM: Registers<0x1000> = unsafe { Registers::new(0xe000_e000) };

const TIMER_CONTROL: usize = 0x0;
const TIMER_VALUE: usize = 0x4;
const TIMER_RELOAD: usize = 0x8;
const TIMER_ENABLE: u32 = 1;

const SYST_CSR: usize = 0x010;
const SYST_RVR: usize = 0x014;
const SYST_CVR: usize = 0x018;
/// Counting, with an exception at zero, by the processor's clock.
const SYST_ON: u32 = 0b111;
/// The largest number that it counts down from.
const SYST_LARGEST: u64 = 0x00ff_ffff;
/// Sets interrupts 0 to 31 enabled, and not pending.
const NVIC_ISER: usize = 0x100;
const NVIC_ICPR: usize = 0x280;
const ICSR: usize = 0xd04;
/// Takes back the pending exception of the processor's timer.
const ICSR_PENDSTCLR: u32 = 1 << 25;

/// Ticks of either timer: the board runs at 25 MHz.
const TICKS_PER_MICRO: u64 = 25;

/// How often the timer has begun anew, and where it was when it was last read.
static ROUNDS: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU32 = AtomicU32::new(0);

pub(super) fn start() {
    TIMER.write(TIMER_RELOAD, u32::MAX);
    TIMER.write(TIMER_VALUE, u32::MAX);
    TIMER.write(TIMER_CONTROL, TIMER_ENABLE);
}

/// Ticks since the start. Right when asked once in 2^32 of them, which take 171 s.
fn ticks() -> u64 {
    // It counts down.
    let low = u32::MAX - TIMER.read(TIMER_VALUE);
    let mut rounds = ROUNDS.load(Ordering::Relaxed);
    if low < LAST.load(Ordering::Relaxed) {
        rounds = rounds.wrapping_add(1);
        ROUNDS.store(rounds, Ordering::Relaxed);
    }
    LAST.store(low, Ordering::Relaxed);
    u64::from(rounds) << 32 | u64::from(low)
}

/// Microseconds since the image was started. To be asked at least once in 171 s.
pub fn micros() -> u64 {
    ticks() / TICKS_PER_MICRO
}

/// 0: what this emulator has of a Cortex-M4 counts no instructions.
pub fn instructions() -> u64 {
    0
}

/// Lets an interrupt, 0 to 31, end sleeps.
pub fn enable_interrupt(number: usize) {
    SYSTEM.write(NVIC_ISER, 1 << (number & 31));
}

/// Sleeps until an enabled interrupt asks for attention, or until so many microseconds
/// since the start. Returns at once when either is so already, and may return early.
///
/// Then `quiet` is to make the devices ask no longer: a line that stays up ends the
/// next sleep.
pub fn sleep_until(micros: u64, quiet: impl FnOnce()) {
    let wanted = micros.saturating_mul(TICKS_PER_MICRO);
    let left = wanted.saturating_sub(ticks()).min(SYST_LARGEST);
    let Some(left) = u32::try_from(left).ok().filter(|left| *left > 0) else {
        return;
    };
    SYSTEM.write(SYST_RVR, left);
    // Whatever is written clears it, and it begins with the reload value.
    SYSTEM.write(SYST_CVR, 0);
    SYSTEM.write(SYST_CSR, SYST_ON);
    cortex_m::asm::dsb();
    cortex_m::asm::wfi();
    SYSTEM.write(SYST_CSR, 0);
    SYSTEM.write(ICSR, ICSR_PENDSTCLR);
    quiet();
    SYSTEM.write(NVIC_ICPR, u32::MAX);
}

/// The processor's request to be reset (AIRCR), with the key that a write needs.
pub(super) fn request_reset() {
    const AIRCR: usize = 0xd0c;
    const KEY: u32 = 0x05fa << 16;
    const SYSRESETREQ: u32 = 1 << 2;
    cortex_m::asm::dsb();
    SYSTEM.write(AIRCR, KEY | SYSRESETREQ);
    cortex_m::asm::dsb();
}
