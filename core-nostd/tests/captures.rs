//! The golden captures in `captures/`: what the core makes of each must be what it
//! always was, and what Wireshark, etherparse and smoltcp hold to be right.
//!
//! `CULVERT_BLESS=1` writes what is expected anew, `CULVERT_BLESS=inputs` tables and
//! inputs, too; `captures/README.md` says more.

mod common;
mod replay;
mod scenes;

#[path = "oracle/broken.rs"]
mod broken;
#[path = "oracle/flows.rs"]
mod flows;
#[path = "oracle/packets.rs"]
mod packets;
#[path = "oracle/wireshark.rs"]
mod wireshark;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::sum_of_fates;
use culvert_core::channel::{Request, Response};
use culvert_core::*;
use replay::*;

/// Two networks and a few of everything; cases show nothing that depends on it.
type Memory = Storage<2, 16, 16, 64, 8, 2>;
/// Spare frames, each for a frame of any size that a case has.
const SPARES: usize = 64;
const SPARE_LEN: usize = Frame::HEADROOM + 2048;

/// The core itself, without a device around it.
struct Core<'a> {
    gateway: Gateway<'a>,
    spares: Vec<Vec<u8>>,
}

impl<'a> Core<'a> {
    fn new(gateway: Gateway<'a>) -> Self {
        let spares = vec![vec![0xa5; SPARE_LEN]; SPARES];
        Core { gateway, spares }
    }

    fn with_spares(
        &mut self,
        run: impl FnOnce(&mut Gateway<'_>, &mut Originated<'_, '_>) -> Option<(PortId, Vec<u8>)>,
    ) -> Sent {
        let buffers = self.spares.iter_mut();
        let mut spares: Vec<_> = buffers
            .map(|buffer| Packet::new(Frame::new(buffer, Frame::HEADROOM, 0).unwrap()))
            .collect();
        let mut originated = Originated::new(&mut spares);
        let first = run(&mut self.gateway, &mut originated);
        let made = originated.into_made().iter().map(|made| match made.fate {
            Fate::Forward(port) => (port, plain(&made.frame)),
            fate => panic!("the gateway made a frame for {fate:?}"),
        });
        first.into_iter().chain(made).collect()
    }
}

/// The bytes of a frame that goes to a device without any offload.
fn plain(frame: &Frame<'_>) -> Vec<u8> {
    assert!(!matches!(frame.checksum, Checksum::Partial { .. }));
    assert_eq!(frame.segmentation, Segmentation::None);
    assert!(frame.outer.is_none(), "the headers are in the frame");
    frame.bytes().to_vec()
}

impl Node for Core<'_> {
    fn ask(&mut self, request: &Request) -> Response {
        common::ask(&mut self.gateway, request)
    }

    fn frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) -> Sent {
        let mut buffer = vec![0xa5; Frame::HEADROOM + bytes.len().max(2048)];
        buffer[Frame::HEADROOM..][..bytes.len()].copy_from_slice(bytes);
        let frame = Frame::new(&mut buffer, Frame::HEADROOM, bytes.len()).unwrap();
        let mut batch = [Packet::new(frame)];
        self.with_spares(|gateway, originated| {
            gateway.process(now, port, &mut batch, originated);
            let [packet] = &batch;
            match packet.fate {
                Fate::Forward(to) => Some((to, plain(&packet.frame))),
                Fate::Reply => Some((port, plain(&packet.frame))),
                Fate::Consume | Fate::Flood | Fate::Punt | Fate::Queue | Fate::Drop(_) => None,
            }
        })
    }

    fn tick(&mut self, now: Instant) -> Sent {
        self.with_spares(|gateway, originated| {
            gateway.tick(now, originated);
            None
        })
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

/// What the flag in the environment says.
fn bless(what: &str) -> bool {
    std::env::var_os("CULVERT_BLESS").is_some_and(|value| value == what)
}

/// The cases, after their inputs were written anew if that is wanted.
fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        if bless("inputs") {
            for scene in scenes::all() {
                let folder = folder().join(scene.name);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(TABLES), scene.tables.text()).unwrap();
                fs::write(folder.join(INPUT), scene.input().file(Direction::In)).unwrap();
            }
        }
        Case::read_all(&folder()).unwrap_or_else(|e| panic!("{e}"))
    })
}

fn play_on_the_core(case: &Case) -> Result<Outcome, String> {
    let mut memory = Memory::new();
    let mut core = Core::new(memory.gateway());
    let outcome = play(case, &mut core)?;
    let (rx, fates) = (
        core.gateway.counter(Counter::Rx),
        sum_of_fates(&core.gateway),
    );
    match rx == fates {
        true => Ok(outcome),
        false => Err(format!("{rx} frames came in and {fates} have a fate")),
    }
}

/// What is wrong with an outcome, whatever was expected.
fn problems(case: &Case, outcome: &Outcome) -> Vec<String> {
    let frames = outcome.output.frames.iter().zip(1..);
    let wrong = frames.filter_map(|(frame, number)| {
        let problem = packets::check(&frame.bytes).err()?;
        Some(format!("frame {number} of the output: {problem}"))
    });
    wrong
        .chain(case.tables.wrong_counts(&outcome.counters))
        .collect()
}

/// How an outcome differs from the case's files.
fn differences(case: &Case, outcome: &Outcome, actual: &Path) -> Result<(), String> {
    let read = |file: &str| {
        let path = case.folder.join(file);
        fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let (bytes, counters) = (read(OUTPUT)?, read(COUNTERS)?);
    let expected =
        Capture::parse(&bytes, &outcome.output.ports).map_err(|e| format!("{OUTPUT}: {e}"))?;
    if let Some(difference) = expected.difference(&outcome.output) {
        let field = wireshark::field(&actual.join(OUTPUT), &difference);
        return Err(format!("{OUTPUT}: {difference}{field}"));
    }
    if bytes != outcome.output.file(Direction::Out) {
        return Err(format!(
            "{OUTPUT}: the frames are the same, but not the file's other bytes"
        ));
    }
    let counters = String::from_utf8_lossy(&counters);
    match line_difference(&counters, &outcome.counters) {
        Some(difference) => Err(format!("{COUNTERS}: {difference}")),
        None => Ok(()),
    }
}

/// Writes what came of a case into a folder.
fn write(outcome: &Outcome, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(OUTPUT), outcome.output.file(Direction::Out)).unwrap();
    fs::write(folder.join(COUNTERS), &outcome.counters).unwrap();
}

#[test]
fn every_case_is_as_it_always_was() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("captures");
    let mut wrong = Vec::new();
    let mut played = Vec::new();
    for case in cases() {
        match play_on_the_core(case) {
            Ok(outcome) => played.push((case, outcome)),
            Err(e) => wrong.push(format!("{}: {e}", case.name)),
        }
    }
    let mut seen = wireshark::check(&played, &scratch);
    for (case, outcome) in &played {
        let actual = scratch.join(&case.name);
        write(outcome, &actual);
        let mut found = problems(case, outcome);
        found.extend(seen.remove(&case.name).unwrap_or_default());
        let blessed = bless("1") || bless("inputs");
        match found.is_empty() && blessed {
            true => write(outcome, &case.folder),
            false => found.extend(differences(case, outcome, &actual).err()),
        }
        let found = found
            .into_iter()
            .map(|problem| format!("{}: {problem}", case.name));
        let before = wrong.len();
        wrong.extend(found);
        if wrong.len() > before {
            wrong.push(format!("    what there is now: {}", actual.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn tables_and_inputs_are_what_the_scenes_say() {
    for scene in scenes::all() {
        let case = cases().iter().find(|case| case.name == scene.name);
        let case = case.unwrap_or_else(|| panic!("{}: no folder", scene.name));
        let file = |name| fs::read(case.folder.join(name)).unwrap();
        assert_eq!(
            String::from_utf8(file(TABLES)).unwrap(),
            scene.tables.text()
        );
        let input = scene.input();
        let (name, difference) = (&case.name, case.input.difference(&input));
        assert_eq!(difference, None, "{name}: {INPUT}");
        assert_eq!(file(INPUT), input.file(Direction::In), "{name}: {INPUT}");
    }
}

/// Reasons that no frame on a device without offloads can bring about, and those that
/// depend on how much a gateway can hold.
const NOT_SHOWN: &[DropReason] = &[
    DropReason::FragmentSpares,
    DropReason::TooBigSuperFrame,
    DropReason::NoHeadroom,
    DropReason::BadOffload,
    DropReason::OuterMissing,
    DropReason::DirectLoop,
    DropReason::NeighborTableFull,
    DropReason::QueueFull,
    DropReason::QueueTooLong,
];

#[test]
fn every_drop_reason_that_a_frame_can_bring_about_has_a_case() {
    let outcomes = cases().iter().map(|case| play_on_the_core(case).unwrap());
    let counters: String = outcomes.map(|outcome| outcome.counters).collect();
    for reason in DropReason::ALL {
        let counted = counters.contains(&format!("drop-{} ", reason.name()));
        assert_eq!(counted, !NOT_SHOWN.contains(reason), "{reason}");
    }
}

#[test]
fn packets_of_a_flow_and_fragments_of_a_packet_share_a_source_port() {
    let outcomes = cases().iter().map(|case| play_on_the_core(case).unwrap());
    let frames: Vec<_> = outcomes.flat_map(|outcome| outcome.output.frames).collect();
    let ports = flows::ports(frames.iter().map(|frame| &frame.bytes[..]));
    for (flow, ports) in &ports {
        assert_eq!(ports.len(), 1, "{flow:?} leaves by {ports:?}");
    }
    let different: std::collections::BTreeSet<_> = ports.values().flatten().collect();
    assert!(ports.len() > 20 && different.len() > ports.len() * 9 / 10);
}
