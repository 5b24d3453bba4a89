//! Structures for longest-prefix matches beside each other, as static tables: what the
//! FIB's structure is chosen by. The same seeded routes and keys as the bench `fib`,
//! rounds interleaved, medians.
//!
//! `cargo bench -p culvert-benches --bench fib_candidates -- [ipv4|ipv6] [ROUTES]
//! [rounds=N] [record]`. With `record` it writes the medians to
//! `results/fib-candidates.csv`. With `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` tables
//! of 2 MB and more are on huge pages and the record is `fib-candidates-huge.csv`; with
//! glibc 2.36 some processes ask for none all the same, so see the MB that are printed,
//! and run it again.
//!
//! A candidate is built from all routes at once and cannot change. Each is asked for
//! one key after the other, and most also by 64 keys that take each step together
//! ("staged").
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "fields of packed words are cut out of them"
)]

mod bart;
mod btree;
mod candidate;
mod direct;
mod dxr;
mod lengths;
mod longer;
#[path = "../fib/measuring.rs"]
mod measuring;
mod poptrie;
mod ranges;
#[allow(dead_code, reason = "the other bench uses the rest")]
#[path = "../fib/routes.rs"]
mod routes;
mod sail;

use std::fmt::Write as _;
use std::hint::black_box;

use candidate::{Candidate, Culvert};
use measuring::{Options, median, time, wrong};
use routes::{Draw, Key, Route, answers, keys, routes};

/// Keys in a round: more than what caches hold of the large tables.
const KEYS: usize = 1 << 20;

/// What is measured of one way to ask a table.
#[derive(Default)]
struct Figures {
    name: String,
    staged: bool,
    hop_bits: u32,
    bytes: usize,
    wrong: usize,
    /// Nanoseconds a lookup: random, skewed, dependent.
    lookups: [Vec<f64>; 3],
}

fn main() {
    let options = Options::parse();
    let mut record =
        "family,routes,table,hop bits,random,skewed,dependent,bytes,wrong\n".to_owned();
    let huge = family::<u32>(&options, v4_tables, &mut record)
        + family::<u128>(&options, v6_tables, &mut record);
    if options.record {
        options.must_be_whole();
        // Asked for is not given: what the kernel says counts.
        let name = if huge > 0 { "-huge" } else { "" };
        let results = concat!(env!("CARGO_MANIFEST_DIR"), "/results/fib-candidates");
        std::fs::write(format!("{results}{name}.csv"), record).expect("the record can be written");
    }
}

type Tables<K> = Vec<Box<dyn Candidate<K>>>;

fn v4_tables(routes: &[Route<u32>]) -> Tables<u32> {
    let ranges = ranges::ranges(routes);
    vec![
        Box::new(direct::Direct::<u32>::new(&ranges)),
        Box::new(direct::Direct::<u16>::new(&ranges)),
        Box::new(sail::Sail::new(&ranges)),
        Box::new(poptrie::Poptrie::<18>::new(&ranges)),
        Box::new(poptrie::Poptrie::<16>::new(&ranges)),
        Box::new(dxr::Dxr::<16>::new(&ranges)),
        Box::new(dxr::Dxr::<18>::new(&ranges)),
        Box::new(bart::Bart::new(routes)),
        Box::new(btree::Tree::<i32, 16>::of_32(&ranges)),
        Box::new(Culvert::new(routes)),
    ]
}

fn v6_tables(routes: &[Route<u128>]) -> Tables<u128> {
    let ranges = ranges::ranges(routes);
    vec![
        Box::new(Culvert::new(routes)),
        Box::new(poptrie::Poptrie::<16>::new(&ranges)),
        Box::new(poptrie::Poptrie::<18>::new(&ranges)),
        Box::new(bart::Bart::new(routes)),
        Box::new(btree::Tree::<i64, 8>::of_64(&ranges)),
        Box::new(btree::Tree::<i64, 16>::of_64(&ranges)),
        Box::new(lengths::Lengths::new(routes, &ranges)),
    ]
}

/// Measures all sizes; returns MB of tables on huge pages, of all sizes together.
fn family<K: Key>(
    options: &Options,
    tables: fn(&[Route<K>]) -> Tables<K>,
    record: &mut String,
) -> usize {
    let mut huge = 0;
    for size in options.sizes::<K>() {
        let routes = routes::<K>(size);
        let tables = tables(&routes);
        let figures = measure(&routes, &tables, options.rounds);
        let of_size = huge_pages() >> 10;
        huge += of_size;
        report::<K>(size, &figures, of_size);
        for line in &figures {
            let [random, skewed, dependent] = line.lookups.each_ref().map(|v| median(v));
            writeln!(
                record,
                "{},{size},{},{},{random:.2},{skewed:.2},{dependent:.2},{},{}",
                K::NAME,
                line.name,
                line.hop_bits,
                line.bytes,
                line.wrong
            )
            .expect("a string takes all");
        }
    }
    huge
}

fn measure<K: Key>(routes: &[Route<K>], tables: &Tables<K>, rounds: usize) -> Vec<Figures> {
    let random = keys(routes, Draw::Random, KEYS);
    let skewed = keys(routes, Draw::Skewed, KEYS);
    let edges = edges(routes);
    let checked = [&random, &skewed, &edges].map(|keys| (keys, answers(routes, keys)));
    let mut found = vec![0; KEYS];
    let mut measured = Vec::new();
    for table in tables {
        for staged in [false, true]
            .into_iter()
            .take(1 + usize::from(table.is_staged()))
        {
            let mut figures = Figures {
                name: format!("{}{}", table.name(), if staged { " staged" } else { "" }),
                staged,
                hop_bits: table.hop_bits(),
                bytes: table.bytes(),
                ..Figures::default()
            };
            for (keys, right) in &checked {
                ask(table.as_ref(), staged, keys, &mut found[..keys.len()]);
                figures.wrong += wrong(&found, right);
            }
            measured.push((table, figures));
        }
    }
    for _ in 0..rounds {
        for (table, figures) in &mut measured {
            let [by_random, by_skewed, by_chain] = &mut figures.lookups;
            let staged = figures.staged;
            let table = table.as_ref();
            by_random.push(time(KEYS, || ask(table, staged, &random, &mut found)));
            by_skewed.push(time(KEYS, || ask(table, staged, &skewed, &mut found)));
            if !staged {
                by_chain.push(time(KEYS / 4, || {
                    black_box(table.chain(&random[..KEYS / 4]));
                }));
            }
        }
    }
    measured.into_iter().map(|(_, figures)| figures).collect()
}

/// The first and last addresses of routes, those beside them, and of all.
fn edges<K: Key>(routes: &[Route<K>]) -> Vec<K> {
    let unit = 1 << (128 - K::WIDTH);
    let of_route = |(bits, length, _): &Route<K>| {
        let first = bits.wide();
        let last = first | u128::MAX.checked_shr(u32::from(*length)).unwrap_or(0);
        [
            first.wrapping_sub(unit),
            first,
            last,
            last.wrapping_add(unit),
        ]
    };
    let of_all = [0, u128::MAX].into_iter();
    let all = of_all.chain(routes.iter().take(KEYS / 8).flat_map(of_route));
    all.map(|wide| K::from_wide(wide >> (128 - K::WIDTH) << (128 - K::WIDTH)))
        .collect()
}

fn ask<K: Key>(table: &dyn Candidate<K>, staged: bool, keys: &[K], found: &mut [u32]) {
    if staged {
        table.staged(keys, found);
    } else {
        table.many(keys, found);
    }
}

/// A table of medians, with what each takes of the first one's time as a ratio.
fn report<K: Key>(size: usize, figures: &[Figures], huge: usize) {
    let first = &figures[0];
    println!(
        "\n{} {size} routes: ns a lookup (times {}'s), medians; {huge} MB of all on huge pages",
        K::NAME,
        first.name
    );
    println!(
        "  {:<24}{:>4}{:>17}{:>17}{:>17}{:>9}{:>10}{:>9}",
        "", "hop", "random", "skewed", "dependent", "MB", "B/prefix", "wrong"
    );
    for line in figures {
        print!("  {:<24}{:>4}", line.name, line.hop_bits);
        for (values, first) in line.lookups.iter().zip(&first.lookups) {
            let median_ns = median(values);
            if median_ns.is_nan() {
                print!("{:>17}", "-");
            } else {
                let ratio = median_ns / median(first);
                print!("{:>17}", format!("{median_ns:.2} ({ratio:.2})"));
            }
        }
        let per_prefix = float(line.bytes) / float(size);
        let megabytes = float(line.bytes) / f64::from(1 << 20);
        println!("{megabytes:>9.2}{per_prefix:>10.1}{:>9}", line.wrong);
    }
}

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).expect("32 bits"))
}

/// KB of this process that are on huge pages.
fn huge_pages() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}
