//! Frames of the control channel against COBS and CRC-32 written down a second
//! time: every length, every edge of a block, every damage to a byte.

use culvert_core::channel::{
    FrameDecoder, FrameEvent, MAX_FRAME, MAX_MESSAGE, decode_frame, encode_frame,
};

/// Bytes of the longest message without its CRC.
const MAX: usize = MAX_MESSAGE - 4;

/// COBS as its paper has it (Cheshire and Baker 1999, table 1): what a byte code
/// says, and a zero behind each block but the last and those of 254 bytes.
fn reference_decode(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((code, rest)) = bytes.split_first() {
        let (block, rest) = rest.split_at_checked(usize::from(code.checked_sub(1)?))?;
        if block.contains(&0) {
            return None;
        }
        out.extend_from_slice(block);
        if *code != 255 && !rest.is_empty() {
            out.push(0);
        }
        bytes = rest;
    }
    Some(out)
}

/// The paper's encoder, which ends what ends in a full block with an empty one.
fn reference_encode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut block = Vec::new();
    for byte in bytes.iter().chain(&[0]) {
        if *byte != 0 {
            block.push(*byte);
        }
        if *byte == 0 || block.len() == 254 {
            out.push(u8::try_from(block.len() + 1).unwrap());
            out.append(&mut block);
        }
    }
    out
}

fn reference_crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    (!crc).to_le_bytes()
}

/// The message in a frame without its delimiter, by the reference.
fn reference_message(frame: &[u8]) -> Option<Vec<u8>> {
    let mut all = reference_decode(frame)?;
    let message = all.len().checked_sub(4)?;
    let crc = all.split_off(message);
    (crc == reference_crc(&all)).then_some(all)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut buffer = [0; MAX_MESSAGE];
    buffer[..message.len()].copy_from_slice(message);
    let mut out = [0xa5; MAX_FRAME];
    let len = encode_frame(&mut buffer, message.len(), &mut out).unwrap();
    out[..len].to_vec()
}

/// Both ways, each against the reference.
fn check(message: &[u8]) {
    let frame = framed(message);
    let (delimiter, coded) = frame.split_last().unwrap();
    assert_eq!(*delimiter, 0);
    let whole = [message, &reference_crc(message)].concat();
    assert_eq!(reference_decode(coded), Some(whole.clone()), "{message:?}");
    let mut theirs = reference_encode(&whole);
    assert_eq!(decode_frame(&mut theirs), Some(message));
    assert_eq!(decode_frame(&mut coded.to_vec()), Some(message));
}

/// What a decoder finds in pieces of a stream; `None` is a damaged frame.
fn found(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let mut decoder = FrameDecoder::new();
    let mut all = Vec::new();
    for piece in pieces {
        decoder.feed(piece, |event| {
            all.push(match event {
                FrameEvent::Message(message) => Some(message.to_vec()),
                FrameEvent::Damaged => None,
                FrameEvent::TooLarge => panic!("nothing here is too large"),
            });
        });
    }
    all
}

/// Ones, with a zero behind every so many.
fn with_zeros(len: usize, every: usize) -> Vec<u8> {
    let byte = |at| u8::from((at + 1) % every != 0);
    (0..len).map(byte).collect()
}

#[test]
fn the_references_are_right() {
    assert_eq!(reference_crc(b"123456789"), 0xcbf4_3926_u32.to_le_bytes());
    // The paper's figure 3, but for its final zero.
    let packet = b"E\0\0,L\x79\0\0\x40\x06\x4f\x37";
    let coded = b"\x02E\x01\x04,Ly\x01\x05\x40\x06\x4f\x37";
    assert_eq!(reference_encode(packet), coded);
    assert_eq!(reference_decode(coded).unwrap(), packet);
}

#[test]
fn every_length_comes_through() {
    for len in 0..=MAX {
        // Every distance of zeros comes with many lengths.
        match len % 8 {
            0 => check(&vec![0; len]),
            1 => check(&with_zeros(len, 254)),
            2 => check(&with_zeros(len, 255)),
            3 => check(&with_zeros(len, 256)),
            4 => check(&with_zeros(len, 2)),
            5 => check(&vec![0xff; len]),
            _ => check(&vec![1; len]),
        }
    }
    let mut message = [1; MAX_MESSAGE];
    let mut out = [0; MAX_FRAME];
    assert_eq!(encode_frame(&mut message, MAX + 1, &mut out), None);
}

#[test]
fn every_length_around_a_full_block_comes_through_with_every_pattern() {
    for blocks in 1..=16 {
        for len in blocks * 254 - 8..=(blocks * 254 + 4).min(MAX) {
            for every in [1, 253, 254, 255, 256, usize::MAX] {
                check(&with_zeros(len, every));
            }
        }
    }
}

#[test]
fn blocks_of_every_length_follow_each_other() {
    for first in 0..=258 {
        for second in [0, 1, 252, 253, 254, 255, 256, 508, 509] {
            let message = [vec![7; first], vec![0], vec![9; second]].concat();
            check(&message);
        }
    }
}

#[test]
fn a_zero_at_every_place_and_runs_of_zeros_come_through() {
    for at in 0..520 {
        let mut message = vec![3; 520];
        message[at] = 0;
        check(&message);
    }
    for start in (0..4).chain(248..260).chain(504..514) {
        for run in 1..12 {
            let mut message = vec![3; 530];
            message[start..start + run].fill(0);
            check(&message);
        }
    }
}

#[test]
fn a_frame_cut_at_every_place_is_found_or_damaged() {
    let message = [vec![5; 254], vec![0; 3], vec![6; 255], vec![0]].concat();
    let frame = framed(&message);
    let next = framed(b"next");
    for at in 0..=frame.len() {
        let (front, back) = frame.split_at(at);
        assert_eq!(found(&[front, back]), [Some(message.clone())]);
        // What follows is lost at that place, but for the delimiter.
        if (1..frame.len() - 1).contains(&at) {
            let seen = found(&[front, &[0], &next]);
            assert_eq!(seen, [None, Some(b"next".to_vec())], "cut at {at}");
        }
        // And what came before.
        if (1..frame.len() - 1).contains(&at) {
            let seen = found(&[back, &next]);
            assert_eq!(seen, [None, Some(b"next".to_vec())], "begun at {at}");
        }
    }
}

#[test]
fn all_garbage_of_one_and_two_bytes_is_damaged() {
    let next = framed(b"next");
    for first in 0..=255 {
        for second in 0..=255 {
            let garbage = [first, second];
            let seen = found(&[&garbage, &[0], &next]);
            let frames = garbage.split(|byte| *byte == 0);
            let damaged = frames.filter(|frame| !frame.is_empty()).count();
            assert_eq!(seen.len(), damaged + 1, "{garbage:?}");
            assert_eq!(seen.last().unwrap().as_deref(), Some(&b"next"[..]));
            assert!(seen[..damaged].iter().all(Option::is_none), "{garbage:?}");
            assert_eq!(decode_frame(&mut garbage.to_vec()), None);
        }
    }
}

#[test]
fn every_value_in_every_place_of_a_frame_decodes_as_the_reference_says() {
    // The first has a full block, the second many codes.
    for message in [vec![5; 258], with_zeros(96, 5)] {
        let frame = framed(&message);
        let coded = &frame[..frame.len() - 1];
        for at in 0..coded.len() {
            for value in 0..=255 {
                let mut bytes = coded.to_vec();
                bytes[at] = value;
                let expected = reference_message(&bytes);
                assert_eq!(decode_frame(&mut bytes).map(<[u8]>::to_vec), expected);
                // One wrong byte is always seen.
                let same = value == coded[at];
                assert_eq!(expected.is_some(), same, "{value} at {at}");
            }
        }
    }
}
