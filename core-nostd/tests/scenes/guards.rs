//! From a pod: who may send what. Each violation has its own drop reason.

use culvert_core::channel::Encap;
use etherparse::ArpOperation;

use super::frames::ip_octets;
use super::*;
use crate::common::*;

/// A destination option header of eight bytes without its first, padding only.
const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];

pub(crate) fn all() -> Vec<Scene> {
    vec![
        ethernet(),
        arp(),
        ipv4_sources(),
        ipv6_sources(),
        discovery(),
        tunnels(),
        allowed_prefixes(),
        ipv4_headers(),
        ipv6_headers(),
    ]
}

/// Several frames of pod A, in this order.
fn sent(scene: Scene, frames: Vec<Vec<u8>>) -> Scene {
    frames.into_iter().fold(scene, Scene::pod)
}

fn edited(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, B, b"payload");
    edit(&mut frame);
    frame
}

fn edited6(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = udp6(MAC_A, A6, B6, b"payload");
    edit(&mut frame);
    frame
}

fn ethernet() -> Scene {
    let tagged = edited(|f| {
        f.splice(12..12, [0x81, 0, 0, 7]);
    });
    let scene = Scene::new(
        "guard-ethernet",
        "Source guard: source MAC is the endpoint's; VLAN-tagged and non-IP frames drop with their own reasons, as do frames that are not for the gateway",
        &Setup::alone(),
    );
    let frames = vec![
        edited(|f| f.truncate(13)),
        tagged,
        edited(|f| f[12..14].copy_from_slice(&[0x88, 0xcc])),
        udp(MAC_B, A, B, b"x"),
        edited(|f| f[..6].copy_from_slice(&MAC_B)),
    ];
    sent(scene, frames)
        .sends("pod-a", 0)
        .sends("pod-b", 0)
        .drops(&[
            "frame-truncated",
            "vlan-tagged",
            "not-ip",
            "source-mac",
            "destination-mac",
        ])
}

fn arp() -> Scene {
    let request = |mac, address| arp_request(mac, address, GATEWAY);
    let mut other_hardware = request(MAC_A, A);
    other_hardware[15] = 6;
    let mut false_mac = request(MAC_A, A);
    false_mac[22..28].copy_from_slice(&MAC_B);
    let reply = arp_packet(ArpOperation::REPLY, (MAC_A, B), (GATEWAY_MAC, GATEWAY));
    let scene = Scene::new(
        "guard-arp",
        "Source guard: ARP sender fields are the endpoint's, too",
        &Setup::alone(),
    );
    sent(
        scene,
        vec![
            other_hardware,
            request(MAC_B, A),
            false_mac,
            request(MAC_A, B),
            reply,
        ],
    )
    .sends("pod-a", 0)
    .drops(&["arp-malformed", "source-mac", "arp-sender-mac"])
    .counts("drop-arp-sender-ip", 2)
}

fn ipv4_sources() -> Scene {
    let source = |src| udp(MAC_A, src, B, b"x");
    let scene = Scene::new(
        "guard-ipv4-source",
        "Source guard: source IP is in its allowed prefixes and no group's, the gateway's or a loopback; no source routes",
        &Setup::alone(),
    );
    sent(
        scene,
        vec![
            source(B),
            source(GATEWAY),
            source([127, 0, 0, 1]),
            source([224, 0, 0, 1]),
            source([255; 4]),
            with_options(source(A), &[0x83, 7, 4, 10, 244, 1, 3, 0]),
            with_options(source(A), &[0x89, 7, 4, 10, 244, 1, 3, 0]),
        ],
    )
    .sends("pod-b", 0)
    .counts("drop-source-ip", 5)
    .counts("drop-source-route", 2)
}

fn ipv6_sources() -> Scene {
    let source = |src| udp6(MAC_A, src, B6, b"x");
    let detour = |kind| extended(source(A6), &[(43, &[0, kind, 1, 0, 0, 0, 0])]);
    let scene = Scene::new(
        "guard-ipv6-source",
        "Source guard: IPv6 link-local sources and :: are allowed for ND, DAD and MLD only; others only from the allowed prefixes; no routing headers",
        &Setup::alone().dual(),
    );
    sent(
        scene,
        vec![
            source(LINK_LOCAL6),
            source(UNSPECIFIED6),
            echo6(MAC_A, LINK_LOCAL6, GATEWAY6),
            source(B6),
            source(ALL_NODES6),
            detour(0),
            detour(4),
        ],
    )
    .sends("pod-b", 0)
    .counts("drop-link-local-source", 3)
    .counts("drop-source-ip", 2)
    .counts("drop-source-route", 2)
}

fn discovery() -> Scene {
    let mut damaged = solicitation(A6, GATEWAY6);
    damaged[60] ^= 1;
    let mut routed = solicitation(A6, GATEWAY6);
    edit_ip6(&mut routed, |header| header.hop_limit = 254);
    let false_mac = neighbor(135, (A6, GATEWAY6), GATEWAY6, Some(MAC_B));
    let false_source = neighbor(135, (B6, GATEWAY6), GATEWAY6, Some(MAC_A));
    let false_target = neighbor(136, (A6, ALL_NODES6), B6, Some(MAC_A));
    let router = icmp6(
        MAC_A,
        (LINK_LOCAL6, ALL_NODES6),
        255,
        &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    let scene = Scene::new(
        "guard-neighbor-discovery",
        "Source guard: what a pod says in neighbor discovery is true of itself, and it is no router",
        &Setup::alone().dual(),
    );
    sent(
        scene,
        vec![
            damaged,
            routed,
            false_mac,
            false_source,
            false_target,
            router,
        ],
    )
    .sends("pod-a", 0)
    .counts("drop-nd-malformed", 2)
    .counts("drop-nd-sender-ip", 2)
    .drops(&["nd-sender-mac", "nd-router"])
}

fn tunnels() -> Scene {
    let protocol = |number: u8| {
        let mut frame = udp(MAC_A, A, NODE_2, &[0x45; 40]);
        edit_ip(&mut frame, |header| header.protocol = number.into());
        frame
    };
    let mut tiny = udp(MAC_A, A, NODE_2, b"");
    tiny.truncate(37);
    edit_ip(&mut tiny, |header| {
        header.total_len = 23;
        header.more_fragments = true;
    });
    let node = Setup {
        routes: vec![("192.168.77.2/32", Setup::with(Encap::Vxlan, false).hop(2))],
        ..Setup::with(Encap::Vxlan, false)
    };
    let scene = Scene::new(
        "guard-tunnels-of-a-pod",
        "A pod may not send to a network's UDP port, or protocol 4/41, at any node's underlay address, whole or in fragments",
        &node,
    );
    let frames = vec![
        udp_ports(MAC_A, A, NODE_2, (9, 8472), &[8; 50]),
        udp_ports(MAC_A, A, NODE_1, (9, 8472), &[8; 50]),
        protocol(4),
        protocol(41),
        tiny,
        udp_ports(
            MAC_A,
            A,
            NODE_2,
            (9, 1234),
            b"any other port is the pod's business",
        ),
    ];
    sent(scene, frames)
        .wire(frames::answer(false, 2))
        .expect("vxlan && udp.dstport == 1234", 1)
        .expect("frame.interface_name == \"wire\" && udp", 1)
        .counts("drop-tunnel-spoof", 5)
}

fn allowed_prefixes() -> Scene {
    let node = Setup {
        allowed: vec!["0.0.0.0/0", "fd01::/16"],
        ..Setup::alone().dual()
    };
    let scene = Scene::new(
        "guard-allowed-prefixes",
        "Source guard: source IP is in its allowed prefixes; however wide, they lend nobody the gateway's address or a group's",
        &node,
    );
    let frames = vec![
        udp(MAC_A, [192, 0, 2, 9], B, b"allowed"),
        udp6(MAC_A, ip_octets("fd01::9"), B6, b"allowed"),
        udp(MAC_A, GATEWAY, B, b"not the gateway's"),
        udp(MAC_A, [239, 1, 2, 3], B, b"not a group's"),
        udp6(MAC_A, STRANGER6, B6, b"not anybody's"),
    ];
    sent(scene, frames)
        .expect(
            "frame.interface_name == \"pod-b\" && ip.src == 192.0.2.9 && ip.ttl == 63",
            1,
        )
        .expect(
            "frame.interface_name == \"pod-b\" && ipv6.src == fd01::9 && ipv6.hlim == 63",
            1,
        )
        .sends("pod-b", 2)
        .counts("drop-source-ip", 3)
}

fn ipv4_headers() -> Scene {
    let mut endless = edited(|_| {});
    edit_ip(&mut endless, |header| {
        header.fragment_offset = 8190.try_into().unwrap();
        header.more_fragments = true;
    });
    let scene = Scene::new(
        "ipv4-headers-are-checked",
        "IPv4 header: version, IHL, total length within the frame, checksum; padding behind the packet is cut",
        &Setup::alone(),
    );
    let frames = vec![
        edited(|f| f.truncate(33)),
        edited(|f| f[14] = 0x65),
        edited(|f| f[14] = 0x44),
        edited(|f| f[14] = 0x4f),
        edited(|f| f[17] = 200),
        edited(|f| f[17] = 19),
        endless,
        edited(|f| f[24] ^= 1),
        edited(|f| f.resize(60, 0)),
    ];
    sent(scene, frames)
        .sends("pod-b", 1)
        .expect("frame.interface_name == \"pod-b\" && frame.len == 49", 1)
        .drops(&["ipv4-truncated", "ipv4-version", "ipv4-checksum"])
        .counts("drop-ipv4-header-length", 2)
        .counts("drop-ipv4-total-length", 3)
}

fn ipv6_headers() -> Scene {
    let packet = || udp6(MAC_A, A6, B6, b"payload");
    let chain = |count| extended(packet(), &vec![(60, OPTIONS); count]);
    let scene = Scene::new(
        "ipv6-headers-are-checked",
        "IPv6: version, payload length; extension headers are walked within a bound of eight",
        &Setup::alone().dual(),
    );
    let frames = vec![
        edited6(|f| f.truncate(53)),
        edited6(|f| f[14] = 0x45),
        edited6(|f| f[18] = 0x10),
        chain(9),
        extended(packet(), &[(60, OPTIONS), (0, OPTIONS)]),
        extended(packet(), &[(60, &[9, 0, 0, 0, 0, 0, 0])]),
        chain(8),
    ];
    sent(scene, frames)
        .sends("pod-b", 1)
        .expect(
            "frame.interface_name == \"pod-b\" && ipv6.dstopts && ipv6.hlim == 63",
            1,
        )
        .drops(&["ipv6-truncated", "ipv6-version", "ipv6-payload-length"])
        .counts("drop-ipv6-extension", 3)
}
