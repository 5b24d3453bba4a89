//! Raw Ethernet ports: the last stage of what leaves by one, and what is due to
//! their neighbors.

use core::net::IpAddr;

use super::originate::Origin;
use super::{Gateway, Instant, Originated};
use crate::channel::NextHop;
use crate::neighbors::{Found, Work};
use crate::pipeline::{icmp, link, outer};
use crate::tables::entry::{PortEntry, PortRole};
use crate::wire::icmp::Error;
use crate::wire::{ethernet, ip, udp, vxlan};
use crate::{Counter, DropReason, Fate, Frame, MacAddr, NetworkId, PortId, Vni};

/// Places of neighbors, and ports with addresses to announce, that one tick looks
/// at, at most.
const TICK_PLACES: usize = 1024;

/// There is no spare frame for what is to be sent.
struct NoSpare;

impl Gateway<'_> {
    /// Whether frames leave and arrive by this port as they are on the wire.
    #[inline]
    pub(super) fn is_wire(&self, port: PortId) -> bool {
        let port = self.tables.ports.get(port.index());
        port.is_some_and(|port| port.role == PortRole::Wire)
    }

    /// The last stage of every frame that leaves by a raw port but those of the fast
    /// path: writes its outer headers and its neighbor's MAC address. A frame whose
    /// neighbor is not known yet is copied into the queue.
    #[cold]
    #[inline(never)]
    pub(super) fn egress(&mut self, now: Instant, id: PortId, frame: &mut Frame<'_>) -> Fate {
        match self.try_egress(now, id, frame) {
            Ok(fate) => fate,
            Err(reason) => Fate::Drop(reason),
        }
    }

    fn try_egress(
        &mut self,
        now: Instant,
        id: PortId,
        frame: &mut Frame<'_>,
    ) -> Result<Fate, DropReason> {
        let port = self.tables.ports.get(id.index());
        let port = port.ok_or(DropReason::PortUnknown)?;
        let outer = frame.outer.take();
        let direct = frame.neighbor.take();
        let to = match &outer {
            Some(outer) => outer.dst,
            None => direct.ok_or(DropReason::OuterMissing)?,
        };
        let offloads = port.offloads;
        let next_hop = port.next_hop(to).ok_or(DropReason::UnderlayNoRoute)?;
        let found = self.tables.neighbors.resolve(now, id, next_hop)?;
        if let Some(outer) = outer {
            outer::emit(&outer, (&mut self.state.ident, offloads), frame)?;
            frame
                .push_front::<{ ethernet::HEADER_LEN }>()
                .ok_or(DropReason::NoHeadroom)?;
            let ethernet = ethernet::Header {
                dst: MacAddr::ZERO,
                src: port.mac,
                ethertype: ethernet::ethertype(to),
            };
            if let Some(bytes) = frame.bytes_mut().first_chunk_mut() {
                ethernet.emit(bytes);
            }
        }
        match found {
            Found::At(mac) => {
                address(frame, mac);
                Ok(Fate::Forward(id))
            }
            Found::Wait(place) => {
                self.tables.neighbors.enqueue(place, frame)?;
                Ok(Fate::Queue)
            }
        }
    }

    /// Does what neighbors want before the next tick, as far as spares go.
    #[cold]
    #[inline(never)]
    pub(super) fn attend_fresh(&mut self, now: Instant, originated: &mut Originated<'_, '_>) {
        for place in self.tables.neighbors.head.take_fresh() {
            // Without a spare it waits for the tick.
            let _ = self.attend(now, place, originated);
        }
        self.count_lost();
    }

    /// Does what time demands: asks again for neighbors that have not answered,
    /// verifies and forgets others, sends packets that have waited, announces new
    /// addresses. The shell calls it about every 100 ms and sends what was made.
    /// Without raw ports only the announcements of new endpoints come of it.
    ///
    /// It looks at 1024 places of the table of neighbors at most, so that a larger
    /// one takes several ticks; what finds no spare waits for the next one.
    pub fn tick(&mut self, now: Instant, originated: &mut Originated<'_, '_>) {
        self.state.now = self.state.now.max(now);
        let places = self.tables.neighbors.entries.len();
        for _ in 0..places.min(TICK_PLACES) {
            let place = self.tables.neighbors.head.cursor(places);
            if self.attend(now, place, originated).is_err() {
                break;
            }
            self.tables.neighbors.head.advance();
        }
        let ports = self.tables.ports.len();
        for _ in 0..ports.min(TICK_PLACES) {
            let Some(index) = self.tables.neighbors.head.announcing(ports) else {
                break;
            };
            if self.announce(index, originated).is_err() {
                break;
            }
            self.tables.neighbors.head.announced();
        }
        self.count_lost();
    }

    /// Does what is due for the neighbor at a place, and takes note of what became
    /// of it.
    fn attend(
        &mut self,
        now: Instant,
        place: usize,
        originated: &mut Originated<'_, '_>,
    ) -> Result<(), NoSpare> {
        let done = self.do_due(now, place, originated);
        if let Some(news) = self.tables.neighbors.news(now, place) {
            let events = &mut self.state.events;
            events.neighbor(now, news.port, news.address, news.mac);
        }
        done
    }

    fn do_due(
        &mut self,
        now: Instant,
        place: usize,
        originated: &mut Originated<'_, '_>,
    ) -> Result<(), NoSpare> {
        // One frame that waits and one question are all that can be due at once.
        for _ in 0..2 {
            let Some(work) = self.tables.neighbors.work(now, place) else {
                return Ok(());
            };
            if originated.left() == 0 {
                return Err(NoSpare);
            }
            let id = match work {
                Work::Send { port, .. } | Work::Ask { port, .. } => port,
                Work::Refuse { port } => {
                    self.refuse(now, (place, port), originated);
                    continue;
                }
            };
            let Some(spare) = originated.spare() else {
                return Err(NoSpare);
            };
            let written = self.carry_out(now, (place, work), &mut spare.frame);
            if written.is_some() {
                self.complete(id, originated.used, originated);
            }
        }
        Ok(())
    }

    /// Writes what is to be sent for the neighbor at a place into an empty frame;
    /// `None` when that is impossible, which counts as sent and lost.
    fn carry_out(
        &mut self,
        now: Instant,
        (place, work): (usize, Work),
        frame: &mut Frame<'_>,
    ) -> Option<()> {
        match work {
            Work::Send { mac, .. } => {
                self.tables.neighbors.release(now, place, frame)?;
                address(frame, mac);
                Some(())
            }
            Work::Ask { port, address, to } => {
                self.tables.neighbors.asked(now, place);
                let port = self.tables.ports.get(port.index())?;
                link::write_question(port, address, to, frame).ok()
            }
            Work::Refuse { .. } => None,
        }
    }

    /// Drops the packet that has waited at a place in vain, and tells a pod or host of
    /// this node that sent it (RFC 1812 section 4.3.3.1, RFC 4443 section 3.1).
    fn refuse(
        &mut self,
        now: Instant,
        (place, wire): (usize, PortId),
        originated: &mut Originated<'_, '_>,
    ) {
        let Some(spare) = originated.spare() else {
            return;
        };
        let frame = &mut spare.frame;
        let given_up = self.tables.neighbors.give_up(place, frame);
        let vni = given_up.and_then(|()| self.open_own(wire, frame));
        let about = icmp::about(Error::HostUnreachable, frame);
        let Some((vni, about)) = vni.zip(about) else {
            return;
        };
        let mut quote = [0; icmp::MAX_QUOTE];
        let about = about.copied(&mut quote);
        if let Some((network, ingress)) = self.sender_on(wire, vni, about.from()) {
            let origin = Origin {
                now,
                ingress,
                network,
            };
            self.send_error(origin, (Error::HostUnreachable, &about), originated);
        }
    }

    /// Takes off the outer headers that this node has written for a raw port, so that
    /// an Ethernet header and the packet are left; returns the VNI if there was one.
    fn open_own(&self, wire: PortId, frame: &mut Frame<'_>) -> Option<Option<Vni>> {
        let port = self.tables.port(wire)?;
        let (_, packet) = ethernet::Header::parse(frame.bytes())?;
        let outer = ip::Header::parse(packet).ok()?;
        if !port.addresses.has(outer.src) {
            return Some(None);
        }
        let payload = packet.get(usize::from(outer.header_len)..)?;
        let behind = ethernet::HEADER_LEN + usize::from(outer.header_len);
        match outer.protocol {
            ip::UDP => {
                let vni = vxlan::parse(payload.get(udp::HEADER_LEN..)?).ok()?;
                frame.pop_front(behind + udp::HEADER_LEN + vxlan::HEADER_LEN)?;
                Some(Some(vni))
            }
            ip::IPV4 | ip::IPV6 => {
                let ethertype = match outer.protocol {
                    ip::IPV4 => ethernet::IPV4,
                    _ => ethernet::IPV6,
                };
                frame.pop_front(behind)?;
                let header = ethernet::Header {
                    dst: MacAddr::ZERO,
                    src: MacAddr::ZERO,
                    ethertype,
                };
                header.emit(frame.push_front()?);
                Some(None)
            }
            _ => None,
        }
    }

    /// The network on a raw port, and its port, that a packet from this address came
    /// in by, when that was a pod or the host; `vni` is that of a VXLAN packet.
    fn sender_on(
        &self,
        wire: PortId,
        vni: Option<Vni>,
        from: IpAddr,
    ) -> Option<(NetworkId, PortId)> {
        let networks = (0..).map(NetworkId).zip(self.tables.networks.iter());
        let mut on_wire = networks.filter(|(_, network)| {
            let named = vni.is_none_or(|vni| network.vni == vni);
            network.present && network.underlay == wire && named
        });
        on_wire.find_map(|(id, network)| match self.tables.route(network, from)? {
            NextHop::Endpoint(port) => Some((id, port)),
            NextHop::Host => network.has_host.then_some((id, network.host)),
            _ => None,
        })
    }

    /// Announces the new addresses of the port at an index.
    fn announce(
        &mut self,
        index: usize,
        originated: &mut Originated<'_, '_>,
    ) -> Result<(), NoSpare> {
        let Some(entry) = self.tables.ports.get(index).copied() else {
            return Ok(());
        };
        for (bit, key) in entry.addresses.iter().enumerate() {
            if entry.announce & 1 << bit == 0 {
                continue;
            }
            if let Some((to, mac)) = self.audience(index, &entry) {
                let spare = originated.spare().ok_or(NoSpare)?;
                let router = entry.role == PortRole::Endpoint;
                let frame = &mut spare.frame;
                if link::write_announcement(key.address(), mac, router, frame).is_ok() {
                    self.complete(to, originated.used, originated);
                }
            }
            if let Some(entry) = self.tables.ports.get_mut(index) {
                entry.announce &= !(1 << bit);
            }
        }
        Ok(())
    }

    /// Who is told of a port's addresses, by which port, and whose MAC address: of
    /// a wire's those on its link, of a pod's the host, to which the gateway
    /// stands in for it.
    fn audience(&self, index: usize, entry: &PortEntry) -> Option<(PortId, MacAddr)> {
        if self.state.silent {
            return None; // Another core tells of them.
        }
        if entry.role == PortRole::Wire {
            return Some((PortId(u16::try_from(index).ok()?), entry.mac));
        }
        let network = self.tables.network(entry.network)?;
        let told = entry.role == PortRole::Endpoint && network.has_host;
        told.then_some((network.host, network.gateway_mac))
    }

    pub(super) fn count_lost(&mut self) {
        let lost = self.tables.neighbors.take_lost();
        self.add(Counter::QueueLost, lost);
    }
}

/// Writes the MAC address that a frame goes to, which it begins with.
fn address(frame: &mut Frame<'_>, mac: MacAddr) {
    if let Some(dst) = frame.bytes_mut().first_chunk_mut::<6>() {
        *dst = mac.bytes();
    }
}
