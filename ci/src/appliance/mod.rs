//! An appliance under test: the image in QEMU, its NICs and its console held by the
//! test, without root and without any network of this machine.
//!
//! [`Outside`] is what the test holds: our ends of the NICs' wires and of the control
//! channel. What is at the other end is a [`Guest`], or anything else that speaks by
//! the same sockets.

mod channel;
mod guest;
mod image;
mod outside;
mod wire;

pub use channel::{Channel, LIMIT};
pub use guest::{Guest, Options};
pub use image::{ARCHES, image, images};
pub use outside::{Outside, Passed};
pub use wire::Wire;
