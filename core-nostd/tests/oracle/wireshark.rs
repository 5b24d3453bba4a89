//! What tshark says of the captures. It reads all of them in one file, because
//! starting it takes longer than reading.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use culvert_core::PortId;

use crate::replay::*;

/// What no frame may be.
const WRONG: &[&str] = &[
    "_ws.malformed",
    "_ws.short",
    "_ws.expert.severity == \"Error\"",
    "ip.checksum.status == \"Bad\"",
    "udp.checksum.status == \"Bad\"",
    "tcp.checksum.status == \"Bad\"",
    "icmp.checksum.status == \"Bad\"",
    "icmpv6.checksum.status == \"Bad\"",
];

fn tshark(file: &Path) -> Command {
    let mut command = Command::new("tshark");
    // Nobody's own preferences.
    command.env("WIRESHARK_CONFIG_DIR", "/nonexistent");
    command.args(["-n", "-d", "udp.port==8472,vxlan"]);
    for option in ["ip", "udp", "tcp"].map(|layer| format!("{layer}.check_checksum:TRUE")) {
        command.args(["-o", &option]);
    }
    let options = [
        // Cases know nothing of each other.
        "ip.defragment:FALSE",
        "ipv6.defragment:FALSE",
        "tcp.analyze_sequence_numbers:FALSE",
        // Tunnels may agree to that (RFC 6935); `packets` looks at all others.
        "udp.ignore_ipv6_zero_checksum:TRUE",
    ];
    for option in options {
        command.args(["-o", option]);
    }
    command.arg("-r").arg(file);
    command
}

fn printed(mut command: Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("tshark, which ci/setup installs: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// How many frames of a file each filter matches, by tshark's own counting.
fn count(file: &Path, filters: &[String]) -> Vec<u64> {
    let mut command = tshark(file);
    let statistics = format!("io,stat,0,{}", filters.join(","));
    command.args(["-q", "-z", &statistics]);
    let table = printed(command);
    let row = table.lines().find(|line| line.contains("<>"));
    let row = row.unwrap_or_else(|| panic!("tshark printed no counts:\n{table}"));
    let cells: Vec<_> = row.split('|').map(str::trim).collect();
    // The interval, then frames and bytes of each filter, between bars.
    let frames = cells[2..cells.len() - 1].iter().step_by(2);
    let counts: Vec<_> = frames.map(|cell| cell.parse().unwrap()).collect();
    assert_eq!(counts.len(), filters.len(), "tshark printed:\n{row}");
    counts
}

/// All captures one after the other, between two frames that give the file a length
/// in time.
fn all(played: &[(&Case, Outcome)]) -> Capture {
    let mut all = Capture {
        ports: Vec::new(),
        frames: Vec::new(),
    };
    add(&mut all, "bound", 0, &[0; 60]);
    for (_, outcome) in played {
        for frame in &outcome.output.frames {
            let mut ports = outcome.output.ports.iter();
            let port = ports.find(|port| port.id == frame.port).unwrap();
            add(&mut all, &port.name, frame.micros, &frame.bytes);
        }
    }
    add(&mut all, "bound", 1_000_000_000_000, &[0; 60]);
    all
}

/// Adds a frame by the port of this name.
fn add(capture: &mut Capture, name: &str, micros: u64, bytes: &[u8]) {
    let place = capture.ports.iter().position(|port| port.name == name);
    let place = place.unwrap_or(capture.ports.len());
    let id = PortId(place.try_into().unwrap());
    if place == capture.ports.len() {
        capture.ports.push(Port {
            id,
            name: name.to_owned(),
            description: String::new(),
        });
    }
    capture.frames.push(Captured {
        micros,
        port: id,
        bytes: bytes.to_vec(),
    });
}

/// What is wrong with the outcomes for tshark, by the case's name: frames that are
/// malformed or have a wrong checksum, and expectations that are not met.
pub(crate) fn check(played: &[(&Case, Outcome)], scratch: &Path) -> BTreeMap<String, Vec<String>> {
    let mut filters = Vec::new();
    let mut wanted = Vec::new();
    let mut first = 2;
    for (case, outcome) in played {
        let next = first + outcome.output.frames.len();
        let expected = case
            .tables
            .expect
            .iter()
            .map(|(filter, n)| (filter.as_str(), *n));
        for (filter, count) in WRONG.iter().map(|filter| (*filter, 0)).chain(expected) {
            assert!(!filter.contains(','), "{}: {filter}: no commas", case.name);
            let here = format!("frame.number >= {first} && frame.number < {next}");
            filters.push(format!("({here}) && ({filter})"));
            wanted.push((&case.name, filter, count));
        }
        first = next;
    }
    std::fs::create_dir_all(scratch).unwrap();
    let path = scratch.join("all.pcapng");
    std::fs::write(&path, all(played).file(Direction::Out)).unwrap();
    let mut wrong = BTreeMap::<String, Vec<String>>::new();
    for ((name, filter, wanted), found) in wanted.into_iter().zip(count(&path, &filters)) {
        if found != wanted {
            let what = format!("{found} frames match {filter:?} instead of {wanted}");
            wrong.entry(name.clone()).or_default().push(what);
        }
    }
    wrong
}

/// The name that Wireshark has for the byte of a difference.
pub(crate) fn field(file: &Path, difference: &Difference) -> String {
    let Difference::Frame {
        number,
        what: What::Byte { at, .. },
    } = difference
    else {
        return String::new();
    };
    let mut command = tshark(file);
    command.args(["-T", "pdml", "-Y", &format!("frame.number == {number}")]);
    let pdml = printed(command);
    let value = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    // The smallest field around the byte is the one that people mean.
    let around = pdml.lines().filter_map(|line| {
        let position: usize = value(line, "pos")?.parse().ok()?;
        let size: usize = value(line, "size")?.parse().ok()?;
        let shown = value(line, "showname").filter(|_| line.contains("<field "))?;
        let here = (position..position + size).contains(at);
        here.then_some((size, value(line, "name")?, shown))
    });
    let smallest = around.min_by_key(|(size, ..)| *size);
    smallest.map_or_else(String::new, |(_, name, shown)| {
        format!("; that is {name} ({shown})")
    })
}
