//! Medians and how far the values lie from them.

use serde::{Deserialize, Serialize};

/// The quarters of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// A quarter of the values are at most this.
    pub lower: f64,
    /// Half of them are.
    pub median: f64,
    /// Three quarters of them are.
    pub upper: f64,
    /// How many values there are.
    pub count: u32,
}

impl Spread {
    /// Of some values; `None` of none. Those that are no numbers do not count.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let count = u32::try_from(values.len())
            .ok()
            .filter(|count| *count > 0)?;
        Some(Self {
            lower: quantile(&mut values, 0.25),
            median: quantile(&mut values, 0.5),
            upper: quantile(&mut values, 0.75),
            count,
        })
    }

    /// Standard error of the median, as of a normal distribution with these quarters.
    #[must_use]
    pub fn error(&self) -> f64 {
        let deviation = (self.upper - self.lower) / 1.349;
        1.2533 * deviation / f64::from(self.count).sqrt()
    }
}

/// The value below which this part (0 to 1) of the values lies, between two of them by
/// proportion; sorts them. Not a number of none.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return f64::NAN;
    };
    let mut left = part.clamp(0.0, 1.0) * f64::from(u32::try_from(last).unwrap_or(u32::MAX));
    // The index by counting up: there is no lossless conversion from a float. A few
    // hundred thousand values at most.
    let mut index = 0;
    while left >= 1.0 && index < last {
        left -= 1.0;
        index += 1;
    }
    let next = values[(index + 1).min(last)];
    values[index] + (next - values[index]) * left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn quarters_lie_between_the_values() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0, f64::NAN]).unwrap();
        assert!(near(spread.lower, 1.75), "{spread:?}");
        assert!(near(spread.median, 2.5), "{spread:?}");
        assert!(near(spread.upper, 3.25), "{spread:?}");
        assert_eq!(spread.count, 4);
        let one = Spread::of(&[7.0]).unwrap();
        assert!(near(one.lower, 7.0) && near(one.upper, 7.0) && near(one.error(), 0.0));
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[f64::INFINITY]), None);
    }

    #[test]
    fn quantiles_reach_both_ends() {
        let mut values: Vec<f64> = (0..1_000).rev().map(f64::from).collect();
        for (part, want) in [(0.0, 0.0), (1.0, 999.0), (0.5, 499.5), (0.999, 998.001)] {
            assert!(near(quantile(&mut values, part), want), "{part}");
        }
        assert!(quantile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn more_values_leave_less_doubt() {
        let few = Spread::of(&[0.9, 1.0, 1.1]).unwrap();
        let many = Spread { count: 27, ..few };
        assert!(near(few.error(), many.error() * 3.0));
        assert!(
            near(few.error(), 1.2533 * 0.1 / 1.349 / 3.0_f64.sqrt()),
            "{few:?}"
        );
    }
}
