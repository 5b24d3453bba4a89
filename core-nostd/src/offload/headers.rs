//! The headers of a packet that is cut or joined: where they are, and what
//! changes in them from segment to segment.

use crate::wire::{checksum, ip, ipv4, ipv6, l4};

/// Where the TCP header has the sequence number, in bytes (RFC 9293 section 3.1).
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const UDP_LEN: usize = 4;
/// TCP's flags.
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const URG: u8 = 0x20;
pub(super) const CWR: u8 = 0x80;

/// Why a packet can be neither cut nor joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderError {
    /// No IP header with right lengths and checksum at the place.
    NotIp,
    /// A fragment.
    Fragment,
    /// Neither TCP nor UDP, or source routed.
    Protocol,
    /// The TCP header or UDP header is truncated or has an impossible length.
    Transport,
}

/// An IP header in a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    /// Offset of the header.
    pub(super) at: usize,
    /// Offset of what follows it.
    pub(super) payload: usize,
    /// Offset of the packet's end.
    pub(super) end: usize,
    /// Protocol number of what follows.
    pub(super) protocol: u8,
    /// The identification that IPv4 has.
    pub(super) ident: Option<u16>,
    /// Sum of the pseudo-header without the length.
    pub(super) pseudo: u64,
}

impl Ip {
    /// The header at `at` of a frame, whose packet lies within it.
    pub(super) fn parse(frame: &[u8], at: usize) -> Result<Ip, HeaderError> {
        let packet = frame.get(at..).unwrap_or_default();
        let header = ip::Header::parse(packet).map_err(|_| HeaderError::NotIp)?;
        if header.is_fragment() {
            return Err(HeaderError::Fragment);
        }
        // The last destination, which the pseudo-header has, is among the options.
        if header.source_routed {
            return Err(HeaderError::Protocol);
        }
        let ident = match header.is_v6() {
            true => None,
            false => get(packet, 4).map(u16::from_be_bytes),
        };
        Ok(Ip {
            at,
            payload: at + usize::from(header.header_len),
            end: at + usize::from(header.total_len),
            protocol: header.protocol,
            ident,
            pseudo: checksum::pseudo_header(header.src, header.dst, header.protocol, 0),
        })
    }

    /// Offset of the addresses, which reach to `payload` or the IPv4 options.
    pub(super) fn addresses(&self) -> core::ops::Range<usize> {
        match self.ident {
            Some(_) => self.at + 12..self.at + 20,
            None => self.at + 8..self.at + ipv6::HEADER_LEN,
        }
    }

    /// The pseudo-header's sum for an upper layer of `len` bytes.
    pub(super) fn pseudo_header(&self, len: u16) -> u64 {
        self.pseudo + u64::from(len)
    }

    /// Makes `frame`, which has a copy of the header, the `index`-th of the
    /// packets that the header stands for: it ends at `end`.
    pub(super) fn update(&self, frame: &mut [u8], end: usize, index: u16) -> Option<()> {
        let packet = frame.get_mut(self.at..)?;
        match self.ident {
            Some(ident) => {
                let len = u16::try_from(end.checked_sub(self.at)?).ok()?;
                ipv4::set_length_and_ident(packet, len, ident.wrapping_add(index));
            }
            None => {
                let len = end.checked_sub(self.at + ipv6::HEADER_LEN)?;
                set(packet, 4, u16::try_from(len).ok()?.to_be_bytes())?;
            }
        }
        Some(())
    }

    /// Whether `other` belongs to a packet like this one's `index`-th: only
    /// lengths and the checksum differ.
    pub(super) fn is_continued_by(
        &self,
        ours: &[u8],
        other: &Ip,
        theirs: &[u8],
        index: u16,
    ) -> bool {
        let same = |range: core::ops::Range<usize>| {
            let ours = ours.get(self.at + range.start..self.at + range.end);
            ours.is_some() && ours == theirs.get(other.at + range.start..other.at + range.end)
        };
        let len = self.payload - self.at;
        if other.payload - other.at != len {
            return false;
        }
        match (self.ident, other.ident) {
            // Version, header length, TOS; fragmentation, TTL, protocol; addresses, options.
            (Some(first), Some(ident)) => {
                ident == first.wrapping_add(index) && same(0..2) && same(6..10) && same(12..len)
            }
            // Version, traffic class, flow label; next header, hop limit, addresses, extensions.
            (None, None) => same(0..4) && same(6..len),
            _ => false,
        }
    }
}

/// The transport header of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Tcp { sequence: u32, flags: u8 },
    Udp,
}

/// A TCP or UDP packet in a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers {
    pub(super) ip: Ip,
    pub(super) transport: Transport,
    /// Offset of the TCP or UDP payload.
    pub(super) payload: usize,
}

impl Headers {
    /// The headers of the packet at `at` of a frame.
    pub(super) fn parse(frame: &[u8], at: usize) -> Result<Headers, HeaderError> {
        let ip = Ip::parse(frame, at)?;
        let packet = frame.get(ip.payload..ip.end).ok_or(HeaderError::NotIp)?;
        let (transport, len) = match ip.protocol {
            ip::TCP => {
                let len = l4::tcp_header_len(packet).ok_or(HeaderError::Transport)?;
                let sequence = get(packet, TCP_SEQUENCE).map(u32::from_be_bytes);
                let flags = packet.get(TCP_FLAGS).copied();
                let (Some(sequence), Some(flags)) = (sequence, flags) else {
                    return Err(HeaderError::Transport);
                };
                (Transport::Tcp { sequence, flags }, len)
            }
            ip::UDP => {
                let len = get(packet, UDP_LEN).map(u16::from_be_bytes);
                if packet.len() < usize::from(l4::UDP_HEADER_LEN)
                    || len.map(usize::from) != Some(packet.len())
                {
                    return Err(HeaderError::Transport);
                }
                (Transport::Udp, l4::UDP_HEADER_LEN)
            }
            _ => return Err(HeaderError::Protocol),
        };
        let payload = ip.payload + usize::from(len);
        Ok(Headers {
            ip,
            transport,
            payload,
        })
    }

    /// Offset of the transport's checksum field from the transport header.
    pub(super) fn checksum_offset(&self) -> u16 {
        l4::checksum_offset(self.ip.protocol).unwrap_or_default()
    }

    /// The transport's checksum field.
    pub(super) fn checksum(&self, frame: &[u8]) -> u16 {
        let at = self.ip.payload + usize::from(self.checksum_offset());
        get(frame, at).map_or(0, u16::from_be_bytes)
    }

    /// Bytes of transport header and payload.
    pub(super) fn transport_len(&self) -> u16 {
        // Both lie within an IP packet.
        u16::try_from(self.ip.end - self.ip.payload).unwrap_or(u16::MAX)
    }

    /// Whether the transport header of `other` is like this one: ports, and all of
    /// TCP's but sequence number, flags and checksum.
    pub(super) fn is_like(&self, ours: &[u8], other: &Headers, theirs: &[u8]) -> bool {
        let ours = ours.get(self.ip.payload..self.payload);
        let theirs = theirs.get(other.ip.payload..other.payload);
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            return false;
        };
        let same = |range: core::ops::Range<usize>| ours.get(range.clone()) == theirs.get(range);
        ours.len() == theirs.len()
            && match self.transport {
                // Acknowledgment, data offset; window; urgent pointer, options.
                Transport::Tcp { .. } => {
                    same(0..4) && same(8..13) && same(14..16) && same(18..ours.len())
                }
                Transport::Udp => same(0..4),
            }
    }

    /// Whether the checksum verifies.
    pub(super) fn is_valid(&self, frame: &[u8]) -> bool {
        let Some(packet) = frame.get(self.ip.payload..self.ip.end) else {
            return false;
        };
        let pseudo = self.ip.pseudo_header(self.transport_len());
        checksum::fold(pseudo + checksum::sum(packet)) == 0xffff
    }

    /// Stores what a packet that ends at `end` has in its transport header: UDP's
    /// length, and in the checksum field `sum`.
    pub(super) fn update(&self, frame: &mut [u8], end: usize, sum: u16) -> Option<()> {
        let packet = frame.get_mut(self.ip.payload..)?;
        if self.transport == Transport::Udp {
            let len = u16::try_from(end.checked_sub(self.ip.payload)?).ok()?;
            set(packet, UDP_LEN, len.to_be_bytes())?;
        }
        set(
            packet,
            usize::from(self.checksum_offset()),
            sum.to_be_bytes(),
        )
    }

    /// Stores TCP's sequence number and flags.
    pub(super) fn update_tcp(&self, frame: &mut [u8], sequence: u32, flags: u8) -> Option<()> {
        let header = frame.get_mut(self.ip.payload..)?;
        set(header, TCP_SEQUENCE, sequence.to_be_bytes())?;
        set(header, TCP_FLAGS, [flags])
    }
}

/// The `N` bytes at `at`.
pub(super) fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Stores `value` at `at`.
pub(super) fn set<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}
