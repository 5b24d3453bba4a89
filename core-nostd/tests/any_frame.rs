//! Any bytes with any marks on any port, under any tables that the core takes:
//! one fate each, a frame that stays in its buffer, and never a panic.

mod common;
#[path = "any_frame/dual.rs"]
mod dual;
#[path = "any_frame/fast.rs"]
mod fast;
#[path = "any_frame/packets.rs"]
mod packets;
#[path = "any_frame/trains.rs"]
mod trains;
#[path = "any_frame/wires.rs"]
mod wires;

use std::net::IpAddr;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

fn address() -> impl Strategy<Value = [u8; 4]> {
    let known = [
        A,
        B,
        REMOTE,
        NODE_1,
        NODE_2,
        GATEWAY,
        [10, 244, 1, 0],
        [10, 244, 1, 99],
    ];
    let special = [[0; 4], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1], [8; 4]];
    let known = prop::sample::select(known.to_vec());
    prop_oneof![8 => known, 2 => prop::sample::select(special.to_vec()), 1 => any::<[u8; 4]>()]
}

fn mac() -> impl Strategy<Value = [u8; 6]> {
    let known = [
        MAC_A,
        MAC_B,
        GATEWAY_MAC,
        HOST_MAC,
        VTEP_1,
        VTEP_2,
        [0xff; 6],
        [0; 6],
    ];
    prop_oneof![9 => prop::sample::select(known.to_vec()), 1 => any::<[u8; 6]>()]
}

prop_compose! {
    /// An IPv4 packet whose fields are often right.
    fn ip_packet(from: &'static [[u8; 4]])(
        src in prop_oneof![6 => prop::sample::select(from), 1 => address()],
        dst in address(),
        (tos, ident, fragment) in (any::<u8>(), any::<u16>(), prop_oneof![
            6 => prop::sample::select(vec![0u16, 0x4000]), 1 => any::<u16>(),
        ]),
        ttl in prop_oneof![6 => Just(64u8), 1 => 0u8..3],
        protocol in prop_oneof![8 => prop::sample::select(vec![1u8, 4, 6, 17, 41]), 1 => any::<u8>()],
        options in prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(any::<u8>(), 0..=40)],
        ports in (prop::sample::select(vec![80u16, 8472]), prop::sample::select(vec![80u16, 8472])),
        payload in prop_oneof![
            8 => prop::collection::vec(any::<u8>(), 0..80),
            1 => (1380usize..1500).prop_map(|len| vec![0x50; len]),
            1 => (0usize..62_000).prop_map(|len| vec![0x50; len]),
        ],
        (wrong_len, wrong_sum) in (prop::option::weighted(0.05, any::<u16>()), prop::bool::weighted(0.03)),
    ) -> Vec<u8> {
        let options = &options[..options.len() / 4 * 4];
        let mut payload = payload;
        if let Some(first) = payload.first_chunk_mut::<4>() {
            first[..2].copy_from_slice(&ports.0.to_be_bytes());
            first[2..].copy_from_slice(&ports.1.to_be_bytes());
            if protocol == 1 {
                *first = [if ports.0 == 80 { 8 } else { 3 }, 0, 0, 0];
            }
        }
        let header_len = 20 + options.len();
        let total = u16::try_from(header_len + payload.len()).unwrap();
        let mut packet = vec![0x40 + u8::try_from(header_len / 4).unwrap(), tos];
        packet.extend(wrong_len.unwrap_or(total).to_be_bytes());
        packet.extend(ident.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([ttl, protocol, 0, 0]);
        packet.extend(src);
        packet.extend(dst);
        packet.extend(options);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&packet);
        let sum = sum.ones_complement().to_be() ^ u16::from(wrong_sum);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }
}

prop_compose! {
    fn arp_packet()(
        macs in (mac(), mac()), addresses in (address(), address()), operation in 0u8..4,
        damage in prop::option::weighted(0.1, (0usize..28, any::<u8>())),
    ) -> Vec<u8> {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
        packet.extend(macs.0);
        packet.extend(addresses.0);
        packet.extend(macs.1);
        packet.extend(addresses.1);
        if let Some((at, value)) = damage {
            packet[at] = value;
        }
        packet
    }
}

prop_compose! {
    /// A frame that mostly could come in by a port with this MAC address to this one.
    fn ethernet(to: [u8; 6], by: ([u8; 6], &'static [[u8; 4]]))(
        dst in prop_oneof![12 => Just(to), 1 => mac()],
        src in prop_oneof![12 => Just(by.0), 1 => mac()],
        (kind, payload) in prop_oneof![
            12 => ip_packet(by.1).prop_map(|packet| (0x0800u16, packet)),
            2 => arp_packet().prop_map(|packet| (0x0806, packet)),
            1 => (prop::sample::select(vec![0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8, 0]),
                  prop::collection::vec(any::<u8>(), 0..80)),
        ],
        padding in prop_oneof![3 => Just(0usize), 1 => 0usize..60],
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) -> Vec<u8> {
        let mut frame = [&dst[..], &src, &kind.to_be_bytes(), &payload].concat();
        frame.resize(frame.len() + padding, 0xa5);
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        frame
    }
}

/// Bytes as a port hands them in: mostly what belongs there.
fn bytes(port: PortId) -> impl Strategy<Value = Vec<u8>> {
    let sender: ([u8; 6], &'static [[u8; 4]]) = match port {
        UNDERLAY => (VTEP_2, &[REMOTE, NODE_2]),
        HOST => (HOST_MAC, &[NODE_1, [10, 244, 1, 0]]),
        POD_B => (MAC_B, &[B]),
        _ => (MAC_A, &[A]),
    };
    let to = if port == UNDERLAY {
        VTEP_1
    } else {
        GATEWAY_MAC
    };
    let header = prop_oneof![
        30 => Just(vec![8u8, 0, 0, 0, 0, 0, 1, 0]),
        1 => prop::collection::vec(any::<u8>(), 8),
    ];
    let tunnelled =
        (header, ethernet(to, sender)).prop_map(|(header, frame)| [header, frame].concat());
    let (tunnel, plain) = if port == UNDERLAY { (20, 1) } else { (1, 20) };
    prop_oneof![
        tunnel => tunnelled,
        plain => ethernet(to, sender),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn checksum() -> impl Strategy<Value = Checksum> {
    let start =
        prop_oneof![4 => prop::sample::select(vec![34u16, 42]), 1 => 0u16..100, 1 => any::<u16>()];
    let offset = prop_oneof![4 => prop::sample::select(vec![2u16, 6, 16]), 1 => 0u16..100, 1 => any::<u16>()];
    prop_oneof![
        6 => Just(Checksum::None),
        1 => Just(Checksum::Verified),
        2 => (start, offset).prop_map(|(start, offset)| Checksum::Partial { start, offset }),
    ]
}

/// As [`checksum`], for where IPv6 has its upper layer.
fn checksum6() -> impl Strategy<Value = Checksum> {
    let start = prop::sample::select(vec![54u16, 34, 62]);
    let offset = prop::sample::select(vec![2u16, 6, 16]);
    prop_oneof![
        8 => Just(Checksum::None),
        1 => Just(Checksum::Verified),
        1 => (start, offset).prop_map(|(start, offset)| Checksum::Partial { start, offset }),
        1 => checksum(),
    ]
}

fn segmentation() -> impl Strategy<Value = Segmentation> {
    let size = || prop_oneof![0u16..3, 1390u16..1460, any::<u16>()];
    prop_oneof![
        20 => Just(Segmentation::None),
        1 => size().prop_map(|size| Segmentation::TcpV4 { size }),
        1 => size().prop_map(|size| Segmentation::TcpV6 { size }),
        1 => size().prop_map(|size| Segmentation::Udp { size }),
    ]
}

fn outer() -> impl Strategy<Value = Option<Outer>> {
    let l4 = prop_oneof![
        20 => Just(OuterL4::Udp { src_port: 1, dst_port: 8472, checksum: true }),
        1 => any::<u16>().prop_map(|dst_port| OuterL4::Udp { src_port: 1, dst_port, checksum: true }),
        1 => any::<u8>().prop_map(|protocol| OuterL4::Ip { protocol }),
    ];
    let src = prop_oneof![20 => Just(ip("192.168.77.2")), 1 => any::<IpAddr>()];
    let outer = (
        src,
        any::<IpAddr>(),
        l4,
        any::<u8>(),
        any::<u8>(),
        any::<bool>(),
    );
    let outer = outer.prop_map(|(src, dst, l4, tos, ttl, df)| Outer {
        src,
        dst,
        l4,
        tos,
        ttl,
        df,
    });
    prop::option::weighted(0.95, outer)
}

prop_compose! {
    fn input()(
        port in prop_oneof![
            8 => prop::sample::select(vec![UNDERLAY, HOST, POD_A, POD_B]),
            1 => (0u16..9).prop_map(PortId),
        ],
    )(
        bytes in bytes(port), checksum in checksum(), segmentation in segmentation(), outer in outer(),
        port in Just(port),
        headroom in prop_oneof![4 => Just(None), 1 => (0usize..80).prop_map(Some)],
    ) -> (PortId, Input) {
        (port, Input { bytes, checksum, segmentation, outer, headroom })
    }
}

/// Changes to the usual tables; those that the core refuses are left out.
fn change() -> impl Strategy<Value = Operation> {
    let target = prop::sample::select(vec![
        "0.0.0.0/0",
        "10.244.0.0/16",
        "10.244.1.99/32",
        "8.8.8.8/32",
        "192.168.77.0/24",
    ]);
    let hop = prop::sample::select(vec![
        NextHop::Blackhole,
        NextHop::Host,
        NextHop::Endpoint(POD_B),
        TO_PEER,
    ]);
    let mtu = || prop_oneof![Just(68u16), Just(118), Just(1500), Just(u16::MAX), 68u16..];
    let allowed = prop::sample::select(vec!["0.0.0.0/0", "10.244.0.0/16", "169.254.0.0/16"]);
    prop_oneof![
        (target, hop).prop_map(|(target, hop)| route(target, hop)),
        Just(Operation::RemovePort(HOST)),
        Just(Operation::RemovePort(POD_B)),
        mtu().prop_map(|mtu| Operation::UpsertPort(underlay(mtu))),
        mtu().prop_map(|mtu| Operation::UpsertPort(Port { mtu, ..host() })),
        (mtu(), allowed).prop_map(|(mtu, allowed)| {
            let mut port = Port {
                mtu,
                ..pod(POD_A, MAC_A, "10.244.1.2")
            };
            if let PortKind::Endpoint(endpoint) = &mut port.kind {
                endpoint.allowed = list(&[prefix(allowed)]);
            }
            Operation::UpsertPort(port)
        }),
    ]
}

/// What must hold for each frame, whatever it was.
fn check(gateway: &mut Gateway<'_>, port: PortId, now: Instant, input: &Input) {
    let output = run_at(gateway, now, port, input.clone());
    assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(gateway));
    match output.fate {
        Fate::Forward(UNDERLAY) => {
            assert!(output.outer.is_some());
            // Sockets carry no marks; super-frames are cut before.
            if output.segmentation == Segmentation::None {
                assert!(!matches!(output.checksum, Checksum::Partial { .. }));
                check_sent(&output.bytes[8..], Checksum::None);
            }
        }
        Fate::Forward(_) => {
            assert_eq!(output.outer, None);
            check_sent(&output.bytes, output.checksum);
        }
        Fate::Reply => assert_eq!((output.outer, port != UNDERLAY), (None, true)),
        Fate::Consume | Fate::Flood | Fate::Drop(_) | Fate::Punt | Fate::Queue => {}
    }
    for (_, bytes, outer) in &output.made {
        verified(if outer.is_some() { &bytes[8..] } else { bytes });
        assert!(
            matches!(output.fate, Fate::Drop(_) | Fate::Forward(_) | Fate::Flood),
            "errors are about drops, fragments of what goes on"
        );
    }
}

/// A forwarded frame is a valid IP packet and nothing behind it, and its
/// unfinished checksum writes neither to the IP header nor behind the end.
fn check_sent(frame: &[u8], checksum: Checksum) {
    if frame[12..14] == [0x86, 0xdd] {
        let (header, _) = etherparse::Ipv6Header::from_slice(&frame[14..]).unwrap();
        assert_eq!(usize::from(header.payload_length), frame.len() - 54);
        return;
    }
    let (header, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
    // Over the bytes: etherparse's own header has no place for the reserved flag.
    let sum =
        etherparse::checksum::Sum16BitWords::new().add_slice(&frame[14..][..header.header_len()]);
    assert_eq!(sum.ones_complement(), 0);
    assert_eq!(usize::from(header.total_len), frame.len() - 14);
    if let Checksum::Partial { start, offset } = checksum {
        let field = usize::from(start) + usize::from(offset);
        assert!(usize::from(start) >= 14 + header.header_len());
        assert!(field + 2 <= frame.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 5000, ..ProptestConfig::default() })]

    #[test]
    fn any_frame_has_one_fate(
        changes in prop::collection::vec(change(), 0..4),
        frames in prop::collection::vec((any::<u64>(), input()), 1..4),
    ) {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        program(&mut gateway);
        for change in changes {
            let owner = match &change {
                Operation::UpsertPort(Port { kind: PortKind::Endpoint(_), .. }) => Owner::Attachment,
                Operation::RemovePort(POD_B) => Owner::Attachment,
                _ => Owner::Cluster,
            };
            let _ = gateway.apply(owner, &[change]);
        }
        for (now, (port, input)) in frames {
            check(&mut gateway, port, Instant::from_micros(now), &input);
        }
    }
}
