//! The CNI plugin as runtimes call it, rightly and wrongly: what it answers, and
//! that a call that fails leaves nothing.

use std::fs;

use culvert_lab::{Answer, Call, Lab, NodeKind, Pod};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

mod common;

fn ask(lab: &Lab, what: &str) -> Value {
    let output = lab.culvert("n1", &[what, "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

/// Endpoints and routes of n1 and the devices in `place`.
fn picture(lab: &Lab, place: &str) -> (Value, Value, String) {
    let devices = lab.run(place, &["ip", "-o", "link"]).unwrap().stdout;
    (ask(lab, "endpoints"), ask(lab, "routes"), devices)
}

fn ip(lab: &Lab, place: &str, args: &str) {
    let argv: Vec<&str> = std::iter::once("ip").chain(args.split(' ')).collect();
    lab.run(place, &argv).unwrap();
}

/// Makes a call that must fail with this code, name all of `named`, and leave
/// things as they were in n1 and in `place`.
fn refused(lab: &Lab, place: &str, call: &Call, (code, named): (u64, &[&str])) {
    let before = picture(lab, place);
    let answer = call.answer().unwrap();
    assert!(!answer.success, "{answer:?}");
    assert_eq!(answer.code(), Some(code), "{answer:?}");
    for name in named {
        assert!(answer.message().contains(name), "no `{name}` in {answer:?}");
    }
    assert_eq!(before, picture(lab, place), "after {answer:?}");
}

fn granted(call: &Call) -> Answer {
    let answer = call.answer().unwrap();
    assert!(answer.success, "{answer:?}");
    answer
}

/// The CHECK that a runtime would make of a pod.
fn check(lab: &Lab, pod: &Pod) -> Call {
    let call = lab.call("CHECK", "n1", &pod.name);
    call.key("prevResult", pod.result.clone().unwrap())
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn adds_that_cannot_be_leave_nothing() {
    let lab = common::mixed_lab();
    lab.add_place("x").unwrap();
    let add = lab.call("ADD", "n1", "x");
    let plain = lab.dir().join("plain");
    fs::write(&plain, "").unwrap();
    let plain = plain.display().to_string();
    let own = format!("/var/run/netns/{}", lab.namespace("n1"));
    let taken = lab.pod("p1").unwrap().address.to_string();
    let holder = &lab.pod("p1").unwrap().container;

    let cases: Vec<(Call, u64, Vec<&str>)> = vec![
        (
            add.clone().env("CNI_NETNS", "/run/netns/none"),
            4,
            vec!["CNI_NETNS", "/run/netns/none"],
        ),
        (
            add.clone().env("CNI_NETNS", &plain),
            4,
            vec!["CNI_NETNS", &plain],
        ),
        (
            add.clone().env("CNI_NETNS", "/dev/null"),
            4,
            vec!["CNI_NETNS", "/dev/null"],
        ),
        (
            add.clone().env("CNI_NETNS", &own),
            8,
            vec!["CNI_NETNS", &own],
        ),
        (add.clone().without("CNI_NETNS"), 4, vec!["CNI_NETNS"]),
        (
            add.clone().without("CNI_CONTAINERID"),
            4,
            vec!["CNI_CONTAINERID"],
        ),
        (
            add.clone().env("CNI_CONTAINERID", "../x"),
            4,
            vec!["CNI_CONTAINERID"],
        ),
        (add.clone().env("CNI_IFNAME", "a/b"), 4, vec!["CNI_IFNAME"]),
        (add.clone().env("CNI_IFNAME", "lo"), 4, vec!["CNI_IFNAME"]),
        (
            add.clone().env("CNI_IFNAME", "sixteen-letters-"),
            4,
            vec!["CNI_IFNAME"],
        ),
        (
            add.clone().env("CNI_COMMAND", "MOVE"),
            4,
            vec!["CNI_COMMAND", "MOVE"],
        ),
        (add.clone().stdin("{\"cniVersion\": "), 6, vec!["JSON"]),
        (add.clone().stdin(""), 6, vec!["empty"]),
        (
            add.clone().key("stateDir", json!("/var/lib/elsewhere")),
            7,
            vec!["stateDir", "/var/lib/elsewhere", "n1/state"],
        ),
        (add.clone().stdin("[]"), 6, vec!["a list"]),
        (
            add.clone().key("cniVersion", json!("9.9.9")),
            1,
            vec!["9.9.9"],
        ),
        (
            add.clone().key("cniVersion", json!(1)),
            7,
            vec!["cniVersion"],
        ),
        (
            add.clone()
                .key("runtimeConfig", json!({"ips": ["10.244.9.9"]})),
            101,
            vec!["10.244.9.9", "10.244.1.0/24"],
        ),
        (
            add.clone().key("runtimeConfig", json!({"ips": [taken]})),
            101,
            vec![&taken, holder],
        ),
        (
            add.clone().key("runtimeConfig", json!({"ips": ["x"]})),
            7,
            vec!["ips"],
        ),
        (
            add.clone().env("CNI_ARGS", "IP=10.244.1.0"),
            101,
            vec!["10.244.1.0"],
        ),
        (
            add.clone().env("CNI_ARGS", "IP=nowhere"),
            4,
            vec!["nowhere"],
        ),
    ];
    for (call, code, named) in &cases {
        refused(&lab, "x", call, (*code, named));
    }

    // The interface's name is taken, by a device or by another pod's attachment.
    ip(&lab, "x", "link add eth0 type bridge");
    refused(&lab, "x", &add, (4, &["CNI_IFNAME", "eth0", "already"]));
    ip(&lab, "x", "link del eth0");
    let p1 = format!("/var/run/netns/{}", lab.namespace("p1"));
    refused(
        &lab,
        "p1",
        &add.clone().env("CNI_NETNS", &p1),
        (4, &["CNI_IFNAME", "eth0"]),
    );

    // A name that is fine, but an address that the device already routes elsewhere.
    ip(&lab, "x", "link add other type bridge");
    ip(&lab, "x", "link set other up");
    ip(&lab, "x", "route add default dev other");
    let before = picture(&lab, "x");
    let answer = add.answer().unwrap();
    assert!(!answer.success, "{answer:?}");
    assert!(
        answer.json["details"]
            .to_string()
            .contains("another interface"),
        "{answer:?}"
    );
    assert_eq!(before, picture(&lab, "x"), "after {answer:?}");
    ip(&lab, "x", "link del other");

    // After all of it, it works, with an address of one's own choice too.
    granted(
        &add.clone()
            .env("CNI_ARGS", "IgnoreUnknown=1;IP=10.244.1.77"),
    );
    assert_eq!(
        lab.ping("x", lab.pod("p2").unwrap().address, 2)
            .unwrap()
            .received,
        2
    );
    assert_eq!(
        lab.ping("p1", "10.244.1.77".parse().unwrap(), 2)
            .unwrap()
            .received,
        2
    );
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_duplicate_add_leaves_the_first_alone() {
    let lab = common::mixed_lab();
    let before = picture(&lab, "p1");
    let answer = lab.call("ADD", "n1", "p1").answer().unwrap();
    assert!(
        !answer.success && answer.message().contains("10.244.1."),
        "{answer:?}"
    );
    assert_eq!(before, picture(&lab, "p1"));
    granted(&check(&lab, lab.pod("p1").unwrap()));
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn check_sees_what_somebody_changed() {
    let mut lab = common::mixed_lab();
    lab.add_pod("n1", "p3").unwrap();
    let pod = lab.pod("p1").unwrap().clone();
    granted(&check(&lab, &pod));
    let unknown = check(&lab, &pod).env("CNI_CONTAINERID", "nobody");
    refused(&lab, "p1", &unknown, (3, &["nobody"]));
    let without = lab.call("CHECK", "n1", "p1");
    refused(&lab, "p1", &without, (7, &["prevResult"]));
    let other = check(&lab, lab.pod("p3").unwrap()).key("prevResult", pod.result.clone().unwrap());
    assert!(other.answer().unwrap().message().contains("prevResult"));

    let gateway = "route add default via 169.254.1.1 dev eth0";
    let address = format!("address add {}/32 dev eth0", pod.address);
    let mended = format!("{address}\nroute replace 169.254.1.1 dev eth0\n{gateway}");
    for (harm, mend, said) in [
        (
            "link set eth0 mtu 1400",
            "link set eth0 mtu 1450",
            "MTU is 1400, not 1450",
        ),
        ("route del default", gateway, "route 0.0.0.0/0"),
        (
            "address flush dev eth0 scope global",
            &mended,
            &pod.address.to_string(),
        ),
        ("link set eth0 address 02:00:00:00:00:01", "", "MAC address"),
    ] {
        ip(&lab, "p1", harm);
        let answer = check(&lab, &pod).answer().unwrap();
        assert!(
            !answer.success && answer.message().contains(said),
            "{harm}: {answer:?}"
        );
        for line in mend.lines() {
            let argv: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
            // A part of it may not have been lost.
            let _ = lab
                .exec("p1", &argv, std::time::Duration::from_secs(5))
                .unwrap();
        }
        if !mend.is_empty() {
            granted(&check(&lab, &pod));
        }
    }
    ip(&lab, "p1", "link del eth0");
    let answer = check(&lab, &pod).answer().unwrap();
    assert!(answer.message().contains("no interface eth0"), "{answer:?}");
    // The other pod is none the worse, and the harmed one can be deleted and added.
    granted(&check(&lab, lab.pod("p3").unwrap()));
    lab.delete_pod("p1").unwrap();
    lab.add_pod("n1", "p1").unwrap();
    assert_eq!(
        lab.ping("p3", lab.pod("p1").unwrap().address, 1)
            .unwrap()
            .received,
        1
    );
}

/// Gives n1 another block of addresses.
fn with_block(lab: &mut Lab, block: &str) {
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    let path = lab.dir().join("n1/cluster.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("10.244.1.0/24", block)).unwrap();
    lab.start_daemon("n1").unwrap();
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_pool_that_is_used_up_can_be_used_again() {
    let kinds = [("n1", NodeKind::Culvert, 1)];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    with_block(&mut lab, "10.244.1.0/29");
    let mut given = Vec::new();
    loop {
        let place = format!("p{}", given.len());
        lab.add_place(&place).unwrap();
        let add = lab.call("ADD", "n1", &place);
        let before = picture(&lab, &place);
        let answer = add.answer().unwrap();
        match answer.address() {
            Some(address) => given.push(address),
            None => {
                assert_eq!(answer.code(), Some(101), "{answer:?}");
                assert!(answer.message().contains("10.244.1.0/29"), "{answer:?}");
                assert_eq!(before, picture(&lab, &place));
                break;
            }
        }
    }
    assert!((5..=6).contains(&given.len()), "{given:?}");
    granted(&lab.call("DEL", "n1", "p2"));
    let last = format!("p{}", given.len());
    assert_eq!(
        granted(&lab.call("ADD", "n1", &last)).address(),
        Some(given[2])
    );
    assert_eq!(lab.ping(&last, given[0], 1).unwrap().received, 1);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn del_succeeds_whatever_is_still_there() {
    let mut lab = common::mixed_lab();
    let left = |lab: &Lab| ask(lab, "endpoints").as_array().unwrap().len();
    granted(&lab.call("DEL", "n1", "nobody"));
    for (number, place) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        lab.add_place(place).unwrap();
        granted(&lab.call("ADD", "n1", place));
        assert_eq!(left(&lab), 2);
        let del = lab.call("DEL", "n1", place);
        match number {
            0 => drop(granted(&del)),
            1 => drop(granted(&del.clone().without("CNI_NETNS"))),
            2 => {
                lab.delete_place(place).unwrap();
                granted(&del);
            }
            3 => {
                ip(&lab, place, "link del eth0");
                granted(&del);
            }
            // The runtime changed the configuration since.
            _ => drop(granted(
                &del.clone().key("runtimeConfig", json!({"ips": [1]})),
            )),
        }
        granted(&del);
        assert_eq!(left(&lab), 1, "{place}");
    }
    // While no daemon is there, deletions wait for the next.
    lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
    let status = lab
        .call("STATUS", "n1", "p1")
        .key("cniVersion", json!("1.1.0"));
    let answer = status.answer().unwrap();
    assert_eq!(answer.code(), Some(50), "{answer:?}");
    assert_eq!(
        lab.call("ADD", "n1", "a").answer().unwrap().code(),
        Some(11)
    );
    for _ in 0..2 {
        granted(&lab.call("DEL", "n1", "p1"));
    }
    lab.start_daemon("n1").unwrap();
    assert_eq!(left(&lab), 0);
    let devices = lab.run("p1", &["ip", "-o", "link"]).unwrap().stdout;
    assert!(!devices.contains("eth0"), "{devices}");
    let spool = lab.dir().join("n1/state/spool");
    assert_eq!(fs::read_dir(spool).unwrap().count(), 0);
    granted(&status);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn gc_deletes_what_the_runtime_does_not_list() {
    let mut lab = common::mixed_lab();
    lab.add_pod("n1", "p3").unwrap();
    let gc = lab.call("GC", "n1", "p1").key("cniVersion", json!("1.1.0"));
    refused(&lab, "p1", &gc, (7, &["cni.dev/valid-attachments"]));
    let keep = json!([{"containerID": lab.pod("p3").unwrap().container, "ifname": "eth0"}]);
    // Another configuration's list does not tell of this one's attachments.
    let none = gc.clone().key("cni.dev/valid-attachments", json!([]));
    granted(&none.key("name", json!("another")));
    assert_eq!(ask(&lab, "endpoints").as_array().unwrap().len(), 2);
    granted(&gc.key("cni.dev/valid-attachments", keep));
    let left = ask(&lab, "endpoints");
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(
        lab.ping("p3", lab.pod("p2").unwrap().address, 1)
            .unwrap()
            .received,
        1
    );
    let version = lab.call("VERSION", "n1", "p1").answer().unwrap();
    assert!(
        version.json["supportedVersions"]
            .as_array()
            .unwrap()
            .contains(&json!("1.0.0"))
    );
}
