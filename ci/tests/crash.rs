//! Many calls at once, and programs killed at any moment: what the plugin has
//! answered, the daemon's tables and the pods' devices agree afterwards.
//!
//! `CULVERT_LAB_ROUNDS` makes the loops longer than they are by default.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use culvert_lab::{Answer, Lab, NodeKind, ProcessId, Service};
use nix::sys::signal::Signal;
use serde_json::Value;

mod common;

/// n1 with culvert, and `places` for containers; n2 with the kernel's VXLAN and its pod p2.
fn lab(places: &[String]) -> Lab {
    let kinds = [("n1", NodeKind::Culvert, 1), ("n2", NodeKind::Kernel, 2)];
    let mut lab = Lab::new(common::plan(&kinds)).unwrap();
    lab.add_pod("n2", "p2").unwrap();
    for place in places {
        lab.add_place(place).unwrap();
    }
    lab
}

fn places(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("c{number}")).collect()
}

fn rounds(default: usize) -> usize {
    match std::env::var("CULVERT_LAB_ROUNDS") {
        Ok(text) => text.parse().expect("CULVERT_LAB_ROUNDS is a number"),
        Err(_) => default,
    }
}

fn ask(lab: &Lab, what: &str) -> Vec<Value> {
    let output = lab.culvert("n1", &[what, "-o", "json"]).unwrap();
    serde_json::from_str(&output.stdout).unwrap()
}

fn call(lab: &Lab, verb: &str, place: &str) -> Answer {
    lab.call(verb, "n1", place).answer().unwrap()
}

fn has_device(lab: &Lab, place: &str) -> bool {
    let argv = ["ip", "link", "show", "eth0"];
    let limit = Duration::from_secs(5);
    lab.exec(place, &argv, limit).unwrap().status.success()
}

/// Demands that exactly these places have a pod, with these addresses, and that
/// each of those reaches the other node.
fn agree(lab: &Lab, places: &[String], present: &BTreeMap<String, Ipv4Addr>) {
    let endpoints = ask(lab, "endpoints");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let seen: BTreeMap<String, String> = endpoints
        .iter()
        .map(|entry| {
            assert_eq!(entry["state"], "ready", "{entry}");
            let place = text(&entry["netns"]).rsplit('-').next().unwrap().to_owned();
            (place, text(&entry["addresses"][0]))
        })
        .collect();
    let wanted: BTreeMap<String, String> = present
        .iter()
        .map(|(place, address)| (place.clone(), address.to_string()))
        .collect();
    assert_eq!(seen, wanted);
    let mut routed: Vec<String> = ask(lab, "routes")
        .iter()
        .filter(|route| text(&route["next_hop"]).starts_with("endpoint"))
        .map(|route| text(&route["prefix"]).replace("/32", ""))
        .collect();
    let mut addresses: Vec<String> = wanted.into_values().collect();
    routed.sort();
    addresses.sort();
    assert_eq!(routed, addresses);
    let target = lab.pod("p2").unwrap().address;
    for place in places {
        assert_eq!(
            has_device(lab, place),
            present.contains_key(place),
            "{place}"
        );
        if present.contains_key(place) {
            assert_eq!(lab.ping(place, target, 1).unwrap().received, 1, "{place}");
        }
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn many_adds_and_deletions_at_once() {
    let places = places(30);
    let lab = lab(&places);
    let adds: Vec<Answer> = thread::scope(|scope| {
        let lab = &lab;
        let calls: Vec<_> = places
            .iter()
            .map(|place| scope.spawn(move || call(lab, "ADD", place)))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let present: BTreeMap<String, Ipv4Addr> = places
        .iter()
        .zip(&adds)
        .map(|(place, add)| {
            (
                place.clone(),
                add.address().unwrap_or_else(|| panic!("{add:?}")),
            )
        })
        .collect();
    agree(&lab, &places, &present);
    thread::scope(|scope| {
        for place in places.iter().chain(&places) {
            let lab = &lab;
            scope.spawn(move || assert!(call(lab, "DEL", place).success));
        }
    });
    agree(&lab, &places, &BTreeMap::new());
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn one_container_added_many_times_at_once() {
    let places = places(1);
    let lab = lab(&places);
    let at_once = |verbs: &[&str]| -> Vec<Answer> {
        thread::scope(|scope| {
            let lab = &lab;
            let calls: Vec<_> = verbs
                .iter()
                .map(|verb| scope.spawn(move || call(lab, verb, "c0")))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        })
    };
    for _ in 0..rounds(3) {
        let answers = at_once(&["ADD"; 8]);
        let won: Vec<_> = answers.iter().filter_map(Answer::address).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        agree(&lab, &places, &BTreeMap::from([("c0".to_owned(), won[0])]));
        assert!(call(&lab, "DEL", "c0").success);

        // Whoever was last decides whether it is there, and all of it is.
        let answers = at_once(&["ADD", "DEL", "ADD", "DEL", "ADD", "DEL"]);
        for (answer, verb) in answers.iter().zip(["ADD", "DEL"].iter().cycle()) {
            assert!(answer.success || *verb == "ADD", "{answer:?}");
        }
        let last = ask(&lab, "endpoints");
        let address = |entry: &Value| entry["addresses"][0].as_str().unwrap().parse().unwrap();
        let present: BTreeMap<_, _> = last
            .iter()
            .map(|entry| ("c0".to_owned(), address(entry)))
            .collect();
        agree(&lab, &places, &present);
        assert!(call(&lab, "DEL", "c0").success);
        agree(&lab, &places, &BTreeMap::new());
    }
}

/// What a runtime does with its containers until it is told to stop: adds those
/// that are not there, deletes those that are, and deletes after each failure.
fn runtime(lab: &Lab, mine: &mut BTreeMap<String, Option<Ipv4Addr>>, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        for (place, state) in mine.iter_mut() {
            if state.is_none() {
                let answer = call(lab, "ADD", place);
                *state = answer.address();
                if state.is_some() {
                    continue;
                }
            }
            let answer = call(lab, "DEL", place);
            assert!(answer.success, "{place}: {answer:?}");
            *state = None;
            if stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_daemon_killed_amid_calls_loses_and_keeps_nothing() {
    let places = places(6);
    let mut lab = lab(&places);
    let mut containers: Vec<BTreeMap<String, Option<Ipv4Addr>>> = places
        .chunks(2)
        .map(|pair| pair.iter().map(|place| (place.clone(), None)).collect())
        .collect();
    for round in 0..rounds(8) {
        let stop = AtomicBool::new(false);
        let daemon = ProcessId::of(lab.daemon_pid("n1").unwrap()).unwrap();
        thread::scope(|scope| {
            for mine in &mut containers {
                let (lab, stop) = (&lab, &stop);
                scope.spawn(move || runtime(lab, mine, stop));
            }
            // Odd steps, so that the rounds meet different moments.
            thread::sleep(Duration::from_millis(
                40 + u64::try_from(round * 37 % 150).unwrap(),
            ));
            daemon.signal(Signal::SIGKILL);
            stop.store(true, Ordering::SeqCst);
        });
        lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
        lab.start_daemon("n1").unwrap();
        let present = containers
            .iter()
            .flatten()
            .filter_map(|(place, address)| Some((place.clone(), (*address)?)))
            .collect();
        agree(&lab, &places, &present);
    }
    for place in &places {
        assert!(call(&lab, "DEL", place).success);
    }
    agree(&lab, &places, &BTreeMap::new());
}

/// A daemon that can be ended while others use the lab.
fn start(lab: &Lab) -> Service {
    let daemon = lab.program("culvertd").unwrap();
    let config = lab.dir().join("n1/culvert.toml").display().to_string();
    let argv = [daemon.as_str(), "--config", &config];
    lab.spawn("n1", &argv, |said| said.contains("ready"))
        .unwrap()
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn daemons_that_come_and_go_amid_calls_lose_and_keep_nothing() {
    let places = places(6);
    let mut lab = lab(&places);
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    let mut containers: Vec<BTreeMap<String, Option<Ipv4Addr>>> = places
        .chunks(2)
        .map(|pair| pair.iter().map(|place| (place.clone(), None)).collect())
        .collect();
    for round in 0..rounds(4) {
        let stop = AtomicBool::new(false);
        let daemon = thread::scope(|scope| {
            for mine in &mut containers {
                let (lab, stop) = (&lab, &stop);
                scope.spawn(move || runtime(lab, mine, stop));
            }
            for step in 0..4 {
                let daemon = start(&lab);
                let pause = (round * 4 + step) * 29 % 120;
                thread::sleep(Duration::from_millis(u64::try_from(pause).unwrap()));
                let signals = [Signal::SIGKILL, Signal::SIGTERM];
                daemon.stop(signals[step % 2]).unwrap();
            }
            let daemon = start(&lab);
            thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::SeqCst);
            daemon
        });
        let present = containers
            .iter()
            .flatten()
            .filter_map(|(place, address)| Some((place.clone(), (*address)?)))
            .collect();
        agree(&lab, &places, &present);
        daemon.stop(Signal::SIGTERM).unwrap();
    }
    let spool = lab.dir().join("n1/state/spool");
    let daemon = start(&lab);
    for place in &places {
        assert!(call(&lab, "DEL", place).success);
    }
    agree(&lab, &places, &BTreeMap::new());
    // A file whose plugin was cut off between its two tries may stay until the next start.
    let left = std::fs::read_dir(spool).map_or(0, Iterator::count);
    assert_eq!(left, 0);
    daemon.stop(Signal::SIGTERM).unwrap();
    let devices = lab.run("n1", &["ip", "-o", "link"]).unwrap().stdout;
    assert!(!devices.contains("culvert0"), "{devices}");
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_plugin_killed_amid_its_call_is_cleaned_up_after() {
    let places = places(1);
    let lab = lab(&places);
    for round in 0..rounds(10) {
        let delay = format!("0.{:03}", 1 + round * 7 % 60);
        for verb in ["ADD", "DEL"] {
            let cut = lab
                .call(verb, "n1", "c0")
                .under(&["timeout", "-s", "KILL", &delay]);
            cut.output().unwrap();
        }
        assert!(call(&lab, "DEL", "c0").success);
        agree(&lab, &places, &BTreeMap::new());
        let added = call(&lab, "ADD", "c0");
        let address = added.address().unwrap_or_else(|| panic!("{added:?}"));
        agree(&lab, &places, &BTreeMap::from([("c0".to_owned(), address)]));
        assert!(call(&lab, "DEL", "c0").success);
    }
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_namespace_that_goes_without_del_does_not_keep_the_worker_busy() {
    let places = places(3);
    let mut lab = lab(&places);
    for place in &places {
        assert!(call(&lab, "ADD", place).success);
    }
    lab.delete_place("c0").unwrap();
    lab.run("c2", &["ip", "link", "del", "eth0"]).unwrap();
    thread::sleep(Duration::from_millis(300));
    let stat = format!("/proc/{}/stat", lab.daemon_pid("n1").unwrap());
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(&stat).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (before, start) = (ticks(), Instant::now());
    thread::sleep(Duration::from_millis(700));
    let spent = ticks() - before;
    // A busy thread spends 100 ticks a second.
    assert!(spent < 15, "{spent} ticks in {:?}", start.elapsed());
    let target = lab.pod("p2").unwrap().address;
    assert_eq!(lab.ping("c1", target, 1).unwrap().received, 1);
    for gone in ["c0", "c2"] {
        assert!(call(&lab, "DEL", gone).success);
    }
    let endpoints = ask(&lab, "endpoints");
    assert_eq!(endpoints.len(), 1, "{endpoints:?}");
    // And one that goes while no daemon is there.
    lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
    lab.delete_place("c1").unwrap();
    lab.start_daemon("n1").unwrap();
    assert!(ask(&lab, "endpoints").is_empty());
    assert!(call(&lab, "DEL", "c1").success);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_start_takes_over_its_own_devices_and_forgets_only_what_is_gone() {
    let places = places(2);
    let mut lab = lab(&places);
    // c0's namespace by a path of which a start cannot say whether it is gone.
    let path = lab.dir().join("c0-namespace");
    let link = |to: &str| {
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(to, &path).unwrap();
    };
    let namespace = format!("/var/run/netns/{}", lab.namespace("c0"));
    link(&namespace);
    let add = lab.call("ADD", "n1", "c0");
    let c0 = add.env("CNI_NETNS", path.to_str().unwrap()).answer();
    assert!(c0.unwrap().success);
    assert!(call(&lab, "ADD", "c1").success);
    let states = |lab: &Lab| -> Vec<Value> {
        let endpoints = ask(lab, "endpoints");
        endpoints.iter().map(|e| e["state"].clone()).collect()
    };
    lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
    link("c0-namespace");
    let replace = "ip link del eth0; ip tuntap add eth0 mode tap; ip link set eth0 up";
    lab.run("c1", &["sh", "-ec", replace]).unwrap();
    lab.start_daemon("n1").unwrap();
    assert_eq!(states(&lab), ["cut off", "cut off"]);
    let said = lab.culvert("n1", &["status"]).unwrap().stdout;
    assert!(said.contains("not the one that ADD made"), "{said}");

    lab.stop_daemon("n1", Signal::SIGKILL).unwrap();
    link(&namespace);
    lab.start_daemon("n1").unwrap();
    assert_eq!(states(&lab), ["ready", "cut off"]);
    for place in &places {
        assert!(call(&lab, "DEL", place).success);
    }
    assert!(states(&lab).is_empty());
    assert!(!has_device(&lab, "c0") && has_device(&lab, "c1"));
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_deletion_spooled_beside_a_running_daemon_spares_what_is_added_later() {
    let places = places(1);
    let mut lab = lab(&places);
    assert!(call(&lab, "ADD", "c0").success);
    let daemon = ProcessId::of(lab.daemon_pid("n1").unwrap()).unwrap();
    daemon.signal(Signal::SIGSTOP);
    let del = lab.call("DEL", "n1", "c0");
    let del = del.key("timeoutSeconds", 1.into()).answer();
    daemon.signal(Signal::SIGCONT);
    assert!(del.unwrap().success);
    let spool = lab.dir().join("n1/state/spool");
    let waiting = || std::fs::read_dir(&spool).unwrap().count();
    assert_eq!(waiting(), 1);

    // The runtime starts the same container again, and later the daemon is restarted.
    let added = call(&lab, "ADD", "c0");
    let present = BTreeMap::from([("c0".to_owned(), added.address().unwrap())]);
    assert_eq!(waiting(), 0);
    agree(&lab, &places, &present);
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    lab.start_daemon("n1").unwrap();
    agree(&lab, &places, &present);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn a_daemon_that_is_told_to_stop_finishes_what_it_has_begun() {
    let places = places(12);
    let mut lab = lab(&places);
    lab.stop_daemon("n1", Signal::SIGTERM).unwrap();
    for round in 0..rounds(6) {
        let daemon = start(&lab);
        let said = thread::scope(|scope| {
            let lab = &lab;
            for place in &places {
                scope.spawn(move || call(lab, "ADD", place));
            }
            let pause = 20 + round * 17 % 50;
            thread::sleep(Duration::from_millis(u64::try_from(pause).unwrap()));
            daemon.stop(Signal::SIGTERM).unwrap()
        });
        assert!(!said.contains("forgetting"), "{said}");
        for place in &places {
            assert!(call(&lab, "DEL", place).success);
        }
    }
}
