//! What the daemon tells of drops and path MTUs.

use std::time::Duration;

use culvert_lab::{Lab, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

mod common;
#[path = "common/frames.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod frames;

use frames::{Ip, ethernet, hex, udp};

fn events(lab: &Lab) -> String {
    lab.culvert("n1", &["events"]).unwrap().stdout
}

/// Waits until a line of the events has all of these words.
fn told(lab: &Lab, words: &[&str]) {
    let has = |line: &str| words.iter().all(|word| line.contains(word));
    let what = format!("an event with {words:?}");
    let found = wait_for(&what, Duration::from_secs(5), || {
        Ok(events(lab).lines().any(has).then_some(()))
    });
    if let Err(error) = found {
        panic!("{error}; instead: {}", events(lab));
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn drops_are_told_with_the_pod_and_who_sent_what_to_whom() {
    let lab = common::mixed_lab();
    let command = lab.culvert_command("n1").unwrap();
    let argv = ["sh", "-c", &format!("exec {command} events --follow")];
    let following = lab.spawn("n1", &argv, |_| true).unwrap();
    let target = lab.pod("p2").unwrap().address.to_string();
    // Afterwards the pod knows its gateway's MAC address and does not ask for it.
    let known = lab.ping("p1", target.parse().unwrap(), 1).unwrap();
    assert_eq!(known.received, 1);
    lab.run(
        "p1",
        &["ip", "address", "add", "10.9.9.9/32", "dev", "eth0"],
    )
    .unwrap();
    let argv = ["ping", "-c", "1", "-W", "1", "-I", "10.9.9.9", &target];
    lab.exec("p1", &argv, Duration::from_secs(5)).unwrap();
    let packet = format!("10.9.9.9 → {target} icmp type 8 code 0");
    told(
        &lab,
        &["drop source-ip", "pod ", "eth0", &packet, "98 bytes"],
    );
    // A tunnel packet of nobody's, as it comes off the wire.
    let inner = [0x45, 0, 0, 20];
    let vxlan = [&[8, 0, 0, 0, 0, 0, 9, 0][..], &[2; 12], &[8, 0], &inner].concat();
    let packet = Ip::udp("192.168.77.2", "192.168.77.1").packet(&udp(50_000, 8472, &vxlan));
    inject(&lab, &packet);
    told(
        &lab,
        &["drop unknown-vni", "underlay eth0", "VXLAN VNI 9: "],
    );
    wait_for("both in what is followed", Duration::from_secs(5), || {
        let printed = following.printed();
        let both = ["drop source-ip", "drop unknown-vni"];
        Ok(both.iter().all(|drop| printed.contains(drop)).then_some(()))
    })
    .unwrap();
    following.stop(Signal::SIGTERM).unwrap();
    let log = lab.log_tails(50);
    assert!(log.contains("dropped: source-ip"), "{log}");
}

fn inject(lab: &Lab, packet: &[u8]) {
    let [to, from] = ["n1", "n2"].map(|node| lab.underlay_mac(node).unwrap());
    let frame = hex(&ethernet(&to, &from, 0x0800, packet));
    let program = env!("CARGO_BIN_EXE_culvert-lab");
    lab.run("n2", &[program, "inject", "eth0", &frame]).unwrap();
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_smaller_path_mtu_is_told_and_shown_with_its_peer() {
    let lab = common::mixed_lab();
    let peer = || -> Value {
        let output = lab.culvert("n1", &["peers", "-o", "json"]).unwrap();
        let peers: Value = serde_json::from_str(&output.stdout).unwrap();
        peers[0].clone()
    };
    assert_eq!(
        (&peer()["path_mtu"], &peer()["mtu"]),
        (&Value::Null, &1450.into())
    );
    // What a router says about a tunnel packet to n2: fragmentation needed.
    let quoted = Ip::udp("192.168.77.1", "192.168.77.2").packet(&udp(8472, 8472, &[0; 8]));
    let message = [&[3, 4, 0, 0, 0, 0, 5, 20][..], &quoted].concat();
    let sum = frames::checksum(&message);
    let message = [&message[..2], &sum, &message[4..]].concat();
    let router = Ip {
        protocol: 1,
        ..Ip::udp("192.168.77.2", "192.168.77.1")
    };
    inject(&lab, &router.packet(&message));
    told(&lab, &["path-mtu", "peer n2 192.168.77.2", "1300"]);
    assert_eq!(
        (&peer()["path_mtu"], &peer()["mtu"]),
        (&1300.into(), &1250.into())
    );
    let shown = lab.culvert("n1", &["peers"]).unwrap().stdout;
    assert!(
        shown.contains("PATH MTU") && shown.contains("1300"),
        "{shown}"
    );
    assert!(lab.log_tails(50).contains("the path has a smaller MTU"));
}
