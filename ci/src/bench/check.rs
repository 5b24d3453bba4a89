//! Whether culvert has become slower than it was recorded to be.

use super::figures::{Better, FIGURES, Figure};
use super::report::Report;
use super::setups::SETUPS;
use super::statistics::Spread;

/// Standard errors of the difference of two medians that are noise.
const ERRORS: f64 = 3.0;
/// Part of the recorded ratio that is noise in any case: two runs on one machine differ
/// by more than their rounds do, for where the scheduler happens to put what.
const FLOOR: f64 = 0.1;

/// A ratio that is worse than it was, beyond the noise.
#[derive(Debug, Clone, PartialEq)]
pub struct Regression {
    /// Name of the setup.
    pub setup: &'static str,
    /// Name of the figure.
    pub figure: &'static str,
    /// What was recorded.
    pub was: Spread,
    /// What is now; `None` when it was not measured although all else was.
    pub is: Option<Spread>,
    /// How much worse would have been noise.
    pub noise: f64,
}

impl std::fmt::Display for Regression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            setup,
            figure,
            was,
            is,
            noise,
        } = self;
        write!(f, "{setup}, {figure}: ")?;
        match is {
            Some(is) => write!(
                f,
                "{:.2} times the kernel's, {:.2} was recorded, and up to {noise:.2} is noise",
                is.median, was.median
            ),
            None => write!(f, "not measured, {:.2} was recorded", was.median),
        }
    }
}

/// Compares the ratios of culvert's setups with those recorded, as far as both were
/// asked for: `asked` says so of a setup's and a figure's keys.
#[must_use]
pub fn compare(
    now: &Report,
    recorded: &Report,
    asked: impl Fn(&str, &Figure) -> bool,
) -> Vec<Regression> {
    let mut worse = Vec::new();
    let ours = SETUPS.iter().filter(|setup| setup.is_culvert());
    for setup in ours {
        for figure in FIGURES.iter().filter(|figure| asked(setup.key, figure)) {
            let ratio = |report: &Report| report.row(setup.key, figure.key)?.ratio;
            let Some(was) = ratio(recorded) else { continue };
            let is = ratio(now);
            let (noise, loss) = match is {
                Some(is) => (noise(was, is), loss(figure, was, is)),
                None => (0.0, f64::INFINITY),
            };
            if loss > noise {
                worse.push(Regression {
                    setup: setup.name,
                    figure: figure.name,
                    was,
                    is,
                    noise,
                });
            }
        }
    }
    worse
}

fn noise(was: Spread, is: Spread) -> f64 {
    (ERRORS * was.error().hypot(is.error())).max(FLOOR * was.median)
}

/// How much worse it is.
fn loss(figure: &Figure, was: Spread, is: Spread) -> f64 {
    match figure.better {
        Better::Higher => was.median - is.median,
        Better::Lower => is.median - was.median,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{report, samples};

    fn of(figure: &str, own: [f64; 5]) -> Report {
        report(samples(figure, &own.map(|own| (1.0, own))))
    }

    fn check(figure: &str, was: [f64; 5], is: [f64; 5]) -> Vec<Regression> {
        compare(&of(figure, is), &of(figure, was), |_, _| true)
    }

    #[test]
    fn worse_beyond_the_noise_is_named() {
        let was = [0.69, 0.70, 0.70, 0.70, 0.71];
        let found = check("tcp-1", was, [0.5, 0.5, 0.5, 0.51, 0.49]);
        assert_eq!(found.len(), 1, "{found:?}");
        let text = found[0].to_string();
        assert!(text.contains("TCP, 1 stream: 0.50 times"), "{text}");
        // Within a tenth, and better, are no regressions.
        assert_eq!(check("tcp-1", was, [0.64; 5]), []);
        assert_eq!(check("tcp-1", was, [0.9; 5]), []);
        assert_eq!(check("latency-p50", was, [0.6; 5]), []);
        assert_eq!(check("latency-p50", was, [0.9; 5]).len(), 1);
    }

    #[test]
    fn wide_spreads_excuse_more() {
        let wide = [0.3, 0.5, 0.7, 0.9, 1.1];
        assert_eq!(check("tcp-1", wide, [0.5; 5]), []);
        assert_eq!(check("tcp-1", wide, [0.05; 5]).len(), 1);
    }

    #[test]
    fn what_is_not_measured_any_more_is_named_if_it_was_asked_for() {
        let (was, none) = (of("udp-64", [1.5; 5]), report(Vec::new()));
        let found = compare(&none, &was, |_, _| true);
        assert!(found[0].to_string().contains("not measured"), "{found:?}");
        let other = |_: &str, figure: &Figure| figure.key == "tcp-1";
        assert_eq!(compare(&none, &was, other), []);
        assert_eq!(compare(&was, &none, |_, _| true), []);
    }
}
