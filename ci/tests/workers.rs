//! Several workers: each forwards its share of the flows, both ways, by the same tables.

use std::fs;
use std::time::Duration;

use culvert_lab::{Lab, NodeKind, Plan, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

mod common;
#[path = "common/frames.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod frames;

use frames::{Ip, ethernet, hex, udp};

/// Starts the daemon of n1 again, after `signal`, with so many workers.
fn restart(lab: &mut Lab, signal: Signal, workers: u8) {
    lab.stop_daemon("n1", signal).unwrap();
    let path = lab.dir().join("n1/culvert.toml");
    let text = fs::read_to_string(&path).unwrap();
    let kept = text.split("\n[workers]").next().unwrap();
    fs::write(&path, format!("{kept}\n[workers]\ncount = {workers}\n")).unwrap();
    lab.start_daemon("n1").unwrap();
}

/// n1 with culvert and so many workers, n2 of this kind, a pod on each.
fn lab(plan: Plan, workers: u8) -> Lab {
    let mut lab = Lab::new(plan).unwrap();
    restart(&mut lab, Signal::SIGTERM, workers);
    lab.add_pod("n1", "p1").unwrap();
    lab.add_pod("n2", "p2").unwrap();
    lab
}

fn mixed(workers: u8) -> Lab {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Kernel, 2)];
    lab(common::plan(&kinds), workers)
}

fn show(lab: &Lab, what: &str) -> Value {
    let output = lab.culvert("n1", &[what, "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

/// What each worker has taken in.
fn packets(lab: &Lab) -> Vec<u64> {
    let status = show(lab, "status");
    let workers = status["workers"].as_array().unwrap().iter();
    workers.map(|w| w["packets"].as_u64().unwrap()).collect()
}

fn counter(lab: &Lab, name: &str) -> u64 {
    let counters = show(lab, "counters");
    let mut counters = counters.as_array().unwrap().iter();
    let found = counters.find(|counter| counter["name"] == name);
    found.map_or(0, |counter| counter["value"].as_u64().unwrap())
}

fn reaches(lab: &Lab, from: &str, pod: &str) -> bool {
    let target = lab.pod(pod).unwrap().address;
    let argv = [
        "ping",
        "-n",
        "-c",
        "20",
        "-i",
        "0.05",
        "-W",
        "1",
        &target.to_string(),
    ];
    let said = lab
        .exec(from, &argv, Duration::from_secs(15))
        .unwrap()
        .stdout;
    said.contains(" 20 received") && !said.contains("duplicates")
}

/// Sends by eight TCP flows for a second.
fn iperf(lab: &Lab, from: &str, (to, address): (&str, &str)) {
    let server = ["iperf3", "-s", "-1", "--forceflush", "-B", address];
    let server = lab
        .spawn(to, &server, |said| said.contains("Server listening"))
        .unwrap();
    let argv = ["iperf3", "-c", address, "-P", "8", "-t", "1"];
    let client = lab.exec(from, &argv, Duration::from_secs(20)).unwrap();
    client.success().unwrap();
    server.finish(Duration::from_secs(5)).unwrap();
}

/// Sends by many flows in one direction until all workers have had some.
fn all_take_part(lab: &Lab, from: &str, to: &str) {
    let target = lab.pod(to).unwrap().address;
    let before = packets(lab);
    for _ in 0..5 {
        iperf(lab, from, (to, &target.to_string()));
        let now = packets(lab);
        if now
            .iter()
            .zip(&before)
            .all(|(now, before)| now - before > 100)
        {
            return;
        }
    }
    panic!("{from} → {to}: {before:?} has become {:?}", packets(lab));
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn all_workers_forward_both_ways_and_are_shown() {
    let lab = mixed(2);
    assert_eq!(packets(&lab).len(), 2);
    assert!(reaches(&lab, "p1", "p2") && reaches(&lab, "p2", "p1"));
    all_take_part(&lab, "p1", "p2");
    all_take_part(&lab, "p2", "p1");
    // By the node's own device, too.
    let target = lab.pod("p1").unwrap().address;
    assert_eq!(lab.ping("n1", target, 20).unwrap().received, 20);
    let each: u64 = packets(&lab).iter().sum();
    let (sum, later) = (counter(&lab, "rx"), packets(&lab).iter().sum());
    assert!((each..=later).contains(&sum), "{each} {sum} {later}");
    assert!(counter(&lab, "worker-1-rx") > 100);
    let status = lab.culvert("n1", &["status"]).unwrap().stdout;
    assert!(
        status.contains("worker 1") && status.contains("packets"),
        "{status}"
    );
    assert!(
        status.contains("problems") && status.contains("none"),
        "{status}"
    );
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn another_daemon_finds_the_devices_with_any_number_of_workers() {
    let mut lab = mixed(2);
    for (signal, workers) in [
        (Signal::SIGKILL, 2),
        (Signal::SIGKILL, 1),
        (Signal::SIGTERM, 3),
        (Signal::SIGTERM, 2),
    ] {
        restart(&mut lab, signal, workers);
        assert_eq!(packets(&lab).len(), usize::from(workers));
        assert!(reaches(&lab, "p1", "p2"), "{workers} workers");
        assert!(reaches(&lab, "n1", "p1"), "{workers} workers");
        all_take_part(&lab, "p2", "p1");
        all_take_part(&lab, "p1", "p2");
    }
    lab.delete_pod("p1").unwrap();
    let gone = lab.add_pod("n1", "p1").unwrap();
    assert!(reaches(&lab, "p2", "p1"), "{gone:?}");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_device_with_one_queue_is_served_by_one_of_several_workers() {
    let mut lab = mixed(1);
    assert!(reaches(&lab, "p1", "p2"));
    restart(&mut lab, Signal::SIGKILL, 2);
    assert!(reaches(&lab, "p1", "p2") && reaches(&lab, "p2", "p1"));
    // What comes from the wire comes by all of them, and all write to the pod.
    all_take_part(&lab, "p2", "p1");
    let log = lab.log_tails(50);
    assert!(
        log.contains("eth0 was made for one worker: worker "),
        "{log}"
    );
    lab.delete_pod("p1").unwrap();
    lab.add_pod("n1", "p3").unwrap();
    all_take_part(&lab, "p3", "p2");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_reload_changes_the_tables_of_all_and_not_their_number() {
    let lab = mixed(2);
    let path = lab.dir().join("n1/culvert.toml");
    let own = fs::read_to_string(&path).unwrap();
    fs::write(&path, own.replace("count = 2", "count = 3")).unwrap();
    let said = lab.culvert("n1", &["reload"]).unwrap_err().to_string();
    assert!(
        said.contains("workers is 3") && said.contains("takes a restart"),
        "{said}"
    );
    fs::write(&path, own).unwrap();
    let path = lab.dir().join("n1/cluster.toml");
    let whole = fs::read_to_string(&path).unwrap();
    let without: Vec<&str> = whole
        .split("[[node]]")
        .filter(|node| !node.contains("\"n2\""))
        .collect();
    for _ in 0..5 {
        fs::write(&path, without.join("[[node]]")).unwrap();
        lab.culvert("n1", &["reload"]).unwrap().success().unwrap();
        assert!(!show(&lab, "routes").to_string().contains("10.244.2.0"));
        fs::write(&path, &whole).unwrap();
        lab.culvert("n1", &["reload"]).unwrap().success().unwrap();
        assert!(reaches(&lab, "p1", "p2"));
    }
    all_take_part(&lab, "p1", "p2");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_path_mtu_that_one_worker_learned_holds_for_all() {
    let lab = mixed(2);
    assert!(reaches(&lab, "p1", "p2"));
    // What a router says about a tunnel packet to n2, which one worker's socket gets.
    let quoted = Ip::udp("192.168.77.1", "192.168.77.2").packet(&udp(8472, 8472, &[0; 8]));
    let message = [&[3, 4, 0, 0, 0, 0, 5, 20][..], &quoted].concat();
    let sum = frames::checksum(&message);
    let message = [&message[..2], &sum, &message[4..]].concat();
    let router = Ip {
        protocol: 1,
        ..Ip::udp("192.168.77.2", "192.168.77.1")
    };
    let [to, from] = ["n1", "n2"].map(|node| lab.underlay_mac(node).unwrap());
    let frame = hex(&ethernet(&to, &from, 0x0800, &router.packet(&message)));
    let program = env!("CARGO_BIN_EXE_culvert-lab");
    lab.run("n2", &[program, "inject", "eth0", &frame]).unwrap();
    wait_for("the path MTU", Duration::from_secs(5), || {
        Ok((show(&lab, "peers")[0]["path_mtu"] == 1300).then_some(()))
    })
    .unwrap();
    // Packets to many addresses come by all workers, and each refuses them.
    let (before, dropped) = (packets(&lab), counter(&lab, "drop-too-big"));
    let count = 40;
    for last in 10..10 + count {
        let target = format!("10.244.2.{last}");
        let argv = [
            "ping", "-M", "do", "-s", "1300", "-c", "1", "-W", "1", &target,
        ];
        lab.exec("p1", &argv, Duration::from_secs(5)).unwrap();
    }
    let now = packets(&lab);
    assert!(
        now.iter().zip(&before).all(|(now, before)| now > before),
        "{before:?} {now:?}"
    );
    assert_eq!(counter(&lab, "drop-too-big") - dropped, count);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn ip_in_ip_is_shared_without_copies() {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Culvert, 2)];
    let mut plan = common::plan(&kinds);
    plan.networks[0].settings = "encap = \"ipip\"\n".to_owned();
    let lab = lab(plan, 2);
    assert!(reaches(&lab, "p1", "p2") && reaches(&lab, "p2", "p1"));
    all_take_part(&lab, "p2", "p1");
    all_take_part(&lab, "p1", "p2");
    assert!(reaches(&lab, "p1", "p2"));
}
