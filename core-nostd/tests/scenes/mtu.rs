//! MTU: what is too big, told, cut or clamped.

use culvert_core::channel::{Encap, NetworkOptions};
use etherparse::PacketBuilder;

use super::frames::*;
use super::*;
use crate::common::*;

pub(crate) fn all() -> Vec<Scene> {
    let mut all = vec![
        fragmented(),
        fragments_of_fragments(),
        fragments6(),
        narrow(),
        fragmented_towards_a_pod(),
        mss(),
        path_mtu(false),
        path_mtu(true),
        forged_path_mtu(),
        told_path_mtu(),
    ];
    let encaps = [Encap::Vxlan, Encap::Ipip, Encap::Direct];
    for (encap, over_v6) in encaps.into_iter().flat_map(|e| [(e, false), (e, true)]) {
        if encap != Encap::Direct || !over_v6 {
            all.push(largest(encap, over_v6));
        }
    }
    all
}

/// UDP from pod A to the other node's pod in an IPv4 packet of so many bytes with
/// the don't-fragment flag.
fn whole(len: usize) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, REMOTE, &vec![0x5a; len - 28]);
    edit_ip(&mut frame, |header| header.dont_fragment = true);
    frame
}

/// The same without the flag.
fn divisible(len: usize) -> Vec<u8> {
    let mut frame = udp(MAC_A, A, REMOTE, &vec![0x5a; len - 28]);
    edit_ip(&mut frame, |header| {
        header.dont_fragment = false;
        header.identification = 0x1234;
    });
    frame
}

fn whole6(len: usize) -> Vec<u8> {
    udp6(MAC_A, A6, REMOTE6, &vec![0x5a; len - 48])
}

fn largest(encap: Encap, over_v6: bool) -> Scene {
    let (name, overhead) = match (encap, over_v6) {
        (Encap::Vxlan, false) => ("mtu-of-vxlan-over-ipv4", 50),
        (Encap::Vxlan, true) => ("mtu-of-vxlan-over-ipv6", 70),
        (Encap::Ipip, false) => ("mtu-of-ipip", 20),
        (Encap::Ipip, true) => ("mtu-of-ip-in-ipv6", 40),
        (Encap::Direct, _) => ("mtu-without-a-tunnel", 0),
    };
    let mtu = 1500 - overhead;
    let about = format!(
        "The pod's MTU is the underlay's minus the overhead, here {overhead}: {mtu} bytes fit, one more is too big and told with that MTU (RFC 1191, 8201)"
    );
    // The wire's MTU bounds the frame, the pod's own is its device's business.
    let node = Setup {
        pod_mtu: 1600,
        ..Setup::with(encap, over_v6).dual()
    };
    Scene::new(name, &about, &node)
        .pod(whole(mtu))
        .wire(answer(over_v6, 2))
        .pod(whole6(mtu))
        .pod(whole(mtu + 1))
        .pod(whole6(mtu + 1))
        .expect("frame.interface_name == \"wire\" && frame.len == 1514", 2)
        .expect(
            &format!(
                "icmp.type == 3 && icmp.code == 4 && icmp.mtu == {mtu} && ip.src == 169.254.1.1"
            ),
            1,
        )
        .expect(
            &format!("icmpv6.type == 2 && icmpv6.mtu == {mtu} && ipv6.src == fe80::1"),
            1,
        )
        .counts("drop-too-big", 2)
}

fn fragmented() -> Scene {
    Scene::new(
        "too-big-without-df-is-fragmented",
        "Too big and no DF: the inner packet is fragmented (RFC 791); all fragments of a packet share a source port",
        // A narrow underlay, so that NICs without jumbo frames can play it.
        &Setup {
            underlay_mtu: 700,
            ..Setup::with(Encap::Vxlan, false)
        },
    )
    .pod(udp(MAC_A, A, REMOTE, b"first, to find the neighbor"))
    .wire(answer(false, 2))
    .pod(divisible(1450))
    .expect("vxlan && ip.flags.mf == 1 && ip.id == 0x1234", 2)
    .expect("vxlan && ip.id == 0x1234 && ip.frag_offset > 0", 2)
    .expect("vxlan && ip.id == 0x1234 && ip.ttl == 63", 3)
    .sends("wire", 6)
}

fn fragments_of_fragments() -> Scene {
    let fragment = |offset: u16, more, len: usize| {
        let mut frame = udp(MAC_A, A, REMOTE, &vec![0x5a; len - 8]);
        edit_ip(&mut frame, |header| {
            header.dont_fragment = false;
            header.identification = 0x4321;
            header.fragment_offset = offset.try_into().unwrap();
            header.more_fragments = more;
        });
        frame
    };
    Scene::new(
        "fragments-share-a-source-port",
        "Outer UDP source port: source, destination and protocol for fragments (MF or offset not 0), so that all fragments of a packet share a port, cut further or not",
        &Setup::with(Encap::Vxlan, false),
    )
    .pod(udp(MAC_A, A, REMOTE, b"first, to find the neighbor"))
    .wire(answer(false, 2))
    .pod(fragment(0, true, 1480))
    .pod(fragment(185, true, 800))
    .pod(fragment(285, false, 100))
    .expect("vxlan && ip.id == 0x4321", 4)
    .expect("vxlan && ip.id == 0x4321 && ip.flags.mf == 1", 3)
}

fn fragments6() -> Scene {
    let fragment = |offset, more, len: usize| {
        let packet = udp6(MAC_A, A6, REMOTE6, &vec![0x5a; len - 8]);
        extended(packet, &[(44, &fragment6(offset, more))])
    };
    Scene::new(
        "ipv6-fragments-share-a-source-port",
        "Outer UDP source port of IPv6 fragments: all fragments of a packet share one; nobody cuts them further",
        &Setup::with(Encap::Vxlan, false).dual(),
    )
    .pod(udp(MAC_A, A, REMOTE, b"first, to find the neighbor"))
    .wire(answer(false, 2))
    .pod(fragment(0, true, 1400))
    .pod(fragment(175, true, 800))
    .pod(fragment(275, false, 100))
    .pod(fragment(0, true, 1440))
    .expect("vxlan && ipv6.fraghdr.ident == 9", 3)
    .expect("icmpv6.type == 2 && icmpv6.mtu == 1450", 1)
}

fn narrow() -> Scene {
    let node = Setup {
        underlay_mtu: 1300,
        ..Setup::with(Encap::Vxlan, false).dual()
    };
    Scene::new(
        "packet-too-big-tells-no-less-than-1280",
        "Packet too big tells no less than what every IPv6 link must carry (RFC 8200 section 5), fragmentation needed what it is",
        &node,
    )
    .pod(whole6(1300))
    .pod(whole(1300))
    .expect("icmpv6.type == 2 && icmpv6.mtu == 1280 && ipv6.src == fe80::1", 1)
    .expect("icmp.type == 3 && icmp.code == 4 && icmp.mtu == 1250", 1)
    .counts("drop-too-big", 2)
}

fn fragmented_towards_a_pod() -> Scene {
    let mut large = udp_ports(MAC_A, REMOTE, A, (80, 1234), &[0x5a; 1400]);
    edit_ip(&mut large, |header| {
        header.dont_fragment = false;
        header.identification = 0x1234;
    });
    let mut whole = large.clone();
    edit_ip(&mut whole, |header| header.dont_fragment = true);
    let node = Setup {
        pod_mtu: 1000,
        ..Setup::with(Encap::Vxlan, false)
    };
    Scene::new(
        "too-big-for-a-pod",
        "Too big for the pod: fragmented without DF, with it ICMP fragmentation needed goes back through the tunnel from this node's own address",
        &node,
    )
    .wire(in_vxlan(false, 2, &large))
    .wire(in_vxlan(false, 2, &whole))
    .wire(answer(false, 2))
    .expect("frame.interface_name == \"pod-a\" && ip.flags.mf == 1 && ip.len <= 1000", 1)
    .expect("frame.interface_name == \"pod-a\" && ip.flags.mf == 0 && ip.frag_offset > 0", 1)
    .expect("vxlan && icmp.type == 3 && icmp.code == 4 && icmp.mtu == 1000 && ip.src == 10.244.1.0", 1)
    .drops(&["too-big"])
}

fn mss() -> Scene {
    let syn = |v6: bool, mss: u16, ack: bool| {
        let [high, low] = mss.to_be_bytes();
        let builder = PacketBuilder::ethernet2(MAC_A, GATEWAY_MAC);
        let builder = match v6 {
            false => builder.ipv4(A, REMOTE, 64),
            true => builder.ipv6(A6, REMOTE6, 64),
        };
        let tcp = builder.tcp(1234, 80, 7, 1000).syn();
        let tcp = if ack { tcp.ack(9) } else { tcp };
        let tcp = tcp.options_raw(&[2, 4, high, low]).unwrap();
        let mut out = Vec::new();
        tcp.write(&mut out, b"").unwrap();
        out
    };
    let node = Setup {
        options: NetworkOptions::CLAMP_MSS,
        ..Setup::with(Encap::Vxlan, false).dual()
    };
    Scene::new(
        "mss-is-clamped",
        "Optional TCP MSS clamping (RFC 4459): that of a SYN is lowered to what fits the next hop, a smaller one stays",
        &node,
    )
    .pod(syn(false, 1460, false))
    .wire(answer(false, 2))
    .pod(syn(true, 1440, true))
    .pod(syn(false, 536, false))
    .expect("vxlan && ip.src == 10.244.1.2 && tcp.options.mss_val == 1410", 1)
    .expect("vxlan && ipv6.src == fd00:244:1::2 && tcp.options.mss_val == 1390", 1)
    .expect("vxlan && tcp.options.mss_val == 536", 1)
    .sends("wire", 5)
}

/// A router on the way says that a packet, of which it quotes the start, was too
/// large for its next link.
fn told_too_big(v6: bool, mtu: u16, quote: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let ethernet = PacketBuilder::ethernet2(node_mac(254), node_mac(1));
    let mut out = Vec::new();
    match v6 {
        false => ethernet
            .ipv4([198, 51, 100, 254], NODE_1, 60)
            .icmpv4_raw(3, 4, [0, 0, high, low])
            .write(&mut out, quote),
        true => ethernet
            .ipv6(ip_octets("2001:db8:9::1"), NODE6_1, 60)
            .icmpv6_raw(2, 0, [0, 0, high, low])
            .write(&mut out, quote),
    }
    .unwrap();
    out
}

/// The start of a tunnel packet from node 1 to node 2, as a router quotes it.
fn quote(v6: bool, ports: (u16, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(node_mac(1), node_mac(2));
    let builder = match v6 {
        false => builder.ipv4(NODE_1, NODE_2, 63),
        true => builder.ipv6(NODE6_1, NODE6_2, 63),
    };
    let mut out = Vec::new();
    let tunnelled = vxlan_payload(v6, 2, 1, &whole(1400));
    builder
        .udp(ports.0, ports.1)
        .write(&mut out, &tunnelled)
        .unwrap();
    out[14..14 + if v6 { 1232 } else { 28 }].to_vec()
}

fn path_mtu(v6: bool) -> Scene {
    let (name, version, mtu) = match v6 {
        false => ("path-mtu-over-ipv4", "IPv4", 1350),
        true => ("path-mtu-over-ipv6", "IPv6", 1330),
    };
    let about = format!(
        "ICMP errors about the outer packet over {version} lower the peer's path MTU, for ten minutes (RFC 1191), when the quoted packet matches one that goes to that peer"
    );
    let error = told_too_big(v6, 1400, &quote(v6, (50_000, 8472)));
    Scene::new(name, &about, &Setup::with(Encap::Vxlan, v6))
        .pod(whole(1400))
        .wire(answer(v6, 2))
        .wire(error)
        .pod(whole(1400))
        .pod(whole(mtu))
        .at(601_100)
        .pod(whole(1400))
        .wire(answer(v6, 2))
        .expect("vxlan && ip.src == 10.244.1.2 && udp.srcport == 1234", 3)
        .expect(
            &format!(
                "icmp.type == 3 && icmp.code == 4 && icmp.mtu == {mtu} && ip.src == 169.254.1.1"
            ),
            1,
        )
        .counts("consume", 3)
        .drops(&["too-big"])
}

fn told_path_mtu() -> Scene {
    let tell = |mtu| {
        let peer = culvert_core::PeerId(2);
        vec![Operation::SetPathMtu { peer, mtu }]
    };
    Scene::new(
        "path-mtu-told-by-the-shell",
        "The shell lowers a peer's path MTU as an ICMP error does, and takes that back with 0",
        &Setup::with(Encap::Vxlan, false),
    )
    .pod(whole(1450))
    .wire(answer(false, 2))
    .apply(Owner::Cluster, tell(1400))
    .pod(whole(1351))
    .pod(whole(1350))
    .apply(Owner::Cluster, tell(0))
    .pod(whole(1450))
    .expect("icmp.type == 3 && icmp.code == 4 && icmp.mtu == 1350", 1)
    .expect("vxlan && ip.len == 1450", 2)
    .expect("vxlan && ip.len == 1350", 1)
    .drops(&["too-big"])
}

fn forged_path_mtu() -> Scene {
    let other_port = told_too_big(false, 1000, &quote(false, (50_000, 53)));
    let no_tunnel = told_too_big(false, 1000, &quote(false, (1234, 8472)));
    let mut elsewhere = quote(false, (50_000, 8472));
    elsewhere[19] = 9;
    let elsewhere = told_too_big(false, 1000, &elsewhere);
    let mut damaged = told_too_big(false, 1000, &quote(false, (50_000, 8472)));
    damaged[36] ^= 1;
    Scene::new(
        "path-mtu-forged",
        "ICMP errors that quote no packet to a peer's tunnel, or are damaged, lower no path MTU",
        &Setup::with(Encap::Vxlan, false),
    )
    .pod(whole(1450))
    .wire(answer(false, 2))
    .wire(other_port)
    .wire(no_tunnel)
    .wire(elsewhere)
    .wire(damaged)
    .pod(whole(1450))
    .expect("vxlan && ip.len == 1450", 2)
    .sends("pod-a", 0)
    .counts("punt", 4)
}
