//! The search for the highest rate at which next to nothing is lost.

use anyhow::{Result, bail};

use crate::measure::Step;

/// Loss below which a rate counts as held.
const LOSS: f64 = 0.01;
/// A rate that is within this of one that was not held is the highest.
const PRECISION: f64 = 1.03;
/// How far the search goes from where it was told to begin.
const STRIDE: f64 = 1.15;
/// Below this share of its pace the source itself is what limits.
const PACE: f64 = 0.95;
/// Steps at most.
const STEPS: u32 = 9;
/// Datagrams a second below which nothing is held.
const LEAST: f64 = 100.0;

/// Where the search begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Begin {
    /// With as much as the source can send: what gets through is the first guess.
    Overload,
    /// At a rate that was held by something alike.
    At(f64),
}

/// Takes steps at rates of its choice (`None`: as fast as it goes) until the highest
/// that holds its loss below 1 % is known to 3 %, or after nine steps; returns the step
/// at which most arrived of those that held it.
///
/// # Errors
/// Those of `step`, or that no rate was held.
pub(crate) fn highest(
    begin: Begin,
    mut step: impl FnMut(Option<u64>) -> Result<Step>,
) -> Result<Step> {
    let (mut low, mut high) = (0.0_f64, f64::INFINITY);
    let mut best: Option<Step> = None;
    let mut rate = match begin {
        Begin::At(rate) => rate,
        Begin::Overload => {
            let most = step(None)?;
            if held(&most) {
                return Ok(most);
            }
            high = most.sent_pps;
            most.received_pps.min(high)
        }
    };
    for _ in 0..STEPS {
        rate = rate.max(LEAST);
        let seen = step(Some(whole(rate)))?;
        if held(&seen) {
            low = rate;
            let limited = seen.sent_pps < rate * PACE;
            let more = |best: &Step| seen.received_pps > best.received_pps;
            if best.as_ref().is_none_or(more) {
                best = Some(seen);
            }
            if limited {
                break;
            }
        } else {
            high = rate;
        }
        if high / low < PRECISION {
            break;
        }
        rate = match (low > 0.0, high.is_finite()) {
            (true, true) => (low * high).sqrt(),
            (true, false) => low * STRIDE,
            (false, _) => high / STRIDE,
        };
    }
    match best {
        Some(best) => Ok(best),
        None => bail!("loss of 1 % and more at every rate down to {high:.0} a second"),
    }
}

fn held(step: &Step) -> bool {
    step.seen.loss() < LOSS
}

/// A rate in whole datagrams, at least 1.
fn whole(rate: f64) -> u64 {
    // Through text: there is no lossless conversion from a float.
    format!("{rate:.0}").parse().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blast::{Seen, as_f64};

    /// A network that carries so much a second and loses the rest, with a source that
    /// can send so much.
    fn network(carries: f64, source: f64) -> impl FnMut(Option<u64>) -> Result<Step> {
        move |rate| {
            let sent = rate.map_or(source, |rate| as_f64(rate).min(source));
            let received = sent.min(carries);
            Ok(Step {
                sent_pps: sent,
                received_pps: received,
                busy: 0.0,
                seconds: 1.0,
                seen: Seen {
                    expected: whole(sent),
                    received: whole(received),
                    lost: whole(sent) - whole(received).min(whole(sent)),
                    ..Seen::default()
                },
            })
        }
    }

    #[test]
    fn the_highest_rate_is_found_from_anywhere() {
        let begins = [0.1, 0.5, 0.9, 1.0, 1.3, 2.0].map(|part| Begin::At(part * 300_000.0));
        for begin in begins.into_iter().chain([Begin::Overload]) {
            let mut steps = 0;
            let mut network = network(300_000.0, 2_000_000.0);
            let found = highest(begin, |rate| {
                steps += 1;
                network(rate)
            });
            let found = found.unwrap().received_pps;
            assert!(steps <= STEPS + 1, "{begin:?}: {steps} steps");
            // Far below, the strides come to an end before the rate does.
            let near = !matches!(begin, Begin::At(rate) if rate < 100_000.0);
            let least = if near { 285_000.0 } else { 30_000.0 };
            assert!((least..=303_000.0).contains(&found), "{begin:?}: {found}");
        }
    }

    #[test]
    fn a_good_guess_takes_few_steps() {
        let mut steps = 0;
        let mut network = network(300_000.0, 2_000_000.0);
        let guess = Begin::At(295_000.0);
        let count = |rate| {
            steps += 1;
            network(rate)
        };
        highest(guess, count).unwrap();
        assert!(steps <= 5, "{steps}");
    }

    #[test]
    fn a_source_that_is_the_limit_ends_the_search() {
        for begin in [Begin::Overload, Begin::At(150_000.0)] {
            let found = highest(begin, network(300_000.0, 200_000.0)).unwrap();
            assert!((found.received_pps - 200_000.0).abs() < 1.0, "{begin:?}");
        }
    }

    #[test]
    fn nothing_held_is_an_error() {
        let lost = |rate| {
            let mut step = network(1e9, 1e9)(rate)?;
            step.seen.lost = step.seen.expected / 2;
            Ok(step)
        };
        let error = highest(Begin::At(1_000.0), lost).unwrap_err();
        assert!(error.to_string().starts_with("loss of 1 %"), "{error}");
        let broken = highest(Begin::Overload, |_| bail!("broken")).unwrap_err();
        assert_eq!(broken.to_string(), "broken");
    }

    #[test]
    fn rates_are_whole_and_never_zero() {
        assert_eq!(whole(0.2), 1);
        assert_eq!(whole(350_000.4), 350_000);
        assert_eq!(whole(f64::NAN), 1);
    }
}
