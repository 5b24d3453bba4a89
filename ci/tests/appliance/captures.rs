//! The golden captures through the appliance, compared to the byte with what the core
//! alone makes of them.

use std::fs;
use std::path::Path;

use culvert_core::MacAddr;
use culvert_host::appliance::Arch;

use crate::node::{Played, Separate, Trunk, Wiring};
use crate::replay::{COUNTERS, Capture, Case, Direction, OUTPUT, Outcome, line_difference, play};
use crate::twin::Twin;
use crate::world::{Booted, boot_guest};

/// All cases.
fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core-nostd/tests/captures");
    let cases = Case::read_all(&folder).unwrap_or_else(|error| panic!("{error}"));
    assert!(cases.len() >= 95, "{} cases", cases.len());
    cases
}

/// How frames are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As they were sent.
    Kept,
    /// Port by port: several wires have no order among each other.
    PerPort,
}

/// Plays every case, each on an appliance of its own, and tells all that differ.
fn play_all<W: Wiring>(boot: impl Fn(&[MacAddr]) -> Booted, wiring: impl Fn() -> W, order: Order) {
    let mut wrong = Vec::new();
    for case in &cases() {
        let mut booted = boot(&wiring().macs(case));
        let mut played = Played {
            outside: booted.outside(),
            wiring: wiring(),
            case,
        };
        let outcome = play(case, &mut played);
        drop(played);
        let outcome = outcome.and_then(|outcome| differences(case, outcome, order));
        if let Err(why) = outcome {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// How an outcome differs from the case's files.
fn differences(case: &Case, mut outcome: Outcome, order: Order) -> Result<(), String> {
    let read = |file: &str| {
        let path = case.folder.join(file);
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let (mut bytes, counters) = (read(OUTPUT)?, read(COUNTERS)?);
    let mut expected = Capture::parse(&bytes, &outcome.output.ports)?;
    if order == Order::PerPort {
        for capture in [&mut expected, &mut outcome.output] {
            // Stable: within a port the order is kept.
            capture
                .frames
                .sort_by_key(|frame| (frame.micros, frame.port));
        }
        bytes = expected.file(Direction::Out);
    }
    if let Some(difference) = expected.difference(&outcome.output) {
        return Err(format!("{OUTPUT}: {difference}"));
    }
    if bytes != outcome.output.file(Direction::Out) {
        return Err(format!("{OUTPUT}: the file's other bytes differ"));
    }
    match line_difference(&String::from_utf8_lossy(&counters), &outcome.counters) {
        Some(difference) => Err(format!("{COUNTERS}: {difference}")),
        None => Ok(()),
    }
}

#[test]
fn the_host_build_of_the_appliance_does_the_same_with_a_nic_for_each_port() {
    play_all(
        |macs| Booted::Twin(Twin::start(macs)),
        || Separate,
        Order::PerPort,
    );
}

#[test]
fn the_host_build_of_the_appliance_does_the_same_with_ports_as_tags() {
    play_all(
        |macs| Booted::Twin(Twin::start(macs)),
        || Trunk,
        Order::Kept,
    );
}

#[test]
fn the_aarch64_image_does_the_same_with_a_nic_for_each_port() {
    play_all(
        |macs| boot_guest(Arch::Aarch64, macs),
        || Separate,
        Order::PerPort,
    );
}

#[test]
fn the_aarch64_image_does_the_same_with_ports_as_tags() {
    play_all(
        |macs| boot_guest(Arch::Aarch64, macs),
        || Trunk,
        Order::Kept,
    );
}

#[test]
fn the_x86_64_image_does_the_same_with_a_nic_for_each_port() {
    play_all(
        |macs| boot_guest(Arch::X86_64, macs),
        || Separate,
        Order::PerPort,
    );
}

#[test]
fn the_x86_64_image_does_the_same_with_ports_as_tags() {
    play_all(|macs| boot_guest(Arch::X86_64, macs), || Trunk, Order::Kept);
}
