//! Rate limits.

use zerocopy::{FromZeros, Immutable};

use crate::Instant;

/// A token bucket: `RATE` a second, and `BURST` at once. All zero is full, as
/// long as time starts at zero.
#[derive(Clone, Copy, FromZeros, Immutable)]
pub(crate) struct Bucket<const RATE: u64, const BURST: u64> {
    /// When the bucket was or will be full again, in microseconds.
    full_at: u64,
}

impl<const RATE: u64, const BURST: u64> Bucket<RATE, BURST> {
    /// Microseconds for one token.
    const COST: u64 = 1_000_000 / RATE;

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now.micros()).saturating_add(Self::COST);
        if full_at > now.micros().saturating_add(BURST * Self::COST) {
            return false;
        }
        self.full_at = full_at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_gives_a_burst_and_then_the_rate() {
        let mut bucket = Bucket::<1000, 50>::new_zeroed();
        let mut at = |micros| bucket.take(Instant::from_micros(micros));
        let granted = (0..1000).filter(|_| at(5)).count();
        assert_eq!(granted, 50);
        assert!(!at(1004));
        assert!(at(1005));
        assert!(!at(1005));
        let granted = (0..1_000_000).step_by(100).filter(|t| at(2000 + t)).count();
        assert!((990..=1002).contains(&granted), "{granted}");
        // After a rest the whole burst is there again, and no more.
        let granted = (0..1000).filter(|_| at(10_000_000)).count();
        assert_eq!(granted, 50);
    }
}
