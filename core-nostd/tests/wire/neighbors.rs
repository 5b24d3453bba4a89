//! ARP and neighbor discovery on a raw port.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::{NetHeaders, TransportHeader};

use crate::node::*;

const BOTH: [bool; 2] = [false, true];

fn setup(v6: bool) -> Setup {
    Setup::new(1, v6, Encap::Vxlan)
}

/// Where a packet to the pod of node `n` goes now; `None` when it cannot go.
fn mac_used(gateway: &mut Gateway<'_>, millis: u64, n: u8) -> Option<[u8; 6]> {
    let output = run(gateway, millis, POD, udp(false, n, b"x"));
    let sent = output.fate == Fate::Forward(WIRE);
    sent.then(|| output.bytes[..6].try_into().unwrap())
}

/// A neighbor's news that nobody asked for.
fn gratuitous(address: IpAddr, mac: [u8; 6], overrides: bool) -> Vec<u8> {
    let all = "ff02::1".parse().unwrap();
    match address {
        IpAddr::V4(v4) => arp(1, (mac, v4.octets()), (BROADCAST, v4.octets())),
        IpAddr::V6(v6) => {
            let flags = if overrides { 0x20 } else { 0 };
            let to = ([0x33, 0x33, 0, 0, 0, 1], all);
            discovery((136, flags), (mac, v6), to, v6)
        }
    }
}

/// A question of node 2 about `target`.
fn asks(v6: bool, from: ([u8; 6], IpAddr), target: IpAddr) -> Vec<u8> {
    match v6 {
        false => arp(1, (from.0, v4(from.1)), (BROADCAST, v4(target))),
        true => {
            let [.., a, b, c] = crate::node::v6(target).octets();
            let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
            let to = ([0x33, 0x33, 0xff, a, b, c], group.into());
            let src = (from.0, crate::node::v6(from.1));
            discovery((135, 0), src, to, crate::node::v6(target))
        }
    }
}

#[test]
fn the_first_packet_waits_and_is_sent_when_the_answer_comes() {
    for v6 in BOTH {
        for encap in [Encap::Vxlan, Encap::Ipip, Encap::Direct] {
            let setup = Setup::new(1, v6, encap);
            on(setup, |gateway| {
                let first = run(gateway, 0, POD, udp(false, 2, b"same"));
                assert_eq!(first.fate, Fate::Queue);
                let [(WIRE, asked)] = &first.made[..] else {
                    panic!("{:?}", first.made)
                };
                let to = match v6 {
                    false => BROADCAST,
                    true => [0x33, 0x33, 0xff, 0, 0, 2],
                };
                assert_eq!(question(asked, node(v6, 2)), Some(to));
                let second = run(gateway, 1, POD, udp(false, 2, b"lost"));
                let pending = Fate::Drop(DropReason::NeighborPending);
                assert_eq!((second.fate, second.made), (pending, vec![]));
                let heard = run(gateway, 2, WIRE, answer(setup, node(v6, 2), mac(2)));
                assert_eq!(heard.fate, Fate::Consume);
                let later = run(gateway, 3, POD, udp(false, 2, b"same"));
                assert_eq!(later.fate, Fate::Forward(WIRE));
                assert_eq!(heard.made, [(WIRE, later.bytes)]);
                assert_eq!(gateway.counter(Counter::Queue), 1);
                assert_eq!(gateway.counter(Counter::QueueLost), 0);
            });
        }
    }
}

#[test]
fn without_spares_the_tick_asks_and_sends() {
    for v6 in BOTH {
        on(setup(v6), |gateway| {
            let first = run_with(gateway, (0, 0), POD, udp(false, 2, b"x"));
            assert_eq!((first.fate, first.made), (Fate::Queue, vec![]));
            let [(WIRE, asked)] = &tick(gateway, 10)[..] else {
                panic!("one question")
            };
            assert!(question(asked, node(v6, 2)).is_some());
            assert_eq!(tick(gateway, 20), []);
            let answer = answer(setup(v6), node(v6, 2), mac(2));
            let heard = run_with(gateway, (30, 0), WIRE, answer);
            assert_eq!(heard.made, []);
            let [(WIRE, sent)] = &tick(gateway, 100)[..] else {
                panic!("one packet")
            };
            assert_eq!(sent[..6], mac(2));
            verified(sent);
            assert_eq!(tick(gateway, 200), []);
        });
    }
}

#[test]
fn a_silent_neighbor_fails_and_is_asked_again_later() {
    for v6 in BOTH {
        on(setup(v6), |gateway| {
            run(gateway, 0, POD, udp(false, 2, b"x"));
            let mut asked = vec![];
            for now in (50..3500).step_by(50) {
                for (port, frame) in tick(gateway, now) {
                    if port == POD && now == 3000 {
                        continue; // Its sender is told.
                    }
                    assert_eq!(port, WIRE);
                    assert!(question(&frame, node(v6, 2)).is_some());
                    asked.push(now);
                }
            }
            assert_eq!(asked, [250, 500, 1000, 2000]);
            assert_eq!(gateway.counter(Counter::QueueLost), 1);
            let failed = run(gateway, 3500, POD, udp(false, 2, b"x"));
            let reason = Fate::Drop(DropReason::NeighborFailed);
            assert_eq!((failed.fate, failed.made), (reason, vec![]));
            let again = run(gateway, 4500, POD, udp(false, 2, b"x"));
            assert_eq!((again.fate, again.made.len()), (Fate::Queue, 1));
        });
    }
}

#[test]
fn what_is_off_the_link_goes_to_the_gateway() {
    for v6 in BOTH {
        let far = match v6 {
            false => ip("198.51.100.7"),
            true => ip("2001:db8:7::7"),
        };
        for gateway_there in [true, false] {
            let setup = Setup {
                gateway: gateway_there,
                ..setup(v6)
            };
            on(setup, |gateway| {
                setup.add_peer(gateway, 7, far);
                let first = run(gateway, 0, POD, udp(false, 7, b"x"));
                if !gateway_there {
                    let reason = Fate::Drop(DropReason::UnderlayNoRoute);
                    assert_eq!((first.fate, first.made), (reason, vec![]));
                    return;
                }
                assert_eq!(first.fate, Fate::Queue);
                let router = node(v6, 254);
                assert!(question(&first.made[0].1, router).is_some());
                let heard = run(gateway, 1, WIRE, answer(setup, router, mac(254)));
                assert_eq!(heard.made[0].1[..6], mac(254));
                // It is the gateway of all that is far.
                let farther = match v6 {
                    false => ip("203.0.113.1"),
                    true => ip("2001:db8:8::8"),
                };
                setup.add_peer(gateway, 8, farther);
                assert_eq!(mac_used(gateway, 2, 8), Some(mac(254)));
            });
        }
    }
}

#[test]
fn questions_about_our_own_addresses_are_answered() {
    for v6 in BOTH {
        let nobody = if v6 { ip("::") } else { ip("0.0.0.0") };
        for from in [node(v6, 2), nobody] {
            on(setup(v6), |gateway| {
                let output = run(gateway, 0, WIRE, asks(v6, (mac(2), from), node(v6, 1)));
                assert_eq!(output.fate, Fate::Reply);
                let packet = verified(&output.bytes);
                let ethernet = packet.link.unwrap().ethernet2().unwrap();
                assert_eq!(ethernet.source, mac(1));
                match packet.net.unwrap() {
                    NetHeaders::Arp(arp) => {
                        let arp = arp.try_eth_ipv4().unwrap();
                        assert_eq!(arp.operation, etherparse::ArpOperation::REPLY);
                        assert_eq!((arp.sender_mac, arp.sender_ipv4), (mac(1), [192, 0, 2, 1]));
                        assert_eq!((arp.target_mac, arp.target_ipv4), (mac(2), v4(from)));
                        assert_eq!(ethernet.destination, mac(2));
                    }
                    NetHeaders::Ipv6(ip, _) => {
                        assert_eq!(ip.hop_limit, 255);
                        let Some(TransportHeader::Icmpv6(icmp)) = packet.transport else {
                            panic!("not ICMPv6")
                        };
                        // Duplicate address detection is answered to all.
                        let known = from != nobody;
                        let flags = if known { 0x60 } else { 0x20 };
                        assert_eq!(icmp.to_bytes()[0], 136);
                        assert_eq!(icmp.to_bytes()[4], flags);
                        let to = if known {
                            mac(2)
                        } else {
                            [0x33, 0x33, 0, 0, 0, 1]
                        };
                        assert_eq!(ethernet.destination, to);
                        let expected = [
                            &crate::node::v6(node(true, 1)).octets()[..],
                            &[2, 1],
                            &mac(1),
                        ];
                        assert_eq!(packet.payload.slice(), expected.concat());
                    }
                    other => panic!("{other:?}"),
                }
            });
        }
        // Others answer for themselves.
        on(setup(v6), |gateway| {
            let output = run(
                gateway,
                0,
                WIRE,
                asks(v6, (mac(2), node(v6, 2)), node(v6, 3)),
            );
            assert_eq!(output.fate, Fate::Consume);
        });
    }
}

#[test]
fn a_solicitation_from_a_link_local_address_is_answered() {
    on(setup(true), |gateway| {
        let link_local = ip("fe80::ff:fe00:102");
        let asked = asks(true, (mac(2), link_local), node(true, 1));
        assert_eq!(run(gateway, 0, WIRE, asked).fate, Fate::Reply);
    });
}

#[test]
fn whoever_asks_for_us_is_answered_and_not_believed_when_off_the_link() {
    // Linux asks in the name of a tunnel's or a pod's address.
    for v6 in BOTH {
        let far = if v6 { pod(true, 2) } else { pod(false, 2) };
        on(setup(v6), |gateway| {
            let asked = run(gateway, 0, WIRE, asks(v6, (mac(2), far), node(v6, 1)));
            assert_eq!(asked.fate, Fate::Reply);
            assert_eq!(asked.bytes[..12], [mac(2), mac(1)].concat());
            verified(&asked.bytes);
        });
    }
}

#[test]
fn a_changed_mac_address_is_learnt_at_once() {
    for v6 in BOTH {
        let new = [2, 0, 0, 0, 2, 2];
        let news = [
            gratuitous(node(v6, 2), new, true),
            // The neighbor asks for us, or for somebody else.
            asks(v6, (new, node(v6, 2)), node(v6, 1)),
            asks(v6, (new, node(v6, 2)), node(v6, 3)),
        ];
        for frame in news {
            on_known(setup(v6), |gateway| {
                assert_eq!(mac_used(gateway, 10, 2), Some(mac(2)));
                run(gateway, 11, WIRE, frame);
                assert_eq!(mac_used(gateway, 12, 2), Some(new));
            });
        }
    }
}

#[test]
fn a_neighbor_that_moved_without_a_word_is_found_within_a_second() {
    for (v6, direct) in [(false, false), (false, true), (true, false), (true, true)] {
        on_known(setup(v6), |gateway| {
            let new = [2, 0, 0, 0, 2, 2];
            // What it sends gives it away, even before the next tick.
            let inner = from_remote(false, b"x");
            let mut frame = match direct {
                false => vxlan(v6, &inner),
                true => [&mac(1)[..], &mac(2), &[8, 0], &inner].concat(),
            };
            frame[6..12].copy_from_slice(&new);
            let output = run(gateway, 5000, WIRE, frame);
            assert_eq!(output.fate, Fate::Forward(POD));
            let [(WIRE, asked)] = &output.made[..] else {
                panic!("{:?}", output.made)
            };
            assert!(question(asked, node(v6, 2)).is_some());
            assert_eq!(mac_used(gateway, 5001, 2), Some(mac(2)));
            run(gateway, 5002, WIRE, answer(setup(v6), node(v6, 2), new));
            assert_eq!(mac_used(gateway, 5003, 2), Some(new));
        });
    }
}

#[test]
fn a_neighbor_that_says_nothing_is_verified() {
    for v6 in BOTH {
        // One that says nothing at all is asked once its answer is 30 s old.
        on_known(setup(v6), |gateway| {
            let (mut itself, mut all) = (0, 0);
            for now in (100..32_000).step_by(100) {
                assert_eq!(mac_used(gateway, now, 2), Some(mac(2)));
                for (_, frame) in tick(gateway, now) {
                    let to = question(&frame, node(v6, 2)).unwrap();
                    itself += usize::from(to == mac(2));
                    all += usize::from(to != mac(2));
                }
                if all > 0 {
                    assert!((30_500..31_000).contains(&now), "{now}");
                    break;
                }
            }
            assert_eq!((itself, all), (2, 1));
        });
    }
}

#[test]
fn a_proxys_answer_replaces_nothing_and_confirms() {
    let solicited = |mac: [u8; 6]| {
        let [src, dst] = [2, 1].map(|n| crate::node::v6(node(true, n)));
        discovery((136, 0x40), (mac, src), (crate::node::mac(1), dst), src)
    };
    on(setup(true), |gateway| {
        run(gateway, 0, POD, udp(false, 2, b"x"));
        run(gateway, 1, WIRE, solicited(mac(2)));
        assert_eq!(mac_used(gateway, 2, 2), Some(mac(2)));
        assert_eq!(tick(gateway, 20_000), [], "it has answered");
        run(gateway, 20_001, WIRE, solicited(mac(9)));
        assert_eq!(mac_used(gateway, 20_002, 2), Some(mac(2)));
    });
}

#[test]
fn fragmented_neighbor_discovery_is_nobodys() {
    let [src, dst] = [2, 1].map(|n| crate::node::v6(node(true, n)));
    let whole = discovery((135, 0), (mac(2), src), (mac(1), dst), dst);
    for (more, expected) in [(0, Fate::Reply), (1, Fate::Drop(DropReason::NdMalformed))] {
        let payload = [&[58, 0, 0, more, 0, 0, 0, 1], &whole[54..]].concat();
        let mut frame = ip_packet((mac(2), mac(1)), (src.into(), dst.into()), 44, &payload);
        frame[21] = 255;
        on(setup(true), |gateway| {
            assert_eq!(run(gateway, 0, WIRE, frame).fate, expected);
        });
    }
}

#[test]
fn an_advertisement_that_overrides_nothing_changes_nothing() {
    on_known(setup(true), |gateway| {
        let new = [2, 0, 0, 0, 2, 2];
        let hint = gratuitous(node(true, 2), new, false);
        let heard = run(gateway, 2000, WIRE, hint);
        assert_eq!(heard.made.len(), 1, "it is looked into");
        assert_eq!(mac_used(gateway, 2001, 2), Some(mac(2)));
    });
}

#[test]
fn nobody_gets_into_the_table_unasked() {
    for v6 in BOTH {
        on(setup(v6), |gateway| {
            let news = [
                gratuitous(node(v6, 2), mac(9), true),
                asks(v6, (mac(9), node(v6, 2)), node(v6, 1)),
                answer(setup(v6), node(v6, 2), mac(9)),
            ];
            for frame in news {
                run(gateway, 0, WIRE, frame);
            }
            assert_eq!(mac_used(gateway, 1, 2), None);
        });
    }
}

#[test]
fn liars_are_not_believed() {
    for v6 in BOTH {
        let far = if v6 {
            ip("2001:db8:9::9")
        } else {
            ip("198.51.100.9")
        };
        let cases = [
            (
                gratuitous(node(v6, 1), mac(9), true),
                DropReason::AddressConflict,
            ),
            (
                asks(v6, (mac(9), node(v6, 1)), node(v6, 3)),
                DropReason::AddressConflict,
            ),
            (gratuitous(far, mac(9), true), DropReason::NeighborOffLink),
            (
                asks(v6, (mac(9), far), node(v6, 3)),
                DropReason::NeighborOffLink,
            ),
        ];
        for (frame, reason) in cases {
            on_known(setup(v6), |gateway| {
                let output = run(gateway, 1, WIRE, frame);
                assert_eq!(output.fate, Fate::Drop(reason));
            });
        }
        // What a switch sends back of our own is nobody's.
        on(setup(v6), |gateway| {
            let own = asks(v6, (mac(1), node(v6, 1)), node(v6, 2));
            assert_eq!(run(gateway, 0, WIRE, own).fate, Fate::Consume);
        });
    }
    let mut damaged = gratuitous(node(true, 2), mac(9), true);
    *damaged.last_mut().unwrap() ^= 1;
    let mut routed = gratuitous(node(true, 2), mac(9), true);
    routed[21] = 254;
    let mut group = gratuitous(node(false, 2), mac(9), true);
    group[22] = 3;
    let group_v6 = gratuitous(node(true, 2), [3, 0, 0, 0, 0, 9], true);
    for (frame, reason) in [
        (damaged, DropReason::NdMalformed),
        (routed, DropReason::NdMalformed),
        (group, DropReason::ArpMalformed),
        (group_v6, DropReason::NdMalformed),
        (
            gratuitous(node(false, 2), mac(9), true)[..41].to_vec(),
            DropReason::ArpMalformed,
        ),
    ] {
        on_known(setup(true), |gateway| {
            assert_eq!(run(gateway, 1, WIRE, frame).fate, Fate::Drop(reason));
            assert_eq!(mac_used(gateway, 2, 2), Some(mac(2)));
        });
    }
}

#[test]
fn table_and_queue_have_their_bounds() {
    for v6 in BOTH {
        let setup = setup(v6);
        on(setup, |gateway| {
            for n in 3..12 {
                setup.add_peer(gateway, n, node(v6, n));
            }
            let mut send = |n| run(gateway, 0, POD, udp(false, n, b"x"));
            // Two slots, eight neighbors.
            for n in 2..4 {
                assert_eq!(send(n).fate, Fate::Queue);
            }
            for n in 4..10 {
                let output = send(n);
                assert_eq!(output.fate, Fate::Drop(DropReason::QueueFull));
                assert_eq!(output.made.len(), 1, "it is asked for all the same");
            }
            for n in 10..12 {
                let full = Fate::Drop(DropReason::NeighborTableFull);
                assert_eq!(send(n).fate, full);
            }
            // Those that were there go on.
            for n in 2..10 {
                run(gateway, 1, WIRE, answer(setup, node(v6, n), mac(n)));
                assert_eq!(mac_used(gateway, 2, n), Some(mac(n)));
            }
        });
    }
}

#[test]
fn what_cannot_wait_is_dropped_and_its_neighbor_asked_for() {
    on(setup(false), |gateway| {
        let jumbo = Port {
            mtu: 9000,
            ..setup(false).wire()
        };
        gateway
            .apply(Owner::Cluster, &[Operation::UpsertPort(jumbo)])
            .unwrap();
        let long = run(gateway, 0, POD, udp(false, 2, &[1; 2000]));
        assert_eq!(long.fate, Fate::Drop(DropReason::QueueTooLong));
        assert_eq!(long.made.len(), 1);
        run(
            gateway,
            1,
            WIRE,
            answer(setup(false), node(false, 2), mac(2)),
        );
        assert_eq!(mac_used(gateway, 2, 2), Some(mac(2)));
    });
}

#[test]
fn a_port_with_another_mac_address_starts_anew() {
    on_known(setup(false), |gateway| {
        let same = Operation::UpsertPort(setup(false).wire());
        gateway.apply(Owner::Cluster, &[same]).unwrap();
        assert_eq!(mac_used(gateway, 1, 2), Some(mac(2)));
        let other = Port {
            mac: MacAddr::new(mac(77)),
            ..setup(false).wire()
        };
        gateway
            .apply(Owner::Cluster, &[Operation::UpsertPort(other.clone())])
            .unwrap();
        let output = run(gateway, 2, POD, udp(false, 2, b"x"));
        assert_eq!(output.fate, Fate::Queue);
        assert_eq!(output.made[0].1[6..12], mac(77));
        // What waited is lost with the port's place on the link.
        let back = Port {
            mac: MacAddr::new(mac(78)),
            ..setup(false).wire()
        };
        let operations = [back, other].map(Operation::UpsertPort);
        gateway.apply(Owner::Cluster, &operations).unwrap();
        assert_eq!(gateway.counter(Counter::QueueLost), 1);
        let announced = tick(gateway, 3);
        assert_eq!(announced.len(), 2);
        assert!(announced.iter().all(|(_, frame)| frame[6..12] == mac(77)));
    });
}

#[test]
fn a_removed_port_leaves_no_neighbors_behind() {
    let mut memory = Memory::new();
    let mut gateway = memory.gateway();
    let setup = setup(false);
    for _ in 0..2 {
        setup.program(&mut gateway, 2);
        let first = run(&mut gateway, 0, POD, udp(false, 2, b"x"));
        assert_eq!(first.fate, Fate::Queue);
        run(&mut gateway, 1, WIRE, answer(setup, node(false, 2), mac(2)));
        assert_eq!(mac_used(&mut gateway, 2, 2), Some(mac(2)));
        let route = |first, length| Operation::RemoveRoute {
            network: NET,
            prefix: IpPrefix::new(first, length).unwrap(),
        };
        let operations = [
            route(ip("10.244.2.0"), 24),
            route(ip("fd00:244:2::"), 64),
            Operation::RemovePeer(PeerId(2)),
            Operation::RemovePort(POD),
            Operation::RemoveNetwork(NET),
            Operation::RemovePort(WIRE),
        ];
        gateway.apply(Owner::Cluster, &operations).unwrap();
    }
}
