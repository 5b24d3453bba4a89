//! The main loop: frames within a budget, control within a budget, send, sleep.

use core::time::Duration;

use culvert_core::channel::{FrameEvent, serve_with};
use culvert_core::{Gateway, Instant};

use crate::answer::{Asked, Clock, Desk};
use crate::control::{Conversation, Stream};
use crate::log::{display, log};
use crate::management::Management;
use crate::nics::Nics;
use crate::plane::Plane;
use crate::watch::Watch;
use crate::{Board, Pool};

/// How often the core is asked for what it has to say by itself.
const TICK: Duration = Duration::from_millis(100);

/// How often the board is asked for its stack, which takes it long.
const STACK_LOOKS: Duration = Duration::from_secs(1);

/// An appliance: a board, and the core that decides about its frames.
pub struct Appliance<'a, B: Board> {
    board: B,
    gateway: Gateway<'a>,
    plane: Plane,
    console: Conversation,
    clock: Clock,
    watch: Watch,
    next_tick: Instant,
    /// The most bytes of stack ever in use, and when to look again.
    stack: (u32, Instant),
}

impl<'a, B: Board> Appliance<'a, B> {
    /// An appliance whose roles are those that the NICs' MAC addresses tell.
    ///
    /// A quarter of the pool's buffers, [`crate::SPARES`] at most, are kept for what the
    /// core makes itself; each must have room for [`culvert_core::Frame::HEADROOM`] and
    /// the largest frame.
    pub fn new(mut board: B, gateway: Gateway<'a>, mut pool: Pool) -> Self {
        let nics = Nics::new((0..board.nics()).map(|nic| board.mac(nic)));
        for nic in nics.list() {
            log!(info, "NIC {}: {}", display!(nic.mac), display!(nic.role));
        }
        let management = Management::new(&mut board, &mut pool);
        Appliance {
            board,
            gateway,
            plane: Plane::new(nics, pool, management),
            console: Conversation::new(),
            clock: Clock::Running,
            watch: Watch::default(),
            next_tick: Instant::ZERO,
            stack: (0, Instant::ZERO),
        }
    }

    /// Lets hosts that have the pre-shared key speak to it over TCP; without this, the
    /// port stays closed. The image must have an allocator.
    #[cfg(feature = "management-auth")]
    pub fn authenticate(&mut self, room: &'static mut crate::Room) {
        self.plane.management.authenticate(room);
    }

    /// Runs until the host tells it to end.
    pub fn run(&mut self) -> ! {
        loop {
            if !self.turn() {
                let due = self.due();
                self.board.sleep(due);
            }
        }
    }

    /// When there is something to do even if nothing comes in.
    pub fn due(&self) -> Instant {
        let management = self.plane.management.due();
        management.map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// One turn: at most [`crate::BATCH`] frames of each NIC and one request of each
    /// conversation, so that none holds up another. Returns whether there was anything
    /// to do.
    ///
    /// Does not return when the request was to restart or to switch off.
    pub fn turn(&mut self) -> bool {
        let (began, count) = (self.board.now(), self.board.instructions());
        let now = self.clock.at(began);
        let (mut came, mut frames) = (false, 0);
        for nic in 0..self.plane.exit.nics.list().len() {
            let plane = &mut self.plane;
            let (any, forwarded) = plane.forward(&mut self.board, &mut self.gateway, (now, nic));
            came |= any;
            frames += forwarded;
        }
        let Plane {
            exit, management, ..
        } = &mut self.plane;
        management.listen(&mut self.board, exit, began);
        let mut asks = Asks::new();
        let worked = self.converse(began, &mut asks);
        let due = began >= self.next_tick;
        if due {
            self.next_tick = began.after(TICK);
        }
        if began >= self.stack.1 {
            self.stack = (self.board.stack(), began.after(STACK_LOOKS));
        }
        // Where the clock is held, time passes when the host says so.
        let tick = asks.contains(&Asked::Tick) || (due && self.clock == Clock::Running);
        if tick {
            let now = self.clock.at(began);
            self.plane.tick(&mut self.board, &mut self.gateway, now);
        }
        self.plane.exit.flush(&mut self.board);
        for asked in &asks {
            if let Asked::End(how) = asked {
                log!(info, "ending, as the host asked");
                self.board.end(*how);
            }
        }
        let spent = self.board.instructions().wrapping_sub(count);
        self.watch.turn((began, self.board.now()), (frames, spent));
        worked || tick || came
    }

    /// Answers one request of each conversation; returns whether there is anything to
    /// do. What is to be done beyond the answers is in `asks` then.
    fn converse(&mut self, now: Instant, asks: &mut Asks) -> bool {
        let Plane {
            exit, management, ..
        } = &mut self.plane;
        let mut desk = Desk {
            exit: &mut *exit,
            clock: &mut self.clock,
            watch: &self.watch,
            powers: management.powers(),
            now,
            stack: self.stack.0,
        };
        let gateway = &mut self.gateway;
        let mut serve = |event: &FrameEvent<'_>, out: &mut [u8]| {
            serve_with(gateway, event, out, |_, request| {
                let (answer, then) = desk.answer(request);
                asks.extend(then);
                Some(answer)
            })
        };
        let by_console = self.console.turn(&mut Console(&mut self.board), &mut serve);
        let by_management = management.converse(&mut serve);
        for asked in asks.iter() {
            match asked {
                Asked::Configure(config) => management.configure(config),
                Asked::SetKey(key) => management.set_key(*key),
                Asked::Tick | Asked::End(_) => {}
            }
        }
        let more = management.send(&mut self.board, exit, (now, by_management));
        by_console || more
    }
}

/// What one turn's requests want beyond answers: one request of each conversation.
type Asks = heapless::Vec<Asked, 2>;

/// The board's control channel.
struct Console<'b, B>(&'b mut B);

impl<B: Board> Stream for Console<'_, B> {
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.0.read(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }
}
