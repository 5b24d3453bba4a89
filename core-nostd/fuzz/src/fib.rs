//! Routes come and go in a FIB so small that it is soon full; what it finds is what
//! a scan of all routes finds.

use std::cell::RefCell;
use std::collections::BTreeMap;

use culvert_core::fib::{Address, FibStorage, Full, Prefix};
use zerocopy::FromZeros;

use crate::Reader;

/// FIBs in one storage.
const FIBS: usize = 2;
const ROUTES: usize = 24;
/// With hardly a lookup structure, so that it is soon pressed.
type Pressed = FibStorage<u32, FIBS, ROUTES, 1, 1, 1>;
/// With one that suffices, and the roots of a host.
type Roomy = FibStorage<u32, FIBS, ROUTES, 65_536, 256, 8>;

/// Routes by number of the FIB, address and length.
type Model<B> = BTreeMap<(usize, B, u8), u32>;

/// Addresses of one family.
trait Family: Address + Ord + std::fmt::Debug {
    fn from_bits(bits: u128) -> Self;
    fn to_bits(self) -> u128;
}

impl Family for u32 {
    fn from_bits(bits: u128) -> Self {
        u32::try_from(bits >> 96).expect("32 bits")
    }
    fn to_bits(self) -> u128 {
        u128::from(self) << 96
    }
}

impl Family for u128 {
    fn from_bits(bits: u128) -> Self {
        bits
    }
    fn to_bits(self) -> u128 {
        self
    }
}

thread_local! {
    // Made once: glibc before 2.38 leaves a hole behind an aligned allocation that the
    // next one does not fit into when something small took a part of it, and a megabyte
    // an input then adds up to the limit.
    static PRESSED: RefCell<Box<Pressed>> = RefCell::new(zeroed());
    static ROOMY: RefCell<Box<Roomy>> = RefCell::new(zeroed());
}

fn zeroed<T: FromZeros>() -> Box<T> {
    T::new_box_zeroed().expect("memory")
}

/// Follows one history.
pub fn run(data: &[u8]) {
    let mut reader = Reader::new(data);
    match reader.flag() {
        false => PRESSED.with_borrow_mut(|storage| {
            storage.zero();
            follow(storage.as_mut().fib(), &mut reader);
        }),
        true => ROOMY.with_borrow_mut(|storage| {
            storage.zero();
            follow(storage.as_mut().fib(), &mut reader);
        }),
    }
}

fn follow(mut fib: culvert_core::fib::Fib<'_, u32>, reader: &mut Reader<'_>) {
    let (mut four, mut six) = (Model::<u32>::new(), Model::<u128>::new());
    while !reader.is_empty() {
        let used = four.len() + six.len();
        match reader.flag() {
            false => step(&mut fib, &mut four, used, reader),
            true => step(&mut fib, &mut six, used, reader),
        }
        assert_eq!(usize::try_from(fib.len()), Ok(four.len() + six.len()));
    }
    check_order(&fib, &four);
    check_order(&fib, &six);
    empty(&mut fib, four);
    empty(&mut fib, six);
    assert!(fib.is_empty());
}

/// One change, and lookups around it.
fn step<B: Family>(
    fib: &mut culvert_core::fib::Fib<'_, u32>,
    model: &mut Model<B>,
    used: usize,
    reader: &mut Reader<'_>,
) {
    let number = reader.below(FIBS);
    let action = reader.below(8);
    let address = address(reader);
    let length = reader.u8() % (B::WIDTH + 1);
    let bits = B::from_bits(truncate(address, length));
    let key = (number, bits, length);
    let at = Prefix { bits, length };
    match action {
        0..4 => {
            // Few values, so that neighbours often have the same.
            let value = 1 + u32::from(reader.u8() % 5);
            let expected = match used == ROUTES && !model.contains_key(&key) {
                true => Err(Full),
                false => Ok(model.insert(key, value)),
            };
            assert_eq!(fib.insert(number, at, value), expected);
        }
        4 => assert_eq!(fib.remove(number, at), model.remove(&key)),
        5 => {
            // One that is there.
            let place = reader.below(ROUTES);
            if let Some(key) = model.keys().cycle().nth(place).copied() {
                let (number, bits, length) = key;
                let at = Prefix { bits, length };
                assert_eq!(fib.remove(number, at), model.remove(&key));
            }
        }
        6 => fib.heal(reader.u8().into()),
        _ => {}
    }
    assert_eq!(fib.get(number, at), model.get(&key));
    let last = address | u128::MAX.checked_shr(length.into()).unwrap_or(0);
    let addresses = [
        address,
        truncate(address, length),
        last,
        self::address(reader),
    ];
    let addresses = addresses.map(|bits| B::from_bits(truncate(bits, B::WIDTH)));
    let mut found = [0; 4];
    fib.lookup_batch(number, &addresses, &mut found);
    for (address, batch) in addresses.into_iter().zip(found) {
        let single = fib.lookup(number, address);
        assert_eq!(single, batch, "one by one, and in a batch");
        assert_eq!(single, scan(model, number, address), "{address:x?}");
    }
}

/// Addresses near each other, so that prefixes nest.
fn address(reader: &mut Reader<'_>) -> u128 {
    let bases = [
        0,
        u128::MAX,
        0x0af4_0102_0304_0506_0708_090a_0b0c_0d0e,
        1 << 97,
    ];
    let mut bits = reader.pick(&bases);
    for _ in 0..reader.below(4) {
        bits ^= 1 << (reader.u8() % 128);
    }
    bits
}

fn truncate(bits: u128, length: u8) -> u128 {
    let rest = u128::MAX.checked_shr(length.into()).unwrap_or(0);
    bits & !rest
}

/// What the longest prefix says, or 0.
fn scan<B: Family>(model: &Model<B>, fib: usize, address: B) -> u32 {
    let covers = |bits: B, length| truncate(address.to_bits(), length) == bits.to_bits();
    let covering = model
        .iter()
        .filter(|((number, bits, length), _)| *number == fib && covers(*bits, *length));
    let longest = covering.max_by_key(|((_, _, length), _)| *length);
    longest.map_or(0, |(_, value)| *value)
}

/// All prefixes can be read in order.
fn check_order<B: Family>(fib: &culvert_core::fib::Fib<'_, u32>, model: &Model<B>) {
    for number in 0..FIBS {
        let mut after = None;
        for ((_, bits, length), value) in model.iter().filter(|((n, ..), _)| *n == number) {
            let at = Prefix {
                bits: *bits,
                length: *length,
            };
            assert_eq!(fib.next(number, after), Some((at, *value)));
            after = Some(at);
        }
        assert_eq!(fib.next(number, after), None);
    }
}

fn empty<B: Family>(fib: &mut culvert_core::fib::Fib<'_, u32>, mut model: Model<B>) {
    while let Some(((number, bits, length), value)) = model.pop_last() {
        assert_eq!(fib.remove(number, Prefix { bits, length }), Some(value));
        assert_eq!(fib.lookup(number, bits), scan(&model, number, bits));
    }
}
