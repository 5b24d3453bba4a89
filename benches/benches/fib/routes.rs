//! Seeded routes with the prefix lengths of the Internet's tables, keys that follow
//! them, and right answers.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A pseudo-random generator (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a size");
        usize::try_from(self.next() % end).expect("below a size")
    }
}

/// An address family's numbers.
pub trait Key: culvert_core::fib::Address + std::hash::Hash + std::fmt::Debug {
    const NAME: &'static str;
    /// Sizes of the tables to measure.
    const SIZES: &'static [usize];
    /// (length, weight) of prefixes.
    const LENGTHS: &'static [(u8, u32)];
    /// A random allocated address.
    fn allocated(random: &mut Random, routes: usize) -> Self;
    /// The low bits that do not belong to a prefix.
    fn host_bits(random: &mut Random, length: u8) -> Self;
    fn or(self, other: Self) -> Self;
    /// Mixes in what the last lookup answered, times zero.
    fn after(self, answer: u32, zero: u32) -> Self;
}

impl Key for u32 {
    const NAME: &'static str = "IPv4";
    const SIZES: &'static [usize] = &[1_000, 10_000, 100_000, 900_000];
    // As in the tables of 2024: 60 % /24, 10 % each of /22 and /23.
    const LENGTHS: &'static [(u8, u32)] = &[
        (8, 16),
        (9, 13),
        (10, 40),
        (11, 100),
        (12, 300),
        (13, 580),
        (14, 1_150),
        (15, 2_000),
        (16, 13_500),
        (17, 8_000),
        (18, 13_500),
        (19, 25_000),
        (20, 44_000),
        (21, 51_000),
        (22, 90_000),
        (23, 90_000),
        (24, 540_000),
        (25, 600),
        (26, 700),
        (27, 500),
        (28, 500),
        (29, 500),
        (30, 300),
        (32, 1_000),
    ];

    fn allocated(random: &mut Random, _routes: usize) -> Self {
        let first = u32::try_from(random.below(223) + 1).expect("a byte") << 24;
        first | u32::try_from(random.below(1 << 24)).expect("24 bits")
    }

    fn host_bits(random: &mut Random, length: u8) -> Self {
        let bits = u32::try_from(random.next() >> 32).expect("32 bits");
        bits.checked_shr(u32::from(length)).unwrap_or(0)
    }

    fn or(self, other: Self) -> Self {
        self | other
    }

    #[inline(always)]
    fn after(self, answer: u32, zero: u32) -> Self {
        self.wrapping_add(answer & zero)
    }
}

impl Key for u128 {
    const NAME: &'static str = "IPv6";
    const SIZES: &'static [usize] = &[1_000, 10_000, 200_000];
    const LENGTHS: &'static [(u8, u32)] = &[
        (20, 10),
        (24, 30),
        (28, 150),
        (29, 5_000),
        (30, 700),
        (31, 300),
        (32, 24_000),
        (33, 3_500),
        (34, 3_000),
        (35, 1_500),
        (36, 8_500),
        (38, 2_500),
        (40, 20_000),
        (42, 4_000),
        (44, 20_000),
        (45, 2_500),
        (46, 7_000),
        (47, 6_000),
        (48, 95_000),
        (56, 600),
        (64, 1_500),
        (128, 300),
    ];

    fn allocated(random: &mut Random, routes: usize) -> Self {
        // Registries' blocks, a /32 for every sixth route, and parts of those.
        let blocks = [0x2001u32, 0x2400, 0x2600, 0x2800, 0x2a00, 0x2c00];
        let number = random.below(routes / 6 + 1);
        let mut of_number = Random(u64::try_from(number).expect("a number") ^ 0x5eed);
        let block = blocks[of_number.below(6)];
        let holder = u32::try_from(of_number.below(1 << 20)).expect("20 bits");
        let high = u128::from(block << 16 | holder) << 96;
        high | (u128::from(random.next()) << 32)
    }

    fn host_bits(random: &mut Random, length: u8) -> Self {
        let bits = u128::from(random.next()) << 64 | u128::from(random.next());
        bits.checked_shr(u32::from(length)).unwrap_or(0)
    }

    fn or(self, other: Self) -> Self {
        self | other
    }

    #[inline(always)]
    fn after(self, answer: u32, zero: u32) -> Self {
        self.wrapping_add(u128::from(answer & zero))
    }
}

/// A prefix and its next hop, 1 to 256.
pub type Route<K> = (K, u8, u32);

/// So many different routes.
pub fn routes<K: Key>(count: usize) -> Vec<Route<K>> {
    let mut random = Random(0x00c0_ffee);
    let total: u32 = K::LENGTHS.iter().map(|(_, weight)| weight).sum();
    let mut seen = HashSet::new();
    let mut routes = Vec::with_capacity(count);
    while routes.len() < count {
        let mut draw =
            u32::try_from(random.below(usize::try_from(total).expect("a size"))).expect("a weight");
        let chosen = K::LENGTHS.iter().find(|(_, weight)| {
            let found = draw < *weight;
            draw = draw.saturating_sub(*weight);
            found
        });
        let length = chosen.expect("a draw below the total").0;
        let bits = mask(K::allocated(&mut random, count), length);
        if seen.insert((bits, length)) {
            let next_hop = u32::try_from(random.below(256)).expect("a byte") + 1;
            routes.push((bits, length, next_hop));
        }
    }
    routes
}

fn mask<K: Key>(bits: K, length: u8) -> K {
    bits.truncate(length)
}

/// How keys are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// A random address in a random route.
    Random,
    /// The same, but half of all keys go to one of a hundred routes, as traffic does.
    Skewed,
}

/// Addresses in the routes.
pub fn keys<K: Key>(routes: &[Route<K>], draw: Draw, count: usize) -> Vec<K> {
    let mut random = Random(0xbeef);
    let few = routes.len().div_ceil(100);
    let one = |_| {
        let among = match draw {
            Draw::Skewed if random.below(2) == 0 => few,
            _ => routes.len(),
        };
        let (bits, length, _) = routes[random.below(among)];
        bits.or(K::host_bits(&mut random, length))
    };
    (0..count).map(one).collect()
}

/// The right answers, from one exact map and a try of every length.
pub fn answers<K: Key>(routes: &[Route<K>], keys: &[K]) -> Vec<u32> {
    let map: HashMap<(K, u8), u32> = routes.iter().map(|(b, l, n)| ((*b, *l), *n)).collect();
    let longest_first: Vec<u8> = K::LENGTHS.iter().rev().map(|(length, _)| *length).collect();
    let answer = |key: &K| {
        let tried = longest_first
            .iter()
            .find_map(|length| map.get(&(mask(*key, *length), *length)));
        tried.copied().unwrap_or(0)
    };
    keys.iter().map(answer).collect()
}

pub fn v4(bits: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(bits)
}

pub fn v6(bits: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(bits)
}
