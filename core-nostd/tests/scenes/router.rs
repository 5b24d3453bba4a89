//! From a pod and the host: what a router does.

use culvert_core::channel::{Encap, NetworkOptions, NextHop};

use super::frames::*;
use super::*;
use crate::common::*;

pub(crate) fn all() -> Vec<Scene> {
    vec![
        local_pods(),
        to_itself(),
        host_and_pods(),
        ttl_exceeded(),
        ttl_exceeded_across(),
        rate_limit(),
        no_error_about(),
        echo_to_gateway(),
        gateway_refuses(),
        no_route(),
        blackhole(),
        host_missing(),
        removed(),
        multicast(),
        flood(),
        flood_from_a_peer(),
    ]
}

/// The same packet with another TTL.
fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    edit_ip(&mut frame, |header| header.time_to_live = ttl);
    frame
}

fn with_hop_limit(mut frame: Vec<u8>, hop_limit: u8) -> Vec<u8> {
    edit_ip6(&mut frame, |header| header.hop_limit = hop_limit);
    frame
}

fn local_pods() -> Scene {
    Scene::new(
        "local-pods",
        "Local pod: MACs rewritten, TTL decremented once, delivered; no other byte but the checksum's changed",
        &Setup::alone().dual(),
    )
    .pod(udp(MAC_A, A, B, b"IPv4 to the neighbor"))
    .frame(POD_B, with_options(tcp(MAC_B, B, A, b"back"), &[0x94, 4, 0, 0]))
    .pod(udp6(MAC_A, A6, B6, b"IPv6 to the neighbor"))
    .frame(POD_B, tcp6(MAC_B, B6, A6, b"back"))
    .expect("ip.ttl == 63 && eth.src == ee:ee:ee:ee:ee:ee", 2)
    .expect("ipv6.hlim == 63 && eth.src == ee:ee:ee:ee:ee:ee", 2)
    .expect("eth.dst == 0a:58:0a:f4:01:03 && udp && frame.interface_name == \"pod-b\"", 2)
    .expect("eth.dst == 0a:58:0a:f4:01:02 && tcp && frame.interface_name == \"pod-a\"", 2)
    .expect("ip.hdr_len == 24 && ip.opt.ra == 0", 1)
    .counts("forward-endpoint", 4)
}

fn to_itself() -> Scene {
    Scene::new(
        "to-itself",
        "A pod's packet to its own address comes back to it",
        &Setup::alone().dual(),
    )
    .pod(udp(MAC_A, A, A, b"hello, me"))
    .pod(udp6(MAC_A, A6, A6, b"hello, me"))
    .expect("frame.interface_name == \"pod-a\" && ip.ttl == 63 && ip.src == 10.244.1.2 && ip.dst == 10.244.1.2", 1)
    .expect("frame.interface_name == \"pod-a\" && ipv6.hlim == 63 && ipv6.dst == fd00:244:1::2", 1)
    .counts("forward-endpoint", 2)
}

fn host_and_pods() -> Scene {
    let node = Setup {
        host: true,
        ..Setup::alone()
    };
    let host = [10, 244, 1, 0];
    Scene::new(
        "host-and-pods",
        "Host: MACs rewritten, TTL decremented, delivered, both ways; what would come back to the host is dropped",
        &node,
    )
    .pod(udp(MAC_A, A, host, b"to the host"))
    .frame(HOST, udp(HOST_MAC, host, A, b"to the pod"))
    .frame(HOST, udp(HOST_MAC, host, host, b"round and round"))
    .expect("frame.interface_name == \"host\" && ip.ttl == 63 && eth.dst == 02:00:00:00:00:09", 1)
    .expect("frame.interface_name == \"pod-a\" && ip.ttl == 63 && eth.dst == 0a:58:0a:f4:01:02", 1)
    .counts("forward-host", 1)
    .drops(&["host-loop"])
}

fn ttl_exceeded() -> Scene {
    Scene::new(
        "ttl-exceeded",
        "TTL/hop limit 1 or 0: ICMP time exceeded (RFC 792, 4443) from the gateway address, so that traceroute shows the gateway; 2 is enough",
        &Setup::alone().dual(),
    )
    .pod(with_ttl(udp_ports(MAC_A, A, B, (40_000, 33_434), b"traceroute"), 1))
    .pod(with_ttl(udp_ports(MAC_A, A, B, (40_000, 33_435), b"traceroute"), 0))
    .pod(with_ttl(udp_ports(MAC_A, A, B, (40_000, 33_436), b"traceroute"), 2))
    .pod(with_hop_limit(udp6_ports(MAC_A, A6, B6, (40_000, 33_434), b"traceroute"), 1))
    .pod(with_hop_limit(udp6_ports(MAC_A, A6, B6, (40_000, 33_435), b"traceroute"), 0))
    .pod(with_hop_limit(udp6_ports(MAC_A, A6, B6, (40_000, 33_436), b"traceroute"), 2))
    .expect("icmp.type == 11 && icmp.code == 0 && ip.src == 169.254.1.1 && ip.dst == 10.244.1.2 && udp.dstport <= 33435", 2)
    .expect("icmpv6.type == 3 && icmpv6.code == 0 && ipv6.src == fe80::1 && ipv6.dst == fd00:244:1::2 && udp.dstport <= 33435", 2)
    .sends("pod-b", 2)
    .counts("drop-ttl-exceeded", 4)
}

fn ttl_exceeded_across() -> Scene {
    let inner = with_ttl(
        udp_ports(MAC_A, REMOTE, A, (40_000, 33_434), b"traceroute"),
        1,
    );
    let inner6 = with_hop_limit(
        udp6_ports(MAC_A, REMOTE6, A6, (40_000, 33_434), b"traceroute"),
        1,
    );
    Scene::new(
        "ttl-exceeded-across-the-tunnel",
        "TTL/hop limit 1 of a packet from another node: ICMP time exceeded from this node's own address goes back through the tunnel, so that traceroute shows the node",
        &Setup::with(Encap::Vxlan, false).dual(),
    )
    .wire(in_vxlan(false, 2, &inner))
    .wire(answer(false, 2))
    .wire(in_vxlan(false, 2, &inner6))
    .expect("vxlan.vni == 1 && icmp.type == 11 && ip.src == 10.244.1.0 && ip.dst == 10.244.2.7", 1)
    .expect("vxlan.vni == 1 && icmpv6.type == 3 && ipv6.src == fd00:244:1:: && ipv6.dst == fd00:244:2::2", 1)
    .sends("pod-a", 0)
    .counts("drop-ttl-exceeded", 2)
}

fn rate_limit() -> Scene {
    let mut scene = Scene::new(
        "icmp-errors-are-rate-limited",
        "ICMP errors are rate-limited: 50 at once for each port, then one a millisecond",
        &Setup::alone(),
    );
    let expired = |mac, (src, dst), n| with_ttl(udp_ports(mac, src, dst, (n, 9), b""), 1);
    for n in 0..53 {
        scene = scene.pod(expired(MAC_A, (A, B), n)).together();
    }
    // Another port has its own limit, and time heals.
    scene = scene.frame(POD_B, expired(MAC_B, (B, A), 53));
    scene
        .at(1010)
        .pod(expired(MAC_A, (A, B), 54))
        .expect("icmp.type == 11 && frame.interface_name == \"pod-a\"", 51)
        .expect("icmp.type == 11 && frame.interface_name == \"pod-b\"", 1)
        .counts("icmp-rate-limited", 3)
        .counts("drop-ttl-exceeded", 55)
}

fn no_error_about() -> Scene {
    let mut error = echo(MAC_A, A, B);
    // Destination unreachable, whose checksum etherparse makes.
    let header = etherparse::Icmpv4Header::with_checksum(
        etherparse::Icmpv4Type::Unknown {
            type_u8: 3,
            code_u8: 1,
            bytes5to8: [0; 4],
        },
        &error[42..],
    );
    error[34..42].copy_from_slice(&header.to_bytes());
    let mut later = udp(MAC_A, A, B, b"the end of a packet");
    edit_ip(&mut later, |header| {
        header.fragment_offset = 100.try_into().unwrap()
    });
    let error6 = icmp6(
        MAC_A,
        (A6, B6),
        1,
        &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &[0x60; 40]].concat(),
    );
    let echo_at_the_end = with_hop_limit(echo6(MAC_A, A6, B6), 1);
    Scene::new(
        "no-errors-about-errors",
        "ICMP errors are about no ICMP error and no later fragment (RFC 1122 section 3.2.2, RFC 4443 section 2.4)",
        &Setup::alone().dual(),
    )
    .pod(with_ttl(error, 1))
    .pod(with_ttl(later, 1))
    .pod(error6)
    .pod(echo_at_the_end)
    .sends("pod-a", 1)
    .expect("icmpv6.type == 3", 1)
    .counts("drop-ttl-exceeded", 4)
}

fn echo_to_gateway() -> Scene {
    Scene::new(
        "echo-to-the-gateway",
        "To the gateway itself: echo is answered",
        &Setup::alone().dual(),
    )
    .pod(echo(MAC_A, A, GATEWAY))
    .pod(echo6(MAC_A, A6, GATEWAY6))
    .expect("icmp.type == 0 && ip.src == 169.254.1.1 && ip.dst == 10.244.1.2 && ip.ttl == 64 && icmp.seq == 1", 1)
    .expect("icmpv6.type == 129 && ipv6.src == fe80::1 && ipv6.dst == fd00:244:1::2 && ipv6.hlim == 64", 1)
    .counts("reply", 2)
}

fn gateway_refuses() -> Scene {
    let mut sctp = udp(MAC_A, A, GATEWAY, &[0; 12]);
    edit_ip(&mut sctp, |header| header.protocol = 132.into());
    Scene::new(
        "gateway-refuses-all-but-echo",
        "To the gateway itself: other protocols get ICMP port/protocol unreachable",
        &Setup::alone().dual(),
    )
    .pod(udp(MAC_A, A, GATEWAY, b"anybody?"))
    .pod(tcp(MAC_A, A, GATEWAY, b""))
    .pod(sctp)
    .pod(udp6(MAC_A, A6, GATEWAY6, b"anybody?"))
    .pod(tcp6(MAC_A, A6, GATEWAY6, b""))
    .pod(packet6(MAC_A, (A6, GATEWAY6), (132, 64), &[0; 20]))
    .expect(
        "icmp.type == 3 && icmp.code == 3 && ip.src == 169.254.1.1",
        2,
    )
    .expect(
        "icmp.type == 3 && icmp.code == 2 && ip.src == 169.254.1.1",
        1,
    )
    .expect(
        "icmpv6.type == 1 && icmpv6.code == 4 && ipv6.src == fe80::1",
        2,
    )
    .expect(
        "icmpv6.type == 4 && icmpv6.code == 1 && ipv6.src == fe80::1",
        1,
    )
    .counts("drop-gateway-protocol", 6)
}

fn no_route() -> Scene {
    Scene::new(
        "no-route",
        "No route: ICMP net unreachable and a drop reason",
        &Setup::alone().dual(),
    )
    .pod(udp(MAC_A, A, [8; 4], b"off the map"))
    .pod(udp(MAC_A, A, [127, 0, 0, 1], b"to a loopback"))
    .pod(udp6(MAC_A, A6, STRANGER6, b"off the map"))
    .pod(udp6(MAC_A, A6, ip_octets("fe80::99"), b"off the link"))
    .expect(
        "icmp.type == 3 && icmp.code == 0 && ip.src == 169.254.1.1 && ip.dst == 10.244.1.2",
        2,
    )
    .expect(
        "icmpv6.type == 1 && icmpv6.code == 0 && ipv6.src == fe80::1",
        2,
    )
    .counts("drop-no-route", 4)
}

fn blackhole() -> Scene {
    let node = Setup {
        host: true,
        routes: vec![("0.0.0.0/0", NextHop::Host)],
        ..Setup::alone().dual()
    };
    Scene::new(
        "blackhole",
        "A blackhole for the node's own block, so that an unassigned pod address never loops through the default route; ICMP host unreachable",
        &node,
    )
    .pod(udp(MAC_A, A, [10, 244, 1, 99], b"nobody there"))
    .pod(udp6(MAC_A, A6, NOBODY6, b"nobody there"))
    .pod(udp(MAC_A, A, [8; 4], b"by the default route"))
    .expect("icmp.type == 3 && icmp.code == 1 && ip.src == 169.254.1.1", 1)
    .expect("icmpv6.type == 1 && icmpv6.code == 3 && ipv6.src == fe80::1", 1)
    .expect("frame.interface_name == \"host\" && ip.dst == 8.8.8.8", 1)
    .counts("drop-blackhole", 2)
}

fn host_missing() -> Scene {
    let node = Setup {
        routes: vec![("10.96.0.0/12", NextHop::Host)],
        ..Setup::alone()
    };
    Scene::new(
        "route-to-a-missing-host",
        "A route to the host of a network without one: a drop reason of its own, ICMP host unreachable",
        &node,
    )
    .pod(udp(MAC_A, A, [10, 96, 0, 10], b"a service"))
    .expect("icmp.type == 3 && icmp.code == 1 && ip.src == 169.254.1.1", 1)
    .drops(&["host-missing"])
}

fn removed() -> Scene {
    let prefix = prefix("10.244.2.0/24");
    let network = NET;
    let gone = vec![
        Operation::RemoveRoute { network, prefix },
        Operation::RemovePeer(culvert_core::PeerId(2)),
    ];
    let node = Setup {
        pod_b: true,
        ..Setup::with(Encap::Vxlan, false)
    };
    Scene::new(
        "removed-entries-lead-nowhere",
        "What is removed from the tables is gone with the next frame: a route, its peer, a pod, whose address is in the blackhole then",
        &node,
    )
    .pod(udp(MAC_A, A, REMOTE, b"there is a route"))
    .wire(answer(false, 2))
    .pod(udp(MAC_A, A, B, b"there is a pod"))
    .apply(Owner::Cluster, gone)
    .apply(Owner::Attachment, vec![Operation::RemovePort(POD_B)])
    .pod(udp(MAC_A, A, REMOTE, b"there is none"))
    .pod(udp(MAC_A, A, B, b"there is none"))
    .wire(in_vxlan(false, 2, &udp_ports(MAC_A, REMOTE, A, (80, 1234), b"from nobody")))
    .frame(POD_B, udp(MAC_B, B, A, b"from nobody"))
    .expect("vxlan", 1)
    .sends("pod-b", 1)
    .expect("icmp.type == 3 && icmp.code == 0", 1)
    .expect("icmp.type == 3 && icmp.code == 1", 1)
    .drops(&["no-route", "blackhole", "unknown-peer", "port-unknown"])
}

/// A pod's multicast: IPv4 and IPv6, to the groups' MAC addresses.
fn to_groups(mac: [u8; 6], v4: [u8; 4], v6: [u8; 16]) -> [Vec<u8>; 2] {
    let mut frames = [
        udp_ports(mac, v4, [239, 1, 2, 3], (9, 1234), b"to a group"),
        udp6_ports(mac, v6, ip_octets("ff0e::4000"), (9, 1234), b"to a group"),
    ];
    frames[0][..6].copy_from_slice(&[1, 0, 0x5e, 1, 2, 3]);
    frames[1][..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0x40, 0]);
    frames
}

/// A pod's broadcast.
fn to_all() -> Vec<u8> {
    let mut frame = udp_ports(MAC_A, A, [255; 4], (9, 1234), b"to all");
    frame[..6].fill(0xff);
    frame
}

fn multicast() -> Scene {
    let [v4, v6] = to_groups(MAC_A, A, A6);
    let mut for_one = udp(MAC_A, A, B, b"for one in a frame for all");
    for_one[..6].fill(0xff);
    Scene::new(
        "multicast-is-dropped",
        "Broadcast and multicast: dropped with a reason unless the network floods",
        &Setup::alone().dual(),
    )
    .pod(v4)
    .pod(v6)
    .pod(to_all())
    .pod(for_one)
    .sends("pod-a", 0)
    .sends("pod-b", 0)
    .counts("drop-destination-group", 4)
}

/// A node that floods to two pods, the host, and two peers.
fn flooding() -> Setup {
    Setup {
        options: NetworkOptions::FLOOD,
        pod_b: true,
        host: true,
        peers: vec![2, 3],
        ..Setup::with(Encap::Vxlan, false).dual()
    }
}

fn flood() -> Scene {
    let [v4, v6] = to_groups(MAC_A, A, A6);
    Scene::new(
        "flood",
        "Broadcast and multicast where the network floods: a copy to each local port and peer but the sender",
        &flooding(),
    )
    .pod(to_all())
    .wire(answer(false, 2))
    .wire(answer(false, 3))
    .pod(v4)
    .pod(v6)
    .expect("frame.interface_name == \"pod-b\" && udp.dstport == 1234", 3)
    .expect("frame.interface_name == \"host\" && udp.dstport == 1234", 3)
    .expect("vxlan && ip.dst == 192.168.77.2 && udp.dstport == 1234", 3)
    .expect("vxlan && ip.dst == 192.168.77.3 && udp.dstport == 1234", 3)
    .sends("pod-a", 0)
    .counts("flood", 3)
}

fn flood_from_a_peer() -> Scene {
    let [v4, _] = to_groups(MAC_A, REMOTE, REMOTE6);
    let mut payload = vxlan_payload(false, 2, 1, &v4);
    payload[8..14].copy_from_slice(&[1, 0, 0x5e, 1, 2, 3]);
    Scene::new(
        "flood-from-a-peer",
        "What a peer floods goes to local ports and to no other peer",
        &flooding(),
    )
    .wire(udp_between_nodes(false, 2, 8472, &payload))
    .expect(
        "frame.interface_name == \"pod-a\" && ip.dst == 239.1.2.3",
        1,
    )
    .expect(
        "frame.interface_name == \"pod-b\" && ip.dst == 239.1.2.3",
        1,
    )
    .expect("frame.interface_name == \"host\" && ip.dst == 239.1.2.3", 1)
    .sends("wire", 1)
    .counts("flood", 1)
}
