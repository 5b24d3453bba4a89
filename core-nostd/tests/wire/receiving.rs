//! What comes in by a raw port.

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

use crate::node::*;

const BOTH: [bool; 2] = [false, true];

fn drop_of(setup: Setup, frame: impl Into<Input>) -> Fate {
    on(setup, |gateway| run(gateway, 0, WIRE, frame).fate)
}

fn vxlan_setup(v6: bool) -> Setup {
    Setup::new(1, v6, Encap::Vxlan)
}

/// Puts a word into a frame.
fn set(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Makes the outer IPv4 header's checksum right again.
fn fix(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].fill(0);
    let header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
    set(&mut frame, 24, header.calc_header_checksum());
    frame
}

#[test]
fn all_three_encapsulations_arrive() {
    for v6 in BOTH {
        for inner_v6 in BOTH {
            let inner = from_remote(inner_v6, b"hello");
            let number = if inner_v6 { 41 } else { 4 };
            let ethertype = if inner_v6 { [0x86, 0xdd] } else { [8, 0] };
            let direct = [&mac(1)[..], &mac(2), &ethertype, &inner].concat();
            for frame in [vxlan(v6, &inner), protocol(v6, number, &inner), direct] {
                on(vxlan_setup(v6), |gateway| {
                    let mut padded = frame;
                    padded.extend([0; 9]);
                    let output = run(gateway, 0, WIRE, padded);
                    assert_eq!(output.fate, Fate::Forward(POD));
                    assert_eq!(output.bytes[..12], [pod_mac(1), GATEWAY_MAC].concat());
                    verified(&output.bytes);
                    assert_eq!(output.bytes.len(), 14 + inner.len());
                    assert!(output.bytes.ends_with(b"hello"));
                });
            }
        }
    }
}

#[test]
fn ecn_of_the_outer_header_counts_and_of_a_direct_packet_stays() {
    let mut inner = from_remote(false, b"x");
    inner[1] = 2;
    inner = fix([&[0; 14][..], &inner].concat())[14..].to_vec();
    let mut tunnelled = vxlan(false, &inner);
    tunnelled[15] = 3;
    let direct = [&mac(1)[..], &mac(2), &[8, 0], &inner].concat();
    for (frame, ecn) in [(fix(tunnelled), 3), (direct, 2)] {
        on(vxlan_setup(false), |gateway| {
            let output = run(gateway, 0, WIRE, frame);
            assert_eq!((output.fate, output.bytes[15]), (Fate::Forward(POD), ecn));
        });
    }
}

#[test]
fn udp_checksums_are_verified_unless_a_device_has_done_so() {
    for v6 in BOTH {
        let good = vxlan(v6, &from_remote(false, b"hello"));
        let last = good.len() - 1;
        for at in [if v6 { 54 } else { 34 }, last] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let wrong = Fate::Drop(DropReason::OuterChecksum);
            assert_eq!(drop_of(vxlan_setup(v6), bad.clone()), wrong);
            for checksum in [
                Checksum::Verified,
                Checksum::Partial {
                    start: if v6 { 54 } else { 34 },
                    offset: 6,
                },
            ] {
                on(vxlan_setup(v6), |gateway| {
                    let input = Input {
                        checksum,
                        ..bad.clone().into()
                    };
                    let output = run(gateway, 0, WIRE, input);
                    assert_eq!(output.fate, Fate::Forward(POD));
                    // That was about the datagram, not about what is in it.
                    assert_eq!(output.checksum, Checksum::None);
                });
            }
        }
    }
}

#[test]
fn a_zero_checksum_is_taken_over_ipv4_or_where_it_is_agreed_on() {
    for v6 in BOTH {
        for options in [NetworkOptions::NONE, NetworkOptions::ZERO_UDP_CHECKSUM] {
            let mut frame = vxlan(v6, &from_remote(false, b"hello"));
            set(&mut frame, if v6 { 60 } else { 40 }, 0);
            let expected = match v6 && options == NetworkOptions::NONE {
                true => Fate::Drop(DropReason::OuterChecksumZero),
                false => Fate::Forward(POD),
            };
            let setup = Setup {
                options,
                ..vxlan_setup(v6)
            };
            assert_eq!(drop_of(setup, frame), expected);
        }
    }
}

#[test]
fn bytes_that_the_checksum_does_not_cover_are_nobodys() {
    let mut frame = vxlan(false, &from_remote(false, b"hello"));
    let len = u16::from_be_bytes([frame[38], frame[39]]);
    set(&mut frame, 38, len - 1);
    set(&mut frame, 40, 0);
    let short = Fate::Drop(DropReason::Ipv4TotalLength);
    assert_eq!(drop_of(vxlan_setup(false), frame), short);
}

#[test]
fn fragments_are_refused_and_those_of_pods_pass() {
    for fragment in [0x2000u16, 1, 0x2001] {
        let mut frame = vxlan(false, &from_remote(false, b"hello"));
        set(&mut frame, 20, fragment);
        let refused = Fate::Drop(DropReason::OuterFragment);
        assert_eq!(drop_of(vxlan_setup(false), fix(frame)), refused);
        // A pod's own, without a tunnel.
        let inner = from_remote(false, b"hello");
        let mut direct = [&mac(1)[..], &mac(2), &[8, 0], &inner].concat();
        set(&mut direct, 20, fragment);
        let passed = drop_of(vxlan_setup(false), fix(direct));
        assert_eq!(passed, Fate::Forward(POD));
    }
    let payload = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &[0; 8]].concat();
    let refused = drop_of(vxlan_setup(true), protocol(true, 44, &payload));
    assert_eq!(refused, Fate::Drop(DropReason::OuterFragment));
}

#[test]
fn what_is_for_somebody_else_is_dropped() {
    let good = vxlan(false, &from_remote(false, b"hello"));
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let stranger = ([192, 0, 2, 2].into(), [192, 0, 2, 77].into());
    let cases = [
        (with(0, &[2, 0, 0, 0, 9, 9]), DropReason::WireMac),
        (with(0, &[0xff; 6]), DropReason::WireGroup),
        (with(0, &[1, 0, 0x5e, 0, 0, 1]), DropReason::WireGroup),
        (fix(with(30, &[224, 0, 0, 251])), DropReason::WireGroup),
        (with(12, &[0x81, 0]), DropReason::VlanTagged),
        (with(12, &[0x88, 0xcc]), DropReason::NotIp),
        (good[..13].to_vec(), DropReason::FrameTruncated),
        (
            ip_packet((mac(2), mac(1)), stranger, 17, &[0; 8]),
            DropReason::WireDestination,
        ),
    ];
    for (frame, reason) in cases {
        assert_eq!(drop_of(vxlan_setup(false), frame), Fate::Drop(reason));
    }
}

#[test]
fn malformed_outer_headers_are_dropped() {
    let malformed = Fate::Drop(DropReason::OuterMalformed);
    for v6 in BOTH {
        let good = vxlan(v6, &from_remote(false, b"hello"));
        let udp = if v6 { 54 } else { 34 };
        for len in (14..good.len()).step_by(3) {
            let fate = drop_of(vxlan_setup(v6), good[..len].to_vec());
            assert_eq!(fate, malformed, "{len} bytes");
        }
        for len in [0, 7, 0xffff] {
            let mut frame = good.clone();
            set(&mut frame, udp + 4, len);
            assert_eq!(drop_of(vxlan_setup(v6), frame), malformed);
        }
        let mut version = good.clone();
        version[14] ^= 0x10;
        assert_eq!(drop_of(vxlan_setup(v6), version), malformed);
        for len in 0..8 {
            let frame = protocol(v6, 17, &good[udp..udp + len]);
            assert_eq!(drop_of(vxlan_setup(v6), frame), malformed, "{len}");
        }
    }
    let mut sum = vxlan(false, &from_remote(false, b"hello"));
    sum[24] ^= 1;
    assert_eq!(drop_of(vxlan_setup(false), sum), malformed);
}

#[test]
fn tunnels_are_opened_as_behind_sockets() {
    let inner = from_remote(false, b"hello");
    let mut vni = vxlan(false, &inner);
    vni[48] ^= 1;
    set(&mut vni, 40, 0);
    let mut flags = vxlan(false, &inner);
    flags[42] = 0;
    set(&mut flags, 40, 0);
    let foreign = |src: &str, dst| {
        let addresses = (ip(src), dst);
        ip_packet((mac(9), mac(1)), addresses, 4, &inner)
    };
    let cases = [
        (vni, DropReason::UnknownVni),
        (flags, DropReason::VxlanFlags),
        (
            foreign("192.0.2.9", node(false, 1)),
            DropReason::UnknownPeer,
        ),
    ];
    for (frame, reason) in cases {
        assert_eq!(drop_of(vxlan_setup(false), frame), Fate::Drop(reason));
    }
}

#[test]
fn packets_without_a_tunnel_pass_the_peer_guard() {
    let direct = |src: &str, dst| {
        let frame = ip_frame((mac(2), mac(1)), (ip(src), dst), (1, 2), b"x");
        move |accepts: &'static [Encap]| {
            let setup = Setup {
                accepts,
                ..vxlan_setup(false)
            };
            drop_of(setup, frame.clone())
        }
    };
    let to = pod(false, 1);
    let good = direct("10.244.2.2", to);
    assert_eq!(good(ALL), Fate::Forward(POD));
    let refused = Fate::Drop(DropReason::EncapNotAllowed);
    assert_eq!(good(&[Encap::Vxlan, Encap::Ipip]), refused);
    let unknown = Fate::Drop(DropReason::WireDestination);
    assert_eq!(direct("10.9.9.9", to)(ALL), unknown);
    // This node's own pods are not on the link.
    assert_eq!(direct("10.244.1.2", to)(ALL), unknown);
    let back = direct("10.244.2.2", pod(false, 2))(ALL);
    assert_eq!(back, Fate::Drop(DropReason::TunnelLoop));
    let other = direct("10.244.2.2", ip("10.7.0.1"))(ALL);
    assert_eq!(other, Fate::Drop(DropReason::NoRoute));
}

#[test]
fn of_several_networks_the_one_takes_it_that_may() {
    let setup = Setup {
        accepts: &[Encap::Vxlan],
        ..vxlan_setup(false)
    };
    on(setup, |gateway| {
        let second = NetworkId(1);
        let operations = [
            Operation::UpsertNetwork(Network {
                id: second,
                vni: Vni::new(7).unwrap(),
                ..setup.network()
            }),
            Operation::UpsertPeer(Peer {
                id: PeerId(9),
                network: second,
                accepts: EncapSet::of(&[Encap::Direct]),
                ..setup.peer(2, node(false, 2))
            }),
            Operation::UpsertRoute(Route {
                network: second,
                prefix: IpPrefix::new(ip("10.244.2.0"), 24).unwrap(),
                next_hop: NextHop::Peer {
                    peer: PeerId(9),
                    encap: Encap::Direct,
                },
            }),
            Operation::UpsertPort(Port {
                id: PortId(4),
                mtu: 1450,
                mac: MacAddr::new(pod_mac(4)),
                offloads: Offloads::NONE,
                kind: PortKind::Endpoint(Endpoint::with_address(second, pod(false, 1))),
            }),
        ];
        gateway.apply(Owner::Cluster, &operations).unwrap();
        let inner = from_remote(false, b"hello");
        let direct = [&mac(1)[..], &mac(2), &[8, 0], &inner].concat();
        let output = run(gateway, 0, WIRE, direct);
        assert_eq!(output.fate, Fate::Forward(PortId(4)));
    });
}

#[test]
fn ping_to_the_underlay_address_is_answered() {
    for v6 in BOTH {
        let builder = etherparse::PacketBuilder::ethernet2(mac(2), mac(1));
        let mut ping = Vec::new();
        match v6 {
            false => builder
                .ipv4([192, 0, 2, 2], [192, 0, 2, 1], 3)
                .icmpv4_echo_request(7, 9)
                .write(&mut ping, b"payload"),
            true => builder
                .ipv6(
                    crate::node::v6(node(true, 2)).octets(),
                    crate::node::v6(node(true, 1)).octets(),
                    3,
                )
                .icmpv6_echo_request(7, 9)
                .write(&mut ping, b"payload"),
        }
        .unwrap();
        on(vxlan_setup(v6), |gateway| {
            let output = run(gateway, 0, WIRE, ping);
            assert_eq!(output.fate, Fate::Reply);
            let packet = verified(&output.bytes);
            assert_eq!(output.bytes[..12], [mac(2), mac(1)].concat());
            let answers = match (&packet.net, &packet.transport) {
                (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Icmpv4(icmp))) => {
                    ip.destination == [192, 0, 2, 2] && icmp.to_bytes()[0] == 0
                }
                (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Icmpv6(icmp))) => {
                    ip.destination[15] == 2 && icmp.icmp_type.type_u8() == 129
                }
                _ => false,
            };
            assert!(answers, "{packet:?}");
            assert!(output.bytes.ends_with(b"payload"));
        });
    }
}

#[test]
fn the_rest_goes_to_the_shell_as_it_came() {
    for v6 in BOTH {
        let nodes = (node(v6, 2), node(v6, 1));
        let icmp = if v6 { 58 } else { 1 };
        let frames = [
            ip_frame((mac(2), mac(1)), nodes, (9, 22), b"another port"),
            protocol(v6, 6, &[0; 20]),
            protocol(v6, 89, b"OSPF"),
            // Echo replies, and errors other than about tunnels.
            protocol(v6, icmp, &[if v6 { 129 } else { 0 }, 0, 0, 0, 0, 0, 0, 0]),
            protocol(v6, icmp, &[if v6 { 1 } else { 3 }, 3, 0, 0, 0, 0, 0, 0]),
        ];
        for frame in frames {
            on(vxlan_setup(v6), |gateway| {
                let output = run(gateway, 0, WIRE, frame.clone());
                assert_eq!(output.fate, Fate::Punt);
                assert_eq!(output.bytes, frame);
                assert_eq!(gateway.counter(Counter::Punt), 1);
            });
            // Marks and all, whoever finishes the checksum.
            let start = if v6 { 54 } else { 34 };
            let input = Input {
                bytes: frame.clone(),
                checksum: Checksum::Partial { start, offset: 2 },
                segmentation: Segmentation::Udp { size: 4 },
            };
            on(vxlan_setup(v6), |gateway| {
                let output = run(gateway, 0, WIRE, input.clone());
                assert_eq!(output.fate, Fate::Punt);
                assert_eq!(output.bytes, frame);
                let marks = (output.checksum, output.segmentation);
                assert_eq!(marks, (input.checksum, input.segmentation));
            });
        }
    }
    // Both of its addresses are the node's, whichever the tunnels use.
    let ssh = ip_frame(
        (mac(2), mac(1)),
        (node(true, 2), node(true, 1)),
        (9, 22),
        b"",
    );
    assert!(PacketHeaders::from_ethernet_slice(&ssh).is_ok());
    assert_eq!(drop_of(vxlan_setup(false), ssh), Fate::Punt);
}
