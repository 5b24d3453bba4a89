//! ICMP for IPv4 (RFC 792).

use super::checksum;
use super::icmp::{Error, HEADER_LEN};

/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type of time exceeded.
pub const TIME_EXCEEDED: u8 = 11;

/// Whether this message type is an error, about which no error may be sent
/// (RFC 1122 section 3.2.2). Unknown types count as errors.
pub fn is_error(message_type: u8) -> bool {
    // Echo, router advertisement and solicitation, timestamp, information, address mask.
    !matches!(message_type, 0 | 8 | 9 | 10 | 13..=18)
}

/// Writes the header of an error whose quoted packet is `quote`, checksum included.
pub fn emit_error(error: Error, quote: &[u8], out: &mut [u8; HEADER_LEN]) {
    let (message_type, code, mtu) = match error {
        Error::NoRoute => (UNREACHABLE, 0, 0),
        Error::HostUnreachable => (UNREACHABLE, 1, 0),
        Error::ProtocolUnreachable { .. } => (UNREACHABLE, 2, 0),
        Error::PortUnreachable => (UNREACHABLE, 3, 0),
        // RFC 1191 section 4.
        Error::TooBig { mtu } => (UNREACHABLE, 4, mtu),
        Error::TtlExceeded => (TIME_EXCEEDED, 0, 0),
    };
    let [high, low] = mtu.to_be_bytes();
    *out = [message_type, code, 0, 0, 0, 0, high, low];
    let sum = checksum::finish(checksum::sum(out) + checksum::sum(quote));
    out[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// Turns the echo request at the front of `message` into its reply. `None`, and
/// no change, when it is none.
pub fn reply_to_echo(message: &mut [u8]) -> Option<()> {
    let h = message.first_chunk_mut::<HEADER_LEN>()?;
    if h[0] != ECHO_REQUEST || h[1] != 0 {
        return None;
    }
    let old = u16::from_be_bytes([h[0], h[1]]);
    let sum = u16::from_be_bytes([h[2], h[3]]);
    h[0] = ECHO_REPLY;
    let sum = checksum::update(sum, old, u16::from_be_bytes([h[0], h[1]]));
    h[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_correct_checksum_and_mtu() {
        let quote = [0x45, 1, 2, 3, 4];
        let mut out = [0xa5; HEADER_LEN];
        emit_error(Error::TooBig { mtu: 1450 }, &quote, &mut out);
        assert_eq!((out[0], out[1], &out[4..]), (3, 4, &[0, 0, 5, 170][..]));
        assert_eq!(
            checksum::fold(checksum::sum(&out) + checksum::sum(&quote)),
            0xffff
        );
    }

    #[test]
    fn echo_replies_keep_the_checksum_right() {
        let mut message = [8, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        let sum = checksum::finish(checksum::sum(&message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        reply_to_echo(&mut message).unwrap();
        assert_eq!(message[0], 0);
        assert_eq!(checksum::fold(checksum::sum(&message)), 0xffff);
        assert_eq!(reply_to_echo(&mut message), None);
        assert_eq!(reply_to_echo(&mut [8, 0, 0, 0]), None);
    }

    #[test]
    fn errors_are_told_from_questions() {
        for question in [0, 8, 13, 14] {
            assert!(!is_error(question));
        }
        for error in [3, 4, 5, 11, 12, 40] {
            assert!(is_error(error));
        }
    }
}
