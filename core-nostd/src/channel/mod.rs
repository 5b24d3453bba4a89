//! The control channel: messages, their framing, and the core's end of it.
//!
//! The same bytes go over an in-process socket and over a serial line:
//!
//! ```text
//! COBS( postcard(id: u32, Request or Response) ++ CRC-32 of it, little endian ) ++ 00
//! ```
//!
//! A message has at most [`MAX_MESSAGE`] bytes before COBS, its CRC included. A
//! request's `id` comes back in its response; 0 answers a request whose id could
//! not be read. Variants are only ever appended and fields never added to one:
//! postcard cannot skip what it does not know. `golden.txt` pins the encoding of
//! every message.

mod board;
mod codec;
mod entry;
mod error;
mod event;
mod frame;
mod message;
pub mod noise;
mod server;
mod sync;

pub use board::*;
pub use codec::{DecodeError, decode_request, decode_response, encode_request, encode_response};
pub use error::Error;
pub use event::{Event, EventKind, HEADER_BYTES, MAX_EVENTS, PATH_MTU_LIFETIME};
pub use frame::{FrameDecoder, FrameEvent, MAX_FRAME, MAX_MESSAGE, decode_frame, encode_frame};
pub use message::*;
pub use server::{serve, serve_with};
pub use sync::{Sync, Synced};

/// The protocol that this crate speaks. Both ends must have the same `major`.
pub const PROTOCOL: Version = Version { major: 2, minor: 1 };

/// A fingerprint of all golden encodings, for information: equal schemas encode
/// every message alike.
pub const SCHEMA: u32 = frame::CRC.checksum(include_bytes!("golden.txt"));
