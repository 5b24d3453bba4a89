//! ECN at the tunnel's end: every octet inside with every octet outside, for both
//! versions of IP and both tunnels.

use culvert_core::channel::Encap;
use culvert_core::*;

use crate::common::*;

/// RFC 6040 figure 4: a row for each inner codepoint, a column for each outer one,
/// both in the order of their numbers: Not-ECT, ECT(1), ECT(0), CE.
const FIGURE_4: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

fn set_tos(packet: &mut [u8], tos: u8) {
    if packet[0] >> 4 == 6 {
        packet[0] = 0x60 | tos >> 4;
        packet[1] = tos << 4 | packet[1] & 15;
        return;
    }
    let (mut header, _) = etherparse::Ipv4Header::from_slice(packet).unwrap();
    header.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
    header.ecn = etherparse::IpEcn::try_new(tos & 3).unwrap();
    header.header_checksum = header.calc_header_checksum();
    packet[..20].copy_from_slice(&header.to_bytes());
}

fn check(encap: Encap, packet: &[u8], ethertype: [u8; 2]) {
    let node = Node {
        encap,
        ..Node::new(1)
    };
    let link = [&VTEP_1[..], &VTEP_2, &ethertype].concat();
    let mut input = vxlan(&link, 1);
    let mut outer = input.outer.unwrap();
    if encap == Encap::Ipip {
        input.bytes.clear();
        outer.l4 = OuterL4::Ip {
            protocol: if ethertype == [8, 0] { 4 } else { 41 },
        };
    }
    let at = input.bytes.len();
    input.bytes.extend(packet);
    let (mut buffer, len) = ([0; 512], input.bytes.len());
    node.run(|gateway| {
        for inner in 0..=255u8 {
            let row = FIGURE_4[usize::from(inner & 3)];
            set_tos(&mut input.bytes[at..], inner);
            for tos in 0..=255u8 {
                buffer[Frame::HEADROOM..][..len].copy_from_slice(&input.bytes);
                let mut frame = Frame::new(&mut buffer, Frame::HEADROOM, len).unwrap();
                frame.outer = Some(Outer { tos, ..outer });
                let mut batch = [Packet::new(frame)];
                let now = Instant::from_micros(1);
                gateway.process(now, UNDERLAY, &mut batch, &mut Originated::none());
                let [packet] = &batch;
                let Some(ecn) = row[usize::from(tos & 3)] else {
                    assert_eq!(packet.fate, Fate::Drop(DropReason::EcnCe));
                    continue;
                };
                assert_eq!(packet.fate, Fate::Forward(POD_A));
                let mut expected = input.bytes[at..].to_vec();
                expected[if ethertype == [8, 0] { 8 } else { 7 }] -= 1;
                set_tos(&mut expected, inner & !3 | ecn);
                assert_eq!(packet.frame.bytes()[14..], expected, "{inner} in {tos}");
            }
        }
    });
}

#[test]
fn every_octet_in_every_octet_over_vxlan() {
    let frame = udp(VTEP_2, REMOTE, A, b"x");
    check(Encap::Vxlan, &frame[14..], [8, 0]);
}

#[test]
fn every_octet_in_every_octet_over_ip_in_ip() {
    let frame = udp(VTEP_2, REMOTE, A, b"x");
    check(Encap::Ipip, &frame[14..], [8, 0]);
}

#[test]
fn every_octet_in_every_octet_for_ipv6() {
    let frame = udp6(VTEP_2, REMOTE6, A6, b"x");
    for encap in [Encap::Vxlan, Encap::Ipip] {
        check(encap, &frame[14..], [0x86, 0xdd]);
    }
}
