//! Random operations beside a list that is scanned.

use super::*;

type Model<B> = BTreeMap<(usize, B, u8), u32>;

fn scan<B: Bits>(model: &Model<B>, fib: usize, address: B) -> u32 {
    model
        .iter()
        .filter(|((number, bits, length), _)| {
            *number == fib && prefix(*bits, *length).covers(Prefix::host(address))
        })
        .max_by_key(|((_, _, length), _)| *length)
        .map_or(0, |(_, value)| *value)
}

/// Addresses that differ at random places from one of few, so that prefixes nest.
fn address<B: Bits>(random: &mut Random) -> B {
    let bases = [
        0u128,
        !0,
        0x0af4_0102_0304_0506_0708_090a_0b0c_0d0e,
        1 << 97,
    ];
    let mut bits = bases[usize::try_from(random.below(4)).unwrap()];
    for _ in 0..random.below(3) {
        bits ^= 1 << (127 - random.below(u64::from(B::WIDTH)));
    }
    if random.below(4) == 0 {
        let keep = random.below(u64::from(B::WIDTH));
        bits ^= random
            .wide()
            .checked_shr(u32::try_from(keep).unwrap())
            .unwrap_or(0);
    }
    B::from_wide(if B::WIDTH == 32 {
        bits >> 96 << 96
    } else {
        bits
    })
}

fn length<B: Bits>(random: &mut Random) -> u8 {
    let usual = [0, 1, 8, 9, 15, 16, 17, 23, 24, 25, 26, 27, 30, 31, 32];
    if random.below(2) == 0 {
        let at = usize::try_from(random.below(15)).unwrap();
        let step = if B::WIDTH == 128 {
            random.below(4) * 32
        } else {
            0
        };
        (usual[at] + u8::try_from(step).unwrap()).min(B::WIDTH)
    } else {
        u8::try_from(random.below(u64::from(B::WIDTH) + 1)).unwrap()
    }
}

/// Does random operations that keep about `level` entries, and looks up around each.
fn churn<B: Address + core::fmt::Debug>(
    fib: &mut Fib<'_, u32>,
    model: &mut Model<B>,
    random: &mut Random,
    (count, level): (u64, usize),
) {
    let fibs = 2;
    for step in 0..count {
        let number = usize::try_from(random.below(fibs)).unwrap();
        let known = !model.is_empty() && random.below(2) == 0;
        let (number, at) = if known {
            let skip = usize::try_from(random.next()).unwrap() % model.len();
            let (number, bits, length) = *model.keys().nth(skip).unwrap();
            (number, prefix(bits, length))
        } else {
            (number, prefix(address(random), length::<B>(random)))
        };
        let grows = model.len() < level / 2 || random.below(100) < 48 && model.len() < level;
        let key = (number, at.bits, at.length);
        if grows {
            // Few values, so that neighbours often have the same.
            let value = 1 + u32::try_from(random.below(5)).unwrap();
            let full = fib.room() == 0 && !model.contains_key(&key);
            let expected = if full {
                Err(Full)
            } else {
                Ok(model.insert(key, value))
            };
            assert_eq!(
                fib.insert(number, at, value),
                expected,
                "step {step} {at:?}"
            );
        } else {
            assert_eq!(
                fib.remove(number, at),
                model.remove(&key),
                "step {step} {at:?}"
            );
        }
        assert_eq!(fib.get(number, at), model.get(&key));
        let last = B::from_wide(
            at.bits.wide() | !crate::addr::mask(at.length) >> (128 - B::WIDTH) << (128 - B::WIDTH),
        );
        let (inside, other) = (address(random), address(random));
        let addresses = [at.bits, last, inside, other];
        let mut codes = [0; 4];
        fib.lookup_batch(number, &addresses, &mut codes);
        for (address, batch) in addresses.into_iter().zip(codes) {
            let found = fib.lookup(number, address);
            assert_eq!(found, batch);
            assert_eq!(
                found,
                scan(model, number, address),
                "step {step}: {address:?} after {at:?}"
            );
        }
        if step % 64 == 0 {
            let next = model
                .range((core::ops::Bound::Excluded(key), core::ops::Bound::Unbounded))
                .next();
            let next = next.filter(|((n, ..), _)| *n == number);
            let found = fib
                .next(number, Some(at))
                .map(|(p, v)| ((number, p.bits, p.length), v));
            assert_eq!(found, next.map(|(k, v)| (*k, *v)));
        }
        if step % 1024 == 0 {
            check_order(fib, model);
        }
    }
}

fn check_order<B: Address + core::fmt::Debug>(fib: &Fib<'_, u32>, model: &Model<B>) {
    for number in 0..2 {
        let expected: Vec<_> = model
            .iter()
            .filter(|((n, ..), _)| *n == number)
            .map(|((_, bits, length), value)| (prefix(*bits, *length), *value))
            .collect();
        assert_eq!(all::<B>(fib, number), expected);
    }
}

/// Takes out everything in one of several orders and expects nothing to be left.
fn empty<B: Address>(
    fib: &mut Fib<'_, u32>,
    model: &mut Model<B>,
    random: &mut Random,
    order: u64,
) {
    while !model.is_empty() {
        let key = match order % 4 {
            0 => *model.keys().next().unwrap(),
            1 => *model.keys().next_back().unwrap(),
            2 => *model.keys().max_by_key(|(_, _, length)| *length).unwrap(),
            _ => {
                let skip = usize::try_from(random.next()).unwrap() % model.len();
                *model.keys().nth(skip).unwrap()
            }
        };
        let (number, bits, length) = key;
        assert_eq!(fib.remove(number, prefix(bits, length)), model.remove(&key));
        let address = address(random);
        assert_eq!(fib.lookup(number, address), scan(model, number, address));
    }
}

/// Both families in turn, filled and emptied again and again.
fn rounds<const ROUTES: usize, const ROOT: usize, const SHORT: usize, const PAGES: usize>(
    seed: u64,
    levels: &[usize],
) {
    let mut storage = boxed::<FibStorage<u32, 2, ROUTES, ROOT, SHORT, PAGES>>();
    let mut fib = storage.fib();
    let mut random = Random(seed);
    let mut left = operations();
    let mut round = 0;
    while left > 0 {
        let level = levels[round % levels.len()];
        let count = left.min(u64::try_from(level).unwrap() * 50);
        let order = random.next();
        // The first half stays while the second comes and goes.
        let (mut four, mut six) = (Model::<u32>::new(), Model::<u128>::new());
        churn(&mut fib, &mut four, &mut random, (count / 2, level));
        churn(&mut fib, &mut six, &mut random, (count / 2, level));
        empty(&mut fib, &mut four, &mut random, order);
        empty(&mut fib, &mut six, &mut random, order >> 8);
        assert!(fib.is_empty());
        fib.nodes.check_empty();
        left -= count;
        round += 1;
    }
}

#[test]
fn tiny_matches_a_naive_scan() {
    rounds::<64, 1, 1, 3>(1, &[4, 16, 64, 64]);
}

#[test]
fn a_store_with_hardly_a_lookup_structure_matches_a_naive_scan() {
    rounds::<300, 1, 1, 1>(2, &[10, 150, 150]);
}

#[test]
fn nodes_that_find_no_room_match_a_naive_scan() {
    rounds::<400, 65_536, 1024, 100>(3, &[10, 40, 200, 200]);
}

#[test]
fn the_hosts_strides_match_a_naive_scan() {
    rounds::<400, 65_536, 256, 1000>(4, &[10, 40, 200, 200]);
}
