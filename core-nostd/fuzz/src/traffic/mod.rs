//! Batches of frames, structured so that they get far, through a node that has
//! everything, while time goes on and its tables change. See `oracle.rs` for what
//! must hold.

mod oracle;
mod packet;
mod packets;
mod scene;
mod view;

use culvert_core::*;

use crate::Reader;
use crate::common::*;
use packets::{any_packet, arp, ethernet, ipv6, node_mac, outer};
use scene::{HOST_C, HOST_C_MAC, MAC_C, Memory, POD_C, Scene};

/// Things that happen in one input at most.
const EVENTS: usize = 16;

/// Where the frames of a target come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// By pods' ports.
    Endpoint,
    /// By the host's port.
    Host,
    /// By the underlay's.
    Underlay,
}

/// Follows one input.
pub fn run(from: From, data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut memory = Memory::new();
    let mut gateway = memory.gateway();
    let mut scene = Scene::new(&mut reader, &mut gateway);
    let mut now = 1000;
    for _ in 0..EVENTS {
        if reader.is_empty() {
            break;
        }
        now += match reader.u8() {
            n @ 0..200 => u64::from(n) * 50,
            n => u64::from(n) * 20_000,
        };
        let spares = match reader.below(8) {
            0..5 => vec![Frame::HEADROOM + 2048; 6],
            5 => vec![Frame::HEADROOM + 9100; 12],
            6 => vec![Frame::HEADROOM + 300; 3],
            _ => vec![],
        };
        let shell = Shell {
            now: Instant::from_micros(now),
            spares,
        };
        event(from, &mut reader, (&mut scene, &mut gateway), &shell);
    }
}

fn event(
    from: From,
    reader: &mut Reader<'_>,
    (scene, gateway): (&mut Scene, &mut Gateway<'_>),
    shell: &Shell,
) {
    match reader.below(16) {
        12 => oracle::tick(scene, gateway, shell),
        13 => scene.change(reader, gateway),
        14 => {
            let peer = scene.underlay_of(reader.pick(&[2, 3, 4, 5, 6, 7]));
            let mtu = reader.u16() % 1600;
            gateway.path_mtu_exceeded(shell.now, UNDERLAY, peer, mtu);
        }
        15 if scene.wire => {
            let frame = scene.answer(reader.pick(&[2, 3, 4, 5, 254]));
            oracle::batch(scene, gateway, shell, (UNDERLAY, vec![frame.into()]));
        }
        kind => {
            let port = ingress(from, reader);
            let count = if kind < 9 { 1 } else { 2 + reader.below(3) };
            let inputs = (0..count).map(|_| input(reader, scene, port)).collect();
            oracle::batch(scene, gateway, shell, (port, inputs));
        }
    }
}

fn ingress(from: From, reader: &mut Reader<'_>) -> PortId {
    let n = reader.u8();
    if n >= 240 {
        return PortId(u16::from(n) % 8);
    }
    match from {
        From::Endpoint => [POD_A, POD_B, POD_C][usize::from(n) % 3],
        From::Host => [HOST, HOST_C][usize::from(n) % 2],
        From::Underlay => UNDERLAY,
    }
}

/// A frame as this port hands it in.
fn input(reader: &mut Reader<'_>, scene: &Scene, port: PortId) -> Input {
    let headroom = match reader.below(8) {
        7 => Some(reader.below(100)),
        _ => None,
    };
    if reader.rarely(32) {
        let len = reader.u8().into();
        let bytes = reader.take(len).to_vec();
        return Input {
            bytes,
            headroom,
            ..Input::default()
        };
    }
    let input = match port {
        UNDERLAY if scene.wire => from_wire(reader, scene),
        UNDERLAY => from_sockets(reader, scene),
        _ => from_local(reader, port),
    };
    Input { headroom, ..input }
}

/// Who is behind a local port.
fn local(port: PortId) -> ([u8; 6], [u8; 4], [u8; 16]) {
    match port {
        POD_B => (MAC_B, B, B6),
        POD_C => (MAC_C, [10, 245, 1, 2], ipv6("fd00:245:1::", 2)),
        HOST => (HOST_MAC, [10, 244, 1, 0], HOST6),
        HOST_C => (HOST_C_MAC, [10, 245, 1, 0], ipv6("fd00:245:1::", 0)),
        _ => (MAC_A, A, A6),
    }
}

fn from_local(reader: &mut Reader<'_>, port: PortId) -> Input {
    let (mac, v4, v6) = local(port);
    let gateway_mac = match port {
        POD_C | HOST_C => [0xea; 6],
        _ => GATEWAY_MAC,
    };
    match reader.below(8) {
        7 => arp(reader, (mac, v4), gateway_mac).into(),
        kind => {
            let mut packet = any_packet(reader, (v4, v6));
            let (checksum, segmentation) = packet.marks(reader, 14);
            let dst = group_mac(&packet.bytes).filter(|_| kind != 6);
            Input {
                bytes: ethernet(reader, (dst.unwrap_or(gateway_mac), mac), &packet.bytes),
                checksum,
                segmentation,
                ..Input::default()
            }
        }
    }
}

/// The MAC address of the group that a packet is for.
fn group_mac(packet: &[u8]) -> Option<[u8; 6]> {
    match packet {
        [0x40..0x50, ..] => match packet.get(16..20)? {
            [255, ..] => Some([0xff; 6]),
            [224..240, b, c, d] => Some([1, 0, 0x5e, b & 0x7f, *c, *d]),
            _ => None,
        },
        _ => match packet.get(24..40)? {
            [0xff, .., a, b, c, d] => Some([0x33, 0x33, *a, *b, *c, *d]),
            _ => None,
        },
    }
}

/// Another node: its number, its network's VNI and port, its pod, whether its
/// packets come by IP in IP.
type Sender = (u8, u32, u16, ([u8; 4], [u8; 16]), bool);

fn sender(reader: &mut Reader<'_>) -> Sender {
    let pod = |block: u8, n: u8| {
        let v6 = match block {
            244 => "fd00:244::",
            _ => "fd00:245::",
        };
        let mut v6 = ipv6(v6, 2);
        v6[5] = n;
        ([10, block, n, 2], v6)
    };
    let ipip = reader.below(8);
    match reader.below(8) {
        0 | 1 => (2, 1, 8472, pod(244, 2), ipip == 7),
        2 | 3 => (3, 1, 8472, pod(244, 3), ipip < 4),
        4 => (4, 1, 8472, pod(244, 4), ipip == 7),
        5 => (5, 1, 8472, pod(244, 5), ipip < 4),
        6 => (2, 4096, 4789, pod(245, 2), ipip == 7),
        _ => (6, 4096, 4789, pod(245, 6), ipip < 5),
    }
}

/// The frame inside of a VXLAN packet, behind its header; or an IP in IP packet.
fn tunnelled(
    reader: &mut Reader<'_>,
    scene: &Scene,
    (n, vni, _, usual, ipip): Sender,
    before: usize,
) -> (Vec<u8>, u8, Checksum, Segmentation) {
    let mut packet = any_packet(reader, usual);
    if ipip {
        let protocol = if packet.bytes[0] >> 4 == 6 { 41 } else { 4 };
        let (checksum, segmentation) = packet.marks(reader, before);
        return (packet.bytes, protocol, checksum, segmentation);
    }
    let (checksum, segmentation) = packet.marks(reader, before + 8 + 14);
    let network = if vni == 1 { NET } else { scene::OTHER };
    let vtep = MacAddr::vtep_for(scene.underlay_of(n)).bytes();
    let dst = group_mac(&packet.bytes).unwrap_or(scene.network(network).vtep_mac.bytes());
    let [_, a, b, c] = match reader.rarely(16) {
        false => vni,
        true => reader.u8().into(),
    }
    .to_be_bytes();
    let flags = if reader.rarely(32) { reader.u8() } else { 8 };
    let mut bytes = vec![flags, 0, 0, 0, a, b, c, 0];
    bytes.extend(ethernet(reader, (dst, vtep), &packet.bytes));
    (bytes, 17, checksum, segmentation)
}

fn from_sockets(reader: &mut Reader<'_>, scene: &Scene) -> Input {
    let sender = sender(reader);
    let (n, _, dst_port, _, _) = sender;
    let (bytes, protocol, checksum, segmentation) = tunnelled(reader, scene, sender, 0);
    let src = match reader.rarely(16) {
        false => scene.underlay_of(n),
        true => scene.underlay_of(reader.pick(&[1, 2, 3, 4, 5, 6, 7])),
    };
    let l4 = match protocol {
        17 => OuterL4::Udp {
            src_port: 50_000,
            dst_port: match reader.rarely(16) {
                false => dst_port,
                true => reader.pick(&[8472, 4789, 53]),
            },
            checksum: true,
        },
        protocol => OuterL4::Ip { protocol },
    };
    let outer = Outer {
        src,
        dst: scene.node.address_of(1),
        l4,
        tos: reader.u8(),
        ttl: 64,
        df: true,
    };
    Input {
        bytes,
        checksum,
        segmentation,
        outer: Some(outer).filter(|_| !reader.rarely(64)),
        ..Input::default()
    }
}

/// A frame on the link of a raw port: a tunnel packet, one without a tunnel, or
/// what neighbors and routers say.
fn from_wire(reader: &mut Reader<'_>, scene: &Scene) -> Input {
    let sender = sender(reader);
    let (n, _, dst_port, usual, _) = sender;
    let nodes = (scene.underlay_of(n), scene.node.address_of(1));
    let addresses = ([192, 168, 77, n], ipv6("fd00:77::", n));
    let macs = (node_mac(1), node_mac(n));
    let headers = 14 + if nodes.1.is_ipv4() { 20 } else { 40 };
    let (packet, checksum, segmentation) = match reader.below(16) {
        0..9 => {
            let before = headers + if sender.4 { 0 } else { 8 };
            let (bytes, protocol, checksum, segmentation) =
                tunnelled(reader, scene, sender, before);
            let payload = match protocol {
                17 => {
                    let len = u16::try_from(8 + bytes.len()).unwrap_or(u16::MAX);
                    let mut datagram = 50_000u16.to_be_bytes().to_vec();
                    datagram.extend(dst_port.to_be_bytes());
                    datagram.extend(len.to_be_bytes());
                    datagram.extend([0, 0]);
                    datagram.extend(bytes);
                    datagram
                }
                _ => bytes,
            };
            let packet = outer(reader, nodes, protocol, payload);
            (packet, checksum, segmentation)
        }
        9 | 10 => {
            let mut packet = any_packet(reader, usual);
            let (checksum, segmentation) = packet.marks(reader, 14);
            (packet, checksum, segmentation)
        }
        11 => {
            let frame = arp(reader, (macs.1, addresses.0), [0xff; 6]);
            return frame.into();
        }
        _ => {
            let mut packet = any_packet(reader, addresses);
            let (checksum, segmentation) = packet.marks(reader, 14);
            (packet, checksum, segmentation)
        }
    };
    let dst = group_mac(&packet.bytes).unwrap_or(macs.0);
    Input {
        bytes: ethernet(reader, (dst, macs.1), &packet.bytes),
        checksum,
        segmentation,
        ..Input::default()
    }
}
