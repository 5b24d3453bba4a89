//! What culvertd says when it cannot start, and that it leaves nothing behind then.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use culvert_lab::{Lab, NodeKind};
use nix::sys::signal::Signal;

mod common;

/// n1 with culvert, whose daemon is stopped, and n2.
fn lab() -> Lab {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Kernel, 2)];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    lab
}

/// Devices, addresses, routes and listening sockets of n1.
fn picture(lab: &Lab) -> String {
    let look = "ip -j link; ip -j -4 address; ip -j -4 route show table all; \
                tail -n +2 /proc/net/udp | cut -c 1-60; grep culvert /proc/net/unix || true";
    lab.run("n1", &["sh", "-ec", look]).unwrap().stdout
}

/// Tries to start culvertd on n1, which must fail, name all of `named` and leave n1 as it was.
fn refused(lab: &Lab, named: &[&str]) {
    let before = picture(lab);
    let said = start(lab);
    for name in named {
        assert!(said.contains(name), "no `{name}` in: {said}");
    }
    assert_eq!(before, picture(lab), "after: {said}");
}

fn start(lab: &Lab) -> String {
    let daemon = lab.program("culvertd").unwrap();
    let config = file(lab, "culvert.toml").display().to_string();
    let argv = [daemon.as_str(), "--config", &config];
    let output = lab.exec("n1", &argv, Duration::from_secs(10)).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    output.stderr
}

fn file(lab: &Lab, name: &str) -> PathBuf {
    lab.dir().join("n1").join(name)
}

/// Runs `test` with `from` replaced by `to` in a file of n1.
fn with(lab: &Lab, (name, from, to): (&str, &str, &str), test: impl FnOnce()) {
    let path = file(lab, name);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
    test();
    fs::write(&path, text).unwrap();
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn wrong_files_are_named_with_what_is_wrong() {
    let mut lab = lab();
    let cases: [(&str, &str, &str, &[&str]); 8] = [
        (
            "culvert.toml",
            "node = ",
            "node ",
            &["culvert.toml", "line 1"],
        ),
        (
            "culvert.toml",
            "[host]",
            "[hosts]",
            &["culvert.toml", "hosts"],
        ),
        (
            "culvert.toml",
            "\"n1\"",
            "\"n7\"",
            &["cluster.toml", "n7", "n1, n2"],
        ),
        (
            "culvert.toml",
            "cluster.toml",
            "no.toml",
            &["no.toml", "No such file"],
        ),
        (
            "cluster.toml",
            "vni = 1",
            "vnii = 1",
            &["cluster.toml", "vnii"],
        ),
        ("cluster.toml", "vni = 1", "vni = 16777216", &["16777216"]),
        (
            "cluster.toml",
            "10.244.2.0/24",
            "10.244.0.0/20",
            &[
                "\"n1\"",
                "\"n2\"",
                "10.244.1.0/24",
                "10.244.0.0/20",
                "overlaps",
            ],
        ),
        (
            "cluster.toml",
            "192.168.77.1",
            "192.168.77.99",
            &["192.168.77.99", "192.168.77.1", "eth0", "n1"],
        ),
    ];
    for (name, from, to, named) in cases {
        with(&lab, (name, from, to), || refused(&lab, named));
    }
    lab.start_daemon("n1").unwrap();
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn what_is_in_the_way_is_named() {
    let mut lab = lab();
    let ip = |args: &str| {
        let argv: Vec<&str> = std::iter::once("ip").chain(args.split(' ')).collect();
        lab.run("n1", &argv).unwrap();
    };

    // The tunnel's UDP port: a process, then the kernel.
    let lab_program = env!("CARGO_BIN_EXE_culvert-lab");
    let argv = [
        lab_program,
        "sink",
        "192.168.77.1:8472",
        "--run",
        "1",
        "--limit-ms",
        "60000",
    ];
    let holder = lab
        .spawn("n1", &argv, |said| said.contains("listening"))
        .unwrap();
    refused(&lab, &["8472", "culvert-lab", "pid"]);
    holder.stop(Signal::SIGKILL).unwrap();
    ip("link add vx type vxlan id 7 dstport 8472 local 192.168.77.1 dev eth0");
    ip("link set vx up");
    refused(&lab, &["8472", "vx", "VNI 7"]);
    ip("link del vx");

    // The host device's name, and its routes.
    ip("link add culvert0 type bridge");
    refused(&lab, &["culvert0", "bridge", "host.device"]);
    ip("link del culvert0");
    ip("link add other type bridge");
    ip("link set other up");
    ip("route add 10.244.0.0/16 dev other");
    refused(&lab, &["10.244.0.0/16", "other"]);
    ip("route del 10.244.0.0/16");
    ip("route add 169.254.1.1 dev other");
    refused(&lab, &["169.254.1.1", "other"]);
    ip("link del other");

    // No room for the tunnel.
    ip("link set eth0 mtu 100");
    refused(&lab, &["eth0", "MTU of 100", "n1"]);
    ip("link set eth0 mtu 1500");
    lab.start_daemon("n1").unwrap();
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn state_that_cannot_be_used_is_named() {
    let mut lab = lab();
    let run = file(&lab, "run").display().to_string();
    let state = file(&lab, "state").display().to_string();

    // A damaged database, in several ways.
    let path = file(&lab, "state/culvert.redb");
    let good = fs::read(&path).unwrap();
    for bad in [
        vec![b'x'; 5000],
        good[..good.len() / 3].to_vec(),
        vec![0; 1],
    ] {
        fs::write(&path, bad).unwrap();
        refused(&lab, &["culvert.redb"]);
    }
    fs::write(&path, good).unwrap();

    // A state directory that is a file.
    fs::write(file(&lab, "plain"), "").unwrap();
    let plain = file(&lab, "plain").display().to_string();
    with(&lab, ("culvert.toml", &state, &plain), || {
        refused(&lab, &["plain", "state directory"]);
    });

    // Another culvertd with the same run directory, then with the same state.
    lab.start_daemon("n1").unwrap();
    refused(&lab, &["another culvertd", &run]);
    let elsewhere = file(&lab, "run2").display().to_string();
    with(&lab, ("culvert.toml", &run, &elsewhere), || {
        refused(&lab, &["culvert.redb", "another culvertd"]);
    });
    lab.culvert("n1", &["status"]).unwrap();
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_host_device_that_stayed_gets_the_new_configuration() {
    let mut lab = lab();
    lab.start_daemon("n1").unwrap();
    for (from, to) in [
        ("10.244.1.0/24", "10.244.9.0/24"),
        ("10.244.0.0/16", "10.244.0.0/15"),
        ("[network]", "[network]\ngateway = \"169.254.7.7\""),
    ] {
        lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
        let path = file(&lab, "cluster.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        // Over the device of the former configuration, and then without one.
        lab.start_daemon("n1").unwrap();
        let over = routes_and_addresses(&lab);
        lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
        lab.start_daemon("n1").unwrap();
        assert_eq!(over, routes_and_addresses(&lab), "{to}");
        lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
        fs::write(&path, text).unwrap();
        lab.start_daemon("n1").unwrap();
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn the_soft_limit_of_open_files_does_not_limit_pods() {
    let lab = lab();
    let daemon = lab.program("culvertd").unwrap();
    let config = file(&lab, "culvert.toml").display().to_string();
    let script = format!("ulimit -Sn 48; exec {daemon} --config {config}");
    let argv = ["sh", "-ec", &script];
    let service = lab
        .spawn("n1", &argv, |said| said.contains("ready"))
        .unwrap();
    for number in 0..48 {
        let place = format!("c{number}");
        lab.add_place(&place).unwrap();
        let answer = lab.call("ADD", "n1", &place).answer().unwrap();
        assert!(answer.success, "{answer:?}");
    }
    service.stop(Signal::SIGTERM).unwrap();
}

/// Addresses and routes of n1's host device.
fn routes_and_addresses(lab: &Lab) -> String {
    let look = "ip -4 -o address show culvert0 | cut -d \" \" -f 2-7; ip -4 route show dev culvert0 | sort; \
                ip -4 route show table local dev culvert0";
    lab.run("n1", &["sh", "-ec", look]).unwrap().stdout
}
