//! Packets that nobody well-behaved sends: each is dropped for its own reason and
//! comes out nowhere. And what the gateway says about those it cannot deliver.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use culvert_lab::capture::Capture;
use culvert_lab::{Lab, NodeKind, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

mod common;
#[path = "common/frames.rs"]
mod frames;

use frames::{Ip, arp_request, ethernet, hex, udp, vxlan};

const GATEWAY: &str = "169.254.1.1";
/// In the payload of every frame that must not come out.
const MARK: &[u8] = b"never to be seen";

/// n1 and n3 with culvert, n2 with the kernel's VXLAN, a pod on each.
fn lab() -> Lab {
    let kinds = [
        ("n1", NodeKind::Culvert, 1),
        ("n2", NodeKind::Kernel, 2),
        ("n3", NodeKind::Culvert, 3),
    ];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    for (node, pod) in [("n1", "p1"), ("n2", "p2"), ("n3", "p3")] {
        lab.add_pod(node, pod).unwrap();
    }
    lab
}

fn counters(lab: &Lab) -> BTreeMap<String, u64> {
    let output = lab.culvert("n1", &["counters", "-o", "json"]).unwrap();
    let list: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
    let entry = |entry: &Value| {
        let name = entry["name"].as_str().unwrap().to_owned();
        (name, entry["value"].as_u64().unwrap())
    };
    list.iter().map(entry).collect()
}

/// Sends each frame out of `place`'s eth0 and waits until n1 has counted it
/// under its reason; whether another reason was counted too is checked by those
/// that come after it.
fn dropped(lab: &Lab, place: &str, cases: &[(&str, Vec<u8>)]) {
    for (reason, frame) in cases {
        let before = counters(lab);
        inject(lab, place, frame);
        let name = format!("drop-{reason}");
        let what = format!("{name} counted for {}", hex(frame));
        let counted = wait_for(&what, Duration::from_secs(1), || {
            let now = counters(lab);
            Ok((now[&name] > before[&name]).then_some(()))
        });
        if let Err(error) = counted {
            let now = counters(lab);
            let changed: Vec<_> = now
                .iter()
                .filter(|(name, value)| before[*name] != **value)
                .collect();
            panic!("{error}; instead: {changed:?}");
        }
    }
}

fn inject(lab: &Lab, place: &str, frame: &[u8]) {
    let program = env!("CARGO_BIN_EXE_culvert-lab");
    lab.run(place, &[program, "inject", "eth0", &hex(frame)])
        .unwrap();
}

/// How often the mark is in a capture.
fn marks(capture: Capture) -> usize {
    let bytes = std::fs::read(capture.finish().unwrap()).unwrap();
    bytes
        .windows(MARK.len())
        .filter(|window| *window == MARK)
        .count()
}

/// The MAC addresses of p1 and of its gateway.
fn macs(lab: &Lab) -> (String, String) {
    let pod = lab.pod("p1").unwrap();
    assert_eq!(
        lab.ping("p1", GATEWAY.parse().unwrap(), 1)
            .unwrap()
            .received,
        1
    );
    let neighbor = lab
        .run("p1", &["ip", "neigh", "show", GATEWAY])
        .unwrap()
        .stdout;
    let mut words = neighbor.split_whitespace();
    let gateway = words
        .find(|word| *word == "lladdr")
        .and_then(|_| words.next());
    let own = pod.result.as_ref().unwrap()["interfaces"][0]["mac"]
        .as_str()
        .unwrap();
    (own.to_owned(), gateway.unwrap().to_owned())
}

/// A good packet with one of its IPv4 header's bytes replaced.
fn broken(packet: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at] = value;
    packet
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_a_pod_must_not_send_comes_out_nowhere() {
    let lab = lab();
    let (mac, gateway) = macs(&lab);
    let own = lab.pod("p1").unwrap().address.to_string();
    let target = lab.pod("p2").unwrap().address.to_string();
    let to_gateway = |kind, payload: &[u8]| ethernet(&gateway, &mac, kind, payload);
    let datagram = udp(5000, 5001, MARK);
    let packet = Ip::udp(&own, &target).packet(&datagram);
    let to = |target: &str| to_gateway(0x800, &Ip::udp(&own, target).packet(&datagram));
    let ask = |sender, target| to_gateway(0x806, &arp_request(sender, target));
    let ttl = Ip {
        ttl: 1,
        ..Ip::udp(&own, &target)
    }
    .packet(&datagram);
    let tunnel = Ip::udp(&own, "192.168.77.2").packet(&udp(5000, 8472, MARK));
    let ipip = Ip {
        protocol: 4,
        ..Ip::udp(&own, "192.168.77.2")
    }
    .packet(&packet);
    let foreign = "02:00:00:00:00:01";
    let cases = [
        ("source-mac", ethernet(&gateway, foreign, 0x800, &packet)),
        (
            "source-ip",
            to_gateway(0x800, &Ip::udp(&target, &target).packet(&datagram)),
        ),
        (
            "source-ip",
            to_gateway(0x800, &Ip::udp("0.0.0.0", &target).packet(&datagram)),
        ),
        ("arp-sender-ip", ask((&mac, &target), GATEWAY)),
        ("arp-sender-mac", ask((foreign, &own), GATEWAY)),
        ("arp-target", ask((&mac, &own), &target)),
        (
            "arp-malformed",
            to_gateway(0x806, &arp_request((&mac, &own), GATEWAY)[..20]),
        ),
        (
            "vlan-tagged",
            to_gateway(0x8100, &[&[0, 5, 8, 0][..], &packet].concat()),
        ),
        (
            "ipv6-payload-length",
            to_gateway(0x86dd, &[&[0x60; 40], MARK].concat()),
        ),
        ("not-ip", to_gateway(0x88cc, MARK)),
        ("ipv4-truncated", to_gateway(0x800, &packet[..10])),
        ("ipv4-truncated", to_gateway(0x800, &[])),
        ("ipv4-version", to_gateway(0x800, &broken(&packet, 0, 0x55))),
        (
            "ipv4-header-length",
            to_gateway(0x800, &broken(&packet, 0, 0x44)),
        ),
        (
            "ipv4-header-length",
            to_gateway(0x800, &broken(&packet, 0, 0x4f)),
        ),
        (
            "ipv4-total-length",
            to_gateway(0x800, &broken(&packet, 2, 0x7f)),
        ),
        (
            "ipv4-total-length",
            to_gateway(0x800, &broken(&packet, 3, 19)),
        ),
        (
            "ipv4-checksum",
            to_gateway(0x800, &broken(&packet, 10, packet[10] ^ 1)),
        ),
        (
            "destination-group",
            ethernet(
                "01:00:5e:00:00:fb",
                &mac,
                0x800,
                &Ip::udp(&own, "224.0.0.251").packet(&datagram),
            ),
        ),
        (
            "destination-group",
            ethernet(
                "ff:ff:ff:ff:ff:ff",
                &mac,
                0x800,
                &Ip::udp(&own, "255.255.255.255").packet(&datagram),
            ),
        ),
        ("destination-mac", ethernet(foreign, &mac, 0x800, &packet)),
        ("tunnel-spoof", to_gateway(0x800, &tunnel)),
        ("tunnel-spoof", to_gateway(0x800, &ipip)),
        ("gateway-protocol", to(GATEWAY)),
        ("ttl-exceeded", to_gateway(0x800, &ttl)),
        ("blackhole", to("10.244.1.200")),
        ("no-route", to("8.8.8.8")),
        ("no-route", to("127.0.0.1")),
        ("no-route", to("10.244.77.1")),
    ];
    let places = [("p2", "eth0"), ("underlay", "to-n1"), ("n1", "culvert0")];
    let captures = places.map(|place| lab.capture(place, "").unwrap());
    dropped(&lab, "p1", &cases);
    assert_eq!(captures.map(marks), [0, 0, 0]);

    // The same frame unbroken does come out.
    let capture = lab.capture(("p2", "eth0"), "udp").unwrap();
    inject(&lab, "p1", &to_gateway(0x800, &packet));
    assert_eq!(marks(capture), 1);
}

/// Connects `x`, a host that is no node, to the underlay.
fn add_stranger(lab: &Lab) {
    lab.add_place("x").unwrap();
    let namespace = lab.namespace("x");
    for line in [
        format!("link add to-x type veth peer name eth0 netns {namespace}"),
        "link set to-x master br0 up".to_owned(),
        format!("-n {namespace} addr add 192.168.77.50/24 dev eth0"),
        format!("-n {namespace} link set eth0 up"),
    ] {
        let argv: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
        lab.run("underlay", &argv).unwrap();
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_the_underlay_must_not_bring_comes_out_nowhere() {
    let lab = lab();
    add_stranger(&lab);
    let node = lab.underlay_mac("n1").unwrap();
    let (_, plan) = lab.node("n1").unwrap();
    let (vtep, at) = (plan.vtep_mac(), plan.underlay().to_string());
    let address = |pod: &str| lab.pod(pod).unwrap().address.to_string();
    let (own, other, third) = (address("p1"), address("p2"), address("p3"));
    let (peer, stranger) = ("192.168.77.2", "192.168.77.50");
    let outer = |from: &str, tos, payload: &[u8]| {
        let ip = Ip {
            tos,
            ..Ip::udp(from, &at)
        };
        let packet = ip.packet(&udp(40_000, 8472, payload));
        ethernet(&node, "02:00:00:00:00:50", 0x800, &packet)
    };
    let inner = |from: &str, to: &str| {
        let packet = Ip::udp(from, to).packet(&udp(5000, 5001, MARK));
        ethernet(&vtep, "02:00:00:00:00:02", 0x800, &packet)
    };
    let good = inner(&other, &own);
    let arp = ethernet(&vtep, &vtep, 0x806, &arp_request((&vtep, &other), &own));
    let cases = [
        ("unknown-peer", outer(stranger, 0, &vxlan(8, 1, &good))),
        (
            "peer-guard",
            outer(peer, 0, &vxlan(8, 1, &inner(&own, &own))),
        ),
        (
            "peer-guard",
            outer(peer, 0, &vxlan(8, 1, &inner(&third, &own))),
        ),
        (
            "peer-guard",
            outer(peer, 0, &vxlan(8, 1, &inner("8.8.8.8", &own))),
        ),
        (
            "peer-guard",
            outer(peer, 0, &vxlan(8, 1, &inner(&at, &own))),
        ),
        ("unknown-vni", outer(peer, 0, &vxlan(8, 7, &good))),
        ("vxlan-flags", outer(peer, 0, &vxlan(0, 1, &good))),
        ("vxlan-truncated", outer(peer, 0, &[8, 0, 0])),
        ("vxlan-truncated", outer(peer, 0, &[])),
        ("vxlan-flags", outer(stranger, 0, &[0x55; 300])),
        ("frame-truncated", outer(peer, 0, &vxlan(8, 1, &good[..9]))),
        (
            "vtep-mac",
            outer(peer, 0, &vxlan(8, 1, &broken(&good, 5, 0x77))),
        ),
        ("inner-not-ip", outer(peer, 0, &vxlan(8, 1, &arp))),
        (
            "ipv4-checksum",
            outer(peer, 0, &vxlan(8, 1, &broken(&good, 24, 0x77))),
        ),
        (
            "ipv4-total-length",
            outer(peer, 0, &vxlan(8, 1, &good[..50])),
        ),
        ("ecn-ce", outer(peer, 3, &vxlan(8, 1, &good))),
        (
            "transit-denied",
            outer(peer, 0, &vxlan(8, 1, &inner(&other, &third))),
        ),
        (
            "blackhole",
            outer(peer, 0, &vxlan(8, 1, &inner(&other, "10.244.1.200"))),
        ),
    ];
    let places = [("p1", "eth0"), ("n1", "culvert0"), ("p3", "eth0")];
    let captures = places.map(|place| lab.capture(place, "").unwrap());
    dropped(&lab, "x", &cases);
    assert_eq!(captures.map(marks), [0, 0, 0]);

    let capture = lab.capture(("p1", "eth0"), "udp").unwrap();
    inject(&lab, "x", &outer(peer, 0, &vxlan(8, 1, &good)));
    assert_eq!(marks(capture), 1);
}

/// What ping prints with these options, whether or not it got answers.
fn ping(lab: &Lab, place: &str, options: &str, to: Ipv4Addr) -> String {
    let to = to.to_string();
    let mut argv = vec!["ping", "-n", "-c", "1", "-W", "1"];
    argv.extend(options.split(' '));
    argv.push(&to);
    let output = lab.exec(place, &argv, Duration::from_secs(5)).unwrap();
    format!("{}{}", output.stdout, output.stderr)
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_is_too_big_is_answered_with_the_mtu() {
    let lab = lab();
    let own = lab.pod("p1").unwrap().address;
    for from in ["p1", "n1", "p2"] {
        let others = lab.pods().iter().filter(|pod| pod.name != from);
        for to in others.map(|pod| pod.address) {
            let fits = ping(&lab, from, "-s 1422 -M do", to);
            assert!(fits.contains(" 0% packet loss"), "{from} to {to}: {fits}");
            let local = from == "n1" && to == own;
            let large = ping(&lab, from, "-s 1423 -M do", to).to_lowercase();
            let told = large.contains("mtu: 1450") || large.contains("mtu=1450");
            assert!(told, "{from} to {to} ({local}): {large}");
        }
    }
    // Pods and hosts whose own MTU does not stop them are told by the gateway.
    lab.run("p1", &["ip", "link", "set", "eth0", "mtu", "1500"])
        .unwrap();
    lab.run("n1", &["ip", "link", "set", "culvert0", "mtu", "1500"])
        .unwrap();
    let target = lab.pod("p3").unwrap().address;
    for place in ["p1", "n1"] {
        let large = ping(&lab, place, "-s 1423 -M do", target);
        assert!(large.contains("mtu = 1450"), "{place}: {large}");
        // And remember it.
        let again = ping(&lab, place, "-s 1423 -M do", target).to_lowercase();
        assert!(
            again.contains("mtu: 1450") || again.contains("mtu=1450"),
            "{place}: {again}"
        );
    }
    let large = ping(&lab, "n1", "-s 1423 -M do", own);
    assert!(large.contains("mtu = 1450"), "{large}");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_cannot_be_delivered_is_answered() {
    let lab = lab();
    let address = |pod: &str| lab.pod(pod).unwrap().address;
    // Each hop shows itself: the gateway, then the node beyond the tunnel.
    let first = ping(&lab, "p1", "-t 1", address("p3"));
    assert!(
        first.contains("From 169.254.1.1") && first.contains("Time to live exceeded"),
        "{first}"
    );
    let second = ping(&lab, "p1", "-t 2", address("p3"));
    assert!(
        second.contains("From 10.244.3.0") && second.contains("Time to live exceeded"),
        "{second}"
    );
    assert!(ping(&lab, "p1", "-t 3", address("p3")).contains(" 0% packet loss"));
    // Nobody's address, asked for by a pod, the node and the other nodes' pods.
    for (from, speaker) in [
        ("p1", GATEWAY),
        ("n1", GATEWAY),
        ("p2", "10.244.1.0"),
        ("p3", "10.244.1.0"),
    ] {
        let before = counters(&lab);
        let answer = ping(&lab, from, "-t 64", "10.244.1.200".parse().unwrap());
        let told = answer.contains(&format!("From {speaker}")) && answer.contains("Unreachable");
        assert!(told, "{from}: {answer}");
        let now = counters(&lab);
        assert_eq!(
            now["drop-blackhole"],
            before["drop-blackhole"] + 1,
            "{from}"
        );
        assert_eq!(
            now["drop-ttl-exceeded"], before["drop-ttl-exceeded"],
            "{from}"
        );
    }
    // A closed port: the pod's own answer comes back through the tunnel.
    for to in [address("p2"), address("p3"), address("p1")] {
        for from in ["p1", "p2", "p3", "n1"] {
            let knock = format!("exec 3<>/dev/udp/{to}/9; echo x >&3; sleep 0.2; echo x >&3");
            let argv = ["bash", "-c", &knock];
            let output = lab.exec(from, &argv, Duration::from_secs(5)).unwrap();
            assert!(
                output.stderr.contains("refused"),
                "{from} to {to}: {output:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn an_underlay_that_comes_back_is_used_again() {
    let lab = lab();
    let ip = |args: &str| {
        let argv: Vec<&str> = std::iter::once("ip").chain(args.split(' ')).collect();
        lab.run("n1", &argv).unwrap();
    };
    let status = || lab.culvert("n1", &["status"]).unwrap().stdout;
    let target = lab.pod("p2").unwrap().address;
    let good = status();
    for (harm, mend, said) in [
        ("link set eth0 down", "link set eth0 up", "eth0 is down"),
        (
            "addr del 192.168.77.1/24 dev eth0",
            "addr add 192.168.77.1/24 dev eth0",
            "192.168.77.1",
        ),
        (
            "link set eth0 mtu 100",
            "link set eth0 mtu 1500",
            "an MTU of 100",
        ),
    ] {
        ip(harm);
        lab.ping("p1", target, 1).unwrap();
        let told = status();
        assert!(
            told.lines()
                .any(|line| line.contains(said) && !good.contains(line)),
            "{harm}: {told}"
        );
        ip(mend);
        wait_for(mend, Duration::from_secs(5), || {
            Ok((lab.ping("p1", target, 1)?.received == 1).then_some(()))
        })
        .unwrap();
        assert_eq!(
            lab.ping("p2", lab.pod("p1").unwrap().address, 1)
                .unwrap()
                .received,
            1
        );
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_host_device_that_somebody_harmed_is_noticed_and_mended() {
    let mut lab = lab();
    let target = lab.pod("p1").unwrap().address;
    for (harm, said) in [
        ("link set culvert0 down", "culvert0 is down"),
        ("link del culvert0", "culvert0 is gone"),
        ("route del 10.244.0.0/16", "10.244.0.0/16"),
        ("route del 169.254.1.1", "169.254.1.1"),
        ("addr flush dev culvert0", "culvert0"),
    ] {
        let argv: Vec<&str> = std::iter::once("ip").chain(harm.split(' ')).collect();
        lab.run("n1", &argv).unwrap();
        let told = lab.culvert("n1", &["status"]).unwrap().stdout;
        assert!(
            told.contains(said) && !told.contains("problems         none"),
            "{harm}: {told}"
        );
        lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
        lab.start_daemon("n1").unwrap();
        let told = lab.culvert("n1", &["status"]).unwrap().stdout;
        assert!(told.contains("problems         none"), "{harm}: {told}");
        for (from, to) in [("n1", target), ("p1", "192.168.77.1".parse().unwrap())] {
            assert_eq!(lab.ping(from, to, 1).unwrap().received, 1, "{harm}: {from}");
        }
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_pod_device_that_is_down_keeps_nobody_busy() {
    let mut lab = lab();
    let target = lab.pod("p1").unwrap().address;
    lab.run("p1", &["ip", "link", "set", "eth0", "down"])
        .unwrap();
    let before = counters(&lab)["tap-tx-failed"];
    lab.ping("p2", target, 1).unwrap();
    assert!(counters(&lab)["tap-tx-failed"] > before);
    lab.run("p1", &["ip", "link", "set", "eth0", "up"]).unwrap();
    lab.run("p1", &["ip", "route", "replace", GATEWAY, "dev", "eth0"])
        .unwrap();
    lab.run("p1", &["ip", "route", "replace", "default", "via", GATEWAY])
        .unwrap();
    assert_eq!(lab.ping("p2", target, 1).unwrap().received, 1);
    // A device that goes: the pod is cut off, and said to be.
    let cut_off = |lab: &Lab| {
        let status = lab.culvert("n1", &["status"]).unwrap().stdout;
        let container = &lab.pod("p1").unwrap().container;
        assert!(status.contains(container), "{status}");
        let endpoints = lab.culvert("n1", &["endpoints"]).unwrap().stdout;
        assert!(endpoints.contains("cut off"), "{endpoints}");
    };
    lab.run("p1", &["ip", "link", "del", "eth0"]).unwrap();
    cut_off(&lab);
    lab.delete_pod("p1").unwrap();
    lab.add_pod("n1", "p1").unwrap();
    // Also when it goes while no daemon is there.
    lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
    lab.run("p1", &["ip", "link", "del", "eth0"]).unwrap();
    lab.start_daemon("n1").unwrap();
    cut_off(&lab);
    let devices = lab.run("p1", &["ip", "-o", "link"]).unwrap().stdout;
    assert!(!devices.contains("eth0"), "{devices}");
    lab.delete_pod("p1").unwrap();
    let status = lab.culvert("n1", &["status"]).unwrap().stdout;
    assert!(status.contains("problems         none"), "{status}");
}
