//! Exceptions: none is expected, each ends everything.

use cortex_m_rt::{ExceptionFrame, exception};

use super::end;
use crate::arch::{STATUS_FAULT, exit};

// SAFETY: it never returns to what it has interrupted.
#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    if !end::ending() {
        defmt::error!(
            "fault at {=u32:#x}: LR {=u32:#x}, xPSR {=u32:#x}, r0 {=u32:#x}, r1 {=u32:#x}",
            frame.pc(),
            frame.lr(),
            frame.xpsr(),
            frame.r0(),
            frame.r1(),
        );
    }
    exit(STATUS_FAULT)
}

// SAFETY: it never returns to what it has interrupted.
#[exception]
unsafe fn DefaultHandler(number: i16) -> ! {
    defmt::error!("exception {=i16}", number);
    exit(STATUS_FAULT)
}
