//! The architectures behind one set of functions: start and end, time, interrupts
//! as mere wake-ups, the serial line.
//!
//! An image is a `main` that [`image!`](crate::image) names:
//!
//! ```ignore
//! culvert_firmware::image!(main);
//! fn main() -> ! { … }
//! ```

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "arm")]
mod arm;
mod fatal;
mod log;
mod registers;
mod stack;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
pub mod trespass;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "arm")]
pub use arm::*;
pub use stack::high_water;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

/// What an emulator ends with when the image has panicked.
pub const STATUS_PANIC: u8 = 101;
/// What an emulator ends with after a fault of the processor: an access that is not
/// allowed, an instruction that does not exist, a stack that is full.
pub const STATUS_FAULT: u8 = 102;

/// Names the function, without arguments and without a return, that an image runs once
/// the machine is ready.
#[macro_export]
macro_rules! image {
    ($main:path) => {
        #[unsafe(export_name = "culvert_main")]
        fn __culvert_main() -> ! {
            $main()
        }
    };
}

unsafe extern "Rust" {
    /// What [`image!`](crate::image) named.
    #[link_name = "culvert_main"]
    safe fn image_main() -> !;
}

/// What is the same everywhere before an image's own code.
fn run() -> ! {
    stack::paint();
    start();
    image_main()
}
