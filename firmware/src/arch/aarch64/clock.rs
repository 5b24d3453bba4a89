//! Time, instructions, and sleep: the generic timer and the PMU.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Reads a system register.
macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reading this register changes nothing.
        unsafe {
            asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register.
macro_rules! write {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: this register governs a timer or a counter, no memory.
        unsafe {
            asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nomem, nostack, preserves_flags));
        }
    }};
}

/// PMU event: instructions architecturally executed.
const INST_RETIRED: u64 = 0x08;

static STARTED: AtomicU64 = AtomicU64::new(0);
/// Microseconds for one tick, times 2^32: a multiplication costs less than a division.
static MICROS_PER_TICK: AtomicU64 = AtomicU64::new(0);
/// Ticks for one microsecond, times 2^32.
static TICKS_PER_MICRO: AtomicU64 = AtomicU64::new(0);

/// Upper half of the instructions, and the counter when it was last read: the counter
/// itself has 32 bits.
static INSTRUCTIONS: AtomicU64 = AtomicU64::new(0);

pub(super) fn start() {
    let frequency = read!("cntfrq_el0").max(1);
    MICROS_PER_TICK.store((1_000_000 << 32) / frequency, Ordering::Relaxed);
    TICKS_PER_MICRO.store((frequency << 32) / 1_000_000, Ordering::Relaxed);
    STARTED.store(ticks(), Ordering::Relaxed);

    // Emulated only where it can be counted (QEMU: with -icount).
    if read!("pmceid0_el0") & (1 << INST_RETIRED) != 0 {
        write!("pmevtyper0_el0", INST_RETIRED);
        write!("pmcntenset_el0", 1);
        // Enable; no other bits of it are wanted.
        write!("pmcr_el0", 1);
    }
}

#[inline]
fn ticks() -> u64 {
    read!("cntvct_el0")
}

/// A number times a factor that was multiplied by 2^32.
#[inline]
fn scale(number: u64, factor: u64) -> u64 {
    let product = u128::from(number) * u128::from(factor);
    u64::try_from(product >> 32).unwrap_or(u64::MAX)
}

/// Microseconds since the image was started.
#[inline]
pub fn micros() -> u64 {
    let since = ticks().wrapping_sub(STARTED.load(Ordering::Relaxed));
    scale(since, MICROS_PER_TICK.load(Ordering::Relaxed))
}

/// Instructions carried out since the image was started, 0 where the processor does
/// not tell (QEMU without `-icount`). Right when asked once in 2^32 of them.
pub fn instructions() -> u64 {
    let counter = read!("pmevcntr0_el0") & 0xffff_ffff;
    let before = INSTRUCTIONS.load(Ordering::Relaxed);
    let more = counter.wrapping_sub(before) & 0xffff_ffff;
    INSTRUCTIONS.store(before + more, Ordering::Relaxed);
    before + more
}

/// Sleeps until an interrupt of an enabled slot asks for attention, or until so many
/// microseconds since the start. Returns at once when either is so already, and may
/// return early.
///
/// Interrupts are never taken: one that is pending ends WFI all the same, also when it
/// came before WFI. So none is lost between a last look at a queue and the sleep.
pub fn sleep_until(micros: u64) {
    let after = scale(micros, TICKS_PER_MICRO.load(Ordering::Relaxed));
    let wanted = STARTED.load(Ordering::Relaxed).saturating_add(after);
    write!("cntv_cval_el0", wanted);
    write!("cntv_ctl_el0", 1);
    // SAFETY: the timer is set before, and memory is as the device shall see it; WFI
    // waits and does nothing else.
    unsafe { asm!("isb", "dsb sy", "wfi", options(nostack, preserves_flags)) };
    write!("cntv_ctl_el0", 0);
}
