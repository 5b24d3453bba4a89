//! Instructions that a lookup takes, counted by valgrind: they repeat exactly, so
//! that a change of them is a change of the code. Those of a build without flags for
//! the processor are recorded in `results/fib-instructions.txt`, and a count that is
//! more than 3 % off fails.
//!
//! `cargo bench -p culvert-benches --bench fib_instructions [-- PART-OF-A-NAME]`, with
//! `CULVERT_BLESS=1` to record what was counted. It needs valgrind.
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]

#[allow(dead_code, reason = "the other bench uses the rest")]
#[path = "fib/routes.rs"]
mod routes;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZero;
use std::process::{Command, ExitCode};
use std::sync::Mutex;

use culvert_core::fib::{ApplianceFib, Fib, HostFib, Prefix};
use routes::{Draw, Key, Route};
use zerocopy::FromZeros;

/// Lookups of one count.
const KEYS: usize = 1 << 14;
/// Per mille that a count may be off.
const TOLERANCE: u64 = 30;
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/fib-instructions.txt");

/// A table, its size, the family, and how lookups are done.
struct Case {
    host: bool,
    set: Set,
    batch: bool,
}

#[derive(Clone, Copy)]
enum Set {
    /// So many /24s side by side, as a cluster's nodes have.
    Cluster(u32),
    /// So many IPv4 routes of the lengths that the Internet has.
    V4(usize),
    /// So many IPv6 routes of the same.
    V6(usize),
}

impl Case {
    fn name(&self) -> String {
        let storage = if self.host { "host" } else { "appliance" };
        let set = match self.set {
            Set::Cluster(count) => format!("ipv4-cluster-{count}"),
            Set::V4(count) => format!("ipv4-{count}"),
            Set::V6(count) => format!("ipv6-{count}"),
        };
        let how = if self.batch { "batch" } else { "single" };
        format!("{storage}/{set}/{how}")
    }
}

fn cases() -> Vec<Case> {
    let appliance = [Set::Cluster(10_000), Set::V4(10_000), Set::V6(10_000)];
    let host = [
        Set::Cluster(10_000),
        Set::V4(1_000),
        Set::V4(10_000),
        Set::V4(100_000),
        Set::V4(900_000),
        Set::V6(1_000),
        Set::V6(10_000),
        Set::V6(200_000),
    ];
    let appliance = appliance.map(|set| (false, set));
    let host = host.map(|set| (true, set));
    let tables = appliance.into_iter().chain(host);
    let both = tables.flat_map(|(host, set)| [false, true].map(|batch| Case { host, set, batch }));
    both.collect()
}

fn main() -> ExitCode {
    if let Some(name) = std::env::args().skip(1).find_map(wanted) {
        let cases = cases();
        let case = cases.iter().find(|case| case.name() == name);
        run(case.expect("a case of ours"));
        return ExitCode::SUCCESS;
    }
    // Cargo says --bench; the rest is parts of names.
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let parts: Vec<&String> = parts.iter().filter(|part| *part != "--bench").collect();
    let asked = |name: &String| parts.is_empty() || parts.iter().any(|part| name.contains(*part));
    let names = cases()
        .iter()
        .map(Case::name)
        .filter(asked)
        .collect::<Vec<_>>();
    let counted = count_all(names);
    let text = std::fs::read_to_string(RECORDED).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let mut recorded: BTreeMap<String, String> = lines
        .map(|(name, count)| (name.to_owned(), count.to_owned()))
        .collect();
    if std::env::var_os("CULVERT_BLESS").is_some() {
        recorded.extend(counted.clone());
        let lines = recorded
            .iter()
            .map(|(name, count)| format!("{name} {count}\n"));
        std::fs::write(RECORDED, lines.collect::<String>()).expect("the record can be written");
    }
    compare(&counted, &recorded)
}

fn wanted(argument: String) -> Option<String> {
    argument.strip_prefix("case=").map(str::to_owned)
}

/// Counts cases beside each other, one for each processor: it is no matter of time.
fn count_all(names: Vec<String>) -> BTreeMap<String, String> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let left = Mutex::new(names.into_iter());
    let counted = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("nobody panics with it").next();
                    let Some(name) = next else { return };
                    let count = tenths(count(&name));
                    let mut counted = counted.lock().expect("nobody panics with it");
                    counted.insert(name, count);
                }
            });
        }
    });
    counted.into_inner().expect("nobody panics with it")
}

/// The instructions of one case's lookups, in a process under valgrind.
fn count(name: &str) -> u64 {
    let program = std::env::current_exe().expect("this program has a path");
    let file = format!("{}-{}", std::process::id(), name.replace('/', "-"));
    let out = std::env::temp_dir().join(format!("culvert-callgrind-{file}"));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .arg(format!("case={name}"))
        .output()
        .expect("valgrind must be installed");
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{name} under valgrind: {errors}");
    let text = std::fs::read_to_string(&out).expect("callgrind has written its counts");
    std::fs::remove_file(&out).expect("its file can go");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.expect("callgrind's counts have a total");
    total.trim().parse().expect("the total is a number")
}

/// Tenths of an instruction a lookup.
fn tenths(count: u64) -> String {
    let keys = u64::try_from(KEYS).expect("a size");
    let tenths = (count * 10 + keys / 2) / keys;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn compare(counted: &BTreeMap<String, String>, recorded: &BTreeMap<String, String>) -> ExitCode {
    let mut good = true;
    println!(
        "{:<36}{:>12}{:>12}",
        "instructions a lookup", "now", "recorded"
    );
    for (name, now) in counted {
        let before = recorded.get(name).map_or("none", String::as_str);
        let within = near(now, before);
        let verdict = if within { "" } else { "  MORE THAN 3 % OFF" };
        println!("{name:<36}{now:>12}{before:>12}{verdict}");
        good &= within;
    }
    if good && !counted.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("CULVERT_BLESS=1 records these counts, if they are meant to be");
    ExitCode::FAILURE
}

/// Whether two counts of tenths are within the tolerance.
fn near(now: &str, before: &str) -> bool {
    let number = |text: &str| text.replace('.', "").parse::<u64>().ok();
    match (number(now), number(before)) {
        (Some(now), Some(before)) => now.abs_diff(before) * 1000 <= before * TOLERANCE,
        _ => false,
    }
}

fn run(case: &Case) {
    if case.host {
        let mut storage = HostFib::<u32>::new_box_zeroed().expect("memory for the table");
        lookups(storage.fib(), case);
    } else {
        let mut storage = ApplianceFib::<u32>::new_box_zeroed().expect("memory for the table");
        lookups(storage.fib(), case);
    }
}

fn lookups(fib: Fib<'_, u32>, case: &Case) {
    match case.set {
        Set::Cluster(count) => {
            let route = |index: u32| (0x0a02_0000 + (index << 8), 24, 1 + index % 256);
            let routes: Vec<Route<u32>> = (0..count).map(route).collect();
            of_routes(fib, &routes, case.batch);
        }
        Set::V4(count) => of_routes(fib, &routes::routes::<u32>(count), case.batch),
        Set::V6(count) => of_routes(fib, &routes::routes::<u128>(count), case.batch),
    }
}

fn of_routes<K: Key>(mut fib: Fib<'_, u32>, routes: &[Route<K>], batch: bool) {
    for (bits, length, next_hop) in routes {
        let (bits, length) = (*bits, *length);
        let inserted = fib.insert(0, Prefix { bits, length }, *next_hop);
        inserted.expect("room for the routes");
    }
    let keys = routes::keys(routes, Draw::Random, KEYS);
    let mut codes = vec![0; KEYS];
    if batch {
        counted_batch(&fib, &keys, &mut codes);
    } else {
        counted_single(&fib, &keys, &mut codes);
    }
    assert_eq!(codes, routes::answers(routes, &keys), "wrong answers");
}

#[inline(never)]
fn counted_single<K: Key>(fib: &Fib<'_, u32>, keys: &[K], codes: &mut [u32]) {
    for (key, code) in keys.iter().zip(codes) {
        *code = fib.lookup(black_box(0), *key);
    }
}

#[inline(never)]
fn counted_batch<K: Key>(fib: &Fib<'_, u32>, keys: &[K], codes: &mut [u32]) {
    for (keys, codes) in keys.chunks(64).zip(codes.chunks_mut(64)) {
        fib.lookup_batch(black_box(0), keys, codes);
    }
}
