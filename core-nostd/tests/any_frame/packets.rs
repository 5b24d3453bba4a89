//! Packets of both versions whose fields are often right, on any port.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use super::common::*;
use super::{arp_packet, ip_packet, mac};

/// Any node that the tables take.
pub(crate) fn any_node() -> BoxedStrategy<Node> {
    let family = prop::sample::select(vec![Family::V4, Family::V6]);
    let encap = prop::sample::select(vec![Encap::Vxlan, Encap::Ipip, Encap::Direct]);
    let switches = prop::collection::vec(any::<bool>(), 6);
    let mtu =
        prop_oneof![4 => Just(1500u16), 1 => Just(9000), 1 => 1280u16..1500, 1 => 138u16..1280];
    (family, encap, switches, mtu)
        .prop_map(|(underlay, encap, switches, underlay_mtu)| {
            let all = [
                NetworkOptions::FLOOD,
                NetworkOptions::CLAMP_MSS,
                NetworkOptions::ZERO_UDP_CHECKSUM,
                NetworkOptions::OUTER_MAY_FRAGMENT,
            ];
            let chosen = all.into_iter().zip(&switches).filter(|(_, on)| **on);
            Node {
                underlay,
                underlay_mtu,
                encap,
                options: chosen.fold(NetworkOptions::NONE, |set, (option, _)| set.with(option)),
                proxy: if switches[4] {
                    Proxy::Network
                } else {
                    Proxy::LinkLocal
                },
                transit: switches[5],
                ..Node::new(1)
            }
        })
        .boxed()
}

pub(crate) fn address6() -> BoxedStrategy<[u8; 16]> {
    let known = [
        A6,
        B6,
        HOST6,
        NOBODY6,
        REMOTE6,
        REMOTE6_3,
        NODE6_1,
        NODE6_2,
        GATEWAY6,
        LINK_LOCAL6,
        STRANGER6,
        ALL_NODES6,
        UNSPECIFIED6,
    ];
    let groups = [
        [0xff; 16],
        culvert_core::wire::ipv6::solicited_node(GATEWAY6.into()).octets(),
    ];
    prop_oneof![
        8 => prop::sample::select(known.to_vec()),
        1 => prop::sample::select(groups.to_vec()),
        1 => any::<[u8; 16]>(),
    ]
    .boxed()
}

/// An extension header: its type and its bytes but the first.
type Extension = (u8, Vec<u8>);

fn extension() -> BoxedStrategy<Extension> {
    let known = |kind: u8, rest: [u8; 7]| Just((kind, rest.to_vec()));
    let fragment = |offset, more| (44, fragment6(offset, more).to_vec());
    prop_oneof![
        3 => known(60, [0, 1, 4, 0, 0, 0, 0]),
        1 => known(0, [0, 5, 2, 0, 0, 1, 0]),
        1 => known(43, [0, 4, 0, 0, 0, 0, 0]),
        1 => known(51, [0, 0, 0, 0, 0, 0, 0]),
        2 => (0u16..8192, any::<bool>()).prop_map(move |(offset, more)| fragment(offset, more)),
        1 => any::<bool>().prop_map(move |more| fragment(0, more)),
    ]
    .boxed()
}

/// Extension headers that are what they say, if not always in their place.
pub(crate) fn chain() -> BoxedStrategy<Vec<Extension>> {
    let some = prop::collection::vec(extension(), 1..4);
    prop_oneof![3 => Just(vec![]), 2 => some, 1 => Just(vec![(60, vec![0; 7]); 9])].boxed()
}

/// Extension headers of which some end anywhere.
fn odd_chain() -> BoxedStrategy<Vec<Extension>> {
    let kind = prop::sample::select(vec![0u8, 43, 44, 51, 60, 135]);
    let odd = (kind, prop::collection::vec(any::<u8>(), 0..24));
    let header = prop_oneof![6 => extension(), 1 => odd];
    prop_oneof![4 => chain(), 1 => prop::collection::vec(header, 1..4)].boxed()
}

/// The upper layer of an IPv6 packet: protocol and bytes, mostly well formed.
fn upper(src: [u8; 16], dst: [u8; 16]) -> BoxedStrategy<(u8, Vec<u8>)> {
    let port = || prop::sample::select(vec![80u16, 8472, 547, 546]);
    let payload = || {
        prop_oneof![
            8 => prop::collection::vec(any::<u8>(), 0..80),
            1 => (1300usize..1500).prop_map(|len| vec![0x50; len]),
            1 => (0usize..20_000).prop_map(|len| vec![0x50; len]),
        ]
    };
    let udp = (port(), port(), payload())
        .prop_map(move |(from, to, payload)| udp6_ports(MAC_A, src, dst, (from, to), &payload));
    let syn = (any::<u16>(), 0usize..4).prop_map(move |(mss, shift)| {
        let [high, low] = mss.to_be_bytes();
        let options = [&vec![1; shift][..], &[2, 4, high, low]].concat();
        let builder = etherparse::PacketBuilder::ethernet2(MAC_A, GATEWAY_MAC).ipv6(src, dst, 64);
        let mut out = Vec::new();
        let tcp = builder
            .tcp(9, 80, 7, 1000)
            .syn()
            .options_raw(&options)
            .unwrap();
        tcp.write(&mut out, b"").unwrap();
        out
    });
    let tcp = payload().prop_map(move |payload| tcp6(MAC_A, src, dst, &payload));
    let kind = prop_oneof![3 => 128u8..144, 1 => any::<u8>()];
    let option = prop_oneof![
        3 => prop::sample::select(vec![MAC_A, HOST_MAC, MAC_B]).prop_map(Some),
        1 => Just(None),
    ];
    let icmp = (kind, address6(), option, prop::bool::weighted(0.1)).prop_map(
        move |(kind, target, option, wrong)| {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            message.extend(target);
            if let Some(mac) = option {
                message.extend([if kind == 136 { 2 } else { 1 }, 1]);
                message.extend(mac);
            }
            let mut frame = icmp6(MAC_A, (src, dst), 255, &message);
            frame[56] ^= u8::from(wrong);
            frame
        },
    );
    let raw = (any::<u8>(), payload())
        .prop_map(move |(protocol, payload)| packet6(MAC_A, (src, dst), (protocol, 64), &payload));
    let tunnel = (prop::sample::select(vec![4u8, 41, 59]), payload())
        .prop_map(move |(protocol, payload)| packet6(MAC_A, (src, dst), (protocol, 64), &payload));
    prop_oneof![
        4 => udp.boxed(), 1 => syn.boxed(), 2 => tcp.boxed(), 5 => icmp.boxed(), 1 => raw.boxed(), 1 => tunnel.boxed(),
    ]
        .prop_map(|frame| (frame[20], frame[54..].to_vec()))
        .boxed()
}

prop_compose! {
    fn addresses6(from: &'static [[u8; 16]])(
        src in prop_oneof![
            6 => prop::sample::select(from), 1 => Just(LINK_LOCAL6), 1 => Just(UNSPECIFIED6), 1 => address6(),
        ],
        dst in address6(),
    ) -> ([u8; 16], [u8; 16]) {
        (src, dst)
    }
}

/// An IPv6 packet whose fields are often right.
fn ip6_packet(from: &'static [[u8; 16]]) -> BoxedStrategy<Vec<u8>> {
    let fields = (
        prop_oneof![4 => Just(64u8), 4 => Just(255), 1 => 0u8..3],
        any::<u8>(),
        prop::option::weighted(0.05, any::<u16>()),
    );
    addresses6(from)
        .prop_flat_map(|(src, dst)| (Just((src, dst)), upper(src, dst)))
        .prop_flat_map(move |(addresses, (protocol, payload))| {
            (odd_chain(), fields.clone()).prop_map(move |(chain, (hop_limit, tos, wrong_len))| {
                let frame = packet6(MAC_A, addresses, (protocol, hop_limit), &payload);
                let chain: Vec<_> = chain
                    .iter()
                    .map(|(kind, rest)| (*kind, &rest[..]))
                    .collect();
                let mut frame = extended(frame, &chain);
                edit_ip6(&mut frame, |header| header.traffic_class = tos);
                if let Some(len) = wrong_len {
                    frame[18..20].copy_from_slice(&len.to_be_bytes());
                }
                frame[14..].to_vec()
            })
        })
        .boxed()
}

/// Who sends by a port: MAC address and addresses of both versions.
fn sender(port: PortId) -> ([u8; 6], &'static [[u8; 4]], &'static [[u8; 16]]) {
    match port {
        UNDERLAY => (VTEP_2, &[REMOTE, NODE_2], &[REMOTE6, NODE6_2]),
        HOST => (HOST_MAC, &[NODE_1, [10, 244, 1, 0]], &[HOST6, NODE6_1]),
        POD_B => (MAC_B, &[B], &[B6]),
        _ => (MAC_A, &[A], &[A6]),
    }
}

/// A frame to this MAC address, mostly, and its kind.
fn frame(port: PortId, to: [u8; 6]) -> BoxedStrategy<Vec<u8>> {
    let (from, v4, v6) = sender(port);
    let packet = prop_oneof![
        4 => ip_packet(v4).prop_map(|packet| ([8, 0], packet)),
        8 => ip6_packet(v6).prop_map(|packet| ([0x86, 0xdd], packet)),
        1 => arp_packet().prop_map(|packet| ([8, 6], packet)),
        1 => (prop::sample::select(vec![[8, 0], [0x86, 0xdd], [0x81, 0]]), prop::collection::vec(any::<u8>(), 0..90)),
    ];
    let dst = prop_oneof![10 => Just(to), 1 => Just([0x33, 0x33, 0, 0, 0, 1]), 1 => mac()];
    let src = prop_oneof![12 => Just(from), 1 => mac()];
    (
        dst,
        src,
        packet,
        0usize..30,
        prop::option::weighted(0.1, any::<prop::sample::Index>()),
    )
        .prop_map(|(dst, src, (kind, packet), padding, cut)| {
            let mut frame = [&dst[..], &src, &kind, &packet].concat();
            frame.resize(frame.len() + padding, 0xa5);
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            frame
        })
        .boxed()
}

/// What an underlay port of this node hands in.
fn tunnelled(node: Node) -> BoxedStrategy<Input> {
    let peer = prop_oneof![
        12 => Just(node.address_of(2)), 4 => Just(node.address_of(3)), 1 => any::<IpAddr>(),
    ];
    let vxlan_share = if node.encap == Encap::Ipip { 1 } else { 12 };
    let kind = prop_oneof![vxlan_share => Just(true), 4 => Just(false)];
    (
        frame(UNDERLAY, node.vtep_of(1)),
        peer,
        kind,
        any::<u8>(),
        prop::bool::weighted(0.05),
    )
        .prop_map(move |(frame, src, is_vxlan, tos, odd)| {
            let mut input = match is_vxlan || frame.len() < 14 {
                true => vxlan(&frame, 1 + u32::from(odd)),
                false => ipip(&frame),
            };
            let l4 = input.outer.unwrap().l4;
            input.outer = Some(Outer {
                src,
                dst: node.address_of(1),
                l4,
                tos,
                ttl: 64,
                df: true,
            });
            input
        })
        .boxed()
}

/// Frames on the ports of a node, with any marks.
pub(crate) fn inputs(node: Node) -> BoxedStrategy<Vec<(PortId, Input)>> {
    let local = prop::sample::select(vec![HOST, POD_A, POD_B])
        .prop_flat_map(|port| (Just(port), frame(port, GATEWAY_MAC).prop_map(Input::from)));
    let remote = (Just(UNDERLAY), tunnelled(node));
    let one = prop_oneof![3 => local, 2 => remote];
    let marked = (one, super::checksum6(), super::segmentation()).prop_map(
        |((port, input), checksum, segmentation)| {
            (
                port,
                Input {
                    checksum,
                    segmentation,
                    ..input
                },
            )
        },
    );
    prop::collection::vec(marked, 1..5).boxed()
}

/// Some spare frames, few or small ones at times.
pub(crate) fn any_shell() -> BoxedStrategy<Shell> {
    let len = prop_oneof![4 => Just(2048usize), 1 => 0usize..1600];
    (prop::collection::vec(len, 0..12), any::<u32>())
        .prop_map(|(spares, now)| Shell {
            now: Instant::from_micros(now.into()),
            spares,
        })
        .boxed()
}
