//! The Noise protocol, by the crate `snow`. Nothing but this file has an allocator in
//! scope: what snow keeps in boxes is 64 bytes for each connection, and less
//! than 1,000 during a handshake (`tests/heap.rs`).

extern crate alloc;

use alloc::boxed::Box;

use culvert_core::channel::KEY_LEN;
use culvert_core::channel::noise::{GREETING_LEN, MAX_RECORDS, PATTERN};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState, TransportState};

/// Bytes of randomness for one connection: the secret half of a key for it alone.
pub(super) const EPHEMERAL_LEN: usize = 32;

/// A connection whose handshake is done.
pub(super) struct Noise(TransportState);

/// Why a connection ends: the other has not the key, or someone stands between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused;

impl Noise {
    /// Answers a handshake's first message. Whoever sent it has the key, or a copy of
    /// a message of someone who has.
    ///
    /// `ephemeral` is randomness that is used for nothing else. It is gone when the
    /// message was right; no other one has made use of it.
    #[inline(never)]
    pub(super) fn answer(
        key: &[u8; KEY_LEN],
        prologue: &[u8],
        ephemeral: &mut Option<[u8; EPHEMERAL_LEN]>,
        greeting: &[u8],
    ) -> Result<(Self, [u8; GREETING_LEN]), Refused> {
        let mut answered = || {
            let randomness = ephemeral.ok_or(Error::Rng)?;
            let mut handshake = responder(key, prologue, randomness)?;
            let mut answer = [0; GREETING_LEN];
            // Neither message has a payload.
            handshake.read_message(greeting, &mut [])?;
            *ephemeral = None;
            handshake.write_message(&[], &mut answer)?;
            Ok((Noise(handshake.into_transport_mode()?), answer))
        };
        answered().map_err(|_: Error| Refused)
    }

    /// Decrypts a message; returns the payload's length. A message that comes again or
    /// out of order is refused like a forged one.
    #[inline(never)]
    pub(super) fn open(&mut self, record: &[u8], payload: &mut [u8]) -> Result<usize, Refused> {
        if self.0.receiving_nonce() >= MAX_RECORDS {
            return Err(Refused);
        }
        self.0.read_message(record, payload).map_err(|_| Refused)
    }

    /// Encrypts a payload; returns the message's length.
    #[inline(never)]
    pub(super) fn seal(&mut self, payload: &[u8], record: &mut [u8]) -> Result<usize, Refused> {
        if self.0.sending_nonce() >= MAX_RECORDS {
            return Err(Refused);
        }
        self.0.write_message(payload, record).map_err(|_| Refused)
    }
}

/// A handshake that waits for its first message.
fn responder(
    key: &[u8; KEY_LEN],
    prologue: &[u8],
    ephemeral: [u8; EPHEMERAL_LEN],
) -> Result<HandshakeState, Error> {
    let builder = Builder::with_resolver(PATTERN.parse()?, Box::new(Resolver(ephemeral)));
    builder.prologue(prologue)?.psk(0, key)?.build_responder()
}

/// snow's own algorithms, with the board's randomness.
struct Resolver([u8; EPHEMERAL_LEN]);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.0))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        // Of those that snow has, the only one that an image needs code for.
        matches!(choice, HashChoice::Blake2s)
            .then(|| DefaultResolver.resolve_hash(&HashChoice::Blake2s))?
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Randomness that can be had once.
struct Once(Option<[u8; EPHEMERAL_LEN]>);

impl Random for Once {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let to: &mut [u8; EPHEMERAL_LEN] = bytes.try_into().map_err(|_| Error::Rng)?;
        *to = self.0.take().ok_or(Error::Rng)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }

    /// Payloads and ciphertexts of cacophony's test vector for this protocol: another
    /// implementation, in Haskell, by Galen Huntington and John Galt.
    const MESSAGES: [(&str, &str); 6] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944\
             fda936bec35a8adfdff198386f7d5475880897edaaf7495314c99095a2e4d66a",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843\
             4cd2a371993ba41ea11448024fca32766b169183c9e691a7a433279da7e729",
        ),
        (
            "462e20412e20486179656b",
            "bc44da303ae0beb08075fc4eb4e58235c67c2d1f53a4f2fff0bca7",
        ),
        (
            "4361726c204d656e676572",
            "416d1af83e9fa6966ce4e871156b131aa9bd7e9a1d6f8794f4872a",
        ),
        (
            "4a65616e2d426170746973746520536179",
            "8a7d81b77bcc6c072f2b807da066efba6b5fab9edf71a7faceb2c8454b0cfef608",
        ),
        (
            "457567656e2042f6686d20766f6e2042617765726b",
            "1e2ee010f72894824a25a867664ff298f2548a145dc4e9d27b1cad83f32fa7c54d69dc3279",
        ),
    ];

    #[test]
    fn it_speaks_as_another_implementation_does() {
        let key = bytes("54686973206973206d7920417573747269616e20706572737065637469766521");
        let ephemeral = bytes("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b");
        let key: [u8; KEY_LEN] = key.try_into().unwrap();
        let ephemeral: [u8; EPHEMERAL_LEN] = ephemeral.try_into().unwrap();
        let mut handshake = responder(&key, b"John Galt", ephemeral).unwrap();
        let [first, second, rest @ ..] =
            MESSAGES.map(|(plain, sealed)| (bytes(plain), bytes(sealed)));
        let mut out = [0; 200];
        let len = handshake.read_message(&first.1, &mut out).unwrap();
        assert_eq!(out[..len], first.0);
        let len = handshake.write_message(&second.0, &mut out).unwrap();
        assert_eq!(out[..len], second.1);
        let mut noise = Noise(handshake.into_transport_mode().unwrap());
        for (number, (plain, sealed)) in rest.iter().enumerate() {
            // The initiator's and the responder's, in turn.
            let (len, expected) = match number % 2 {
                0 => (noise.open(sealed, &mut out).unwrap(), plain),
                _ => (noise.seal(plain, &mut out).unwrap(), sealed),
            };
            assert_eq!(out[..len], *expected, "message {number}");
        }
    }
}
