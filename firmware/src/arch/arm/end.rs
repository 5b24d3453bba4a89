//! Off and on: semihosting where the emulator offers it, the processor's reset.

use core::sync::atomic::{AtomicBool, Ordering};

/// Semihosting's SYS_EXIT_EXTENDED.
const SYS_EXIT_EXTENDED: u32 = 0x20;
/// Its reason: the application has ended.
const APPLICATION_EXIT: u32 = 0x20026;

/// Whether semihosting was tried.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Ends with a status: an emulator with semihosting (`-semihosting`) exits with it. The
/// board has no switch of its own: without a debugger it stands still.
pub fn exit(status: u8) -> ! {
    if !ENDING.swap(true, Ordering::Relaxed) {
        let block = [APPLICATION_EXIT, u32::from(status)];
        let address = (&raw const block).expose_provenance();
        if let Ok(address) = u32::try_from(address) {
            // SAFETY: the debugger reads the block and ends all; without one this is a
            // fault, whose handler comes back to `exit` and stands still below.
            unsafe { cortex_m::asm::semihosting_syscall(SYS_EXIT_EXTENDED, address) };
        }
    }
    loop {
        cortex_m::asm::wfi();
    }
}

/// Starts the machine anew.
pub fn restart() -> ! {
    super::clock::request_reset();
    loop {
        core::hint::spin_loop();
    }
}

/// Whether a fault is [`exit`]'s.
pub(super) fn ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}
