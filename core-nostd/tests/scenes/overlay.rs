//! Between nodes: each encapsulation in both directions.

use culvert_core::channel::{
    Encap, Network, NetworkOptions, NextHop, Operation, Owner, Peer, PortKind, Route,
};
use culvert_core::{MacAddr, NetworkId, PeerId, Vni};

use super::frames::*;
use super::*;
use crate::common::*;

pub(crate) fn all() -> Vec<Scene> {
    let mut all = Vec::new();
    for over_v6 in [false, true] {
        all.push(vxlan(over_v6));
        all.push(ip_in_ip(over_v6));
        all.push(direct(over_v6));
        all.push(zero_checksum(over_v6));
        all.push(traffic_class(over_v6));
    }
    all.extend([
        calico(),
        side_by_side(),
        flows(),
        may_fragment(),
        by_the_gateway(),
        transit(),
    ]);
    all
}

/// The display filter for the addresses of the nodes, both ways.
fn outer(over_v6: bool) -> &'static str {
    match over_v6 {
        false => "ip.src == 192.168.77.1 && ip.dst == 192.168.77.2 && ip.flags.df == 1",
        true => "ipv6.src == fd00:77::1 && ipv6.dst == fd00:77::2",
    }
}

/// Both IP versions go both ways; the first packet waits for the neighbor.
fn both_ways(scene: Scene, over_v6: bool, outward: impl Fn(&[u8]) -> Vec<u8>) -> Scene {
    scene
        .pod(udp(MAC_A, A, REMOTE, b"IPv4 to the other node"))
        .wire(answer(over_v6, 2))
        .pod(udp6(MAC_A, A6, REMOTE6, b"IPv6 to the other node"))
        .wire(outward(&udp_ports(
            MAC_A,
            REMOTE,
            A,
            (80, 1234),
            b"IPv4 back",
        )))
        .wire(outward(&udp6_ports(
            MAC_A,
            REMOTE6,
            A6,
            (80, 1234),
            b"IPv6 back",
        )))
        .expect(
            &format!("frame.interface_name == \"wire\" && {}", outer(over_v6)),
            2,
        )
        .expect(
            "frame.interface_name == \"pod-a\" && ip.dst == 10.244.1.2 && ip.ttl == 63",
            1,
        )
        .expect(
            "frame.interface_name == \"pod-a\" && ipv6.dst == fd00:244:1::2 && ipv6.hlim == 63",
            1,
        )
        .counts("forward-endpoint", 2)
}

fn vxlan(over_v6: bool) -> Scene {
    let node = Setup::with(Encap::Vxlan, over_v6).dual();
    let (name, version) = match over_v6 {
        false => ("vxlan-over-ipv4", "IPv4"),
        true => ("vxlan-over-ipv6", "IPv6"),
    };
    let about = format!(
        "VXLAN (RFC 7348) over {version}: I flag, VNI, inner Ethernet with local VTEP MAC to peer VTEP MAC, valid UDP checksum"
    );
    let vteps = |n| MacAddr::vtep_for(node_address(over_v6, n));
    let vteps = format!("eth.src == {} && eth.dst == {}", vteps(1), vteps(2));
    let scene = Scene::new(name, &about, &node);
    both_ways(scene, over_v6, |frame| in_vxlan(over_v6, 2, frame))
        .expect("vxlan.vni == 1 && vxlan.flag_i == 1 && udp.dstport == 8472 && udp.srcport >= 49152 && udp.checksum != 0", 2)
        .expect(&format!("vxlan && {vteps}"), 2)
}

fn ip_in_ip(over_v6: bool) -> Scene {
    let node = Setup::with(Encap::Ipip, over_v6).dual();
    let (name, about, filter) = match over_v6 {
        false => (
            "ipip-and-6in4",
            "IPIP (RFC 2003), also 6in4: no options added; protocol 4 or 41",
            "ip.hdr_len == 20 && ip.ttl == 64 && (ip.proto == 4 || ip.proto == 41)",
        ),
        true => (
            "ip-in-ipv6",
            "IP-in-IPv6 (RFC 2473): no options added; protocol 4 or 41",
            "ipv6.hlim == 64 && (ipv6.nxt == 4 || ipv6.nxt == 41)",
        ),
    };
    let scene = Scene::new(name, about, &node);
    both_ways(scene, over_v6, |frame| in_ip(over_v6, 2, frame)).expect(filter, 2)
}

fn direct(over_v6: bool) -> Scene {
    let node = Setup::with(Encap::Direct, over_v6).dual();
    let (name, about) = match over_v6 {
        false => (
            "direct-on-an-ipv4-link",
            "Direct on the underlay's link: no tunnel, the IPv4 neighbor's MAC address, nothing else changed",
        ),
        true => (
            "direct-on-an-ipv6-link",
            "Direct on the underlay's link: no tunnel, the IPv6 neighbor's MAC address, nothing else changed",
        ),
    };
    let addressed = |frame: &[u8]| [&node_mac(1)[..], &node_mac(2), &frame[12..]].concat();
    let scene = Scene::new(name, about, &node)
        .pod(udp(MAC_A, A, REMOTE, b"IPv4 to the other node"))
        .wire(answer(over_v6, 2))
        .pod(udp6(MAC_A, A6, REMOTE6, b"IPv6 to the other node"))
        .wire(addressed(&udp_ports(
            MAC_A,
            REMOTE,
            A,
            (80, 1234),
            b"IPv4 back",
        )))
        .wire(addressed(&udp6_ports(
            MAC_A,
            REMOTE6,
            A6,
            (80, 1234),
            b"IPv6 back",
        )));
    scene
        .expect("frame.interface_name == \"wire\" && (udp && eth.src == 02:00:00:00:01:01) && eth.dst == 02:00:00:00:01:02", 2)
        .expect("frame.interface_name == \"wire\" && (ip.ttl == 63 || (udp && ipv6.hlim == 63))", 2)
        .counts("forward-endpoint", 2)
}

fn calico() -> Scene {
    let node = Setup {
        vni: 4096,
        udp_port: 4789,
        ..Setup::with(Encap::Vxlan, false)
    };
    let back = udp_ports(MAC_A, REMOTE, A, (80, 1234), b"back");
    Scene::new(
        "vxlan-as-calico-configures-it",
        "VXLAN works with the Linux vxlan device as Calico (port 4789, VNI 4096) configures it",
        &node,
    )
    .pod(udp(MAC_A, A, REMOTE, b"to the other node"))
    .wire(answer(false, 2))
    .wire(udp_between_nodes(
        false,
        2,
        4789,
        &vxlan_payload(false, 2, 4096, &back),
    ))
    .expect("vxlan.vni == 4096 && udp.dstport == 4789", 1)
    .expect("frame.interface_name == \"pod-a\" && udp.srcport == 80", 1)
    .counts("forward-endpoint", 1)
}

fn side_by_side() -> Scene {
    const OTHER: NetworkId = NetworkId(1);
    let node = Setup::with(Encap::Vxlan, false);
    let network = Network {
        id: OTHER,
        vni: Vni::new(4096).unwrap(),
        udp_port: 4789,
        ..node.network()
    };
    let peer = Peer {
        id: PeerId(3),
        network: OTHER,
        ..node.peer(2)
    };
    let next_hop = NextHop::Peer {
        peer: peer.id,
        encap: Encap::Vxlan,
    };
    let route = Operation::UpsertRoute(Route {
        network: OTHER,
        prefix: prefix("10.244.2.0/24"),
        next_hop,
    });
    // The same address as pod A's, in the other network.
    let mut pod = node.pod(POD_B, 2);
    pod.mac = MacAddr::new(MAC_B);
    if let PortKind::Endpoint(endpoint) = &mut pod.kind {
        endpoint.network = OTHER;
    }
    let back = |text: &[u8]| udp_ports(MAC_A, REMOTE, A, (80, 1234), text);
    let mut scene = Scene::new(
        "networks-side-by-side",
        "Networks with flannel's and Calico's numbers work side by side, with the same addresses in both and nothing between them",
        &node,
    );
    scene.tables.ports.insert("pod-b".into(), POD_B.0);
    let cluster = vec![
        Operation::UpsertNetwork(network),
        Operation::UpsertPeer(peer),
        route,
    ];
    scene
        .apply(Owner::Cluster, cluster)
        .apply(Owner::Attachment, vec![Operation::UpsertPort(pod)])
        .pod(udp(MAC_A, A, REMOTE, b"in flannel's"))
        .wire(answer(false, 2))
        .frame(POD_B, udp(MAC_B, A, REMOTE, b"in Calico's"))
        .wire(in_vxlan(false, 2, &back(b"to flannel's")))
        .wire(udp_between_nodes(
            false,
            2,
            4789,
            &vxlan_payload(false, 2, 4096, &back(b"to Calico's")),
        ))
        .wire(udp_between_nodes(
            false,
            2,
            8472,
            &vxlan_payload(false, 2, 4096, &back(b"to nobody")),
        ))
        .expect(
            "vxlan.vni == 1 && udp.dstport == 8472 && frame contains \"in flannel's\"",
            1,
        )
        .expect(
            "vxlan.vni == 4096 && udp.dstport == 4789 && frame contains \"in Calico's\"",
            1,
        )
        .expect(
            "frame.interface_name == \"pod-a\" && frame contains \"to flannel's\"",
            1,
        )
        .expect(
            "frame.interface_name == \"pod-b\" && frame contains \"to Calico's\"",
            1,
        )
        .drops(&["unknown-vni"])
}

fn flows() -> Scene {
    let mut scene = Scene::new(
        "flows-have-source-ports",
        "Outer UDP source port from the inner flow's hash in 49152-65535: a flow keeps its own, whatever its TTL, and many flows spread",
        &Setup::with(Encap::Vxlan, false).dual(),
    )
    .pod(udp(MAC_A, A, REMOTE, b"first, to find the neighbor"))
    .wire(answer(false, 2));
    for round in 0..2u8 {
        for flow in 0..4 {
            let mut v4 = udp_ports(MAC_A, A, REMOTE, (20_100 + flow, 1234), b"IPv4");
            edit_ip(&mut v4, |header| header.time_to_live -= round);
            let mut v6 = udp6_ports(MAC_A, A6, REMOTE6, (20_100 + flow, 1234), b"IPv6");
            edit_ip6(&mut v6, |header| header.hop_limit -= round);
            scene = scene.pod(v4).pod(v6);
        }
        scene = scene.pod(tcp(MAC_A, A, REMOTE, b"TCP"));
    }
    scene
        .expect("vxlan && udp.srcport >= 49152 && udp.dstport == 8472", 19)
        .counts("forward-underlay", 18)
}

fn zero_checksum(over_v6: bool) -> Scene {
    let node = Setup {
        options: NetworkOptions::ZERO_UDP_CHECKSUM,
        ..Setup::with(Encap::Vxlan, over_v6)
    };
    let (name, about) = match over_v6 {
        false => (
            "zero-udp-checksum-over-ipv4",
            "Outer UDP checksum: over IPv4 zero by configuration; taken when it is zero",
        ),
        true => (
            "zero-udp-checksum-over-ipv6",
            "Outer UDP checksum: over IPv6 zero by configuration (RFC 6935); taken when it is zero",
        ),
    };
    let mut back = in_vxlan(
        over_v6,
        2,
        &udp_ports(MAC_A, REMOTE, A, (80, 1234), b"back"),
    );
    let at = if over_v6 { 60 } else { 40 };
    back[at..at + 2].fill(0);
    Scene::new(name, about, &node)
        .pod(udp(MAC_A, A, REMOTE, b"to the other node"))
        .wire(answer(over_v6, 2))
        .wire(back)
        .expect(
            "vxlan && udp.checksum == 0 && udp.dstport == 8472 && udp.srcport >= 49152",
            1,
        )
        .expect("frame.interface_name == \"pod-a\" && udp.srcport == 80", 1)
        .counts("forward-endpoint", 1)
}

/// Every ECN with a DSCP of its own.
const CLASSES: [u8; 4] = [0x00, 0xb9, 0x2a, 0x8f];

fn traffic_class(over_v6: bool) -> Scene {
    let (name, version, field) = match over_v6 {
        false => ("dscp-and-ecn-over-ipv4", "IPv4", "ip"),
        true => ("dscp-and-ecn-over-ipv6", "IPv6", "ipv6.tclass"),
    };
    let about = format!(
        "Outer {version} header: TTL 64; DSCP and ECN are the inner ones, by RFC 6040, normal mode"
    );
    let mut scene = Scene::new(name, &about, &Setup::with(Encap::Vxlan, over_v6).dual())
        .pod(udp(MAC_A, A, REMOTE, b"first, to find the neighbor"))
        .wire(answer(over_v6, 2));
    for class in CLASSES {
        let mut v4 = udp_ports(MAC_A, A, REMOTE, (20_100, 1234), b"IPv4");
        edit_ip(&mut v4, |header| {
            header.dscp = (class >> 2).try_into().unwrap();
            header.ecn = (class & 3).try_into().unwrap();
        });
        let mut v6 = udp6_ports(MAC_A, A6, REMOTE6, (20_100, 1234), b"IPv6");
        edit_ip6(&mut v6, |header| header.traffic_class = class);
        scene = scene.pod(v4).pod(v6);
    }
    for class in CLASSES {
        let dscp = class >> 2;
        let ecn = class & 3;
        let outer = match field {
            "ip" => format!("ip.src == 192.168.77.1 && ip.dsfield == {class}"),
            _ => format!(
                "ipv6.src == fd00:77::1 && ipv6.tclass.dscp == {dscp} && ipv6.tclass.ecn == {ecn}"
            ),
        };
        scene = scene.expect(&format!("{outer} && udp.dstport == 1234"), 2);
    }
    scene
}

fn may_fragment() -> Scene {
    let node = Setup {
        options: NetworkOptions::OUTER_MAY_FRAGMENT,
        ..Setup::with(Encap::Vxlan, false)
    };
    let packet = |text: &[u8]| {
        let mut frame = udp(MAC_A, A, REMOTE, text);
        edit_ip(&mut frame, |header| header.dont_fragment = true);
        frame
    };
    Scene::new(
        "outer-header-may-be-fragmented",
        "DF is not set where configured; then each outer packet has its own identification (RFC 6864)",
        &node,
    )
    .pod(packet(b"first"))
    .wire(answer(false, 2))
    .pod(packet(b"second"))
    .expect("vxlan && ip.flags.df == 0 && ip.src == 192.168.77.1", 2)
    .expect("vxlan && ip.id == 1", 1)
    .expect("vxlan && ip.id == 2", 1)
}

fn by_the_gateway() -> Scene {
    let node = Setup {
        peers: vec![2, 9],
        far: vec![9],
        ..Setup::with(Encap::Vxlan, false)
    };
    let router = node_address(false, 254);
    Scene::new(
        "gateway-by-the-underlays-prefix",
        "Gateway chosen by the underlay's prefix: who is on the link is asked for, for others the gateway is",
        &node,
    )
    .pod(udp(MAC_A, A, [10, 244, 9, 2], b"beyond the gateway"))
    .wire(answer_for(router, node_mac(254)))
    .pod(udp(MAC_A, A, REMOTE, b"on the link"))
    .wire(answer(false, 2))
    .expect("arp.opcode == 1 && arp.dst.proto_ipv4 == 192.168.77.254", 1)
    .expect("arp.opcode == 1 && arp.dst.proto_ipv4 == 192.168.77.2", 1)
    .expect("vxlan && eth.dst == 02:00:00:00:01:fe && ip.dst == 198.51.100.9", 1)
    .expect("vxlan && eth.dst == 02:00:00:00:01:02 && ip.dst == 192.168.77.2", 1)
    .sends("wire", 5)
}

fn transit() -> Scene {
    let node = Setup {
        peers: vec![2, 3],
        transit: true,
        ..Setup::with(Encap::Vxlan, false)
    };
    let through =
        |to, text: &[u8]| in_vxlan(false, 2, &udp_ports(MAC_A, REMOTE, to, (80, 1234), text));
    Scene::new(
        "transit-between-nodes",
        "A decapsulated packet goes to another tunnel when both peers are marked transit, never back to the peer it came from",
        &node,
    )
    .wire(through([10, 244, 3, 2], b"by this node to the third"))
    .wire(answer(false, 3))
    .wire(through([10, 244, 2, 99], b"back to where it came from"))
    .expect("vxlan && ip.dst == 192.168.77.3 && ip.dst == 10.244.3.2 && ip.ttl == 63 && eth.src == 0a:63:c0:a8:4d:01 && eth.dst == 0a:63:c0:a8:4d:03", 1)
    .sends("wire", 3)
    .drops(&["tunnel-loop"])
}
