//! What the appliance answers of itself, where the core is not asked.

use culvert_core::Instant;
use culvert_core::channel::{
    Board as Request, BoardAnswer, BoardRefusal, Description, Health, KEY_LEN,
    Management as Config, SMALL_PAGE,
};
use heapless::Vec;

use crate::log::{display, log};
use crate::management::{self, Powers};
use crate::plane::Exit;
use crate::watch::Watch;
use crate::{End, LARGEST_FRAME};

/// The processor's architecture, as the compiler calls it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "aarch64"
} else if cfg!(target_arch = "x86_64") {
    "x86_64"
} else if cfg!(target_arch = "arm") {
    "arm"
} else if cfg!(target_arch = "riscv64") {
    "riscv64"
} else {
    "unknown"
};

/// Whether the host can hold the core's clock: in images for tests, and off them.
const CAN_HOLD_CLOCK: bool = cfg!(any(feature = "held-clock", not(target_os = "none")));

/// The core's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clock {
    /// It is the board's.
    Running,
    /// The host has told what time it is.
    Held(Instant),
}

impl Clock {
    /// The time for the core, at a time of the board's.
    pub(crate) fn at(self, board: Instant) -> Instant {
        match self {
            Clock::Running => board,
            Clock::Held(at) => at,
        }
    }
}

/// What a request wants beyond an answer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// What is due now.
    Tick,
    /// Addresses for the management port.
    Configure(Config),
    /// A key for the management port, or none.
    SetKey(Option<[u8; KEY_LEN]>),
    /// To end.
    End(End),
}

/// What is needed to answer.
pub(crate) struct Desk<'p> {
    pub(crate) exit: &'p mut Exit,
    pub(crate) clock: &'p mut Clock,
    pub(crate) watch: &'p Watch,
    pub(crate) powers: Powers,
    pub(crate) now: Instant,
    /// The most bytes of stack ever in use.
    pub(crate) stack: u32,
}

impl Desk<'_> {
    pub(crate) fn answer(&mut self, request: &Request) -> (BoardAnswer, Option<Asked>) {
        let mut then = None;
        let answer = match request {
            Request::Describe => BoardAnswer::Description(self.description()),
            Request::Nics { from } => {
                let nics = self.exit.nics.list().iter().skip(usize::from(*from));
                let page = nics.take(SMALL_PAGE).cloned();
                BoardAnswer::Nics(page.collect::<Vec<_, SMALL_PAGE>>())
            }
            Request::SetRole { mac, role } => match self.exit.nics.set_role(*mac, *role) {
                Ok(()) => {
                    log!(info, "NIC {}: {}", display!(*mac), display!(*role));
                    BoardAnswer::Done
                }
                Err(refusal) => BoardAnswer::Refused(refusal),
            },
            Request::Health => BoardAnswer::Health(self.health()),
            Request::SetManagement(config) => match management::check(config) {
                Ok(()) => {
                    then = Some(Asked::Configure(config.clone()));
                    BoardAnswer::Done
                }
                Err(refusal) => BoardAnswer::Refused(refusal),
            },
            Request::SetKey { key } => match self.powers.authentication {
                Ok(()) => {
                    then = Some(Asked::SetKey(key.map(|key| key.0)));
                    BoardAnswer::Done
                }
                Err(refusal) => BoardAnswer::Refused(refusal),
            },
            Request::HoldClock { .. } if !CAN_HOLD_CLOCK => {
                BoardAnswer::Refused(BoardRefusal::ClockRuns)
            }
            Request::HoldClock { micros, tick } => {
                if *self.clock == Clock::Running {
                    log!(warn, "the clock is held, for a test, until the next start");
                }
                *self.clock = Clock::Held(Instant::from_micros(*micros));
                then = tick.then_some(Asked::Tick);
                BoardAnswer::Done
            }
            Request::Restart => {
                then = Some(Asked::End(End::Restart));
                BoardAnswer::Done
            }
            Request::PowerOff { status } => {
                then = Some(Asked::End(End::Off(*status)));
                BoardAnswer::Done
            }
        };
        (answer, then)
    }

    fn description(&self) -> Description {
        // Both texts are known when this is compiled, and are shorter than their room.
        let version = core::env!("CARGO_PKG_VERSION");
        Description {
            architecture: ARCHITECTURE.try_into().unwrap_or_default(),
            version: version.try_into().unwrap_or_default(),
            nics: u8::try_from(self.exit.nics.list().len()).unwrap_or(u8::MAX),
            largest_frame: short(LARGEST_FRAME),
            buffers: short(self.exit.pool.capacity()),
            management: self.powers.authentication.is_ok(),
        }
    }

    fn health(&self) -> Health {
        Health {
            micros: self.now.micros(),
            buffers_free: short(self.exit.pool.len()),
            unsent: self.exit.unsent,
            no_buffer: self.exit.no_buffer,
            stack: self.stack,
            refused: self.powers.refused,
            ..self.watch.health()
        }
    }
}

/// A number in 16 bits, or the largest.
fn short(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
