//! Logging by defmt on bare metal, and nothing on a host, where tests run: defmt's
//! strings live in sections that only an image's linker script has.

#[cfg(target_os = "none")]
macro_rules! log {
    ($level:ident, $($arguments:tt)*) => { defmt::$level!($($arguments)*) };
}

#[cfg(not(target_os = "none"))]
macro_rules! log {
    ($level:ident, $format:literal $(, $argument:expr)* $(,)?) => {
        { $( let _ = &$argument; )* }
    };
}

/// A value by its `Display`.
#[cfg(target_os = "none")]
macro_rules! display {
    ($value:expr) => {
        defmt::Display2Format(&$value)
    };
}

#[cfg(not(target_os = "none"))]
macro_rules! display {
    ($value:expr) => {
        $value
    };
}

pub(crate) use {display, log};
