//! Off and on: semihosting where the emulator offers it, PSCI.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Semihosting's SYS_EXIT_EXTENDED.
const SYS_EXIT_EXTENDED: u64 = 0x20;
/// Its reason: the application has ended.
const APPLICATION_EXIT: u64 = 0x20026;
const PSCI_SYSTEM_OFF: u32 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u32 = 0x8400_0009;

/// Whether semihosting was tried.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Ends with a status: an emulator with semihosting (`-semihosting`) exits with it, any
/// other machine is switched off.
pub fn exit(status: u8) -> ! {
    if !ENDING.swap(true, Ordering::Relaxed) {
        let block = [APPLICATION_EXIT, u64::from(status)];
        // SAFETY: the debugger reads the block and ends all; without one this is an
        // undefined instruction, which comes back to `exit` and goes on below.
        unsafe {
            asm!(
                "hlt #0xf000",
                in("x0") SYS_EXIT_EXTENDED,
                in("x1") block.as_ptr(),
                lateout("x0") _,
                options(nostack, readonly),
            );
        }
    }
    psci(PSCI_SYSTEM_OFF)
}

/// Starts the machine anew.
pub fn restart() -> ! {
    psci(PSCI_SYSTEM_RESET)
}

/// Whether an undefined instruction is [`exit`]'s.
pub(super) fn ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

fn psci(function: u32) -> ! {
    // SAFETY: neither function comes back; if they do, which only a machine without
    // PSCI does, the loop keeps everything as it is.
    unsafe {
        asm!("hvc #0", in("w0") function, options(nostack));
    }
    loop {
        core::hint::spin_loop();
    }
}
