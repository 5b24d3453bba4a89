//! However a lab ends, nothing of it stays, and nothing else is touched.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use culvert_lab::{Kept, ProcessId, namespaces_of, run, sweep, wait_for};

mod common;

/// A lab in a process of its own.
struct Held {
    child: Child,
    tag: String,
    processes: Vec<ProcessId>,
}

fn hold(arguments: &[&str]) -> Held {
    let mut child = Command::new(env!("CARGO_BIN_EXE_culvert-lab"))
        .arg("hold")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut words = line.split_whitespace();
    let tag = words.next().expect("the lab's name").to_owned();
    let processes = words
        .filter_map(|pid| ProcessId::of(pid.parse().unwrap()))
        .collect();
    Held {
        child,
        tag,
        processes,
    }
}

fn signal(child: &Child, name: &str) {
    run(&["kill", "-s", name, &child.id().to_string()], "").unwrap();
}

#[test]
fn a_dropped_lab_is_gone() {
    let lab = common::kernel_lab();
    let service = lab.spawn("p1", &["sleep", "1000"], |_| true).unwrap();
    let (tag, processes) = (lab.tag().to_owned(), lab.processes());
    assert_eq!(processes.len(), 1);
    assert_eq!(namespaces_of(&tag).unwrap().len(), 5);
    drop(lab);
    common::assert_gone(&tag, &processes);
    drop(service);
}

#[test]
fn a_panic_takes_its_lab_down() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let ended = std::thread::spawn(move || {
        let lab = common::kernel_lab();
        sender.send(lab.tag().to_owned()).unwrap();
        panic!("wanted by the test");
    })
    .join();
    assert!(ended.is_err());
    common::assert_gone(&receiver.recv().unwrap(), &[]);
}

#[test]
fn a_panic_of_the_program_takes_its_lab_down() {
    let mut held = hold(&["--panic"]);
    assert!(!held.child.wait().unwrap().success());
    common::assert_gone(&held.tag, &held.processes);
}

#[test]
fn a_signal_takes_the_lab_down() {
    for name in ["TERM", "INT", "HUP"] {
        let mut held = hold(&[]);
        assert_eq!(held.processes.len(), 1);
        signal(&held.child, name);
        assert!(!held.child.wait().unwrap().success(), "{name}");
        common::assert_gone(&held.tag, &held.processes);
    }
}

#[test]
fn an_early_signal_takes_a_half_built_lab_down() {
    for wait_ms in [5, 20, 45, 80, 120] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_culvert-lab"))
            .arg("hold")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let tag = format!("cvl{}", child.id());
        std::thread::sleep(Duration::from_millis(wait_ms));
        signal(&child, "TERM");
        assert!(!child.wait().unwrap().success(), "after {wait_ms} ms");
        common::assert_gone(&tag, &[]);
    }
}

#[test]
fn a_killed_lab_is_swept_and_a_living_one_is_not() {
    let alive = hold(&[]);
    let mut killed = hold(&[]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert_eq!(killed.processes.len(), 1, "the service was not seen");
    sweep(Kept::Leave).unwrap();
    common::assert_gone(&killed.tag, &killed.processes);

    assert_eq!(namespaces_of(&alive.tag).unwrap().len(), 4);
    assert!(alive.processes.iter().all(|process| process.is_alive()));
    let Held {
        mut child,
        tag,
        processes,
    } = alive;
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    common::assert_gone(&tag, &processes);
}

#[test]
fn a_sweep_spares_a_process_that_took_over_a_number() {
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let id = ProcessId::of(stranger.id()).unwrap();
    let mut killed = hold(&[]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let record = common::dir(&killed.tag)
        .join("pids")
        .join(id.pid.to_string());
    // Another test's lab may have swept it meanwhile; then there is no record to lead astray.
    if record.parent().is_some_and(Path::exists) {
        let _ = std::fs::write(&record, format!("{}\n", id.start + 1));
    }
    sweep(Kept::Leave).unwrap();
    assert!(id.is_alive());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    common::assert_gone(&killed.tag, &killed.processes);
}

#[test]
fn a_namespace_without_a_lab_is_swept_and_a_strangers_is_not() {
    let mut dead = Command::new("true").spawn().unwrap();
    let pid = dead.id();
    dead.wait().unwrap();
    let (ours, strangers) = (format!("cvl{pid}-left"), format!("cvlother{pid}"));
    run(&["ip", "netns", "add", &ours], "").unwrap();
    run(&["ip", "netns", "add", &strangers], "").unwrap();
    sweep(Kept::Leave).unwrap();
    let listed = run(&["ip", "netns", "list"], "").unwrap().stdout;
    run(&["ip", "netns", "del", &strangers], "").unwrap();
    assert!(
        !listed.contains(&ours) && listed.contains(&strangers),
        "{listed}"
    );
}

#[test]
fn a_lab_that_cannot_be_built_leaves_nothing() {
    let mut lab = common::kernel_lab();
    let tag = lab.tag().to_owned();
    let places = namespaces_of(&tag).unwrap();
    assert!(lab.add_pod("nowhere", "p3").is_err());
    assert!(lab.add_pod("n1", "p1").is_err());
    assert!(lab.add_pod("n1", "a/b").is_err());
    assert_eq!(namespaces_of(&tag).unwrap(), places);
    assert!(lab.delete_pod("p9").is_err());
    lab.delete_pod("p1").unwrap();
    lab.add_pod("n2", "p1").unwrap();
    lab.take_down().unwrap();
    common::assert_gone(&tag, &[]);
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let lab = common::kernel_lab();
    let limit = Duration::from_millis(200);
    let error = lab
        .exec("p1", &["sh", "-c", "echo so far; exec sleep 1000"], limit)
        .unwrap_err();
    assert!(format!("{error:#}").contains("so far"), "{error:#}");
    wait_for("no process", Duration::from_secs(1), || {
        Ok(lab.processes().is_empty().then_some(()))
    })
    .unwrap();
}
