//! IPv4 headers with every first byte and every word of flags and offset, from each
//! direction; etherparse says what they mean.

use culvert_core::wire::ipv4::{Error, Header};
use culvert_core::*;
use etherparse::err::Layer;
use etherparse::err::ipv4::HeaderError;
use etherparse::err::ipv4::SliceError;
use etherparse::{Ipv4Header, Ipv4HeaderSlice, Ipv4Slice};

use crate::common::*;

/// A protocol for experiments (RFC 3692), of which the core knows nothing.
const PROTOCOL: u8 = 253;
const TTL: u8 = 9;

/// Where a packet comes in, what stands in front of it, and where it leaves.
struct Direction {
    ingress: PortId,
    src: [u8; 4],
    dst: [u8; 4],
    before: Vec<u8>,
    outer: Option<Outer>,
    egress: PortId,
    /// Bytes in front of the packet when it leaves.
    link: usize,
}

fn directions() -> [Direction; 4] {
    let link = |src: [u8; 6]| [&GATEWAY_MAC[..], &src, &[8, 0]].concat();
    let tunnel = vxlan(&from_vtep(link(MAC_A)), 1);
    let pod = Direction {
        ingress: POD_A,
        src: A,
        dst: B,
        before: link(MAC_A),
        outer: None,
        egress: POD_B,
        link: 14,
    };
    [
        Direction {
            dst: REMOTE,
            before: link(MAC_A),
            egress: UNDERLAY,
            link: 8 + 14,
            ..pod
        },
        Direction {
            ingress: HOST,
            src: [10, 244, 1, 0],
            before: link(HOST_MAC),
            ..pod
        },
        Direction {
            ingress: UNDERLAY,
            src: REMOTE,
            before: tunnel.bytes,
            outer: tunnel.outer,
            ..pod
        },
        pod,
    ]
}

impl Direction {
    /// Runs a packet and gives the fate and the packet that leaves.
    fn run<'b>(
        &self,
        gateway: &mut Gateway<'_>,
        packet: &[u8],
        buffer: &'b mut [u8; 1024],
    ) -> (Fate, &'b [u8]) {
        let whole = buffer[Frame::HEADROOM..].split_at_mut(self.before.len());
        whole.0.copy_from_slice(&self.before);
        whole.1[..packet.len()].copy_from_slice(packet);
        let len = self.before.len() + packet.len();
        let mut frame = Frame::new(buffer, Frame::HEADROOM, len).unwrap();
        frame.outer = self.outer;
        let mut batch = [Packet::new(frame)];
        let now = Instant::from_micros(1);
        gateway.process(now, self.ingress, &mut batch, &mut Originated::none());
        let [Packet { mut frame, fate }] = batch;
        let range = frame.buffer_mut().1;
        (fate, buffer[range].get(self.link..).unwrap_or_default())
    }

    /// A packet without a checksum.
    fn packet(&self, len: usize) -> Vec<u8> {
        let total = u16::try_from(len - 20).unwrap();
        let ip = Ipv4Header::new(total, TTL, PROTOCOL.into(), self.src, self.dst).unwrap();
        let mut packet = ip.to_bytes().to_vec();
        packet.resize(len, 0);
        packet
    }
}

/// Sets the checksum over as much of the header as there is.
fn set_checksum(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    let len = usize::from(first & 15) * 4;
    if packet.len() < 20 || len > packet.len() {
        return;
    }
    packet[10..12].fill(0);
    let mut sum = etherparse::checksum::Sum16BitWords::new();
    sum = sum.add_slice(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.ones_complement().to_be().to_be_bytes());
}

/// What etherparse has against a packet, in the core's words. It knows no limit
/// of a fragment's end, which is RFC 791's longest packet.
fn refused(packet: &[u8]) -> Option<DropReason> {
    let parsed = match Ipv4Slice::from_slice(packet) {
        Ok(parsed) => parsed,
        Err(SliceError::Header(HeaderError::UnexpectedVersion { .. })) => {
            return Some(DropReason::Ipv4Version);
        }
        Err(SliceError::Header(_)) => return Some(DropReason::Ipv4HeaderLength),
        Err(SliceError::Len(_)) if packet.len() < 20 => return Some(DropReason::Ipv4Truncated),
        Err(SliceError::Len(error)) if error.layer == Layer::Ipv4Header => {
            return Some(DropReason::Ipv4HeaderLength);
        }
        Err(SliceError::Len(_)) => return Some(DropReason::Ipv4TotalLength),
        Err(error) => panic!("{error}"),
    };
    let header = parsed.header();
    let offset = header.fragments_offset().byte_offset();
    let end = usize::from(offset) + usize::from(header.total_len());
    (end > 65_535).then_some(DropReason::Ipv4TotalLength)
}

/// The packet that should leave: cut to its length, one hop older.
fn forwarded(packet: &[u8]) -> Vec<u8> {
    let header = Ipv4HeaderSlice::from_slice(packet).unwrap();
    let mut expected = packet[..usize::from(header.total_len())].to_vec();
    expected[8] -= 1;
    set_checksum(&mut expected);
    expected
}

fn check(gateway: &mut Gateway<'_>, direction: &Direction, packet: &[u8]) {
    let mut buffer = [0xa5; 1024];
    let (fate, left) = direction.run(gateway, packet, &mut buffer);
    match refused(packet) {
        Some(reason) => assert_eq!(fate, Fate::Drop(reason), "{packet:02x?}"),
        None => {
            assert_eq!(fate, Fate::Forward(direction.egress), "{packet:02x?}");
            assert_eq!(left, forwarded(packet));
        }
    }
}

#[test]
fn every_word_of_flags_and_offset_is_read_as_etherparse_reads_it() {
    for len in [20usize, 23, 24, 28, 576] {
        let mut packet = directions()[0].packet(len);
        for word in 0..=u16::MAX {
            packet[6..8].copy_from_slice(&word.to_be_bytes());
            set_checksum(&mut packet);
            let theirs = Ipv4HeaderSlice::from_slice(&packet).unwrap();
            let header = match Header::parse(&packet) {
                Ok(header) => header,
                Err(error) => {
                    assert_eq!(error, Error::TotalLength);
                    assert_eq!(refused(&packet), Some(DropReason::Ipv4TotalLength));
                    continue;
                }
            };
            assert_eq!(refused(&packet), None);
            assert_eq!(header.dont_fragment, theirs.dont_fragment());
            assert_eq!(header.more_fragments, theirs.more_fragments());
            assert_eq!(header.fragment_offset, theirs.fragments_offset().value());
            assert_eq!(header.is_fragment(), theirs.is_fragmenting_payload());
        }
    }
}

#[test]
fn every_word_of_flags_and_offset_goes_through_from_each_direction() {
    for (direction, len) in directions().iter().zip([23, 28, 31, 39]) {
        Node::new(1).run(|gateway| {
            let mut packet = direction.packet(len);
            for word in 0..=u16::MAX {
                packet[6..8].copy_from_slice(&word.to_be_bytes());
                set_checksum(&mut packet);
                check(gateway, direction, &packet);
            }
        });
    }
}

#[test]
fn every_first_byte_with_every_length_from_each_direction() {
    for direction in directions() {
        Node::new(1).run(|gateway| {
            let whole = direction.packet(64);
            for first in 0..=255u8 {
                for len in 0..=64usize {
                    let mut packet = whole[..len].to_vec();
                    let header = usize::from(first & 15) * 4;
                    for total in [
                        len,
                        len + 1,
                        len.saturating_sub(1),
                        header,
                        header.wrapping_sub(1),
                    ] {
                        let total = u16::try_from(total).unwrap_or(u16::MAX);
                        let fields = [first, 0].into_iter().chain(total.to_be_bytes());
                        packet
                            .iter_mut()
                            .zip(fields)
                            .for_each(|(to, from)| *to = from);
                        set_checksum(&mut packet);
                        check(gateway, &direction, &packet);
                    }
                }
            }
        });
    }
}

#[test]
fn every_total_length_from_each_direction() {
    for direction in directions() {
        Node::new(1).run(|gateway| {
            let mut packet = direction.packet(100);
            for total in 0..=u16::MAX {
                packet[2..4].copy_from_slice(&total.to_be_bytes());
                set_checksum(&mut packet);
                check(gateway, &direction, &packet);
            }
        });
    }
}

#[test]
fn every_wrong_checksum_is_seen_from_each_direction() {
    for direction in directions() {
        Node::new(1).run(|gateway| {
            let mut packet = direction.packet(24);
            set_checksum(&mut packet);
            let right = [packet[10], packet[11]];
            for checksum in 0..=u16::MAX {
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
                if [packet[10], packet[11]] == right {
                    continue;
                }
                let mut buffer = [0; 1024];
                let (fate, _) = direction.run(gateway, &packet, &mut buffer);
                assert_eq!(
                    fate,
                    Fate::Drop(DropReason::Ipv4Checksum),
                    "{checksum:#06x}"
                );
            }
        });
    }
}
