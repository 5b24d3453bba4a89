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
    assert!(cases.len() >= 94, "{} cases", cases.len());
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
    let play = |case: &Case| play_one(&boot, wiring(), order, case);
    assert_all_well(&cases(), play);
}

fn assert_all_well(cases: &[Case], play: impl Fn(&Case) -> Result<(), String>) {
    let wrong = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, play(case).err()?)));
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Plays a case on an appliance of its own.
fn play_one<W: Wiring>(
    boot: impl Fn(&[MacAddr]) -> Booted,
    wiring: W,
    order: Order,
    case: &Case,
) -> Result<(), String> {
    let mut booted = boot(&wiring.macs(case));
    let mut played = Played {
        outside: booted.outside(),
        wiring,
        case,
    };
    let outcome = play(case, &mut played);
    drop(played);
    differences(case, outcome?, order)
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
#[ignore = "builds images and boots them in QEMU"]
fn the_aarch64_image_does_the_same_with_a_nic_for_each_port() {
    play_all(
        |macs| boot_guest(Arch::Aarch64, macs),
        || Separate,
        Order::PerPort,
    );
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn the_aarch64_image_does_the_same_with_ports_as_tags() {
    play_all(
        |macs| boot_guest(Arch::Aarch64, macs),
        || Trunk,
        Order::Kept,
    );
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn the_x86_64_image_does_the_same_with_a_nic_for_each_port() {
    play_all(
        |macs| boot_guest(Arch::X86_64, macs),
        || Separate,
        Order::PerPort,
    );
}

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn the_x86_64_image_does_the_same_with_ports_as_tags() {
    play_all(|macs| boot_guest(Arch::X86_64, macs), || Trunk, Order::Kept);
}

/// Cases that a microcontroller's tables are too small for, and how that shows: two
/// packets wait for a neighbor each where there is room for one, and a peer has a number
/// that none has there.
const NOT_TINY: [(&str, &str); 3] = [
    ("flood", "sent by host instead of wire"),
    (
        "gateway-by-the-underlays-prefix",
        "table: Peers, id: 9, capacity: 8",
    ),
    (
        "underlay-without-a-gateway",
        "table: Peers, id: 9, capacity: 8",
    ),
];

#[test]
#[ignore = "builds images and boots them in QEMU"]
fn the_image_for_a_microcontroller_does_the_same_with_what_its_tables_hold() {
    let cases = cases();
    let too_small = |case: &Case| {
        let mut known = NOT_TINY.into_iter();
        known.find_map(|(name, how)| (name == case.name).then_some(how))
    };
    assert_all_well(&cases, |case| {
        let boot = |macs: &[MacAddr]| boot_guest(Arch::CortexM4, macs);
        let played = play_one(boot, Trunk, Order::Kept, case);
        match (too_small(case), played) {
            (None, played) => played,
            (Some(how), Err(why)) if why.contains(how) => Ok(()),
            (Some(how), other) => Err(format!("{other:?}, and not {how:?}")),
        }
    });
}
