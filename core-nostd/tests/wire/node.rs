//! Nodes whose underlay is raw Ethernet, and the frames between them, made and
//! checked by etherparse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use crate::verdicts::sum_of_fates;
use culvert_core::channel::*;
use culvert_core::*;
use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};

pub const WIRE: PortId = PortId(0);
pub const HOST: PortId = PortId(1);
pub const POD: PortId = PortId(2);
pub const NET: NetworkId = NetworkId(0);
pub const GATEWAY_MAC: [u8; 6] = [0xee; 6];
pub const BROADCAST: [u8; 6] = [0xff; 6];
pub const UDP_PORT: u16 = 4789;

/// A small storage with two slots for packets that wait.
pub type Memory = Storage<2, 8, 16, 64, 8, 2>;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn list<T: Clone, const N: usize>(items: &[T]) -> heapless::Vec<T, N> {
    heapless::Vec::from_slice(items).unwrap_or_else(|_| panic!("more than {N} items"))
}

/// MAC address of node `n` on the wire.
pub fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

pub fn pod_mac(n: u8) -> [u8; 6] {
    [0x0a, 0x58, 10, 244, n, 2]
}

/// Underlay address of node `n`.
pub fn node(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => IpAddr::from([192, 0, 2, n]),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into(),
    }
}

/// Address of the pod of node `n`.
pub fn pod(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => IpAddr::from([10, 244, n, 2]),
        true => Ipv6Addr::new(0xfd00, 0x244, n.into(), 0, 0, 0, 0, 2).into(),
    }
}

/// How a node is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub n: u8,
    /// IP version of the underlay.
    pub v6: bool,
    pub encap: Encap,
    pub accepts: &'static [Encap],
    pub options: NetworkOptions,
    pub offloads: Offloads,
    /// Without a gateway only the link can be reached.
    pub gateway: bool,
}

pub const ALL: &[Encap] = &[Encap::Vxlan, Encap::Ipip, Encap::Direct];

impl Setup {
    pub fn new(n: u8, v6: bool, encap: Encap) -> Self {
        Setup {
            n,
            v6,
            encap,
            accepts: ALL,
            options: NetworkOptions::NONE,
            offloads: Offloads::NONE,
            gateway: true,
        }
    }

    pub fn wire(&self) -> Port {
        let address = |v6, prefix_length| WireAddress {
            address: node(v6, self.n),
            prefix_length,
        };
        let gateways = [node(false, 254), node(true, 254)];
        Port {
            id: WIRE,
            mtu: 1500,
            mac: MacAddr::new(mac(self.n)),
            offloads: self.offloads,
            kind: PortKind::Wire(Wire {
                addresses: list(&[address(false, 24), address(true, 64)]),
                gateways: list(&gateways[..if self.gateway { 2 } else { 0 }]),
            }),
        }
    }

    pub fn network(&self) -> Network {
        Network {
            id: NET,
            vni: Vni::new(4096).unwrap(),
            udp_port: UDP_PORT,
            local: node(self.v6, self.n),
            vtep_mac: MacAddr::vtep_for(node(self.v6, self.n)),
            gateways: list(&[ip("169.254.1.1"), ip("fe80::1")]),
            gateway_mac: MacAddr::new(GATEWAY_MAC),
            node_addresses: heapless::Vec::new(),
            prefixes: heapless::Vec::new(),
            proxy: Proxy::LinkLocal,
            options: self.options,
            underlay: WIRE,
        }
    }

    pub fn peer(&self, n: u8, underlay: IpAddr) -> Peer {
        Peer {
            id: PeerId(n.into()),
            network: NET,
            underlay,
            vtep_mac: MacAddr::vtep_for(underlay),
            node_addresses: heapless::Vec::new(),
            accepts: EncapSet::of(self.accepts),
            transit: false,
        }
    }

    /// A peer and the routes to its pods.
    pub fn add_peer(&self, gateway: &mut Gateway<'_>, n: u8, underlay: IpAddr) {
        let next_hop = NextHop::Peer {
            peer: PeerId(n.into()),
            encap: self.encap,
        };
        let route = |v6, length| {
            let first = match pod(v6, n) {
                IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !0xff).into(),
                IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            };
            Operation::UpsertRoute(Route {
                network: NET,
                prefix: IpPrefix::new(first, length).unwrap(),
                next_hop,
            })
        };
        let peer = Operation::UpsertPeer(self.peer(n, underlay));
        let operations = [peer, route(false, 24), route(true, 64)];
        gateway.apply(Owner::Cluster, &operations).unwrap();
    }

    /// Programs a node that has a pod and knows node `other`.
    pub fn program(&self, gateway: &mut Gateway<'_>, other: u8) {
        let pod = Port {
            id: POD,
            mtu: 1430,
            mac: MacAddr::new(pod_mac(self.n)),
            offloads: Offloads::NONE,
            kind: PortKind::Endpoint(Endpoint {
                network: NET,
                addresses: list(&[pod(false, self.n), pod(true, self.n)]),
                allowed: heapless::Vec::new(),
            }),
        };
        let operations = [
            Operation::UpsertPort(self.wire()),
            Operation::UpsertNetwork(self.network()),
            Operation::UpsertPort(pod),
        ];
        gateway.apply(Owner::Cluster, &operations).unwrap();
        self.add_peer(gateway, other, node(self.v6, other));
    }
}

/// Runs a test on node 1 of two.
pub fn on<R>(setup: Setup, test: impl FnOnce(&mut Gateway<'_>) -> R) -> R {
    let mut memory = Memory::new();
    let mut gateway = memory.gateway();
    setup.program(&mut gateway, 2);
    drain_announcements(&mut gateway);
    let result = test(&mut gateway);
    assert_eq!(gateway.counter(Counter::Rx), sum_of_fates(&gateway));
    result
}

/// What the wire says of itself when it is new has been sent.
pub fn drain_announcements(gateway: &mut Gateway<'_>) {
    assert_eq!(tick(gateway, 0).len(), 2);
}

/// The same node, which already knows node 2's MAC address.
pub fn on_known<R>(setup: Setup, test: impl FnOnce(&mut Gateway<'_>) -> R) -> R {
    on(setup, |gateway| {
        let to = node(setup.v6, 2);
        run(gateway, 0, POD, udp(false, 2, b"first"));
        run(gateway, 0, WIRE, answer(setup, to, mac(2)));
        test(gateway)
    })
}

/// A frame with what a device said about it.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub segmentation: Segmentation,
}

impl From<Vec<u8>> for Input {
    fn from(bytes: Vec<u8>) -> Self {
        Input {
            bytes,
            ..Input::default()
        }
    }
}

/// What the core made of a frame.
#[derive(Clone, Debug)]
pub struct Output {
    pub fate: Fate,
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub segmentation: Segmentation,
    pub made: Vec<(PortId, Vec<u8>)>,
}

pub fn at(millis: u64) -> Instant {
    Instant::from_micros(1_000_000_000 + millis * 1000)
}

/// Hands a frame in at this time, with so many spares.
pub fn run_with(
    gateway: &mut Gateway<'_>,
    (millis, spares): (u64, usize),
    port: PortId,
    input: impl Into<Input>,
) -> Output {
    let input = input.into();
    let mut buffer = vec![0xa5; Frame::HEADROOM + input.bytes.len()];
    buffer[Frame::HEADROOM..].copy_from_slice(&input.bytes);
    let mut frame = Frame::new(&mut buffer, Frame::HEADROOM, input.bytes.len()).unwrap();
    frame.checksum = input.checksum;
    frame.segmentation = input.segmentation;
    let mut batch = [Packet::new(frame)];
    let made = with_spares(spares, |originated| {
        gateway.process(at(millis), port, &mut batch, originated);
    });
    let [packet] = batch;
    assert!(packet.frame.outer.is_none(), "it is on the wire");
    Output {
        fate: packet.fate,
        bytes: packet.frame.bytes().to_vec(),
        checksum: packet.frame.checksum,
        segmentation: packet.frame.segmentation,
        made,
    }
}

pub fn run(
    gateway: &mut Gateway<'_>,
    millis: u64,
    port: PortId,
    input: impl Into<Input>,
) -> Output {
    run_with(gateway, (millis, 8), port, input)
}

/// What a tick makes.
pub fn tick(gateway: &mut Gateway<'_>, millis: u64) -> Vec<(PortId, Vec<u8>)> {
    with_spares(8, |originated| gateway.tick(at(millis), originated))
}

pub fn with_spares(
    count: usize,
    make: impl FnOnce(&mut Originated<'_, '_>),
) -> Vec<(PortId, Vec<u8>)> {
    let mut buffers = vec![vec![0xa5; Frame::HEADROOM + 2048]; count];
    let mut spares: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| Packet::new(Frame::new(buffer, Frame::HEADROOM, 0).unwrap()))
        .collect();
    let mut originated = Originated::new(&mut spares);
    make(&mut originated);
    let made = originated.into_made().iter();
    made.map(|made| {
        let Fate::Forward(port) = made.fate else {
            panic!("originated frames are forwarded, not {:?}", made.fate)
        };
        (port, made.frame.bytes().to_vec())
    })
    .collect()
}

/// A packet of a pod's or node's own making between two addresses.
pub fn ip_frame(
    macs: ([u8; 6], [u8; 6]),
    (src, dst): (IpAddr, IpAddr),
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        other => panic!("{other:?}"),
    };
    let mut out = Vec::new();
    builder
        .udp(ports.0, ports.1)
        .write(&mut out, payload)
        .unwrap();
    out
}

/// UDP from the pod of node 1 to that of node `n`.
pub fn udp(v6: bool, n: u8, payload: &[u8]) -> Vec<u8> {
    let macs = (pod_mac(1), GATEWAY_MAC);
    ip_frame(macs, (pod(v6, 1), pod(v6, n)), (1234, 80), payload)
}

/// What is inside of the tunnel packets of node 2's pod to node 1's: without
/// Ethernet.
pub fn from_remote(v6: bool, payload: &[u8]) -> Vec<u8> {
    let frame = ip_frame(
        Default::default(),
        (pod(v6, 2), pod(v6, 1)),
        (80, 1234),
        payload,
    );
    frame[14..].to_vec()
}

/// A VXLAN packet from node 2 to node 1 as it is on the wire.
pub fn vxlan(v6: bool, inner: &[u8]) -> Vec<u8> {
    let vtep = |n| MacAddr::vtep_for(node(v6, n)).bytes();
    let ethertype = if inner[0] >> 4 == 4 {
        [8, 0]
    } else {
        [0x86, 0xdd]
    };
    let header = [8, 0, 0, 0, 0, 0x10, 0, 0];
    let payload = [&header[..], &vtep(1), &vtep(2), &ethertype, inner].concat();
    let nodes = (node(v6, 2), node(v6, 1));
    ip_frame((mac(2), mac(1)), nodes, (50_000, UDP_PORT), &payload)
}

/// An IP packet of any protocol from node 2 to node 1 on the wire.
pub fn protocol(v6: bool, number: u8, payload: &[u8]) -> Vec<u8> {
    ip_packet(
        (mac(2), mac(1)),
        (node(v6, 2), node(v6, 1)),
        number,
        payload,
    )
}

pub fn ip_packet(
    macs: ([u8; 6], [u8; 6]),
    (src, dst): (IpAddr, IpAddr),
    number: u8,
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let builder = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        other => panic!("{other:?}"),
    };
    let mut out = Vec::new();
    builder.write(&mut out, number.into(), payload).unwrap();
    out
}

/// An ARP packet: (operation, from, to).
pub fn arp(
    operation: u8,
    (src_mac, src): ([u8; 6], [u8; 4]),
    (dst_mac, dst): ([u8; 6], [u8; 4]),
) -> Vec<u8> {
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        etherparse::ArpOperation(operation.into()),
        &src_mac,
        &src,
        &[0; 6],
        &dst,
    );
    let mut out = Vec::new();
    let builder = PacketBuilder::ethernet2(src_mac, dst_mac);
    builder.arp(packet.unwrap()).write(&mut out).unwrap();
    out
}

/// A neighbor discovery message of this type and these flags.
pub fn discovery(
    (kind, flags): (u8, u8),
    (src_mac, src): ([u8; 6], Ipv6Addr),
    (dst_mac, dst): ([u8; 6], Ipv6Addr),
    target: Ipv6Addr,
) -> Vec<u8> {
    let option = if kind == 135 { 1 } else { 2 };
    let payload = [&target.octets()[..], &[option, 1], &src_mac].concat();
    let builder = PacketBuilder::ethernet2(src_mac, dst_mac)
        .ipv6(src.octets(), dst.octets(), 255)
        .icmpv6_raw(kind, 0, [flags, 0, 0, 0]);
    let mut out = Vec::new();
    builder.write(&mut out, &payload).unwrap();
    out
}

pub fn v4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("{address} is not IPv4"),
    }
}

pub fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(_) => panic!("{address} is not IPv6"),
    }
}

/// The answer to node 1's question who has `address`.
pub fn answer(setup: Setup, address: IpAddr, mac_there: [u8; 6]) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let to = (mac(setup.n), v4(node(false, setup.n)));
            arp(2, (mac_there, address.octets()), to)
        }
        IpAddr::V6(address) => {
            let to = (mac(setup.n), v6(node(true, setup.n)));
            discovery((136, 0x60), (mac_there, address), to, address)
        }
    }
}

/// Whether this is a question of node 1 about that address, and to whom it goes.
pub fn question(frame: &[u8], about: IpAddr) -> Option<[u8; 6]> {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let ethernet = packet.link.clone().unwrap().ethernet2().unwrap();
    assert_eq!(ethernet.source, mac(1));
    let found = match about {
        IpAddr::V4(address) => {
            let Some(NetHeaders::Arp(arp)) = packet.net else {
                return None;
            };
            let arp = arp.try_eth_ipv4().unwrap();
            assert_eq!((arp.sender_mac, arp.sender_ipv4), (mac(1), [192, 0, 2, 1]));
            arp.operation == etherparse::ArpOperation::REQUEST
                && arp.target_ipv4 == address.octets()
        }
        IpAddr::V6(address) => {
            let Some(TransportHeader::Icmpv6(icmp)) = verified(frame).transport else {
                return None;
            };
            let payload = packet.payload.slice();
            let Some(NetHeaders::Ipv6(ip, _)) = packet.net else {
                return None;
            };
            assert_eq!((ip.hop_limit, ip.source), (255, v6(node(true, 1)).octets()));
            assert_eq!(payload[16..], [&[1, 1], &mac(1)[..]].concat());
            icmp.icmp_type.type_u8() == 135 && payload[..16] == address.octets()
        }
    };
    found.then_some(ethernet.destination)
}

/// Parses a frame with etherparse and checks the checksums of IP, UDP, TCP and ICMP.
pub fn verified(frame: &[u8]) -> PacketHeaders<'_> {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let payload = packet.payload.slice();
    match &packet.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
            let sums = match &packet.transport {
                Some(TransportHeader::Udp(udp)) if udp.checksum == 0 => None,
                Some(TransportHeader::Udp(udp)) => {
                    Some((udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap()))
                }
                Some(TransportHeader::Tcp(tcp)) => {
                    Some((tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap()))
                }
                Some(TransportHeader::Icmpv4(icmp)) => {
                    Some((icmp.checksum, icmp.icmp_type.calc_checksum(payload)))
                }
                _ => None,
            };
            assert!(sums.is_none_or(|(found, right)| found == right), "{sums:?}");
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            let sums = match &packet.transport {
                Some(TransportHeader::Udp(udp)) if udp.checksum == 0 => None,
                Some(TransportHeader::Udp(udp)) => {
                    Some((udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap()))
                }
                Some(TransportHeader::Icmpv6(icmp)) => {
                    let sum = icmp
                        .icmp_type
                        .calc_checksum(ip.source, ip.destination, payload);
                    Some((icmp.checksum, sum.unwrap()))
                }
                _ => None,
            };
            assert!(sums.is_none_or(|(found, right)| found == right), "{sums:?}");
        }
        Some(NetHeaders::Arp(_)) => {}
        None => panic!("not IP: {packet:?}"),
    }
    packet
}
