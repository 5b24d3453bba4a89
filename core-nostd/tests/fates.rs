//! Every drop reason is reached, counts once, and sends the ICMP error that its
//! text promises; every other counter stays still.

mod common;

use std::collections::HashMap;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

struct Case {
    reason: DropReason,
    port: PortId,
    input: Input,
    /// Type and code of the ICMP error that the sender gets.
    icmp: Option<(u8, u8)>,
    /// Table changes that bring the case about.
    setup: Vec<Operation>,
}

fn case(reason: DropReason, port: PortId, input: impl Into<Input>) -> Case {
    Case {
        reason,
        port,
        input: input.into(),
        icmp: None,
        setup: Vec::new(),
    }
}

impl Case {
    fn icmp(mut self, kind: u8, code: u8) -> Self {
        self.icmp = Some((kind, code));
        self
    }

    fn setup(mut self, operations: impl IntoIterator<Item = Operation>) -> Self {
        self.setup.extend(operations);
        self
    }
}

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

fn endpoint_cases() -> Vec<Case> {
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
            with_options(&[131, 7, 4, 192, 168, 77, 2, 0]),
        ),
        case(
            SourceRoute,
            POD_A,
            with_options(&[1, 7, 3, 4, 137, 3, 4, 0]),
        ),
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

fn with_options(options: &[u8]) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, REMOTE, b"x");
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    edit_ip(&mut frame, |_| {});
    frame
}

/// A pod that may send from anywhere.
fn wide_pod() -> Operation {
    let mut port = pod(POD_A, MAC_A, "10.244.1.2");
    if let PortKind::Endpoint(endpoint) = &mut port.kind {
        endpoint.allowed = list(&[prefix("0.0.0.0/0")]);
    }
    Operation::UpsertPort(port)
}

fn with_ttl(ttl: u8) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, REMOTE, b"x");
    edit_ip(&mut frame, |header| header.time_to_live = ttl);
    frame
}

fn host_and_offload_cases() -> Vec<Case> {
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

fn underlay_cases() -> Vec<Case> {
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

fn all_cases() -> Vec<Case> {
    let mut cases = endpoint_cases();
    cases.extend(host_and_offload_cases());
    cases.extend(underlay_cases());
    cases
}

fn counters(gateway: &Gateway<'_>) -> HashMap<u16, u64> {
    Counter::all()
        .map(|counter| (counter.number(), gateway.counter(counter)))
        .filter(|(_, value)| *value != 0)
        .collect()
}

#[test]
fn every_drop_reason_is_reached_and_counted_alone() {
    let mut reached = Vec::new();
    for case in all_cases() {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        program(&mut gateway);
        gateway.apply(Owner::Cluster, &case.setup).unwrap();
        let output = run(&mut gateway, case.port, case.input);
        assert_eq!(output.fate, Fate::Drop(case.reason));
        let mut expected = HashMap::from([
            (Counter::Rx.number(), 1),
            (Counter::Drop(case.reason).number(), 1),
        ]);
        if case.icmp.is_some() {
            expected.insert(Counter::Originated.number(), 1);
        }
        assert_eq!(counters(&gateway), expected, "{:?}", case.reason);
        check_icmp(&output, case.icmp, case.reason, case.port);
        reached.push(case.reason);
    }
    for reason in DropReason::ALL {
        assert!(reached.contains(reason), "no case for {reason:?}");
    }
}

fn check_icmp(output: &Output, expected: Option<(u8, u8)>, reason: DropReason, from: PortId) {
    let promised = reason.help().contains("ICMP") && reason.help().contains("was sent");
    if promised {
        assert!(expected.is_some(), "{reason:?} promises an ICMP error");
    }
    let Some((kind, code)) = expected else {
        assert!(output.made.is_empty(), "{reason:?} sent {:?}", output.made);
        return;
    };
    let [(port, bytes, outer)] = &output.made[..] else {
        panic!("{reason:?} made {:?}", output.made)
    };
    assert_eq!(
        *port, from,
        "{reason:?}: the error goes back where the packet came from"
    );
    let frame = if outer.is_some() {
        &bytes[8..]
    } else {
        &bytes[..]
    };
    let packet = verified(frame);
    let Some(etherparse::NetHeaders::Ipv4(header, _)) = &packet.net else {
        panic!()
    };
    let source = if outer.is_some() {
        [10, 244, 1, 0]
    } else {
        GATEWAY
    };
    assert_eq!(header.source, source);
    assert_eq!(header.time_to_live, 64);
    assert_eq!((frame[34], frame[35]), (kind, code), "{reason:?}");
    if (kind, code) == (3, 4) {
        assert_eq!(&frame[40..42], &1450u16.to_be_bytes());
    }
    let quoted = etherparse::Ipv4Header::from_slice(&frame[42..]).unwrap().0;
    assert_eq!(
        quoted.source, header.destination,
        "the sender is told about its own packet"
    );
}

/// A prefix as wide as the world, at a pod or towards a peer, does not lend the
/// gateway's address or one that no host can have.
#[test]
fn wide_prefixes_lend_nobody_the_gateways_address() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    gateway.apply(Owner::Attachment, &[wide_pod()]).unwrap();
    gateway
        .apply(Owner::Cluster, &[route("0.0.0.0/0", TO_PEER)])
        .unwrap();
    let sources = [GATEWAY, [0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]];
    for src in sources {
        let output = run(&mut gateway, POD_A, udp(MAC_A, src, B, b"x"));
        assert_eq!(output.fate, Fate::Drop(DropReason::SourceIp), "{src:?}");
        let frame = vxlan(&from_vtep(udp(VTEP_2, src, A, b"x")), 1);
        let output = run(&mut gateway, UNDERLAY, frame);
        assert_eq!(output.fate, Fate::Drop(DropReason::PeerGuard), "{src:?}");
    }
    let output = run(&mut gateway, POD_A, udp(MAC_A, [9; 4], B, b"x"));
    assert_eq!(output.fate, Fate::Forward(POD_B));
    let frame = vxlan(&from_vtep(udp(VTEP_2, [9; 4], A, b"x")), 1);
    assert_eq!(
        run(&mut gateway, UNDERLAY, frame).fate,
        Fate::Forward(POD_A)
    );
}

#[test]
fn no_error_about_errors_fragments_and_groups() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let mut about_error = echo(MAC_A, A, [8, 8, 8, 8]);
    about_error[34] = 3;
    let mut fragment = udp(MAC_A, A, [8, 8, 8, 8], b"x");
    edit_ip(&mut fragment, |header| {
        header.fragment_offset = etherparse::IpFragOffset::try_new(5).unwrap();
    });
    for frame in [about_error, fragment] {
        let output = run(&mut gateway, POD_A, frame);
        assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
        assert!(output.made.is_empty());
    }
    assert_eq!(gateway.counter(Counter::Originated), 0);
    // An echo request is no error: it gets one.
    let output = run(&mut gateway, POD_A, echo(MAC_A, A, [8, 8, 8, 8]));
    assert_eq!(output.made.len(), 1);
}

#[test]
fn icmp_errors_are_rate_limited_and_want_spares() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let frame = udp(MAC_A, A, [8, 8, 8, 8], b"x");
    for _ in 0..60 {
        run(&mut gateway, POD_A, frame.clone());
    }
    assert_eq!(gateway.counter(Counter::Originated), 50);
    assert_eq!(gateway.counter(Counter::IcmpRateLimited), 10);
    let mut bytes = vec![0; 200];
    bytes[128..128 + frame.len()].copy_from_slice(&frame);
    let mut batch = [Packet::new(
        Frame::new(&mut bytes, 128, frame.len()).unwrap(),
    )];
    let later = Instant::from_micros(60_000_000);
    gateway.process(later, POD_A, &mut batch, &mut Originated::none());
    assert_eq!(gateway.counter(Counter::SparesExhausted), 1);
    assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(&gateway));
}

#[test]
fn an_icmp_error_that_nothing_leads_back_to_is_counted() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    // The host may send from any address, also from one without a route.
    let frame = udp(HOST_MAC, [10, 9, 9, 9], [8, 8, 8, 8], b"x");
    let output = run(&mut gateway, HOST, frame);
    assert_eq!(output.fate, Fate::Drop(DropReason::NoRoute));
    assert!(output.made.is_empty());
    assert_eq!(gateway.counter(Counter::IcmpNoRoute), 1);
}

#[test]
fn a_spare_that_is_too_small_and_a_clock_at_its_end_do_no_harm() {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway);
    let frame = udp(MAC_A, A, [8; 4], b"x");
    let mut bytes = [vec![0; 128], frame.clone()].concat();
    let mut spare = vec![0; 128 + 40];
    let mut batch = [Packet::new(
        Frame::new(&mut bytes, 128, frame.len()).unwrap(),
    )];
    let mut spares = [Packet::new(Frame::new(&mut spare, 128, 0).unwrap())];
    let mut originated = Originated::new(&mut spares);
    let end = Instant::from_micros(u64::MAX);
    gateway.process(end, POD_A, &mut batch, &mut originated);
    assert!(originated.into_made().is_empty());
    assert_eq!(gateway.counter(Counter::SparesExhausted), 1);
    let output = run_at(&mut gateway, end, POD_A, frame);
    assert_eq!(output.made.len(), 1);
}
