//! What is measured of a candidate, and culvert's own FIB as one.

use std::hint::black_box;

use culvert_core::fib::{Fib, FibStorage, Prefix};
use zerocopy::FromZeros;

use crate::routes::{Key, Route};

/// Keys that a staged form takes together.
pub const BATCH: usize = 64;

/// A static table.
pub trait Candidate<K: Key> {
    fn name(&self) -> &'static str;

    /// Bits of a next hop in it.
    fn hop_bits(&self) -> u32 {
        16
    }

    /// Bytes that lookups can touch.
    fn bytes(&self) -> usize;

    fn one(&self, key: K) -> u32;

    /// One key after the other; the processor overlaps what it can.
    fn many(&self, keys: &[K], answers: &mut [u32]) {
        for (key, answer) in keys.iter().zip(answers) {
            *answer = self.one(*key);
        }
    }

    /// Whether [`Candidate::staged_batch`] is written.
    fn is_staged(&self) -> bool {
        false
    }

    /// At most [`BATCH`] keys that take each step together.
    fn staged_batch(&self, _keys: &[K], _answers: &mut [u32]) {}

    /// All keys in batches.
    fn staged(&self, keys: &[K], answers: &mut [u32]) {
        for (keys, answers) in keys.chunks(BATCH).zip(answers.chunks_mut(BATCH)) {
            self.staged_batch(keys, answers);
        }
    }

    /// Each key waits for the answer before.
    fn chain(&self, keys: &[K]) -> u32 {
        let zero = black_box(0);
        keys.iter()
            .fold(0, |last, key| self.one(key.after(last, zero)))
    }
}

/// Bytes of a list's elements.
pub fn bytes_of<T>(list: &[T]) -> usize {
    size_of_val(list)
}

/// Culvert's FIB as it is: updatable, codes of 30 bits, its prefix store not counted.
pub struct Culvert(Fib<'static, u32>);

impl Culvert {
    pub fn new<K: Key>(routes: &[Route<K>]) -> Self {
        let storage = FibStorage::<u32, 1, 1_000_000, 65_536, 256, 32_768>::new_box_zeroed();
        let mut fib = Box::leak(storage.expect("memory for the table")).fib();
        for (bits, length, hop) in routes {
            let (bits, length) = (*bits, *length);
            let inserted = fib.insert(0, Prefix { bits, length }, *hop);
            inserted.expect("room for the routes");
        }
        Culvert(fib)
    }
}

impl<K: Key> Candidate<K> for Culvert {
    fn name(&self) -> &'static str {
        "culvert"
    }

    fn hop_bits(&self) -> u32 {
        32
    }

    fn bytes(&self) -> usize {
        self.0.usage().lookup
    }

    #[inline(always)]
    fn one(&self, key: K) -> u32 {
        self.0.lookup(0, key)
    }

    fn is_staged(&self) -> bool {
        true
    }

    fn staged(&self, keys: &[K], answers: &mut [u32]) {
        self.0.lookup_batch(0, keys, answers);
    }
}
