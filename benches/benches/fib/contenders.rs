//! The tables that are measured beside each other.

use std::hint::black_box;

use culvert_core::fib::{Fib, FibStorage, Prefix};
use zerocopy::FromZeros;

use crate::routes::{Key, v4, v6};

/// A table that looks one address up.
pub trait Table<K: Key> {
    fn name(&self) -> &'static str;
    fn one(&self, key: K) -> u32;
    fn insert(&mut self, bits: K, length: u8, next_hop: u32);
    fn remove(&mut self, bits: K, length: u8);

    /// Called when all routes are in.
    fn ready(&mut self) {}

    fn can_update(&self) -> bool {
        true
    }

    /// The bytes of what lookups read and of all, where the table knows; others are
    /// measured by what they allocated.
    fn memory(&self) -> Option<[usize; 2]> {
        None
    }

    fn many(&self, keys: &[K], answers: &mut [u32]) {
        for (key, answer) in keys.iter().zip(answers) {
            *answer = self.one(*key);
        }
    }

    /// Each key waits for the answer before.
    fn chain(&self, keys: &[K]) -> u32 {
        let zero = black_box(0);
        keys.iter()
            .fold(0, |last, key| self.one(key.after(last, zero)))
    }
}

/// Ours.
pub struct Culvert {
    fib: Fib<'static, u32>,
}

impl Culvert {
    pub fn new() -> Self {
        let storage = FibStorage::<u32, 1, 1_000_000, 65_536, 256, 32_768>::new_box_zeroed();
        let storage = Box::leak(storage.expect("memory for the table"));
        Culvert { fib: storage.fib() }
    }
}

impl<K: Key> Table<K> for Culvert {
    fn name(&self) -> &'static str {
        "culvert"
    }

    #[inline(always)]
    fn one(&self, key: K) -> u32 {
        self.fib.lookup(0, key)
    }

    fn insert(&mut self, bits: K, length: u8, next_hop: u32) {
        let inserted = self.fib.insert(0, Prefix { bits, length }, next_hop);
        inserted.expect("room for the routes");
    }

    fn remove(&mut self, bits: K, length: u8) {
        self.fib.remove(0, Prefix { bits, length });
    }

    /// Its storage is one allocation of which it uses what it says.
    fn memory(&self) -> Option<[usize; 2]> {
        let usage = self.fib.usage();
        assert!(!usage.pressed, "room for the whole lookup structure");
        Some([usage.lookup, usage.lookup + usage.store])
    }

    fn many(&self, keys: &[K], answers: &mut [u32]) {
        self.fib.lookup_batch(0, keys, answers);
    }
}

/// Ours, asked for one address at a time.
pub struct OneByOne(pub Culvert);

impl<K: Key> Table<K> for OneByOne {
    fn name(&self) -> &'static str {
        "culvert, single"
    }

    #[inline(always)]
    fn one(&self, key: K) -> u32 {
        self.0.fib.lookup(0, key)
    }

    fn insert(&mut self, bits: K, length: u8, next_hop: u32) {
        Table::insert(&mut self.0, bits, length, next_hop);
    }

    fn remove(&mut self, bits: K, length: u8) {
        Table::remove(&mut self.0, bits, length);
    }

    fn memory(&self) -> Option<[usize; 2]> {
        Table::<K>::memory(&self.0)
    }
}

/// The crate poptrie, which builds from all routes at once in reasonable time only.
pub struct PoptrieCrate<K: poptrie::Address>(
    pub Vec<((K, u8), u32)>,
    pub poptrie::Poptrie<(K, u8), u32>,
);

/// The crate ip_network_table (tree bitmap).
pub struct IpNetworkTable(pub ip_network_table::IpNetworkTable<u32>);

/// The crate prefix-trie.
pub struct PrefixTrie<P: prefix_trie::Prefix>(pub prefix_trie::PrefixMap<P, u32>);

/// The crate iptrie: a Patricia trie while it is built, then its LC-trie.
pub struct Iptrie<P: iptrie::IpPrefix>(
    pub Option<iptrie::map::RTrieMap<P, u32>>,
    pub Option<iptrie::map::LCTrieMap<P, u32>>,
);

macro_rules! crates {
    ($key:ty, $address:path, $network:ty, $matches:ident, $prefix:ty, $ipnet:ty, $width:expr) => {
        impl Table<$key> for PoptrieCrate<$key> {
            fn name(&self) -> &'static str {
                "poptrie"
            }

            #[inline(always)]
            fn one(&self, key: $key) -> u32 {
                self.1.lookup(key).copied().unwrap_or(0)
            }

            fn insert(&mut self, bits: $key, length: u8, next_hop: u32) {
                if self.1.is_empty() {
                    self.0.push(((bits, length), next_hop));
                } else {
                    self.1.insert((bits, length), next_hop);
                }
            }

            fn remove(&mut self, bits: $key, length: u8) {
                self.1.remove((bits, length));
            }

            fn ready(&mut self) {
                self.1 = std::mem::take(&mut self.0).into_iter().collect();
            }
        }

        impl Table<$key> for IpNetworkTable {
            fn name(&self) -> &'static str {
                "ip_network_table"
            }

            #[inline(always)]
            fn one(&self, key: $key) -> u32 {
                self.0
                    .$matches($address(key))
                    .map_or(0, |(_, next_hop)| *next_hop)
            }

            fn insert(&mut self, bits: $key, length: u8, next_hop: u32) {
                let network = <$network>::new($address(bits), length).expect("a prefix");
                self.0.insert(network, next_hop);
            }

            fn remove(&mut self, bits: $key, length: u8) {
                self.0
                    .remove(<$network>::new($address(bits), length).expect("a prefix"));
            }
        }

        impl Table<$key> for PrefixTrie<$ipnet> {
            fn name(&self) -> &'static str {
                "prefix-trie"
            }

            #[inline(always)]
            fn one(&self, key: $key) -> u32 {
                let host = <$ipnet>::new_assert($address(key), $width);
                self.0.get_lpm(&host).map_or(0, |(_, next_hop)| *next_hop)
            }

            fn insert(&mut self, bits: $key, length: u8, next_hop: u32) {
                self.0
                    .insert(<$ipnet>::new_assert($address(bits), length), next_hop);
            }

            fn remove(&mut self, bits: $key, length: u8) {
                self.0.remove(&<$ipnet>::new_assert($address(bits), length));
            }
        }

        impl Table<$key> for Iptrie<$prefix> {
            fn name(&self) -> &'static str {
                "iptrie (LC)"
            }

            #[inline(always)]
            fn one(&self, key: $key) -> u32 {
                let Some(table) = &self.1 else { return 0 };
                *table.lookup(&$address(key)).1
            }

            fn insert(&mut self, bits: $key, length: u8, next_hop: u32) {
                let prefix = <$prefix>::new($address(bits), length).expect("a prefix");
                // Made here, so that its memory is counted.
                let empty = || iptrie::map::RTrieMap::with_root_and_capacity(0, 1 << 10);
                self.0.get_or_insert_with(empty).insert(prefix, next_hop);
            }

            fn remove(&mut self, _bits: $key, _length: u8) {}

            fn ready(&mut self) {
                self.1 = self.0.take().map(iptrie::map::RTrieMap::compress);
            }

            fn can_update(&self) -> bool {
                false
            }
        }
    };
}

crates!(
    u32,
    v4,
    ip_network::Ipv4Network,
    longest_match_ipv4,
    iptrie::Ipv4Prefix,
    ipnet::Ipv4Net,
    32
);
crates!(
    u128,
    v6,
    ip_network::Ipv6Network,
    longest_match_ipv6,
    iptrie::Ipv6Prefix,
    ipnet::Ipv6Net,
    128
);
