//! A node as the daemon would program it, and packets made by etherparse, which
//! we did not write.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part")]
#![allow(
    unreachable_pub,
    reason = "shared by test crates, public to nobody else"
)]

mod checks;
mod cluster;
pub mod raw_ports;
mod shell;
mod v6;
mod verdicts;

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::PacketBuilder;

pub use checks::*;
pub use cluster::*;
pub use shell::*;
pub use v6::*;
pub use verdicts::*;

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
    let vni = Vni::new(1).unwrap();
    Network {
        udp_port: 8472,
        vtep_mac: MacAddr::new(VTEP_1),
        gateways: list(&[ip("169.254.1.1"), ip("fe80::1")]),
        gateway_mac: MacAddr::new(GATEWAY_MAC),
        node_addresses: list(&[ip("10.244.1.0"), ip("fd00:244:1::")]),
        prefixes: list(&[prefix("10.244.0.0/16"), prefix("fd00:244::/32")]),
        ..Network::new(NET, vni, ip("192.168.77.1"), UNDERLAY)
    }
}

pub fn underlay(mtu: u16) -> Port {
    Port::new(UNDERLAY, mtu, PortKind::Underlay)
}

pub fn host() -> Port {
    Port {
        mac: MacAddr::new(HOST_MAC),
        offloads: Offloads::CHECKSUM,
        ..Port::new(HOST, 1450, PortKind::Host { network: NET })
    }
}

pub fn pod(id: PortId, mac: [u8; 6], address: &str) -> Port {
    let endpoint = Endpoint::with_address(NET, ip(address));
    Port {
        offloads: Offloads::CHECKSUM,
        ..Port::endpoint(id, 1450, MacAddr::new(mac), endpoint)
    }
}

pub fn peer() -> Peer {
    Peer {
        vtep_mac: MacAddr::new(VTEP_2),
        node_addresses: list(&[ip("192.168.77.2")]),
        ..Peer::new(PeerId(0), NET, ip("192.168.77.2"))
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

/// Who has this address?
pub fn arp_request(sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let operation = etherparse::ArpOperation::REQUEST;
    arp_packet(operation, (sender_mac, sender), ([0; 6], target))
}

/// An ARP packet to all: sender and target, MAC and IP address each.
pub fn arp_packet(
    operation: etherparse::ArpOperation,
    sender: ([u8; 6], [u8; 4]),
    target: ([u8; 6], [u8; 4]),
) -> Vec<u8> {
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        operation,
        &sender.0,
        &sender.1,
        &target.0,
        &target.1,
    )
    .unwrap();
    let mut out = Vec::new();
    etherparse::PacketBuilder::ethernet2(sender.0, [0xff; 6])
        .arp(packet)
        .write(&mut out)
        .unwrap();
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

/// The outer source port.
pub fn source_port(output: &Output) -> u16 {
    match output.outer.unwrap().l4 {
        OuterL4::Udp { src_port, .. } => src_port,
        OuterL4::Ip { protocol } => panic!("protocol {protocol}"),
    }
}

/// Puts options into a frame's IPv4 header.
pub fn with_options(mut frame: Vec<u8>, options: &[u8]) -> Vec<u8> {
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    let total = u16::try_from(frame.len() - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    edit_ip(&mut frame, |_| {});
    frame
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
