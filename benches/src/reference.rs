//! The same job as the core's, written as a Rust programmer would: etherparse for
//! the headers, prefix-trie for the routes, maps for ports and peers. It checks
//! what the core checks of a plain packet and writes what the core writes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use etherparse::{Ethernet2Header, Ipv4Header, NetSlice, SlicedPacket, TransportSlice};
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;

use crate::scene;

/// Where a packet goes by a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Underlay destination.
    pub dst: Ipv4Addr,
    /// Outer UDP source port.
    pub src_port: u16,
}

/// A node with one pod.
pub struct Node {
    routes: PrefixMap<Ipv4Net, u16>,
    peers: HashMap<u16, (Ipv4Addr, [u8; 6])>,
    by_underlay: HashMap<Ipv4Addr, u16>,
    pods: HashMap<Ipv4Addr, [u8; 6]>,
}

impl Node {
    /// The node of [`scene::storage`].
    ///
    /// # Panics
    /// When there are more than 65,536 peers.
    pub fn new(routes: u32) -> Node {
        let peers = routes.min(scene::PEERS);
        let id = |index: u32| u16::try_from(index % peers).expect("at most 256");
        let block = |index| Ipv4Net::new(scene::block(index), 24).expect("a /24");
        let underlay = |index: u32| (id(index), scene::peer(index));
        let mac = |address| culvert_core::MacAddr::vtep_for(IpAddr::V4(address)).bytes();
        Node {
            routes: (0..routes).map(|index| (block(index), id(index))).collect(),
            peers: (0..peers)
                .map(underlay)
                .map(|(id, address)| (id, (address, mac(address))))
                .collect(),
            by_underlay: (0..peers)
                .map(underlay)
                .map(|(id, address)| (address, id))
                .collect(),
            pods: HashMap::from([(scene::POD_IP.into(), scene::POD_MAC)]),
        }
    }

    /// From the pod into a VXLAN tunnel: writes the tunnelled frame into `out` and
    /// returns its length and where it goes. `None` is a drop.
    pub fn encap(&self, frame: &[u8], out: &mut [u8]) -> Option<(usize, Tunnel)> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else {
            return None;
        };
        let Some(NetSlice::Ipv4(ip)) = &packet.net else {
            return None;
        };
        let mut header = ip.header().to_header();
        let src = ip.header().source_addr();
        let guarded = link.source() == scene::POD_MAC
            && link.destination() == scene::GATEWAY_MAC
            && header.calc_header_checksum() == header.header_checksum
            && self.pods.get(&src) == Some(&scene::POD_MAC);
        if !guarded || header.time_to_live <= 1 || header.total_len > 1450 {
            return None;
        }
        let dst = Ipv4Net::from(ip.header().destination_addr());
        let (_, id) = self.routes.get_lpm(&dst)?;
        let (underlay, vtep) = *self.peers.get(id)?;
        let ports = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
            Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
            _ => (0, 0),
        };
        let hash = hash(&header, ports);
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        let len = write(&header, (vtep, scene::VTEP), ip.payload().payload, 8, out)?;
        out[..8].copy_from_slice(&[8, 0, 0, 0, 0, 0, 1, 0]);
        let tunnel = Tunnel {
            dst: underlay,
            src_port: 49_152 | hash >> 2,
        };
        Some((len, tunnel))
    }

    /// From a VXLAN tunnel to the pod: writes the frame into `out` and returns its
    /// length. `None` is a drop.
    pub fn decap(&self, packet: &[u8], from: Ipv4Addr, out: &mut [u8]) -> Option<usize> {
        let (vxlan, frame) = packet.split_at_checked(8)?;
        if vxlan[0] & 8 == 0 || vxlan[4..7] != [0, 0, 1] {
            return None;
        }
        let peer = *self.by_underlay.get(&from)?;
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else {
            return None;
        };
        let Some(NetSlice::Ipv4(ip)) = &packet.net else {
            return None;
        };
        let mut header = ip.header().to_header();
        let src = Ipv4Net::from(ip.header().source_addr());
        let (_, back) = self.routes.get_lpm(&src)?;
        let guarded = link.destination() == scene::VTEP
            && header.calc_header_checksum() == header.header_checksum
            && *back == peer;
        if !guarded || header.time_to_live <= 1 || header.total_len > 1450 {
            return None;
        }
        let mac = *self.pods.get(&ip.header().destination_addr())?;
        header.time_to_live -= 1;
        header.header_checksum = header.calc_header_checksum();
        write(
            &header,
            (mac, scene::GATEWAY_MAC),
            ip.payload().payload,
            0,
            out,
        )
    }
}

/// Writes Ethernet, IP and payload at `at`; returns where they end.
fn write(
    header: &Ipv4Header,
    (destination, source): ([u8; 6], [u8; 6]),
    payload: &[u8],
    at: usize,
    out: &mut [u8],
) -> Option<usize> {
    let link = Ethernet2Header {
        source,
        destination,
        ether_type: etherparse::EtherType::IPV4,
    };
    let rest = link.write_to_slice(out.get_mut(at..)?).ok()?;
    let ip = header.to_bytes();
    rest.get_mut(..ip.len())?.copy_from_slice(&ip);
    rest.get_mut(ip.len()..ip.len() + payload.len())?
        .copy_from_slice(payload);
    Some(at + Ethernet2Header::LEN + ip.len() + payload.len())
}

/// As the core hashes a flow.
fn hash(header: &Ipv4Header, ports: (u16, u16)) -> u16 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (header.source, header.destination, header.protocol.0, ports).hash(&mut hasher);
    u16::try_from(hasher.finish() >> 48).expect("16 bits")
}

#[cfg(test)]
mod tests {
    use culvert_core::channel::Encap;
    use culvert_core::{Fate, OuterL4};

    use super::*;

    /// A comparison is worth something when both do the same.
    #[test]
    fn the_reference_writes_what_the_core_writes() {
        let node = Node::new(1000);
        let mut storage = scene::storage(1000, Encap::Vxlan);
        let mut gateway = storage.gateway();
        let mut out = [0; 256];
        let frames = scene::from_pod(1000);
        let mut slots = frames.slots();
        let mut packets = frames.packets(&mut slots);
        scene::process(&mut gateway, frames.ingress, &mut packets);
        for (packet, bytes) in packets.iter().zip(&frames.bytes) {
            let (len, tunnel) = node.encap(bytes, &mut out).unwrap();
            assert_eq!(packet.fate, Fate::Forward(scene::UNDERLAY));
            assert_eq!(packet.frame.bytes(), &out[..len]);
            let outer = packet.frame.outer.unwrap();
            assert_eq!(outer.dst, tunnel.dst);
            assert!(matches!(outer.l4, OuterL4::Udp { src_port, .. } if src_port >= 49_152));
        }
        let frames = scene::from_tunnel(1000, Encap::Vxlan);
        let mut slots = frames.slots();
        let mut packets = frames.packets(&mut slots);
        scene::process(&mut gateway, frames.ingress, &mut packets);
        for ((packet, bytes), outer) in packets.iter().zip(&frames.bytes).zip(&frames.outer) {
            let IpAddr::V4(from) = outer.unwrap().src else {
                panic!("not IPv4")
            };
            let len = node.decap(bytes, from, &mut out).unwrap();
            assert_eq!(packet.fate, Fate::Forward(scene::POD));
            assert_eq!(packet.frame.bytes(), &out[..len]);
        }
    }
}
