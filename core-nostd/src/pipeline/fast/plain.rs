//! What a plain packet looks like.

use core::net::Ipv4Addr;

use crate::channel::NetworkOptions;
use crate::tables::entry::NetworkEntry;
use crate::wire::{checksum, ethernet, ip, ipv4, vxlan};
use crate::{Checksum, Frame, MacAddr, Segmentation};

/// Bytes of IPv4 header and UDP header, or the front of TCP's.
pub(super) const PACKET: usize = ipv4::HEADER_LEN + 8;
/// Bytes of VXLAN header, Ethernet header and the front of a packet.
pub(super) const IN_VXLAN: usize = vxlan::HEADER_LEN + ethernet::HEADER_LEN + PACKET;

/// What is read of a plain packet.
pub(super) struct Plain {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) tos: u8,
    pub(super) protocol: u8,
    /// Source and destination port.
    pub(super) ports: u32,
    pub(super) total_len: u16,
}

impl Plain {
    /// Reads the front of an IPv4 packet of at most `room` bytes that has no options,
    /// is whole, may be forwarded, and is TCP or UDP.
    #[inline(always)]
    pub(super) fn parse(h: &[u8; PACKET], room: usize) -> Option<Plain> {
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
    pub(super) fn may_be_clamped(&self, network: &NetworkEntry) -> bool {
        self.protocol == ip::TCP && network.options.has(NetworkOptions::CLAMP_MSS)
    }

    #[inline(always)]
    pub(super) fn dst_port(&self) -> u16 {
        let [_, _, high, low] = self.ports.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Bytes of the packet with so many in front.
    #[inline(always)]
    pub(super) fn len_behind(&self, front: usize) -> usize {
        front + usize::from(self.total_len)
    }
}

/// Whether this is a host's address beyond question: in 1.0.0.0 to 223.255.255.255,
/// and no loopback.
#[inline(always)]
pub(super) fn is_plain_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first.wrapping_sub(1) < 223 && first != 127
}

/// The destination of what should be an IPv4 packet.
pub(super) fn dst(packet: &[u8; PACKET]) -> Option<Ipv4Addr> {
    let address: &[u8; 4] = packet.get(16..)?.first_chunk()?;
    Some(Ipv4Addr::from(*address))
}

/// Whether nothing is to be finished or cut.
#[inline(always)]
pub(super) fn is_finished(frame: &Frame<'_>) -> bool {
    let partial = matches!(frame.checksum, Checksum::Partial { .. });
    frame.segmentation == Segmentation::None && !partial
}

/// The Ethernet header of an IPv4 packet.
#[inline(always)]
pub(super) fn ethernet(dst: MacAddr, src: MacAddr) -> [u8; ethernet::HEADER_LEN] {
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
pub(super) fn words(bytes: &[u8; ethernet::HEADER_LEN]) -> [u64; 2] {
    let word = |chunk: Option<&[u8; 8]>| chunk.map_or(0, |chunk| u64::from_ne_bytes(*chunk));
    [word(bytes.first_chunk()), word(bytes.last_chunk())]
}

/// Whether the prefix that holds all the gateway's addresses has this one.
#[inline(always)]
pub(super) fn may_be_gateway((bits, mask): (u32, u32), address: Ipv4Addr) -> bool {
    (address.to_bits() ^ bits) & mask == 0
}

/// Whether the checksum field may hold the sum of the pseudo-header only.
#[inline(always)]
pub(super) fn may_be_unfinished(plain: &Plain, protocol: u8, field: &[u8; 2]) -> bool {
    // In the packet's byte order, in which the sum is as good (RFC 1071 section 2 B).
    // Taking off is adding the complement, and equal is equal modulo 2^16 - 1: what
    // that takes for equal besides is rare.
    let word = |bytes| u32::from(u16::from_ne_bytes(bytes));
    let address = |address: Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
    let len = word(plain.total_len.to_be_bytes()) + word([0xff, 0xff - 20]);
    let rest = word([0, protocol]) + len + (0xffff - word(*field));
    (address(plain.src) + address(plain.dst) + u64::from(rest)).is_multiple_of(0xffff)
}
