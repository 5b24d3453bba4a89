//! What came in and what leaves, read by etherparse and by hand, without the core.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::checksum::Sum16BitWords;

use super::scene::Scene;
use crate::common::*;

/// A packet that came in, out of its tunnel, its checksum finished.
pub(super) struct Came {
    pub(super) packet: Vec<u8>,
    pub(super) checksum: Checksum,
    /// VNI and UDP port of a VXLAN packet.
    vxlan: Option<(Vni, u16)>,
    /// Who may have sent it.
    pub(super) peer_addresses: Vec<IpAddr>,
}

/// How something leaves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Local(PortId),
    Tunnel {
        to: IpAddr,
        vxlan: Option<(Vni, u16)>,
    },
    /// Without a tunnel, by a raw port.
    Link,
}

/// A packet that leaves.
pub(super) struct Leaving<'o> {
    pub(super) packet: &'o [u8],
    pub(super) way: Way,
}

fn vni(header: &[u8]) -> Vni {
    let number = u32::from_be_bytes([0, header[4], header[5], header[6]]);
    Vni::new(number).expect("24 bits")
}

/// Cuts what is behind the end of an IP packet.
fn trimmed(mut packet: &[u8]) -> Option<&[u8]> {
    let len = match packet.first()? >> 4 {
        4 => usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?])),
        _ => 40 + usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?])),
    };
    packet = packet.get(..len)?;
    Some(packet)
}

/// The packet with what a device was to add to its checksum; `before`: bytes in
/// front of it.
fn finish(packet: &[u8], before: usize, checksum: Checksum) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let Checksum::Partial { start, offset } = checksum else {
        return bytes;
    };
    let Some(start) = usize::from(start).checked_sub(before) else {
        return bytes;
    };
    let field = start + usize::from(offset);
    if field + 2 > bytes.len() {
        return bytes;
    }
    let sum = Sum16BitWords::new().add_slice(&bytes[start..]);
    let sum = match sum.ones_complement() {
        0 if protocol(&bytes) == Some(17) => 0xffff,
        sum => sum,
    };
    bytes[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
    bytes
}

/// The transport protocol, behind the extension headers that etherparse knows.
fn protocol(packet: &[u8]) -> Option<u8> {
    match packet[0] >> 4 {
        4 => Some(packet[9]),
        _ => upper(packet).map(|(protocol, ..)| protocol),
    }
}

/// The upper layer's protocol and place behind IPv6 extension headers, and whether
/// this is a fragment that has not its front.
fn upper(packet: &[u8]) -> Option<(u8, usize, bool)> {
    let (mut next, mut at, mut later) = (packet[6], 40, false);
    loop {
        let len = match next {
            // Behind mobility, HIP and shim6 (RFC 7045) no node looks for a tunnel.
            0 | 43 | 60 => (usize::from(*packet.get(at + 1)?) + 1) * 8,
            51 => (usize::from(*packet.get(at + 1)?) + 2) * 4,
            44 => {
                later |= u16::from_be_bytes([*packet.get(at + 2)?, *packet.get(at + 3)?]) >= 8;
                8
            }
            _ => return Some((next, at, later)),
        };
        next = *packet.get(at)?;
        at += len;
    }
}

/// A packet in a frame of its own.
pub(super) fn framed(packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = match packet[0] >> 4 {
        4 => [8, 0],
        _ => [0x86, 0xdd],
    };
    [&[0; 12], &kind[..], packet].concat()
}

pub(super) fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).map(IpAddr::from);
    let v6 = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).map(IpAddr::from);
    let (src, dst) = match packet[0] >> 4 {
        4 => (v4(12), v4(16)),
        _ => (v6(8), v6(24)),
    };
    (src.expect("four bytes"), dst.expect("sixteen bytes"))
}

fn ttl(packet: &[u8]) -> u16 {
    match packet[0] >> 4 {
        4 => packet[8].into(),
        _ => packet[7].into(),
    }
}

/// What a frame without a tunnel has.
pub(super) fn plain(input: &Input) -> Option<Came> {
    let packet = trimmed(input.bytes.get(14..)?)?;
    Some(Came {
        packet: finish(packet, 14, input.checksum),
        checksum: input.checksum,
        vxlan: None,
        peer_addresses: vec![],
    })
}

/// What a frame has that came in by this port.
pub(super) fn came(scene: &Scene, port: PortId, input: &Input) -> Option<Came> {
    if port != UNDERLAY {
        return plain(input);
    }
    if scene.wire {
        return from_wire(scene, input);
    }
    let outer = input.outer?;
    let (before, vxlan) = match outer.l4 {
        OuterL4::Udp { dst_port, .. } => (22, Some((vni(&input.bytes), dst_port))),
        OuterL4::Ip { .. } => (0, None),
    };
    let packet = trimmed(input.bytes.get(before..)?)?;
    Some(Came {
        packet: finish(packet, before, input.checksum),
        checksum: input.checksum,
        vxlan,
        peer_addresses: vec![outer.src],
    })
}

fn from_wire(scene: &Scene, input: &Input) -> Option<Came> {
    let whole = trimmed(input.bytes.get(14..)?)?;
    let (src, dst) = addresses(whole);
    let PortKind::Wire(wire) = &scene.port(UNDERLAY)?.kind else {
        return None;
    };
    if !wire.addresses.iter().any(|own| own.address == dst) {
        // Anybody on the link may hand it in for its sender.
        let mut came = plain(input)?;
        came.peer_addresses = scene.peers.iter().map(|peer| peer.underlay).collect();
        return Some(came);
    }
    let (protocol, at, _) = match whole[0] >> 4 {
        4 => (whole[9], usize::from(whole[0] & 15) * 4, false),
        _ => upper(whole)?,
    };
    let (skipped, vxlan) = match protocol {
        17 => {
            let dst_port = u16::from_be_bytes([whole[at + 2], whole[at + 3]]);
            (at + 8 + 22, Some((vni(whole.get(at + 8..)?), dst_port)))
        }
        _ => (at, None),
    };
    let before = 14 + skipped;
    let packet = trimmed(whole.get(skipped..)?)?;
    // What was said of the outer datagram is not of interest any more.
    let checksum = match input.checksum {
        Checksum::Partial { start, .. } if usize::from(start) > 14 + at => input.checksum,
        _ => Checksum::None,
    };
    Some(Came {
        packet: finish(packet, before, checksum),
        checksum,
        vxlan,
        peer_addresses: vec![src],
    })
}

impl Came {
    pub(super) fn ttl(&self) -> u16 {
        ttl(&self.packet)
    }

    /// The networks that it may be in.
    pub(super) fn networks(&self, scene: &Scene, port: PortId) -> Vec<NetworkId> {
        if let Some(network) = scene.network_of(port) {
            return vec![network];
        }
        let networks = scene.networks.iter();
        let networks = networks.filter(|network| {
            let number = (network.vni, network.udp_port);
            self.vxlan.is_none_or(|vxlan| vxlan == number)
        });
        networks.map(|network| network.id).collect()
    }
}

/// Reads what leaves by a port.
pub(super) fn left<'o>(
    scene: &Scene,
    (port, bytes, outer): (PortId, &'o [u8], Option<Outer>),
) -> Leaving<'o> {
    if port == UNDERLAY && scene.wire {
        assert_eq!(outer, None, "it is on the wire");
        return on_wire(scene, bytes);
    }
    assert_eq!(outer.is_some(), port == UNDERLAY);
    let Some(outer) = outer else {
        let to = scene.port(port).expect("it leaves by a port that is there");
        let (_, dst) = addresses(&bytes[14..]);
        assert!(is_group(dst) || bytes[..6] == to.mac.bytes());
        return Leaving {
            packet: &bytes[14..],
            way: Way::Local(port),
        };
    };
    assert_eq!(outer.src, scene.node.address_of(1));
    match outer.l4 {
        OuterL4::Udp { dst_port, .. } => in_vxlan(bytes, outer.dst, dst_port),
        OuterL4::Ip { protocol } => {
            assert_eq!(protocol, if bytes[0] >> 4 == 4 { 4 } else { 41 });
            Leaving {
                packet: bytes,
                way: Way::Tunnel {
                    to: outer.dst,
                    vxlan: None,
                },
            }
        }
    }
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

fn in_vxlan(bytes: &[u8], to: IpAddr, dst_port: u16) -> Leaving<'_> {
    assert_eq!((bytes[0], bytes[7]), (8, 0), "VXLAN flags");
    Leaving {
        packet: &bytes[22..],
        way: Way::Tunnel {
            to,
            vxlan: Some((vni(bytes), dst_port)),
        },
    }
}

/// A frame on the wire: outer headers that etherparse and smoltcp read, to a MAC
/// address that can be one.
fn on_wire<'o>(scene: &Scene, bytes: &'o [u8]) -> Leaving<'o> {
    assert_eq!(bytes[6..12], super::packets::node_mac(1));
    let packet = &bytes[14..];
    let (src, dst) = addresses(packet);
    let to = &bytes[..6];
    assert!(is_group(dst) || to[0] & 1 == 0 && to != [0; 6]);
    if src != scene.node.address_of(1) {
        return Leaving {
            packet,
            way: Way::Link,
        };
    }
    agreed(packet);
    let (protocol, at) = match packet[0] >> 4 {
        4 => (packet[9], 20),
        _ => (packet[6], 40),
    };
    match protocol {
        17 => {
            let dst_port = u16::from_be_bytes([packet[at + 2], packet[at + 3]]);
            let len = usize::from(u16::from_be_bytes([packet[at + 4], packet[at + 5]]));
            assert_eq!(len, packet.len() - at);
            in_vxlan(&packet[at + 8..], dst, dst_port)
        }
        4 | 41 => Leaving {
            packet: &packet[at..],
            way: Way::Tunnel {
                to: dst,
                vxlan: None,
            },
        },
        // A question to a neighbor, an answer.
        _ => Leaving {
            packet,
            way: Way::Link,
        },
    }
}

impl<'o> Leaving<'o> {
    pub(super) fn addresses(&self) -> (IpAddr, IpAddr) {
        addresses(self.packet)
    }

    pub(super) fn ttl(&self) -> u16 {
        ttl(self.packet)
    }

    /// The other node's, when it goes to one.
    pub(super) fn peer_address(&self) -> Option<IpAddr> {
        match self.way {
            Way::Tunnel { to, .. } => Some(to),
            Way::Local(_) | Way::Link => None,
        }
    }

    pub(super) fn port<'s>(&self, scene: &'s Scene) -> &'s Port {
        let port = match self.way {
            Way::Local(port) => scene.port(port),
            _ => scene.port(UNDERLAY),
        };
        port.expect("it leaves by a port that is there")
    }

    /// Whether it stays in this network.
    pub(super) fn is_in(&self, scene: &Scene, id: NetworkId) -> bool {
        let network = scene.network(id);
        let number = (network.vni, network.udp_port);
        match self.way {
            Way::Local(port) => scene.network_of(port) == Some(id),
            Way::Tunnel { to, vxlan } => {
                let mut peers = scene.peers.iter();
                vxlan.is_none_or(|vxlan| vxlan == number)
                    && peers.any(|peer| peer.network == id && peer.underlay == to)
            }
            Way::Link => true,
        }
    }

    /// Whether this next hop leads there.
    pub(super) fn follows(&self, scene: &Scene, id: NetworkId, hop: Option<NextHop>) -> bool {
        let host = |port: PortId| {
            let port = scene.port(port).expect("it is there");
            port.kind == PortKind::Host { network: id }
        };
        match (hop, self.way) {
            (Some(NextHop::Endpoint(wanted)), Way::Local(port)) => wanted == port,
            (Some(NextHop::Host), Way::Local(port)) => host(port),
            (Some(NextHop::Peer { peer, encap }), way) => {
                let peer = scene.peer(peer);
                match (encap, way) {
                    (Encap::Vxlan, Way::Tunnel { to, vxlan }) => {
                        vxlan.is_some() && to == peer.underlay
                    }
                    (Encap::Ipip, Way::Tunnel { to, vxlan }) => {
                        vxlan.is_none() && to == peer.underlay
                    }
                    (Encap::Direct, Way::Local(port)) => !scene.wire && host(port),
                    (Encap::Direct, Way::Link) => scene.wire,
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// The largest packet that fits, as far as the ports' MTUs say.
    pub(super) fn mtu(&self, scene: &Scene) -> usize {
        let mtu = usize::from(self.port(scene).mtu);
        let ip = match scene.node.underlay {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        match self.way {
            Way::Tunnel { vxlan: None, .. } => mtu - ip,
            Way::Tunnel { .. } => mtu - ip - 30,
            Way::Local(_) | Way::Link => mtu,
        }
    }

    /// The packet as it will be when its checksum is finished.
    pub(super) fn finished(&self, output: &Output) -> Vec<u8> {
        let before = output.bytes.len() - self.packet.len();
        finish(self.packet, before, output.checksum)
    }

    /// A pod's packet is none that another node would take for a tunnel packet.
    pub(super) fn carries_no_tunnel(&self, scene: &Scene) {
        let (_, dst) = self.addresses();
        let own = scene.node.address_of(1);
        if dst != own && !scene.peers.iter().any(|peer| peer.underlay == dst) {
            return;
        }
        let (protocol, at, later) = match self.packet[0] >> 4 {
            4 => {
                let fragment = u16::from_be_bytes([self.packet[6], self.packet[7]]);
                let at = usize::from(self.packet[0] & 15) * 4;
                (self.packet[9], at, fragment & 0x1fff != 0)
            }
            _ => match upper(self.packet) {
                Some(upper) => upper,
                None => return,
            },
        };
        assert!(![4, 41].contains(&protocol), "IP in IP to a node");
        if let (17, false, Some(port)) = (protocol, later, self.packet.get(at + 2..at + 4)) {
            let port = u16::from_be_bytes([port[0], port[1]]);
            assert!(![8472, 4789].contains(&port), "VXLAN to a node");
        }
    }
}

/// Takes out what a gateway may change: TTL, header checksum, ECN; and, if told,
/// the transport layer's checksum.
pub(super) fn mask(packet: &mut [u8], transport: bool) {
    let (protocol, at) = match packet[0] >> 4 {
        4 => {
            packet[1] &= !3;
            packet[8] = 0;
            packet[10..12].fill(0);
            (packet[9], usize::from(packet[0] & 15) * 4)
        }
        _ => {
            packet[1] &= !0x30;
            packet[7] = 0;
            match upper(packet) {
                Some((protocol, at, _)) => (protocol, at),
                None => return,
            }
        }
    };
    let offset = match protocol {
        1 | 58 => 2,
        6 => 16,
        17 => 6,
        _ => return,
    };
    let Some(field) = packet.get_mut(at + offset..at + offset + 2) else {
        return;
    };
    if transport || field == [0xff, 0xff] {
        // Both zeros are the same.
        field.fill(0);
    }
}

/// Fragments are pieces of the packet that was too large, each in its place, and
/// together all of it.
pub(super) fn check_fragments(scene: &Scene, came: &Came, all: &[(PortId, &[u8], Option<Outer>)]) {
    let word = |packet: &[u8]| u16::from_be_bytes([packet[6], packet[7]]);
    let header = |packet: &[u8]| usize::from(packet[0] & 15) * 4;
    let offset = |packet: &[u8]| usize::from(word(packet) & 0x1fff) * 8;
    let whole = &came.packet[header(&came.packet)..];
    let mut covered = 0;
    let mut last = false;
    for sent in all {
        let leaving = left(scene, *sent);
        let packet = leaving.packet;
        agreed(packet);
        assert!(packet.len() <= leaving.mtu(scene));
        assert_eq!(leaving.ttl() + 1, came.ttl());
        assert_eq!(leaving.addresses(), addresses(&came.packet));
        assert_eq!(packet[4..6], came.packet[4..6], "one identification");
        let at = offset(packet) - offset(&came.packet);
        let payload = &packet[header(packet)..];
        assert!(whole.get(at..at + payload.len()) == Some(payload));
        covered += payload.len();
        last |= word(packet) & 0x2000 == 0;
    }
    assert_eq!(covered, whole.len(), "no gap");
    assert_eq!(last, word(&came.packet) & 0x2000 == 0);
}

/// An ICMP error of the gateway's is one, and no larger than may be.
pub(super) fn check_error(packet: &[u8]) {
    match packet[0] >> 4 {
        4 => {
            assert!(packet.len() <= 576 && packet[9] == 1);
            assert!([3, 11].contains(&packet[20]), "type {}", packet[20]);
        }
        _ => {
            assert!(packet.len() <= 1280 && packet[6] == 58);
            assert!((1..=4).contains(&packet[40]), "type {}", packet[40]);
        }
    }
}
