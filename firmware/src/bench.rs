//! What a packet costs on its way through the core, counted where the core runs: the
//! packets and tables of `benches/benches/instructions.rs`, which counts the same on a
//! host. 64-byte frames in batches of 64, 10,000 routes, 256 peers.

use core::fmt;
use core::iter;
use core::net::{IpAddr, Ipv4Addr};

use culvert_core::channel::{
    Encap, EncapSet, Endpoint, MAX_OPERATIONS, Network, NetworkOptions, Offloads, Operation, Owner,
    Peer, Port, PortKind, Proxy,
};
use culvert_core::wire::{checksum, ethernet, ipv4, udp};
use culvert_core::{
    Appliance, Fate, Frame, Gateway, Instant, IpPrefix, MacAddr, NetworkId, Originated, Outer,
    OuterL4, Packet, PeerId, PortId, Vni,
};
use heapless::Vec;
use zerocopy::FromZeros;

use crate::BATCH;

/// Routes, each a /24.
pub const ROUTES: u32 = 10_000;
/// Peers, which have the routes in turn.
pub const PEERS: u32 = 256;
/// Rounds of each case, and batches in a round.
pub const ROUNDS: usize = 5;
const BATCHES: u32 = 16;

/// Bytes of a frame from a pod.
const FRAME_LEN: usize = 64;
/// Bytes of a VXLAN header.
const VXLAN_LEN: usize = 8;
/// Bytes of a slot: off a power of two, so that headers do not compete for the same
/// cache sets.
const STRIDE: usize = Frame::HEADROOM + 128 + 64;
type Slots = [[u8; STRIDE]; BATCH];

const UNDERLAY: PortId = PortId(0);
const POD: PortId = PortId(1);
const NETWORK: NetworkId = NetworkId(0);
const VNI: u8 = 1;
const UDP_PORT: u16 = 8472;
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const VTEP: MacAddr = MacAddr::new([0x0a, 0x63, 192, 168, 0, 1]);
const GATEWAY_MAC: MacAddr = MacAddr::new([0xee; 6]);
const POD_MAC: MacAddr = MacAddr::new([0x0a, 0x58, 10, 1, 0, 1]);
const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// UDP's number among IP's protocols, and that of IPv4 in IP.
const UDP: u8 = 17;
const IPIP: u8 = 4;

/// A way through the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// Its name in figures.
    pub name: &'static str,
    /// The tunnel.
    pub encap: Encap,
    /// Into the tunnel, from a pod; else out of it.
    pub into: bool,
}

/// All that is measured.
pub const CASES: [Case; 4] = [
    case("encap-vxlan", Encap::Vxlan, true),
    case("encap-ipip", Encap::Ipip, true),
    case("decap-vxlan", Encap::Vxlan, false),
    case("decap-ipip", Encap::Ipip, false),
];

const fn case(name: &'static str, encap: Encap, into: bool) -> Case {
    Case { name, encap, into }
}

/// What a case has come to: tenths of an instruction for a packet, in the round that
/// took the least and in the one that took the most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// What was measured.
    pub case: Case,
    /// The least of all rounds.
    pub least: u64,
    /// The most.
    pub most: u64,
}

impl Measured {
    /// Whether rounds differ by no more than 1 %, and anything was counted at all.
    pub fn repeats(&self) -> bool {
        self.least > 0 && (self.most - self.least) * 100 <= self.least
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, tenth) = (self.least / 10, self.least % 10);
        write!(f, "{} {whole}.{tenth}", self.case.name)
    }
}

/// Why a case was not measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The tables did not take the routes.
    Tables,
    /// A packet was not forwarded.
    Lost(Case, Fate),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Tables => f.write_str("the tables refused a route of the bench"),
            Failure::Lost(case, fate) => {
                write!(f, "{}: a packet was not forwarded but {fate:?}", case.name)
            }
        }
    }
}

impl core::error::Error for Failure {}

/// Measures a case; `count` tells how many instructions the processor has carried out.
/// Whatever was in the tables is forgotten.
///
/// # Errors
/// [`Failure`], when what was to be measured did not happen.
pub fn run(
    storage: &mut Appliance,
    case: Case,
    mut count: impl FnMut() -> u64,
) -> Result<Measured, Failure> {
    storage.zero();
    let mut gateway = storage.gateway();
    program(&mut gateway, case.encap).ok_or(Failure::Tables)?;
    let mut slots: Slots = [[0; STRIDE]; BATCH];
    let mut measured = Measured {
        case,
        least: u64::MAX,
        most: 0,
    };
    for _ in 0..ROUNDS {
        let mut instructions = 0;
        for _ in 0..BATCHES {
            let mut batch = packets(case, &mut slots);
            let before = count();
            process(&mut gateway, case.ingress(), &mut batch);
            instructions += count().wrapping_sub(before);
            let lost = |packet: &&Packet<'_>| !matches!(packet.fate, Fate::Forward(_));
            if let Some(packet) = batch.iter().find(lost) {
                return Err(Failure::Lost(case, packet.fate));
            }
        }
        let packets = u64::from(BATCHES) * 64;
        let tenths = (instructions * 10 + packets / 2) / packets;
        measured.least = measured.least.min(tenths);
        measured.most = measured.most.max(tenths);
    }
    Ok(measured)
}
const _: () = assert!(BATCH == 64);

/// Lets the core decide about a batch.
#[inline(never)]
fn process(gateway: &mut Gateway<'_>, ingress: PortId, batch: &mut [Packet<'_>]) {
    gateway.process(Instant::ZERO, ingress, batch, &mut Originated::none());
}

impl Case {
    /// The port that its packets come in by.
    pub fn ingress(self) -> PortId {
        if self.into { POD } else { UNDERLAY }
    }

    /// Writes the packet of a place in the batch into `out`, whose first bytes it is.
    /// Returns its length and, where it comes from a tunnel, its outer header.
    pub fn packet(
        self,
        index: usize,
        out: &mut [u8; FRAME_LEN + VXLAN_LEN],
    ) -> (usize, Option<Outer>) {
        let route = spread(index);
        let [a, b, c, _] = block(route).octets();
        let there = Ipv4Addr::new(a, b, c, 9);
        let (front, back) = out.split_at_mut(VXLAN_LEN);
        let Some(back) = back.first_chunk_mut::<FRAME_LEN>() else {
            return (0, None);
        };
        if self.into {
            frame(back, (POD_MAC, GATEWAY_MAC), (POD_IP, there));
            out.copy_within(VXLAN_LEN.., 0);
            return (FRAME_LEN, None);
        }
        frame(back, (MacAddr::new([2; 6]), VTEP), (there, POD_IP));
        let (len, l4) = match self.encap {
            Encap::Vxlan => {
                front.copy_from_slice(&[8, 0, 0, 0, 0, 0, VNI, 0]);
                let l4 = OuterL4::Udp {
                    src_port: 50_000,
                    dst_port: UDP_PORT,
                    checksum: true,
                };
                (VXLAN_LEN + FRAME_LEN, l4)
            }
            _ => {
                out.copy_within(VXLAN_LEN + ethernet::HEADER_LEN.., 0);
                let len = FRAME_LEN - ethernet::HEADER_LEN;
                (len, OuterL4::Ip { protocol: IPIP })
            }
        };
        let outer = Outer {
            src: peer(route % PEERS).into(),
            dst: LOCAL.into(),
            l4,
            tos: 0,
            ttl: 64,
            df: true,
        };
        (len, Some(outer))
    }
}

/// The batch of a case, fresh.
fn packets(case: Case, slots: &mut Slots) -> Vec<Packet<'_>, BATCH> {
    let packets = slots.iter_mut().enumerate().filter_map(|(index, slot)| {
        let mut bytes = [0; FRAME_LEN + VXLAN_LEN];
        let (len, outer) = case.packet(index, &mut bytes);
        slot.get_mut(Frame::HEADROOM..)?
            .first_chunk_mut()
            .map(|place| *place = bytes)?;
        let mut frame = Frame::new(slot, Frame::HEADROOM, len).ok()?;
        frame.outer = outer;
        Some(Packet::new(frame))
    });
    packets.collect()
}

/// A 64-byte UDP frame, from the first MAC and IP address to the second.
fn frame(
    out: &mut [u8; FRAME_LEN],
    (from, to): (MacAddr, MacAddr),
    (src, dst): (Ipv4Addr, Ipv4Addr),
) {
    // 22 bytes of payload, all zero.
    const DATAGRAM: u16 = 30;
    const PACKET: u16 = DATAGRAM + 20;
    let header = ethernet::Header {
        dst: to,
        src: from,
        ethertype: ethernet::IPV4,
    };
    let ip = ipv4::Header {
        src,
        dst,
        tos: 0,
        ident: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: UDP,
        header_len: 20,
        total_len: PACKET,
    };
    let mut datagram = udp::Header {
        src_port: 1234,
        dst_port: 80,
        len: DATAGRAM,
        checksum: 0,
    };
    let mut head = [0; udp::HEADER_LEN];
    datagram.emit(&mut head);
    let sum = checksum::pseudo_header_v4(src, dst, UDP, DATAGRAM) + checksum::sum(&head);
    datagram.checksum = checksum::finish(sum);
    datagram.emit(&mut head);

    out.fill(0);
    let (first, rest) = out.split_at_mut(ethernet::HEADER_LEN);
    if let Some(first) = first.first_chunk_mut() {
        header.emit(first);
    }
    if let Some((first, rest)) = rest.split_first_chunk_mut() {
        ip.emit(first);
        if let Some(first) = rest.first_chunk_mut() {
            *first = head;
        }
    }
}

/// The /24 of a route.
fn block(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 2, 0, 0).to_bits() + (index << 8))
}

/// The underlay address of a peer.
fn peer(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 1, 0).to_bits() + index)
}

/// Different routes for the packets of a batch.
fn spread(index: usize) -> u32 {
    // A batch has 64.
    u32::try_from(index).unwrap_or_default() * 7919 % ROUTES
}

/// A node with one pod, the peers, and their routes by this tunnel.
fn program(gateway: &mut Gateway<'_>, encap: Encap) -> Option<()> {
    let mut operations = ground()?
        .into_iter()
        .chain((0..PEERS).filter_map(|index| Some(Operation::UpsertPeer(node(index)?))))
        .chain((0..ROUTES).filter_map(|index| {
            let prefix = IpPrefix::new(IpAddr::V4(block(index)), 24).ok()?;
            let route = node(index % PEERS)?.route(prefix, encap);
            Some(Operation::UpsertRoute(route))
        }));
    let mut number = 0;
    loop {
        let some: Vec<_, MAX_OPERATIONS> = operations.by_ref().take(MAX_OPERATIONS).collect();
        if some.is_empty() {
            break;
        }
        gateway.apply(Owner::Cluster, &some).ok()?;
        number += some.len();
    }
    // Nothing was passed over above.
    let all = 3 + PEERS + ROUTES;
    (u32::try_from(number) == Ok(all)).then_some(())
}

fn node(index: u32) -> Option<Peer> {
    let underlay = IpAddr::V4(peer(index));
    Some(Peer {
        accepts: EncapSet::of(&[Encap::Vxlan, Encap::Ipip]),
        ..Peer::new(PeerId(u16::try_from(index).ok()?), NETWORK, underlay)
    })
}

/// The ports and their network.
fn ground() -> Option<[Operation; 3]> {
    let port = |id, mtu, mac, kind| {
        Operation::UpsertPort(Port {
            id,
            mtu,
            mac,
            offloads: Offloads::CHECKSUM,
            kind,
        })
    };
    let pod = PortKind::Endpoint(Endpoint::with_address(NETWORK, POD_IP.into()));
    Some([
        port(UNDERLAY, 1500, MacAddr::ZERO, PortKind::Underlay),
        Operation::UpsertNetwork(Network {
            id: NETWORK,
            vni: Vni::new(VNI.into()).ok()?,
            udp_port: UDP_PORT,
            local: LOCAL.into(),
            vtep_mac: VTEP,
            gateways: iter::once(Ipv4Addr::new(169, 254, 1, 1).into()).collect(),
            gateway_mac: GATEWAY_MAC,
            node_addresses: Vec::new(),
            prefixes: Vec::new(),
            proxy: Proxy::LinkLocal,
            options: NetworkOptions::NONE,
            underlay: UNDERLAY,
        }),
        port(POD, 1450, POD_MAC, pod),
    ])
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::string::ToString;

    use super::*;

    fn storage() -> Box<Appliance> {
        Appliance::new_box_zeroed().unwrap()
    }

    /// A counter that says so much more each time.
    fn steps(steps: impl IntoIterator<Item = u64>) -> impl FnMut() -> u64 {
        let (mut steps, mut count) = (steps.into_iter(), 0);
        move || {
            count += steps.next().unwrap();
            count
        }
    }

    #[test]
    fn every_case_forwards_and_what_is_counted_within_batches_is_told() {
        let mut storage = storage();
        for case in CASES {
            // Between batches something else happens, which is not told.
            let within = iter::repeat([1_000_000, 64 * 200 + 32]).flatten();
            let measured = run(&mut storage, case, steps(within)).unwrap();
            assert_eq!((measured.least, measured.most), (2005, 2005));
            assert!(measured.repeats());
            assert_eq!(measured.to_string(), std::format!("{} 200.5", case.name));
        }
    }

    #[test]
    fn rounds_that_differ_do_not_repeat() {
        let round = |each: u64| iter::repeat_n([0, each * 64], 16).flatten();
        for (last, repeats) in [(202, true), (203, false), (199, true), (197, false)] {
            let rounds = iter::repeat_n(200, ROUNDS - 1).chain([last]);
            let counts = steps(rounds.flat_map(round));
            let measured = run(&mut storage(), CASES[0], counts).unwrap();
            assert_eq!(measured.repeats(), repeats, "{last}");
        }
        let nothing = run(&mut storage(), CASES[0], || 0).unwrap();
        assert!(!nothing.repeats());
    }
}
