//! The FIB against a naive scan, at its limits, and with its work counted.

extern crate std;

use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;

use zerocopy::FromZeros;

use super::*;

mod limits;
mod model;
mod nodes;
mod shortcut;
mod work;

/// A small pseudo-random generator (splitmix64), so that a failure repeats.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// How many random operations a test does: `CULVERT_FIB_OPERATIONS` or a default
/// that takes a second or two in a debug build.
pub(super) fn operations() -> u64 {
    let given = std::env::var("CULVERT_FIB_OPERATIONS").ok();
    given.map_or(20_000, |text| text.parse().unwrap())
}

pub(super) fn boxed<T: FromZeros>() -> Box<T> {
    T::new_box_zeroed().unwrap()
}

pub(super) fn prefix<B: Bits>(bits: B, length: u8) -> Prefix<B> {
    Prefix {
        bits: bits.truncate(length),
        length,
    }
}

/// An IPv4 prefix from text.
pub(super) fn v4(text: &str) -> Prefix<u32> {
    let (address, length) = text.split_once('/').unwrap();
    let address: core::net::Ipv4Addr = address.parse().unwrap();
    prefix(address.to_bits(), length.parse().unwrap())
}

/// An IPv6 prefix from text.
pub(super) fn v6(text: &str) -> Prefix<u128> {
    let (address, length) = text.split_once('/').unwrap();
    let address: core::net::Ipv6Addr = address.parse().unwrap();
    prefix(address.to_bits(), length.parse().unwrap())
}

/// All entries of one family of a FIB, by pages of one.
pub(super) fn all<B: Address>(fib: &Fib<'_, u32>, number: usize) -> Vec<(Prefix<B>, u32)> {
    let mut listed = Vec::new();
    let mut after = None;
    while let Some((prefix, value)) = fib.next(number, after) {
        listed.push((prefix, value));
        after = Some(prefix);
    }
    listed
}
