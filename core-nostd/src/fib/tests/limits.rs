//! Full tables, fragmentation, and sets made to need the most memory.

use super::*;

type Tiny = TinyFib<u32>;

/// Distinct long prefixes that share as little as they can.
fn spread(number: u32) -> u32 {
    number.reverse_bits()
}

#[test]
fn the_longest_prefix_wins() {
    let mut storage = boxed::<Tiny>();
    let mut fib = storage.fib();
    for (value, text) in (1..).zip(["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"]) {
        assert_eq!(fib.insert(0, v4(text), value), Ok(None));
    }
    let look = |text: &str| fib.lookup(0, v4(text).bits);
    assert_eq!(look("10.1.2.3/32"), 4);
    assert_eq!(look("10.1.2.4/32"), 3);
    assert_eq!(look("10.2.2.4/32"), 2);
    assert_eq!(look("11.2.2.4/32"), 1);
    assert_eq!(fib.lookup(1, v4("10.1.2.3/32").bits), 0, "another FIB");
    assert_eq!(fib.lookup(0, v6("a01:203::/128").bits), 0, "another family");
    assert_eq!(fib.lookup(7, 0u32), 0, "no such FIB");
}

#[test]
fn an_address_that_leaves_a_skipped_stretch_gets_what_covers_it() {
    let mut storage = boxed::<ApplianceFib<u32>>();
    let mut fib = storage.fib();
    let texts = [
        "fd00::/18",
        "fd00::/96",
        "fd00::1:2:3:4/128",
        "fd00::1:2:3:5/128",
    ];
    for (value, text) in (1..).zip(texts) {
        assert_eq!(fib.insert(0, v6(text), value), Ok(None));
    }
    assert_eq!(fib.lookup(0, v6("fd00::1:2:3:5/128").bits), 4);
    assert_eq!(fib.lookup(0, v6("fd00::1:2:3:6/128").bits), 1);
    assert_eq!(fib.lookup(0, v6("fd00::9/128").bits), 2);
    assert_eq!(fib.lookup(0, v6("fd00:1::9/128").bits), 1);
    assert_eq!(fib.lookup(0, v6("fe00::9/128").bits), 0);
}

#[test]
fn a_full_table_refuses_and_changes_nothing() {
    let mut storage = boxed::<Tiny>();
    let mut fib = storage.fib();
    // The families share the capacity.
    for number in 0..32 {
        assert_eq!(fib.insert(0, Prefix::host(spread(number)), 1), Ok(None));
        let six = Prefix::host(u128::from(spread(number)) << 96);
        assert_eq!(fib.insert(1, six, 2), Ok(None));
    }
    assert_eq!((fib.len(), fib.room(), fib.capacity()), (64, 0, 64));
    let (four, six) = (all::<u32>(&fib, 0), all::<u128>(&fib, 1));
    assert_eq!(fib.insert(0, v4("1.2.3.0/24"), 9), Err(Full));
    assert_eq!(fib.insert(1, v6("::/0"), 9), Err(Full));
    assert_eq!((all::<u32>(&fib, 0), all::<u128>(&fib, 1)), (four, six));
    assert_eq!(fib.lookup(0, v4("1.2.3.4/32").bits), 0);
    assert_eq!(fib.lookup(1, 1u128), 0);
    assert_eq!(fib.insert(0, Prefix::host(spread(5)), 7), Ok(Some(1)));
    assert_eq!(fib.remove(0, Prefix::host(spread(6))), Some(1));
    assert_eq!(fib.insert(0, v4("1.2.3.0/24"), 9), Ok(None));
    assert_eq!(fib.lookup(0, v4("1.2.3.4/32").bits), 9);
}

#[test]
fn there_is_no_such_fib_behind_the_last() {
    let mut storage = boxed::<Tiny>();
    let mut fib = storage.fib();
    assert_eq!(fib.insert(2, v4("0.0.0.0/0"), 1), Err(Full));
    assert_eq!(fib.remove(2, v4("0.0.0.0/0")), None);
    assert!(fib.is_empty() && fib.next::<u32>(2, None).is_none());
}

#[test]
fn a_batch_answers_as_its_addresses_alone() {
    fn check<B: Address>(routes: u64) {
        let mut storage = boxed::<FibStorage<u32, 1, 500, 65_536, 256, 200>>();
        let mut fib = storage.fib();
        let mut random = Random(routes);
        // Few different bits, so that prefixes nest and parts are skipped.
        let mut address = || {
            let bits = random.wide() & 0x0303_0101_0003_0000_0101_0000_0100_0003;
            let bits = (0x2001 << 112) ^ bits ^ (bits << 96);
            (
                B::from_wide(bits >> (128 - B::WIDTH) << (128 - B::WIDTH)),
                random.next(),
            )
        };
        for value in 1..=u32::try_from(routes).unwrap() {
            let (bits, draw) = address();
            let length = u8::try_from(draw % (u64::from(B::WIDTH) + 1)).unwrap();
            fib.insert(0, prefix(bits, length), value).unwrap();
        }
        let addresses: Vec<B> = (0..1000).map(|_| address().0).collect();
        for count in [0, 1, 63, 64, 65, 1000] {
            let mut codes = std::vec![7; count];
            fib.lookup_batch(0, &addresses[..count], &mut codes);
            let alone = addresses[..count].iter().map(|at| fib.lookup(0, *at));
            assert_eq!(codes, alone.collect::<Vec<_>>());
        }
        // The shorter slice says how many.
        let mut whole = [0; 100];
        fib.lookup_batch(0, &addresses[..100], &mut whole);
        for count in [0, 1, 64, 70] {
            let mut fewer = std::vec![7; count];
            fib.lookup_batch(0, &addresses, &mut fewer);
            assert_eq!(fewer, whole[..count]);
            let mut more = [7; 100];
            fib.lookup_batch(0, &addresses[..count], &mut more);
            assert_eq!(more[..count], whole[..count]);
            assert!(more[count..].iter().all(|code| *code == 7));
        }
    }
    for routes in [0, 1, 10, 400] {
        check::<u32>(routes);
        check::<u128>(routes);
    }
}

#[test]
fn a_value_can_be_changed_in_place() {
    #[derive(Clone, Copy, PartialEq, Debug, FromZeros, Immutable)]
    struct Marked {
        code: u16,
        generation: u8,
    }
    impl Value for Marked {
        fn code(&self) -> u16 {
            self.code
        }
    }
    let mut storage = boxed::<TinyFib<Marked>>();
    let mut fib = storage.fib();
    let at = v4("10.0.0.0/8");
    fib.insert(
        0,
        at,
        Marked {
            code: 3,
            generation: 0,
        },
    )
    .unwrap();
    fib.get_mut(0, at).unwrap().generation = 9;
    assert_eq!(fib.get(0, at).unwrap().generation, 9);
    assert_eq!(fib.lookup(0, at.bits), 3);
    assert!(fib.get_mut(0, v4("10.0.0.0/9")).is_none());
}

/// Fills a table to its last entry with what needs the most nodes, over and over,
/// in orders that leave holes of every kind.
fn fill_and_churn<const ROUTES: usize, const PAGES: usize>(length: u8) {
    let mut storage = boxed::<FibStorage<u32, 1, ROUTES, 65_536, 256, PAGES>>();
    let mut fib = storage.fib();
    let mut random = Random(11);
    let count = u32::try_from(ROUTES).unwrap();
    let at = |number: u32| prefix(spread(number) ^ number << 3, length);
    for round in 1..4 {
        for number in 0..count {
            let value = 1 + (number ^ round) % 250;
            assert_eq!(fib.insert(0, at(number), value), Ok(None), "{number}");
        }
        assert_eq!(fib.room(), 0);
        for number in 0..count {
            let found = fib.lookup(0, at(number).bits);
            assert_eq!(found, 1 + (number ^ round) % 250, "{number}");
        }
        // Half of them go, each second, then what is left in random order.
        for number in (0..count).step_by(2) {
            assert!(fib.remove(0, at(number)).is_some());
        }
        let mut left: Vec<u32> = (0..count).skip(1).step_by(2).collect();
        while !left.is_empty() {
            let number = left.swap_remove(usize::try_from(random.next()).unwrap() % left.len());
            assert!(fib.remove(0, at(number)).is_some());
            assert_eq!(fib.lookup(0, at(number).bits), 0);
        }
        fib.nodes.check_empty();
    }
}

#[test]
fn capacity_is_promised_whatever_the_lookup_structure_needs() {
    // Each of these needs a group and blocks of its own: there is not nearly room.
    fill_and_churn::<5000, 16>(32);
    fill_and_churn::<5000, 16>(26);
    // And here there is.
    fill_and_churn::<5000, 800>(32);
}

#[test]
fn what_found_no_room_gets_it_when_there_is_some() {
    let mut storage = boxed::<FibStorage<u32, 1, 4000, 65_536, 256, 16>>();
    let mut fib = storage.fib();
    let at = |number: u32| prefix(spread(number), 24);
    for number in 0..4000 {
        assert_eq!(fib.insert(0, at(number), 1 + number % 250), Ok(None));
    }
    assert!(fib.usage().pressed);
    for number in 20..4000 {
        fib.remove(0, at(number));
    }
    fib.heal(u32::MAX);
    assert!(!fib.usage().pressed, "room, but still pressed");
    let before = steps::so_far();
    for number in 0..20 {
        assert_eq!(fib.lookup(0, at(number).bits), 1 + number % 250);
    }
    // Each is alone behind its slot, so the store is asked for that one.
    assert!(
        steps::so_far() - before <= 20 * 4,
        "still from the store's root"
    );
}

#[test]
fn what_found_no_room_gets_it_in_one_of_many_fibs() {
    // So many that the ends of FIBs outnumber the routes that are left.
    let mut storage = boxed::<FibStorage<u32, 255, 600, 1, 1, 2>>();
    let mut fib = storage.fib();
    let at = |number: u32| prefix((0x0a00_0000 + (number << 20)) ^ (number << 9), 26);
    let beside = |number: u32| prefix(at(number).bits | 0x40, 26);
    for number in 0..200 {
        fib.insert(7, at(number), 1 + number % 3).unwrap();
        fib.insert(7, beside(number), 4 + number % 3).unwrap();
    }
    assert!(fib.usage().pressed);
    for number in 4..200 {
        fib.remove(7, at(number));
        fib.remove(7, beside(number));
    }
    for _ in 0..4 {
        fib.heal(u32::MAX);
    }
    assert!(!fib.usage().pressed);
    let before = steps::so_far();
    for number in 0..4 {
        assert_eq!(fib.lookup(7, at(number).bits), 1 + number % 3);
    }
    assert!(steps::so_far() - before <= 4 * 4, "still from the store");
}

#[test]
fn bits_behind_a_prefixs_length_do_not_count() {
    let mut storage = boxed::<Tiny>();
    let mut fib = storage.fib();
    let untidy = Prefix {
        bits: v4("10.1.2.3/32").bits,
        length: 8,
    };
    fib.insert(0, untidy, 5).unwrap();
    assert_eq!(fib.get(0, untidy), Some(&5));
    assert_eq!(fib.next(0, None), Some((v4("10.0.0.0/8"), 5)));
    assert_eq!(fib.next(0, Some(untidy)), None);
    assert_eq!(fib.lookup(usize::MAX, 1u32), 0, "no such FIB");
    assert_eq!(fib.lookup(1 << 48, v4("10.1.2.3/32").bits), 0, "nor this");
    assert_eq!(fib.lookup(usize::MAX, 1u128), 0);
    assert_eq!(fib.remove(0, untidy), Some(5));
}

#[test]
fn moving_blocks_out_of_sparse_pages_makes_room() {
    // Room for 40 large nodes (a header and 512 bytes, two in a page) and 66 small ones
    // (32 bytes, 36 in a page), but not for large ones beside 22 pages that each have
    // a few small ones.
    let mut storage = boxed::<FibStorage<u32, 1, 12_000, 65_536, 256, 23>>();
    let mut fib = storage.fib();
    let small = |number: u32| prefix(0x2000_0000 + (number << 16), 24);
    for number in 0..36 * 22 {
        fib.insert(0, small(number), 1 + number % 2).unwrap();
    }
    assert_eq!(fib.nodes.pages.in_use(), 22);
    for number in (0..36 * 22).filter(|number| number % 12 != 0) {
        fib.remove(0, small(number)).unwrap();
    }
    assert_eq!(fib.nodes.pages.in_use(), 22);
    let large = |number: u32| 0x0400_0000 + (number << 8);
    for number in 0..256 * 40 {
        let at = prefix(large(number), 24);
        fib.insert(0, at, 1 + number % 200).unwrap();
    }
    // A round that finds room in the end, and one that finds nothing more to do.
    for _ in 0..4 {
        fib.heal(u32::MAX);
    }
    let pages = fib.nodes.pages.in_use();
    assert!(!fib.usage().pressed, "no room, {pages} pages in use");
    assert_eq!(pages, 22, "20 of large nodes and 2 of small ones");
    for number in 0..256 * 40 {
        assert_eq!(fib.lookup(0, large(number)), 1 + number % 200);
    }
}

#[test]
fn sizes_are_known_and_stay_within_their_targets() {
    let sizes = [
        ("Tiny", size_of::<TinyFib<u64>>(), 16 << 10),
        ("Appliance", size_of::<ApplianceFib<u64>>(), 14 << 20),
        ("Host", size_of::<HostFib<u64>>(), 112 << 20),
    ];
    for (name, bytes, limit) in sizes {
        std::println!("{name}: {bytes} bytes");
        assert!(bytes <= limit, "{name} has grown to {bytes} bytes");
    }
    // An IPv4 prefix with a value of eight bytes.
    #[derive(Clone, Copy, FromZeros, Immutable)]
    struct Route([u16; 4]);
    assert!(size_of::<Entry<u32, Route>>() + size_of::<Fork>() <= 24);
}
