//! The fast path: what nearly every packet is.
//!
//! A plain IPv4 packet of TCP or UDP, from a pod's own address to another node or
//! from another node to a pod, that needs no repair, no answer, and no decision but
//! its route. It looks at all that the stages look at and does to it what they do;
//! at the first doubt it leaves the frame as it was to them, who know every case and
//! every name of a drop. `tests/any_frame/fast.rs` holds one against the other.

mod lane;
mod plain;
mod train;

use heapless::Vec;

use super::Arrival;
use crate::tables::Tables;
use crate::tables::entry::PortRole;
use crate::{Fate, Frame, OuterL4, Packet, PortId};
use lane::{Lane, from_endpoint};
use train::{Train, from_ipip, from_vxlan};

/// Ports that a run of plain packets may leave by before it is counted.
const PORTS: usize = 8;

/// What became of the plain packets at the front of a batch.
#[derive(Default)]
pub(crate) struct Run {
    /// How many they are.
    pub(crate) frames: usize,
    /// Their bytes as they came in.
    pub(crate) rx_bytes: u64,
    /// The ports that they leave by: frames and bytes, of neighbours together.
    pub(crate) sent: Vec<(PortId, u64, u64), PORTS>,
}

/// The port that a packet leaves by, and its bytes then.
type Sent = (PortId, usize);

impl Run {
    /// Goes on through a batch as long as its packets are plain.
    #[inline(always)]
    fn go_on(
        &mut self,
        batch: &mut [Packet<'_>],
        mut decide: impl FnMut(&mut Frame<'_>) -> Option<Sent>,
    ) {
        let rest = batch.get_mut(self.frames..).unwrap_or_default();
        let mut tally = Tally::default();
        for packet in rest {
            let received = packet.frame.len();
            let Some((port, sent)) = decide(&mut packet.frame) else {
                break;
            };
            packet.fate = Fate::Forward(port);
            if port == tally.port {
                tally.add(received, sent);
                continue;
            }
            self.leave(tally);
            tally = Tally {
                port,
                ..Tally::default()
            };
            tally.add(received, sent);
            if self.is_full() {
                break;
            }
        }
        self.leave(tally);
    }

    /// Whether only the port that is being counted has a place yet.
    fn is_full(&self) -> bool {
        self.sent.len() + 1 >= PORTS
    }

    /// Counts what left by a port.
    fn leave(&mut self, tally: Tally) {
        if tally.frames > 0 {
            self.frames += tally.frames;
            self.rx_bytes += wide(tally.received);
            let sent = (tally.port, wide(tally.frames), wide(tally.sent));
            // It ends before it is full.
            let _ = self.sent.push(sent);
        }
    }
}

/// Neighbours that leave by one port: frames, and bytes as they came and went.
#[derive(Default)]
struct Tally {
    port: PortId,
    frames: usize,
    received: usize,
    sent: usize,
}

impl Tally {
    #[inline(always)]
    fn add(&mut self, received: usize, sent: usize) {
        self.frames += 1;
        self.received += received;
        self.sent += sent;
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Decides about the plain packets at the front of a batch. The frame behind them
/// is as it was.
pub(super) fn run(arrival: &Arrival<'_, '_>, batch: &mut [Packet<'_>]) -> Run {
    let mut run = Run::default();
    match arrival.port.role {
        PortRole::Endpoint => {
            let tables = arrival.context.tables;
            if let Some(lane) = Lane::new(arrival.context, arrival.port) {
                out_of_pod(&mut run, tables, &lane, batch);
            }
        }
        PortRole::Underlay => out_of_tunnels(&mut run, arrival, batch),
        _ => {}
    }
    run
}

#[inline(never)]
fn out_of_pod(run: &mut Run, tables: &Tables<'_>, lane: &Lane<'_>, batch: &mut [Packet<'_>]) {
    run.go_on(batch, |frame| from_endpoint(tables, lane, frame));
}

#[inline(never)]
fn out_of_tunnels(run: &mut Run, arrival: &Arrival<'_, '_>, batch: &mut [Packet<'_>]) {
    // Mostly they are all of one kind.
    let mut trains = Trains::default();
    loop {
        let before = run.frames;
        let next = batch.get(before).map(|packet| &packet.frame);
        match next.and_then(|frame| Some(frame.outer.as_ref()?.l4)) {
            Some(OuterL4::Udp { .. }) => out_of_vxlan(run, arrival, batch, &mut trains.vxlan),
            Some(OuterL4::Ip { .. }) => out_of_ipip(run, arrival, batch, &mut trains.ipip),
            None => return,
        }
        if run.frames == before || run.is_full() {
            return;
        }
    }
}

#[inline(never)]
fn out_of_vxlan<'t>(
    run: &mut Run,
    arrival: &Arrival<'t, '_>,
    batch: &mut [Packet<'_>],
    train: &mut Option<Train<'t>>,
) {
    if train.is_none() {
        let first = batch.get(run.frames);
        *train = first.and_then(|packet| Train::of_first_vxlan(arrival, &packet.frame));
    }
    if let Some(train) = train {
        run.go_on(batch, |frame| from_vxlan(arrival, frame, train));
    }
}

#[inline(never)]
fn out_of_ipip<'t>(
    run: &mut Run,
    arrival: &Arrival<'t, '_>,
    batch: &mut [Packet<'_>],
    train: &mut Option<Train<'t>>,
) {
    if train.is_none() {
        let first = batch.get(run.frames);
        *train = first.and_then(|packet| Train::of_first_ipip(arrival, &packet.frame));
    }
    if let Some(train) = train {
        run.go_on(batch, |frame| from_ipip(arrival, frame, train));
    }
}

/// The trains that packets come in out of each kind of tunnel.
#[derive(Default)]
struct Trains<'t> {
    vxlan: Option<Train<'t>>,
    ipip: Option<Train<'t>>,
}

#[cfg(test)]
mod tests;
