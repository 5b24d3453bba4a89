//! Bounded work: places in memory that operations visit, on sets made to be the worst.

use super::*;

/// Nodes, what they skip, and forks that one lookup may visit: a node for each
/// byte behind the root's, and the store's forks twice.
const LOOKUP_V4: u64 = 3 * 2 + 2 * 66;
const LOOKUP_V6: u64 = 15 * 2 + 2 * 258;
/// Places that one update may visit: what goes on behind each of 128 slots, which is
/// some twenty forks and entries; no node for several prefixes is made but on the way to
/// the prefix, else it would be a hundred times as many.
const UPDATE: u64 = 6_000;

struct Worst {
    lookup: u64,
    update: u64,
}

fn counted<T>(worst: &mut u64, run: impl FnOnce() -> T) -> T {
    let before = steps::so_far();
    let result = run();
    *worst = (*worst).max(steps::so_far() - before);
    result
}

fn churn<B: Address>(fib: &mut Fib<'_, u32>, set: &[Prefix<B>], probes: &[Prefix<B>]) -> Worst {
    let mut worst = Worst {
        lookup: 0,
        update: 0,
    };
    let mut random = Random(3);
    for at in set {
        let value = 1 + u32::try_from(random.below(200)).unwrap();
        counted(&mut worst.update, || fib.insert(0, *at, value)).unwrap();
    }
    for at in probes {
        for value in [1000, 1001] {
            counted(&mut worst.update, || fib.insert(0, *at, value)).unwrap();
        }
        counted(&mut worst.update, || fib.remove(0, *at));
    }
    for at in set {
        for bit in 0..B::WIDTH {
            let address = B::from_wide(at.bits.wide() ^ 1 << (127 - bit));
            counted(&mut worst.lookup, || fib.lookup(0, address));
        }
    }
    for at in set {
        counted(&mut worst.update, || fib.remove(0, *at));
    }
    worst
}

/// A chain of all lengths, each with a neighbour that parts from it at its last bit:
/// the deepest trie that there is.
fn ladder<B: Bits>(address: u128) -> Vec<Prefix<B>> {
    let lengths = 0..=B::WIDTH;
    let at = |length| {
        prefix(
            B::from_wide(address >> (128 - B::WIDTH) << (128 - B::WIDTH)),
            length,
        )
    };
    let beside = (1..=B::WIDTH).map(move |length| {
        let bits = at(length).bits.wide() ^ 1 << (128 - length);
        prefix(B::from_wide(bits), length)
    });
    lengths.map(at).chain(beside).collect()
}

/// So many slots of each of the strides that a short prefix covers, with longer ones
/// behind.
fn dense(strides: u32, slots: u32) -> Vec<Prefix<u32>> {
    let mut set = Vec::new();
    for number in 0..strides * slots {
        let base = 0x0a00_0000 + ((number / slots) << 16) + ((number % slots) << 8);
        set.push(prefix(base, 24));
        set.push(prefix(base | 0x11, 32));
        set.push(prefix(base | 0x91, 31));
    }
    set
}

fn probes<B: Bits>(address: u128) -> Vec<Prefix<B>> {
    let at = |length| prefix(B::from_wide(address), length);
    (0..=B::WIDTH).map(at).collect()
}

/// Behind each slot of a node prefixes of all lengths, of which the first is the
/// deepest in the store; and then what covers half of the slots, or none.
fn leaning<B: Address>(fib: &mut Fib<'_, u32>, top: u128, depth: u8) -> u64 {
    let mut worst = 0;
    let mut set = Vec::new();
    for slot in 0..256u128 {
        let base = top | slot << (120 - depth);
        set.push(prefix(B::from_wide(base), B::WIDTH));
        let beside = |length| prefix(B::from_wide(base | 1u128 << (128 - length)), length);
        set.extend((depth + 9..=B::WIDTH).map(beside));
    }
    for at in &set {
        counted(&mut worst, || fib.insert(0, *at, 1)).unwrap();
    }
    for length in [depth + 1, depth + 2, depth + 7] {
        let at = prefix(B::from_wide(top), length);
        for value in [100, 101] {
            counted(&mut worst, || fib.insert(0, at, value)).unwrap();
        }
        counted(&mut worst, || fib.remove(0, at));
    }
    for at in &set {
        counted(&mut worst, || fib.remove(0, *at));
    }
    worst
}

#[test]
fn updates_of_nodes_with_deep_tries_behind_them_visit_as_few() {
    fn sets<const ROOT: usize, const SHORT: usize, const PAGES: usize>() {
        let mut storage = boxed::<FibStorage<u32, 1, 32_000, ROOT, SHORT, PAGES>>();
        let mut fib = storage.fib();
        let (top, depth) = if ROOT == 1 {
            (0, 0)
        } else {
            (0x2001 << 112, 16)
        };
        let four = leaning::<u32>(&mut fib, top, depth);
        let six = leaning::<u128>(&mut fib, top, depth);
        std::println!("{ROOT} roots, {PAGES} pages: updates visit at most {four} and {six}");
        assert!(four.max(six) <= UPDATE);
    }
    sets::<65_536, 256, 2000>();
    sets::<65_536, 256, 3>();
    sets::<1, 1, 2000>();
    sets::<1, 1, 8>();
}

#[test]
fn lookups_and_updates_visit_a_bounded_number_of_places() {
    fn sets<const ROOT: usize, const SHORT: usize, const PAGES: usize>() {
        let mut storage = boxed::<FibStorage<u32, 1, 20_000, ROOT, SHORT, PAGES>>();
        let mut fib = storage.fib();
        let address = 0x0a00_0000 << 96;
        let v4_probes = probes::<u32>(address);
        let four = churn(&mut fib, &ladder::<u32>(address), &v4_probes);
        let packed = churn(&mut fib, &dense(8, 256), &v4_probes);
        let wide = churn(&mut fib, &dense(128, 50), &v4_probes);
        let long = address | 0x0123_4567_89ab_cdef;
        let six = churn(&mut fib, &ladder::<u128>(long), &probes::<u128>(address));
        let lookup_v4 = four.lookup.max(packed.lookup).max(wide.lookup);
        let lookup_v6 = six.lookup;
        let updates = [four.update, packed.update, wide.update, six.update];
        std::println!(
            "{ROOT} roots, {PAGES} pages: lookups visit at most {lookup_v4} and {lookup_v6} \
             places, updates {updates:?}"
        );
        assert!(lookup_v4 <= LOOKUP_V4 && lookup_v6 <= LOOKUP_V6);
        assert!(updates.iter().all(|update| *update <= UPDATE));
    }
    sets::<65_536, 256, 2000>();
    sets::<65_536, 256, 3>();
    sets::<1, 1, 2000>();
    sets::<1, 1, 1>();
}
