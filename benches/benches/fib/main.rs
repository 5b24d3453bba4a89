//! The FIB beside other longest-prefix matchers: the same seeded routes and keys,
//! rounds interleaved, medians.
//!
//! `cargo bench -p culvert-benches --bench fib -- [ipv4|ipv6] [ROUTES] [rounds=N] [record]`.
//! With `--features peer-dpdk` (after `ci/setup --dpdk`) also DPDK's rte_lpm and
//! rte_lpm6, in a process of their own. With `record` it writes the medians, plots of
//! them and what the machine is to `results/`.
#![allow(missing_docs, unreachable_pub, reason = "a program, not a library")]

mod contenders;
#[cfg(feature = "peer-dpdk")]
mod dpdk;
mod measuring;
mod plot;
mod readme;
mod routes;

use std::time::{Duration, Instant};

use contenders::{Culvert, IpNetworkTable, Iptrie, OneByOne, PoptrieCrate, PrefixTrie, Table};
use measuring::{Options, median, nanoseconds, on_cpu, time, wrong};
use plot::Line;
use routes::{Draw, Key, Random, Route, answers, keys, routes};

/// Counts what tables allocate.
#[global_allocator]
static ALLOCATED: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Keys in a round: more than what caches hold of the large tables.
const KEYS: usize = 1 << 20;
/// Removals, each followed by an insertion of the same, that updates are measured by.
const UPDATES: usize = 50_000;

/// What is measured of a table.
struct Figures {
    name: &'static str,
    /// Nanoseconds a lookup: random, skewed, dependent.
    lookups: [Vec<f64>; 3],
    wrong: usize,
    /// Bytes of what lookups read, and of all.
    memory: [usize; 2],
    updates: Option<(f64, f64)>,
}

fn main() {
    let options = Options::parse();
    let mut lines = Vec::new();
    family::<u32>(&options, v4_tables, &mut lines);
    family::<u128>(&options, v6_tables, &mut lines);
    if options.record {
        options.must_be_whole();
        plot::record(&lines);
        readme::write(&lines);
    }
}

fn v4_tables() -> Vec<Box<dyn Table<u32>>> {
    vec![
        Box::new(Culvert::new()),
        Box::new(OneByOne(Culvert::new())),
        Box::new(PoptrieCrate(Vec::new(), poptrie::Poptrie::new())),
        Box::new(IpNetworkTable(ip_network_table::IpNetworkTable::new())),
        Box::new(PrefixTrie::<ipnet::Ipv4Net>(prefix_trie::PrefixMap::new())),
        Box::new(Iptrie::<iptrie::Ipv4Prefix>(None, None)),
    ]
}

fn v6_tables() -> Vec<Box<dyn Table<u128>>> {
    vec![
        Box::new(Culvert::new()),
        Box::new(OneByOne(Culvert::new())),
        Box::new(PoptrieCrate(Vec::new(), poptrie::Poptrie::new())),
        Box::new(IpNetworkTable(ip_network_table::IpNetworkTable::new())),
        Box::new(PrefixTrie::<ipnet::Ipv6Net>(prefix_trie::PrefixMap::new())),
        Box::new(Iptrie::<iptrie::Ipv6Prefix>(None, None)),
    ]
}

fn family<K: Key>(
    options: &Options,
    tables: fn() -> Vec<Box<dyn Table<K>>>,
    lines: &mut Vec<Line>,
) {
    for size in options.sizes::<K>() {
        let figures = measure(size, tables(), options.rounds);
        report::<K>(size, &figures);
        let right = figures.iter().all(|figures| figures.wrong == 0);
        assert!(right || !options.record, "wrong answers are not recorded");
        lines.extend(figures.iter().map(|figures| Line {
            family: K::NAME,
            routes: size,
            table: figures.name,
            lookups: figures.lookups.each_ref().map(|values| median(values)),
            updates: figures.updates,
            memory: figures.memory.map(mb),
        }));
    }
}

fn measure<K: Key>(size: usize, tables: Vec<Box<dyn Table<K>>>, rounds: usize) -> Vec<Figures> {
    let routes = routes::<K>(size);
    let random = keys(&routes, Draw::Random, KEYS);
    let skewed = keys(&routes, Draw::Skewed, KEYS);
    let right = answers(&routes, &random);
    #[cfg(feature = "peer-dpdk")]
    let mut peer = dpdk::Peer::start(&routes, [&random, &skewed], &right);
    let mut found = vec![0; KEYS];
    let mut measured = Vec::new();
    for mut table in tables {
        let before = ALLOCATED.current_usage();
        for (bits, length, next_hop) in &routes {
            table.insert(*bits, *length, *next_hop);
        }
        table.ready();
        let allocated = ALLOCATED.current_usage().saturating_sub(before);
        table.many(&random, &mut found);
        let figures = Figures {
            name: table.name(),
            lookups: Default::default(),
            wrong: wrong(&found, &right),
            memory: table.memory().unwrap_or([allocated; 2]),
            updates: None,
        };
        measured.push((table, figures));
    }
    for _ in 0..rounds {
        for (table, figures) in &mut measured {
            let [by_random, by_skewed, by_chain] = &mut figures.lookups;
            by_random.push(time(KEYS, || table.many(&random, &mut found)));
            by_skewed.push(time(KEYS, || table.many(&skewed, &mut found)));
            by_chain.push(time(KEYS / 4, || {
                std::hint::black_box(table.chain(&random[..KEYS / 4]));
            }));
        }
        #[cfg(feature = "peer-dpdk")]
        peer.round();
    }
    for (table, figures) in &mut measured {
        if table.can_update() {
            figures.updates = Some(updates(table.as_mut(), &routes));
            // What was taken out and put back is as it was.
            table.many(&random, &mut found);
            figures.wrong += wrong(&found, &right);
        }
    }
    let figures = measured.into_iter().map(|(_, figures)| figures);
    #[cfg(feature = "peer-dpdk")]
    let figures = figures.chain(peer.finish());
    figures.collect()
}

/// Nanoseconds an update of the processor's time, and the 99.9th percentile of single
/// ones by the clock on the wall.
fn updates<K: Key>(table: &mut dyn Table<K>, routes: &[Route<K>]) -> (f64, f64) {
    let mut random = Random(7);
    // Tables that need milliseconds get fewer.
    let end = Instant::now() + Duration::from_secs(3);
    let mut single = Vec::with_capacity(2 * UPDATES);
    let mut count = 0;
    let began = on_cpu();
    while count < UPDATES && Instant::now() < end {
        for _ in 0..50 {
            let (bits, length, next_hop) = routes[random.below(routes.len())];
            table.remove(bits, length);
            table.insert(bits, length, next_hop);
        }
        count += 50;
    }
    let mean =
        nanoseconds(on_cpu() - began) / f64::from(u32::try_from(2 * count).expect("32 bits"));
    for _ in 0..count {
        let (bits, length, next_hop) = routes[random.below(routes.len())];
        let began = Instant::now();
        table.remove(bits, length);
        let middle = Instant::now();
        table.insert(bits, length, next_hop);
        single.push(nanoseconds(middle - began));
        single.push(nanoseconds(middle.elapsed()));
    }
    single.sort_by(f64::total_cmp);
    (mean, single[single.len() - 1 - single.len() / 1000])
}

/// Millions of bytes.
fn mb(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes / 1000).expect("below 4 TB")) / 1000.0
}

/// A table of medians, with what each takes of the first one's time as a ratio.
fn report<K: Key>(size: usize, figures: &[Figures]) {
    println!(
        "\n{} {size} routes: ns a lookup (times culvert's), medians",
        K::NAME
    );
    println!(
        "  {:<18}{:>17}{:>17}{:>17}{:>12}{:>11}{:>11}{:>9}{:>8}",
        "",
        "random",
        "skewed",
        "dependent",
        "ns/update",
        "p99.9 µs",
        "lookup MB",
        "all MB",
        "wrong"
    );
    let ours: Vec<f64> = figures[0].lookups.iter().map(|v| median(v)).collect();
    for line in figures {
        print!("  {:<18}", line.name);
        for (values, ours) in line.lookups.iter().zip(&ours) {
            let median = median(values);
            let text = format!("{median:.2} ({:.2})", median / ours);
            print!(
                "{:>17}",
                if median.is_nan() {
                    "-".to_owned()
                } else {
                    text
                }
            );
        }
        match line.updates {
            Some((mean, worst)) => print!("{mean:>12.0}{:>11.1}", worst / 1000.0),
            None => print!("{:>12}{:>11}", "-", "-"),
        }
        let [lookup, all] = line.memory.map(mb);
        println!("{lookup:>11.2}{all:>9.2}{:>8}", line.wrong);
    }
}
