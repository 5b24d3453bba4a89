//! The fast path: what nearly every packet is.
//!
//! A plain IPv4 packet of TCP or UDP, from a pod's own address to another node or
//! from another node to a pod, that needs no repair, no answer, and no decision but
//! its route. It looks at all that the stages look at and does to it what they do;
//! at the first doubt it leaves the frame as it was to them, who know every case and
//! every name of a drop. `tests/any_frame/fast.rs` holds one against the other.

use core::net::{IpAddr, Ipv4Addr};

use heapless::Vec;

use super::route::Tunnel;
use super::{Arrival, decap, deliver};
use crate::channel::{Encap, NetworkOptions};
use crate::fib::Root;
use crate::tables::Tables;
use crate::tables::entry::{Lookup, NetworkEntry, PortEntry, PortRole};
use crate::wire::ip::Address;
use crate::wire::{checksum, ethernet, ip, ipv4, vxlan};
use crate::{Checksum, Fate, Frame, MacAddr, Outer, OuterL4, Packet, PortId, Segmentation};

/// Bytes of IPv4 header and UDP header, or the front of TCP's.
const PACKET: usize = ipv4::HEADER_LEN + 8;
/// Bytes of VXLAN header, Ethernet header and the front of a packet.
const IN_VXLAN: usize = vxlan::HEADER_LEN + ethernet::HEADER_LEN + PACKET;

/// What is read of a plain packet.
struct Plain {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    tos: u8,
    protocol: u8,
    /// Source and destination port.
    ports: u32,
    total_len: u16,
}

impl Plain {
    /// Reads the front of an IPv4 packet of at most `room` bytes that has no options,
    /// is whole, may be forwarded, and is TCP or UDP.
    #[inline(always)]
    fn parse(h: &[u8; PACKET], room: usize) -> Option<Plain> {
        let total_len = u16::from_be_bytes([h[2], h[3]]);
        let fragment = u16::from_ne_bytes(*h.get(6..)?.first_chunk()?);
        let whole = fragment & 0x3fff_u16.to_be() == 0;
        let protocol = h[9];
        let plain = h[0] == 0x45 && whole && h[8] > 1;
        if !plain || protocol != ip::UDP && protocol != ip::TCP {
            return None;
        }
        let len = usize::from(total_len);
        if len < PACKET || len > room || !checksum::is_right(h.first_chunk()?) {
            return None;
        }
        let word = |a, b, c, d| Ipv4Addr::from_bits(u32::from_be_bytes([a, b, c, d]));
        Some(Plain {
            src: word(h[12], h[13], h[14], h[15]),
            dst: word(h[16], h[17], h[18], h[19]),
            tos: h[1],
            protocol,
            ports: u32::from_be_bytes([h[20], h[21], h[22], h[23]]),
            total_len,
        })
    }

    /// Whether MSS clamping may have something to do.
    #[inline(always)]
    fn may_be_clamped(&self, network: &NetworkEntry) -> bool {
        self.protocol == ip::TCP && network.options.has(NetworkOptions::CLAMP_MSS)
    }

    #[inline(always)]
    fn dst_port(&self) -> u16 {
        let [_, _, high, low] = self.ports.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Bytes of the packet with so many in front.
    #[inline(always)]
    fn len_behind(&self, front: usize) -> usize {
        front + usize::from(self.total_len)
    }
}

/// Whether this is a host's address beyond question: in 1.0.0.0 to 223.255.255.255,
/// and no loopback.
#[inline(always)]
fn is_plain_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first.wrapping_sub(1) < 223 && first != 127
}

/// The destination of what should be an IPv4 packet.
fn dst(packet: &[u8; PACKET]) -> Option<Ipv4Addr> {
    let address: &[u8; 4] = packet.get(16..)?.first_chunk()?;
    Some(Ipv4Addr::from(*address))
}

/// Whether nothing is to be finished or cut.
#[inline(always)]
fn is_finished(frame: &Frame<'_>) -> bool {
    let partial = matches!(frame.checksum, Checksum::Partial { .. });
    frame.segmentation == Segmentation::None && !partial
}

/// The Ethernet header of an IPv4 packet.
#[inline(always)]
fn ethernet(dst: MacAddr, src: MacAddr) -> [u8; ethernet::HEADER_LEN] {
    let header = ethernet::Header {
        dst,
        src,
        ethertype: ethernet::IPV4,
    };
    let mut bytes = [0; ethernet::HEADER_LEN];
    header.emit(&mut bytes);
    bytes
}

/// Fourteen bytes as two words that overlap, which are compared at once.
#[inline(always)]
fn words(bytes: &[u8; ethernet::HEADER_LEN]) -> [u64; 2] {
    let word = |chunk: Option<&[u8; 8]>| chunk.map_or(0, |chunk| u64::from_ne_bytes(*chunk));
    [word(bytes.first_chunk()), word(bytes.last_chunk())]
}

/// What is the same for all plain packets of a pod.
struct Lane<'t> {
    network: &'t NetworkEntry,
    routes: Root<'t>,
    port: &'t PortEntry,
    /// What they begin with: the gateway's and the pod's MAC address, and IPv4.
    ethernet: [u64; 2],
    /// The pod's first address.
    address: Ipv4Addr,
    /// A prefix that holds all the gateway's addresses, and its mask.
    gateways: (u32, u32),
    header: [u8; vxlan::HEADER_LEN],
    /// What is behind the peer's MAC address in VXLAN: that of this node, and IPv4.
    from_vtep: [u8; 8],
    vxlan: Tunnelled,
    ipip: Tunnelled,
}

/// What is the same for all plain packets of a pod in one kind of tunnel.
#[derive(Clone, Copy)]
struct Tunnelled {
    /// Largest packet that fits.
    mtu: u16,
    /// The outer header but for what depends on the packet; always there, to be
    /// copied as a whole.
    outer: Option<Outer>,
}

impl<'t> Lane<'t> {
    /// `None` when no packet of the port can go by the fast path.
    fn new(tables: &'t Tables<'_>, port: &'t PortEntry) -> Option<Self> {
        let network = tables.network(port.network)?;
        let underlay = tables.port(network.underlay)?;
        if underlay.role != PortRole::Underlay {
            return None;
        }
        let mut header = [0; vxlan::HEADER_LEN];
        vxlan::emit(network.vni, &mut header);
        let address = port.addresses.iter().find_map(|key| match key.address() {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })?;
        // Peers have the IP version of their network.
        let local = network.local.address();
        let tunnelled = |tunnel: Tunnel, l4| Tunnelled {
            mtu: underlay
                .mtu
                .saturating_sub(tunnel.overhead(local.is_ipv6())),
            outer: Some(deliver::outer(0, (network, local), l4)),
        };
        let udp = OuterL4::Udp {
            src_port: 0,
            dst_port: network.udp_port,
            checksum: !network.options.has(NetworkOptions::ZERO_UDP_CHECKSUM),
        };
        let ip = OuterL4::Ip { protocol: ip::IPV4 };
        Some(Lane {
            network,
            routes: tables.routes.start_v4(network.id),
            port,
            ethernet: words(&ethernet(network.gateway_mac, port.mac)),
            address,
            gateways: network.gateways.common_v4(),
            header,
            from_vtep: *ethernet(MacAddr::ZERO, network.vtep_mac).last_chunk()?,
            vxlan: tunnelled(Tunnel::Vxlan, udp),
            ipip: tunnelled(Tunnel::Ipip, ip),
        })
    }

    /// Whether the pod has this address.
    #[inline(always)]
    fn owns(&self, address: Ipv4Addr) -> bool {
        address == self.address || self.port.addresses.has(address)
    }
}

/// Whether the prefix that holds all the gateway's addresses has this one.
#[inline(always)]
fn may_be_gateway((bits, mask): (u32, u32), address: Ipv4Addr) -> bool {
    (address.to_bits() ^ bits) & mask == 0
}

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
            if let Some(lane) = Lane::new(tables, arrival.port) {
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

/// From a pod into a tunnel.
#[inline(always)]
fn from_endpoint(tables: &Tables<'_>, lane: &Lane<'_>, frame: &mut Frame<'_>) -> Option<Sent> {
    if !is_finished(frame) {
        return None;
    }
    let start = frame.headroom();
    let front = frame.front_mut::<IN_VXLAN>(vxlan::HEADER_LEN)?;
    let (header, rest) = front.bytes.split_first_chunk_mut()?;
    let (macs, packet) = rest.split_first_chunk_mut()?;
    let packet = packet.first_chunk_mut()?;
    if words(macs) != lane.ethernet {
        return None;
    }
    let plain = Plain::parse(packet, PACKET + front.rest.len())?;
    let network = lane.network;
    let to_tunnel = plain.protocol == ip::UDP && tables.may_be_tunnel_port(plain.dst_port());
    if to_tunnel
        || !lane.owns(plain.src)
        || !is_plain_host(plain.dst)
        || may_be_gateway(lane.gateways, plain.dst)
        || plain.may_be_clamped(network)
    {
        return None;
    }
    let (peer, encap) = tables.routes.lookup_from(lane.routes, plain.dst).peer()?;
    let peer = tables.peer(peer).filter(|peer| peer.path_mtu == 0)?;
    let (start, len) = match encap {
        Encap::Vxlan if plain.total_len <= lane.vxlan.mtu => {
            *header = lane.header;
            *macs.first_chunk_mut()? = peer.vtep_mac.bytes();
            *macs.last_chunk_mut()? = lane.from_vtep;
            *front.outer = lane.vxlan.outer;
            let l4 = front.outer.as_mut().map(|outer| &mut outer.l4);
            if let Some(OuterL4::Udp { src_port, .. }) = l4 {
                let addresses = Ipv4Addr::mix(plain.src, plain.dst);
                let hash = deliver::hash(addresses, plain.protocol, plain.ports);
                *src_port = deliver::source_port(hash);
            }
            const FRONT: usize = vxlan::HEADER_LEN + ethernet::HEADER_LEN;
            (start - vxlan::HEADER_LEN, plain.len_behind(FRONT))
        }
        Encap::Ipip if plain.total_len <= lane.ipip.mtu => {
            *front.outer = lane.ipip.outer;
            (start + ethernet::HEADER_LEN, plain.len_behind(0))
        }
        _ => return None,
    };
    ipv4::lower_ttl(packet);
    if let Some(outer) = front.outer {
        outer.dst = peer.underlay.address();
        outer.tos = plain.tos;
    }
    frame.place(start, len);
    Some((network.underlay, len))
}

/// The trains that packets come in out of each kind of tunnel.
#[derive(Default)]
struct Trains<'t> {
    vxlan: Option<Train<'t>>,
    ipip: Option<Train<'t>>,
}

/// Where the last packet out of a tunnel went: the next one mostly goes there, too.
struct Train<'t> {
    network: &'t NetworkEntry,
    routes: Root<'t>,
    /// In VXLAN the UDP port, the header, and the MAC address of this node's VTEP.
    udp_port: u16,
    front: [u64; 2],
    /// Longest TCP packet that is one segment.
    longest: u16,
    /// A prefix that holds all the gateway's addresses, and its mask.
    gateways: (u32, u32),
    stop: Stop,
}

/// The front of a packet and what is behind.
struct Payload<'p> {
    front: &'p [u8; PACKET],
    rest: &'p [u8],
}

/// A pod that packets out of a tunnel go to.
#[derive(Clone, Copy)]
struct Stop {
    dst: Ipv4Addr,
    port: PortId,
    mtu: u16,
    ethernet: [u8; ethernet::HEADER_LEN],
}

impl Stop {
    /// The pod that has an address.
    fn at(tables: &Tables<'_>, network: &NetworkEntry, dst: Ipv4Addr) -> Option<Stop> {
        if !is_plain_host(dst) {
            return None;
        }
        let id = tables.route_code(network, dst).endpoint()?;
        let port = tables.port(id)?;
        Some(Stop {
            dst,
            port: id,
            mtu: port.mtu,
            ethernet: ethernet(port.mac, network.gateway_mac),
        })
    }
}

impl<'t> Train<'t> {
    fn new(
        arrival: &Arrival<'t, '_>,
        network: &'t NetworkEntry,
        dst: Ipv4Addr,
        tunnel: Tunnel,
    ) -> Option<Self> {
        let overhead = tunnel.overhead(network.local.address().is_ipv6());
        let tables = arrival.context.tables;
        Some(Train {
            network,
            routes: tables.routes.start_v4(network.id),
            udp_port: 0,
            front: [0; 2],
            longest: arrival.port.mtu.saturating_sub(overhead),
            gateways: network.gateways.common_v4(),
            stop: Stop::at(tables, network, dst)?,
        })
    }

    /// The train of a packet in VXLAN that begins with these bytes.
    #[cold]
    #[inline(never)]
    fn of_vxlan(
        arrival: &Arrival<'t, '_>,
        (udp_port, front): (u16, &[u8; ethernet::HEADER_LEN]),
        dst: Ipv4Addr,
    ) -> Option<Self> {
        let (header, vtep) = front.split_first_chunk::<{ vxlan::HEADER_LEN }>()?;
        let vni = vxlan::parse(header).ok()?;
        let network = arrival.context.tables.network_by_vni(udp_port, vni)?;
        if network.underlay != arrival.context.ingress || *vtep != network.vtep_mac.bytes() {
            return None;
        }
        let train = Train::new(arrival, network, dst, Tunnel::Vxlan)?;
        Some(Train {
            udp_port,
            front: words(front),
            ..train
        })
    }

    /// The train of a packet in VXLAN as it came in; whether it is plain shows later.
    fn of_first_vxlan(arrival: &Arrival<'t, '_>, frame: &Frame<'_>) -> Option<Self> {
        let OuterL4::Udp { dst_port, .. } = frame.outer.as_ref()?.l4 else {
            return None;
        };
        let (front, packet) = frame
            .content()?
            .split_first_chunk::<IN_VXLAN>()?
            .0
            .split_last_chunk::<PACKET>()?;
        Self::of_vxlan(arrival, (dst_port, front.first_chunk()?), dst(packet)?)
    }

    /// As [`Train::of_first_vxlan`], in IP in IP.
    fn of_first_ipip(arrival: &Arrival<'t, '_>, frame: &Frame<'_>) -> Option<Self> {
        let packet = frame.content()?.first_chunk()?;
        Self::of_ipip(arrival, frame.outer.as_ref()?.src, dst(packet)?)
    }

    /// The train of a packet in IP in IP, which names no network.
    #[cold]
    #[inline(never)]
    fn of_ipip(arrival: &Arrival<'t, '_>, underlay: IpAddr, dst: Ipv4Addr) -> Option<Self> {
        let (tables, ingress) = (arrival.context.tables, arrival.context.ingress);
        let (network, _) = tables.ipip_peer(ingress, underlay)?;
        Train::new(arrival, network, dst, Tunnel::Ipip)
    }

    /// Whether packets in VXLAN to this port that begin with this are of its network.
    #[inline(always)]
    fn begins(&self, udp_port: u16, front: [u64; 2]) -> bool {
        self.udp_port == udp_port && self.front == front
    }

    /// Whether a packet comes from the peer of the network that has its source. A
    /// route leads to a peer of its own network, where only one has an address: it
    /// is the one that the outer source stands for.
    #[inline(always)]
    fn comes_from(
        &self,
        tables: &Tables<'_>,
        (underlay, encap): (&IpAddr, Encap),
        src: Ipv4Addr,
    ) -> bool {
        let route = tables.routes.lookup_from(self.routes, src).peer_id();
        let peer = route.and_then(|id| tables.peers.get(id.index()));
        peer.is_some_and(|peer| peer.is_at(underlay) && peer.accepts.contains(encap))
    }

    /// As [`Train::comes_from`], where it costs a call.
    #[cold]
    #[inline(never)]
    fn comes_from_now(&self, tables: &Tables<'_>, underlay: IpAddr, src: Ipv4Addr) -> bool {
        self.comes_from(tables, (&underlay, Encap::Ipip), src)
    }

    /// Goes to another pod from now on.
    #[inline(never)]
    fn turn(&mut self, tables: &Tables<'_>, dst: Ipv4Addr) -> Option<()> {
        self.stop = Stop::at(tables, self.network, dst)?;
        Some(())
    }

    /// Whether a packet is one segment with nothing left to do on it.
    #[inline(always)]
    fn is_done(&self, plain: &Plain, payload: Payload<'_>, unchecked: bool) -> Option<()> {
        match plain.protocol {
            ip::UDP => {
                let field = payload.front.last_chunk()?;
                if unchecked && may_be_unfinished(plain, ip::UDP, field) {
                    return None;
                }
            }
            _ => {
                // A longer segment is one that stands for several.
                if plain.total_len > self.longest || plain.may_be_clamped(self.network) {
                    return None;
                }
                // Of TCP, 16 bytes are in front of it.
                let field = payload.rest.get(8..)?.first_chunk()?;
                if unchecked && may_be_unfinished(plain, ip::TCP, field) {
                    return None;
                }
            }
        }
        Some(())
    }

    /// Takes a packet that comes from its peer along, unless something about it needs
    /// a second look.
    #[inline(always)]
    fn take(&mut self, tables: &Tables<'_>, plain: &Plain, outer: &Outer) -> Option<()> {
        let network = self.network;
        if !is_plain_host(plain.src)
            || may_be_gateway(self.gateways, plain.src) && plain.src.is_in(&network.gateways)
        {
            return None;
        }
        // An outer header without ECN changes nothing.
        let ecn = Some(plain.tos & 3);
        if outer.tos & 3 != 0 && decap::merged_ecn(plain.tos, outer.tos) != ecn {
            return None;
        }
        if plain.dst != self.stop.dst {
            self.turn(tables, plain.dst)?;
        }
        (plain.total_len <= self.stop.mtu).then_some(())
    }
}

/// Out of VXLAN to a pod.
#[inline(always)]
fn from_vxlan<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &mut Frame<'_>,
    train: &mut Train<'t>,
) -> Option<Sent> {
    if !is_finished(frame) {
        return None;
    }
    let tables = arrival.context.tables;
    let start = frame.headroom() + vxlan::HEADER_LEN;
    let unchecked = frame.checksum == Checksum::None;
    let front = frame.front_mut::<IN_VXLAN>(0)?;
    let outer = front.outer.as_ref()?;
    let OuterL4::Udp {
        dst_port: udp_port, ..
    } = outer.l4
    else {
        return None;
    };
    let begin = front.bytes.first_chunk()?;
    let (_, rest) = front.bytes.split_first_chunk::<{ vxlan::HEADER_LEN }>()?;
    let (macs, packet) = rest.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
    let (_, ethertype) = macs.split_last_chunk()?;
    if *ethertype != ethernet::IPV4.to_be_bytes() {
        return None;
    }
    let packet = packet.first_chunk()?;
    let plain = Plain::parse(packet, PACKET + front.rest.len())?;
    if !train.begins(udp_port, words(begin)) {
        *train = Train::of_vxlan(arrival, (udp_port, begin), plain.dst)?;
    }
    let payload = Payload {
        front: packet,
        rest: front.rest,
    };
    train.is_done(&plain, payload, unchecked)?;
    if !train.comes_from(tables, (&outer.src, Encap::Vxlan), plain.src) {
        return None;
    }
    train.take(tables, &plain, outer)?;
    let (_, rest) = front
        .bytes
        .split_first_chunk_mut::<{ vxlan::HEADER_LEN }>()?;
    let (macs, packet) = rest.split_first_chunk_mut()?;
    *macs = train.stop.ethernet;
    ipv4::lower_ttl::<PACKET>(packet.first_chunk_mut()?);
    *front.outer = None;
    let len = plain.len_behind(ethernet::HEADER_LEN);
    frame.place(start, len);
    Some((train.stop.port, len))
}

/// Out of IP in IP to a pod, behind an Ethernet header, for which there must be room
/// in the largest frame, too.
#[inline(always)]
fn from_ipip<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &mut Frame<'_>,
    train: &mut Train<'t>,
) -> Option<Sent> {
    const ALL: usize = ethernet::HEADER_LEN + PACKET;
    const LONGEST: usize = 65_535 - ethernet::HEADER_LEN;
    if !is_finished(frame) {
        return None;
    }
    let tables = arrival.context.tables;
    let start = frame.headroom().checked_sub(ethernet::HEADER_LEN)?;
    let unchecked = frame.checksum == Checksum::None;
    let front = frame.front_mut::<ALL>(ethernet::HEADER_LEN)?;
    let outer = front.outer.as_ref()?;
    let OuterL4::Ip { protocol: ip::IPV4 } = outer.l4 else {
        return None;
    };
    if PACKET + front.rest.len() > LONGEST {
        return None;
    }
    let (macs, packet) = front.bytes.split_first_chunk_mut()?;
    let packet = packet.first_chunk_mut()?;
    let plain = Plain::parse(packet, PACKET + front.rest.len())?;
    // Only one peer at an address, of all networks, may send this way: if the last
    // network has it, it is the one.
    if !train.comes_from(tables, (&outer.src, Encap::Ipip), plain.src) {
        *train = Train::of_ipip(arrival, outer.src, plain.dst)?;
        if !train.comes_from_now(tables, outer.src, plain.src) {
            return None;
        }
    }
    let payload = Payload {
        front: packet,
        rest: front.rest,
    };
    train.is_done(&plain, payload, unchecked)?;
    train.take(tables, &plain, outer)?;
    *macs = train.stop.ethernet;
    ipv4::lower_ttl(packet);
    *front.outer = None;
    let len = plain.len_behind(ethernet::HEADER_LEN);
    frame.place(start, len);
    Some((train.stop.port, len))
}

/// Whether the checksum field may hold the sum of the pseudo-header only.
#[inline(always)]
fn may_be_unfinished(plain: &Plain, protocol: u8, field: &[u8; 2]) -> bool {
    // In the packet's byte order, in which the sum is as good (RFC 1071 section 2 B).
    // Taking off is adding the complement, and equal is equal modulo 2^16 - 1: what
    // that takes for equal besides is rare.
    let word = |bytes| u32::from(u16::from_ne_bytes(bytes));
    let address = |address: Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
    let len = word(plain.total_len.to_be_bytes()) + word([0xff, 0xff - 20]);
    let rest = word([0, protocol]) + len + (0xffff - word(*field));
    (address(plain.src) + address(plain.dst) + u64::from(rest)).is_multiple_of(0xffff)
}

#[cfg(test)]
mod tests;
