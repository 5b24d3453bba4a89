//! Exceptions: none is expected, each ends everything.

use core::arch::asm;

use aarch64_rt::{ExceptionHandlers, RegisterStateRef};

use super::end;
use crate::arch::{STATUS_FAULT, exit};

aarch64_rt::exception_handlers!(Faults);

struct Faults;

impl ExceptionHandlers for Faults {
    extern "C" fn sync_current(state: RegisterStateRef) {
        if end::ending() {
            exit(STATUS_FAULT);
        }
        report("synchronous exception", &state)
    }

    extern "C" fn irq_current(state: RegisterStateRef) {
        report("IRQ", &state)
    }

    extern "C" fn fiq_current(state: RegisterStateRef) {
        report("FIQ", &state)
    }

    extern "C" fn serror_current(state: RegisterStateRef) {
        report("SError", &state)
    }
}

fn report(what: &str, state: &RegisterStateRef) -> ! {
    let (syndrome, address, stack): (u64, u64, u64);
    // SAFETY: reading these changes nothing.
    unsafe {
        asm!(
            "mrs {}, esr_el1",
            "mrs {}, far_el1",
            "mrs {}, sp_el0",
            out(reg) syndrome,
            out(reg) address,
            out(reg) stack,
            options(nomem, nostack, preserves_flags),
        );
    }
    defmt::error!(
        "{=str} at {=u64:#x}: ESR {=u64:#x}, FAR {=u64:#x}, SP {=u64:#x}, LR {=u64:#x}, SPSR {=u64:#x}",
        what,
        state.elr as u64,
        syndrome,
        address,
        stack,
        state.sp,
        state.spsr,
    );
    // x0 to x18: what a call may change, and so what is of the place itself.
    defmt::error!("x0 and on: {:#x}", state.registers.as_slice());
    exit(STATUS_FAULT)
}
