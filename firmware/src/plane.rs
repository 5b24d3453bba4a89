//! A frame's way through the appliance: NIC, port, core, port, NIC.

use culvert_core::channel::Role;
use culvert_core::{Fate, Frame, Gateway, Instant, Originated, Packet, PortId};
use heapless::Vec;

use crate::management::Management;
use crate::nics::{Nics, Way};
use crate::trunk;
use crate::{BATCH, Batch, Board, LARGEST_FRAME, Pool};

/// Spare frames at most for what the core makes of one batch: ICMP errors, fragments,
/// copies, questions to neighbors. They take a quarter of a small pool.
pub const SPARES: usize = 64;

/// The batch at work, and the way out.
pub(crate) struct Plane {
    batch: Batch,
    /// For each frame of a trunk's batch the port that it came in by.
    ports: Vec<Option<PortId>, BATCH>,
    spares: Vec<Packet<'static>, SPARES>,
    pub(crate) exit: Exit,
    pub(crate) management: Management,
}

/// The way out: NICs, buffers, and what is counted there.
pub(crate) struct Exit {
    pub(crate) nics: Nics,
    pub(crate) pool: Pool,
    /// NICs that have got frames to send, a bit each.
    touched: u32,
    /// Frames whose port has no NIC, or which no tag fits in front of.
    pub(crate) unsent: u64,
    /// Frames that the core made, for which there was no buffer.
    pub(crate) no_buffer: u64,
}

impl Plane {
    pub(crate) fn new(nics: Nics, mut pool: Pool, management: Management) -> Self {
        let count = SPARES.min(pool.len() / 4);
        let spares = (0..count).filter_map(|_| pool.take().and_then(spare));
        Plane {
            batch: Vec::new(),
            ports: Vec::new(),
            spares: spares.collect(),
            exit: Exit {
                nics,
                pool,
                touched: 0,
                unsent: 0,
                no_buffer: 0,
            },
            management,
        }
    }

    /// Takes a batch of a NIC's frames through the core; returns whether there were any,
    /// and how many of them the core got.
    pub(crate) fn forward<B: Board>(
        &mut self,
        board: &mut B,
        gateway: &mut Gateway<'_>,
        (now, nic): (Instant, usize),
    ) -> (bool, u64) {
        board.receive(nic, &mut self.exit.pool, &mut self.batch);
        if self.batch.is_empty() {
            return (false, 0);
        }
        if let Some(nic) = self.exit.nics.get_mut(nic) {
            nic.rx_frames += count(self.batch.len());
        }
        self.drop_long(nic);
        let mut frames = count(self.batch.len());
        let mut originated = Originated::new(&mut self.spares);
        let role = self.exit.nics.role(nic);
        match role {
            Role::Port(port) => gateway.process(now, port, &mut self.batch, &mut originated),
            Role::Trunk { base } => {
                let nics = &self.exit.nics;
                let ports = self.batch.iter_mut().map(|packet| {
                    let vid = trunk::untag(&mut packet.frame)?;
                    nics.port(nic, base, vid)
                });
                self.ports.clear();
                self.ports.extend(ports);
                let batch = (&self.ports[..], &mut self.batch[..]);
                process_runs(gateway, now, batch, &mut originated);
            }
            Role::Management | Role::Unused => {
                self.keep_apart(nic, role);
                return (true, 0);
            }
        }
        let mut ports = self.ports.iter();
        for packet in self.batch.drain(..) {
            let port = match role {
                Role::Port(port) => Some(port),
                _ => ports.next().copied().flatten(),
            };
            match port {
                Some(port) => self.exit.carry_out(board, port, packet),
                None => {
                    frames -= 1;
                    self.exit.refuse(nic, packet.frame);
                }
            }
        }
        let made = originated.into_made().len();
        self.send_made(board, made);
        // Now, and not when all NICs had their turn: one that all others send by would
        // not have room for so much.
        self.exit.flush(board);
        (true, frames)
    }

    /// Takes a batch to where the core has no part in it.
    fn keep_apart(&mut self, nic: usize, role: Role) {
        for packet in self.batch.drain(..) {
            let frame = match role {
                Role::Management => self.management.take(packet.frame),
                _ => Err(packet.frame),
            };
            if let Err(frame) = frame {
                self.exit.refuse(nic, frame);
            }
        }
    }

    /// Drops frames of the batch that are longer than frames may be.
    fn drop_long(&mut self, nic: usize) {
        let is_long = |packet: &Packet<'_>| packet.frame.len() > LARGEST_FRAME;
        while let Some(index) = self.batch.iter().position(is_long) {
            let packet = self.batch.remove(index);
            self.exit.pool.give_frame(packet.frame);
            if let Some(nic) = self.exit.nics.get_mut(nic) {
                nic.rx_too_long += 1;
            }
        }
    }

    /// Does what is due.
    pub(crate) fn tick<B: Board>(
        &mut self,
        board: &mut B,
        gateway: &mut Gateway<'_>,
        now: Instant,
    ) {
        let mut originated = Originated::new(&mut self.spares);
        gateway.tick(now, &mut originated);
        let made = originated.into_made().len();
        self.send_made(board, made);
    }

    /// Sends the first spares, which the core has made frames of, and replaces them.
    fn send_made<B: Board>(&mut self, board: &mut B, made: usize) {
        for (place, left) in self.spares.iter_mut().take(made).zip((1..=made).rev()) {
            let Some(fresh) = self.exit.pool.take().and_then(spare) else {
                self.exit.no_buffer += count(left);
                return;
            };
            // All of it is forwarded: the port that it came in by does not matter.
            let made = core::mem::replace(place, fresh);
            self.exit.carry_out(board, PortId::default(), made);
        }
    }
}

impl Exit {
    /// Does what the core decided about a frame that came in by a port. Inlined, so that
    /// frames are not copied on their way.
    #[inline(always)]
    fn carry_out<B: Board>(&mut self, board: &mut B, from: PortId, packet: Packet<'static>) {
        match packet.fate {
            Fate::Forward(to) => self.send(board, to, packet.frame),
            Fate::Reply => self.send(board, from, packet.frame),
            // What is punted would be for an operating system, and there is none.
            Fate::Flood | Fate::Punt | Fate::Consume | Fate::Queue | Fate::Drop(_) => {
                self.pool.give_frame(packet.frame);
            }
        }
    }

    /// Drops a frame that no port takes.
    fn refuse(&mut self, nic: usize, frame: Frame<'static>) {
        self.pool.give_frame(frame);
        if let Some(nic) = self.nics.get_mut(nic) {
            nic.rx_unclaimed += 1;
        }
    }

    /// Sends a frame by the NIC that a port has.
    #[inline(always)]
    fn send<B: Board>(&mut self, board: &mut B, to: PortId, mut frame: Frame<'static>) {
        let way = self.nics.way(to);
        let tagged = way.and_then(|way| match way.vid {
            Some(vid) => trunk::tag(&mut frame, vid).map(|()| way),
            None => Some(way),
        });
        let Some(Way { nic, .. }) = tagged else {
            self.unsent += 1;
            return self.pool.give_frame(frame);
        };
        self.send_by(board, nic, frame);
    }

    /// Sends a frame by a NIC.
    #[inline(always)]
    pub(crate) fn send_by<B: Board>(&mut self, board: &mut B, nic: usize, frame: Frame<'static>) {
        let sent = board.send(nic, &mut self.pool, frame);
        self.touched |= 1 << (nic & 31);
        if let Some(nic) = self.nics.get_mut(nic) {
            match sent {
                true => nic.tx_frames += 1,
                false => nic.tx_full += 1,
            }
        }
    }

    /// Lets the NICs send what they have got.
    pub(crate) fn flush<B: Board>(&mut self, board: &mut B) {
        let mut touched = core::mem::take(&mut self.touched);
        while touched != 0 {
            // A number below 32.
            let nic = touched.trailing_zeros() as usize;
            touched &= touched - 1;
            board.flush(nic, &mut self.pool);
        }
    }
}

/// A spare frame in a buffer; `None` when the buffer has no room for headroom.
fn spare(buffer: &'static mut [u8]) -> Option<Packet<'static>> {
    Frame::new(buffer, Frame::HEADROOM, 0).ok().map(Packet::new)
}

/// Takes frames through the core, those of one port that stand side by side together.
fn process_runs(
    gateway: &mut Gateway<'_>,
    now: Instant,
    (mut ports, mut batch): (&[Option<PortId>], &mut [Packet<'static>]),
    originated: &mut Originated<'_, 'static>,
) {
    while let Some(first) = ports.first() {
        let len = ports.iter().take_while(|port| *port == first).count();
        let Some((run, rest)) = batch.split_at_mut_checked(len) else {
            return;
        };
        if let Some(port) = first {
            gateway.process(now, *port, run, originated);
        }
        batch = rest;
        ports = ports.get(len..).unwrap_or_default();
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
