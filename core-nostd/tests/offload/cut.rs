//! Cutting, against segments that etherparse built and smoltcp reads.

use culvert_core::offload::{self, Layout, MAX_SEGMENTS, SegmentError, Segments};
use culvert_core::wire::l4;
use culvert_core::{Checksum, Frame, Segmentation};
use proptest::prelude::*;

use crate::build::{Flow, PLACES, Place, bytes, frame};
use crate::drive::cut;

fn cut_bytes(
    bytes: &[u8],
    layout: Layout,
    checksum: Checksum,
    segmentation: Segmentation,
) -> Result<Vec<Vec<u8>>, SegmentError> {
    let mut buffer = vec![0; Frame::HEADROOM + bytes.len()];
    let mut frame = frame(&mut buffer, bytes);
    frame.checksum = checksum;
    frame.segmentation = segmentation;
    cut(&frame, layout)
}

/// What smoltcp makes of the packet at `at`: lengths and checksums must be right.
fn check_with_smoltcp(bytes: &[u8], at: usize) -> Vec<u8> {
    use smoltcp::wire::*;
    let packet = &bytes[at..];
    let (src, dst, protocol, payload) = if packet[0] >> 4 == 4 {
        let ip = Ipv4Packet::new_checked(packet).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!(usize::from(ip.total_len()), packet.len());
        (
            ip.src_addr().into(),
            ip.dst_addr().into(),
            ip.next_header(),
            ip.payload().to_vec(),
        )
    } else {
        let ip = Ipv6Packet::new_checked(packet).unwrap();
        assert_eq!(ip.total_len(), packet.len());
        let (src, dst) = (IpAddress::from(ip.src_addr()), ip.dst_addr().into());
        match ip.next_header() {
            IpProtocol::Ipv6Opts => {
                let (options, payload) = ip.payload().split_at(8);
                (src, dst, options[0].into(), payload.to_vec())
            }
            next => (src, dst, next, ip.payload().to_vec()),
        }
    };
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(&payload[..]).unwrap();
            assert!(tcp.verify_checksum(&src, &dst));
            tcp.payload().to_vec()
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(&payload[..]).unwrap();
            assert!(udp.verify_checksum(&src, &dst));
            assert_eq!(usize::from(udp.len()), payload.len());
            udp.payload().to_vec()
        }
        other => panic!("{other}"),
    }
}

prop_compose! {
    pub(crate) fn any_flow()(
        place in prop::sample::select(&PLACES[..]),
        (v6, tcp, df, extension) in any::<(bool, bool, bool, bool)>(),
        (tos, ttl, ident, outer_ident) in any::<(u8, u8, u16, u16)>(),
        flow_label in 0u32..1 << 20,
        (ip_options, tcp_options) in (0usize..=10, 0usize..=10),
        (sequence, window) in any::<(u32, u16)>(),
        (fin, psh, cwr) in any::<(bool, bool, bool)>(),
    ) -> Flow {
        Flow {
            place, v6, tcp, number: 1, tos, ttl, ident, df, flow_label,
            ip_options: ip_options * 4, extension, tcp_options: tcp_options * 4,
            sequence, window, fin, psh, cwr, outer_ident,
        }
    }
}

/// Payload and segment size: from nothing to 64 KB, into one to thousands.
pub(crate) fn any_payload() -> impl Strategy<Value = (Vec<u8>, u16)> {
    let len = prop_oneof![0usize..100, 0usize..4000, 60_000usize..=65_300];
    (len, any::<u64>(), 1u16..=1500, any::<bool>()).prop_map(|(len, seed, size, exact)| {
        let size = size.max(u16::try_from(len / 2000).unwrap());
        let len = if exact {
            len - len % usize::from(size)
        } else {
            len
        };
        (bytes(seed, len), size)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn segments_are_what_etherparse_builds_and_smoltcp_reads(
        flow in any_flow(),
        (mut payload, size) in any_payload(),
        trailing in 0usize..3,
    ) {
        payload.truncate(65_535 - flow.payload());
        let mut bytes = flow.unfinished(&payload);
        let expected = flow.segments(&payload, usize::from(size));
        bytes.resize((bytes.len() + trailing).min(65_535), 0xee);
        let got = cut_bytes(&bytes, flow.layout(), flow.partial(), flow.mark(size)).unwrap();
        prop_assert_eq!(got.len(), expected.len());
        let mut joined = Vec::new();
        for (got, expected) in got.iter().zip(&expected) {
            prop_assert!(got == expected, "{:02x?}\n{:02x?}", &got[..64], &expected[..64]);
            joined.extend(check_with_smoltcp(got, usize::from(flow.layout().inner)));
            if let Place::Vxlan { .. } = flow.place {
                check_with_smoltcp(got, 14);
            }
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn a_finished_super_frame_gives_the_same_segments(
        flow in any_flow(),
        (mut payload, size) in any_payload(),
        verified in any::<bool>(),
    ) {
        payload.truncate(65_535 - flow.payload());
        let checksum = if verified { Checksum::Verified } else { Checksum::None };
        let bytes = flow.whole(&payload);
        let got = cut_bytes(&bytes, flow.layout(), checksum, flow.mark(size)).unwrap();
        prop_assert_eq!(got, flow.segments(&payload, usize::from(size)));
    }

    #[test]
    fn the_number_of_segments_is_known_beforehand(
        flow in any_flow(),
        (mut payload, size) in any_payload(),
    ) {
        payload.truncate(65_535 - flow.payload());
        let bytes = flow.unfinished(&payload);
        let mut buffer = vec![0; Frame::HEADROOM + bytes.len()];
        let mut frame = frame(&mut buffer, &bytes);
        prop_assert_eq!(offload::segments(&frame), 1);
        frame.checksum = flow.partial();
        frame.segmentation = flow.mark(size);
        let segments = Segments::new(&frame, flow.layout()).unwrap();
        prop_assert_eq!(usize::try_from(offload::segments(&frame)).unwrap(), segments.len());
    }
}

#[test]
fn a_wrong_unfinished_checksum_stays_wrong() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let payload = bytes(1, 3000);
        let mut super_frame = flow.unfinished(&payload);
        super_frame[flow.transport() + flow.checksum_offset()] ^= 0x40;
        let got = cut_bytes(&super_frame, flow.layout(), flow.partial(), flow.mark(1000)).unwrap();
        for (got, right) in got.iter().zip(flow.segments(&payload, 1000)) {
            assert_ne!(*got, right);
        }
    }
}

/// Whoever vouches for checksums need not have them summed up; and a cut can go on later.
#[test]
fn unfinished_segments_from_any_one_on_finish_to_the_right_ones() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let payload = bytes(1, 3001);
        let whole = flow.unfinished(&payload);
        let mut buffer = vec![0; Frame::HEADROOM + whole.len()];
        let mut frame = frame(&mut buffer, &whole);
        (frame.checksum, frame.segmentation) = (flow.partial(), flow.mark(1000));
        let segments = Segments::new(&frame, flow.layout()).unwrap();
        assert_eq!(segments.mark(), Checksum::None);
        let segments = segments.unfinished();
        assert_eq!(segments.mark(), flow.partial());
        let right = flow.segments(&payload, 1000);
        for skipped in 0..=right.len() {
            let mut left = segments.clone();
            left.skip(u16::try_from(skipped).unwrap());
            assert_eq!(left.len(), right.len() - skipped);
            for right in &right[skipped..] {
                let mut got = vec![0; 2048];
                let len = left.write_next(&mut got).unwrap();
                got.truncate(len);
                assert_ne!(got, *right);
                let offset = u16::try_from(flow.checksum_offset()).unwrap();
                l4::finish(&mut got[flow.transport()..], offset, !tcp).unwrap();
                assert_eq!(got, *right);
            }
            assert_eq!(left.write_next(&mut [0; 2048]), None);
        }
    }
}

#[test]
fn a_wrong_finished_checksum_is_refused() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let mut bytes = flow.whole(&bytes(1, 3000));
        *bytes.last_mut().unwrap() ^= 1;
        let got = cut_bytes(&bytes, flow.layout(), Checksum::None, flow.mark(1000));
        assert_eq!(got, Err(SegmentError::Checksum));
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    for place in PLACES {
        let flow = Flow {
            place,
            ..Flow::plain(false, false)
        };
        let payload = bytes(3, 2500);
        let field = flow.transport() + 6;
        let without = |mut bytes: Vec<u8>| {
            bytes[field..field + 2].fill(0);
            bytes
        };
        for checksum in [Checksum::None, Checksum::Verified] {
            let bytes = without(flow.whole(&payload));
            let got = cut_bytes(&bytes, flow.layout(), checksum, flow.mark(1000)).unwrap();
            for (got, expected) in got.iter().zip(flow.segments(&payload, 1000)) {
                let inner = |bytes: &[u8]| bytes[usize::from(flow.layout().inner)..].to_vec();
                assert_eq!(inner(got), inner(&without(expected)));
                if let Place::Vxlan { .. } = place {
                    check_with_smoltcp(got, 14);
                }
            }
        }
        // Marked as unfinished it gets one, whatever the field holds.
        let bytes = without(flow.whole(&payload));
        let got = cut_bytes(&bytes, flow.layout(), flow.partial(), flow.mark(1000)).unwrap();
        assert_ne!(got[0][field..field + 2], [0, 0]);
    }
    let flow = Flow::plain(true, false);
    let mut bytes = flow.whole(&bytes(3, 2500));
    bytes[flow.transport() + 6..][..2].fill(0);
    let got = cut_bytes(&bytes, flow.layout(), Checksum::None, flow.mark(1000));
    assert_eq!(got, Err(SegmentError::Checksum));
}

#[test]
fn what_does_not_agree_is_refused() {
    use SegmentError::{ChecksumMark, Fragment, Kind, NotIp, NotMarked, Size, TcpFlags, Transport};
    let tcp = Flow::plain(false, true);
    let payload = bytes(5, 3000);
    // Change one byte (or nothing) and the marks; the IPv4 header is made right again.
    let refused = |flow: &Flow, change: &[(usize, u8)], checksum, mark| {
        let mut bytes = flow.unfinished(&payload);
        for (at, value) in change {
            bytes[*at] = *value;
        }
        if !flow.v6 {
            bytes[24..26].fill(0);
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        }
        cut_bytes(&bytes, flow.layout(), checksum, mark).map(|_| ())
    };
    let partial = tcp.partial();
    let marked = tcp.mark(1000);
    assert_eq!(refused(&tcp, &[], partial, marked), Ok(()));
    assert_eq!(
        refused(&tcp, &[], partial, Segmentation::None),
        Err(NotMarked)
    );
    assert_eq!(refused(&tcp, &[], partial, tcp.mark(0)), Err(Size));
    assert_eq!(refused(&tcp, &[(14, 0x55)], partial, marked), Err(NotIp));
    assert_eq!(refused(&tcp, &[(16, 0xff)], partial, marked), Err(NotIp));
    assert_eq!(refused(&tcp, &[(20, 0x20)], partial, marked), Err(Fragment));
    assert_eq!(refused(&tcp, &[(21, 1)], partial, marked), Err(Fragment));
    assert_eq!(refused(&tcp, &[(23, 1)], partial, marked), Err(Kind));
    let kinds = [
        Segmentation::TcpV6 { size: 1000 },
        Segmentation::Udp { size: 1000 },
    ];
    for kind in kinds {
        assert_eq!(refused(&tcp, &[], partial, kind), Err(Kind));
    }
    assert_eq!(
        refused(&tcp, &[(46, 0x40)], partial, marked),
        Err(Transport)
    );
    for flag in [0x02, 0x04, 0x20] {
        assert_eq!(
            refused(&tcp, &[(47, 0x10 | flag)], partial, marked),
            Err(TcpFlags)
        );
    }
    for (start, offset) in [(33, 16), (35, 16), (34, 6), (34, 17), (14, 16)] {
        let partial = Checksum::Partial { start, offset };
        assert_eq!(refused(&tcp, &[], partial, marked), Err(ChecksumMark));
    }
    let udp = Flow::plain(false, false);
    for len in [0, 7, 0xff] {
        let got = refused(&udp, &[(38, 0), (39, len)], udp.partial(), udp.mark(1000));
        assert_eq!(got, Err(Transport));
    }
    // ESP, ICMP, nothing.
    let tcp = Flow::plain(true, true);
    for next in [50, 58, 59] {
        let got = refused(&tcp, &[(20, next)], tcp.partial(), tcp.mark(1000));
        assert_eq!(got, Err(Kind));
    }
    assert_eq!(
        refused(&tcp, &[(18, 0xff)], tcp.partial(), tcp.mark(1000)),
        Err(NotIp)
    );
}

#[test]
fn outer_headers_that_do_not_enclose_the_packet_are_refused() {
    for place in PLACES {
        let flow = Flow {
            place,
            ..Flow::plain(false, true)
        };
        let layout = flow.layout();
        let Some(outer) = layout.outer else {
            continue;
        };
        let bytes = flow.unfinished(&bytes(9, 3000));
        let refused = |bytes: &[u8], layout| {
            let got = cut_bytes(bytes, layout, flow.partial(), flow.mark(1000));
            assert_eq!(got, Err(SegmentError::Outer), "{place:?} {layout:?}");
        };
        for wrong in [0, 13, 15, layout.inner, layout.inner + 1, 60_000, u16::MAX] {
            refused(
                &bytes,
                Layout {
                    outer: Some(wrong),
                    ..layout
                },
            );
        }
        // The outer packet ends elsewhere: its length, and what checks it.
        let mut longer = bytes.clone();
        longer.push(0);
        let at = usize::from(outer);
        if bytes[at] >> 4 == 6 {
            longer[at + 5] = longer[at + 5].wrapping_add(1);
        } else {
            let len = u16::from_be_bytes([longer[at + 2], longer[at + 3]]) + 1;
            longer[at + 2..at + 4].copy_from_slice(&len.to_be_bytes());
            longer[at + 10..at + 12].fill(0);
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&longer[at..at + 20]);
            longer[at + 10..at + 12].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        }
        refused(&longer, layout);
        if let Place::Vxlan { outer_v6, .. } = place {
            let mut wrong = bytes.clone();
            wrong[14 + if outer_v6 { 40 } else { 20 } + 5] ^= 1;
            refused(&wrong, layout);
        }
    }
}

#[test]
fn segments_have_a_bound() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = Flow::plain(v6, tcp);
        let most = usize::from(MAX_SEGMENTS);
        for (len, size) in [(most, 1), (most * 2 - 1, 2), (most * 2, 2)] {
            let bytes = |more| flow.unfinished(&vec![0; len + more]);
            let cut = |bytes: &[u8]| {
                let got = cut_bytes(bytes, flow.layout(), flow.partial(), flow.mark(size));
                got.map(|segments| segments.len())
            };
            assert_eq!(cut(&bytes(0)), Ok(most));
            assert_eq!(cut(&bytes(usize::from(size))), Err(SegmentError::Size));
        }
    }
}

#[test]
fn vxlan_at_an_odd_offset_gets_a_right_outer_checksum() {
    // No such header exists, but the layout can say it.
    let flow = Flow {
        place: Place::Vxlan {
            outer_v6: false,
            checksum: true,
        },
        ..Flow::plain(false, true)
    };
    let mut bytes = flow.unfinished(&bytes(2, 3000));
    bytes.insert(14 + 20 + 8, 0);
    for (at, len) in [(16, bytes.len() - 14), (38, bytes.len() - 34)] {
        bytes[at..at + 2].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    }
    bytes[24..26].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    let layout = Layout {
        inner: 65,
        outer: Some(14),
    };
    let partial = Checksum::Partial {
        start: 85,
        offset: 16,
    };
    let got = cut_bytes(&bytes, layout, partial, flow.mark(999)).unwrap();
    assert_eq!(got.len(), 4);
    for segment in got {
        check_with_smoltcp(&segment, 14);
        check_with_smoltcp(&segment, 65);
    }
}

#[test]
fn an_outer_udp_checksum_is_never_zero_by_chance() {
    for outer_v6 in [false, true] {
        let flow = Flow {
            place: Place::Vxlan {
                outer_v6,
                checksum: true,
            },
            ..Flow::plain(false, true)
        };
        let payload = bytes(8, 3000);
        let mut super_frame = flow.unfinished(&payload);
        let udp = 14 + if outer_v6 { 40 } else { 20 };
        let word = |bytes: &[u8], at| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        // The source port that takes the first segment's sum to all ones.
        let first = &flow.segments(&payload, 1000)[0];
        let port = word(first, udp) + word(first, udp + 6);
        let port = u16::try_from(if port > 0xffff { port - 0xffff } else { port }).unwrap();
        super_frame[udp..udp + 2].copy_from_slice(&port.to_be_bytes());
        let got = cut_bytes(&super_frame, flow.layout(), flow.partial(), flow.mark(1000));
        let first = &got.unwrap()[0];
        assert_eq!(word(first, udp + 6), 0xffff);
        check_with_smoltcp(first, 14);
    }
}
