//! The same node with a raw Ethernet underlay, whose neighbors it knows.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::PacketBuilder;

use super::{
    BATCH, Frames, LOCAL, PEERS, POD, UNDERLAY, WIRE_MAC, block, from_tunnel, ground, peer,
    programmed, spread,
};

/// The MAC address of the n-th peer on the link.
pub fn mac(index: u32) -> [u8; 6] {
    let [.., high, low] = index.to_be_bytes();
    [2, 0, 0, 0, high + 2, low]
}

/// As [`super::storage`], with all peers on the link of a raw port; `checksum`: outer
/// UDP headers have one.
///
/// # Panics
/// When there is no memory.
pub fn storage(routes: u32, encap: Encap, checksum: bool) -> Box<Appliance> {
    let own = WireAddress {
        address: LOCAL.into(),
        prefix_length: 16,
    };
    let wire = PortKind::Wire(Wire {
        addresses: std::iter::once(own).collect(),
        gateways: heapless::Vec::new(),
    });
    let options = match checksum {
        true => NetworkOptions::NONE,
        false => NetworkOptions::ZERO_UDP_CHECKSUM,
    };
    let mut storage = programmed(ground(wire, options), routes, encap);
    let mut gateway = storage.gateway();
    for index in 0..routes.min(PEERS) {
        meet(&mut gateway, index);
    }
    storage
}

/// Lets the gateway ask for a peer, and answers.
fn meet(gateway: &mut Gateway<'_>, index: u32) {
    let [a, b, c, _] = block(index).octets();
    let asking = super::frame(
        (super::POD_MAC, super::GATEWAY_MAC),
        super::POD_IP,
        [a, b, c, 9],
    );
    let answer = arp_answer(index);
    for (port, bytes) in [(POD, asking), (UNDERLAY, answer)] {
        let mut buffers = vec![vec![0; Frame::HEADROOM + 256]; 3];
        let [buffer, spares @ ..] = &mut buffers[..] else {
            return;
        };
        buffer[Frame::HEADROOM..][..bytes.len()].copy_from_slice(&bytes);
        let frame = Frame::new(buffer, Frame::HEADROOM, bytes.len());
        let mut batch = [Packet::new(frame.expect("it fits"))];
        let empty = |buffer| Frame::new(buffer, Frame::HEADROOM, 0).expect("it fits");
        let mut spares: Vec<_> = spares.iter_mut().map(|b| Packet::new(empty(b))).collect();
        let mut originated = Originated::new(&mut spares);
        gateway.process(Instant::ZERO, port, &mut batch, &mut originated);
    }
}

fn arp_answer(index: u32) -> Vec<u8> {
    let (mac, address) = (mac(index), peer(index).octets());
    let arp = [0, 1, 8, 0, 6, 4, 0, 2];
    [
        &WIRE_MAC[..],
        &mac,
        &[8, 6],
        &arp,
        &mac,
        &address,
        &WIRE_MAC,
        &LOCAL.octets(),
    ]
    .concat()
}

/// The frames of [`from_tunnel`] as they are on the wire.
///
/// # Panics
/// Never: what it writes fits.
pub fn from_wire(routes: u32, encap: Encap, checksum: bool) -> Frames {
    let inside = from_tunnel(routes, encap);
    let on_wire = |(index, (inner, outer)): (usize, (&Vec<u8>, &Option<Outer>))| {
        let peer = spread(routes, index) % routes.min(PEERS);
        let IpAddr::V4(src) = outer.expect("it has one").src else {
            panic!("the underlay is IPv4");
        };
        let builder = PacketBuilder::ethernet2(mac(peer), WIRE_MAC);
        let builder = builder.ipv4(src.octets(), LOCAL.octets(), 64);
        let mut out = Vec::new();
        let written = match encap {
            Encap::Vxlan => builder.udp(50_000, 8472).write(&mut out, inner),
            _ => builder.write(&mut out, 4.into(), inner),
        };
        written.expect("a vector takes all");
        if encap == Encap::Vxlan && !checksum {
            out[40..42].fill(0);
        }
        out
    };
    let frames = inside.bytes.iter().zip(&inside.outer).enumerate();
    Frames {
        ingress: UNDERLAY,
        bytes: frames.map(on_wire).collect(),
        outer: vec![None; BATCH],
    }
}
