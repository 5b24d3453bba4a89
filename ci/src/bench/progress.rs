//! One line for each step, with the time since the start and what is left.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};

/// Prints the steps.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
    /// Seconds that the steps so far were expected to take, and all of them.
    done: f64,
    all: f64,
}

impl Progress {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            done: 0.0,
            all: 0.0,
        }
    }

    /// There will be steps of so many seconds more.
    pub(super) fn expect(&mut self, seconds: f64) {
        self.all += seconds;
    }

    pub(super) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Announces a step, takes it, and names it in its error.
    pub(super) fn step<T>(
        &mut self,
        name: &str,
        expected: f64,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let (now, left) = (self.seconds(), left(self.seconds(), self.done, self.all));
        println!("[{now:5.0} s, {left:4.0} s left] {name}");
        // Progress that waits in a buffer is none; a closed output is no failure.
        let _ = std::io::stdout().flush();
        self.done += expected;
        act().with_context(|| format!("step failed: {name}"))
    }
}

/// Seconds that are left when the steps so far took `passed` and not `done`.
fn left(passed: f64, done: f64, all: f64) -> f64 {
    // The first steps tell too little.
    let pace = if done < 20.0 { 1.0 } else { passed / done };
    (all - done).max(0.0) * pace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_by_the_pace_so_far() {
        assert!((left(3.0, 1.0, 100.0) - 99.0).abs() < 1e-9);
        assert!((left(60.0, 50.0, 100.0) - 60.0).abs() < 1e-9);
        assert!(left(200.0, 150.0, 100.0).abs() < 1e-9);
    }
}
