//! What the benchmarks forward: a node with one pod, up to 256 peers and some
//! thousand routes, and 64-byte frames in batches of 64.

pub mod wire;

use std::net::{IpAddr, Ipv4Addr};

use culvert_core::channel::*;
use culvert_core::*;
use zerocopy::FromZeros;

/// Frames that go through the core at a time.
pub const BATCH: usize = 64;
/// Off a power of two, so that headers do not compete for the same cache sets.
pub const STRIDE: usize = Frame::HEADROOM + 128 + 64;

/// The underlay's port.
pub const UNDERLAY: PortId = PortId(0);
/// The pod's port.
pub const POD: PortId = PortId(1);
/// The gateway's MAC address.
pub const GATEWAY_MAC: [u8; 6] = [0xee; 6];
/// The pod's MAC address.
pub const POD_MAC: [u8; 6] = [0x0a, 0x58, 10, 1, 0, 1];
/// The pod's IP address.
pub const POD_IP: [u8; 4] = [10, 1, 0, 1];
/// The MAC address of this node's VTEP.
pub const VTEP: [u8; 6] = [0x0a, 0x63, 192, 168, 0, 1];
/// This node's underlay address.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// This node's MAC address on the underlay, where that is raw Ethernet.
pub const WIRE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// The largest number of peers.
pub const PEERS: u32 = 256;

const NETWORK: NetworkId = NetworkId(0);

/// The /24 of the n-th route.
pub fn block(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 2, 0, 0).to_bits() + (index << 8))
}

/// The underlay address of the n-th peer.
pub fn peer(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 1, 0).to_bits() + index)
}

fn ground(underlay: PortKind, options: NetworkOptions) -> Vec<Operation> {
    let port = |id, mtu, mac: [u8; 6], kind| {
        Operation::UpsertPort(Port {
            id,
            mtu,
            mac: MacAddr::new(mac),
            offloads: Offloads::CHECKSUM,
            kind,
        })
    };
    let pod = PortKind::Endpoint(Endpoint::with_address(NETWORK, POD_IP.into()));
    vec![
        port(UNDERLAY, 1500, WIRE_MAC, underlay),
        Operation::UpsertNetwork(Network {
            id: NETWORK,
            vni: Vni::new(1).expect("24 bits"),
            udp_port: 8472,
            local: LOCAL.into(),
            vtep_mac: MacAddr::new(VTEP),
            gateways: std::iter::once(Ipv4Addr::new(169, 254, 1, 1).into()).collect(),
            gateway_mac: MacAddr::new(GATEWAY_MAC),
            node_addresses: heapless::Vec::new(),
            prefixes: heapless::Vec::new(),
            proxy: Proxy::LinkLocal,
            options,
            underlay: UNDERLAY,
        }),
        port(POD, 1450, POD_MAC, pod),
    ]
}

/// A storage with so many routes by this encapsulation, each to a peer of its own
/// up to [`PEERS`].
///
/// # Panics
/// When there is no memory.
pub fn storage(routes: u32, encap: Encap) -> Box<Appliance> {
    let ground = ground(PortKind::Underlay, NetworkOptions::NONE);
    programmed(ground, routes, encap)
}

/// The same with the tables of a Linux host, which have room for more routes.
///
/// # Panics
/// When there is no memory.
pub fn host_storage(routes: u32, encap: Encap) -> Box<Host> {
    let ground = ground(PortKind::Underlay, NetworkOptions::NONE);
    let mut storage = Host::new_box_zeroed().expect("memory for the tables");
    program(&mut storage.gateway(), ground, routes, encap);
    storage
}

fn programmed(operations: Vec<Operation>, routes: u32, encap: Encap) -> Box<Appliance> {
    let mut storage = Appliance::new_box_zeroed().expect("memory for the tables");
    program(&mut storage.gateway(), operations, routes, encap);
    storage
}

/// Fills the tables.
fn program(gateway: &mut Gateway<'_>, mut operations: Vec<Operation>, routes: u32, encap: Encap) {
    let peers = u16::try_from(routes.min(PEERS)).expect("at most 256");
    for id in 0..peers {
        let underlay = IpAddr::V4(peer(id.into()));
        operations.push(Operation::UpsertPeer(Peer {
            id: PeerId(id),
            network: NETWORK,
            underlay,
            vtep_mac: MacAddr::vtep_for(underlay),
            node_addresses: heapless::Vec::new(),
            accepts: EncapSet::of(&[Encap::Vxlan, Encap::Ipip]),
            transit: false,
        }));
    }
    for index in 0..routes {
        let peer = u16::try_from(index % u32::from(peers)).expect("below 256");
        operations.push(Operation::UpsertRoute(Route {
            network: NETWORK,
            prefix: IpPrefix::new(IpAddr::V4(block(index)), 24).expect("a /24"),
            next_hop: NextHop::Peer {
                peer: PeerId(peer),
                encap,
            },
        }));
    }
    for transaction in operations.chunks(MAX_OPERATIONS) {
        let applied = gateway.apply(Owner::Cluster, transaction);
        applied.expect("the tables have room");
    }
}

/// A 64-byte UDP frame.
fn frame(macs: ([u8; 6], [u8; 6]), src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(src, dst, 64)
        .udp(1234, 80);
    let mut out = Vec::new();
    builder
        .write(&mut out, &[0; 22])
        .expect("a vector takes all");
    out
}

/// Different routes for the frames of a batch, whatever their number.
fn spread(routes: u32, index: usize) -> u32 {
    (u32::try_from(index).expect("below 64") * 7919) % routes
}

/// Frames of one length, each with its outer header where it has one.
pub struct Frames {
    /// The port that they come in by.
    pub ingress: PortId,
    /// The frames.
    pub bytes: Vec<Vec<u8>>,
    /// Their outer headers.
    pub outer: Vec<Option<Outer>>,
}

/// A batch from the pod to as many different routes.
pub fn from_pod(routes: u32) -> Frames {
    let frame = |index| {
        let [a, b, c, _] = block(spread(routes, index)).octets();
        frame((POD_MAC, GATEWAY_MAC), POD_IP, [a, b, c, 9])
    };
    Frames {
        ingress: POD,
        bytes: (0..BATCH).map(frame).collect(),
        outer: vec![None; BATCH],
    }
}

/// A batch from as many different routes to the pod.
pub fn from_tunnel(routes: u32, encap: Encap) -> Frames {
    let mut frames = Frames {
        ingress: UNDERLAY,
        bytes: Vec::new(),
        outer: Vec::new(),
    };
    for index in 0..BATCH {
        let route = spread(routes, index);
        let [a, b, c, _] = block(route).octets();
        let inner = frame(([2; 6], VTEP), [a, b, c, 9], POD_IP);
        let (bytes, l4) = match encap {
            Encap::Vxlan => {
                let mut bytes = vec![8, 0, 0, 0, 0, 0, 1, 0];
                bytes.extend(inner);
                let l4 = OuterL4::Udp {
                    src_port: 50_000,
                    dst_port: 8472,
                    checksum: true,
                };
                (bytes, l4)
            }
            _ => (inner[14..].to_vec(), OuterL4::Ip { protocol: 4 }),
        };
        frames.bytes.push(bytes);
        frames.outer.push(Some(Outer {
            src: peer(route % routes.min(PEERS)).into(),
            dst: LOCAL.into(),
            l4,
            tos: 0,
            ttl: 64,
            df: true,
        }));
    }
    frames
}

impl Frames {
    /// The frames in slots with headroom.
    pub fn slots(&self) -> Vec<u8> {
        let mut bytes = vec![0; BATCH * STRIDE];
        for (slot, frame) in bytes.chunks_exact_mut(STRIDE).zip(&self.bytes) {
            slot[Frame::HEADROOM..][..frame.len()].copy_from_slice(frame);
        }
        bytes
    }

    /// The frames in their slots as the core takes them.
    ///
    /// # Panics
    /// When the slots are not those of [`Frames::slots`].
    pub fn packets<'b>(&self, slots: &'b mut [u8]) -> heapless::Vec<Packet<'b>, BATCH> {
        let slots = slots.chunks_exact_mut(STRIDE);
        let packets = slots
            .zip(&self.bytes)
            .zip(&self.outer)
            .map(|((slot, bytes), outer)| {
                let frame = Frame::new(slot, Frame::HEADROOM, bytes.len());
                let mut frame = frame.expect("a slot is large enough");
                frame.outer = *outer;
                Packet::new(frame)
            });
        packets.collect()
    }
}

/// Lets the core decide about a batch.
#[inline(never)]
pub fn process(gateway: &mut Gateway<'_>, ingress: PortId, packets: &mut [Packet<'_>]) {
    gateway.process(Instant::ZERO, ingress, packets, &mut Originated::none());
}
