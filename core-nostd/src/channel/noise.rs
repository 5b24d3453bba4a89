//! How the channel's bytes are carried over TCP: by the Noise protocol framework with a
//! pre-shared key. Only names and numbers are here; shells bring the cryptography.
//!
//! Every message stands behind its length, two bytes, big endian. Host and device send
//! one handshake message each, the host first, both with an empty payload. Transport
//! messages follow, whose payloads are the channel's stream of bytes, cut anywhere. The
//! host's first one, which may be empty, shows the device that its greeting was not a
//! copy of an old one.

/// The protocol's name: nobody has a key of his own, both have the pre-shared one, and
/// it is in use from the first message on, so that strangers cost few hashes.
pub const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// What both hold to be said before: a handshake for something else is none.
pub const PROLOGUE: &[u8] = b"culvert channel 1";
/// Bytes of a message's length in front of it.
pub const LENGTH_LEN: usize = 2;
/// Bytes that show that a message is whole, at its end.
pub const TAG_LEN: usize = 16;
/// Bytes of each of both handshake messages: a public key, and a tag.
pub const GREETING_LEN: usize = 32 + TAG_LEN;
/// Bytes of a transport message at most, tag included.
pub const MAX_RECORD: usize = 2048;
/// Messages in one direction after which the connection ends, long before a nonce
/// could come again.
pub const MAX_RECORDS: u64 = 1 << 48;
