//! Cases of ARP and IPv4.

use culvert_core::channel::*;
use culvert_core::*;

use super::common::*;
use super::{Case, case};

/// A frame with this EtherType.
fn ethertype(kind: u16) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, REMOTE, b"sixteen bytes of");
    frame[12..14].copy_from_slice(&kind.to_be_bytes());
    frame
}

fn arp(sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC_A);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(sender_mac);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, REMOTE, b"payload");
    edit(&mut frame);
    frame
}

pub(super) fn endpoint_cases() -> Vec<Case> {
    use DropReason::*;
    let to = |dst| udp(MAC_A, A, dst, b"x");
    let big = || udp(MAC_A, A, REMOTE, &[0; 1600]);
    vec![
        case(PortUnknown, PortId(7), to(REMOTE)),
        case(PortUnknown, PortId(u16::MAX), to(REMOTE)),
        case(FrameTruncated, POD_A, vec![0; 13]),
        case(FrameTruncated, POD_A, vec![]),
        case(VlanTagged, POD_A, ethertype(0x8100)),
        case(VlanTagged, POD_A, ethertype(0x88a8)),
        case(NotIp, POD_A, ethertype(0x88cc)),
        case(Ipv6Version, POD_A, ethertype(0x86dd)),
        case(ArpMalformed, POD_A, arp(MAC_A, A, GATEWAY)[..41].to_vec()),
        case(ArpSenderMac, POD_A, arp(MAC_B, A, GATEWAY)),
        case(ArpSenderIp, POD_A, arp(MAC_A, B, GATEWAY)),
        case(ArpTarget, POD_A, arp(MAC_A, A, B)),
        case(Ipv4Truncated, POD_A, edited(|f| f.truncate(33))),
        case(Ipv4Version, POD_A, edited(|f| f[14] = 0x65)),
        case(Ipv4HeaderLength, POD_A, edited(|f| f[14] = 0x44)),
        case(Ipv4TotalLength, POD_A, edited(|f| f[16] = 0x10)),
        case(Ipv4Checksum, POD_A, edited(|f| f[24] ^= 1)),
        case(SourceMac, POD_A, udp(MAC_B, A, REMOTE, b"x")),
        case(SourceIp, POD_A, udp(MAC_A, B, REMOTE, b"x")),
        case(SourceIp, POD_A, udp(MAC_A, [0; 4], REMOTE, b"x")),
        case(
            TunnelSpoof,
            POD_A,
            udp_ports(MAC_A, A, NODE_2, (9, 8472), b"x"),
        ),
        case(
            TunnelSpoof,
            POD_A,
            udp_ports(MAC_A, A, NODE_1, (9, 8472), b"x"),
        ),
        case(TunnelSpoof, POD_A, protocol(4, NODE_2)),
        case(TunnelSpoof, POD_A, protocol(41, NODE_2)),
        case(DestinationGroup, POD_A, to([224, 0, 0, 5])),
        case(DestinationGroup, POD_A, to([255; 4])),
        case(DestinationGroup, POD_A, edited(|f| f[..6].fill(0xff))),
        case(DestinationMac, POD_A, edited(|f| f[0] = 0x02)),
        case(GatewayProtocol, POD_A, to(GATEWAY)).icmp(3, 3),
        case(GatewayProtocol, POD_A, protocol(132, GATEWAY)).icmp(3, 2),
        case(NoRoute, POD_A, to([8, 8, 8, 8])).icmp(3, 0),
        case(Blackhole, POD_A, to([10, 244, 1, 99])).icmp(3, 1),
        case(TtlExceeded, POD_A, with_ttl(1)).icmp(11, 0),
        case(TtlExceeded, POD_A, with_ttl(0)).icmp(11, 0),
        case(TooBig, POD_A, big()).icmp(3, 4),
        case(FragmentSpares, POD_A, {
            let mut frame = udp(MAC_A, A, REMOTE, &[0; 15_000]);
            edit_ip(&mut frame, |header| header.dont_fragment = false);
            frame
        }),
        case(
            SourceRoute,
            POD_A,
            with_options(
                udp(MAC_A, A, REMOTE, b"x"),
                &[131, 7, 4, 192, 168, 77, 2, 0],
            ),
        ),
        case(
            SourceRoute,
            POD_A,
            with_options(udp(MAC_A, A, REMOTE, b"x"), &[1, 7, 3, 4, 137, 3, 4, 0]),
        ),
        case(Dhcp, POD_A, {
            let mut frame = udp_ports(MAC_A, [0; 4], [255; 4], (68, 67), &[1; 240]);
            frame[..6].fill(0xff);
            frame
        }),
        case(HostMissing, POD_A, to([10, 244, 1, 0]))
            .icmp(3, 1)
            .setup([Operation::RemovePort(HOST)]),
    ]
}

fn protocol(number: u8, dst: [u8; 4]) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, dst, b"x");
    edit_ip(&mut frame, |header| {
        header.protocol = etherparse::IpNumber(number);
    });
    frame
}

fn with_ttl(ttl: u8) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, REMOTE, b"x");
    edit_ip(&mut frame, |header| header.time_to_live = ttl);
    frame
}

pub(super) fn host_and_offload_cases() -> Vec<Case> {
    use DropReason::*;
    let frame = || udp(MAC_A, A, REMOTE, b"payload");
    let input = |edit: fn(&mut Input)| {
        let mut input = Input::from(frame());
        edit(&mut input);
        input
    };
    let segmented = |segmentation| Input {
        segmentation,
        ..Input::from(frame())
    };
    let partial = |start, offset| Input {
        checksum: Checksum::Partial { start, offset },
        ..Input::from(frame())
    };
    vec![
        case(HostLoop, HOST, udp(HOST_MAC, NODE_1, [10, 244, 1, 0], b"x")),
        case(DirectLoop, HOST, udp(HOST_MAC, NODE_1, REMOTE, b"x")).on(Node {
            encap: Encap::Direct,
            ..Node::new(1)
        }),
        case(
            Dhcp,
            HOST,
            udp_ports(HOST_MAC, [0; 4], [255; 4], (68, 67), b"x"),
        ),
        case(NoHeadroom, POD_A, input(|i| i.headroom = Some(7))),
        case(BadOffload, POD_A, partial(0, 6)),
        case(BadOffload, POD_A, partial(33, 6)),
        case(BadOffload, POD_A, partial(34, u16::MAX)),
        case(BadOffload, POD_A, partial(u16::MAX, 0)),
        // The field would be the destination port, and its last byte behind the end.
        case(BadOffload, POD_A, partial(34, 2)),
        case(BadOffload, POD_A, partial(34, 14)),
        case(BadOffload, POD_A, segmented(Segmentation::Udp { size: 0 })),
        case(
            BadOffload,
            POD_A,
            segmented(Segmentation::TcpV4 { size: 100 }),
        ),
        case(
            BadOffload,
            POD_A,
            segmented(Segmentation::TcpV6 { size: 100 }),
        ),
        case(TooBigSuperFrame, POD_A, {
            let mut frame = udp(MAC_A, A, REMOTE, &[0; 3000]);
            edit_ip(&mut frame, |header| header.dont_fragment = false);
            Input {
                segmentation: Segmentation::Udp { size: 1500 },
                ..Input::from(frame)
            }
        }),
    ]
}

pub(super) fn underlay_cases() -> Vec<Case> {
    use DropReason::*;
    let inner = || from_vtep(udp(VTEP_2, REMOTE, A, b"sixteen bytes of"));
    let from = |edit: &dyn Fn(&mut Input)| {
        let mut input = vxlan(&inner(), 1);
        edit(&mut input);
        input
    };
    let outer = |edit: fn(&mut Outer)| {
        let mut input = vxlan(&inner(), 1);
        edit(input.outer.as_mut().unwrap());
        input
    };
    let refusing = Peer {
        accepts: EncapSet::of(&[Encap::Ipip]),
        ..peer()
    };
    let foreign = |src| vxlan(&from_vtep(udp(VTEP_2, src, A, b"x")), 1);
    vec![
        case(OuterMissing, UNDERLAY, from(&|i| i.outer = None)),
        case(
            OuterMissing,
            UNDERLAY,
            outer(|o| o.l4 = OuterL4::Ip { protocol: 47 }),
        ),
        case(VxlanTruncated, UNDERLAY, from(&|i| i.bytes.truncate(7))),
        case(VxlanFlags, UNDERLAY, from(&|i| i.bytes[0] = 0xf7)),
        case(UnknownVni, UNDERLAY, vxlan(&inner(), 2)),
        case(UnknownVni, PortId(6), vxlan(&inner(), 1)).setup([Operation::UpsertPort(Port {
            id: PortId(6),
            ..underlay(1500)
        })]),
        case(
            UnknownVni,
            UNDERLAY,
            outer(|o| {
                o.l4 = OuterL4::Udp {
                    src_port: 1,
                    dst_port: 4789,
                    checksum: true,
                };
            }),
        ),
        case(UnknownPeer, UNDERLAY, outer(|o| o.src = ip("192.168.77.9"))),
        case(UnknownPeer, UNDERLAY, outer(|o| o.src = ip("fd00::2"))),
        case(EncapNotAllowed, UNDERLAY, vxlan(&inner(), 1))
            .setup([Operation::UpsertPeer(refusing)]),
        case(FrameTruncated, UNDERLAY, from(&|i| i.bytes.truncate(20))),
        case(VtepMac, UNDERLAY, from(&|i| i.bytes[8] ^= 2)),
        case(
            InnerNotIp,
            UNDERLAY,
            from(&|i| i.bytes[20..22].copy_from_slice(&[8, 6])),
        ),
        case(
            Ipv6Version,
            UNDERLAY,
            from(&|i| i.bytes[20..22].copy_from_slice(&[0x86, 0xdd])),
        ),
        case(Ipv4Checksum, UNDERLAY, from(&|i| i.bytes[32] ^= 1)),
        case(PeerGuard, UNDERLAY, foreign(B)),
        case(PeerGuard, UNDERLAY, foreign([8, 8, 8, 8])),
        case(PeerGuard, UNDERLAY, foreign(NODE_1)),
        case(EcnCe, UNDERLAY, outer(|o| o.tos = 3)),
        case(
            TunnelLoop,
            UNDERLAY,
            vxlan(&from_vtep(udp(VTEP_2, REMOTE, REMOTE, b"x")), 1),
        ),
        case(
            TransitDenied,
            UNDERLAY,
            vxlan(&from_vtep(udp(VTEP_2, REMOTE, [10, 244, 3, 2], b"x")), 1),
        ),
        case(
            EncapNotAllowed,
            UNDERLAY,
            outer(|o| o.l4 = OuterL4::Ip { protocol: 4 }),
        ),
        case(
            Blackhole,
            UNDERLAY,
            vxlan(&from_vtep(udp(VTEP_2, REMOTE, [10, 244, 1, 99], b"x")), 1),
        )
        .icmp(3, 1),
        case(TtlExceeded, UNDERLAY, {
            let mut inner = inner();
            edit_ip(&mut inner, |header| header.time_to_live = 1);
            vxlan(&inner, 1)
        })
        .icmp(11, 0),
    ]
}
