//! How busy the machine's processors are, all of them together.
//!
//! Read from `/proc/stat`, since the work on a packet is spread over processes, system
//! calls and softirqs that run in whoever's name. Busy is what is neither idle nor stolen
//! by the hypervisor: the kernel of a machine without precise accounting samples the
//! kinds of work by its tick, but knows exactly for how long it was idle.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::blast::as_f64;

/// A reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    at: Instant,
    times: Times,
}

/// Processor time since boot in clock ticks, over all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    idle: u64,
    stolen: u64,
    processors: u32,
}

/// What the processors did between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Work {
    /// Seconds that they worked, over all of them.
    pub(crate) busy: f64,
    /// Seconds that the hypervisor took from them.
    pub(crate) stolen: f64,
    /// Seconds that went by.
    pub(crate) elapsed: f64,
    /// How many they are.
    pub(crate) processors: u32,
}

impl Cpu {
    /// Reads.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read or has another form.
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Ok(Self {
            at: Instant::now(),
            times: Times::parse(&text)?,
        })
    }

    /// What was done since this reading.
    ///
    /// # Errors
    /// As [`Cpu::read`].
    pub(crate) fn since(&self) -> Result<Work> {
        let now = Self::read()?;
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the kernel has no clock ticks")?;
        let ticks = as_f64(u64::try_from(ticks)?);
        Ok(self
            .times
            .until(now.times, now.at.duration_since(self.at), ticks))
    }
}

impl Times {
    fn parse(stat: &str) -> Result<Self> {
        let first = stat.lines().next().unwrap_or_default();
        let numbers = first.strip_prefix("cpu ").context("it has no line `cpu`")?;
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .context("its line `cpu` has something else than numbers")?;
        // user, nice, system, idle, iowait, irq, softirq, steal.
        let &[_, _, _, idle, waiting, _, _, stolen, ..] = numbers.as_slice() else {
            anyhow::bail!("its line `cpu` has {} numbers only", numbers.len());
        };
        let own = |line: &&str| {
            let rest = line.strip_prefix("cpu");
            rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
        };
        Ok(Self {
            idle: idle + waiting,
            stolen,
            processors: u32::try_from(stat.lines().filter(own).count())?,
        })
    }

    fn until(self, later: Self, elapsed: Duration, ticks: f64) -> Work {
        let seconds = |from: u64, to: u64| as_f64(to.saturating_sub(from)) / ticks;
        let (idle, stolen) = (
            seconds(self.idle, later.idle),
            seconds(self.stolen, later.stolen),
        );
        let all = elapsed.as_secs_f64() * f64::from(self.processors);
        Work {
            busy: (all - idle - stolen).max(0.0),
            stolen,
            elapsed: elapsed.as_secs_f64(),
            processors: self.processors,
        }
    }
}

impl Work {
    /// How much of the processors' time was work, 0 to 1.
    #[must_use]
    pub(crate) fn share(&self) -> f64 {
        self.busy / (self.elapsed * f64::from(self.processors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  100 5 200 5000 10 0 50 7 0 0\n\
        cpu0 50 5 100 2500 5 0 25 3 0 0\ncpu1 50 0 100 2500 5 0 25 4 0 0\nintr 1 2\ncpus 9\n";

    #[test]
    fn idle_time_is_read_and_the_rest_is_work() {
        let before = Times::parse(STAT).unwrap();
        let want = Times {
            idle: 5010,
            stolen: 7,
            processors: 2,
        };
        assert_eq!(before, want);
        let later = STAT.replace("5000 10 0 50 7", "5050 10 0 99 17");
        let later = Times::parse(&later).unwrap();
        let work = before.until(later, Duration::from_secs(1), 100.0);
        assert!((work.busy - 1.4).abs() < 1e-9, "{work:?}");
        assert!((work.stolen - 0.1).abs() < 1e-9, "{work:?}");
        assert!((work.share() - 0.7).abs() < 1e-9, "{work:?}");
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "cpu0 1 2 3", "cpu  1 2 3", "cpu  a b c d e f g h"] {
            assert!(Times::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_machine_is_never_busier_than_it_is() {
        let cpu = Cpu::read().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let work = cpu.since().unwrap();
        assert!(work.processors > 0 && work.share() <= 1.01, "{work:?}");
    }
}
