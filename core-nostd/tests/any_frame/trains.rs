//! The fast path against the stages where packets out of tunnels change network,
//! peer and pod within a batch, and the tables change between batches.

use culvert_core::channel::*;
use culvert_core::*;
use proptest::prelude::*;

use super::common::*;
use super::fast::outcome;

const OTHER: NetworkId = NetworkId(1);
const OTHER_VTEP: [u8; 6] = [0x0a, 0x63, 192, 168, 77, 101];
const POD_C: PortId = PortId(4);
const NODE_3: [u8; 4] = [192, 168, 77, 3];

pub(crate) fn to(network: NetworkId, address: &str, peer: u16, encap: Encap) -> Operation {
    let peer = PeerId(peer);
    Operation::UpsertRoute(Route {
        network,
        prefix: prefix(address),
        next_hop: NextHop::Peer { peer, encap },
    })
}

pub(crate) fn from(network: NetworkId, id: u16, node: [u8; 4], accepts: &[Encap]) -> Operation {
    Operation::UpsertPeer(Peer {
        accepts: EncapSet::of(accepts),
        ..Peer::new(PeerId(id), network, node.into())
    })
}

/// Two networks that share a port, both peers' addresses, and an address of a pod.
pub(crate) fn operations(options: NetworkOptions, mtu: u16) -> Vec<Operation> {
    let both = [Encap::Vxlan, Encap::Ipip];
    let other = Network {
        id: OTHER,
        vni: Vni::new(2).unwrap(),
        vtep_mac: MacAddr::new(OTHER_VTEP),
        options,
        ..network()
    };
    let with_mtu = |port: Port| Operation::UpsertPort(Port { mtu, ..port });
    let in_other = |port: Port| Port {
        kind: PortKind::Endpoint(Endpoint::with_address(OTHER, A.into())),
        ..port
    };
    vec![
        Operation::UpsertPort(underlay(1500)),
        Operation::UpsertNetwork(network()),
        Operation::UpsertNetwork(other),
        with_mtu(pod(POD_A, MAC_A, "10.244.1.2")),
        Operation::UpsertPort(pod(POD_B, MAC_B, "10.244.1.3")),
        with_mtu(in_other(pod(POD_C, [2, 0, 0, 0, 0, 0xc], "10.244.1.2"))),
        from(NET, 0, NODE_2, &both),
        from(NET, 1, NODE_3, &[Encap::Vxlan]),
        from(OTHER, 2, NODE_2, &[Encap::Vxlan]),
        from(OTHER, 3, NODE_3, &both),
        to(NET, "10.244.2.0/24", 0, Encap::Ipip),
        to(NET, "10.244.3.0/24", 1, Encap::Vxlan),
        to(OTHER, "10.244.2.0/24", 2, Encap::Vxlan),
        to(OTHER, "0.0.0.0/0", 3, Encap::Ipip),
    ]
}

/// A packet of either tunnel, mostly from whom it should come.
pub(crate) fn packet() -> impl Strategy<Value = Input> {
    let octet = prop::sample::select(vec![2u8, 2, 2, 3, 3, 9]);
    let src = prop_oneof![
        8 => octet.clone().prop_map(|node| [10, 244, node, 7]),
        1 => prop::sample::select(vec![GATEWAY, [127, 0, 0, 1], [0, 0, 0, 1], [224, 0, 0, 1], [0; 4]]),
    ];
    let dst = prop::sample::select(vec![A, A, A, B, REMOTE, [0; 4], [10, 244, 1, 99]]);
    let vni = prop::sample::select(vec![1u32, 1, 2, 2, 3]);
    let udp_port = prop::sample::select(vec![8472u16, 8472, 8472, 4789]);
    let vtep = prop::sample::select(vec![VTEP_1, VTEP_1, OTHER_VTEP]);
    let tos = prop::sample::select(vec![0u8, 0, 1, 2, 3]);
    let marks = (any::<[bool; 5]>(), tos.clone(), tos, 0usize..30);
    (
        (any::<bool>(), octet, src, dst),
        (vni, vtep, udp_port),
        marks,
    )
        .prop_map(
            |(
                (ipip_too, node, src, dst),
                (vni, vtep, udp_port),
                (flags, tos, outer_tos, padding),
            )| {
                let [tcp_too, unfinished_too, verified, own_vtep, long] = flags;
                let payload = vec![0x5a; if long { 1449 - 28 } else { 20 }];
                let mut frame = match tcp_too {
                    true => tcp([2; 6], src, dst, &payload),
                    false => udp([2; 6], src, dst, &payload),
                };
                edit_ip(&mut frame, |header| {
                    header.ecn = tos.try_into().unwrap();
                });
                let vtep = match (own_vtep, vni) {
                    (true, 2) => OTHER_VTEP,
                    (true, _) => VTEP_1,
                    (false, _) => vtep,
                };
                frame[..6].copy_from_slice(&vtep);
                if unfinished_too {
                    frame = unfinished(frame).bytes;
                }
                frame.resize(frame.len() + padding, 0xa5);
                let mut input = match ipip_too {
                    true => ipip(&frame),
                    false => vxlan(&frame, vni),
                };
                let outer = input.outer.as_mut().unwrap();
                outer.src = [192, 168, 77, node].into();
                outer.tos = outer_tos;
                if let OuterL4::Udp { dst_port, .. } = &mut outer.l4 {
                    *dst_port = udp_port;
                }
                if verified {
                    input.checksum = Checksum::Verified;
                }
                input
            },
        )
}

/// What changes between two batches.
pub(crate) fn change() -> impl Strategy<Value = Operation> {
    let both = [Encap::Vxlan, Encap::Ipip];
    prop::sample::select(vec![
        to(NET, "10.244.2.0/24", 1, Encap::Vxlan),
        to(NET, "10.244.2.0/24", 0, Encap::Vxlan),
        to(OTHER, "10.244.2.0/24", 3, Encap::Vxlan),
        from(NET, 0, NODE_2, &[Encap::Vxlan]),
        from(OTHER, 2, NODE_2, &both),
        from(OTHER, 3, NODE_3, &[Encap::Ipip]),
        Operation::RemovePort(POD_A),
        Operation::UpsertPort(pod(POD_A, MAC_B, "10.244.1.2")),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 8 * ProptestConfig::default().cases,
        ..ProptestConfig::default()
    })]

    #[test]
    fn trains_stop_where_the_stages_do(
        batches in prop::collection::vec(
            (prop::collection::vec(packet(), 1..24), change()), 1..4),
        clamp in any::<bool>(),
        mtu in prop::sample::select(vec![1450u16, 1449, 600, 9000]),
    ) {
        let options = match clamp {
            true => NetworkOptions::CLAMP_MSS,
            false => NetworkOptions::NONE,
        };
        let shell = Shell::with_spares(SPARES);
        let (mut fast, mut slow) = (Tiny::new(), Tiny::new());
        let (mut fast, mut slow) = (fast.gateway(), slow.gateway());
        slow.set_fast_path(false);
        for gateway in [&mut fast, &mut slow] {
            gateway.apply(Owner::Cluster, &operations(options, mtu)).unwrap();
        }
        for (batch, change) in batches {
            let expected = outcome(&mut slow, &shell, (UNDERLAY, batch.clone()));
            let actual = outcome(&mut fast, &shell, (UNDERLAY, batch));
            prop_assert_eq!(actual, expected);
            // What is refused is refused by both.
            let changed = fast.apply(Owner::Cluster, std::slice::from_ref(&change));
            prop_assert_eq!(slow.apply(Owner::Cluster, &[change]), changed);
        }
    }
}

/// With an Ethernet header in front it would be longer than a frame can be.
#[test]
fn the_longest_packets_out_of_ip_in_ip_are_refused() {
    let run = |len: usize, on| {
        let mut storage = Tiny::new();
        let mut gateway = storage.gateway();
        gateway.set_fast_path(on);
        let operations = operations(NetworkOptions::NONE, 65_535);
        gateway.apply(Owner::Cluster, &operations).unwrap();
        let frame = udp([2; 6], REMOTE, A, &vec![0x5a; len - 28]);
        let shell = Shell::with_spares(SPARES);
        shell.run(&mut gateway, UNDERLAY, ipip(&frame)).fate
    };
    for on in [true, false] {
        assert_eq!(run(65_521, on), Fate::Forward(POD_A));
        assert_eq!(run(65_522, on), Fate::Drop(DropReason::NoHeadroom));
    }
}
