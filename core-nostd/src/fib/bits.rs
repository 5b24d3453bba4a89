//! Addresses as left-aligned bit strings, and prefixes of them.

use zerocopy::{FromZeros, Immutable};

/// An address as a number, its first bit the most significant.
pub trait Bits: Copy + Eq + Ord + FromZeros + Immutable + 'static {
    /// Number of bits.
    const WIDTH: u8;
    /// Bits that [`Bits::head`] sees.
    const HEAD: u8;

    /// Number of leading bits that are equal.
    fn common(self, other: Self) -> u8;

    /// The bit at `index` from the left; false behind the end.
    fn bit(self, index: u8) -> bool;

    /// The first `length` bits, the others zero.
    fn truncate(self, length: u8) -> Self;

    /// Bits `from..from + count` as a number; those behind the end are zero.
    /// `count` is 1 to 32.
    fn field(self, from: u8, count: u8) -> u32;

    /// The first [`Bits::HEAD`] bits without the last `shift` of these, as a number.
    fn head(self, shift: u8) -> u64;

    /// The first sixteen bits as a number.
    fn sixteen(self) -> u16;

    /// The byte behind the first two.
    fn third(self) -> u8;

    /// The 64 bits at `from`; those behind the end are zero.
    fn window(self, from: u8) -> u64;

    /// The bits with those of `window` set from `from` on, where they are zero.
    fn with_window(self, from: u8, window: u64) -> Self;

    /// The bits as 128, those behind the end zero.
    fn wide(self) -> u128;

    /// What [`Bits::wide`] was made of.
    fn from_wide(wide: u128) -> Self;

    /// A number in the form of an address, for lists of free entries.
    fn from_number(number: u32) -> Self;

    /// The number that [`Bits::from_number`] took.
    fn number(self) -> u32;

    /// Addresses of 32 bits as such, `None` for others.
    fn all_v4(addresses: &[Self]) -> Option<&[u32]>;
}

impl Bits for u32 {
    const WIDTH: u8 = 32;
    const HEAD: u8 = 32;

    fn common(self, other: Self) -> u8 {
        small((self ^ other).leading_zeros())
    }

    fn bit(self, index: u8) -> bool {
        self.checked_shl(u32::from(index)).unwrap_or(0) >> 31 != 0
    }

    fn truncate(self, length: u8) -> Self {
        match length {
            0 => 0,
            1..=31 => self & u32::MAX << (32 - length),
            _ => self,
        }
    }

    #[inline]
    fn field(self, from: u8, count: u8) -> u32 {
        let left = self.checked_shl(u32::from(from)).unwrap_or(0);
        left >> (32u32.wrapping_sub(u32::from(count)) & 31)
    }

    #[inline]
    fn head(self, shift: u8) -> u64 {
        u64::from(self).wrapping_shr(u32::from(shift))
    }

    #[inline]
    fn sixteen(self) -> u16 {
        let [a, b, ..] = self.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    #[inline]
    fn third(self) -> u8 {
        let [_, _, third, ..] = self.to_be_bytes();
        third
    }

    #[inline]
    fn window(self, from: u8) -> u64 {
        (u64::from(self) << 32)
            .checked_shl(u32::from(from))
            .unwrap_or(0)
    }

    fn with_window(self, from: u8, window: u64) -> Self {
        let shifted = window.checked_shr(u32::from(from) + 32).unwrap_or(0);
        self | u32::try_from(shifted).unwrap_or(0)
    }

    fn wide(self) -> u128 {
        u128::from(self) << 96
    }

    fn from_wide(wide: u128) -> Self {
        u32::try_from(wide >> 96).unwrap_or(0)
    }

    fn from_number(number: u32) -> Self {
        number
    }

    fn number(self) -> u32 {
        self
    }

    fn all_v4(addresses: &[Self]) -> Option<&[u32]> {
        Some(addresses)
    }
}

impl Bits for u128 {
    const WIDTH: u8 = 128;
    const HEAD: u8 = 64;

    fn common(self, other: Self) -> u8 {
        small((self ^ other).leading_zeros())
    }

    fn bit(self, index: u8) -> bool {
        self.checked_shl(u32::from(index)).unwrap_or(0) >> 127 != 0
    }

    fn truncate(self, length: u8) -> Self {
        self & crate::addr::mask(length)
    }

    #[inline]
    fn field(self, from: u8, count: u8) -> u32 {
        let [a, b, c, d, ..] = self.checked_shl(u32::from(from)).unwrap_or(0).to_be_bytes();
        u32::from_be_bytes([a, b, c, d]) >> (32u32.wrapping_sub(u32::from(count)) & 31)
    }

    #[inline]
    fn head(self, shift: u8) -> u64 {
        upper(self).checked_shr(u32::from(shift)).unwrap_or(0)
    }

    #[inline]
    fn sixteen(self) -> u16 {
        let [a, b, ..] = self.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    #[inline]
    fn third(self) -> u8 {
        let [_, _, third, ..] = self.to_be_bytes();
        third
    }

    #[inline]
    fn window(self, from: u8) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] =
            self.checked_shl(u32::from(from)).unwrap_or(0).to_be_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn with_window(self, from: u8, window: u64) -> Self {
        self | (u128::from(window) << 64)
            .checked_shr(u32::from(from))
            .unwrap_or(0)
    }

    fn wide(self) -> u128 {
        self
    }

    fn from_wide(wide: u128) -> Self {
        wide
    }

    fn from_number(number: u32) -> Self {
        u128::from(number)
    }

    fn number(self) -> u32 {
        u32::try_from(self).unwrap_or(0)
    }

    fn all_v4(_addresses: &[Self]) -> Option<&[u32]> {
        None
    }
}

/// The upper half.
#[inline]
fn upper(bits: u128) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = bits.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// A count of bits.
fn small(count: u32) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

/// The first `length` bits of an address; the others are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Prefix<B> {
    /// The address's bits.
    pub bits: B,
    /// How many of them count.
    pub length: u8,
}

impl<B: Bits> Prefix<B> {
    /// The prefix of one address.
    pub fn host(bits: B) -> Self {
        Prefix {
            bits,
            length: B::WIDTH,
        }
    }

    /// The prefix's first `length` bits (at most its own length).
    pub(super) fn truncate(self, length: u8) -> Self {
        let length = length.min(self.length);
        Prefix {
            bits: self.bits.truncate(length),
            length,
        }
    }

    /// The prefix eight bits longer than this one that a number chooses.
    pub(super) fn extend(self, number: usize) -> Self {
        let window = u64::try_from(number & 0xff).unwrap_or(0) << 56;
        Prefix {
            bits: self.bits.with_window(self.length, window),
            length: self.length + 8,
        }
    }

    /// Those of the 256 that the eight bits behind `start` choose that the prefix
    /// covers, which is longer than that.
    pub(super) fn slots(self, start: u8) -> core::ops::Range<usize> {
        let first = usize::try_from(self.bits.field(start, 8)).unwrap_or(0);
        let count = 1 << (8 - self.length.saturating_sub(start).min(8));
        first..first + count
    }

    /// Whether this prefix holds the other one.
    pub(super) fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.bits.common(other.bits) >= self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn an_ipv6_address() -> u128 {
        0x2001_0db8_0102_0304_0506_0708_090a_0b0c
    }

    #[test]
    fn fields_and_windows_are_cut_where_they_say() {
        assert_eq!(0x1234_5678u32.field(8, 16), 0x3456);
        assert_eq!(0x1234_5678u32.field(28, 8), 0x80);
        assert_eq!(0x1234_5678u32.field(0, 32), 0x1234_5678);
        assert_eq!(0x1234_5678u32.head(u32::HEAD - 12), 0x123);
        assert_eq!(0x1234_5678u32.window(24), 0x78 << 56);
        assert_eq!(0x1200_0000u32.with_window(8, 0x34 << 56), 0x1234_0000);
        let v6 = an_ipv6_address();
        assert_eq!(v6.field(4, 12), 0x001);
        assert_eq!(v6.field(16, 32), 0x0db8_0102);
        assert_eq!(v6.head(u128::HEAD - 20), 0x20010);
        assert_eq!((v6.sixteen(), v6.third()), (0x2001, 0x0d));
        assert_eq!(v6.window(64), 0x0506_0708_090a_0b0c);
        assert_eq!(v6.truncate(64).with_window(64, v6.window(64)), v6);
        assert!(!v6.bit(200) && v6.bit(2) && !v6.bit(0));
    }
}
