//! A node as the daemon would program it, and packets made by etherparse, which
//! we did not write.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(
    unreachable_pub,
    reason = "shared by test crates, public to nobody else"
)]

mod cluster;
pub mod raw_ports;
mod v6;

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::PacketBuilder;

pub use cluster::*;
pub use v6::*;

pub const UNDERLAY: PortId = PortId(0);
pub const HOST: PortId = PortId(1);
pub const POD_A: PortId = PortId(2);
pub const POD_B: PortId = PortId(3);
pub const NET: NetworkId = NetworkId(0);

pub const GATEWAY_MAC: [u8; 6] = [0xee; 6];
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub const MAC_A: [u8; 6] = [0x0a, 0x58, 10, 244, 1, 2];
pub const MAC_B: [u8; 6] = [0x0a, 0x58, 10, 244, 1, 3];
pub const VTEP_1: [u8; 6] = [0x0a, 0x63, 192, 168, 77, 1];
pub const VTEP_2: [u8; 6] = [0x0a, 0x63, 192, 168, 77, 2];

pub const A: [u8; 4] = [10, 244, 1, 2];
pub const B: [u8; 4] = [10, 244, 1, 3];
pub const REMOTE: [u8; 4] = [10, 244, 2, 7];
pub const NODE_1: [u8; 4] = [192, 168, 77, 1];
pub const NODE_2: [u8; 4] = [192, 168, 77, 2];
pub const GATEWAY: [u8; 4] = [169, 254, 1, 1];

pub fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> IpPrefix {
    let (address, length) = text.split_once('/').unwrap();
    IpPrefix::new(ip(address), length.parse().unwrap()).unwrap()
}

pub fn list<T: Clone, const N: usize>(items: &[T]) -> heapless::Vec<T, N> {
    heapless::Vec::from_slice(items).unwrap_or_else(|_| panic!("more than {N} items"))
}

pub fn network() -> Network {
    Network {
        id: NET,
        vni: Vni::new(1).unwrap(),
        udp_port: 8472,
        local: ip("192.168.77.1"),
        vtep_mac: MacAddr::new(VTEP_1),
        gateways: list(&[ip("169.254.1.1"), ip("fe80::1")]),
        gateway_mac: MacAddr::new(GATEWAY_MAC),
        node_addresses: list(&[ip("10.244.1.0"), ip("fd00:244:1::")]),
        prefixes: list(&[prefix("10.244.0.0/16"), prefix("fd00:244::/32")]),
        proxy: Proxy::LinkLocal,
        options: NetworkOptions::NONE,
        underlay: UNDERLAY,
    }
}

pub fn underlay(mtu: u16) -> Port {
    Port {
        id: UNDERLAY,
        mtu,
        mac: MacAddr::ZERO,
        offloads: Offloads::NONE,
        kind: PortKind::Underlay,
    }
}

pub fn host() -> Port {
    Port {
        id: HOST,
        mtu: 1450,
        mac: MacAddr::new(HOST_MAC),
        offloads: Offloads::CHECKSUM,
        kind: PortKind::Host { network: NET },
    }
}

pub fn pod(id: PortId, mac: [u8; 6], address: &str) -> Port {
    Port {
        id,
        mtu: 1450,
        mac: MacAddr::new(mac),
        offloads: Offloads::CHECKSUM,
        kind: PortKind::Endpoint(Endpoint::with_address(NET, ip(address))),
    }
}

pub fn peer() -> Peer {
    Peer {
        id: PeerId(0),
        network: NET,
        underlay: ip("192.168.77.2"),
        vtep_mac: MacAddr::new(VTEP_2),
        node_addresses: list(&[ip("192.168.77.2")]),
        accepts: EncapSet::of(&[Encap::Vxlan]),
        transit: false,
    }
}

pub fn route(to: &str, next_hop: NextHop) -> Operation {
    Operation::UpsertRoute(Route {
        network: NET,
        prefix: prefix(to),
        next_hop,
    })
}

pub const TO_PEER: NextHop = NextHop::Peer {
    peer: PeerId(0),
    encap: Encap::Vxlan,
};

/// Node 1 of a cluster of three, with two pods.
pub fn program(gateway: &mut Gateway<'_>) {
    Node::new(1).program(gateway);
}

/// A frame with what a device said about it.
#[derive(Clone, Debug, Default)]
pub struct Input {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub segmentation: Segmentation,
    pub outer: Option<Outer>,
    pub headroom: Option<usize>,
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
#[derive(Debug, Clone)]
pub struct Output {
    pub fate: Fate,
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub segmentation: Segmentation,
    pub outer: Option<Outer>,
    pub made: Vec<Made>,
}

/// What a shell gives to the core besides the frame.
#[derive(Clone, Debug)]
pub struct Shell {
    pub now: Instant,
    /// Sizes of the spare frames' buffers.
    pub spares: Vec<usize>,
}

/// Spare frames that [`Shell::default`] gives.
pub const SPARES: usize = 6;
/// Free bytes behind a frame that [`Shell::run`] hands in.
const TAILROOM: usize = 16;

impl Default for Shell {
    fn default() -> Self {
        Shell {
            now: Instant::from_micros(1_000_000),
            spares: vec![2048; SPARES],
        }
    }
}

impl Shell {
    /// So many spares.
    pub fn with_spares(count: usize) -> Shell {
        Shell {
            spares: vec![2048; count],
            ..Shell::default()
        }
    }

    pub fn run(&self, gateway: &mut Gateway<'_>, port: PortId, input: impl Into<Input>) -> Output {
        let mut outputs = self.run_batch(gateway, port, vec![input.into()]);
        outputs.0.remove(0).with(outputs.1)
    }

    /// Runs several frames in one batch; returns them and what the gateway made.
    pub fn run_batch(
        &self,
        gateway: &mut Gateway<'_>,
        port: PortId,
        inputs: Vec<Input>,
    ) -> (Vec<Output>, Vec<Made>) {
        let mut buffers: Vec<_> = inputs.iter().map(Input::buffer).collect();
        let mut batch: Vec<_> = inputs
            .iter()
            .zip(&mut buffers)
            .map(|(input, buffer)| Packet::new(input.frame(buffer)))
            .collect();
        let mut spare: Vec<_> = self.spares.iter().map(|len| vec![0xa5; *len]).collect();
        let mut spares: Vec<_> = spare
            .iter_mut()
            .map(|bytes| {
                let start = Frame::HEADROOM.min(bytes.len());
                Packet::new(Frame::new(bytes, start, 0).unwrap())
            })
            .collect();
        let mut originated = Originated::new(&mut spares);
        gateway.process(self.now, port, &mut batch, &mut originated);
        let made = originated.into_made().iter().map(made).collect();
        (batch.iter().map(Output::new).collect(), made)
    }
}

/// A frame of the gateway's own: port, bytes, outer.
pub type Made = (PortId, Vec<u8>, Option<Outer>);

fn made(packet: &Packet<'_>) -> Made {
    let Fate::Forward(port) = packet.fate else {
        panic!("originated frames are forwarded, not {:?}", packet.fate)
    };
    (port, packet.frame.bytes().to_vec(), packet.frame.outer)
}

impl Input {
    fn headroom(&self) -> usize {
        self.headroom.unwrap_or(Frame::HEADROOM)
    }

    /// A buffer with the bytes in it; shells read into larger ones than needed.
    fn buffer(&self) -> Vec<u8> {
        let mut buffer = vec![0xa5; self.headroom() + self.bytes.len() + TAILROOM];
        buffer[self.headroom()..][..self.bytes.len()].copy_from_slice(&self.bytes);
        buffer
    }

    fn frame<'b>(&self, buffer: &'b mut [u8]) -> Frame<'b> {
        let mut frame = Frame::new(buffer, self.headroom(), self.bytes.len()).unwrap();
        frame.checksum = self.checksum;
        frame.segmentation = self.segmentation;
        frame.outer = self.outer;
        frame
    }
}

impl Output {
    fn new(packet: &Packet<'_>) -> Output {
        Output {
            fate: packet.fate,
            bytes: packet.frame.bytes().to_vec(),
            checksum: packet.frame.checksum,
            segmentation: packet.frame.segmentation,
            outer: packet.frame.outer,
            made: Vec::new(),
        }
    }

    fn with(self, made: Vec<Made>) -> Output {
        Output { made, ..self }
    }

    /// The frame that goes on, and those that were made beside it.
    pub fn all(&self) -> Vec<Made> {
        let Fate::Forward(port) = self.fate else {
            panic!("{:?} is not forwarded", self.fate)
        };
        let first = (port, self.bytes.clone(), self.outer);
        [vec![first], self.made.clone()].concat()
    }
}

/// The IP packet in a frame that leaves by a port.
pub fn ip_packet((_, bytes, outer): &Made) -> &[u8] {
    match outer.map(|outer| outer.l4) {
        None => &bytes[14..],
        Some(OuterL4::Udp { .. }) => &bytes[8 + 14..],
        Some(OuterL4::Ip { .. }) => bytes,
    }
}

/// That packet behind an Ethernet header, whichever way it leaves.
pub fn inner_frame(made: &Made) -> Vec<u8> {
    let packet = ip_packet(made);
    let ethertype: [u8; 2] = match packet[0] >> 4 {
        4 => [8, 0],
        _ => [0x86, 0xdd],
    };
    [&[0; 12], &ethertype[..], packet].concat()
}

pub fn run(gateway: &mut Gateway<'_>, port: PortId, input: impl Into<Input>) -> Output {
    Shell::default().run(gateway, port, input)
}

pub fn run_at(
    gateway: &mut Gateway<'_>,
    now: Instant,
    port: PortId,
    input: impl Into<Input>,
) -> Output {
    let shell = Shell {
        now,
        ..Shell::default()
    };
    shell.run(gateway, port, input)
}

/// Puts the pseudo-header's sum into the checksum field, as a kernel with
/// checksum offload does; etherparse computes it from a payload without sum.
pub fn unfinished(mut frame: Vec<u8>) -> Input {
    let (protocol, start, addresses) = match frame[12..14] {
        [8, 0] => {
            let (ip, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
            (
                ip.protocol.0,
                14 + ip.header_len(),
                [ip.source, ip.destination].concat(),
            )
        }
        _ => {
            let (ip, _) = etherparse::Ipv6Header::from_slice(&frame[14..]).unwrap();
            (ip.next_header.0, 54, [ip.source, ip.destination].concat())
        }
    };
    let offset = match protocol {
        6 => 16,
        58 => 2,
        _ => 6,
    };
    let len = u16::try_from(frame.len() - start).unwrap();
    let sum = etherparse::checksum::Sum16BitWords::new()
        .add_slice(&addresses)
        .add_2bytes([0, protocol])
        .add_2bytes(len.to_be_bytes())
        .ones_complement()
        .to_be();
    frame[start + offset..][..2].copy_from_slice(&(!sum).to_be_bytes());
    Input {
        bytes: frame,
        checksum: Checksum::Partial {
            start: start.try_into().unwrap(),
            offset: offset.try_into().unwrap(),
        },
        ..Input::default()
    }
}

/// A UDP packet in an Ethernet frame, checksums by etherparse.
pub fn udp(src_mac: [u8; 6], src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    udp_ports(src_mac, src, dst, (1234, 80), payload)
}

pub fn udp_ports(
    src_mac: [u8; 6],
    src: [u8; 4],
    dst: [u8; 4],
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac, GATEWAY_MAC)
        .ipv4(src, dst, 64)
        .udp(ports.0, ports.1);
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

pub fn tcp(src_mac: [u8; 6], src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac, GATEWAY_MAC)
        .ipv4(src, dst, 64)
        .tcp(1234, 80, 7, 1000);
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

pub fn echo(src_mac: [u8; 6], src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac, GATEWAY_MAC)
        .ipv4(src, dst, 64)
        .icmpv4_echo_request(7, 1);
    let mut out = Vec::new();
    builder.write(&mut out, b"culvert").unwrap();
    out
}

/// Rewrites a frame's IPv4 header through etherparse and fixes its checksum.
pub fn edit_ip(frame: &mut [u8], edit: impl FnOnce(&mut etherparse::Ipv4Header)) {
    let (mut header, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap();
    edit(&mut header);
    header.header_checksum = header.calc_header_checksum();
    let bytes = header.to_bytes();
    frame[14..14 + bytes.len()].copy_from_slice(&bytes);
}

/// A VXLAN packet as an underlay port made of sockets hands it in.
pub fn vxlan(inner: &[u8], vni: u32) -> Input {
    let [_, a, b, c] = vni.to_be_bytes();
    let mut bytes = vec![8, 0, 0, 0, a, b, c, 0];
    bytes.extend(inner);
    Input {
        bytes,
        outer: Some(Outer {
            src: ip("192.168.77.2"),
            dst: ip("192.168.77.1"),
            l4: OuterL4::Udp {
                src_port: 50_000,
                dst_port: 8472,
                checksum: true,
            },
            tos: 0,
            ttl: 64,
            df: true,
        }),
        ..Input::default()
    }
}

/// An inner frame from the peer's VTEP to ours.
pub fn from_vtep(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&VTEP_1);
    frame[6..12].copy_from_slice(&VTEP_2);
    frame
}

/// Parses a frame with etherparse and checks the checksums of IPv4, UDP, TCP,
/// ICMP and ICMPv6.
pub fn verified(frame: &[u8]) -> etherparse::PacketHeaders<'_> {
    use etherparse::{NetHeaders, TransportHeader};
    let packet = etherparse::PacketHeaders::from_ethernet_slice(frame).unwrap();
    let payload = packet.payload.slice();
    let (found, expected) = match (&packet.net, &packet.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), transport) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IP checksum");
            match transport {
                Some(TransportHeader::Udp(udp)) => {
                    (udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap())
                }
                Some(TransportHeader::Tcp(tcp)) => {
                    (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap())
                }
                Some(TransportHeader::Icmpv4(icmp)) => {
                    (icmp.checksum, icmp.icmp_type.calc_checksum(payload))
                }
                _ => return packet,
            }
        }
        (Some(NetHeaders::Ipv6(ip, _)), transport) => match transport {
            Some(TransportHeader::Udp(udp)) => {
                (udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap())
            }
            Some(TransportHeader::Tcp(tcp)) => {
                (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).unwrap())
            }
            Some(TransportHeader::Icmpv6(icmp)) => {
                let sum = icmp.icmp_type;
                let sum = sum.calc_checksum(ip.source, ip.destination, payload);
                (icmp.checksum, sum.unwrap())
            }
            _ => return packet,
        },
        _ => panic!("not IP: {packet:?}"),
    };
    assert_eq!(found, expected, "transport checksum");
    packet
}

/// The sum of all verdicts, which must equal `rx`.
pub fn sum_of_fates(gateway: &Gateway<'_>) -> u64 {
    let plain = [
        Counter::ForwardEndpoint,
        Counter::ForwardHost,
        Counter::ForwardUnderlay,
        Counter::Reply,
        Counter::Consume,
        Counter::Flood,
    ];
    let drops = DropReason::ALL.iter().map(|reason| Counter::Drop(*reason));
    plain
        .into_iter()
        .chain(drops)
        .map(|c| gateway.counter(c))
        .sum()
}

/// Sends a request through the channel as a shell would.
pub fn ask(gateway: &mut Gateway<'_>, request: &Request) -> Response {
    let mut message = vec![0; MAX_MESSAGE];
    let len = encode_request(1, request, &mut message).unwrap();
    let mut out = vec![0; MAX_FRAME];
    let event = FrameEvent::Message(&message[..len]);
    let len = serve(gateway, &event, &mut out);
    decode_response(decode_frame(&mut out[..len - 1]).unwrap())
        .unwrap()
        .1
}

/// What went through each port, as the channel tells it.
pub fn port_stats(gateway: &mut Gateway<'_>) -> Vec<(PortId, PortStats)> {
    let hello = Request::Hello(Hello {
        version: PROTOCOL,
        epoch: 1,
        schema: SCHEMA,
    });
    ask(gateway, &hello);
    let Response::Page(Page::Ports(ports)) =
        ask(gateway, &Request::Read(Read::Ports { after: None }))
    else {
        panic!("no ports")
    };
    ports
        .iter()
        .map(|(port, stats)| (port.entry.id, *stats))
        .collect()
}
