//! The fast path: what nearly every packet is.
//!
//! A plain IPv4 packet of TCP or UDP, from a pod's own address to another node or
//! from another node to a pod, that needs no repair, no answer, and no decision but
//! its route. It looks at all that the stages look at and does to it what they do;
//! at the first doubt it leaves the frame as it was to them, who know every case and
//! every name of a drop. `tests/any_frame/fast.rs` holds one against the other.

mod gate;
mod lane;
mod link;
mod plain;
mod train;

use heapless::Vec;

use super::Arrival;
use crate::tables::Tables;
use crate::tables::entry::PortRole;
use crate::wire::ip;
use crate::{Fate, Frame, OuterL4, Packet, PortId};
use gate::Gate;
use lane::{Lane, from_endpoint};
use link::Link;
use train::{Train, from_ipip, from_vxlan};

/// Ports that a run of plain packets may leave by before it is counted.
const PORTS: usize = 8;
/// Neighbors on raw ports that it may go to.
const NEIGHBORS: usize = 64;

/// What became of the plain packets at the front of a batch.
#[derive(Default)]
pub(crate) struct Run {
    /// How many they are.
    pub(crate) frames: usize,
    /// Their bytes as they came in.
    pub(crate) rx_bytes: u64,
    /// The ports that they leave by: frames and bytes, of neighbours together.
    pub(crate) sent: Vec<(PortId, u64, u64), PORTS>,
    /// The places of the neighbors that they go to; some more than once.
    pub(crate) neighbors: Used,
}

/// Places of neighbors that packets were sent to.
pub(crate) type Used = Vec<u16, NEIGHBORS>;

/// The port that a packet leaves by, and its bytes then.
type Sent = (PortId, usize);

impl Run {
    /// Goes on through a batch as long as its packets are plain.
    #[inline(always)]
    fn go_on(
        &mut self,
        batch: &mut [Packet<'_>],
        mut decide: impl FnMut(&mut Frame<'_>, &mut Used) -> Option<Sent>,
    ) {
        let rest = batch.get_mut(self.frames..).unwrap_or_default();
        let mut tally = Tally::default();
        for packet in rest {
            let received = packet.frame.len();
            let Some((port, sent)) = decide(&mut packet.frame, &mut self.neighbors) else {
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
pub(super) fn run(run: &mut Run, arrival: &Arrival<'_, '_>, batch: &mut [Packet<'_>]) {
    match arrival.port.role {
        PortRole::Endpoint => {
            let tables = arrival.context.tables;
            if let Some(lane) = Lane::new(arrival.context, arrival.port) {
                match lane.by_sockets() {
                    true => out_of_pod(run, tables, &lane, batch),
                    false => out_of_pod_by_wire(run, tables, &lane, batch),
                }
            }
        }
        PortRole::Underlay | PortRole::Wire => out_of_tunnels(run, arrival, batch),
        _ => {}
    }
}

#[inline(never)]
fn out_of_pod(run: &mut Run, tables: &Tables<'_>, lane: &Lane<'_>, batch: &mut [Packet<'_>]) {
    run.go_on(batch, |frame, _| from_endpoint(tables, lane, frame));
}

#[inline(never)]
fn out_of_pod_by_wire<'t>(
    run: &mut Run,
    tables: &'t Tables<'_>,
    lane: &Lane<'t>,
    batch: &mut [Packet<'_>],
) {
    if let Some(mut link) = Link::new(lane) {
        run.go_on(batch, |frame, used| {
            link::from_endpoint(tables, lane, (&mut link, used), frame)
        });
    }
}

/// What packets come in out of.
#[derive(Clone, Copy)]
enum Tunnel {
    Vxlan,
    Ipip,
}

#[inline(never)]
fn out_of_tunnels(run: &mut Run, arrival: &Arrival<'_, '_>, batch: &mut [Packet<'_>]) {
    // Mostly they are all of one kind.
    let mut trains = Trains::default();
    let mut gate = Gate::new(arrival.port);
    loop {
        let before = run.frames;
        let Some(next) = batch.get(before).map(|packet| &packet.frame) else {
            return;
        };
        match (tunnel(next, gate.is_some()), &mut gate) {
            (Some(Tunnel::Vxlan), None) => out_of_vxlan(run, arrival, batch, &mut trains.vxlan),
            (Some(Tunnel::Ipip), None) => out_of_ipip(run, arrival, batch, &mut trains.ipip),
            (Some(Tunnel::Vxlan), Some(gate)) => {
                let through = (gate, &mut trains.vxlan);
                vxlan_off_wire(run, arrival, batch, through);
            }
            (Some(Tunnel::Ipip), Some(gate)) => {
                let through = (gate, &mut trains.ipip);
                ipip_off_wire(run, arrival, batch, through);
            }
            (None, _) => return,
        }
        if run.frames == before || run.is_full() {
            return;
        }
    }
}

/// What a frame seems to be in.
fn tunnel(frame: &Frame<'_>, on_wire: bool) -> Option<Tunnel> {
    if on_wire {
        return match gate::protocol(frame)? {
            ip::UDP => Some(Tunnel::Vxlan),
            ip::IPV4 => Some(Tunnel::Ipip),
            _ => None,
        };
    }
    match frame.outer.as_ref()?.l4 {
        OuterL4::Udp { .. } => Some(Tunnel::Vxlan),
        OuterL4::Ip { .. } => Some(Tunnel::Ipip),
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
        run.go_on(batch, |frame, _| from_vxlan(arrival, frame, train));
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
        run.go_on(batch, |frame, _| from_ipip(arrival, frame, train));
    }
}

#[inline(never)]
fn vxlan_off_wire<'t>(
    run: &mut Run,
    arrival: &Arrival<'t, '_>,
    batch: &mut [Packet<'_>],
    (gate, train): (&mut Gate<'t>, &mut Option<Train<'t>>),
) {
    if train.is_none() {
        let first = batch.get(run.frames);
        *train = first.and_then(|packet| gate::train_of_vxlan(arrival, &packet.frame));
    }
    if let Some(train) = train {
        run.go_on(batch, |frame, _| {
            gate::from_vxlan(arrival, frame, (gate, train))
        });
    }
}

#[inline(never)]
fn ipip_off_wire<'t>(
    run: &mut Run,
    arrival: &Arrival<'t, '_>,
    batch: &mut [Packet<'_>],
    (gate, train): (&mut Gate<'t>, &mut Option<Train<'t>>),
) {
    if train.is_none() {
        let first = batch.get(run.frames);
        *train = first.and_then(|packet| gate::train_of_ipip(arrival, &packet.frame));
    }
    if let Some(train) = train {
        run.go_on(batch, |frame, _| {
            gate::from_ipip(arrival, frame, (gate, train))
        });
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
