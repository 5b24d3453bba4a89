//! Frames on a byte stream: CRC-32 behind the message, COBS around both, a zero
//! byte at the end.

use cobs::{DecodeResult, DecoderState};
use crc::{CRC_32_ISO_HDLC, Crc};

/// Largest message in bytes, its CRC included, before COBS.
pub const MAX_MESSAGE: usize = 4096;
/// Largest frame in bytes: COBS adds one byte in 254 and one, and the delimiter follows.
pub const MAX_FRAME: usize = MAX_MESSAGE + MAX_MESSAGE / 254 + 2;

const CRC_LEN: usize = 4;

/// The CRC of Ethernet and zip, slice-by-one to keep its table small.
pub(super) const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// Frames the message that fills the first `len` bytes of `message` into `out`;
/// returns the frame's length, delimiter included. `None` when the message
/// with its CRC exceeds `message` or [`MAX_MESSAGE`], or the frame exceeds `out`.
pub fn encode_frame(message: &mut [u8], len: usize, out: &mut [u8]) -> Option<usize> {
    let total = len.checked_add(CRC_LEN).filter(|n| *n <= MAX_MESSAGE)?;
    let crc = CRC.checksum(message.get(..len)?).to_le_bytes();
    message
        .get_mut(len..)?
        .first_chunk_mut::<CRC_LEN>()?
        .copy_from_slice(&crc);
    let payload = message.get(..total)?;
    let written = cobs::try_encode(payload, out).ok()?;
    *out.get_mut(written)? = 0;
    Some(written + 1)
}

/// The message in a frame that is given without its delimiter; decodes in place.
/// `None` when the coding or the CRC is wrong.
pub fn decode_frame(frame: &mut [u8]) -> Option<&[u8]> {
    let len = decode_cobs(frame)?;
    let (message, crc) = frame.get(..len)?.split_last_chunk::<CRC_LEN>()?;
    (CRC.checksum(message) == u32::from_le_bytes(*crc)).then_some(message)
}

/// Takes the coding off in place and returns the length of what was coded, which
/// is never behind what is still to be read. The `cobs` crate's own function for
/// this has panics in its code.
fn decode_cobs(frame: &mut [u8]) -> Option<usize> {
    let mut state = DecoderState::default();
    let mut len = 0;
    for at in 0..frame.len() {
        match state.feed(*frame.get(at)?).ok()? {
            DecodeResult::DataContinue(byte) => {
                *frame.get_mut(len)? = byte;
                len += 1;
            }
            DecodeResult::NoData | DecodeResult::DataStart => {}
            // A delimiter, which does not belong to the frame.
            DecodeResult::DataComplete => return None,
        }
    }
    let end = state.feed(0).ok()?;
    matches!(end, DecodeResult::DataComplete).then_some(len)
}

/// What a [`FrameDecoder`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameEvent<'d> {
    /// A message whose CRC is right.
    Message(&'d [u8]),
    /// A frame whose coding or CRC is wrong.
    Damaged,
    /// A frame longer than [`MAX_FRAME`] or a message longer than
    /// [`MAX_MESSAGE`]; it was skipped.
    TooLarge,
}

/// Finds the frames in a stream of bytes, and finds its way again after garbage.
///
/// Empty frames (a zero byte directly behind a zero byte) are passed over, so a
/// sender can begin with one to end whatever stood before.
pub struct FrameDecoder {
    buffer: [u8; MAX_FRAME],
    len: usize,
    overflow: bool,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder at the beginning of a frame.
    pub const fn new() -> Self {
        FrameDecoder {
            buffer: [0; MAX_FRAME],
            len: 0,
            overflow: false,
        }
    }

    /// Takes bytes in and hands each completed frame to `found`.
    pub fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(FrameEvent<'_>)) {
        while !bytes.is_empty() {
            let (taken, event) = self.next(bytes);
            if let Some(event) = event {
                found(event);
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Takes bytes in up to the end of one frame, and returns how many it took and
    /// what the frame was; `None` when the bytes end before a frame does.
    pub fn next(&mut self, bytes: &[u8]) -> (usize, Option<FrameEvent<'_>>) {
        for (byte, taken) in bytes.iter().zip(1..) {
            if *byte != 0 {
                match self.buffer.get_mut(self.len) {
                    Some(slot) => {
                        *slot = *byte;
                        self.len += 1;
                    }
                    None => self.overflow = true,
                }
                continue;
            }
            let len = core::mem::take(&mut self.len);
            if core::mem::take(&mut self.overflow) {
                return (taken, Some(FrameEvent::TooLarge));
            }
            if len > 0 {
                let frame = self.buffer.get_mut(..len).unwrap_or_default();
                let event = match decode_frame(frame) {
                    // COBS in short blocks is denser than the frame's limit.
                    Some(message) if message.len() + CRC_LEN > MAX_MESSAGE => FrameEvent::TooLarge,
                    Some(message) => FrameEvent::Message(message),
                    None => FrameEvent::Damaged,
                };
                return (taken, Some(event));
            }
        }
        (bytes.len(), None)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0; MAX_MESSAGE];
        message[..payload.len()].copy_from_slice(payload);
        let mut out = vec![0xa5; MAX_FRAME];
        let len = encode_frame(&mut message, payload.len(), &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn decoded(stream: &[u8], step: usize) -> Vec<Result<Vec<u8>, &'static str>> {
        let mut decoder = FrameDecoder::new();
        let mut all = Vec::new();
        for chunk in stream.chunks(step) {
            decoder.feed(chunk, |event| {
                all.push(match event {
                    FrameEvent::Message(message) => Ok(message.to_vec()),
                    FrameEvent::Damaged => Err("damaged"),
                    FrameEvent::TooLarge => Err("too large"),
                });
            });
        }
        all
    }

    #[test]
    fn every_length_around_the_cobs_block_edges() {
        for len in (0..=6)
            .chain(244..=262)
            .chain(500..=516)
            .chain([MAX_MESSAGE - 4])
        {
            for fill in [0u8, 1, 0xff] {
                let payload = vec![fill; len];
                let frame = framed(&payload);
                assert_eq!(frame.iter().filter(|b| **b == 0).count(), 1);
                assert!(frame.len() <= MAX_FRAME);
                for step in [1, 7, 4096] {
                    assert_eq!(decoded(&frame, step), [Ok(payload.clone())]);
                }
            }
        }
    }

    #[test]
    fn limits_are_kept() {
        let mut message = vec![1; MAX_MESSAGE];
        let mut out = vec![0; MAX_FRAME];
        assert_eq!(encode_frame(&mut message, MAX_MESSAGE - 3, &mut out), None);
        assert_eq!(encode_frame(&mut message, 100, &mut out[..100]), None);
        let mut stream = vec![1u8; MAX_FRAME + 1];
        stream.push(0);
        stream.extend(framed(b"next"));
        assert_eq!(
            decoded(&stream, 64),
            [Err("too large"), Ok(b"next".to_vec())]
        );
    }

    #[test]
    fn a_damaged_frame_does_not_take_the_next_along() {
        let good = framed(b"hello");
        for index in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[index] ^= 0x10;
            let mut stream = bad.clone();
            stream.extend(&good);
            let all = decoded(&stream, 5);
            assert_eq!(all.last(), Some(&Ok(b"hello".to_vec())), "byte {index}");
            assert!(all[..all.len() - 1].iter().all(Result::is_err));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(stream in prop::collection::vec(any::<u8>(), 0..2000), step in 1usize..100) {
            decoded(&stream, step);
        }

        #[test]
        fn any_payload_survives(payload in prop::collection::vec(any::<u8>(), 0..1000)) {
            prop_assert_eq!(decoded(&framed(&payload), 13), [Ok(payload)]);
        }
    }
}
