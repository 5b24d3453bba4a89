//! One line per step, with the time since the start.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};

/// Prints the steps.
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Announces a step, does it, and names it in its error.
    pub(crate) fn step<T>(&mut self, name: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("[{:6.1} s] {name}", self.seconds());
        // Progress that waits in a buffer is none; a closed output is no failure.
        let _ = std::io::stdout().flush();
        act().with_context(|| format!("step failed: {name}"))
    }
}
