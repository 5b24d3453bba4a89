//! Addresses and ARP: what a pod hears from its gateway on the link.

use culvert_core::channel::Proxy;
use etherparse::ArpOperation;

use super::frames::ip_octets;
use super::*;
use crate::common::*;

pub(crate) fn all() -> Vec<Scene> {
    vec![
        arp_for_the_gateway(),
        nd_for_the_gateway(),
        proxy_arp(),
        proxy_nd(),
        said_for_nothing(),
        dhcp(),
        announced(),
        wire_announced(),
    ]
}

/// The display filter for an ARP reply of the gateway about an address.
fn reply(about: &str) -> String {
    format!(
        "arp.opcode == 2 && arp.src.proto_ipv4 == {about} && arp.src.hw_mac == ee:ee:ee:ee:ee:ee && eth.dst == 0a:58:0a:f4:01:02"
    )
}

/// The display filter for a solicited advertisement of the gateway about an address.
fn advertised(about: &str, overrides: bool) -> String {
    format!(
        "icmpv6.type == 136 && icmpv6.nd.na.target_address == {about} && icmpv6.opt.linkaddr == ee:ee:ee:ee:ee:ee && icmpv6.nd.na.flag.s == 1 && icmpv6.nd.na.flag.r == 1 && icmpv6.nd.na.flag.o == {}",
        u8::from(overrides)
    )
}

fn arp_for_the_gateway() -> Scene {
    let node = Setup {
        gateways: vec!["10.244.0.1"],
        ..Setup::alone()
    };
    Scene::new(
        "arp-for-the-gateway",
        "The gateway answers ARP for the network's gateway addresses, the default one and any configured, with the gateway MAC, and for nobody else",
        &node,
    )
    .pod(arp_request(MAC_A, A, GATEWAY))
    .pod(arp_request(MAC_A, A, [10, 244, 0, 1]))
    .pod(arp_request(MAC_A, A, B))
    .pod(arp_request(MAC_A, [0; 4], GATEWAY))
    .expect(&reply("169.254.1.1"), 2)
    .expect(&reply("10.244.0.1"), 1)
    .sends("pod-a", 3)
    .drops(&["arp-target"])
}

fn nd_for_the_gateway() -> Scene {
    let node = Setup {
        gateways: vec!["fd00:244::1"],
        ..Setup::alone().dual()
    };
    let configured = ip_octets("fd00:244::1");
    let unicast = neighbor(135, (A6, GATEWAY6), GATEWAY6, Some(MAC_A));
    Scene::new(
        "nd-for-the-gateway",
        "IPv6: neighbor solicitations for fe80::1 and the configured gateway are answered, and for nobody else",
        &node,
    )
    .pod(solicitation(A6, GATEWAY6))
    .pod(solicitation(LINK_LOCAL6, configured))
    .pod(unicast)
    .pod(solicitation(A6, B6))
    .expect(&advertised("fe80::1", true), 2)
    .expect(&advertised("fd00:244::1", true), 1)
    .expect("icmpv6.type == 136 && ipv6.hlim == 255 && frame.interface_name == \"pod-a\"", 3)
    .drops(&["nd-target"])
}

fn proxy_arp() -> Scene {
    let node = Setup {
        proxy: Proxy::Network,
        ..Setup::alone()
    };
    Scene::new(
        "proxy-arp-for-the-network",
        "With proxy = network it answers ARP for every address inside the network's prefixes except the asker's own, which a probe asks for; no host route is needed",
        &node,
    )
    .pod(arp_request(MAC_A, A, B))
    .pod(arp_request(MAC_A, A, [10, 244, 200, 200]))
    .pod(arp_request(MAC_A, [0; 4], A))
    .pod(arp_request(MAC_A, A, [192, 0, 2, 1]))
    .pod(arp_request(MAC_A, A, GATEWAY))
    .expect(&reply("10.244.1.3"), 1)
    .expect(&reply("10.244.200.200"), 1)
    .expect(&reply("169.254.1.1"), 1)
    .sends("pod-a", 3)
    .counts("drop-arp-target", 2)
}

fn proxy_nd() -> Scene {
    let node = Setup {
        proxy: Proxy::Network,
        ..Setup::alone().dual()
    };
    let anybody = ip_octets("fd00:244:c8::c8");
    Scene::new(
        "proxy-nd-for-the-network",
        "With proxy = network it answers solicitations for every address inside the network's prefixes except the asker's own; DAD for the asker's own address is never answered, for another's it is",
        &node,
    )
    .pod(solicitation(A6, B6))
    .pod(solicitation(A6, anybody))
    .pod(solicitation(UNSPECIFIED6, A6))
    .pod(solicitation(UNSPECIFIED6, LINK_LOCAL6))
    .pod(solicitation(UNSPECIFIED6, B6))
    .pod(solicitation(A6, STRANGER6))
    .expect(&advertised("fd00:244:1::3", false), 1)
    .expect(&advertised("fd00:244:c8::c8", false), 1)
    .expect(
        "icmpv6.type == 136 && icmpv6.nd.na.target_address == fd00:244:1::3 && icmpv6.nd.na.flag.s == 0 && ipv6.dst == ff02::1",
        1,
    )
    .sends("pod-a", 3)
    .counts("consume", 2)
    .drops(&["nd-target"])
}

fn said_for_nothing() -> Scene {
    let reply = arp_packet(ArpOperation::REPLY, (MAC_A, A), (GATEWAY_MAC, GATEWAY));
    let gratuitous = arp_packet(ArpOperation::REQUEST, (MAC_A, A), ([0; 6], A));
    let advertisement = neighbor(136, (A6, ALL_NODES6), A6, Some(MAC_A));
    let all_routers = ip_octets("ff02::2");
    let solicitation = icmp6(
        MAC_A,
        (LINK_LOCAL6, all_routers),
        255,
        &[133, 0, 0, 0, 0, 0, 0, 0],
    );
    let report = icmp6(
        MAC_A,
        (LINK_LOCAL6, ip_octets("ff02::16")),
        1,
        &[
            &[143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0][..],
            &ip_octets("ff02::1:ff00:2"),
        ]
        .concat(),
    );
    Scene::new(
        "what-pods-say-of-themselves",
        "ARP replies and gratuitous ARP from a pod are consumed and change nothing; so are advertisements, router solicitations and MLD",
        &Setup::alone().dual(),
    )
    .pod(reply)
    .pod(gratuitous)
    .pod(advertisement)
    .pod(solicitation)
    .pod(report)
    .sends("pod-a", 0)
    .sends("pod-b", 0)
    .counts("consume", 5)
}

fn dhcp() -> Scene {
    let discover = udp_ports(MAC_A, [0; 4], [255; 4], (68, 67), &[1; 240]);
    let solicit = udp6_ports(
        MAC_A,
        LINK_LOCAL6,
        ip_octets("ff02::1:2"),
        (546, 547),
        &[1; 40],
    );
    Scene::new(
        "dhcp-is-dropped",
        "DHCP: dropped with its own reason",
        &Setup::alone().dual(),
    )
    .pod(discover)
    .pod(solicit)
    .sends("pod-a", 0)
    .counts("drop-dhcp", 2)
}

fn announced() -> Scene {
    let node = Setup {
        host: true,
        ..Setup::alone().dual()
    };
    let added = node.pod(POD_B, 3);
    let node = Setup {
        pod_b: false,
        ..node
    };
    let mut scene = Scene::new(
        "a-new-endpoint-is-announced",
        "After an endpoint is added, the shell gets a gratuitous ARP / unsolicited NA to send where a neighbor may hold an old entry",
        &node,
    );
    scene.tables.ports.insert("pod-b".into(), POD_B.0);
    scene
        .at(1050)
        .apply(Owner::Attachment, vec![Operation::UpsertPort(added)])
        .until(1300)
        .expect("frame.interface_name == \"host\" && arp.isannouncement == 1 && arp.src.proto_ipv4 == 10.244.1.3 && arp.src.hw_mac == ee:ee:ee:ee:ee:ee", 1)
        .expect("frame.interface_name == \"host\" && icmpv6.type == 136 && icmpv6.nd.na.target_address == fd00:244:1::3 && icmpv6.nd.na.flag.s == 0", 1)
        .sends("host", 4)
}

fn wire_announced() -> Scene {
    let mut node = Setup::alone();
    node.pod_b = false;
    let mut moved = node.wire();
    moved.mac = culvert_core::MacAddr::new(node_mac(77));
    Scene::new(
        "an-underlay-port-announces-itself",
        "A raw port announces its own address when it is new or has another MAC address",
        &node,
    )
    .apply(Owner::Cluster, vec![Operation::UpsertPort(moved)])
    .until(1300)
    .expect("arp.isannouncement == 1 && arp.src.proto_ipv4 == 192.168.77.1 && arp.src.hw_mac == 02:00:00:00:01:01", 1)
    .expect("arp.isannouncement == 1 && arp.src.proto_ipv4 == 192.168.77.1 && arp.src.hw_mac == 02:00:00:00:01:4d", 1)
    .sends("wire", 2)
}
