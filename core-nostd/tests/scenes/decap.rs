//! Decapsulation: what is believed of other nodes.

use culvert_core::channel::Encap;

use super::frames::*;
use super::*;
use crate::common::*;

pub(crate) fn all() -> Vec<Scene> {
    vec![
        tunnel_guards(),
        headers(),
        peer_guard(),
        wide_routes(),
        ip_in_ip_guards(),
        direct_guards(),
        to_the_host(),
        no_transit(),
        ecn(false),
        ecn(true),
        fragments(),
        checksums(),
    ]
}

fn inner() -> Vec<u8> {
    udp_ports(MAC_A, REMOTE, A, (80, 1234), b"from the other node")
}

fn tunnel_guards() -> Scene {
    let mut other_vtep = vxlan_payload(false, 2, 1, &inner());
    other_vtep[13] = 9;
    let vni = |vni| udp_between_nodes(false, 2, 8472, &vxlan_payload(false, 2, vni, &inner()));
    Scene::new(
        "decap-guards",
        "Only from a known peer's underlay address, only an encapsulation that the peer may use, only a known VNI on that network's UDP port; another port is not the gateway's",
        &Setup::with(Encap::Vxlan, false),
    )
    .wire(vni(1))
    .wire(vni(2))
    .wire(in_vxlan(false, 7, &inner()))
    .wire(in_ip(false, 2, &inner()))
    .wire(udp_between_nodes(false, 2, 8472, &other_vtep))
    .wire(udp_between_nodes(false, 2, 4789, &vxlan_payload(false, 2, 1, &inner())))
    .sends("pod-a", 1)
    .drops(&["unknown-vni", "unknown-peer", "encap-not-allowed", "vtep-mac"])
    .counts("punt", 1)
}

fn headers() -> Scene {
    let with = |edit: fn(&mut Vec<u8>)| {
        let mut payload = vxlan_payload(false, 2, 1, &inner());
        edit(&mut payload);
        udp_between_nodes(false, 2, 8472, &payload)
    };
    Scene::new(
        "vxlan-headers-are-checked",
        "VXLAN header: whole and with the I flag, reserved flags ignored (RFC 7348); inside is IP in Ethernet",
        &Setup::with(Encap::Vxlan, false),
    )
    .wire(with(|p| p.truncate(7)))
    .wire(with(|p| p[0] = 0))
    .wire(with(|p| p[20..22].copy_from_slice(&[8, 6])))
    .wire(with(|p| p.truncate(12)))
    .wire(with(|p| p[..4].copy_from_slice(&[0xff, 0xff, 0xff, 0xff])))
    .wire(with(|p| p[7] = 0xff))
    .sends("pod-a", 2)
    .drops(&["vxlan-truncated", "vxlan-flags", "inner-not-ip", "frame-truncated"])
}

fn peer_guard() -> Scene {
    let node = Setup {
        peers: vec![2, 3],
        ..Setup::with(Encap::Vxlan, false).dual()
    };
    let from = |src| {
        in_vxlan(
            false,
            2,
            &udp_ports(MAC_A, src, A, (80, 1234), b"who am I?"),
        )
    };
    let from6 = |src| {
        in_vxlan(
            false,
            2,
            &udp6_ports(MAC_A, src, A6, (80, 1234), b"who am I?"),
        )
    };
    Scene::new(
        "peer-guard",
        "The inner source must route back to that peer or be one of its node addresses",
        &node,
    )
    .wire(from(REMOTE))
    .wire(from(NODE_2))
    .wire(from([10, 244, 3, 2]))
    .wire(from(B))
    .wire(from(GATEWAY))
    .wire(from([8; 4]))
    .wire(from6(REMOTE6))
    .wire(from6(REMOTE6_3))
    .wire(from6(LINK_LOCAL6))
    .sends("pod-a", 3)
    .expect(
        "frame.interface_name == \"pod-a\" && ip.src == 10.244.2.7",
        1,
    )
    .expect(
        "frame.interface_name == \"pod-a\" && ip.src == 192.168.77.2",
        1,
    )
    .expect(
        "frame.interface_name == \"pod-a\" && ipv6.src == fd00:244:2::2",
        1,
    )
    .counts("drop-peer-guard", 6)
}

fn wide_routes() -> Scene {
    let hop = Setup::with(Encap::Vxlan, false).hop(2);
    let node = Setup {
        routes: vec![("0.0.0.0/0", hop), ("::/0", hop)],
        ..Setup::with(Encap::Vxlan, false).dual()
    };
    let from = |src| {
        in_vxlan(
            false,
            2,
            &udp_ports(MAC_A, src, A, (80, 1234), b"who am I?"),
        )
    };
    let from6 = |src| {
        in_vxlan(
            false,
            2,
            &udp6_ports(MAC_A, src, A6, (80, 1234), b"who am I?"),
        )
    };
    Scene::new(
        "peer-guard-of-a-default-route",
        "However wide the routes to a peer are, it sends neither from the gateway's address nor from one that is no single host's or means something on one link only",
        &node,
    )
    .wire(from([8; 4]))
    .wire(from(GATEWAY))
    .wire(from([127, 0, 0, 1]))
    .wire(from([239, 1, 2, 3]))
    .wire(from(B))
    .wire(from6(STRANGER6))
    .wire(from6(GATEWAY6))
    .wire(from6(LINK_LOCAL6))
    .wire(from6(UNSPECIFIED6))
    .sends("pod-a", 2)
    .expect("frame.interface_name == \"pod-a\" && ip.src == 8.8.8.8", 1)
    .expect("frame.interface_name == \"pod-a\" && ipv6.src == 2001:db8::8", 1)
    .counts("drop-peer-guard", 7)
}

fn ip_in_ip_guards() -> Scene {
    let mut truncated = in_ip(false, 2, &inner());
    truncated.truncate(14 + 20 + 12);
    edit_ip(&mut truncated, |header| header.total_len = 32);
    Scene::new(
        "decap-guards-of-ip-in-ip",
        "IP in IP: only from a known peer whose encapsulation it is, and the inner header is checked like any",
        &Setup::with(Encap::Ipip, false),
    )
    .wire(in_ip(false, 2, &inner()))
    .wire(in_ip(false, 7, &inner()))
    .wire(in_vxlan(false, 2, &inner()))
    .wire(truncated)
    .sends("pod-a", 1)
    .drops(&["unknown-peer", "encap-not-allowed", "ipv4-truncated"])
}

fn direct_guards() -> Scene {
    let addressed = |frame: &[u8]| [&node_mac(1)[..], &node_mac(2), &frame[12..]].concat();
    let from = |src| addressed(&udp_ports(MAC_A, src, A, (80, 1234), b"x"));
    Scene::new(
        "decap-guards-without-a-tunnel",
        "Without a tunnel only from pods of peers that may send so; others are not the gateway's",
        &Setup::with(Encap::Direct, false),
    )
    .wire(from(REMOTE))
    .wire(from([10, 244, 3, 2]))
    .wire(in_vxlan(false, 2, &inner()))
    .sends("pod-a", 1)
    .drops(&["wire-destination", "encap-not-allowed"])
}

fn to_the_host() -> Scene {
    let node = Setup {
        host: true,
        ..Setup::with(Encap::Vxlan, false)
    };
    let to_host = udp_ports(MAC_A, REMOTE, [10, 244, 1, 0], (80, 1234), b"to the host");
    Scene::new(
        "from-a-node-to-the-host",
        "A decapsulated packet is delivered to a local endpoint or the host",
        &node,
    )
    .wire(in_vxlan(false, 2, &inner()))
    .wire(in_vxlan(false, 2, &to_host))
    .expect("frame.interface_name == \"host\" && ip.src == 10.244.2.7 && ip.ttl == 63 && eth.dst == 02:00:00:00:00:09", 1)
    .sends("pod-a", 1)
    .counts("forward-host", 1)
}

fn no_transit() -> Scene {
    let node = Setup {
        peers: vec![2, 3],
        ..Setup::with(Encap::Vxlan, false)
    };
    let through = udp_ports(MAC_A, REMOTE, [10, 244, 3, 2], (80, 1234), b"by this node");
    Scene::new(
        "no-transit-unless-configured",
        "A decapsulated packet goes to another tunnel only when both peers are marked transit",
        &node,
    )
    .wire(in_vxlan(false, 2, &through))
    .sends("wire", 1)
    .drops(&["transit-denied"])
}

/// All pairs of outer and inner ECN (RFC 6040 figure 4).
fn ecn(v6: bool) -> Scene {
    let (name, version) = match v6 {
        false => ("ecn-of-inner-ipv4", "IPv4"),
        true => ("ecn-of-inner-ipv6", "IPv6"),
    };
    let about = format!(
        "ECN of an inner {version} packet per RFC 6040: all pairs; CE outer over Not-ECT inner is dropped with its reason"
    );
    let mut scene = Scene::new(name, &about, &Setup::with(Encap::Vxlan, false).dual());
    for outer in 0..4u8 {
        for inner in 0..4u8 {
            let ports = (20_100 + u16::from(outer * 4 + inner), 1234);
            let frame = match v6 {
                false => {
                    let mut frame = udp_ports(MAC_A, REMOTE, A, ports, b"x");
                    edit_ip(&mut frame, |header| header.ecn = inner.try_into().unwrap());
                    frame
                }
                true => {
                    let mut frame = udp6_ports(MAC_A, REMOTE6, A6, ports, b"x");
                    edit_ip6(&mut frame, |header| header.traffic_class = inner);
                    frame
                }
            };
            let mut tunnelled = in_vxlan(false, 2, &frame);
            edit_ip(&mut tunnelled, |header| {
                header.ecn = outer.try_into().unwrap()
            });
            scene = scene.wire(tunnelled);
        }
    }
    // Outer CE marks the three that can carry it, outer ECT(1) an inner ECT(0).
    let field = if v6 {
        "ipv6.tclass.ecn"
    } else {
        "ip.dsfield.ecn"
    };
    scene
        .expect(&format!("{field} == 0 && udp.dstport == 1234"), 3)
        .expect(&format!("{field} == 1 && udp.dstport == 1234"), 4)
        .expect(&format!("{field} == 2 && udp.dstport == 1234"), 2)
        .expect(&format!("{field} == 3 && udp.dstport == 1234"), 6)
        .drops(&["ecn-ce"])
}

fn fragments() -> Scene {
    let mut first = in_vxlan(false, 2, &inner());
    edit_ip(&mut first, |header| {
        header.dont_fragment = false;
        header.more_fragments = true;
    });
    let mut later = in_vxlan(false, 2, &inner());
    edit_ip(&mut later, |header| {
        header.dont_fragment = false;
        header.fragment_offset = 10.try_into().unwrap();
    });
    Scene::new(
        "outer-fragments-are-dropped",
        "Outer fragments: on raw ports dropped with a reason",
        &Setup::with(Encap::Vxlan, false),
    )
    .wire(first)
    .wire(later)
    .sends("pod-a", 0)
    .counts("drop-outer-fragment", 2)
}

fn checksums() -> Scene {
    let with = |at: usize, bit: u8| {
        let mut frame = in_vxlan(true, 2, &inner());
        frame[at] ^= bit;
        frame
    };
    let mut zero = in_vxlan(true, 2, &inner());
    zero[60..62].fill(0);
    let mut long = in_vxlan(true, 2, &inner());
    long[58..60].copy_from_slice(&[0xff, 0xff]);
    Scene::new(
        "outer-headers-are-checked",
        "Outer headers: lengths and checksums are right; over IPv6 no zero UDP checksum unless configured",
        &Setup::with(Encap::Vxlan, true),
    )
    .wire(in_vxlan(true, 2, &inner()))
    .wire(with(60, 1))
    .wire(with(130, 1))
    .wire(zero)
    .wire(long)
    .wire(with(14, 0x10))
    .sends("pod-a", 1)
    .drops(&["outer-checksum-zero"])
    .counts("drop-outer-checksum", 2)
    .counts("drop-outer-malformed", 2)
}
