//! Joining consecutive packets of a flow into a super-frame.

use super::Layout;
use super::headers::{ACK, Headers, PSH, Transport};
use super::segment::MAX_SEGMENTS;
use crate::{Checksum, Frame, Packet, PortId, Segmentation};

/// Datagrams in a UDP super-frame at most, as Linux takes them from a TAP.
pub const MAX_DATAGRAMS: u16 = 124;

/// Flows of a batch that can be joined at a time; one more ends the oldest.
const FLOWS: usize = 16;

/// The super-frames that a device takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Accepts {
    /// [`Segmentation::TcpV4`].
    pub tcp_v4: bool,
    /// [`Segmentation::TcpV6`].
    pub tcp_v6: bool,
    /// [`Segmentation::Udp`], over both versions of IP.
    pub udp: bool,
}

impl Accepts {
    /// All of them.
    pub const ALL: Accepts = Accepts {
        tcp_v4: true,
        tcp_v6: true,
        udp: true,
    };
}

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The port; packets for different ones are never joined.
    pub port: PortId,
    /// What its device takes.
    pub accepts: Accepts,
    /// Where its IP header is. Frames with a tunnel's IP header among their bytes
    /// ([`Layout::outer`]) are passed over.
    pub layout: Layout,
}

/// Joins packets of a batch, in order, into super-frames; returns how many were
/// appended to others. Those are left empty ([`Frame::is_empty`]), and the
/// frames that they were appended to come to stand for them.
///
/// Joined are packets of one flow that follow each other in the batch, in
/// sequence, and differ in nothing that a receiver of the segments could see:
/// headers equal up to lengths, sequence number and checksum; consecutive IPv4
/// identification; equal payload sizes up to the last's, which may be shorter;
/// TCP with ACK and no other flag but PSH, which ends a super-frame. A packet
/// that cannot be joined ends its flow's super-frame; one whose flow is not known
/// (a fragment, ICMP) ends all, so nothing is reordered.
///
/// Every packet joined has a checksum that is right: verified by a device, or
/// unfinished with the right sum in its field, or else it is checked here. UDP
/// without a checksum is not joined. A super-frame has an unfinished checksum
/// ([`Checksum::Partial`]) with the pseudo-header's sum in the field.
///
/// Payloads are appended to the first packet's frame. When that has no room they
/// go to a buffer of `spares`, and its frame with them; an empty iterator will do.
///
/// `target` says where a packet goes; those for which it says `None` are passed over.
pub fn coalesce<'b>(
    batch: &mut [Packet<'b>],
    spares: &mut dyn Iterator<Item = &'b mut [u8]>,
    mut target: impl FnMut(&Packet<'b>) -> Option<Target>,
) -> usize {
    let mut flows = heapless::Vec::<Flow, FLOWS>::new();
    let mut joined = 0;
    for index in 0..batch.len() {
        let (earlier, rest) = batch.split_at_mut(index);
        let Some(packet) = rest.first_mut() else {
            break;
        };
        let Some(target) = target(packet)
            .filter(|target| target.layout.outer.is_none() && !packet.frame.is_empty())
        else {
            continue;
        };
        let frame = &mut packet.frame;
        let Ok(headers) = Headers::parse(frame.bytes(), usize::from(target.layout.inner)) else {
            end_all(&mut flows, earlier);
            continue;
        };
        let key = key(target.port, &headers, frame.bytes());
        let known = flows.iter().position(|flow| flow.key == key);
        if let Some(at) = known
            && let Some(flow) = flows.get_mut(at)
            && let Some(head) = earlier.get_mut(flow.head)
            && let Some(more) = flow.join(&mut head.frame, frame, &headers, spares)
        {
            joined += 1;
            frame.truncate(0);
            if !more {
                end(&mut flows, at, earlier);
            }
            continue;
        }
        if let Some(at) = known {
            end(&mut flows, at, earlier);
        }
        if let Some(flow) = Flow::begin(index, key, &target, frame, &headers) {
            if flows.is_full() {
                end(&mut flows, 0, earlier);
            }
            // There is room: one has just been taken out if not.
            let _ = flows.push(flow);
        }
    }
    end_all(&mut flows, batch);
    joined
}

fn end_all(flows: &mut heapless::Vec<Flow, FLOWS>, batch: &mut [Packet<'_>]) {
    for flow in flows.iter() {
        flow.finish(batch);
    }
    flows.clear();
}

/// Finishes a flow's super-frame and forgets the flow.
fn end(flows: &mut heapless::Vec<Flow, FLOWS>, at: usize, batch: &mut [Packet<'_>]) {
    if at < flows.len() {
        flows.remove(at).finish(batch);
    }
}

/// A number that is equal for packets of one flow: of port, protocol, addresses
/// and ports. Two flows with one number only keep each other from being joined.
fn key(port: PortId, headers: &Headers, frame: &[u8]) -> u64 {
    let transport = headers.ip.payload;
    let addresses = frame.get(headers.ip.addresses()).unwrap_or_default();
    let ports = frame.get(transport..transport + 4).unwrap_or_default();
    let mut key = u64::from(port.0) << 8 | u64::from(headers.ip.protocol);
    let words = addresses.as_chunks().0.iter().chain(ports.as_chunks().0);
    for word in words {
        key = (key ^ u64::from(u32::from_ne_bytes(*word))).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        key ^= key >> 32;
    }
    key
}

/// A flow whose latest packet could be continued.
struct Flow {
    key: u64,
    /// The first packet's place in the batch, and its headers.
    head: usize,
    headers: Headers,
    /// Payload bytes of each packet but the last.
    size: u16,
    /// Packets joined, the first one included.
    count: u16,
    /// Whether the first packet's checksum is known to be right.
    checked: bool,
    /// Whether the last packet had TCP's PSH.
    push: bool,
}

impl Flow {
    /// A flow that begins with this packet; `None` when nothing could follow it.
    fn begin(
        head: usize,
        key: u64,
        target: &Target,
        frame: &Frame<'_>,
        headers: &Headers,
    ) -> Option<Flow> {
        let accepted = match (headers.transport, headers.ip.ident) {
            (Transport::Tcp { flags: ACK, .. }, Some(_)) => target.accepts.tcp_v4,
            (Transport::Tcp { flags: ACK, .. }, None) => target.accepts.tcp_v6,
            (Transport::Tcp { .. }, _) => false,
            (Transport::Udp, _) => target.accepts.udp,
        };
        let size = u16::try_from(headers.ip.end - headers.payload).ok()?;
        (accepted && size > 0 && is_joinable(frame, headers)).then_some(Flow {
            key,
            head,
            headers: *headers,
            size,
            count: 1,
            checked: false,
            push: false,
        })
    }

    /// Appends a packet to the flow's super-frame, and says whether another may
    /// follow. `None`, and no change, when it does not belong there.
    fn join<'b>(
        &mut self,
        head: &mut Frame<'b>,
        frame: &Frame<'_>,
        headers: &Headers,
        spares: &mut dyn Iterator<Item = &'b mut [u8]>,
    ) -> Option<bool> {
        let payload = frame.bytes().get(headers.payload..headers.ip.end)?;
        if payload.is_empty()
            || payload.len() > usize::from(self.size)
            || !is_joinable(frame, headers)
            || !self.is_continued_by(head, frame, headers)
        {
            return None;
        }
        self.checked = self.checked || is_right(head, &self.headers);
        if !self.checked || !is_right(frame, headers) {
            return None;
        }
        if head.tailroom() < payload.len() && self.count == 1 {
            head.move_to(spares.next()?)?;
        }
        head.push_back(payload)?;
        self.count += 1;
        self.push = matches!(headers.transport, Transport::Tcp { flags, .. } if flags & PSH != 0);
        let limit = match self.headers.transport {
            Transport::Tcp { .. } => MAX_SEGMENTS,
            Transport::Udp => MAX_DATAGRAMS,
        };
        Some(!self.push && payload.len() == usize::from(self.size) && self.count < limit)
    }

    /// Whether the packet's headers are those of the segment that comes next.
    fn is_continued_by(&self, head: &Frame<'_>, frame: &Frame<'_>, headers: &Headers) -> bool {
        let (ours, theirs) = (head.bytes(), frame.bytes());
        let at = self.headers.ip.at;
        let in_sequence = match (self.headers.transport, headers.transport) {
            (
                Transport::Tcp { sequence, .. },
                Transport::Tcp {
                    sequence: next,
                    flags,
                },
            ) => {
                let sent = u32::from(self.size) * u32::from(self.count);
                next == sequence.wrapping_add(sent) && flags & !PSH == ACK
            }
            (Transport::Udp, Transport::Udp) => true,
            _ => false,
        };
        in_sequence
            && head.outer == frame.outer
            && at == headers.ip.at
            && ours.get(..at) == theirs.get(..at)
            && self
                .headers
                .ip
                .is_continued_by(ours, &headers.ip, theirs, self.count)
            && self.headers.is_like(ours, headers, theirs)
    }

    /// Makes the first packet's frame a super-frame, if others were joined to it.
    fn finish(&self, batch: &mut [Packet<'_>]) {
        let Some(head) = batch.get_mut(self.head) else {
            return;
        };
        if self.count > 1 {
            // Frame and headers are those of `begin`, so nothing can be missing.
            let _ = self.mark(&mut head.frame);
        }
    }

    fn mark(&self, frame: &mut Frame<'_>) -> Option<()> {
        let headers = &self.headers;
        let (end, size) = (frame.len(), self.size);
        let len = u16::try_from(end.checked_sub(headers.ip.payload)?).ok()?;
        let start = u16::try_from(headers.ip.payload).ok()?;
        let sum = crate::wire::checksum::fold(headers.ip.pseudo_header(len));
        let bytes = frame.bytes_mut();
        headers.ip.update(bytes, end, 0)?;
        headers.update(bytes, end, sum)?;
        if let Transport::Tcp { sequence, flags } = headers.transport
            && self.push
        {
            headers.update_tcp(bytes, sequence, flags | PSH)?;
        }
        frame.segmentation = match (headers.transport, headers.ip.ident) {
            (Transport::Tcp { .. }, Some(_)) => Segmentation::TcpV4 { size },
            (Transport::Tcp { .. }, None) => Segmentation::TcpV6 { size },
            (Transport::Udp, _) => Segmentation::Udp { size },
        };
        frame.checksum = Checksum::Partial {
            start,
            offset: headers.checksum_offset(),
        };
        Some(())
    }
}

/// Whether a packet is one that can be joined, whatever to: whole, without bytes
/// behind it, and with a checksum.
fn is_joinable(frame: &Frame<'_>, headers: &Headers) -> bool {
    let absent = headers.transport == Transport::Udp && headers.checksum(frame.bytes()) == 0;
    frame.segmentation == Segmentation::None && headers.ip.end == frame.len() && !absent
}

/// Whether the packet's checksum is right.
fn is_right(frame: &Frame<'_>, headers: &Headers) -> bool {
    match frame.checksum {
        Checksum::Verified => true,
        Checksum::None => headers.is_valid(frame.bytes()),
        Checksum::Partial { start, offset } => {
            let pseudo = headers.ip.pseudo_header(headers.transport_len());
            usize::from(start) == headers.ip.payload
                && offset == headers.checksum_offset()
                && headers.checksum(frame.bytes()) == crate::wire::checksum::fold(pseudo)
        }
    }
}
