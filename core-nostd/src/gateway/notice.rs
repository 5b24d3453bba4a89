//! Where frames on a raw port come from: a neighbor that has moved without a word is
//! found out by what it sends.

use core::net::{IpAddr, Ipv4Addr};

use super::{Gateway, Instant, Packet};
use crate::tables::entry::PortEntry;
use crate::wire::{ethernet, ip, ipv4, ipv6};
use crate::{Frame, MacAddr, PortId};

/// Bytes of Ethernet and IPv4 header.
const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// What an IPv4 frame says of its sender: its Ethernet header and its source.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sender {
    ethernet: u128,
    src: u32,
}

impl Sender {
    /// Of a frame that has an IPv4 header, right or wrong.
    #[inline(always)]
    fn of(frame: &Frame<'_>) -> Option<Sender> {
        let headers: &[u8; HEADERS] = frame.content()?.first_chunk()?;
        // The Ethernet header, and two bytes more of which none counts.
        let ethernet = u128::from_be_bytes(*headers.first_chunk()?) >> 16;
        let [.., a, b, c, d, _, _, _, _] = *headers;
        Some(Sender {
            ethernet,
            src: u32::from_be_bytes([a, b, c, d]),
        })
    }

    fn is_ipv4(self) -> bool {
        self.ethernet & 0xffff == u128::from(ethernet::IPV4)
    }

    fn mac(self) -> MacAddr {
        let [.., a, b, c, d, e, f, _, _] = self.ethernet.to_be_bytes();
        MacAddr::new([a, b, c, d, e, f])
    }
}

impl Gateway<'_> {
    /// Looks at where the frames of a batch come from.
    #[cold]
    #[inline(never)]
    pub(super) fn notice(&mut self, now: Instant, id: PortId, batch: &[Packet<'_>]) {
        let Some(port) = self.tables.ports.get(id.index()) else {
            return;
        };
        if self.state.by_stages {
            for packet in batch {
                self.look(now, id, &packet.frame);
            }
            return;
        }
        let near = port.allowed.first_v4();
        let mut last = None;
        for packet in batch {
            let sender = Sender::of(&packet.frame);
            // What was done about the last one need not be done again.
            if sender.is_some() && sender == last {
                continue;
            }
            last = sender.filter(|sender| {
                self.is_expected(id, near, *sender) || self.look(now, id, &packet.frame)
            });
        }
    }

    /// Whether a frame, even if it is right, tells nothing new of a neighbor on the
    /// prefix that is on the link.
    fn is_expected(&self, id: PortId, (bits, mask): (u32, u32), sender: Sender) -> bool {
        let near = (sender.src ^ bits) & mask == 0;
        let src = Ipv4Addr::from_bits(sender.src);
        let neighbors = &self.tables.neighbors;
        sender.is_ipv4() && near && neighbors.expects(id, src, sender.mac())
    }

    /// Looks at where a frame comes from; returns whether it has a right IPv4 header,
    /// so that others from there tell nothing more.
    #[inline(never)]
    fn look(&mut self, now: Instant, id: PortId, frame: &Frame<'_>) -> bool {
        let Some((ethernet, packet)) = ethernet::Header::parse(frame.bytes()) else {
            return false;
        };
        let src = match ethernet.ethertype {
            ethernet::IPV4 => ipv4::Header::parse(packet).ok().map(|h| IpAddr::V4(h.src)),
            ethernet::IPV6 => ipv6::Header::parse(packet).ok().map(|h| IpAddr::V6(h.src)),
            _ => None,
        };
        let port = self.tables.ports.get(id.index());
        let Some((src, port)) = src.zip(port) else {
            return false;
        };
        if let Some(sender) = self.sender_of(id, port, (&ethernet, src)) {
            let neighbors = &mut self.tables.neighbors;
            neighbors.suspect(now, (id, sender), ethernet.src);
        }
        src.is_ipv4()
    }

    /// The neighbor that sent a packet to this node, as far as it can be known.
    fn sender_of(
        &self,
        id: PortId,
        port: &PortEntry,
        (ethernet, src): (&ethernet::Header, IpAddr),
    ) -> Option<IpAddr> {
        if ethernet.dst != port.mac || !ethernet.src.is_device() || !ip::is_host(src) {
            return None;
        }
        // Without a tunnel the source is a pod, whose peer is the neighbor.
        if port.allowed.covers(src) {
            return Some(src);
        }
        let (_, (_, peer)) = self.tables.direct_peer(id, src)?;
        Some(peer.underlay.address())
    }
}
