//! What the gateway makes itself: ICMP errors, further fragments, copies. All of
//! it goes into spare frames that the shell provides; none left is a named drop.

use super::{Gateway, Instant, Originated, byte_count, weight};
use crate::pipeline::icmp::About;
use crate::pipeline::link::{self, Place};
use crate::pipeline::{Context, Exit, flood, fragment, icmp};
use crate::wire::icmp::Error;
use crate::{Counter, DropReason, Fate, Frame, NetworkId, PortId};

/// Where the frame came from that something is made for.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) now: Instant,
    pub(super) ingress: PortId,
    pub(super) network: NetworkId,
}

impl Gateway<'_> {
    /// Carries out an early exit of the pipeline; returns the frame's fate.
    #[cold]
    pub(super) fn leave(
        &mut self,
        origin: Origin,
        exit: Exit,
        frame: &mut Frame<'_>,
        originated: &mut Originated<'_, '_>,
    ) -> Fate {
        match exit {
            Exit::Drop { reason, icmp } => {
                if let Some(error) = icmp {
                    self.send_icmp(origin, error, frame, originated);
                }
                Fate::Drop(reason)
            }
            Exit::Fragment { mtu } => self.fragment(origin, mtu, frame, originated),
            Exit::Link => {
                let place = Place {
                    now: origin.now,
                    port: origin.ingress,
                };
                match link::receive((&mut self.tables, &mut self.state.events), place, frame) {
                    Ok(fate) => fate,
                    Err(reason) => Fate::Drop(reason),
                }
            }
            Exit::Flood { from } => {
                self.flood(origin, from, frame, originated);
                Fate::Flood
            }
        }
    }

    fn origin_context(&self, origin: Origin) -> Context<'_, '_> {
        self.context(origin.now, origin.ingress)
    }

    /// Makes an ICMP error about a dropped frame, within the rate limit.
    fn send_icmp(
        &mut self,
        origin: Origin,
        error: Error,
        about: &Frame<'_>,
        originated: &mut Originated<'_, '_>,
    ) {
        // The RFCs forbid errors about some packets.
        if let Some(about) = icmp::about(error, about) {
            self.send_error(origin, (error, &about), originated);
        }
    }

    /// Makes an ICMP error, within the rate limit of the port that the packet came in by.
    pub(super) fn send_error(
        &mut self,
        origin: Origin,
        (error, about): (Error, &About<'_>),
        originated: &mut Originated<'_, '_>,
    ) {
        let port = self.tables.ports.get_mut(origin.ingress.index());
        if !port.is_some_and(|port| port.icmp.take(origin.now)) {
            return self.add(Counter::IcmpRateLimited, 1);
        }
        let context = self.origin_context(origin);
        let Some(spare) = originated.spare() else {
            return self.add(Counter::SparesExhausted, 1);
        };
        let sent = icmp::send(context, origin.network, (error, about), &mut spare.frame);
        match sent {
            Ok(port) => self.made(origin.now, port, originated.used, originated),
            Err(exit) if exit.is(DropReason::NoHeadroom) => self.add(Counter::SparesExhausted, 1),
            Err(_) => self.add(Counter::IcmpNoRoute, 1),
        }
    }

    /// Sends the spare frame at `index` by this port, or lets it wait for its
    /// neighbor: then the spare is free again.
    fn made(
        &mut self,
        now: Instant,
        port: PortId,
        index: usize,
        originated: &mut Originated<'_, '_>,
    ) {
        let Some(spare) = originated.spares.get_mut(index) else {
            return;
        };
        if self.is_wire(port) {
            match self.egress(now, port, &mut spare.frame) {
                Fate::Forward(_) => {}
                fate => {
                    spare.frame.clear();
                    return self.add(Counter::OriginatedLost, u64::from(fate != Fate::Queue));
                }
            }
        }
        self.complete(port, index, originated);
    }

    /// Sends the spare frame at `index`, which is complete, by this port.
    pub(super) fn complete(
        &mut self,
        port: PortId,
        index: usize,
        originated: &mut Originated<'_, '_>,
    ) {
        let Some(spare) = originated.spares.get_mut(index) else {
            return;
        };
        spare.fate = Fate::Forward(port);
        let weight = weight(&spare.frame);
        self.add(Counter::Originated, weight);
        let bytes = byte_count(&spare.frame);
        self.count_sent(port, weight, bytes);
        originated.keep(index);
    }

    /// Cuts a packet into fragments: the first stays in its frame, the others go
    /// into spares. All of them or none.
    fn fragment(
        &mut self,
        origin: Origin,
        mtu: u16,
        frame: &mut Frame<'_>,
        originated: &mut Originated<'_, '_>,
    ) -> Fate {
        let before = originated.used;
        match self.try_fragment(origin, mtu, frame, originated) {
            Ok(port) => {
                let end = core::mem::replace(&mut originated.used, before);
                for index in before..end {
                    self.made(origin.now, port, index, originated);
                }
                Fate::Forward(port)
            }
            Err(reason) => {
                originated.used = before;
                Fate::Drop(reason)
            }
        }
    }

    fn try_fragment(
        &self,
        origin: Origin,
        mtu: u16,
        frame: &mut Frame<'_>,
        originated: &mut Originated<'_, '_>,
    ) -> Result<PortId, DropReason> {
        let context = self.origin_context(origin);
        let dropped = |exit: Exit| match exit {
            Exit::Drop { reason, .. } => reason,
            _ => DropReason::TooBig,
        };
        let plan = fragment::Plan::new(mtu, frame).map_err(dropped)?;
        if plan.further() > originated.left() {
            return Err(DropReason::FragmentSpares);
        }
        for index in 0..plan.further() {
            let spare = originated.spare().ok_or(DropReason::FragmentSpares)?;
            plan.write(index, frame, &mut spare.frame)
                .ok_or(DropReason::FragmentSpares)?;
            fragment::send(context, origin.network, &mut spare.frame).map_err(dropped)?;
            originated.used += 1;
        }
        plan.cut(frame).ok_or(DropReason::FragmentSpares)?;
        fragment::send(context, origin.network, frame).map_err(dropped)
    }

    /// Copies a frame to everybody in the network but its sender.
    fn flood(
        &mut self,
        origin: Origin,
        from: Option<crate::PeerId>,
        frame: &Frame<'_>,
        originated: &mut Originated<'_, '_>,
    ) {
        let mut sent = heapless::Vec::<PortId, { flood::MAX_COPIES }>::new();
        let before = originated.used;
        let (mut without_spare, mut too_big) = (0, 0);
        let context = self.origin_context(origin);
        for target in flood::targets(context, origin.network, from) {
            let Some(spare) = originated.spare().filter(|_| !sent.is_full()) else {
                without_spare += 1;
                continue;
            };
            match flood::send(context, origin.network, target, (frame, &mut spare.frame)) {
                Ok(port) => {
                    // It is not full.
                    let _ = sent.push(port);
                    originated.used += 1;
                }
                Err(exit) if exit.is(DropReason::NoHeadroom) => without_spare += 1,
                Err(_) => too_big += 1,
            }
        }
        originated.used = before;
        for (index, port) in (before..).zip(sent) {
            self.made(origin.now, port, index, originated);
        }
        self.add(Counter::SparesExhausted, without_spare);
        self.add(Counter::FloodTooBig, too_big);
    }
}
