//! defmt's messages, by the serial line. `defmt-print -e IMAGE` reads them.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use defmt::Encoder;

use super::serial_write;

/// Writes messages; there is one.
#[defmt::global_logger]
struct SerialLogger;

/// The encoder, and whether a message is being written.
struct State {
    encoder: UnsafeCell<Encoder>,
    busy: AtomicBool,
}

// SAFETY: one processor runs, and no interrupt's handler logs. A fault that ends
// everything may come in the middle of a message: `acquire` knows.
unsafe impl Sync for State {}

static STATE: State = State {
    encoder: UnsafeCell::new(Encoder::new()),
    busy: AtomicBool::new(false),
};

impl State {
    /// The encoder.
    ///
    /// # Safety
    /// Nobody else may have it.
    #[expect(clippy::mut_from_ref, reason = "this is what the cell is for")]
    unsafe fn encoder(&self) -> &mut Encoder {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.encoder.get() }
    }
}

// SAFETY: defmt calls `acquire` first, and the others between that and `release`; one
// processor runs, and there is no other context that logs.
unsafe impl defmt::Logger for SerialLogger {
    fn acquire() {
        // SAFETY: nobody has the encoder between messages, nor does the code go on that
        // a fault has ended in one.
        let encoder = unsafe { STATE.encoder() };
        if STATE.busy.swap(true, Ordering::Relaxed) {
            // A fault within a message. What there is of it ends here.
            encoder.end_frame(serial_write);
        }
        encoder.start_frame(serial_write);
    }

    unsafe fn flush() {
        // The line takes each byte at once.
    }

    unsafe fn release() {
        // SAFETY: as in `write`.
        let encoder = unsafe { STATE.encoder() };
        encoder.end_frame(serial_write);
        STATE.busy.store(false, Ordering::Relaxed);
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: defmt calls this between `acquire` and `release` only, one call after
        // the other.
        let encoder = unsafe { STATE.encoder() };
        encoder.write(bytes, serial_write);
    }
}

defmt::timestamp!("{=u64:us}", super::micros());
