//! From a raw Ethernet port: out of a tunnel to a pod, outer headers and all.

use core::net::{IpAddr, Ipv4Addr};

use super::super::Arrival;
use super::Sent;
use super::plain::{IN_VXLAN, PACKET, dst, is_finished};
use super::train::{BEGIN, Content, Source, Train};
use crate::tables::entry::{PortEntry, PortRole};
use crate::wire::{checksum, ethernet, ip, ipv4, udp};
use crate::{Checksum, Frame};

/// Bytes of Ethernet and IPv4 header.
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
/// Bytes in front of the VXLAN header.
const IN_UDP: usize = HEADERS + udp::HEADER_LEN;

/// What lets tunnel packets in by a raw port.
pub(super) struct Gate<'t> {
    port: &'t PortEntry,
    /// The address of the node's own that the last packet came to; nobody has 0.0.0.0.
    own: Ipv4Addr,
    /// Of the last packet in VXLAN, and in IP in IP.
    in_vxlan: Source<'t>,
    in_ipip: Source<'t>,
}

/// What is read of the outer headers of a tunnel packet.
struct Outside {
    src: IpAddr,
    tos: u8,
    /// Bytes behind the IPv4 header.
    len: usize,
}

impl<'t> Gate<'t> {
    /// `None` when the port is none.
    pub(super) fn new(port: &'t PortEntry) -> Option<Self> {
        (port.role == PortRole::Wire).then_some(Gate {
            port,
            own: Ipv4Addr::UNSPECIFIED,
            in_vxlan: Source::NONE,
            in_ipip: Source::NONE,
        })
    }

    /// Reads the headers of a frame to this node that has one whole packet of this
    /// protocol without options.
    #[inline(always)]
    fn open(&mut self, bytes: &[u8], protocol: u8) -> Option<Outside> {
        let (headers, rest) = bytes.split_first_chunk::<HEADERS>()?;
        let (macs, h) = headers.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
        let h: &[u8; ipv4::HEADER_LEN] = h.first_chunk()?;
        if *macs.first_chunk()? != self.port.mac.bytes()
            || *macs.last_chunk()? != ethernet::IPV4.to_be_bytes()
        {
            return None;
        }
        let fragment = u16::from_ne_bytes([h[6], h[7]]);
        let whole = fragment & 0x3fff_u16.to_be() == 0;
        if h[0] != 0x45 || !whole || h[9] != protocol || !checksum::is_right(h) {
            return None;
        }
        let total_len = usize::from(u16::from_be_bytes([h[2], h[3]]));
        let len = total_len.checked_sub(ipv4::HEADER_LEN)?;
        let dst = Ipv4Addr::new(h[16], h[17], h[18], h[19]);
        if len > rest.len() || dst != self.own && !self.take_for_own(dst) {
            return None;
        }
        Some(Outside {
            src: IpAddr::V4(Ipv4Addr::new(h[12], h[13], h[14], h[15])),
            tos: h[1],
            len,
        })
    }

    /// Whether this is an address of the node's own.
    #[inline(never)]
    fn take_for_own(&mut self, address: Ipv4Addr) -> bool {
        let own = self.port.addresses.has(address);
        if own {
            self.own = address;
        }
        own
    }
}

/// Reads the UDP header of a packet, whose checksum is right unless there is none or a
/// device `vouches` for it: the destination port and the bytes behind the header.
#[inline(always)]
fn open_udp(bytes: &[u8], outside: &Outside, vouches: bool) -> Option<(u16, usize)> {
    let datagram = bytes.get(HEADERS..)?;
    let h: &[u8; udp::HEADER_LEN] = datagram.first_chunk()?;
    let len = u16::from_be_bytes([h[4], h[5]]);
    let payload = usize::from(len).checked_sub(udp::HEADER_LEN)?;
    if usize::from(len) > outside.len {
        return None;
    }
    if [h[6], h[7]] != [0, 0] && !vouches {
        let addresses: &[u8; 8] = bytes.get(HEADERS - 8..)?.first_chunk()?;
        let sum = checksum::sum_native(datagram.get(..usize::from(len))?);
        let pseudo = checksum::add(u64::from_ne_bytes(*addresses), sum);
        let [high, low] = len.to_be_bytes();
        let pseudo = checksum::add(pseudo, u32::from_ne_bytes([0, ip::UDP, high, low]).into());
        // Not zero, since there is a protocol.
        if !pseudo.is_multiple_of(0xffff) {
            return None;
        }
    }
    Some((u16::from_be_bytes([h[2], h[3]]), payload))
}

/// The protocol that a frame has if it is an IPv4 packet without options.
pub(super) fn protocol(frame: &Frame<'_>) -> Option<u8> {
    frame.content()?.get(ethernet::HEADER_LEN + 9).copied()
}

/// The train of a packet in VXLAN as it came in; whether it is plain shows later.
pub(super) fn train_of_vxlan<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &Frame<'_>,
) -> Option<Train<'t>> {
    let bytes = frame.content()?.first_chunk::<{ IN_UDP + IN_VXLAN }>()?;
    let udp_port = u16::from_be_bytes([bytes[HEADERS + 2], bytes[HEADERS + 3]]);
    let begin = bytes.get(IN_UDP..)?.first_chunk()?;
    Train::of_vxlan(arrival, (udp_port, begin), dst(bytes.last_chunk()?)?)
}

/// As [`train_of_vxlan`], in IP in IP.
pub(super) fn train_of_ipip<'t>(arrival: &Arrival<'t, '_>, frame: &Frame<'_>) -> Option<Train<'t>> {
    let bytes = frame.content()?.first_chunk::<{ HEADERS + PACKET }>()?;
    let src: &[u8; 4] = bytes.get(HEADERS - 8..)?.first_chunk()?;
    let packet = bytes.last_chunk()?;
    Train::of_ipip(arrival, IpAddr::from(*src), dst(packet)?)
}

/// Out of VXLAN on a raw port to a pod.
#[inline(always)]
pub(super) fn from_vxlan<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &mut Frame<'_>,
    (gate, train): (&mut Gate<'t>, &mut Train<'t>),
) -> Option<Sent> {
    if !is_finished(frame) {
        return None;
    }
    let bytes = frame.content()?;
    let outside = gate.open(bytes, ip::UDP)?;
    let vouches = frame.checksum == Checksum::Verified;
    let (udp_port, len) = open_udp(bytes, &outside, vouches)?;
    let room = len.checked_sub(BEGIN)?;
    let start = frame.headroom() + IN_UDP + BEGIN - ethernet::HEADER_LEN;
    let front = frame.front_mut::<{ IN_UDP + IN_VXLAN }>(0)?;
    let (_, inside) = front.bytes.split_first_chunk_mut::<IN_UDP>()?;
    let (begin, packet) = inside.split_first_chunk_mut::<BEGIN>()?;
    let packet = packet.first_chunk_mut()?;
    let content = outside.content((packet, front.rest), room);
    let plain = train.admit_vxlan(
        (arrival, Some(&mut gate.in_vxlan)),
        (udp_port, begin),
        content,
    )?;
    train.let_off(begin.last_chunk_mut()?, packet);
    Some(let_in(
        frame,
        start,
        (train.port(), plain.len_behind(ethernet::HEADER_LEN)),
    ))
}

/// Out of IP in IP on a raw port to a pod.
#[inline(always)]
pub(super) fn from_ipip<'t>(
    arrival: &Arrival<'t, '_>,
    frame: &mut Frame<'_>,
    (gate, train): (&mut Gate<'t>, &mut Train<'t>),
) -> Option<Sent> {
    if !is_finished(frame) {
        return None;
    }
    let outside = gate.open(frame.content()?, ip::IPV4)?;
    let start = frame.headroom() + HEADERS - ethernet::HEADER_LEN;
    let front = frame.front_mut::<{ HEADERS + PACKET }>(0)?;
    let (headers, packet) = front.bytes.split_first_chunk_mut::<HEADERS>()?;
    let packet = packet.first_chunk_mut()?;
    let content = outside.content((packet, front.rest), outside.len);
    let plain = train.admit_ipip((arrival, Some(&mut gate.in_ipip)), content)?;
    train.let_off(headers.last_chunk_mut()?, packet);
    Some(let_in(
        frame,
        start,
        (train.port(), plain.len_behind(ethernet::HEADER_LEN)),
    ))
}

/// Lets the frame be the packet behind its new Ethernet header. What a device said was
/// about what is taken off.
#[inline(always)]
fn let_in(frame: &mut Frame<'_>, start: usize, sent: Sent) -> Sent {
    frame.outer = None;
    frame.checksum = Checksum::None;
    frame.place(start, sent.1);
    sent
}

impl Outside {
    /// A packet in such headers, that can have `room` bytes.
    #[inline(always)]
    fn content<'p>(
        &'p self,
        (front, rest): (&'p [u8; PACKET], &'p [u8]),
        room: usize,
    ) -> Content<'p> {
        Content {
            front,
            rest,
            room,
            // Nobody has looked at what is inside.
            unchecked: true,
            src: &self.src,
            tos: &self.tos,
        }
    }
}
