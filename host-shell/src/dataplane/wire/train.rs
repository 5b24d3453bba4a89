//! Trains: datagrams of the tunnel's own UDP in one super-frame, tunnel packets of one
//! flow that follow each other. The kernel cuts them, or hands them over so.

use std::net::IpAddr;

use culvert_core::offload::{Layout, Segments};
use culvert_core::wire::{checksum, ethernet, ip, ipv4, ipv6, l4, udp};
use culvert_core::{Checksum, Frame, Segmentation};

use super::HEADER;
use crate::dataplane::buffers::Received;
use crate::dataplane::{ShellCounter, ShellCounters};
use crate::sys::vnet::{TunnelNetHeader, VirtioNetHeader, VnetChecksum, VnetGso, VnetSegmentation};

/// Octets of the outer headers over IPv4 and over IPv6.
const OVER_V4: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;
const OVER_V6: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN;
/// The most that the datagrams of a train have, so that it is an IP packet.
const LARGEST: usize = 65_000;
/// Where the checksum is in a UDP header.
const UDP_CHECKSUM: u16 = 6;

/// Datagrams that came as one super-frame of the tunnel's own UDP: the packets of several
/// tunnel packets, which the core takes one by one.
pub(super) struct Train {
    bytes: Box<[u8]>,
    /// How many of these are the super-frame; 0 when there is none.
    len: usize,
    checksum: Checksum,
    segmentation: Segmentation,
    /// Datagrams that were taken.
    taken: u16,
}

impl Train {
    /// No train.
    pub(super) fn new() -> Self {
        Train {
            bytes: vec![0; usize::from(u16::MAX)].into_boxed_slice(),
            len: 0,
            checksum: Checksum::None,
            segmentation: Segmentation::None,
            taken: 0,
        }
    }

    /// Whether no datagram waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps a super-frame, to give its datagrams.
    pub(super) fn load(&mut self, bytes: &[u8], marks: &Received, counters: &ShellCounters) {
        let fits = self.bytes.get_mut(..bytes.len());
        let Some(place) = fits else {
            return counters.add(ShellCounter::UnderlayRxTruncated, 1);
        };
        place.copy_from_slice(bytes);
        self.len = bytes.len();
        self.checksum = marks.checksum;
        self.segmentation = marks.segmentation;
        self.taken = 0;
        if self.len > 0 && self.next_len().is_none() {
            counters.add(ShellCounter::SegmentFailed, 1);
            self.len = 0;
        }
    }

    /// Bytes of the next datagram's frame.
    fn next_len(&mut self) -> Option<usize> {
        self.with_segments(|segments| segments.next_len())
    }

    /// Puts the next datagram's frame into a slot.
    pub(super) fn next(&mut self, slot: &mut [u8]) -> Option<Received> {
        if self.len == 0 {
            return None;
        }
        let written = self.with_segments(|segments| {
            let checksum = segments.mark();
            let len = segments.write_next(&mut slot[Frame::HEADROOM..])?;
            Some((len, checksum, segments.is_empty()))
        });
        self.taken = self.taken.wrapping_add(1);
        let Some((len, checksum, false)) = written else {
            self.len = 0;
            let (len, checksum, _) = written?;
            return Some(Train::received(len, checksum));
        };
        Some(Train::received(len, checksum))
    }

    fn received(len: usize, checksum: Checksum) -> Received {
        Received {
            start: 0,
            len,
            checksum,
            segmentation: Segmentation::None,
            outer: None,
        }
    }

    /// What `f` says of the datagrams that are left.
    fn with_segments<T>(&mut self, f: impl FnOnce(&mut Segments<'_>) -> Option<T>) -> Option<T> {
        let mut frame = Frame::new(&mut self.bytes, 0, self.len).ok()?;
        frame.checksum = self.checksum;
        frame.segmentation = self.segmentation;
        let segments = Segments::new(&frame, Layout::ETHERNET).ok()?;
        let mut segments = segments.unfinished();
        segments.skip(self.taken);
        f(&mut segments)
    }
}

/// How many of the first frames can leave as one train: one at least, unless there is none.
pub(super) fn run(frames: &[&mut Frame<'_>]) -> usize {
    let Some((first, others)) = frames.split_first() else {
        return 0;
    };
    let Some(headers) = headers(first) else {
        return 1;
    };
    let (mut count, mut bytes) = (1, first.len() - headers);
    for other in others {
        bytes += other.len().saturating_sub(headers);
        if !follows(first, other, headers) || bytes > LARGEST {
            break;
        }
        count += 1;
        // Only the last one may be shorter.
        if other.len() < first.len() {
            break;
        }
    }
    count
}

/// Octets of the outer headers of a frame that may be in a train.
fn headers(frame: &Frame<'_>) -> Option<usize> {
    let bytes = frame.bytes();
    let single = frame.segmentation == Segmentation::None;
    // Version, length, protocol; not to be fragmented, so that no number is due to it.
    let over_v4 = || {
        bytes[12..15] == [8, 0, 0x45]
            && bytes[20..22] == [0x40, 0]
            && bytes[23] == ip::UDP
            && bytes[40..42] != [0, 0]
    };
    let over_v6 =
        || bytes[12..14] == [0x86, 0xdd] && bytes[20] == ip::UDP && bytes[60..62] != [0, 0];
    match bytes.len() {
        _ if !single => None,
        OVER_V4.. if over_v4() => Some(OVER_V4),
        OVER_V6.. if over_v6() => Some(OVER_V6),
        _ => None,
    }
}

/// Whether a frame can follow the first one of a train with these outer headers: they
/// differ in lengths and checksums only.
fn follows(first: &Frame<'_>, other: &Frame<'_>, headers_len: usize) -> bool {
    let same = |range: std::ops::Range<usize>| first.bytes()[range.clone()] == other.bytes()[range];
    if headers(other) != Some(headers_len) || other.len() > first.len() {
        return false;
    }
    match headers_len {
        OVER_V4 => same(0..16) && same(20..24) && same(26..38),
        _ => same(0..18) && same(20..58),
    }
}

/// What stands before the datagrams of a train: the device's header and the outer ones.
pub(super) struct Head {
    bytes: [u8; HEADER + OVER_V6],
    /// Octets of the outer headers, which each frame begins with.
    pub(super) headers: usize,
}

impl Head {
    /// The head of a train of these frames, whose own checksums are finished by this.
    pub(super) fn of(frames: &mut [&mut Frame<'_>]) -> Option<Head> {
        let first = frames.first()?;
        let headers_len = headers(first)?;
        let size = first.len() - headers_len;
        let mut payload = 0;
        for frame in frames.iter_mut() {
            finish(frame, headers_len)?;
            payload += frame.len() - headers_len;
        }
        let mut bytes = [0; HEADER + OVER_V6];
        let (device, outer) = bytes.split_at_mut(HEADER);
        outer[..headers_len].copy_from_slice(frames.first()?.bytes().get(..headers_len)?);
        let len = u16::try_from(udp::HEADER_LEN + payload).ok()?;
        lengthen(outer, headers_len, len)?;
        let start = u16::try_from(headers_len - udp::HEADER_LEN).ok()?;
        let frame = VirtioNetHeader {
            checksum: VnetChecksum::Partial {
                start,
                offset: UDP_CHECKSUM,
            },
            gso: Some(VnetGso {
                kind: VnetSegmentation::Udp,
                ecn: false,
                size: u16::try_from(size).ok()?,
            }),
            hdr_len: u16::try_from(headers_len).ok()?,
        };
        let header = TunnelNetHeader {
            frame,
            tunnel: None,
        };
        device.copy_from_slice(&header.emit());
        Some(Head {
            bytes,
            headers: headers_len,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..HEADER + self.headers]
    }
}

/// Finishes the checksum of a tunnel packet's inner packet, behind `headers_len` octets:
/// the device finishes only the outer ones, and that one stays for it.
fn finish(frame: &mut Frame<'_>, headers_len: usize) -> Option<()> {
    if let Checksum::Partial { start, offset } = frame.checksum {
        if usize::from(start) < headers_len {
            return Some(());
        }
        let bytes = frame.bytes_mut().get_mut(usize::from(start)..)?;
        l4::finish(bytes, offset, offset == UDP_CHECKSUM)?;
    }
    frame.checksum = Checksum::None;
    Some(())
}

/// Makes outer headers those of a UDP datagram of `len` bytes, with an unfinished checksum.
fn lengthen(outer: &mut [u8], headers_len: usize, len: u16) -> Option<()> {
    let (src, dst) = addresses(outer, headers_len)?;
    let (ip, udp) = outer
        .get_mut(ethernet::HEADER_LEN..headers_len)?
        .split_at_mut_checked(headers_len - ethernet::HEADER_LEN - udp::HEADER_LEN)?;
    match headers_len {
        OVER_V4 => {
            let total = len.checked_add(20)?;
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[10..12].copy_from_slice(&[0, 0]);
            let sum = checksum::finish(checksum::sum(ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        _ => ip[4..6].copy_from_slice(&len.to_be_bytes()),
    }
    let sum = checksum::fold(checksum::pseudo_header(src, dst, ip::UDP, len));
    udp[4..6].copy_from_slice(&len.to_be_bytes());
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Source and destination of outer headers.
fn addresses(outer: &[u8], headers_len: usize) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at| {
        let octets = outer.get(at..)?.first_chunk::<4>()?;
        Some(IpAddr::from(*octets))
    };
    let v6 = |at| {
        let octets = outer.get(at..)?.first_chunk::<16>()?;
        Some(IpAddr::from(*octets))
    };
    match headers_len {
        OVER_V4 => v4(26).zip(v4(30)),
        _ => v6(22).zip(v6(38)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A tunnel packet of `payload` bytes over IPv4 or IPv6, from this port.
    pub(in super::super) fn packet(v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(udp::HEADER_LEN + payload.len()).unwrap();
        let mut bytes = vec![2; 12];
        let (src, dst): (IpAddr, IpAddr) = match v6 {
            false => ("10.77.0.1".parse().unwrap(), "10.77.0.2".parse().unwrap()),
            true => ("fd77::1".parse().unwrap(), "fd77::2".parse().unwrap()),
        };
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                bytes.extend([8, 0]);
                let header = ipv4::Header {
                    src,
                    dst,
                    tos: 0,
                    ident: 0,
                    dont_fragment: true,
                    more_fragments: false,
                    fragment_offset: 0,
                    ttl: 64,
                    protocol: ip::UDP,
                    header_len: 20,
                    total_len: len + 20,
                };
                let mut out = [0; 20];
                header.emit(&mut out);
                bytes.extend(out);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend(len.to_be_bytes());
                bytes.extend([ip::UDP, 64]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
            }
            _ => unreachable!("both are of one version"),
        }
        let mut datagram = [
            port.to_be_bytes(),
            8472u16.to_be_bytes(),
            len.to_be_bytes(),
            [0; 2],
        ]
        .concat();
        datagram.extend(payload);
        let pseudo = checksum::pseudo_header(src, dst, ip::UDP, len);
        let sum = checksum::finish(pseudo + checksum::sum(&datagram));
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(datagram);
        bytes
    }

    fn with_frames<T>(packets: &mut [Vec<u8>], f: impl FnOnce(&mut [&mut Frame<'_>]) -> T) -> T {
        let frames = packets.iter_mut().map(|packet| {
            let len = packet.len();
            Frame::new(packet, 0, len).unwrap()
        });
        let mut frames: Vec<Frame<'_>> = frames.collect();
        let mut frames: Vec<&mut Frame<'_>> = frames.iter_mut().collect();
        f(&mut frames)
    }

    #[test]
    fn a_train_is_cut_into_what_it_was_made_of() {
        for v6 in [false, true] {
            let payloads = [[1; 90].to_vec(), [2; 90].to_vec(), [3; 41].to_vec()];
            let packets = payloads.map(|payload| packet(v6, 50_000, &payload));
            let mut bytes = with_frames(&mut packets.clone(), |frames| {
                assert_eq!(run(frames), 3);
                let head = Head::of(frames).unwrap();
                let mut bytes = head.bytes().to_vec();
                for frame in frames.iter() {
                    bytes.extend(&frame.bytes()[head.headers..]);
                }
                bytes
            });
            let header = TunnelNetHeader::parse(&bytes).unwrap();
            assert_eq!(header.tunnel, None);
            let marks = crate::dataplane::tap::marked(&header.frame, bytes.len() - HEADER);
            // Cut at once, with finished checksums, as the kernel does.
            let mut frame = Frame::new(&mut bytes, HEADER, marks.len).unwrap();
            (frame.checksum, frame.segmentation) = (marks.checksum, marks.segmentation);
            let mut segments = Segments::new(&frame, Layout::ETHERNET).unwrap();
            let mut out = [0; 2048];
            let mut cut = Vec::new();
            while let Some(len) = segments.write_next(&mut out) {
                cut.push(out[..len].to_vec());
            }
            for (number, (cut, whole)) in cut.iter_mut().zip(&packets).enumerate() {
                // The identification counts up, and the header's checksum with it.
                if !v6 {
                    assert_eq!(usize::from(cut[19]), number);
                    assert!(checksum::is_right(cut[14..34].first_chunk().unwrap()));
                    cut[18..20].copy_from_slice(&whole[18..20]);
                    cut[24..26].copy_from_slice(&whole[24..26]);
                }
                assert_eq!(cut, whole);
            }
            assert_eq!(cut.len(), packets.len());
            // One by one as they are received, with checksums that the device vouches for.
            let counters = ShellCounters::default();
            let mut train = Train::new();
            train.load(&bytes[HEADER..], &marks, &counters);
            for whole in &packets {
                assert!(!train.is_empty());
                let mut slot = vec![0; Frame::HEADROOM + 2048];
                let received = train.next(&mut slot).unwrap();
                let frame = &slot[Frame::HEADROOM..][..received.len];
                let upper = if v6 { 54 } else { 34 };
                assert_eq!(frame.len(), whole.len());
                assert_eq!(frame[upper..upper + 6], whole[upper..upper + 6]);
                assert_eq!(frame[upper + 8..], whole[upper + 8..]);
                let partial = Checksum::Partial {
                    start: u16::try_from(upper).unwrap(),
                    offset: 6,
                };
                assert_eq!(received.checksum, partial);
            }
            assert!(train.is_empty() && train.next(&mut [0; 4096]).is_none());
            assert_eq!(counters.get(ShellCounter::SegmentFailed), 0);
        }
    }

    #[test]
    fn only_packets_of_one_flow_and_length_go_together() {
        let base = || packet(false, 50_000, &[1; 90]);
        let changed = |at: usize, to: u8| {
            let mut packet = base();
            packet[at] = to;
            packet
        };
        let longer = packet(false, 50_000, &[1; 91]);
        let shorter = packet(false, 50_000, &[1; 89]);
        for (name, packets, together) in [
            ("alike", vec![base(), base(), base()], 3),
            ("a longer one", vec![base(), longer, base()], 1),
            ("a shorter one ends it", vec![base(), shorter, base()], 2),
            (
                "another port",
                vec![base(), packet(false, 50_001, &[1; 90])],
                1,
            ),
            (
                "another IP version",
                vec![base(), packet(true, 50_000, &[1; 90])],
                1,
            ),
            ("another neighbor", vec![base(), changed(5, 9)], 1),
            ("another ECN mark", vec![base(), changed(15, 3)], 1),
            ("another TTL", vec![base(), changed(22, 3)], 1),
            ("another peer", vec![base(), changed(33, 3)], 1),
            (
                "not without fragments",
                vec![changed(20, 0), changed(20, 0)],
                1,
            ),
            ("no UDP", vec![changed(23, 4), changed(23, 4)], 1),
            ("options", vec![changed(14, 0x46), changed(14, 0x46)], 1),
        ] {
            let mut packets = packets;
            let found = with_frames(&mut packets, |frames| run(frames));
            assert_eq!(found, together, "{name}");
        }
        let mut zero = [base(), base()];
        for packet in &mut zero {
            packet[40..42].fill(0);
        }
        // The kernel would give it a checksum.
        assert_eq!(with_frames(&mut zero, |frames| run(frames)), 1);
        let mut many = vec![packet(false, 50_000, &[1; 1400]); 64];
        assert_eq!(with_frames(&mut many, |frames| run(frames)), 46);
        assert_eq!(run(&[]), 0);
    }

    #[test]
    fn damaged_trains_are_dropped_and_counted() {
        let counters = ShellCounters::default();
        let mut train = Train::new();
        let marks = Received {
            start: 0,
            len: 60,
            checksum: Checksum::None,
            segmentation: Segmentation::Udp { size: 10 },
            outer: None,
        };
        train.load(&[0; 60], &marks, &counters);
        assert!(train.is_empty());
        assert_eq!(counters.get(ShellCounter::SegmentFailed), 1);
    }
}
