extern crate std;

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::FromZeros;

use super::*;
use crate::IpPrefix;

struct Fixture<const N: usize> {
    nodes: [[Node<u32>; 2]; N],
    arena: Arena,
}

impl<const N: usize> Fixture<N> {
    fn new() -> Self {
        Fixture {
            nodes: FromZeros::new_zeroed(),
            arena: FromZeros::new_zeroed(),
        }
    }

    fn lpm(&mut self) -> Lpm<'_, u32> {
        Lpm {
            nodes: self.nodes.as_flattened_mut(),
            arena: &mut self.arena,
        }
    }
}

fn key(text: &str) -> Key {
    let (address, length) = text.split_once('/').unwrap();
    IpPrefix::new(address.parse().unwrap(), length.parse().unwrap())
        .unwrap()
        .key()
}

#[test]
fn the_longest_prefix_wins() {
    let mut fixture = Fixture::<8>::new();
    let mut lpm = fixture.lpm();
    let mut root = 0;
    for (value, prefix) in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]
        .iter()
        .enumerate()
    {
        let value = u32::try_from(value).unwrap();
        assert_eq!(lpm.insert(&mut root, key(prefix), value), Ok(None));
    }
    let look = |address: &str| {
        lpm.lookup(root, key(&std::format!("{address}/32")))
            .copied()
    };
    assert_eq!(look("10.1.2.3"), Some(3));
    assert_eq!(look("10.1.2.4"), Some(2));
    assert_eq!(look("10.2.2.4"), Some(1));
    assert_eq!(look("11.2.2.4"), Some(0));
    assert_eq!(lpm.lookup(root, key("10.0.0.0/12")), Some(&1));
}

#[test]
fn capacity_is_promised_for_any_set_and_a_full_arena_changes_nothing() {
    let mut fixture = Fixture::<4>::new();
    let mut lpm = fixture.lpm();
    let mut roots = [0, 0];
    // Prefixes that share nothing need the most forks.
    for round in 0..100u32 {
        for (index, address) in ["0.0.0.0/32", "64.0.0.0/32", "128.0.0.0/32", "192.0.0.0/32"]
            .iter()
            .enumerate()
        {
            let root = &mut roots[usize::from(round % 2 == 1 && index > 1)];
            assert_eq!(
                lpm.insert(root, key(address), round),
                Ok(None),
                "{round} {index}"
            );
        }
        assert_eq!(lpm.insert(&mut roots[0], key("1.0.0.0/32"), 0), Err(Full));
        assert_eq!(lpm.len(), 4);
        for address in ["128.0.0.0/32", "0.0.0.0/32", "192.0.0.0/32", "64.0.0.0/32"] {
            let removed = (0..2).find_map(|index| lpm.remove(&mut roots[index], key(address)));
            assert_eq!(removed, Some(round));
        }
        assert_eq!((roots, lpm.len()), ([0, 0], 0));
    }
}

/// A naive model: scan everything.
fn scan(model: &BTreeMap<(u128, u8), u32>, wanted: Key) -> Option<u32> {
    model
        .iter()
        .filter(|((bits, length), _)| {
            *length <= wanted.length && (bits ^ wanted.bits) & mask(*length) == 0
        })
        .max_by_key(|((_, length), _)| *length)
        .map(|(_, value)| *value)
}

/// Prefixes that nest often: few bits set, all lengths.
fn nested_key(family: Family) -> impl Strategy<Value = Key> {
    let longest = match family {
        Family::V4 => 32u8,
        Family::V6 => 128,
    };
    (0u128..16, 0..=longest, any::<bool>()).prop_map(move |(high, length, low)| Key {
        family,
        bits: (high << 124 | u128::from(low) << (128 - u32::from(longest))) & mask(length),
        length,
    })
}

fn check_against_model(family: Family, steps: Vec<(bool, Key, u32)>) {
    let mut fixture = Fixture::<24>::new();
    let mut lpm = fixture.lpm();
    let mut root = 0;
    let mut model = BTreeMap::new();
    for (insert, key, value) in steps {
        let at = (key.bits, key.length);
        if insert {
            if model.len() == 24 && !model.contains_key(&at) {
                assert_eq!(lpm.insert(&mut root, key, value), Err(Full));
            } else {
                assert_eq!(
                    lpm.insert(&mut root, key, value),
                    Ok(model.insert(at, value))
                );
            }
        } else {
            assert_eq!(lpm.remove(&mut root, key), model.remove(&at));
        }
        assert_eq!(usize::try_from(lpm.len()).unwrap(), model.len());
        assert_eq!(lpm.lookup(root, key).copied(), scan(&model, key));
        assert_eq!(lpm.get(root, key), model.get(&at));
        let next = model
            .range((std::ops::Bound::Excluded(at), std::ops::Bound::Unbounded))
            .next();
        let found = lpm
            .next(root, Some(key))
            .map(|(k, v)| ((k.bits, k.length), v));
        assert_eq!(found, next.map(|(k, v)| (*k, *v)));
    }
    let mut listed = Vec::new();
    let mut after = None;
    while let Some((key, value)) = lpm.next(root, after) {
        assert_eq!(key.family, family);
        listed.push(((key.bits, key.length), value));
        after = Some(key);
    }
    assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn matches_a_naive_scan_v4(
        steps in prop::collection::vec((prop::bool::weighted(0.6), nested_key(Family::V4), any::<u32>()), 0..200)
    ) {
        check_against_model(Family::V4, steps);
    }

    #[test]
    fn matches_a_naive_scan_v6(
        steps in prop::collection::vec((prop::bool::weighted(0.6), nested_key(Family::V6), any::<u32>()), 0..200)
    ) {
        check_against_model(Family::V6, steps);
    }
}
