//! Time and sleep: the time-stamp counter, and the local APIC's timer.

use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::apic::{LOCAL, TIMER_VECTOR};

const TIMER: usize = 0x320;
const TIMER_MASKED: u32 = 1 << 16;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDER: usize = 0x3e0;
/// One count is 16 ns: QEMU's timer counts nanoseconds before it divides.
const DIVIDE_BY_16: u32 = 3;
const COUNTS_PER_MICRO: u64 = 1000 / 16;

/// Counts over which the time-stamp counter is compared with the timer: 1 ms.
const COMPARED: u32 = 62_500;
/// Readings of which the one that was disturbed least is used.
const READINGS: usize = 8;

static STARTED: AtomicU64 = AtomicU64::new(0);
/// Microseconds for one tick, times 2^32: a multiplication costs less than a division.
static MICROS_PER_TICK: AtomicU64 = AtomicU64::new(0);

/// Ticks of the time-stamp counter.
#[inline]
fn ticks() -> u64 {
    // SAFETY: reading it changes nothing, and `microvm`'s processors all have it.
    unsafe { _rdtsc() }
}

/// Both clocks at one moment: ticks, and what is left of the timer's counts.
fn both() -> (u64, u32) {
    let mut least = u64::MAX;
    let mut best = (0, 0);
    for _ in 0..READINGS {
        let before = ticks();
        let count = LOCAL.read(CURRENT_COUNT);
        let took = ticks().wrapping_sub(before);
        if took < least {
            least = took;
            best = (before + took / 2, count);
        }
    }
    best
}

pub(super) fn start() {
    LOCAL.write(DIVIDER, DIVIDE_BY_16);
    LOCAL.write(TIMER, TIMER_MASKED | TIMER_VECTOR);
    let (first, nanos, ticks) = loop {
        LOCAL.write(INITIAL_COUNT, u32::MAX);
        let (first, from) = both();
        while from.wrapping_sub(LOCAL.read(CURRENT_COUNT)) < COMPARED {
            core::hint::spin_loop();
        }
        let (last, to) = both();
        let nanos = u64::from(from.wrapping_sub(to)) * 16;
        // A machine that was paused for seconds meanwhile would not fit below.
        if nanos >> 32 == 0 {
            break (first, nanos, last.wrapping_sub(first).max(1));
        }
    };
    LOCAL.write(INITIAL_COUNT, 0);
    LOCAL.write(TIMER, TIMER_VECTOR);
    MICROS_PER_TICK.store((nanos << 32) / (ticks * 1000), Ordering::Relaxed);
    STARTED.store(first, Ordering::Relaxed);
}

/// Microseconds since the image was started.
#[inline]
pub fn micros() -> u64 {
    let since = ticks().wrapping_sub(STARTED.load(Ordering::Relaxed));
    let product = u128::from(since) * u128::from(MICROS_PER_TICK.load(Ordering::Relaxed));
    u64::try_from(product >> 32).unwrap_or(u64::MAX)
}

/// Instructions carried out since the processor was started, in QEMU with
/// `-icount shift=0`, whose time-stamp counter counts them; anywhere else these are
/// ticks of a clock.
pub fn instructions() -> u64 {
    ticks()
}

/// Sleeps until an interrupt of an enabled slot asks for attention, or until so many
/// microseconds since the start. Returns at once when either is so already, and may
/// return early.
///
/// Interrupts are taken here only. One that came before is taken as soon as `hlt` has
/// begun: `sti` lets interrupts in behind the next instruction. So none is lost between
/// a last look at a queue and the sleep.
pub fn sleep_until(micros: u64) {
    let left = micros.saturating_sub(self::micros());
    if left == 0 {
        return;
    }
    // A minute at most, for what fits the counter.
    let counts = left.saturating_mul(COUNTS_PER_MICRO);
    LOCAL.write(INITIAL_COUNT, u32::try_from(counts).unwrap_or(u32::MAX));
    // SAFETY: the handlers only note who called, and leave all registers as they are.
    unsafe { asm!("sti", "hlt", "cli", options(preserves_flags)) };
    LOCAL.write(INITIAL_COUNT, 0);
}
