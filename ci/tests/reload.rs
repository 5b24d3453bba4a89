//! A daemon whose files or underlay change while it runs: what stays goes on without a
//! gap, what is wrong is refused, and a pod gets the MTU that the underlay has now.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use culvert_lab::{Lab, NodeKind, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

mod common;

/// n1 with culvert, n2 and n3 with the kernel's VXLAN, a pod on each.
fn lab() -> Lab {
    let kinds = [
        ("n1", NodeKind::Culvert, 1),
        ("n2", NodeKind::Kernel, 2),
        ("n3", NodeKind::Kernel, 3),
    ];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    for (node, pod) in [("n1", "p1"), ("n2", "p2"), ("n3", "p3")] {
        lab.add_pod(node, pod).unwrap();
    }
    lab
}

fn cluster_file(lab: &Lab) -> PathBuf {
    lab.dir().join("n1/cluster.toml")
}

/// The cluster file without one of its nodes, and that node's section.
fn without(text: &str, name: &str) -> (String, String) {
    let (head, nodes) = text.split_once("[[node]]").unwrap();
    let (gone, stay): (Vec<&str>, Vec<&str>) = nodes
        .split("[[node]]")
        .partition(|node| node.contains(&format!("\"{name}\"")));
    let join = |nodes: Vec<&str>| -> String {
        let nodes = nodes.into_iter().map(|node| format!("[[node]]{node}\n"));
        nodes.collect()
    };
    assert_eq!(gone.len(), 1, "{text}");
    (head.to_owned() + &join(stay), join(gone))
}

fn show(lab: &Lab, what: &str) -> Value {
    let output = lab.culvert("n1", &[what, "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

fn reload(lab: &Lab) -> String {
    let output = lab.culvert("n1", &["reload"]).unwrap();
    output.success().unwrap().stdout
}

fn ip(lab: &Lab, place: &str, args: &str) {
    let argv: Vec<&str> = std::iter::once("ip").chain(args.split(' ')).collect();
    lab.run(place, &argv).unwrap();
}

fn reaches(lab: &Lab, pod: &str) -> bool {
    let target = lab.pod(pod).unwrap().address;
    lab.ping("p1", target, 1).unwrap().received == 1
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn nodes_come_and_go_and_nobody_else_loses_a_packet() {
    let mut lab = lab();
    let whole = fs::read_to_string(cluster_file(&lab)).unwrap();
    let (part, n3) = without(&whole, "n3");
    // n3 in front of all others: ids do not follow the order in the file.
    let turned = part.replacen("[[node]]", &format!("{n3}[[node]]"), 1);
    let target = lab.pod("p2").unwrap().address.to_string();
    let argv = ["ping", "-i", "0.005", "-c", "1000", "-q", &target];
    let pings = lab
        .spawn("p1", &argv, |said| said.contains("PING"))
        .unwrap();
    for round in 0..8 {
        fs::write(cluster_file(&lab), &part).unwrap();
        let told = reload(&lab);
        assert!(told.contains("node n3 is gone"), "{round}: {told}");
        if round == 0 {
            assert!(!reaches(&lab, "p3"));
            let routes = show(&lab, "routes").to_string();
            assert!(!routes.contains("10.244.3.0") && routes.contains("10.244.2.0"));
        }
        let again = if round % 2 == 0 { &turned } else { &whole };
        fs::write(cluster_file(&lab), again).unwrap();
        let told = reload(&lab);
        assert!(told.contains("node n3 is new"), "{round}: {told}");
        assert!(reaches(&lab, "p3"), "{round}");
        // Attachments come and go as before.
        let place = format!("c{round}");
        lab.add_place(&place).unwrap();
        let answer = lab.call("ADD", "n1", &place).answer().unwrap();
        assert!(answer.success, "{answer:?}");
    }
    assert_eq!(reload(&lab).trim(), "nothing has changed");
    let printed = pings.finish(Duration::from_secs(60)).unwrap();
    assert!(printed.contains("1000 received"), "{printed}");
    assert_eq!(show(&lab, "endpoints").as_array().unwrap().len(), 9);
    assert_eq!(show(&lab, "peers").as_array().unwrap().len(), 2);
    // The other end of a pod's life does not care either.
    lab.delete_pod("p1").unwrap();
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_hangup_signal_reloads_and_the_status_says_what_came_of_it() {
    let lab = lab();
    let whole = fs::read_to_string(cluster_file(&lab)).unwrap();
    fs::write(cluster_file(&lab), without(&whole, "n3").0).unwrap();
    let pid = i32::try_from(lab.daemon_pid("n1").unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    wait_for("the reload in the status", Duration::from_secs(5), || {
        let changes = show(&lab, "status")["reloaded"]["changes"].to_string();
        Ok(changes.contains("node n3 is gone").then_some(()))
    })
    .unwrap();
    let status = lab.culvert("n1", &["status"]).unwrap().stdout;
    assert!(status.contains("ago: node n3 is gone"), "{status}");
    assert!(lab.log_tails(50).contains("changed: node n3 is gone"));
    assert!(!reaches(&lab, "p3") && reaches(&lab, "p2"));
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_is_wrong_is_refused_and_everything_goes_on() {
    let lab = lab();
    let good = fs::read_to_string(cluster_file(&lab)).unwrap();
    let routes = show(&lab, "routes");
    let cases: [(&str, &str, &[&str]); 5] = [
        ("vni = 1", "vni = = 1", &["cluster.toml", "line"]),
        ("vni = 1", "vnii = 1", &["cluster.toml", "vnii", "line"]),
        (
            "10.244.2.0/24",
            "10.244.3.0/24",
            &["cluster.toml", "\"n3\"", "\"n2\"", "overlaps"],
        ),
        (
            "vni = 1",
            "vni = 2",
            &["cluster.toml", "vni is 2 and was 1", "restart"],
        ),
        (
            "192.168.77.1\"",
            "192.168.77.99\"",
            &["cluster.toml", "192.168.77.99", "restart"],
        ),
    ];
    for (from, to, named) in cases {
        assert!(good.contains(from), "{good}");
        fs::write(cluster_file(&lab), good.replacen(from, to, 1)).unwrap();
        let limit = Duration::from_secs(10);
        let command = lab.culvert_command("n1").unwrap();
        let argv = ["sh", "-c", &format!("{command} reload")];
        let output = lab.exec("n1", &argv, limit).unwrap();
        assert_eq!(output.status.code(), Some(1), "{to}: {}", output.stdout);
        let status = lab.culvert("n1", &["status"]).unwrap().stdout;
        for name in named {
            assert!(
                output.stderr.contains(name),
                "no {name} in {}",
                output.stderr
            );
            assert!(status.contains(name), "no {name} in {status}");
        }
        assert_eq!(show(&lab, "routes"), routes, "{to}");
        assert!(reaches(&lab, "p2") && reaches(&lab, "p3"), "{to}");
    }
    fs::write(cluster_file(&lab), &good).unwrap();
    assert_eq!(reload(&lab).trim(), "nothing has changed");
    assert_eq!(show(&lab, "status")["problems"], serde_json::json!([]));
}

/// To the same nodes through a tunnel, without one, and back.
#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_cluster_changes_to_direct_routes_and_back() {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Culvert, 2)];
    let mut plan = common::plan(&kinds);
    plan.networks[0].settings = "accept = [\"direct\"]\n".to_owned();
    let mut lab = Lab::new(plan).unwrap();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n2", "p2").unwrap();
    let target = lab.pod("p2").unwrap().address.to_string();
    let argv = ["ping", "-i", "0.01", "-c", "400", "-q", &target];
    let pings = lab
        .spawn("p1", &argv, |said| said.contains("PING"))
        .unwrap();
    let route = || {
        lab.run("n1", &["ip", "route", "show", "10.244.2.0/24"])
            .unwrap()
            .stdout
    };
    let write = |from: &str, to: &str| {
        let text = fs::read_to_string(cluster_file(&lab)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(cluster_file(&lab), text.replacen(from, to, 1)).unwrap();
    };
    let (tunnel, mixed) = (
        "accept = [\"direct\"]",
        "encap = \"cross-subnet\"\naccept = [\"direct\"]",
    );
    for _ in 0..3 {
        write(tunnel, mixed);
        assert!(reload(&lab).contains("encap: vxlan → cross-subnet"));
        assert!(route().contains("via 192.168.77.2"), "{}", route());
        assert!(reaches(&lab, "p2"));
        write(mixed, tunnel);
        assert!(reload(&lab).contains("encap: cross-subnet, vxlan → vxlan"));
        assert_eq!(route(), "");
        assert!(reaches(&lab, "p2"));
    }
    let printed = pings.finish(Duration::from_secs(60)).unwrap();
    assert!(printed.contains("400 received"), "{printed}");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_pod_gets_the_mtu_that_the_underlay_has_now_and_none_without() {
    let lab = lab();
    for place in ["c1", "c2"] {
        lab.add_place(place).unwrap();
    }
    let mtu = |place: &str, device: &str| {
        let shown = lab.run(place, &["ip", "-j", "link", "show", device]);
        let links: Value = serde_json::from_str(&shown.unwrap().stdout).unwrap();
        links[0]["mtu"].as_u64().unwrap()
    };
    ip(&lab, "n1", "link set eth0 mtu 1400");
    let add = lab.call("ADD", "n1", "c1");
    let answer = add.key("cniVersion", "1.1.0".into()).answer().unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!(answer.json["interfaces"][0]["mtu"], 1350, "{answer:?}");
    assert_eq!((mtu("c1", "eth0"), mtu("n1", "culvert0")), (1350, 1350));
    // Who was there before keeps its MTU, and is told when a packet is too large.
    assert_eq!(mtu("p1", "eth0"), 1450);
    let target = lab.pod("p2").unwrap().address.to_string();
    let argv = [
        "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1350", &target,
    ];
    let large = lab.exec("p1", &argv, Duration::from_secs(5)).unwrap();
    let told = large.stdout + &large.stderr;
    assert!(told.contains("1350") && told.contains("mtu"), "{told}");
    assert!(reaches(&lab, "p2"));
    let status = show(&lab, "status");
    assert_eq!(status["pod_mtu"], 1350, "{status}");
    assert_eq!(status["problems"], serde_json::json!([]), "{status}");
    let endpoints = show(&lab, "endpoints");
    assert!(
        endpoints
            .as_array()
            .unwrap()
            .iter()
            .all(|pod| pod["state"] == "ready"),
        "{endpoints}"
    );
    let result = lab.pod("p1").unwrap().result.clone().unwrap();
    let check = lab.call("CHECK", "n1", "p1").key("prevResult", result);
    let answer = check.answer().unwrap();
    assert!(answer.success, "{answer:?}");

    let refused = |named: &[&str]| {
        let answer = lab.call("ADD", "n1", "c2").answer().unwrap();
        assert_eq!(
            (answer.success, answer.code()),
            (false, Some(11)),
            "{answer:?}"
        );
        for name in named.iter().chain(&["MTU of a new pod"]) {
            assert!(answer.message().contains(name), "no {name} in {answer:?}");
        }
        let left = lab.run("c2", &["ip", "-o", "link"]).unwrap().stdout;
        assert!(!left.contains("eth0"), "{left}");
        assert_eq!(show(&lab, "endpoints").as_array().unwrap().len(), 2);
    };
    ip(&lab, "n1", "link set eth0 mtu 100");
    refused(&["eth0", "MTU of 100", "n1"]);
    ip(&lab, "n1", "link set eth0 mtu 1500");
    ip(&lab, "n1", "address del 192.168.77.1/24 dev eth0");
    refused(&["eth0", "192.168.77.1", "give it back"]);
    ip(&lab, "n1", "address add 192.168.77.1/24 dev eth0");
    let answer = lab.call("ADD", "n1", "c2").answer().unwrap();
    assert!(answer.success, "{answer:?}");
    assert_eq!((mtu("c2", "eth0"), mtu("n1", "culvert0")), (1450, 1450));
    assert!(reaches(&lab, "p2"));
    let answer = lab.call("DEL", "n1", "c2").answer().unwrap();
    assert!(answer.success, "{answer:?}");

    ip(&lab, "n1", "link del eth0");
    refused(&["eth0 is gone", "192.168.77.1"]);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_new_mtu_of_the_underlay_is_adopted_though_nobody_asks() {
    let lab = lab();
    ip(&lab, "n1", "link set eth0 mtu 1300");
    wait_for("the host's device with it", Duration::from_secs(5), || {
        let shown = lab.run("n1", &["ip", "link", "show", "culvert0"])?;
        Ok(shown.stdout.contains("mtu 1250").then_some(()))
    })
    .unwrap();
    let log = lab.log_tails(50);
    assert!(
        log.contains("underlay: eth0 mtu 1500 prefix /24 → eth0 mtu 1300"),
        "{log}"
    );
    assert!(reaches(&lab, "p2") && reaches(&lab, "p3"));
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn direct_routes_that_somebody_deletes_come_back() {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Culvert, 2)];
    let mut plan = common::plan(&kinds);
    plan.networks[0].settings = "encap = \"cross-subnet\"\n".to_owned();
    let mut lab = Lab::new(plan).unwrap();
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n2", "p2").unwrap();
    let back = |after: &str| {
        let name = format!("the route after {after}");
        wait_for(&name, Duration::from_secs(5), || {
            let shown = lab.run("n1", &["ip", "route", "show", "10.244.2.0/24"])?;
            Ok(shown
                .stdout
                .contains("via 192.168.77.2 dev eth0 proto 197")
                .then_some(()))
        })
        .unwrap();
        assert!(reaches(&lab, "p2"), "{after}");
    };
    for harm in ["route del 10.244.2.0/24", "route flush proto 197 dev eth0"] {
        ip(&lab, "n1", harm);
        back(harm);
    }
    assert!(
        lab.log_tails(50)
            .contains("10.244.2.0/24 via 192.168.77.2 dev eth0 was lost, and is back")
    );
    // The kernel takes it away itself, and says nothing of the route.
    ip(&lab, "n1", "link set eth0 down");
    ip(&lab, "n1", "link set eth0 up");
    back("eth0 was down");
    // Something is in the way.
    ip(
        &lab,
        "n1",
        "route replace 10.244.2.0/24 via 192.168.77.77 dev eth0",
    );
    wait_for("the problem in the status", Duration::from_secs(5), || {
        let status = lab.culvert("n1", &["status"])?.stdout;
        Ok(status
            .contains("192.168.77.77 dev eth0 is in the way")
            .then_some(()))
    })
    .unwrap();
    ip(&lab, "n1", "route del 10.244.2.0/24");
}
