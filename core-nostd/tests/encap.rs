//! Every encapsulation, over both IP versions and with both inside: what leaves,
//! what is taken, and between whom.

mod common;

use common::*;
use culvert_core::channel::*;
use culvert_core::*;

/// IPv4 and IPv6 in each tunnel over each underlay, seen from this node.
fn tunnels(number: u8) -> [Node; 4] {
    use Family::*;
    [
        (V4, Encap::Vxlan),
        (V6, Encap::Vxlan),
        (V4, Encap::Ipip),
        (V6, Encap::Ipip),
    ]
    .map(|(underlay, encap)| Node {
        underlay,
        encap,
        ..Node::new(number)
    })
}

/// Packets of both versions from pod A to node 2 with this traffic class octet;
/// options, labels and lengths are odd, so that a change would show.
fn peculiar(tos: u8) -> [Vec<u8>; 2] {
    let mut v4 = udp(MAC_A, A, [10, 244, 2, 2], b"an odd number of it");
    v4.splice(34..34, [148, 4, 0, 0, 1, 1, 1, 0]);
    v4[14] = 0x47;
    let total = u16::try_from(v4.len() - 14).unwrap();
    v4[16..18].copy_from_slice(&total.to_be_bytes());
    edit_ip(&mut v4, |header| {
        header.time_to_live = 17;
        header.identification = 0xbeef;
        header.dont_fragment = true;
        header.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
        header.ecn = etherparse::IpEcn::try_new(tos & 3).unwrap();
    });
    let mut v6 = udp6(MAC_A, A6, REMOTE6, b"an odd number of it");
    edit_ip6(&mut v6, |header| {
        header.hop_limit = 17;
        header.traffic_class = tos;
        header.flow_label = etherparse::Ipv6FlowLabel::try_new(0xabcde).unwrap();
    });
    [v4, extended(v6, &[(60, &[0, 1, 4, 0, 0, 0, 0])])]
}

/// The packet of a frame after so many gateways.
fn aged(frame: &[u8], hops: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    match frame[12..14] {
        [8, 0] => edit_ip(&mut frame, |header| header.time_to_live -= hops),
        _ => edit_ip6(&mut frame, |header| header.hop_limit -= hops),
    }
    frame[14..].to_vec()
}

/// What one gateway sends, as the other one's underlay port receives it.
fn wire(made: &Made) -> Input {
    Input {
        bytes: made.1.clone(),
        outer: made.2,
        ..Input::default()
    }
}

fn sent(output: &Output) -> Made {
    output.all().remove(0)
}

#[test]
fn each_tunnel_carries_the_packet_and_names_its_ends() {
    for node in tunnels(1) {
        for tos in [0, 1, 2, 3, 0xb8, 0xff] {
            for frame in peculiar(tos) {
                let output = node.run(|gateway| run(gateway, POD_A, frame.clone()));
                let made = sent(&output);
                let outer = made.2.unwrap();
                assert_eq!(
                    (outer.src, outer.dst),
                    (node.address_of(1), node.address_of(2))
                );
                assert_eq!((outer.tos, outer.ttl, outer.df), (tos, 64, true));
                assert_eq!(ip_packet(&made), aged(&frame, 1));
                match (node.encap, outer.l4) {
                    (
                        Encap::Vxlan,
                        OuterL4::Udp {
                            dst_port: 8472,
                            checksum: true,
                            ..
                        },
                    ) => {
                        assert_eq!(made.1[..8], [8, 0, 0, 0, 0, 0, 1, 0]);
                        assert_eq!(made.1[8..14], node.vtep_of(2));
                        assert_eq!(made.1[14..20], node.vtep_of(1));
                        assert_eq!(made.1[20..22], frame[12..14]);
                    }
                    // RFC 2003, RFC 4213, RFC 2473: the packet itself, nothing added.
                    (Encap::Ipip, OuterL4::Ip { protocol }) => {
                        assert_eq!(protocol, if frame[12] == 8 { 4 } else { 41 });
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn each_tunnel_delivers_the_packet_to_pod_and_host() {
    for (first, second) in tunnels(1).into_iter().zip(tunnels(2)) {
        for frame in peculiar(0xb8) {
            let output = first.run(|gateway| run(gateway, POD_A, frame.clone()));
            let arrived = second.run(|gateway| run(gateway, UNDERLAY, wire(&sent(&output))));
            assert_eq!((arrived.fate, arrived.outer), (Fate::Forward(POD_A), None));
            assert_eq!(arrived.bytes[14..], aged(&frame, 2));
            assert_eq!(arrived.bytes[..6], second.mac(2));
            assert_eq!(
                arrived.bytes[6..14],
                [&GATEWAY_MAC[..], &frame[12..14]].concat()
            );
        }
        let to_host = [
            udp(MAC_A, A, [10, 244, 2, 0], b"x"),
            udp6(
                MAC_A,
                A6,
                [&REMOTE6[..15], &[0]].concat().try_into().unwrap(),
                b"x",
            ),
        ];
        for frame in to_host {
            let output = first.run(|gateway| run(gateway, POD_A, frame.clone()));
            let arrived = second.run(|gateway| run(gateway, UNDERLAY, wire(&sent(&output))));
            assert_eq!(arrived.fate, Fate::Forward(HOST));
            assert_eq!(arrived.bytes[14..], aged(&frame, 2));
        }
    }
}

#[test]
fn ecn_is_merged_by_rfc_6040_in_every_tunnel() {
    const DROPPED: u8 = 9;
    // By the outer's Not-ECT, ECT(1), ECT(0), CE; RFC 6040 figure 4.
    let figure_4 = [[0, 0, 0, DROPPED], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    for (first, second) in tunnels(1).into_iter().zip(tunnels(2)) {
        for (inner, row) in (0u8..).zip(figure_4) {
            for (outer, expected) in (0u8..).zip(row) {
                for frame in peculiar(0xb8 | inner) {
                    let output = first.run(|gateway| run(gateway, POD_A, frame.clone()));
                    let mut input = wire(&sent(&output));
                    // The outer's DSCP is its own, and lost.
                    input.outer.as_mut().unwrap().tos = 0x28 | outer;
                    let arrived = second.run(|gateway| run(gateway, UNDERLAY, input));
                    if expected == DROPPED {
                        assert_eq!(arrived.fate, Fate::Drop(DropReason::EcnCe));
                        continue;
                    }
                    let merged = match frame[12] {
                        8 => peculiar(0xb8 | expected)[0].clone(),
                        _ => peculiar(0xb8 | expected)[1].clone(),
                    };
                    assert_eq!(arrived.bytes[14..], aged(&merged, 2), "{inner} in {outer}");
                }
            }
        }
    }
}

#[test]
fn the_outer_header_follows_the_networks_options() {
    let options = NetworkOptions::ZERO_UDP_CHECKSUM.with(NetworkOptions::OUTER_MAY_FRAGMENT);
    for node in tunnels(1) {
        let output =
            Node { options, ..node }.run(|gateway| run(gateway, POD_A, peculiar(0)[1].clone()));
        let outer = sent(&output).2.unwrap();
        assert!(!outer.df);
        assert!(!matches!(outer.l4, OuterL4::Udp { checksum: true, .. }));
    }
}

#[test]
fn unfinished_checksums_are_finished_before_every_tunnel() {
    for node in tunnels(1) {
        for len in [0, 1, 2, 1001] {
            let payload = vec![0xc3; len];
            let frames = [
                udp(MAC_A, A, [10, 244, 2, 2], &payload),
                tcp(MAC_A, A, [10, 244, 2, 2], &payload),
                udp6(MAC_A, A6, REMOTE6, &payload),
                tcp6(MAC_A, A6, REMOTE6, &payload),
                echo6(MAC_A, A6, REMOTE6),
            ];
            for frame in frames {
                let output = node.run(|gateway| run(gateway, POD_A, unfinished(frame.clone())));
                assert_eq!(output.checksum, Checksum::None);
                assert_eq!(ip_packet(&sent(&output)), aged(&frame, 1));
                // A port that can finish it gets the mark.
                let output = node.run(|gateway| {
                    let port = Port {
                        offloads: Offloads::TUNNEL_CHECKSUM,
                        ..underlay(1500)
                    };
                    gateway
                        .apply(Owner::Cluster, &[Operation::UpsertPort(port)])
                        .unwrap();
                    run(gateway, POD_A, unfinished(frame.clone()))
                });
                let Checksum::Partial { start, offset } = output.checksum else {
                    panic!("{:?}", output.checksum)
                };
                let mut rest = output.bytes[usize::from(start)..].to_vec();
                culvert_core::wire::l4::finish(&mut rest, offset, false).unwrap();
                assert!(frame.ends_with(&rest));
            }
        }
    }
}

#[test]
fn unfinished_checksums_and_super_frames_are_recognised_in_every_tunnel() {
    for node in tunnels(1) {
        let arrive = |frame: &[u8]| {
            let outer = Outer {
                src: node.address_of(2),
                dst: node.address_of(1),
                ..vxlan(&[], 1).outer.unwrap()
            };
            let mut input = match node.encap {
                Encap::Ipip => ipip(frame),
                _ => {
                    let mut inner = frame.to_vec();
                    inner[..6].copy_from_slice(&node.vtep_of(1));
                    vxlan(&inner, 1)
                }
            };
            let l4 = input.outer.unwrap().l4;
            input.outer = Some(Outer { l4, ..outer });
            node.run(|gateway| run(gateway, UNDERLAY, input))
        };
        let frames = [
            udp(VTEP_2, REMOTE, A, b"payload"),
            udp6(VTEP_2, REMOTE6, A6, b"payload"),
            tcp6(VTEP_2, REMOTE6, A6, b"payload"),
            echo6(VTEP_2, REMOTE6, A6),
        ];
        for frame in frames {
            let raw = unfinished(frame.clone());
            let output = arrive(&raw.bytes);
            assert_eq!(
                (output.fate, output.checksum),
                (Fate::Forward(POD_A), raw.checksum)
            );
            let output = arrive(&frame);
            assert_eq!(
                (output.fate, output.checksum),
                (Fate::Forward(POD_A), Checksum::None)
            );
        }
        let mtu = 1500 - node.overhead();
        let large = [
            (
                tcp(VTEP_2, REMOTE, A, &[7; 20_000]),
                Segmentation::TcpV4 { size: mtu - 40 },
            ),
            (
                tcp6(VTEP_2, REMOTE6, A6, &[7; 20_000]),
                Segmentation::TcpV6 { size: mtu - 60 },
            ),
        ];
        for (frame, segmentation) in large {
            let raw = unfinished(frame.clone());
            for bytes in [&frame, &raw.bytes] {
                // The pod's own MTU is 1450, too small for larger segments.
                let output = arrive(bytes);
                if mtu > 1450 {
                    assert!(!matches!(output.fate, Fate::Forward(_)));
                    continue;
                }
                assert_eq!(output.fate, Fate::Forward(POD_A));
                assert_eq!(
                    (output.segmentation, output.checksum),
                    (segmentation, raw.checksum)
                );
            }
        }
    }
}

/// Node 1 in two networks at once: flannel's and Calico's numbers. The second has
/// the same addresses, so that only port and VNI tell them apart.
fn second_network(gateway: &mut Gateway<'_>) {
    let id = NetworkId(1);
    let node = Node::new(1);
    let mut pod = pod(PortId(4), [2, 0, 0, 0, 9, 9], "10.244.1.2");
    if let PortKind::Endpoint(endpoint) = &mut pod.kind {
        endpoint.network = id;
    }
    let operations = [
        Operation::UpsertNetwork(Network {
            id,
            vni: Vni::new(4096).unwrap(),
            udp_port: 4789,
            ..node.network()
        }),
        Operation::UpsertPeer(Peer {
            id: PeerId(5),
            network: id,
            vtep_mac: MacAddr::new([2, 0, 0, 0, 9, 2]),
            ..node.peer(2)
        }),
        Operation::UpsertRoute(Route {
            network: id,
            prefix: prefix("10.244.2.0/24"),
            next_hop: NextHop::Peer {
                peer: PeerId(5),
                encap: Encap::Vxlan,
            },
        }),
        Operation::UpsertPort(pod),
    ];
    gateway.apply(Owner::Cluster, &operations).unwrap();
}

#[test]
fn networks_with_flannels_and_calicos_numbers_work_side_by_side() {
    Node::new(1).run(|gateway| {
        second_network(gateway);
        let networks = [
            (POD_A, MAC_A, 8472, [8, 0, 0, 0, 0, 0, 1, 0], VTEP_2),
            (
                PortId(4),
                [2, 0, 0, 0, 9, 9],
                4789,
                [8, 0, 0, 0, 0, 0x10, 0, 0],
                [2, 0, 0, 0, 9, 2],
            ),
        ];
        for (port, mac, udp_port, header, vtep) in networks {
            let output = run(gateway, port, udp(mac, A, REMOTE, b"x"));
            let made = sent(&output);
            assert!(
                matches!(made.2.unwrap().l4, OuterL4::Udp { dst_port, .. } if dst_port == udp_port)
            );
            assert_eq!((&made.1[..8], &made.1[8..14]), (&header[..], &vtep[..]));
            let arrive = |gateway: &mut Gateway<'_>, vni, dst_port| {
                let mut input = vxlan(&from_vtep(udp(VTEP_2, REMOTE, A, b"x")), vni);
                let l4 = OuterL4::Udp {
                    src_port: 9,
                    dst_port,
                    checksum: true,
                };
                input.outer.as_mut().unwrap().l4 = l4;
                run(gateway, UNDERLAY, input).fate
            };
            let vni = if udp_port == 8472 { 1 } else { 4096 };
            assert_eq!(arrive(gateway, vni, udp_port), Fate::Forward(port));
            // A VNI is known on its own network's port only.
            let other = if udp_port == 8472 { 4789 } else { 8472 };
            let unknown = Fate::Drop(DropReason::UnknownVni);
            assert_eq!(arrive(gateway, vni, other), unknown);
        }
        // A pod may make tunnel packets for neither network.
        for dst_port in [8472, 4789] {
            let frame = udp_ports(MAC_A, A, NODE_2, (9, dst_port), b"x");
            assert_eq!(
                run(gateway, POD_A, frame).fate,
                Fate::Drop(DropReason::TunnelSpoof)
            );
        }
    });
}

#[test]
fn ip_in_ip_goes_to_the_network_whose_peer_may_use_it() {
    Node::new(1).run(|gateway| {
        second_network(gateway);
        let arrives = |gateway: &mut Gateway<'_>| {
            run(gateway, UNDERLAY, ipip(&udp(VTEP_2, REMOTE, A, b"x"))).fate
        };
        assert_eq!(arrives(gateway), Fate::Drop(DropReason::EncapNotAllowed));
        let accepting = |id, network, vtep, accepts| {
            Operation::UpsertPeer(Peer {
                id,
                network,
                vtep_mac: MacAddr::new(vtep),
                accepts,
                ..Node::new(1).peer(2)
            })
        };
        let both = EncapSet::of(&[Encap::Vxlan, Encap::Ipip]);
        let second = accepting(PeerId(5), NetworkId(1), [2, 0, 0, 0, 9, 2], both);
        gateway.apply(Owner::Cluster, &[second]).unwrap();
        assert_eq!(arrives(gateway), Fate::Forward(PortId(4)));
        // Two networks cannot both take it: nothing in the packet tells which.
        let first = accepting(PeerId(0), NET, VTEP_2, both);
        let refused = gateway
            .apply(Owner::Cluster, std::slice::from_ref(&first))
            .unwrap_err();
        assert_eq!(
            refused,
            (
                0,
                TableError::Conflict {
                    table: Table::Peers,
                    id: 5
                }
            )
        );
        let vxlan_only = EncapSet::of(&[Encap::Vxlan]);
        let second = accepting(PeerId(5), NetworkId(1), [2, 0, 0, 0, 9, 2], vxlan_only);
        gateway.apply(Owner::Cluster, &[second, first]).unwrap();
        assert_eq!(arrives(gateway), Fate::Forward(POD_A));
    });
}

#[test]
fn packets_go_on_to_another_node_only_between_transit_peers() {
    for node in tunnels(1) {
        let peers = |second, third| {
            [(2, second), (3, third)].map(|(number, transit)| {
                Operation::UpsertPeer(Peer {
                    transit,
                    ..node.peer(number)
                })
            })
        };
        let from_2 = Node { number: 2, ..node };
        let frames = |dst: u8| {
            let mut v6 = REMOTE6;
            v6[5] = dst;
            [
                udp(from_2.mac(2), [10, 244, 2, 2], [10, 244, dst, 2], b"x"),
                udp6(from_2.mac(2), REMOTE6, v6, b"x"),
            ]
        };
        // Node 2 thinks that node 1 has everything.
        let through_1 = |frame: Vec<u8>| {
            from_2.run(|gateway| {
                let next_hop = NextHop::Peer {
                    peer: PeerId(0),
                    encap: node.encap,
                };
                let all = [route("0.0.0.0/0", next_hop), route("::/0", next_hop)];
                let gone = ["10.244.3.0/24", "fd00:244:3::/64"].map(|to| Operation::RemoveRoute {
                    network: NET,
                    prefix: prefix(to),
                });
                gateway.apply(Owner::Cluster, &gone).unwrap();
                gateway.apply(Owner::Cluster, &all).unwrap();
                wire(&sent(&run(gateway, POD_A, frame)))
            })
        };
        for frame in frames(3) {
            let input = through_1(frame.clone());
            for (second, third) in [(false, false), (true, false), (false, true), (true, true)] {
                let output = node.run(|gateway| {
                    gateway
                        .apply(Owner::Cluster, &peers(second, third))
                        .unwrap();
                    run(gateway, UNDERLAY, input.clone())
                });
                if !(second && third) {
                    assert_eq!(output.fate, Fate::Drop(DropReason::TransitDenied));
                    continue;
                }
                let made = sent(&output);
                assert_eq!(made.2.unwrap().dst, node.address_of(3));
                assert_eq!(ip_packet(&made), aged(&frame, 2));
            }
        }
        // Never back, transit or not.
        for (frame, transit) in frames(2).into_iter().zip([true, false]) {
            let mut input = through_1(frames(3)[usize::from(frame[12] != 8)].clone());
            let len = input.bytes.len();
            input.bytes.truncate(len - (frame.len() - 14));
            input.bytes.extend(&frame[14..]);
            let output = node.run(|gateway| {
                gateway
                    .apply(Owner::Cluster, &peers(transit, transit))
                    .unwrap();
                run(gateway, UNDERLAY, input)
            });
            assert_eq!(output.fate, Fate::Drop(DropReason::TunnelLoop));
        }
    }
}

#[test]
fn direct_packets_leave_by_the_host_whose_kernel_has_the_link() {
    let node = Node {
        encap: Encap::Direct,
        ..Node::new(1)
    };
    for frame in peculiar(0xb8) {
        let output = node.run(|gateway| run(gateway, POD_A, frame.clone()));
        assert_eq!((output.fate, output.outer), (Fate::Forward(HOST), None));
        assert_eq!(output.bytes[..12], [HOST_MAC, GATEWAY_MAC].concat());
        assert_eq!(output.bytes[14..], aged(&frame, 1));
    }
    // What comes back comes through the host, which is trusted with its sources.
    let back = [
        udp(HOST_MAC, REMOTE, A, b"x"),
        udp6(HOST_MAC, REMOTE6, A6, b"x"),
    ];
    for frame in back {
        let output = node.run(|gateway| run(gateway, HOST, frame.clone()));
        assert_eq!(output.fate, Fate::Forward(POD_A));
        assert_eq!(output.bytes[14..], aged(&frame, 1));
    }
    // A tunnel packet for it is none of the host's.
    let output = node.run(|gateway| {
        let peer = Peer {
            accepts: EncapSet::of(&[Encap::Vxlan]),
            transit: true,
            ..node.peer(2)
        };
        gateway
            .apply(Owner::Cluster, &[Operation::UpsertPeer(peer)])
            .unwrap();
        let inner = from_vtep(udp(VTEP_2, REMOTE, [10, 244, 3, 2], b"x"));
        run(gateway, UNDERLAY, vxlan(&inner, 1))
    });
    assert_eq!(output.fate, Fate::Drop(DropReason::TransitDenied));
}

#[test]
fn reserved_vxlan_flags_are_ignored() {
    for flags in 0..=255u8 {
        let mut input = vxlan(&from_vtep(udp6(VTEP_2, REMOTE6, A6, b"x")), 1);
        input.bytes[..4].copy_from_slice(&[flags, 0xff, 0xff, 0xff]);
        input.bytes[7] = 0xff;
        let output = Node::new(1).run(|gateway| run(gateway, UNDERLAY, input));
        let expected = match flags & 8 {
            0 => Fate::Drop(DropReason::VxlanFlags),
            _ => Fate::Forward(POD_A),
        };
        assert_eq!(output.fate, expected, "{flags:#x}");
    }
}

#[test]
fn errors_of_another_node_come_back_through_the_tunnel_for_traceroute() {
    for (first, second) in tunnels(1).into_iter().zip(tunnels(2)) {
        for mut frame in peculiar(0x01) {
            match frame[12] {
                8 => edit_ip(&mut frame, |header| header.time_to_live = 2),
                _ => edit_ip6(&mut frame, |header| header.hop_limit = 2),
            }
            let output = first.run(|gateway| run(gateway, POD_A, frame));
            let refused = second.run(|gateway| run(gateway, UNDERLAY, wire(&sent(&output))));
            assert_eq!(refused.fate, Fate::Drop(DropReason::TtlExceeded));
            let error = refused.made[0].clone();
            assert_eq!((error.2.unwrap().tos, error.2.unwrap().ttl), (0xc0, 64));
            verified(&inner_frame(&error));
            // Traceroute on the first node's pod sees the other node.
            let told = first.run(|gateway| run(gateway, UNDERLAY, wire(&error)));
            assert_eq!(told.fate, Fate::Forward(POD_A));
            verified(&told.bytes);
        }
    }
}
