//! Wishes to connect that came lately. Who sends them with addresses that are not his
//! does not send the same one twice, or at once, and a host does that has no answer: a
//! second after the first.

use culvert_core::Instant;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6Packet, TcpPacket,
};

/// Wishes that are remembered, a power of two: at a thousand in a second nine of ten are
/// still known after one.
const PLACES: usize = 8_192;

/// The fewest and the most units of time between two that are alike, of 65.5 ms each:
/// half a second and ten.
const APART: core::ops::Range<u16> = 8..152;

/// A part of a wish's hash, in the place that another part names, and when it came.
#[derive(Clone, Copy)]
struct Knock {
    mark: u16,
    at: u16,
}

/// What is remembered.
pub(super) struct Knocks([Knock; PLACES]);

impl Knocks {
    /// None yet.
    pub(super) const fn new() -> Self {
        Knocks([Knock { mark: 0, at: 0 }; PLACES])
    }

    /// Whether a frame is anything but a wish to connect to a TCP port, or one that came
    /// before, about a second ago.
    pub(super) fn admits(&mut self, frame: &[u8], port: u16, now: Instant) -> bool {
        let Some(hash) = knock(frame, port) else {
            return true;
        };
        let [a, b, c, d] = hash.to_be_bytes();
        // 0 is a place that nobody was put in.
        let mark = u16::from_be_bytes([a, b]) | 1;
        let place = usize::from(u16::from_be_bytes([c, d])) % PLACES;
        let Some(known) = self.0.get_mut(place) else {
            return true;
        };
        let [.., e, f, _, _] = now.micros().to_be_bytes();
        let at = u16::from_be_bytes([e, f]);
        let is_known = known.mark == mark && APART.contains(&at.wrapping_sub(known.at));
        *known = Knock { mark, at };
        is_known
    }
}

/// The hash of a wish to connect, which is the same when it comes again; `None` when
/// the frame is something else.
fn knock(frame: &[u8], port: u16) -> Option<u32> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
            let is_tcp = packet.next_header() == IpProtocol::Tcp;
            let from = packet.src_addr().to_bits();
            is_tcp.then(|| of_segment(packet.payload(), port, from.into()))?
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
            let from = packet.src_addr().to_bits();
            match packet.next_header() {
                IpProtocol::Tcp => of_segment(packet.payload(), port, from),
                // The one header that the stack looks behind.
                IpProtocol::HopByHop => {
                    let options = Ipv6ExtHeader::new_checked(packet.payload()).ok()?;
                    let len = 8 * (usize::from(options.header_len()) + 1);
                    let is_tcp = options.next_header() == IpProtocol::Tcp;
                    is_tcp.then(|| of_segment(packet.payload().get(len..)?, port, from))?
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn of_segment(segment: &[u8], port: u16, from: u128) -> Option<u32> {
    let segment = TcpPacket::new_checked(segment).ok()?;
    if !segment.syn() || segment.ack() || segment.dst_port() != port {
        return None;
    }
    let [a, b, c, d] = segment.seq_number().0.to_be_bytes();
    let [e, f] = segment.src_port().to_be_bytes();
    let bytes = from.to_be_bytes().into_iter().chain([a, b, c, d, e, f]);
    // FNV-1a, and its upper bits into the lower ones. Who finds out which others share
    // a place gains a second.
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    Some(hash ^ hash >> 15)
}
