//! Shortcuts of IPv6: leaves beside a scan, and that they are there.

use super::*;

type Routes = BTreeMap<(usize, u128, u8), u32>;

fn scan(routes: &Routes, fib: usize, address: u128) -> u32 {
    let held = routes.iter().filter(|((number, bits, length), _)| {
        *number == fib && prefix(*bits, *length).covers(Prefix::host(address))
    });
    let longest = held.max_by_key(|((_, _, length), _)| *length);
    longest.map_or(0, |(_, value)| *value)
}

/// An address in one of few prefixes of 32 bits, some of which differ before.
fn address(random: &mut Random, holders: u64) -> u128 {
    let holder = 0x2001_0db0 + u128::from(random.below(holders));
    let low = random.wide() & (0xffff_8000_0000_0000_0000_0003 | u128::from(random.next()) << 80);
    holder << 96 | low & (u128::MAX >> 32)
}

fn length(random: &mut Random) -> u8 {
    let usual = [28, 29, 31, 32, 33, 36, 40, 44, 47, 48, 48, 48, 49, 64, 128];
    usual[usize::try_from(random.below(15)).unwrap()]
}

/// Comes and goes at random; returns the most leaves there were.
fn churn<const PAGES: usize>(seed: u64, holders: u64, level: usize) -> u32 {
    let mut storage = boxed::<FibStorage<u32, 2, 400, 65_536, 256, PAGES>>();
    let mut fib = storage.fib();
    let (mut routes, mut random) = (Routes::new(), Random(seed));
    let mut most = 0;
    for step in 0..operations() / 10 {
        let number = usize::try_from(random.below(2)).unwrap();
        if routes.len() < level && random.below(5) > 1 {
            let at = prefix(address(&mut random, holders), length(&mut random));
            let value = 1 + u32::try_from(random.below(9)).unwrap();
            let old = routes.insert((number, at.bits, at.length), value);
            assert_eq!(fib.insert(number, at, value), Ok(old));
        } else if !routes.is_empty() {
            let skip = usize::try_from(random.next()).unwrap() % routes.len();
            let key = *routes.keys().nth(skip).unwrap();
            let at = prefix(key.1, key.2);
            assert_eq!(fib.remove(key.0, at), routes.remove(&key));
        }
        most = most.max(fib.nodes.shortcuts.leaves());
        let count = if step % 16 == 0 { 70 } else { 3 };
        let addresses: Vec<u128> = (0..count).map(|_| address(&mut random, holders)).collect();
        for fib_number in 0..2 {
            let mut codes = std::vec![7; count];
            fib.lookup_batch(fib_number, &addresses, &mut codes);
            for (address, batch) in addresses.iter().zip(codes) {
                let right = scan(&routes, fib_number, *address);
                assert_eq!(
                    fib.lookup(fib_number, *address),
                    right,
                    "{address:x} at {step}"
                );
                assert_eq!(batch, right, "{address:x} at {step} in a batch");
            }
        }
    }
    for (number, bits, length) in routes.into_keys() {
        fib.remove(number, prefix(bits, length)).unwrap();
    }
    assert_eq!(fib.nodes.shortcuts.leaves(), 0);
    fib.nodes.check_empty();
    most
}

#[test]
fn leaves_come_and_go_with_their_prefixes() {
    assert!(
        churn::<1000>(1, 16, 150) >= 20,
        "two FIBs with 16 leaves each"
    );
    assert!(
        churn::<1000>(2, 2, 60) >= 2,
        "long leaves, and too many runs for them"
    );
}

#[test]
fn lookups_are_right_where_leaves_find_no_room() {
    // A bucket for 8 of 32 leaves, and hardly any memory.
    assert!(churn::<1>(3, 16, 150) <= 8);
    churn::<3>(4, 16, 150);
}

#[test]
fn leaves_answer_for_what_they_can_hold() {
    let mut storage = boxed::<FibStorage<u32, 1, 400, 65_536, 256, 100>>();
    let mut fib = storage.fib();
    let of_leaf = |fib: &Fib<'_, u32>, text: &str| {
        let address = v6(text).bits;
        assert_eq!(
            fib.nodes.shortcuts.find(fib.nodes.pages.bytes, 1, address),
            0
        );
        fib.nodes.shortcuts.find(fib.nodes.pages.bytes, 0, address)
    };
    fib.insert(0, v6("2001:db8::/31"), 9).unwrap();
    assert!(!fib.nodes.shortcuts.any(), "nothing of 32 bits");
    fib.insert(0, v6("2001:db8:1::/48"), 1).unwrap();
    fib.insert(0, v6("2001:db8:8000::/33"), 2).unwrap();
    fib.insert(0, v6("2001:db8:8001:1::/64"), 3).unwrap();
    assert_eq!(of_leaf(&fib, "2001:db8:1:2::/128"), 1);
    assert_eq!(of_leaf(&fib, "2001:db8:ffff::/128"), 2);
    assert_eq!(
        of_leaf(&fib, "2001:db8:8001::/128"),
        0,
        "longer ones are there"
    );
    assert_eq!(
        of_leaf(&fib, "2001:db8:2::/128"),
        0,
        "what is shorter is not"
    );
    assert_eq!(fib.lookup(0, v6("2001:db8:2::/128").bits), 9);
    for number in 0..13u128 {
        let at = prefix(v6("2001:db8::/32").bits | (2 * number + 5) << 80, 48);
        fib.insert(0, at, 4).unwrap();
    }
    assert_eq!(of_leaf(&fib, "2001:db8:5::/128"), 4);
    let number = |number: u128| prefix(v6("2001:db8::/32").bits | (2 * number + 5) << 80, 48);
    fib.insert(0, number(13), 4).unwrap();
    assert!(!fib.nodes.shortcuts.any(), "more runs than a leaf has");
    fib.remove(0, number(3)).unwrap();
    assert_eq!(of_leaf(&fib, "2001:db8:1:2::/128"), 1);
}
