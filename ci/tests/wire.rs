//! The underlay by a TAP and by sockets: nodes of all kinds reach each other, what is
//! deleted comes back, and nothing stays behind.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use culvert_lab::measure::Load;
use culvert_lab::{Lab, NodeKind, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

mod common;

const SOON: Duration = Duration::from_secs(5);
const TAP: &str = "culvert-ul";

/// Culvert nodes n1 and n2 by a TAP and n3 by sockets, and n4 with the kernel's VXLAN, a
/// pod on each. Over IPv6 without n4.
fn lab(over_v6: bool) -> Lab {
    let kinds = [
        ("n1", NodeKind::Culvert, 1),
        ("n2", NodeKind::Culvert, 2),
        ("n3", NodeKind::Culvert, 3),
        ("n4", NodeKind::Kernel, 4),
    ];
    let kinds = &kinds[..if over_v6 { 3 } else { 4 }];
    let mut plan = common::plan(kinds);
    plan.networks[0].over_v6 = over_v6;
    plan.networks[0].dual_stack = over_v6;
    let mut lab = Lab::new(plan).unwrap();
    for (node, driver) in [("n1", "tap"), ("n2", "tap"), ("n3", "socket")] {
        drive(&mut lab, node, driver);
    }
    for (node, _, number) in kinds {
        lab.add_pod(node, &format!("p{number}")).unwrap();
    }
    lab
}

/// Starts the node's daemon again with this driver.
fn drive(lab: &mut Lab, node: &str, driver: &str) {
    lab.stop_daemon(node, Signal::SIGTERM).unwrap();
    let path = lab.dir().join(node).join("culvert.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (text, _) = text.split_once("\n[underlay]").unwrap_or((&text, ""));
    fs::write(
        &path,
        format!("{text}\n[underlay]\ndriver = \"{driver}\"\n"),
    )
    .unwrap();
    lab.start_daemon(node).unwrap();
}

fn status(lab: &Lab, node: &str) -> Value {
    let output = lab.culvert(node, &["status", "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

fn driver(lab: &Lab, node: &str) -> String {
    let status = status(lab, node);
    status["underlay"]["driver"].as_str().unwrap().to_owned()
}

fn sh(lab: &Lab, place: &str, script: &str) -> String {
    lab.run(place, &["sh", "-ec", script]).unwrap().stdout
}

fn filters(lab: &Lab, device: &str) -> usize {
    // Where there is no such device there is none.
    let script = format!("tc filter show dev {device} ingress 2>&1 || true");
    sh(lab, "n1", &script).matches("mirred").count()
}

/// What the drivers of a culvert node have dropped.
fn lost(lab: &Lab, node: &str) -> Vec<(String, u64)> {
    let output = lab.culvert(node, &["counters", "-o", "json"]).unwrap();
    let all: Value = serde_json::from_str(&output.stdout).unwrap();
    let all = all.as_array().unwrap().iter();
    let all = all.map(|counter| {
        let name = counter["name"].as_str().unwrap().to_owned();
        (name, counter["value"].as_u64().unwrap())
    });
    let bad = |name: &str| {
        [
            "tap-",
            "underlay-",
            "segment-",
            "port-gone",
            "drop-outer",
            "drop-bad",
            "drop-wire",
        ]
        .iter()
        .any(|start| name.starts_with(start))
    };
    all.filter(|(name, value)| bad(name) && *value > 0)
        .collect()
}

fn reaches(lab: &Lab, to: &str) -> bool {
    let target = lab.pod(to).unwrap().address;
    lab.ping("p1", target, 1).unwrap().received == 1
}

/// Waits until all four filters are there and packets go through.
fn until_joined(lab: &Lab) -> Duration {
    let began = Instant::now();
    wait_for("the filters", SOON, || {
        let joined = (filters(lab, "eth0"), filters(lab, TAP)) == (3, 1);
        Ok((joined && reaches(lab, "p4")).then_some(()))
    })
    .unwrap();
    began.elapsed()
}

fn try_all(lab: &Lab) {
    for from in lab.pods() {
        for to in lab.pods().iter().filter(|to| to.name != from.name) {
            let (one, other) = (&from.name, to.address);
            // Of packets that come while the node asks for a neighbor the first is kept.
            lab.ping(one, other, 1).unwrap();
            assert_eq!(
                lab.ping(one, other, 3).unwrap().received,
                3,
                "{one} {other}"
            );
            // In fragments of the inner packet.
            let other = other.to_string();
            let argv = [
                "ping", "-c", "2", "-i", "0.05", "-W", "1", "-s", "8000", &other,
            ];
            let said = lab.run(one, &argv).unwrap().stdout;
            assert!(said.contains("2 received"), "{one}: {said}");
        }
    }
    let second = Duration::from_secs(1);
    for to in lab.pods().iter().filter(|to| to.name != "p1") {
        let (there, back) = (("p1", to.name.as_str()), (to.name.as_str(), "p1"));
        for (from, to) in [there, back] {
            let target = (to, lab.pod(to).unwrap().address);
            let tcp = lab.iperf(from, target, Load::Tcp, second).unwrap();
            assert!(tcp.gbits > 0.05, "{from} to {to}: {tcp:?}");
            let udp = lab.iperf(from, target, Load::Udp(50), second).unwrap();
            assert!(
                udp.gbits > 0.04 && udp.lost_percent < 5.0,
                "{from} to {to}: {udp:?}"
            );
            println!("{from} to {to}: TCP {:.2} Gbit/s", tcp.gbits);
        }
    }
    for node in ["n1", "n2", "n3"] {
        assert_eq!(lost(lab, node), [], "{node}");
        assert_eq!(status(lab, node)["problems"].to_string(), "[]", "{node}");
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn nodes_of_all_kinds_reach_each_other_over_ipv4() {
    let lab = lab(false);
    assert!(driver(&lab, "n1").starts_with("tap culvert-ul: as configured"));
    assert!(driver(&lab, "n3").starts_with("sockets: as configured"));
    try_all(&lab);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn nodes_of_all_kinds_reach_each_other_over_ipv6() {
    let lab = lab(true);
    try_all(&lab);
    let other = lab.pod("p2").unwrap().address6.unwrap();
    assert_eq!(lab.ping6("p1", other, 3).unwrap().received, 3);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_is_deleted_comes_back() {
    let lab = lab(false);
    until_joined(&lab);
    for script in [
        "tc filter del dev eth0 ingress pref 51970",
        "tc filter del dev eth0 ingress",
        "tc qdisc del dev eth0 clsact",
        "tc filter del dev culvert-ul ingress",
        "tc qdisc del dev culvert-ul clsact",
        "ip link set culvert-ul down",
        "ip link del culvert-ul",
    ] {
        sh(&lab, "n1", script);
        // Not the picture of before.
        thread::sleep(Duration::from_millis(50));
        println!("{script}: back after {:?}", until_joined(&lab));
    }
    // Another MTU is the TAP's too.
    sh(&lab, "n1", "ip link set eth0 mtu 1400");
    wait_for("the TAP's MTU", SOON, || {
        let link = sh(&lab, "n1", "ip link show culvert-ul");
        Ok(link.contains("mtu 1400").then_some(()))
    })
    .unwrap();
    assert!(reaches(&lab, "p2"));
    assert_eq!(status(&lab, "n1")["problems"].to_string(), "[]");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn nothing_stays_but_what_others_made() {
    let mut lab = lab(false);
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    let tc = "tc qdisc show dev eth0; tc filter show dev eth0 ingress; ip -br link";
    let left = sh(&lab, "n1", tc);
    assert!(
        !left.contains("clsact") && !left.contains("mirred"),
        "{left}"
    );
    assert!(!left.contains(TAP), "{left}");
    // Somebody else's filter stays, and with it the qdisc, whoever made that.
    lab.start_daemon("n1").unwrap();
    let foreign = "tc filter add dev eth0 ingress pref 7 protocol ip u32 match ip src 1.2.3.4";
    sh(&lab, "n1", &format!("{foreign} flowid 1:1"));
    assert_eq!((filters(&lab, "eth0"), filters(&lab, TAP)), (3, 1));
    assert!(reaches(&lab, "p4"));
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    let left = sh(&lab, "n1", tc);
    assert!(left.contains("clsact") && left.contains("pref 7"), "{left}");
    assert!(!left.contains("mirred") && !left.contains(TAP), "{left}");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_killed_daemon_harms_nobody_and_the_next_one_goes_on() {
    let mut lab = lab(false);
    for (driver, taps) in [("tap", 1), ("socket", 0), ("auto", 1)] {
        lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
        // The TAP went with the daemon; the node itself is reached as ever.
        let links = sh(&lab, "n1", "ip -br link");
        assert!(!links.contains(TAP), "{links}");
        let (_, n1) = lab.node("n1").unwrap();
        let address = n1.underlay();
        assert_eq!(lab.ping("n4", address, 3).unwrap().received, 3);
        let path = lab.dir().join("n1/culvert.toml");
        let text = fs::read_to_string(&path).unwrap();
        let (text, _) = text.split_once("\n[underlay]").unwrap();
        let section = format!("\n[underlay]\ndriver = \"{driver}\"\n");
        fs::write(&path, text.to_owned() + &section).unwrap();
        lab.start_daemon("n1").unwrap();
        assert_eq!(
            (filters(&lab, "eth0"), filters(&lab, TAP)),
            (3 * taps, taps)
        );
        for to in ["p2", "p3", "p4"] {
            // The first one waits for the neighbor.
            reaches(&lab, to);
            assert_eq!(
                lab.ping("p1", lab.pod(to).unwrap().address, 3)
                    .unwrap()
                    .received,
                3
            );
        }
    }
}

/// Why the automatic choice falls on sockets.
#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn sockets_are_chosen_where_a_tap_does_not_fit() {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Culvert, 2)];
    for (settings, why) in [
        ("", "tap culvert-ul: every node is reached by eth0"),
        (
            "accept = [\"ipip\"]\n",
            "sockets: the kernel cuts no super-frames",
        ),
        (
            "outer_df = false\n",
            "sockets: tunnel packets may come in fragments",
        ),
        (
            "encap = \"cross-subnet\"\n",
            "sockets: nodes without a tunnel",
        ),
    ] {
        let mut plan = common::plan(&kinds);
        plan.networks[0].settings = settings.to_owned();
        for node in &mut plan.networks[0].nodes {
            node.daemon = "\n[underlay]\ndriver = \"auto\"\n".to_owned();
        }
        let mut lab = Lab::new(plan).unwrap();
        let chosen = driver(&lab, "n1");
        assert!(chosen.starts_with(why), "{settings}: {chosen}");
        let printed = lab.culvert("n1", &["status"]).unwrap().stdout;
        assert!(printed.contains(&chosen), "{printed}");
        for (node, pod) in [("n1", "p1"), ("n2", "p2")] {
            lab.add_pod(node, pod).unwrap();
        }
        assert!(reaches(&lab, "p2"), "{settings}");
    }
    // IP in IP goes by a TAP where that is wished.
    let mut plan = common::plan(&kinds);
    plan.networks[0].settings = "encap = \"ipip\"\n".to_owned();
    let mut lab = Lab::new(plan).unwrap();
    drive(&mut lab, "n1", "tap");
    for (node, pod) in [("n1", "p1"), ("n2", "p2")] {
        lab.add_pod(node, pod).unwrap();
    }
    let second = Duration::from_secs(1);
    for (from, to) in [("p1", "p2"), ("p2", "p1")] {
        let target = (to, lab.pod(to).unwrap().address);
        assert!(lab.iperf(from, target, Load::Tcp, second).unwrap().gbits > 0.05);
    }
    assert_eq!(lost(&lab, "n1"), []);
}
