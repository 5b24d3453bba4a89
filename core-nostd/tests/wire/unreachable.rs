//! Who sent a packet that waited for a neighbor in vain is told.

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::{NetHeaders, TransportHeader, icmpv4, icmpv6};

use crate::node::*;

/// What is made until the neighbor has failed, questions apart.
fn made(gateway: &mut Gateway<'_>, from: u64) -> Vec<(PortId, Vec<u8>)> {
    let mut all = vec![];
    for now in (from..from + 3500).step_by(100) {
        all.extend(tick(gateway, now));
    }
    all.retain(|(port, _)| *port != WIRE);
    all
}

/// Whether it is "host unreachable" about this packet, which is quoted behind the
/// Ethernet header with its TTL lowered.
fn is_refusal(frame: &[u8], v6: bool, about: &[u8]) -> bool {
    let packet = verified(frame);
    let ethernet = packet.link.clone().unwrap().ethernet2().unwrap();
    assert_eq!(
        (ethernet.source, ethernet.destination),
        (GATEWAY_MAC, pod_mac(1))
    );
    let gateway = if v6 { ip("fe80::1") } else { ip("169.254.1.1") };
    let (ends, code) = match (&packet.net, &packet.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Icmpv4(icmp))) => {
            let ends = (ip.source.into(), ip.destination.into());
            let host = icmpv4::DestUnreachableHeader::Host;
            (
                ends,
                icmp.icmp_type == etherparse::Icmpv4Type::DestinationUnreachable(host),
            )
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Icmpv6(icmp))) => {
            let ends = (ip.source.into(), ip.destination.into());
            let address = icmpv6::DestUnreachableCode::Address;
            (
                ends,
                icmp.icmp_type == etherparse::Icmpv6Type::DestinationUnreachable(address),
            )
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(ends, (gateway, pod(v6, 1)));
    let mut quoted = about[14..].to_vec();
    match v6 {
        true => quoted[7] -= 1,
        false => {
            quoted[8] -= 1;
            // RFC 1624: the sum follows.
            quoted[10..12].copy_from_slice(&packet.payload.slice()[10..12]);
        }
    }
    quoted.truncate(packet.payload.slice().len());
    code && quoted.len() >= 60 && packet.payload.slice() == quoted
}

#[test]
fn the_sender_of_a_packet_that_waited_in_vain_is_told() {
    for over_v6 in [false, true] {
        for encap in [Encap::Vxlan, Encap::Ipip, Encap::Direct] {
            for v6 in [false, true] {
                on(Setup::new(1, over_v6, encap), |gateway| {
                    let lost = udp(v6, 2, &[7; 900]);
                    assert_eq!(run(gateway, 0, POD, lost.clone()).fate, Fate::Queue);
                    let told = made(gateway, 100);
                    let [(POD, refusal)] = &told[..] else {
                        panic!("{encap} {v6}: {told:?}")
                    };
                    assert!(is_refusal(refusal, v6, &lost), "{encap} {v6}");
                    assert_eq!(gateway.counter(Counter::QueueLost), 1);
                });
            }
        }
    }
}

#[test]
fn without_a_spare_it_is_told_later() {
    on(Setup::new(1, false, Encap::Vxlan), |gateway| {
        let lost = udp(false, 2, &[7; 100]);
        run(gateway, 0, POD, lost.clone());
        for now in (100..2900).step_by(100) {
            tick(gateway, now);
        }
        for now in [3000, 3100] {
            assert_eq!(with_spares(0, |none| gateway.tick(at(now), none)), []);
            assert_eq!(gateway.counter(Counter::QueueLost), 0);
        }
        let told = tick(gateway, 3200);
        let [(POD, refusal)] = &told[..] else {
            panic!("{told:?}")
        };
        assert!(is_refusal(refusal, false, &lost));
        assert_eq!(gateway.counter(Counter::QueueLost), 1);
        // The neighbor is asked for anew by the next packet.
        assert_eq!(run(gateway, 4500, POD, lost).fate, Fate::Queue);
    });
}

#[test]
fn nobody_is_told_of_errors_of_packets_from_elsewhere_and_of_the_gateways_own() {
    let setup = Setup::new(1, false, Encap::Vxlan);
    // ICMP errors, and the packet of a pod that is gone by then.
    on(setup, |gateway| {
        let icmp = [3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 20];
        let ends = (pod(false, 1), pod(false, 2));
        let error = ip_packet((pod_mac(1), GATEWAY_MAC), ends, 1, &icmp);
        assert_eq!(run(gateway, 0, POD, error).fate, Fate::Queue);
        assert_eq!(made(gateway, 100), []);
        assert_eq!(gateway.counter(Counter::QueueLost), 1);
    });
    on(setup, |gateway| {
        run(gateway, 0, POD, udp(false, 2, b"x"));
        gateway
            .apply(Owner::Cluster, &[Operation::RemovePort(POD)])
            .unwrap();
        assert_eq!(made(gateway, 100), []);
        assert_eq!(gateway.counter(Counter::QueueLost), 1);
    });
}
