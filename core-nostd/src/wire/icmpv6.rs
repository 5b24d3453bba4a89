//! ICMP for IPv6 (RFC 4443).

use core::net::Ipv6Addr;

use super::icmp::{Error, HEADER_LEN};
use super::{checksum, ip, ipv6};

/// Type of destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type of packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type of time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type of parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 129;

/// Largest error message as an IPv6 packet in bytes (RFC 4443 section 2.4 c).
pub const MAX_ERROR: usize = ipv6::MIN_MTU as usize;

/// Whether this message type is an error, about which no error may be sent
/// (RFC 4443 section 2.4 e).
pub fn is_error(message_type: u8) -> bool {
    message_type < 128
}

/// Whether this message type belongs to multicast listener discovery (RFC 2710,
/// RFC 3810).
pub fn is_listener_discovery(message_type: u8) -> bool {
    matches!(message_type, 130..=132 | 143)
}

/// Writes the header of an error whose quoted packet is `quote`, from `src` to
/// `dst`, checksum included.
pub fn emit_error(
    error: Error,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    quote: &[u8],
    out: &mut [u8; HEADER_LEN],
) {
    let (message_type, code, word) = match error {
        Error::NoRoute => (UNREACHABLE, 0, 0),
        Error::HostUnreachable => (UNREACHABLE, 3, 0),
        Error::PortUnreachable => (UNREACHABLE, 4, 0),
        Error::TooBig { mtu } => (PACKET_TOO_BIG, 0, u32::from(mtu)),
        Error::TtlExceeded => (TIME_EXCEEDED, 0, 0),
        Error::ProtocolUnreachable { named_at } => (PARAMETER_PROBLEM, 1, u32::from(named_at)),
    };
    let [a, b, c, d] = word.to_be_bytes();
    *out = [message_type, code, 0, 0, a, b, c, d];
    let len = u16::try_from(HEADER_LEN + quote.len()).unwrap_or(u16::MAX);
    let sum = checksum::pseudo_header_v6(src, dst, ip::ICMPV6, len)
        + checksum::sum(out)
        + checksum::sum(quote);
    out[2..4].copy_from_slice(&checksum::finish(sum).to_be_bytes());
}

/// Turns the echo request at the front of `message` into its reply. `None`, and
/// no change, when it is none.
pub fn reply_to_echo(message: &mut [u8]) -> Option<()> {
    let h = message.first_chunk_mut::<HEADER_LEN>()?;
    if h[0] != ECHO_REQUEST || h[1] != 0 {
        return None;
    }
    let sum = u16::from_be_bytes([h[2], h[3]]);
    let [old, new] = [ECHO_REQUEST, ECHO_REPLY].map(|kind| u16::from_be_bytes([kind, 0]));
    h[0] = ECHO_REPLY;
    h[2..4].copy_from_slice(&checksum::update(sum, old, new).to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_code_their_word_and_a_correct_checksum() {
        let src: Ipv6Addr = "fe80::1".parse().unwrap();
        let dst: Ipv6Addr = "fd00::2".parse().unwrap();
        let quote = [0x60, 1, 2, 3, 4];
        for (error, start) in [
            (Error::NoRoute, [1, 0, 0, 0]),
            (Error::HostUnreachable, [1, 3, 0, 0]),
            (Error::PortUnreachable, [1, 4, 0, 0]),
            (Error::TooBig { mtu: 1430 }, [2, 0, 0x05, 0x96]),
            (Error::TtlExceeded, [3, 0, 0, 0]),
            (Error::ProtocolUnreachable { named_at: 6 }, [4, 1, 0, 6]),
        ] {
            let mut out = [0xa5; HEADER_LEN];
            emit_error(error, (src, dst), &quote, &mut out);
            assert_eq!([out[0], out[1], out[6], out[7]], start);
            let sum = checksum::pseudo_header_v6(src, dst, ip::ICMPV6, 13)
                + checksum::sum(&out)
                + checksum::sum(&quote);
            assert_eq!(checksum::fold(sum), 0xffff);
        }
    }

    #[test]
    fn echo_replies_keep_the_checksum_right() {
        let mut message = [128, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        let sum = checksum::finish(checksum::sum(&message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        reply_to_echo(&mut message).unwrap();
        assert_eq!(message[0], 129);
        assert_eq!(checksum::fold(checksum::sum(&message)), 0xffff);
        assert_eq!(reply_to_echo(&mut message), None);
        assert_eq!(reply_to_echo(&mut [128, 0, 0, 0]), None);
    }

    #[test]
    fn errors_and_listener_discovery_are_told_from_questions() {
        assert!(is_error(0) && is_error(1) && is_error(127));
        assert!(!is_error(128) && !is_error(135) && !is_error(255));
        let mld = (0..=255u8).filter(|kind| is_listener_discovery(*kind));
        assert!(mld.eq([130, 131, 132, 143]));
    }
}
