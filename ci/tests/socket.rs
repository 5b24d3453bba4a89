//! Clients of the daemon's socket that are broken, asleep or many, and what a
//! daemon that has worked for long has grown to.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use culvert_lab::{Lab, NodeKind};

mod common;

fn lab() -> Lab {
    Lab::new(common::plan(&[("n1", NodeKind::Culvert, 1)])).unwrap()
}

fn connect(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(lab.dir().join("n1/run/culvertd.sock")).unwrap();
    let limit = Some(Duration::from_secs(2));
    stream.set_read_timeout(limit).unwrap();
    stream.set_write_timeout(limit).unwrap();
    stream
}

fn answers(lab: &Lab) {
    lab.culvert("n1", &["status"]).unwrap();
}

/// A number from a line of the daemon's `/proc/<pid>/status`.
fn status(lab: &Lab, key: &str) -> u64 {
    let pid = lab.daemon_pid("n1").unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(lab: &Lab) -> usize {
    let pid = lab.daemon_pid("n1").unwrap();
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn whatever_comes_is_answered_with_an_error() {
    let lab = lab();
    let deep = "[".repeat(200_000);
    for line in [
        "garbage",
        "",
        "null",
        "{}",
        "{\"method\":\"none\"}",
        "{\"method\":\"cni\",\"params\":{}}",
        "{\"method\":\"cni\",\"params\":{\"environment\":{\"command\":\"ADD\"},\"config\":{}}}",
        "\u{0}\u{1}",
        &deep,
    ] {
        let mut stream = connect(&lab);
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.starts_with("{\"error\":{\"code\":"), "{answer}");
    }
    let mut stream = connect(&lab);
    stream.write_all(&[0xff, 0xfe, b'\n']).unwrap();
    // A line that is too long: the daemon stops reading, so not all of it leaves.
    let mut stream = connect(&lab);
    let sent = stream.write_all(&vec![b' '; 2 << 20]);
    if let Err(error) = sent {
        let kinds = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    // Half a line, and its writer gone.
    connect(&lab).write_all(b"{\"method\":\"sta").unwrap();
    answers(&lab);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn idle_and_deaf_clients_shut_nobody_out() {
    let lab = lab();
    let idle: Vec<UnixStream> = (0..200).map(|_| connect(&lab)).collect();
    answers(&lab);
    // Clients that ask and ask and never read.
    let mut deaf = connect(&lab);
    deaf.set_nonblocking(true).unwrap();
    let question = b"{\"method\":\"counters\"}\n".repeat(100);
    for _ in 0..200 {
        if deaf.write_all(&question).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    answers(&lab);
    let resident = status(&lab, "VmRSS");
    assert!(resident < 200_000, "{resident} kB");
    drop((idle, deaf));
    answers(&lab);
}

#[test]
#[ignore = "needs culvert's programs: run by ci/test"]
fn nothing_grows_with_the_number_of_calls() {
    let lab = lab();
    let rounds = std::env::var("CULVERT_LAB_ROUNDS").map_or(50, |text| text.parse().unwrap());
    let places: Vec<String> = (0..4).map(|number| format!("c{number}")).collect();
    for place in &places {
        lab.add_place(place).unwrap();
    }
    let run = |rounds: usize| {
        thread::scope(|scope| {
            for place in &places {
                let lab = &lab;
                scope.spawn(move || {
                    for verb in ["ADD", "DEL"].into_iter().cycle().take(2 * rounds) {
                        let answer = lab.call(verb, "n1", place).answer().unwrap();
                        assert!(answer.success, "{answer:?}");
                    }
                });
            }
        });
    };
    run(10);
    let before = (
        descriptors(&lab),
        status(&lab, "VmRSS"),
        status(&lab, "Threads"),
    );
    run(rounds);
    // Threads of the blocking pool end after 10 s; more than at work at once there are never.
    let after = (
        descriptors(&lab),
        status(&lab, "VmRSS"),
        status(&lab, "Threads"),
    );
    assert!(after.0 <= before.0, "descriptors: {before:?} to {after:?}");
    assert!(after.1 < before.1 + 4096, "kB: {before:?} to {after:?}");
    assert!(after.2 <= before.2 + 4, "threads: {before:?} to {after:?}");
}
