//! The underlay as raw Ethernet: the node's own ARP and neighbor discovery.

use culvert_core::channel::Encap;
use etherparse::ArpOperation;

use super::frames::*;
use super::*;
use crate::common::*;

pub(crate) fn all() -> Vec<Scene> {
    let mut all = vec![underlay_guards(), no_way(), conflict(), ping()];
    for v6 in [false, true] {
        all.extend([
            queue(v6),
            silent(v6),
            probes(v6),
            idle(v6),
            moved(v6),
            moved_silently(v6),
            asked(v6),
        ]);
    }
    all
}

/// A node whose other node is found, a second after it booted.
fn known(name: [&'static str; 2], about: &str, v6: bool) -> Scene {
    Scene::new(name[usize::from(v6)], about, &Setup::with(Encap::Vxlan, v6))
        .pod(udp(MAC_A, A, REMOTE, b"first"))
        .wire(answer(v6, 2))
}

/// The display filter for questions about the other node.
fn question(v6: bool) -> &'static str {
    match v6 {
        false => {
            "arp.opcode == 1 && !arp.isannouncement && arp.dst.proto_ipv4 == 192.168.77.2 && arp.src.proto_ipv4 == 192.168.77.1"
        }
        true => {
            "icmpv6.type == 135 && icmpv6.nd.ns.target_address == fd00:77::2 && ipv6.src == fd00:77::1 && ipv6.hlim == 255"
        }
    }
}

/// The display filter for those that go to nobody in particular.
fn to_all(v6: bool) -> String {
    let group = match v6 {
        false => "eth.dst == ff:ff:ff:ff:ff:ff",
        true => "eth.dst == 33:33:ff:00:00:02 && ipv6.dst == ff02::1:ff00:2",
    };
    format!("{} && {group}", question(v6))
}

/// The display filter for those that go to this node's MAC address.
fn to_node(v6: bool) -> String {
    format!("{} && eth.dst == 02:00:00:00:01:02", question(v6))
}

fn queue(v6: bool) -> Scene {
    Scene::new(
        ["first-packet-waits-for-arp", "first-packet-waits-for-nd"][usize::from(v6)],
        "The first packet to a neighbor waits, others are dropped meanwhile; it is sent when the answer comes, later ones at once",
        &Setup::with(Encap::Vxlan, v6),
    )
    .pod(udp(MAC_A, A, REMOTE, b"the first"))
    .pod(udp(MAC_A, A, REMOTE, b"the second"))
    .pod(udp(MAC_A, A, REMOTE, b"the third"))
    .wire(answer(v6, 2))
    .pod(udp(MAC_A, A, REMOTE, b"the fourth"))
    .expect(&to_all(v6), 1)
    .expect("vxlan && frame contains \"the first\"", 1)
    .expect("vxlan && frame contains \"the fourth\"", 1)
    .expect("vxlan", 2)
    .counts("queue", 1)
    .counts("drop-neighbor-pending", 2)
}

fn silent(v6: bool) -> Scene {
    Scene::new(
        ["silent-neighbor-ipv4", "silent-neighbor-ipv6"][usize::from(v6)],
        "Requests with retry and back-off: at 0, 250, 500 ms, 1 and 2 s; after 3 s the neighbor has failed, and from 4 s on it is asked for again",
        &Setup::with(Encap::Vxlan, v6),
    )
    .pod(udp(MAC_A, A, REMOTE, b"waits, and is lost"))
    .at(4500)
    .pod(udp(MAC_A, A, REMOTE, b"fails at once"))
    .at(5500)
    .pod(udp(MAC_A, A, REMOTE, b"waits, and is sent"))
    .wire(answer(v6, 2))
    .expect(&to_all(v6), 6)
    .expect(&format!("{} && frame.time_epoch < 4.5", question(v6)), 5)
    .expect("vxlan && frame contains \"is sent\"", 1)
    .expect("vxlan", 1)
    .expect("icmp.type == 3 && icmp.code == 1 && ip.dst == 10.244.1.2", 1)
    .counts("queue-lost", 1)
    .drops(&["neighbor-failed"])
}

fn probes(v6: bool) -> Scene {
    let names = [
        "neighbor-in-use-is-verified-ipv4",
        "neighbor-in-use-is-verified-ipv6",
    ];
    let about = "Ageing and unicast probes: a neighbor in use is verified after 30 s, by two questions to itself and one to all, while its MAC address stays in use; an answer ends that";
    known(names, about, v6)
        .at(20_000)
        .pod(udp(MAC_A, A, REMOTE, b"in use"))
        // It says nothing to the first and is found by the second.
        .at(31_450)
        .pod(udp(MAC_A, A, REMOTE, b"meanwhile"))
        .wire(answer(v6, 2))
        .at(50_000)
        .pod(udp(MAC_A, A, REMOTE, b"in use again"))
        // Now it says nothing at all: the next packet waits.
        .at(62_450)
        .pod(udp(MAC_A, A, REMOTE, b"waits"))
        .wire(answer(v6, 2))
        .until(62_500)
        .expect(
            &format!(
                "{} && frame.time_epoch > 2 && frame.time_epoch < 40",
                to_node(v6)
            ),
            2,
        )
        .expect(&format!("{} && frame.time_epoch > 40", to_node(v6)), 2)
        .expect(
            &format!(
                "{} && frame.time_epoch > 2 && frame.time_epoch < 40",
                to_all(v6)
            ),
            0,
        )
        .expect(
            "vxlan && frame contains \"meanwhile\" && frame.time_epoch < 31.451",
            1,
        )
        .expect("vxlan && frame contains \"waits\"", 1)
        .counts("queue", 2)
}

fn idle(v6: bool) -> Scene {
    let names = [
        "idle-neighbor-is-forgotten-ipv4",
        "idle-neighbor-is-forgotten-ipv6",
    ];
    let about = "Ageing: a neighbor that nobody sends to is verified when it is needed again after 30 s, and forgotten after 90 s";
    known(names, about, v6)
        .at(45_000)
        .pod(udp(MAC_A, A, REMOTE, b"needed again"))
        .wire(answer(v6, 2))
        .at(200_000)
        .pod(udp(MAC_A, A, REMOTE, b"asked for like new"))
        .wire(answer(v6, 2))
        .expect(&to_node(v6), 1)
        .expect(&to_all(v6), 2)
        .expect(
            "vxlan && frame contains \"needed again\" && frame.time_epoch == 45.0",
            1,
        )
        .counts("queue", 2)
}

/// A neighbor's news that nobody asked for.
fn gratuitous(v6: bool, mac: [u8; 6]) -> Vec<u8> {
    match v6 {
        false => arp_packet(ArpOperation::REQUEST, (mac, NODE_2), ([0; 6], NODE_2)),
        true => {
            let payload = [&NODE6_2[..], &[2, 1], &mac].concat();
            let macs = (mac, [0x33, 0x33, 0, 0, 0, 1]);
            discovery(
                (136, 0x20),
                macs,
                (NODE6_2.into(), ALL_NODES6.into()),
                &payload,
            )
        }
    }
}

fn moved(v6: bool) -> Scene {
    let names = ["changed-mac-is-learnt-ipv4", "changed-mac-is-learnt-ipv6"];
    let about = "A changed MAC is learnt at once when the neighbor says so (gratuitous ARP, RFC 5227; overriding advertisement, RFC 4861)";
    known(names, about, v6)
        .at(3000)
        .wire(gratuitous(v6, node_mac(22)))
        .pod(udp(MAC_A, A, REMOTE, b"to the new one"))
        .expect(
            "vxlan && eth.dst == 02:00:00:00:01:16 && frame contains \"new one\"",
            1,
        )
        .expect("vxlan && eth.dst == 02:00:00:00:01:02", 1)
}

fn moved_silently(v6: bool) -> Scene {
    let names = [
        "silent-change-of-mac-is-found-ipv4",
        "silent-change-of-mac-is-found-ipv6",
    ];
    let about = "Learning a changed MAC within a second also when the neighbor moved without a word: its frames come from another MAC address, so it is asked for";
    let mut back = in_vxlan(v6, 2, &udp_ports(MAC_A, REMOTE, A, (80, 1234), b"back"));
    back[6..12].copy_from_slice(&node_mac(22));
    known(names, about, v6)
        .at(3000)
        .wire(back)
        .wire(answer_for(node_address(v6, 2), node_mac(22)))
        .pod(udp(MAC_A, A, REMOTE, b"to the new one"))
        .expect(&to_all(v6), 2)
        .expect(
            "vxlan && eth.dst == 02:00:00:00:01:16 && frame contains \"new one\"",
            1,
        )
        .sends("pod-a", 1)
}

fn asked(v6: bool) -> Scene {
    let about = "ARP for our own address answered, also to a probe, and a solicitation for it; for others it is not";
    let name = [
        "arp-for-our-underlay-address",
        "nd-for-our-underlay-address",
    ][usize::from(v6)];
    let scene = Scene::new(name, about, &Setup::with(Encap::Vxlan, v6));
    let mac = node_mac(2);
    if !v6 {
        let asks =
            |sender, target| arp_packet(ArpOperation::REQUEST, (mac, sender), ([0; 6], target));
        return scene
            .wire(asks(NODE_2, NODE_1))
            .wire(asks([0; 4], NODE_1))
            .wire(asks(NODE_2, [192, 168, 77, 3]))
            .expect("arp.opcode == 2 && arp.src.proto_ipv4 == 192.168.77.1 && arp.src.hw_mac == 02:00:00:00:01:01 && eth.dst == 02:00:00:00:01:02", 2)
            .sends("wire", 3)
            .counts("consume", 1);
    }
    let asks = |src: [u8; 16], target: [u8; 16]| {
        let last = target[15];
        let group = ip_octets(&format!("ff02::1:ff00:{last:x}"));
        let macs = (mac, [0x33, 0x33, 0xff, 0, 0, last]);
        // Who has no address yet says nothing of its own (RFC 4861 section 4.3).
        let option = [&[1, 1][..], &mac].concat();
        let option = if src == UNSPECIFIED6 {
            &[]
        } else {
            &option[..]
        };
        discovery(
            (135, 0),
            macs,
            (src.into(), group.into()),
            &[&target[..], option].concat(),
        )
    };
    scene
        .wire(asks(NODE6_2, NODE6_1))
        .wire(asks(UNSPECIFIED6, NODE6_1))
        .wire(asks(NODE6_2, ip_octets("fd00:77::3")))
        .expect("icmpv6.type == 136 && icmpv6.nd.na.target_address == fd00:77::1 && icmpv6.opt.linkaddr == 02:00:00:00:01:01 && icmpv6.nd.na.flag.s == 1 && ipv6.dst == fd00:77::2", 1)
        .expect("icmpv6.type == 136 && icmpv6.nd.na.flag.s == 0 && ipv6.dst == ff02::1 && frame.time_epoch > 1", 1)
        .sends("wire", 3)
        .counts("consume", 1)
}

fn underlay_guards() -> Scene {
    let inner = udp_ports(MAC_A, REMOTE, A, (80, 1234), b"x");
    let edited = |edit: fn(&mut Vec<u8>)| {
        let mut frame = in_vxlan(false, 2, &inner);
        edit(&mut frame);
        frame
    };
    let off_link = arp_packet(
        ArpOperation::REQUEST,
        (node_mac(9), [198, 51, 100, 1]),
        ([0; 6], [192, 168, 77, 3]),
    );
    Scene::new(
        "underlay-guards",
        "On raw ports what is for another device, for all, tagged, not IP or damaged is dropped, each with its reason",
        &Setup::with(Encap::Vxlan, false),
    )
    .wire(edited(|f| f[5] = 9))
    .wire(edited(|f| f[..6].fill(0xff)))
    .wire(edited(|f| f[14] = 0x55))
    .wire(edited(|f| f[24] ^= 1))
    .wire(edited(|f| f[40] ^= 1))
    .wire(edited(|f| f[12..14].copy_from_slice(&[0x81, 0])))
    .wire(edited(|f| f[12..14].copy_from_slice(&[0x88, 0xcc])))
    .wire(off_link)
    .sends("wire", 1)
    .sends("pod-a", 0)
    .drops(&["wire-mac", "wire-group", "outer-checksum", "vlan-tagged", "not-ip", "neighbor-off-link"])
    .counts("drop-outer-malformed", 2)
}

fn no_way() -> Scene {
    let mut node = Setup {
        peers: vec![9],
        far: vec![9],
        ..Setup::with(Encap::Vxlan, false)
    };
    let peer = Operation::UpsertPeer(node.peer(9));
    node.peers.clear();
    node.far.clear();
    let route = Setup::route("10.244.9.0/24", node.hop(9));
    Scene::new(
        "underlay-without-a-gateway",
        "A peer that is neither on the link nor behind a gateway cannot be reached, which has its own reason",
        &node,
    )
    .apply(Owner::Cluster, vec![peer, route])
    .pod(udp(MAC_A, A, [10, 244, 9, 2], b"nowhere"))
    .sends("wire", 1)
    .drops(&["underlay-no-route"])
}

fn conflict() -> Scene {
    let claim = arp_packet(
        ArpOperation::REQUEST,
        (node_mac(9), NODE_1),
        ([0; 6], NODE_1),
    );
    Scene::new(
        "underlay-address-conflict",
        "Another device that uses this node's underlay address is noticed, and not believed",
        &Setup::with(Encap::Vxlan, false),
    )
    .wire(claim)
    .sends("wire", 1)
    .drops(&["address-conflict"])
}

fn ping() -> Scene {
    let mut ping = echo(node_mac(2), NODE_2, NODE_1);
    ping[..6].copy_from_slice(&node_mac(1));
    let mut other = udp_ports(node_mac(2), NODE_2, NODE_1, (1000, 2000), b"management");
    other[..6].copy_from_slice(&node_mac(1));
    Scene::new(
        "ping-to-the-underlay-address",
        "Ping to our own underlay address is answered; what else is for it and no tunnel's goes to the shell",
        &Setup::with(Encap::Vxlan, false),
    )
    .wire(ping)
    .wire(other)
    .expect("icmp.type == 0 && ip.src == 192.168.77.1 && ip.dst == 192.168.77.2 && eth.dst == 02:00:00:00:01:02", 1)
    .sends("wire", 2)
    .counts("punt", 1)
}
