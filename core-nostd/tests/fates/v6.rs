//! Cases of neighbor discovery, IPv6, IP in IP and an IPv6 underlay.

use culvert_core::channel::*;
use culvert_core::*;

use super::common::*;
use super::{Case, case};

/// A destination option header of eight bytes without its first, padding only.
const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
const DESTINATION: u8 = 60;
const FRAGMENT: u8 = 44;
const ROUTING: u8 = 43;

fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = udp6(MAC_A, A6, REMOTE6, b"payload");
    edit(&mut frame);
    frame
}

fn with_hop_limit(hop_limit: u8) -> Vec<u8> {
    packet6(MAC_A, (A6, REMOTE6), (17, hop_limit), &[0; 8])
}

fn over_v6() -> Node {
    Node {
        underlay: Family::V6,
        ..Node::new(1)
    }
}

pub(super) fn endpoint_cases() -> Vec<Case> {
    use DropReason::*;
    let to = |dst| udp6(MAC_A, A6, dst, b"x");
    let protocol = |number, dst| packet6(MAC_A, (A6, dst), (number, 64), &[0; 40]);
    let many = [(DESTINATION, OPTIONS); 9];
    let late = [(DESTINATION, OPTIONS), (0, OPTIONS)];
    let detour = |kind, left| extended(to(REMOTE6), &[(ROUTING, &[0, kind, left, 0, 0, 0, 0])]);
    vec![
        case(Ipv6Truncated, POD_A, edited(|f| f.truncate(53))),
        case(Ipv6Truncated, POD_A, edited(|f| f.truncate(14))),
        case(Ipv6Version, POD_A, edited(|f| f[14] = 0x45)),
        case(Ipv6PayloadLength, POD_A, edited(|f| f[18] = 0x10)),
        case(Ipv6PayloadLength, POD_A, edited(|f| f.truncate(68))),
        case(Ipv6Extension, POD_A, extended(to(REMOTE6), &many)),
        case(Ipv6Extension, POD_A, extended(to(REMOTE6), &late)),
        case(
            Ipv6Extension,
            POD_A,
            extended(to(REMOTE6), &[(DESTINATION, &[9, 0, 0, 0, 0, 0, 0])]),
        ),
        case(SourceMac, POD_A, udp6(MAC_B, A6, REMOTE6, b"x")),
        case(SourceIp, POD_A, udp6(MAC_A, B6, REMOTE6, b"x")),
        case(SourceIp, POD_A, udp6(MAC_A, ALL_NODES6, REMOTE6, b"x")),
        case(
            LinkLocalSource,
            POD_A,
            udp6(MAC_A, LINK_LOCAL6, REMOTE6, b"x"),
        ),
        case(
            LinkLocalSource,
            POD_A,
            udp6(MAC_A, UNSPECIFIED6, REMOTE6, b"x"),
        ),
        case(LinkLocalSource, POD_A, udp6(MAC_A, GATEWAY6, REMOTE6, b"x")),
        case(LinkLocalSource, POD_A, echo6(MAC_A, LINK_LOCAL6, GATEWAY6)),
        case(SourceRoute, POD_A, detour(0, 0)),
        case(SourceRoute, POD_A, detour(4, 1)),
        case(
            TunnelSpoof,
            POD_A,
            udp6_ports(MAC_A, A6, NODE6_2, (9, 8472), b"x"),
        )
        .on(over_v6()),
        case(TunnelSpoof, POD_A, protocol(4, NODE6_1)).on(over_v6()),
        case(TunnelSpoof, POD_A, protocol(41, NODE6_2)).on(over_v6()),
        case(
            TunnelSpoof,
            POD_A,
            extended(protocol(41, NODE6_2), &[(DESTINATION, OPTIONS)]),
        )
        .on(over_v6()),
        case(DestinationGroup, POD_A, to(ALL_NODES6)),
        case(DestinationGroup, POD_A, edited(|f| f[0] = 0x33)),
        case(DestinationMac, POD_A, edited(|f| f[0] = 0x02)),
        case(GatewayProtocol, POD_A, to(GATEWAY6)).icmp(1, 4),
        case(GatewayProtocol, POD_A, tcp6(MAC_A, A6, GATEWAY6, b"")).icmp(1, 4),
        case(GatewayProtocol, POD_A, protocol(132, GATEWAY6)).icmp(4, 1),
        case(NoRoute, POD_A, to(STRANGER6)).icmp(1, 0),
        case(Blackhole, POD_A, to(NOBODY6)).icmp(1, 3),
        case(TtlExceeded, POD_A, with_hop_limit(1)).icmp(3, 0),
        case(TtlExceeded, POD_A, with_hop_limit(0)).icmp(3, 0),
        case(TooBig, POD_A, udp6(MAC_A, A6, REMOTE6, &[0; 1600])).icmp(2, 0),
        case(HostMissing, POD_A, to(HOST6))
            .icmp(1, 3)
            .setup([Operation::RemovePort(HOST)]),
        case(
            Dhcp,
            POD_A,
            udp6_ports(
                MAC_A,
                LINK_LOCAL6,
                ip_octets("ff02::1:2"),
                (546, 547),
                &[1; 40],
            ),
        ),
    ]
}

fn ip_octets(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

pub(super) fn discovery_cases() -> Vec<Case> {
    use DropReason::*;
    let ask = || solicitation(A6, GATEWAY6);
    let damaged = |at: usize, value: u8| {
        let mut frame = ask();
        frame[at] = value;
        frame
    };
    // Type, and the target of what is said.
    let told = |kind, src, target, mac| neighbor(kind, (src, GATEWAY6), target, Some(mac));
    let router = |kind| {
        icmp6(
            MAC_A,
            (LINK_LOCAL6, ALL_NODES6),
            255,
            &[kind, 0, 0, 0, 64, 0, 0, 0],
        )
    };
    let short = icmp6(MAC_A, (A6, GATEWAY6), 255, &[135, 0, 0, 0, 0, 0, 0, 0]);
    let routed = [(ROUTING, &[0, 4, 1, 0, 0, 0, 0][..])];
    vec![
        case(NdMalformed, POD_A, damaged(21, 254)),
        case(NdMalformed, POD_A, damaged(56, 0)),
        case(NdMalformed, POD_A, short.clone()),
        case(NdMalformed, HOST, short),
        case(
            NdMalformed,
            POD_A,
            extended(ask(), &[(FRAGMENT, &fragment6(0, true))]),
        ),
        case(
            NdMalformed,
            POD_A,
            extended(
                ask(),
                &[
                    (FRAGMENT, &fragment6(0, true)),
                    (FRAGMENT, &fragment6(0, false)),
                ],
            ),
        ),
        case(SourceMac, POD_A, damaged(11, 9)),
        case(SourceRoute, POD_A, extended(ask(), &routed)),
        case(NdSenderMac, POD_A, told(135, A6, GATEWAY6, MAC_B)),
        case(NdSenderMac, POD_A, told(136, A6, A6, MAC_B)),
        case(NdSenderIp, POD_A, told(135, B6, GATEWAY6, MAC_A)),
        case(NdSenderIp, POD_A, told(136, A6, B6, MAC_A)),
        case(NdTarget, POD_A, solicitation(A6, B6)),
        case(NdTarget, POD_A, solicitation(UNSPECIFIED6, B6)),
        case(NdRouter, POD_A, router(134)),
        case(NdRouter, POD_A, router(137)),
    ]
}

pub(super) fn host_and_offload_cases() -> Vec<Case> {
    use DropReason::*;
    let partial = |start, offset| Input {
        checksum: Checksum::Partial { start, offset },
        ..Input::from(udp6(MAC_A, A6, REMOTE6, b"payload"))
    };
    vec![
        case(HostLoop, HOST, udp6(HOST_MAC, NODE6_1, HOST6, b"x")),
        case(DirectLoop, HOST, udp6(HOST_MAC, HOST6, REMOTE6, b"x")).on(Node {
            encap: Encap::Direct,
            ..Node::new(1)
        }),
        case(LinkLocalSource, HOST, udp6(HOST_MAC, LINK_LOCAL6, A6, b"x")),
        case(BadOffload, POD_A, partial(53, 6)),
        case(BadOffload, POD_A, partial(54, 2)),
        case(BadOffload, POD_A, partial(54, 14)),
        case(
            BadOffload,
            POD_A,
            Input {
                segmentation: Segmentation::TcpV4 { size: 100 },
                ..Input::from(tcp6(MAC_A, A6, REMOTE6, &[0; 300]))
            },
        ),
    ]
}

pub(super) fn underlay_cases() -> Vec<Case> {
    use DropReason::*;
    let tunnels = Node {
        encap: Encap::Ipip,
        ..Node::new(1)
    };
    let inner = |src, dst| from_vtep(udp6(VTEP_2, src, dst, b"sixteen bytes of"));
    let from = |src| vxlan(&inner(src, A6), 1);
    let outer = |mut input: Input, edit: fn(&mut Outer)| {
        edit(input.outer.as_mut().unwrap());
        input
    };
    let wrong_version = |frame: Vec<u8>, protocol| {
        let mut input = ipip(&frame);
        input.outer.as_mut().unwrap().l4 = OuterL4::Ip { protocol };
        input
    };
    let v4 = || udp(VTEP_2, REMOTE, A, b"x");
    vec![
        case(PeerGuard, UNDERLAY, from(B6)),
        case(PeerGuard, UNDERLAY, from(STRANGER6)),
        case(PeerGuard, UNDERLAY, from(REMOTE6_3)),
        case(PeerGuard, UNDERLAY, from(LINK_LOCAL6)),
        case(PeerGuard, UNDERLAY, from(GATEWAY6)),
        case(PeerGuard, UNDERLAY, from(UNSPECIFIED6)),
        case(TunnelLoop, UNDERLAY, vxlan(&inner(REMOTE6, REMOTE6), 1)),
        case(
            TransitDenied,
            UNDERLAY,
            vxlan(&inner(REMOTE6, REMOTE6_3), 1),
        ),
        case(EcnCe, UNDERLAY, outer(from(REMOTE6), |o| o.tos = 3)),
        case(Blackhole, UNDERLAY, vxlan(&inner(REMOTE6, NOBODY6), 1)).icmp(1, 3),
        case(
            UnknownPeer,
            UNDERLAY,
            outer(from(REMOTE6), |o| o.src = ip("192.168.77.9")),
        ),
        case(
            UnknownPeer,
            UNDERLAY,
            outer(from(REMOTE6), |o| o.src = ip("192.168.77.2")),
        )
        .on(over_v6()),
        case(
            UnknownPeer,
            UNDERLAY,
            outer(ipip(&v4()), |o| o.src = ip("192.168.77.9")),
        ),
        case(UnknownPeer, PortId(6), ipip(&v4()))
            .on(tunnels)
            .setup([Operation::UpsertPort(Port {
                id: PortId(6),
                ..underlay(1500)
            })]),
        case(EncapNotAllowed, UNDERLAY, ipip(&inner(REMOTE6, A6))),
        case(EncapNotAllowed, UNDERLAY, vxlan(&inner(REMOTE6, A6), 1)).on(Node {
            encap: Encap::Direct,
            ..Node::new(1)
        }),
        case(Ipv4Version, UNDERLAY, wrong_version(inner(REMOTE6, A6), 4)).on(tunnels),
        case(Ipv6Truncated, UNDERLAY, wrong_version(v4(), 41)).on(tunnels),
        case(PeerGuard, UNDERLAY, ipip(&inner(B6, A6))).on(tunnels),
        case(TunnelLoop, UNDERLAY, ipip(&inner(REMOTE6, REMOTE6))).on(tunnels),
        case(NoHeadroom, UNDERLAY, {
            let mut input = ipip(&v4());
            input.headroom = Some(13);
            input
        })
        .on(tunnels),
    ]
}
