//! The fast path against the stages on a raw underlay port: whole frames in and out,
//! neighbors that are known, unknown, stale or have moved, gateways, and tables that
//! change between batches.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use super::common::*;
use super::fast::outcome;
use super::trains;

/// The node's MAC address on the wire.
pub(crate) const WIRE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// Nodes behind the gateway, which is 192.168.77.254.
const FAR: [[u8; 4]; 2] = [[198, 51, 100, 9], [198, 51, 100, 10]];
/// Another address of the node's own, on another link.
const SECOND: [u8; 4] = [203, 0, 113, 1];
const ROUTER: [u8; 4] = [192, 168, 77, 254];

/// The MAC address of a node on the wire; those behind the gateway have the gateway's.
pub(crate) fn mac_of(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) if FAR.contains(&v4.octets()) => mac_of(ROUTER.into()),
        IpAddr::V4(v4) => [2, 0, 0, 0, 2, v4.octets()[3]],
        IpAddr::V6(v6) => [2, 0, 0, 0, 3, v6.octets()[15]],
    }
}

/// The underlay's port as raw Ethernet.
pub(crate) fn wire(mtu: u16, prefix_length: u8, has_gateway: bool) -> Port {
    let own = |address: IpAddr, prefix_length| WireAddress {
        address,
        prefix_length,
    };
    let gateway: &[IpAddr] = &[ROUTER.into()];
    let gateways = match has_gateway {
        true => list(gateway),
        false => list(&[]),
    };
    let wire = Wire {
        addresses: list(&[
            own(ip("2001:db8::1"), 64),
            own(NODE_1.into(), prefix_length),
            own(SECOND.into(), 24),
        ]),
        gateways,
    };
    Port {
        mac: MacAddr::new(WIRE_MAC),
        ..Port::new(UNDERLAY, mtu, PortKind::Wire(wire))
    }
}

/// An answer to the gateway's question.
pub(crate) fn answer(address: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    let operation = etherparse::ArpOperation::REPLY;
    let mut frame = arp_packet(operation, (mac, address), (WIRE_MAC, NODE_1));
    frame[..6].copy_from_slice(&WIRE_MAC);
    frame
}

/// How a tunnel packet is on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Outside {
    /// Where it goes, if not to this node.
    dst: Option<[u8; 4]>,
    /// MAC addresses that are not as they should be.
    macs: (Option<[u8; 6]>, Option<[u8; 6]>),
    /// Flags and fragment offset.
    fragment: u16,
    options: bool,
    /// 0: the UDP checksum is right, 1: there is none, 2: it is wrong.
    checksum: u8,
    /// Added to the lengths of UDP and IPv4.
    longer: (i16, i16),
    padding: usize,
    /// A bit that is wrong in the outer headers, whose IPv4 checksum is right, or not.
    change: Option<(usize, u8, bool)>,
}

/// Mostly as it should be.
pub(crate) fn any_outside() -> impl Strategy<Value = Outside> {
    let dst = prop::sample::select(vec![NODE_2, SECOND, ROUTER, [255; 4], [224, 0, 0, 1], A]);
    let mac = prop::sample::select(vec![[0xff; 6], [0; 6], [2, 0, 0, 0, 9, 9], [1; 6]]);
    let odd = |weight| prop::option::weighted(weight, mac.clone());
    let fragment = prop_oneof![
        12 => prop::sample::select(vec![0x4000u16, 0, 0x8000]),
        1 => any::<u16>(),
        1 => Just(0x2000),
    ];
    let checksum = prop::sample::select(vec![0u8, 0, 0, 1, 1, 2]);
    let longer = || prop_oneof![12 => Just(0i16), 1 => -60i16..20];
    let padding = prop_oneof![3 => Just(0usize), 1 => 0usize..30];
    let change = prop::option::weighted(0.15, (0usize..42, 0u8..8, any::<bool>()));
    (
        (prop::option::weighted(0.08, dst), odd(0.05), odd(0.1)),
        (fragment, prop::bool::weighted(0.05), checksum),
        (longer(), longer(), padding, change),
    )
        .prop_map(|((dst, to, from), (fragment, options, checksum), rest)| {
            let (udp, ip, padding, change) = rest;
            Outside {
                dst,
                macs: (to, from),
                fragment,
                options,
                checksum,
                longer: (udp, ip),
                padding,
                change,
            }
        })
}

/// What sockets would hand in as it comes in by a wire. Left as it is without an outer
/// header of IPv4.
pub(crate) fn on_wire(input: Input, outside: &Outside) -> Input {
    let Some(outer) = input.outer else {
        return input;
    };
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (outer.src, outer.dst) else {
        return input;
    };
    let dst = outside.dst.unwrap_or(dst.octets());
    let (protocol, mut upper) = match outer.l4 {
        OuterL4::Ip { protocol } => (protocol, input.bytes),
        OuterL4::Udp {
            src_port, dst_port, ..
        } => {
            let udp = etherparse::UdpHeader::with_ipv4_checksum(
                src_port,
                dst_port,
                &etherparse::Ipv4Header::new(0, 64, 17.into(), src.octets(), dst).unwrap(),
                &input.bytes,
            );
            // What is longer than a datagram is no datagram.
            let Ok(mut udp) = udp else {
                return Input::default();
            };
            match outside.checksum {
                0 => {}
                1 => udp.checksum = 0,
                _ => udp.checksum = (udp.checksum ^ 0x0100).max(1),
            }
            udp.length = udp.length.saturating_add_signed(outside.longer.0);
            (17, [&udp.to_bytes()[..], &input.bytes].concat())
        }
    };
    let options: &[u8] = if outside.options { &[1; 4] } else { &[] };
    let total = 20 + options.len() + upper.len();
    let Ok(total) = u16::try_from(total) else {
        return Input::default();
    };
    let total = total.saturating_add_signed(outside.longer.1);
    let (to, from) = outside.macs;
    let mut bytes = to.unwrap_or(WIRE_MAC).to_vec();
    bytes.extend(from.unwrap_or(mac_of(src.into())));
    let version = 0x45 + u8::try_from(options.len() / 4).unwrap();
    bytes.extend([8, 0, version, outer.tos]);
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 7]);
    bytes.extend(outside.fragment.to_be_bytes());
    bytes.extend([outer.ttl, protocol, 0, 0]);
    bytes.extend(src.octets());
    bytes.extend(dst);
    bytes.extend(options);
    bytes.append(&mut upper);
    mend(&mut bytes);
    if let Some((at, bit, right)) = outside.change {
        bytes[at] ^= 1 << bit;
        if right {
            mend(&mut bytes);
        }
    }
    bytes.resize(bytes.len() + outside.padding, 0xa5);
    Input {
        bytes,
        outer: None,
        ..input
    }
}

/// Makes the outer IPv4 checksum right.
fn mend(frame: &mut [u8]) {
    let len = (usize::from(frame[14] & 15) * 4).clamp(20, 24);
    frame[24..26].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[14..14 + len]);
    frame[24..26].copy_from_slice(&sum.ones_complement().to_be().to_be_bytes());
}

/// Two networks on the wire, their peers on the link and behind its gateway.
fn operations(options: NetworkOptions, mtu: u16, wire: Port) -> Vec<Operation> {
    let far = |id, at: usize| trains::from(NET, id, FAR[at], &[Encap::Vxlan, Encap::Ipip]);
    let mut all = trains::operations(options, mtu);
    for operation in &mut all {
        match operation {
            Operation::UpsertPort(port) if port.id == UNDERLAY => *port = wire.clone(),
            Operation::UpsertNetwork(network) => network.options = options,
            _ => {}
        }
    }
    all.extend([
        far(4, 0),
        far(5, 1),
        trains::to(NET, "10.244.4.0/24", 4, Encap::Ipip),
        trains::to(NET, "10.244.5.0/24", 5, Encap::Vxlan),
        trains::to(NET, "10.244.6.0/24", 0, Encap::Direct),
        trains::to(NET, "10.244.7.0/24", 0, Encap::Vxlan),
    ]);
    all
}

/// A packet of pod A, mostly plain, to any of the peers.
fn from_pod() -> impl Strategy<Value = Input> {
    let octet = prop::sample::select(vec![2u8, 2, 3, 3, 4, 5, 6, 7, 9]);
    let last = prop::sample::select(vec![1410usize, 1422, 1423, 1440, 1452, 1453]);
    let len = prop_oneof![6 => 0usize..60, 2 => last, 1 => 1380usize..9000];
    let headroom = prop_oneof![8 => Just(None), 1 => (0usize..64).prop_map(Some)];
    let tos = prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    let marks = prop::sample::select(vec![
        Checksum::None,
        Checksum::None,
        Checksum::Verified,
        Checksum::Partial {
            start: 34,
            offset: 6,
        },
    ]);
    let kind = (any::<bool>(), 0usize..20, prop::bool::weighted(0.1));
    ((octet, len), (headroom, tos, marks), kind).prop_map(
        |((octet, len), (headroom, tos, checksum), (tcp_too, padding, wrong))| {
            let (dst, payload) = ([10, 244, octet, 9], vec![octet ^ 0x5a; len]);
            let mut bytes = match tcp_too {
                true => tcp(MAC_A, A, dst, &payload),
                false => udp(MAC_A, A, dst, &payload),
            };
            edit_ip(&mut bytes, |header| {
                header.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
                header.ecn = etherparse::IpEcn::try_new(tos & 3).unwrap();
            });
            if wrong {
                let at = bytes.len() - 1;
                bytes[at] ^= 1;
            }
            bytes.resize(bytes.len() + padding.saturating_sub(10), 0xa5);
            Input {
                bytes,
                checksum,
                headroom,
                ..Input::default()
            }
        },
    )
}

/// A tunnel packet on the wire, or two that differ by a bit.
fn off_wire() -> impl Strategy<Value = Vec<Input>> {
    let twin = prop::option::weighted(0.2, (0usize..42, 0u8..8, any::<bool>()));
    (trains::packet(), any_outside(), twin, 0usize..40).prop_map(
        |(mut input, outside, twin, cut)| {
            let outer = input.outer.as_mut().unwrap();
            // Some of them live behind the gateway.
            if outer.src == IpAddr::from([192, 168, 77, 9]) {
                outer.src = FAR[0].into();
            }
            let twin = twin.map(|change| Outside {
                change: Some(change),
                ..outside.clone()
            });
            let mut inputs: Vec<_> = twin
                .iter()
                .chain([&outside])
                .map(|outside| on_wire(input.clone(), outside))
                .collect();
            let last = &mut inputs.last_mut().unwrap().bytes;
            if cut > 35 {
                last.truncate(last.len().saturating_sub(cut));
            }
            inputs
        },
    )
}

/// What happens to a node.
#[derive(Clone, Debug)]
enum Step {
    Batch(PortId, Vec<Input>),
    /// Time goes on.
    Wait(u64),
    Change(Box<Operation>),
}

fn any_step(wire: Port) -> impl Strategy<Value = Step> {
    let neighbor = prop::sample::select(vec![NODE_2, NODE_2, [192, 168, 77, 3], ROUTER]);
    let mac = prop_oneof![4 => Just(None), 1 => Just(Some([2, 0, 0, 0, 9, 9]))];
    let told = (neighbor, mac).prop_map(|(address, mac)| {
        let mac = mac.unwrap_or(mac_of(address.into()));
        Input::from(answer(address, mac))
    });
    let frames = prop_oneof![
        8 => off_wire(),
        1 => told.clone().prop_map(|input| vec![input]),
    ];
    let other_mtu = Port {
        mtu: wire.mtu - 1,
        ..wire.clone()
    };
    let other_mac = Port {
        mac: MacAddr::new([2, 0, 0, 0, 1, 2]),
        ..wire.clone()
    };
    let changes = vec![
        Operation::UpsertPort(wire),
        Operation::UpsertPort(other_mtu),
        Operation::UpsertPort(other_mac),
        Operation::SetPathMtu {
            peer: PeerId(0),
            mtu: 700,
        },
    ];
    let change = prop_oneof![trains::change(), prop::sample::select(changes)];
    prop_oneof![
        4 => prop::collection::vec(from_pod(), 1..20).prop_map(|all| Step::Batch(POD_A, all)),
        4 => prop::collection::vec(frames, 1..16)
            .prop_map(|all| Step::Batch(UNDERLAY, all.concat())),
        2 => prop::collection::vec(told, 1..4).prop_map(|all| Step::Batch(UNDERLAY, all)),
        2 => prop::sample::select(vec![1u64, 300, 1100, 29_000, 31_000, 62_000]).prop_map(Step::Wait),
        1 => change.prop_map(|change| Step::Change(Box::new(change))),
    ]
}

/// The wire as it is set up.
fn any_wire() -> impl Strategy<Value = Port> {
    let mtu = prop_oneof![4 => Just(1500u16), 1 => prop::sample::select(vec![600, 9000, 65_535])];
    // Of the latter two node 3 is not on the link.
    let length = prop_oneof![4 => Just(24u8), 1 => Just(31u8)];
    let gateway = prop::bool::weighted(0.8);
    (mtu, length, gateway).prop_map(|(mtu, length, gateway)| {
        // A gateway has to be on the link.
        wire(mtu, length, gateway && length == 24)
    })
}

/// Lets the gateway meet its neighbors: it asks when a packet goes there.
fn meet(gateway: &mut Gateway<'_>, shell: &Shell, known: [bool; 3]) {
    let to = [(2, NODE_2), (3, [192, 168, 77, 3]), (4, ROUTER)];
    for ((octet, neighbor), _) in to.into_iter().zip(known).filter(|(_, known)| *known) {
        shell.run(gateway, POD_A, udp(MAC_A, A, [10, 244, octet, 9], b"met"));
        let answer = answer(neighbor, mac_of(neighbor.into()));
        shell.run(gateway, UNDERLAY, answer);
    }
}

fn any_options() -> impl Strategy<Value = NetworkOptions> {
    let options = vec![
        NetworkOptions::NONE,
        NetworkOptions::NONE,
        NetworkOptions::ZERO_UDP_CHECKSUM,
        NetworkOptions::CLAMP_MSS,
        NetworkOptions::OUTER_MAY_FRAGMENT,
    ];
    prop::sample::select(options)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8 * ProptestConfig::default().cases,
        max_shrink_iters: 3000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_wire_is_as_the_stages_know_it(
        (wire, steps) in any_wire().prop_flat_map(|wire| {
            (Just(wire.clone()), prop::collection::vec(any_step(wire), 1..10))
        }),
        options in any_options(),
        known in prop::array::uniform3(prop::bool::weighted(0.8)),
        pod_mtu in prop::sample::select(vec![1450u16, 1449, 600, 9000]),
    ) {
        let mut shell = Shell::with_spares(SPARES);
        let (mut fast, mut slow) = (Tiny::new(), Tiny::new());
        let (mut fast, mut slow) = (fast.gateway(), slow.gateway());
        slow.set_fast_path(false);
        for gateway in [&mut fast, &mut slow] {
            let operations = operations(options, pod_mtu, wire.clone());
            for part in operations.chunks(MAX_OPERATIONS) {
                gateway.apply(Owner::Cluster, part).unwrap();
            }
            meet(gateway, &shell, known);
        }
        for step in steps {
            match step {
                Step::Batch(port, inputs) => {
                    let expected = outcome(&mut slow, &shell, (port, inputs.clone()));
                    let actual = outcome(&mut fast, &shell, (port, inputs));
                    prop_assert_eq!(actual, expected);
                }
                Step::Wait(millis) => {
                    shell.now = Instant::from_micros(shell.now.micros() + millis * 1000);
                }
                Step::Change(change) => {
                    // What is refused is refused by both.
                    let change = std::slice::from_ref(&*change);
                    let changed = fast.apply(Owner::Cluster, change);
                    prop_assert_eq!(slow.apply(Owner::Cluster, change), changed);
                }
            }
            // What is due of neighbors tells what is known of them.
            prop_assert_eq!(shell.tick(&mut fast), shell.tick(&mut slow));
        }
    }
}

/// With an Ethernet header in front they would be longer than a frame can be.
#[test]
fn the_longest_packets_into_a_wire_are_refused() {
    let run = |octet: u8, len: usize, on| {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        gateway.set_fast_path(on);
        let wire = wire(65_535, 24, true);
        let operations = operations(NetworkOptions::NONE, 65_535, wire);
        gateway.apply(Owner::Cluster, &operations).unwrap();
        let shell = Shell::with_spares(SPARES);
        meet(&mut gateway, &shell, [true; 3]);
        let frame = udp(MAC_A, A, [10, 244, octet, 9], &vec![0x5a; len - 28]);
        shell.run(&mut gateway, POD_A, frame).fate
    };
    for on in [true, false] {
        for (octet, longest) in [(2, 65_535 - 34), (7, 65_535 - 64)] {
            assert_eq!(run(octet, longest, on), Fate::Forward(UNDERLAY));
            let refused = Fate::Drop(DropReason::NoHeadroom);
            assert_eq!(run(octet, longest + 1, on), refused);
        }
    }
}
