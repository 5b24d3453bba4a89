//! What new ports say of themselves.

use std::net::IpAddr;

use culvert_core::channel::*;
use culvert_core::*;
use etherparse::NetHeaders;

use crate::node::*;

/// What a frame announces: its address and MAC address.
fn announced(frame: &[u8]) -> (IpAddr, [u8; 6]) {
    let packet = verified(frame);
    let ethernet = packet.link.unwrap().ethernet2().unwrap();
    match packet.net.unwrap() {
        NetHeaders::Arp(arp) => {
            let arp = arp.try_eth_ipv4().unwrap();
            assert_eq!(ethernet.destination, BROADCAST);
            assert_eq!(arp.operation, etherparse::ArpOperation::REQUEST);
            assert_eq!(arp.sender_ipv4, arp.target_ipv4);
            assert_eq!(ethernet.source, arp.sender_mac);
            (arp.sender_ipv4.into(), arp.sender_mac)
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!(ethernet.destination, [0x33, 0x33, 0, 0, 0, 1]);
            assert_eq!(ip.hop_limit, 255);
            let payload = packet.payload.slice();
            assert_eq!(payload[..16], ip.source);
            (ip.source.into(), payload[18..].try_into().unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn new_addresses_are_announced_once_and_one_at_a_time_where_spares_are_few() {
    let mut memory = Memory::new();
    let mut gateway = memory.gateway();
    let setup = Setup::new(1, false, Encap::Vxlan);
    // What is still to be announced is not forgotten when it is said again.
    setup.program(&mut gateway, 2);
    setup.program(&mut gateway, 2);
    let host = Port {
        id: HOST,
        mtu: 1500,
        mac: MacAddr::new([2, 0, 0, 0, 0, 9]),
        offloads: Offloads::NONE,
        kind: PortKind::Host { network: NET },
    };
    gateway
        .apply(Owner::Cluster, &[Operation::UpsertPort(host)])
        .unwrap();
    let mut told = vec![];
    for now in 0..10 {
        let made = with_spares(1, |originated| gateway.tick(at(now), originated));
        told.extend(made.iter().map(|(port, frame)| (*port, announced(frame))));
    }
    let expected = [
        (WIRE, (node(false, 1), mac(1))),
        (WIRE, (node(true, 1), mac(1))),
        (HOST, (pod(false, 1), GATEWAY_MAC)),
        (HOST, (pod(true, 1), GATEWAY_MAC)),
    ];
    assert_eq!(told, expected);
    // A further address is announced alone, and a repeated entry not at all.
    let endpoint = |addresses: &[IpAddr]| {
        Operation::UpsertPort(Port {
            id: POD,
            mtu: 1430,
            mac: MacAddr::new(pod_mac(1)),
            offloads: Offloads::NONE,
            kind: PortKind::Endpoint(Endpoint {
                network: NET,
                addresses: list(addresses),
                allowed: heapless::Vec::new(),
            }),
        })
    };
    let (first, further) = ([pod(false, 1), pod(true, 1)], ip("10.244.1.9"));
    gateway.apply(Owner::Cluster, &[endpoint(&first)]).unwrap();
    assert_eq!(tick(&mut gateway, 20), []);
    let both = [further, first[0], first[1]];
    gateway.apply(Owner::Cluster, &[endpoint(&both)]).unwrap();
    let made = tick(&mut gateway, 30);
    assert_eq!(made.len(), 1);
    assert_eq!(
        (made[0].0, announced(&made[0].1)),
        (HOST, (further, GATEWAY_MAC))
    );
    assert_eq!(gateway.counter(Counter::Originated), 5);
}

#[test]
fn one_of_several_cores_announces_what_all_of_them_have() {
    let setup = Setup::new(1, false, Encap::Vxlan);
    for (announcing, expected) in [(true, 2), (false, 0)] {
        let mut memory = Memory::new();
        let mut gateway = memory.gateway();
        gateway.set_announcing(announcing);
        setup.program(&mut gateway, 2);
        assert_eq!(tick(&mut gateway, 0).len(), expected);
        // What was not announced is not kept for later.
        gateway.set_announcing(true);
        assert_eq!(tick(&mut gateway, 10), []);
    }
}
