//! The gateway: batches in, verdicts out.

mod egress;
mod notice;
mod originate;

use core::net::IpAddr;
use core::time::Duration;

use zerocopy::{FromZeros, Immutable};

use crate::channel::{Operation, Owner, PortStats, Sync, Synced};
use crate::events::Events;
use crate::pipeline::{self, Arrival, Context, fast};
use crate::tables::Tables;
use crate::tables::entry::PortRole;
use crate::{Capacities, Counter, DropReason, Fate, Frame, NetworkId, PortId, TableError, offload};
use originate::Origin;

/// A point in time, in microseconds since any fixed moment; the shell's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, FromZeros, Immutable)]
pub struct Instant(u64);

impl Instant {
    /// The fixed moment.
    pub const ZERO: Instant = Instant(0);

    /// So many microseconds after the fixed moment.
    pub const fn from_micros(micros: u64) -> Self {
        Instant(micros)
    }

    /// Microseconds since the fixed moment.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// So much later; at the end of time for what would be behind it.
    pub fn after(self, span: Duration) -> Self {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(micros))
    }
}

/// A frame and, after [`Gateway::process`], what is to happen to it.
#[derive(Debug)]
pub struct Packet<'b> {
    /// The frame, rewritten in place.
    pub frame: Frame<'b>,
    /// The verdict.
    pub fate: Fate,
}

impl<'b> Packet<'b> {
    /// A frame without a verdict yet (`Consume` stands in its place).
    pub fn new(frame: Frame<'b>) -> Self {
        Packet {
            frame,
            fate: Fate::Consume,
        }
    }
}

/// Spare frames for what the gateway makes itself: ICMP errors, further fragments
/// of a packet that was too large, copies of what is flooded, questions to neighbors
/// on raw ports and packets that have waited for one. Each should have a buffer of
/// [`Frame::HEADROOM`] and [`Originated::FRAME_LEN`] bytes, or as many as the largest
/// frame where packets are fragmented or flooded; what they hold is lost.
pub struct Originated<'s, 'b> {
    spares: &'s mut [Packet<'b>],
    used: usize,
}

impl<'s, 'b> Originated<'s, 'b> {
    /// Bytes that the largest ICMP error needs.
    pub const FRAME_LEN: usize = pipeline::icmp::MAX_FRAME;

    /// Makes these frames available.
    pub fn new(spares: &'s mut [Packet<'b>]) -> Self {
        Originated { spares, used: 0 }
    }

    /// No spare frames: the gateway sends nothing of its own, and counts that.
    pub fn none() -> Self {
        Originated {
            spares: &mut [],
            used: 0,
        }
    }

    /// Spare frames that are left.
    fn left(&self) -> usize {
        self.spares.len() - self.used
    }

    /// The next spare frame, emptied: what could not be sent may have left it full.
    fn spare(&mut self) -> Option<&mut Packet<'b>> {
        let spare = self.spares.get_mut(self.used)?;
        spare.frame.clear();
        Some(spare)
    }

    /// Takes the spare at `index`, which has been written, for made.
    fn keep(&mut self, index: usize) {
        if index < self.spares.len() && self.used < self.spares.len() {
            self.spares.swap(self.used, index);
            self.used += 1;
        }
    }

    /// The frames that the gateway made, each with its verdict (`Forward`), to be
    /// sent after the batch.
    pub fn into_made(self) -> &'s mut [Packet<'b>] {
        let used = self.used;
        self.spares.get_mut(..used).unwrap_or_default()
    }
}

/// A core's own state besides its tables. All zero when it has just booted.
#[derive(FromZeros, Immutable)]
pub(crate) struct State {
    epoch: u64,
    /// The latest time that the shell told.
    now: Instant,
    /// Identification of the last outer header that may be fragmented.
    ident: u16,
    /// See [`Gateway::set_fast_path`].
    by_stages: bool,
    /// See [`Gateway::set_announcing`].
    silent: bool,
    pub(crate) events: Events,
}

/// The datapath of one worker; it lives in a [`crate::Storage`].
pub struct Gateway<'a> {
    pub(crate) tables: Tables<'a>,
    pub(crate) counters: &'a mut [u64; Counter::SLOTS],
    pub(crate) state: &'a mut State,
}

impl Gateway<'_> {
    /// Decides about a batch of frames that came in by one port at one time, and
    /// rewrites them for where they go.
    ///
    /// Afterwards each packet's `fate` says what to do with it, and `originated`
    /// holds what the gateway made itself, to be sent after the batch.
    pub fn process(
        &mut self,
        now: Instant,
        ingress: PortId,
        batch: &mut [Packet<'_>],
        originated: &mut Originated<'_, '_>,
    ) {
        self.state.now = self.state.now.max(now);
        if self.is_wire(ingress) {
            self.notice(now, ingress, batch);
        }
        let mut stats = PortStats::default();
        let mut rest = batch;
        while !rest.is_empty() {
            rest = self.decide((now, ingress), rest, originated, &mut stats);
        }
        self.add(Counter::Rx, stats.rx_frames);
        if let Some(port) = self.tables.ports.get_mut(ingress.index()) {
            port.stats.rx_frames += stats.rx_frames;
            port.stats.rx_bytes += stats.rx_bytes;
            port.stats.dropped += stats.dropped;
        }
        if self.tables.neighbors.head.has_fresh() {
            self.attend_fresh(now, originated);
        }
    }

    /// Decides about the frames at the front of a batch, those of the fast path and
    /// one more, and counts them; returns the others.
    fn decide<'p, 'b>(
        &mut self,
        (now, ingress): (Instant, PortId),
        batch: &'p mut [Packet<'b>],
        originated: &mut Originated<'_, '_>,
        stats: &mut PortStats,
    ) -> &'p mut [Packet<'b>] {
        let arrival = Arrival::new(self.context(now, ingress));
        let mut fast = fast::Run::default();
        if let Some(arrival) = &arrival
            && !self.state.by_stages
        {
            arrival.run_fast(&mut fast, batch);
        }
        let Some((packet, rest)) = batch
            .get_mut(fast.frames..)
            .and_then(|b| b.split_first_mut())
        else {
            self.count_fast(now, &fast, stats);
            return &mut [];
        };
        stats.rx_bytes += byte_count(&packet.frame);
        let decision = match arrival {
            Some(arrival) => arrival.run(&mut packet.frame),
            None => Err((NetworkId::default(), DropReason::PortUnknown.into())),
        };
        self.count_fast(now, &fast, stats);
        packet.fate = match decision {
            Ok(fate) => fate,
            Err((network, exit)) => {
                let origin = Origin {
                    now,
                    ingress,
                    network,
                };
                self.leave(origin, exit, &mut packet.frame, originated)
            }
        };
        if let Fate::Forward(port) = packet.fate
            && self.is_wire(port)
        {
            packet.fate = self.egress(now, port, &mut packet.frame);
        }
        self.count(ingress, packet, stats);
        rest
    }

    fn context(&self, now: Instant, ingress: PortId) -> Context<'_, '_> {
        Context {
            tables: &self.tables,
            now,
            ingress,
        }
    }

    /// Counts a run of the fast path, and its neighbors as used.
    fn count_fast(&mut self, now: Instant, run: &fast::Run, stats: &mut PortStats) {
        for (port, frames, bytes) in &run.sent {
            self.add(self.forward_counter(*port), *frames);
            self.count_sent(*port, *frames, *bytes);
            stats.rx_frames += frames;
        }
        stats.rx_bytes += run.rx_bytes;
        for place in &run.neighbors {
            self.tables.neighbors.has_used(now, *place);
        }
    }

    /// Counts a verdict and, at the port it leaves by, the frame.
    fn count(&mut self, ingress: PortId, packet: &Packet<'_>, stats: &mut PortStats) {
        let weight = weight(&packet.frame);
        let (counter, out) = match packet.fate {
            Fate::Forward(port) => (self.forward_counter(port), Some(port)),
            Fate::Reply => (Counter::Reply, Some(ingress)),
            Fate::Consume => (Counter::Consume, None),
            Fate::Flood => (Counter::Flood, None),
            Fate::Punt => (Counter::Punt, None),
            Fate::Queue => (Counter::Queue, None),
            Fate::Drop(reason) => (Counter::Drop(reason), None),
        };
        self.add(counter, weight);
        stats.rx_frames += weight;
        if let Some(port) = out {
            self.count_sent(port, weight, byte_count(&packet.frame));
        }
        if let Fate::Drop(reason) = packet.fate {
            stats.dropped += weight;
            let (now, frame) = (self.state.now, &packet.frame);
            self.state.events.dropped(now, ingress, reason, frame);
        }
    }

    fn forward_counter(&self, port: PortId) -> Counter {
        match self.tables.port(port).map(|entry| entry.role) {
            Some(PortRole::Host) => Counter::ForwardHost,
            Some(PortRole::Underlay | PortRole::Wire) => Counter::ForwardUnderlay,
            _ => Counter::ForwardEndpoint,
        }
    }

    fn count_sent(&mut self, port: PortId, frames: u64, bytes: u64) {
        if let Some(port) = self.tables.ports.get_mut(port.index()) {
            port.stats.tx_frames += frames;
            port.stats.tx_bytes += bytes;
        }
    }

    fn add(&mut self, counter: Counter, count: u64) {
        if let Some(slot) = self.counters.get_mut(usize::from(counter.number())) {
            *slot += count;
        }
    }

    /// Carries out all operations, in this order, or none of them.
    ///
    /// # Errors
    /// The index of the operation that was refused, and why; the tables are as
    /// they were before the call.
    pub fn apply(
        &mut self,
        owner: Owner,
        operations: &[Operation],
    ) -> Result<(), (usize, TableError)> {
        let applied = self.tables.apply(self.state.now, owner, operations);
        self.count_lost();
        applied
    }

    /// Carries out a part of a sync, and a bounded piece of it; see
    /// [`crate::channel::Sync`].
    ///
    /// # Errors
    /// Why it is refused; the tables and a running sync are as they were.
    pub fn sync(&mut self, sync: &Sync) -> Result<Synced, TableError> {
        self.tables.sync(sync)
    }

    /// Breaks a running sync, sweeps nothing, and gives back what it reserved: for
    /// a shell that sees its channel's other end go away. The next `Hello` does the same.
    pub fn abort_sync(&mut self) {
        self.tables.abort_sync();
    }

    /// Takes in that a tunnel packet which left by an underlay port for the peer at
    /// `underlay` was too large: no packet of more than `mtu` bytes, outer header
    /// included, gets there (RFC 1191, RFC 8201).
    ///
    /// To be called only for an error about a packet of the gateway's own. Packets
    /// for that peer are held to it for ten minutes, and it is told as an event, so
    /// that the control plane can apply it to other cores. Nothing changes when the
    /// core knows of a way that narrow already, for an address that no peer has, and
    /// for 0, which old routers say (RFC 1191 section 5). Less than a path has to
    /// carry is raised to that.
    pub fn path_mtu_exceeded(&mut self, now: Instant, port: PortId, underlay: IpAddr, mtu: u16) {
        self.state.now = self.state.now.max(now);
        let now = self.state.now;
        for index in 0..self.tables.networks.len() {
            let network = self.tables.networks.get(index);
            let network = network.filter(|n| n.present && n.underlay == port);
            let peer = network.and_then(|n| self.tables.peer_by_underlay(n, underlay));
            let Some((peer, _)) = peer else { continue };
            if let Some(mtu) = self.tables.learn_path_mtu(now, peer, mtu) {
                self.state.events.path_mtu(now, peer, mtu);
            }
        }
    }

    /// The value of a counter since the core booted.
    pub fn counter(&self, counter: Counter) -> u64 {
        let slot = self.counters.get(usize::from(counter.number()));
        slot.copied().unwrap_or(0)
    }

    /// Whether plain packets take the fast path, which they do unless told otherwise.
    /// It changes no verdict and no byte; tests hold it against the stages with this.
    pub fn set_fast_path(&mut self, on: bool) {
        self.state.by_stages = !on;
    }

    /// Whether new addresses are announced, which they are unless told otherwise. Of
    /// several cores with the same tables one is enough.
    pub fn set_announcing(&mut self, on: bool) {
        self.state.silent = !on;
    }

    /// The epoch that the shell has assigned; 0 since boot until then.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    pub(crate) fn set_epoch(&mut self, epoch: u64) {
        self.state.epoch = epoch;
    }

    /// What the tables can hold.
    pub fn capacities(&self) -> Capacities {
        self.tables.capacities()
    }
}

/// How many packets a frame counts for: a super-frame as those that it stands for.
/// Asked after the pipeline, which recognises super-frames that came without a mark.
#[inline]
fn weight(frame: &Frame<'_>) -> u64 {
    u64::from(offload::segments(frame))
}

fn byte_count(frame: &Frame<'_>) -> u64 {
    u64::try_from(frame.len()).unwrap_or(u64::MAX)
}
