//! That plain packets do take the fast path. What it does to them is held against
//! the stages in `tests/any_frame/fast.rs`.

use super::*;
use crate::channel::*;
use crate::pipeline::Context;
use crate::wire::{ethernet, ip, ipv4};
use crate::{Instant, IpPrefix, MacAddr, NetworkId, Outer, PeerId, Tiny, Vni};

const POD: PortId = PortId(1);
const UNDERLAY: PortId = PortId(0);
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GATEWAY_MAC: [u8; 6] = [0xee; 6];
const VTEP: [u8; 6] = [2, 0, 0, 0, 0, 9];
const LOCAL: [u8; 4] = [10, 1, 0, 1];
const REMOTE: [u8; 4] = [10, 2, 0, 1];

/// A node with a pod and a peer that has 10.2.0.0/16.
fn program(gateway: &mut crate::Gateway<'_>, encap: Encap, options: NetworkOptions) {
    let network = NetworkId(0);
    let port = |id, mac: [u8; 6], kind| {
        Operation::UpsertPort(Port {
            id,
            mtu: 1500,
            mac: MacAddr::new(mac),
            offloads: Offloads::NONE,
            kind,
        })
    };
    let operations = [
        port(UNDERLAY, [0; 6], PortKind::Underlay),
        Operation::UpsertNetwork(Network {
            id: network,
            vni: Vni::new(1).unwrap(),
            udp_port: 4789,
            local: [192, 0, 2, 1].into(),
            vtep_mac: MacAddr::new(VTEP),
            gateways: core::iter::once([169, 254, 1, 1].into()).collect(),
            gateway_mac: MacAddr::new(GATEWAY_MAC),
            node_addresses: heapless::Vec::new(),
            prefixes: heapless::Vec::new(),
            proxy: Proxy::LinkLocal,
            options,
            underlay: UNDERLAY,
        }),
        port(
            POD,
            POD_MAC,
            PortKind::Endpoint(Endpoint::with_address(network, LOCAL.into())),
        ),
        Operation::UpsertPeer(Peer {
            id: PeerId(0),
            network,
            underlay: [192, 0, 2, 2].into(),
            vtep_mac: MacAddr::new([2, 0, 0, 0, 0, 8]),
            node_addresses: heapless::Vec::new(),
            accepts: EncapSet::of(&[encap]),
            transit: false,
        }),
        Operation::UpsertRoute(Route {
            network,
            prefix: IpPrefix::new([10, 2, 0, 0].into(), 16).unwrap(),
            next_hop: NextHop::Peer {
                peer: PeerId(0),
                encap,
            },
        }),
    ];
    gateway.apply(Owner::Cluster, &operations).unwrap();
}

/// The packet's bytes as they come in, at the front of a buffer behind headroom.
fn packet(protocol: u8, (dst, src): ([u8; 6], [u8; 6]), from: [u8; 4], to: [u8; 4]) -> [u8; 74] {
    let mut bytes = [0; 74];
    let ethernet = ethernet::Header {
        dst: MacAddr::new(dst),
        src: MacAddr::new(src),
        ethertype: ethernet::IPV4,
    };
    let header = ipv4::Header {
        src: from.into(),
        dst: to.into(),
        tos: 0,
        ident: 7,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        header_len: 20,
        total_len: 60,
    };
    ethernet.emit(bytes.first_chunk_mut().unwrap());
    header.emit(bytes[14..].first_chunk_mut().unwrap());
    bytes
}

/// Whether a frame on a port takes the fast path.
fn takes(
    (encap, options): (Encap, NetworkOptions),
    port: PortId,
    bytes: &[u8],
    outer: Option<Outer>,
) -> bool {
    let mut storage = Tiny::new();
    let mut gateway = storage.gateway();
    program(&mut gateway, encap, options);
    let mut buffer = [0; 256];
    buffer[Frame::HEADROOM..][..bytes.len()].copy_from_slice(bytes);
    let mut frame = Frame::new(&mut buffer, Frame::HEADROOM, bytes.len()).unwrap();
    frame.outer = outer;
    let context = Context {
        tables: &gateway.tables,
        now: Instant::ZERO,
        ingress: port,
    };
    let mut batch = [Packet::new(frame)];
    let mut run = Run::default();
    let arrival = Arrival::new(context).unwrap();
    arrival.run_fast(&mut run, &mut batch);
    assert_eq!(run.sent.len(), run.frames);
    run.frames == 1
}

fn outer(l4: OuterL4) -> Option<Outer> {
    Some(Outer {
        src: [192, 0, 2, 2].into(),
        dst: [192, 0, 2, 1].into(),
        l4,
        tos: 0,
        ttl: 64,
        df: true,
    })
}

#[test]
fn plain_packets_of_pods_and_peers_take_it() {
    let none = NetworkOptions::NONE;
    for protocol in [ip::UDP, ip::TCP] {
        let sent = packet(protocol, (GATEWAY_MAC, POD_MAC), LOCAL, REMOTE);
        assert!(takes((Encap::Vxlan, none), POD, &sent, None));
        assert!(takes((Encap::Ipip, none), POD, &sent, None));

        let inner = packet(protocol, (VTEP, [2; 6]), REMOTE, LOCAL);
        let ipip = outer(OuterL4::Ip { protocol: ip::IPV4 });
        assert!(takes((Encap::Ipip, none), UNDERLAY, &inner[14..], ipip));
        let mut vxlan = [0; 82];
        vxlan[..8].copy_from_slice(&[8, 0, 0, 0, 0, 0, 1, 0]);
        vxlan[8..].copy_from_slice(&inner);
        let udp = outer(OuterL4::Udp {
            src_port: 50_000,
            dst_port: 4789,
            checksum: true,
        });
        assert!(takes((Encap::Vxlan, none), UNDERLAY, &vxlan, udp));
    }
}

#[test]
fn what_is_not_plain_does_not() {
    let none = NetworkOptions::NONE;
    let macs = (GATEWAY_MAC, POD_MAC);
    let vxlan = |options, bytes: &[u8]| takes((Encap::Vxlan, options), POD, bytes, None);
    assert!(!vxlan(none, &packet(ip::ICMP, macs, LOCAL, REMOTE)));
    assert!(!vxlan(none, &packet(ip::UDP, macs, REMOTE, REMOTE)));
    assert!(!vxlan(none, &packet(ip::UDP, macs, LOCAL, [10, 3, 0, 1])));
    let sent = packet(ip::TCP, macs, LOCAL, REMOTE);
    assert!(!vxlan(NetworkOptions::CLAMP_MSS, &sent));
    assert!(!takes((Encap::Direct, none), POD, &sent, None));
    assert!(!vxlan(none, &sent[..40]));
}
