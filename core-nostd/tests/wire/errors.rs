//! ICMP errors about tunnel packets: the path MTU to a peer (RFC 1191, RFC 8201).

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::PacketBuilder;

use crate::node::*;

const BOTH: [bool; 2] = [false, true];
const TEN_MINUTES: u64 = 600_000;

/// "Fragmentation needed" or "packet too big" about a quoted packet, from a router.
fn too_big(v6: bool, mtu: u16, quote: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let ethernet = PacketBuilder::ethernet2(mac(254), mac(1));
    let mut out = Vec::new();
    match v6 {
        false => ethernet
            .ipv4([198, 51, 100, 1], [192, 0, 2, 1], 60)
            .icmpv4_raw(3, 4, [0, 0, high, low])
            .write(&mut out, quote),
        true => ethernet
            .ipv6(
                crate::node::v6(ip("2001:db8:9::1")).octets(),
                crate::node::v6(node(true, 1)).octets(),
                60,
            )
            .icmpv6_raw(2, 0, [0, 0, high, low])
            .write(&mut out, quote),
    }
    .unwrap();
    out
}

/// The start of a packet on its way to node 2.
fn quote(gateway: &mut Gateway<'_>, len: usize) -> Vec<u8> {
    let sent = run(gateway, 0, POD, udp(false, 2, &[7; 1000]));
    assert_eq!(sent.fate, Fate::Forward(WIRE));
    sent.bytes[14..14 + len].to_vec()
}

/// The packet with the don't-fragment flag.
fn unfragmented(mut packet: Vec<u8>) -> Vec<u8> {
    packet[20] = 0x40;
    packet[24..26].fill(0);
    let header = etherparse::Ipv4Header::from_slice(&packet[14..]).unwrap().0;
    packet[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    packet
}

/// The MTU that the pod is told when its packet is too large for the tunnel; `None`
/// when it is not.
fn told(gateway: &mut Gateway<'_>, millis: u64, len: usize) -> Option<u16> {
    let packet = unfragmented(udp(false, 2, &vec![7; len - 28]));
    let output = run(gateway, millis, POD, packet);
    match output.fate {
        Fate::Forward(WIRE) => None,
        Fate::Drop(DropReason::TooBig) => {
            let (POD, error) = &output.made[0] else {
                panic!("{:?}", output.made)
            };
            Some(u16::from_be_bytes([error[40], error[41]]))
        }
        fate => panic!("{fate:?}"),
    }
}

/// Bytes that a tunnel adds to an IP packet.
fn overhead(v6: bool, encap: Encap) -> u16 {
    let ip = if v6 { 40 } else { 20 };
    match encap {
        Encap::Vxlan => ip + 30,
        Encap::Ipip => ip,
        Encap::Direct => 0,
    }
}

#[test]
fn the_path_mtu_of_the_peer_is_lowered_for_ten_minutes() {
    for v6 in BOTH {
        for encap in [Encap::Vxlan, Encap::Ipip] {
            on_known(Setup::new(1, v6, encap), |gateway| {
                let quote = quote(gateway, if v6 { 48 } else { 28 });
                let largest = 1500 - overhead(v6, encap);
                assert_eq!(told(gateway, 0, largest.into()), None);
                let output = run(gateway, 1, WIRE, too_big(v6, 1400, &quote));
                assert_eq!(output.fate, Fate::Consume);
                let expected = 1400 - overhead(v6, encap);
                assert_eq!(told(gateway, 2, largest.into()), Some(expected));
                assert_eq!(told(gateway, 2, expected.into()), None);
                // Only a smaller one counts, and one that is believable.
                run(gateway, 3, WIRE, too_big(v6, 1450, &quote));
                assert_eq!(told(gateway, 3, largest.into()), Some(expected));
                run(gateway, 4, WIRE, too_big(v6, 100, &quote));
                let least = if v6 { 1280 } else { 552 } - overhead(v6, encap);
                assert_eq!(told(gateway, 5, 1300), Some(least));
                assert_eq!(told(gateway, TEN_MINUTES, 1300), Some(least));
                assert_eq!(told(gateway, TEN_MINUTES + 5, largest.into()), None);
            });
        }
    }
}

#[test]
fn errors_that_fit_no_tunnel_packet_change_nothing() {
    for v6 in BOTH {
        on_known(Setup::new(1, v6, Encap::Vxlan), |gateway| {
            let quote = quote(gateway, if v6 { 48 } else { 28 });
            let ip_len = if v6 { 40 } else { 20 };
            let addresses = if v6 { (23, 39) } else { (15, 19) };
            let with = |at: usize, value: u8| {
                let mut wrong = quote.clone();
                wrong[at] = value;
                wrong
            };
            let wrong = [
                with(addresses.0, 9),
                with(addresses.1, 9),
                // No such source port, another destination port, no ports.
                with(ip_len, 1),
                with(ip_len + 3, 1),
                quote[..ip_len + 3].to_vec(),
                // TCP.
                with(if v6 { 6 } else { 9 }, 6),
                quote[..10].to_vec(),
                vec![],
            ];
            for wrong in wrong {
                let output = run(gateway, 1, WIRE, too_big(v6, 1400, &wrong));
                assert_eq!(output.fate, Fate::Punt, "{wrong:?}");
                assert_eq!(told(gateway, 1, 1430), None);
            }
            let mut damaged = too_big(v6, 1400, &quote);
            *damaged.last_mut().unwrap() ^= 1;
            assert_eq!(run(gateway, 1, WIRE, damaged).fate, Fate::Punt);
            assert_eq!(told(gateway, 1, 1430), None);
            // As large as the link's MTU or larger says nothing new.
            for mtu in [1500, 9000] {
                let output = run(gateway, 1, WIRE, too_big(v6, mtu, &quote));
                assert_eq!(output.fate, Fate::Consume);
                assert_eq!(told(gateway, 1, 1430), None);
            }
        });
    }
}

#[test]
fn a_router_that_names_no_mtu_is_helped_out() {
    on_known(Setup::new(1, false, Encap::Vxlan), |gateway| {
        // Of 1078 bytes; the next smaller link has 1006 (RFC 1191 section 7.1).
        let quote = quote(gateway, 28);
        run(gateway, 1, WIRE, too_big(false, 0, &quote));
        assert_eq!(told(gateway, 2, 1430), Some(1006 - 50));
    });
}

/// Whether an error that came in by the wire lowers the path MTU of the same peer
/// in a second network, whose tunnels leave by this port.
fn counts_for_second(underlay: PortId) -> bool {
    on_known(Setup::new(1, false, Encap::Vxlan), |gateway| {
        let setup = Setup::new(1, false, Encap::Vxlan);
        let second = NetworkId(1);
        let elsewhere = Port {
            id: PortId(5),
            mac: MacAddr::new(mac(55)),
            ..setup.wire()
        };
        let operations = [
            Operation::UpsertPort(elsewhere),
            Operation::UpsertNetwork(Network {
                id: second,
                vni: Vni::new(7).unwrap(),
                underlay,
                ..setup.network()
            }),
            Operation::UpsertPeer(Peer {
                id: PeerId(9),
                network: second,
                accepts: EncapSet::of(&[Encap::Vxlan]),
                ..setup.peer(2, node(false, 2))
            }),
            Operation::UpsertRoute(Route {
                network: second,
                prefix: IpPrefix::new(ip("10.99.2.0"), 24).unwrap(),
                next_hop: NextHop::Peer {
                    peer: PeerId(9),
                    encap: Encap::Vxlan,
                },
            }),
            Operation::UpsertPort(Port {
                id: PortId(4),
                mtu: 1450,
                mac: MacAddr::new(pod_mac(4)),
                offloads: Offloads::NONE,
                kind: PortKind::Endpoint(Endpoint::with_address(second, ip("10.99.1.2"))),
            }),
        ];
        gateway.apply(Owner::Cluster, &operations).unwrap();
        let quote = quote(gateway, 28);
        run(gateway, 1, WIRE, too_big(false, 1400, &quote));
        let addresses = (ip("10.99.1.2"), ip("10.99.2.2"));
        let macs = (pod_mac(4), GATEWAY_MAC);
        let large = unfragmented(ip_frame(macs, addresses, (1, 2), &[0; 1380]));
        let output = run(gateway, 2, PortId(4), large);
        output.fate == Fate::Drop(DropReason::TooBig)
    })
}

#[test]
fn an_error_counts_for_all_networks_with_that_path() {
    assert!(counts_for_second(WIRE));
    assert!(!counts_for_second(PortId(5)));
}
