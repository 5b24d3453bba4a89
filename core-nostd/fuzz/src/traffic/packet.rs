//! Checksums of packets, and what devices say of them.

use culvert_core::{Checksum, Segmentation};
use etherparse::checksum::Sum16BitWords;

use crate::Reader;

/// An IP packet, and where its transport layer is, whatever its bytes say.
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) l4: usize,
    pub(super) protocol: u8,
    pub(super) v6: bool,
    pub(super) fragment: bool,
}

impl Packet {
    /// Where the transport layer's checksum is, from its start.
    fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            1 | 58 => Some(2),
            6 => Some(16),
            17 => Some(6),
            _ => None,
        }
    }

    fn pseudo_header(&self) -> Sum16BitWords {
        let addresses = if self.v6 { 8..40 } else { 12..20 };
        let len = u16::try_from(self.bytes.len() - self.l4).expect("16 bits");
        match self.protocol {
            1 => Sum16BitWords::new(),
            protocol => Sum16BitWords::new()
                .add_slice(&self.bytes[addresses])
                .add_2bytes([0, protocol])
                .add_2bytes(len.to_be_bytes()),
        }
    }

    /// Writes the header's checksum and the transport layer's.
    pub(super) fn make_checksums(&mut self, ip: bool, transport: bool) {
        if ip && !self.v6 && self.bytes.len() >= 20 {
            let len = (usize::from(self.bytes[0] & 15) * 4).clamp(20, self.bytes.len());
            self.bytes[10..12].fill(0);
            let sum = Sum16BitWords::new().add_slice(&self.bytes[..len]);
            self.bytes[10..12].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        }
        if !transport || self.fragment {
            return;
        }
        self.set_transport_checksum(|packet| {
            let sum = packet.pseudo_header().add_slice(&packet.bytes[packet.l4..]);
            match sum.ones_complement() {
                0 if packet.protocol == 17 => 0xffff,
                sum => sum,
            }
        });
    }

    /// Writes what `sum` says, over the packet with a zero in its place, into the
    /// checksum field; whether there is one.
    fn set_transport_checksum(&mut self, sum: impl Fn(&Packet) -> u16) -> bool {
        let Some(offset) = self.checksum_offset() else {
            return false;
        };
        let field = self.l4 + offset..self.l4 + offset + 2;
        if field.end > self.bytes.len() {
            return false;
        }
        self.bytes[field.clone()].fill(0);
        let sum = sum(self);
        self.bytes[field].copy_from_slice(&sum.to_ne_bytes());
        true
    }

    /// Leaves the checksum to whoever sends the packet on; where it starts and the
    /// field is, as offsets from the packet's start.
    fn unfinish(&mut self) -> Option<(usize, usize)> {
        if self.fragment {
            return None;
        }
        let done = self.set_transport_checksum(|packet| !packet.pseudo_header().ones_complement());
        let offset = self.checksum_offset().filter(|_| done)?;
        Some((self.l4, offset))
    }

    /// What a device says about this packet when so many bytes are in front of it.
    pub(super) fn marks(
        &mut self,
        reader: &mut Reader<'_>,
        before: usize,
    ) -> (Checksum, Segmentation) {
        let partial = |start: usize, offset: usize| Checksum::Partial {
            start: u16::try_from(start).unwrap_or(u16::MAX),
            offset: u16::try_from(offset).unwrap_or(u16::MAX),
        };
        let checksum = match reader.below(8) {
            0..4 => Checksum::None,
            4 => Checksum::Verified,
            5 | 6 => match self.unfinish() {
                Some((start, offset)) => partial(before + start, offset),
                None => Checksum::None,
            },
            _ => match reader.flag() {
                false => partial(reader.u8().into(), reader.u8().into()),
                true => partial(reader.u16().into(), reader.u16().into()),
            },
        };
        if !reader.rarely(4) {
            return (checksum, Segmentation::None);
        }
        let size = match reader.below(8) {
            7 => reader.u16(),
            n => [1400, 1000, 536, 1350, 1, 0, 100][n],
        };
        let segmentation = match (reader.rarely(8), self.protocol, self.v6) {
            (false, 6, false) => Segmentation::TcpV4 { size },
            (false, 6, true) => Segmentation::TcpV6 { size },
            (false, ..) => Segmentation::Udp { size },
            (true, 6, _) => Segmentation::Udp { size },
            (true, ..) => Segmentation::TcpV4 { size },
        };
        (checksum, segmentation)
    }

    /// Makes its checksums; at times not all.
    pub(super) fn with_checksums(mut self, reader: &mut Reader<'_>) -> Packet {
        let kept = reader.below(16);
        self.make_checksums(kept != 14, kept < 12);
        self
    }
}
