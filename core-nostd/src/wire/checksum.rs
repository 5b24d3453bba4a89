//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ones' complement sum of the bytes as big-endian 16-bit words, an odd last
/// byte padded with zero; not folded, so that sums can be added.
pub fn sum(bytes: &[u8]) -> u64 {
    u64::from(u16::from_be(fold(sum_native(bytes))))
}

/// The sum of bytes that lie in two places, one behind the other.
pub(crate) fn sum_of_two(first: &[u8], second: &[u8]) -> u64 {
    let rest = sum(second);
    match first.len().is_multiple_of(2) {
        true => sum(first) + rest,
        // Words that begin at an odd place have their octets the other way round.
        false => sum(first) + u64::from(fold(rest).swap_bytes()),
    }
}

/// As [`sum`], of words in the machine's byte order, in which it is as good (RFC 1071
/// section 2 B); adding another may carry, for which there is [`add`].
pub(crate) fn sum_native(bytes: &[u8]) -> u64 {
    // 2^16 ≡ 1 (mod 2^16 − 1): a 64-bit word counts as its four parts, and its carry
    // as one. A chain of additions with carry has one for each word, and compilers make
    // it of this also where they optimise for size, which loops in vectors need more for.
    let (blocks, rest) = bytes.as_chunks::<64>();
    let mut total = 0u64;
    for block in blocks {
        if let [a, b, c, d, e, f, g, h] = block.as_chunks::<8>().0 {
            let sum = total.overflowing_add(u64::from_ne_bytes(*a));
            let sum = add_word(add_word(add_word(sum, b), c), d);
            let (sum, carry) = add_word(add_word(add_word(add_word(sum, e), f), g), h);
            total = sum.wrapping_add(carry.into());
        }
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        total = add(total, u64::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<4>();
    if let [word] = words {
        total = add(total, u32::from_ne_bytes(*word).into());
    }
    let last = match *rest {
        [a, b, c] => u32::from_ne_bytes([a, b, c, 0]),
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a] => u16::from_ne_bytes([a, 0]).into(),
        _ => 0,
    };
    add(total, last.into())
}

/// Adds a word and the carry of the addition before to a sum.
#[inline(always)]
fn add_word((sum, carry): (u64, bool), word: &[u8; 8]) -> (u64, bool) {
    let (sum, first) = sum.overflowing_add(u64::from_ne_bytes(*word));
    let (sum, second) = sum.overflowing_add(carry.into());
    // Never both.
    (sum, first | second)
}

/// Adds with the carry going round.
#[inline(always)]
pub(crate) fn add(a: u64, b: u64) -> u64 {
    // Each carry goes in before the next word comes, and so makes none itself.
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(carry.into())
}

/// Whether the checksum of an IPv4 header without options is right (RFC 791).
#[inline(always)]
pub fn is_right(header: &[u8; 20]) -> bool {
    // 64 bits at a time, whose carries go round as those of 16 bits do, in the
    // machine's byte order, which all ones have in common. They are the multiples
    // of 2^16 - 1 but zero, which no sum with a version is.
    let (words, last) = header.as_chunks::<8>();
    let ([first, second], Some(last)) = (words, last.first_chunk()) else {
        return false;
    };
    let sum = add(u64::from_ne_bytes(*first), u64::from_ne_bytes(*second));
    add(sum, u32::from_ne_bytes(*last).into()).is_multiple_of(0xffff)
}

/// Folds a sum to 16 bits with end-around carry.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    // Below 2^33, then 2^18, then 2^16 + 3, and the last carry has room.
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let [.., high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The checksum field for a sum: its ones' complement.
#[inline(always)]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// Sum of the IPv4 pseudo-header (RFC 768, RFC 9293 section 3.1) for an upper
/// layer of `len` bytes.
#[inline(always)]
pub fn pseudo_header_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> u64 {
    u64::from(src.to_bits()) + u64::from(dst.to_bits()) + u64::from(protocol) + u64::from(len)
}

/// Sum of the IPv6 pseudo-header (RFC 8200 section 8.1) for an upper layer of
/// `len` bytes.
pub fn pseudo_header_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u16) -> u64 {
    sum(&src.octets()) + sum(&dst.octets()) + u64::from(protocol) + u64::from(len)
}

/// Sum of the pseudo-header of either version; 0 for addresses of different ones.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: u16) -> u64 {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => pseudo_header_v4(src, dst, protocol, len),
        (IpAddr::V6(src), IpAddr::V6(dst)) => pseudo_header_v6(src, dst, protocol, len),
        _ => 0,
    }
}

/// The checksum after a 16-bit word it covers changed from `old` to `new`
/// (RFC 1624, equation 3).
#[inline(always)]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_two_places_sum_up_as_in_one() {
        let bytes: [u8; 97] = core::array::from_fn(|at| (at * 37 + 11).to_le_bytes()[0]);
        for at in 0..bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(fold(sum_of_two(first, second)), fold(sum(&bytes)), "{at}");
        }
    }

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
        assert_eq!(
            fold(sum(&bytes[..7])),
            fold(0x0001 + 0xf203 + 0xf4f5 + 0xf600)
        );
        assert_eq!(fold(sum(&bytes[..5])), fold(0x0001 + 0xf203 + 0xf400));
        assert_eq!(fold(sum(&bytes[..6])), fold(0x0001 + 0xf203 + 0xf4f5));
    }

    /// Word by word, as the RFC defines it.
    fn naive(bytes: &[u8]) -> u64 {
        let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        bytes.chunks(2).map(|pair| u64::from(word(pair))).sum()
    }

    #[test]
    fn every_length_and_alignment_sums_as_word_by_word() {
        let mut bytes = [0u8; 200];
        let mut state = 1u32;
        for byte in &mut bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = state.to_be_bytes()[0];
        }
        // All ones carry the most, all zero must stay zero.
        for bytes in [bytes, [0xff; 200], [0; 200]] {
            for at in 0..64 {
                for len in 0..=130 {
                    let part = &bytes[at..][..len];
                    assert_eq!(fold(sum(part)), fold(naive(part)), "{len} bytes at {at}");
                }
            }
        }
    }

    #[test]
    fn a_header_is_right_when_its_words_sum_to_all_ones() {
        let mut header = [0; 20];
        for len in 0..=u8::MAX {
            for ones in 3..20 {
                header[..4].copy_from_slice(&[0x45, len, len, 0x14]);
                header[4..].fill(len);
                header[4..=ones].fill(0xff);
                // What carries out of the machine's words is different each time.
                for last in 0..=u8::MAX {
                    header[19] = last;
                    let right = fold(naive(&header)) == 0xffff;
                    assert_eq!(is_right(&header), right, "{header:x?}");
                }
            }
        }
        // Here the first carry alone makes another one, at the very end.
        header[..4].copy_from_slice(&[0x45, 0, 0, 0x14]);
        header[4..16].fill(0xff);
        let last = u32::MAX - u32::from_ne_bytes([0x45, 0, 0, 0x14]) + 1;
        header[16..].copy_from_slice(&last.to_ne_bytes());
        assert_ne!(fold(naive(&header)), 0xffff);
        assert!(!is_right(&header));
    }

    #[test]
    fn every_carry_of_the_largest_frame_is_counted() {
        let bytes = [0xff; 65_535];
        assert_eq!(fold(sum(&bytes)), fold(naive(&bytes)));
        assert_eq!(fold(sum(&bytes[1..])), 0xffff);
    }

    #[test]
    fn update_equals_recomputing_for_every_ttl() {
        for ttl in 1..=255u8 {
            for protocol in [0, 6, 17, 255] {
                let word = u16::from_be_bytes([ttl, protocol]);
                let lower = u16::from_be_bytes([ttl - 1, protocol]);
                let before = finish(0x1234 + u64::from(word));
                let after = finish(0x1234 + u64::from(lower));
                assert_eq!(update(before, word, lower), after);
            }
        }
    }
}
