//! The end when something is wrong.

use core::panic::PanicInfo;

use defmt::Display2Format;

use super::{STATUS_PANIC, exit};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    defmt::error!("{}", Display2Format(info));
    exit(STATUS_PANIC)
}
