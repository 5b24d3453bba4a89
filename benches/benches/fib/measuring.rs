//! What the benches that time tables share: their options, the clock, medians.

use std::time::Duration;

use nix::time::ClockId;

use crate::routes::Key;

/// What the command line asks for.
pub struct Options {
    family: Option<String>,
    size: Option<usize>,
    pub rounds: usize,
    pub record: bool,
}

impl Options {
    /// `[ipv4|ipv6] [ROUTES] [rounds=N] [record]`
    pub fn parse() -> Options {
        let mut options = Options {
            family: None,
            size: None,
            rounds: 9,
            record: false,
        };
        for argument in std::env::args().skip(1) {
            if let Some(rounds) = argument.strip_prefix("rounds=") {
                options.rounds = rounds.parse().expect("rounds=N");
            } else if argument == "record" {
                options.record = true;
            } else if let Ok(size) = argument.parse() {
                options.size = Some(size);
            } else if argument.starts_with("ipv") {
                options.family = Some(argument);
            }
        }
        options
    }

    /// Panics when only a part is asked for: a record is of all.
    pub fn must_be_whole(&self) {
        let whole = self.family.is_none() && self.size.is_none();
        assert!(
            whole,
            "record takes no part: leave out the family and the size"
        );
    }

    /// The sizes of this family's tables that are asked for.
    pub fn sizes<K: Key>(&self) -> Vec<usize> {
        let family = self.family.as_deref();
        let other = family.is_some_and(|family| !family.eq_ignore_ascii_case(K::NAME));
        let sizes = K::SIZES.iter().copied();
        let wanted = |size: &usize| !other && self.size.is_none_or(|wanted| wanted == *size);
        sizes.filter(wanted).collect()
    }
}

pub fn wrong(found: &[u32], right: &[u32]) -> usize {
    found.iter().zip(right).filter(|(a, b)| a != b).count()
}

pub fn time(count: usize, run: impl FnOnce()) -> f64 {
    let began = on_cpu();
    run();
    nanoseconds(on_cpu() - began) / f64::from(u32::try_from(count).expect("32 bits"))
}

/// The processor's time that this process has had: what others take is not counted.
pub fn on_cpu() -> Duration {
    let clock = ClockId::CLOCK_PROCESS_CPUTIME_ID;
    clock.now().expect("every kernel has this clock").into()
}

pub fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
