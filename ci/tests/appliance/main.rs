//! The appliance: the golden captures through the image that QEMU boots, to the byte,
//! and what is the image's own: its console, its end, its start, its sleep.
//!
//! `twin` is the same main loop on this machine behind the same sockets; both are held
//! to the same files by the same code.

mod captures;
mod console;
mod cortex_m4;
mod cost;
mod images;
mod limits;
mod node;
#[path = "../../../core-nostd/tests/replay/mod.rs"]
mod replay;
mod sizes;
mod start;
mod trespass;
mod trunk;
mod twin;
mod world;
