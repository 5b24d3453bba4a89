//! The watchdog: what turns of the main loop take.

use culvert_core::Instant;
use culvert_core::channel::Health;

/// A turn that takes longer, in microseconds, is a stall: frames have waited for it.
const STALL: u64 = 10_000;

/// Counts of turns.
#[derive(Default)]
pub(crate) struct Watch {
    turns: u64,
    stalls: u64,
    longest: u32,
    frames: u64,
    instructions: u64,
}

impl Watch {
    /// Takes in a turn: when it began and ended, the frames that it took through the
    /// core, and its instructions.
    #[inline]
    pub(crate) fn turn(
        &mut self,
        (began, ended): (Instant, Instant),
        (frames, instructions): (u64, u64),
    ) {
        self.turns += 1;
        let took = ended.micros().saturating_sub(began.micros());
        if took > u64::from(self.longest) {
            self.longest = u32::try_from(took).unwrap_or(u32::MAX);
        }
        if took > STALL {
            self.stalls += 1;
        }
        if frames > 0 {
            self.frames += frames;
            self.instructions += instructions;
        }
    }

    /// What it knows of [`Health`].
    pub(crate) fn health(&self) -> Health {
        Health {
            turns: self.turns,
            stalls: self.stalls,
            longest_turn: self.longest,
            frames: self.frames,
            instructions: self.instructions,
            ..Health::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_turns_are_stalls_and_idle_ones_cost_no_frame_anything() {
        let mut watch = Watch::default();
        let at = Instant::from_micros;
        watch.turn((at(5), at(8)), (2, 700));
        watch.turn((at(8), at(9)), (0, 50));
        watch.turn((at(9), at(9 + STALL)), (0, 50));
        watch.turn((at(20_000), at(20_001 + STALL)), (1, 400));
        let health = watch.health();
        assert_eq!((health.turns, health.stalls), (4, 1));
        assert_eq!(u64::from(health.longest_turn), STALL + 1);
        assert_eq!((health.frames, health.instructions), (3, 1100));
    }
}
