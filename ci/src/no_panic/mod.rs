//! Shows on the release objects of a target that the core's entry points reach no
//! panic and no allocator.
//!
//! What is looked at is what would be linked: `culvert-probe` (`ci/probe`) has a
//! function for each entry point. Faults that are planted there are searched for
//! first, so that a check which has gone blind fails.

mod graph;
mod objects;

use anyhow::{Result, bail};
use graph::Graph;

/// Functions of the core that must be reached from the probe: without one of them
/// the probe would show nothing. The pipeline's three ways are inlined into `process`.
const REACHED: &[&str] = &[
    "culvert_core::gateway::Gateway::process",
    "culvert_core::gateway::Gateway::tick",
    "culvert_core::gateway::Gateway::path_mtu_exceeded",
    "culvert_core::gateway::Gateway::apply",
    "culvert_core::gateway::Gateway::sync",
    "culvert_core::offload::segment::Segments::new",
    "culvert_core::offload::segment::Segments::write_next",
];

/// Modules of the probe.
const DATA: &str = "culvert_probe::data::";
const CONTROL: &str = "culvert_probe::control::";
const PLANTED: &str = "culvert_probe::planted::";

/// Functions that only panic, so that a way to one of them is shown and not the
/// ways on from there, which are the same for all. What is missing here is
/// followed to the functions of `core::panicking` that everything ends in.
const PANICS: &[&str] = &[
    "core::panicking::",
    "core::option::expect_failed",
    "core::option::unwrap_failed",
    "core::result::unwrap_failed",
    "core::slice::index::slice_",
    "len_mismatch_fail",
    "slice_error_fail",
    "rust_begin_unwind",
    "rust_panic",
    "std::panicking::",
];

const ALLOCATORS: &[&str] = &[
    "__rust_alloc",
    "__rust_dealloc",
    "__rust_realloc",
    "__rust_no_alloc_shim",
    "__rdl_",
    "__rg_",
];

/// Provided by a hosted target's C library.
const MEMORY: &[&str] = &["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];

/// Builds for a target, looks, and prints what it found.
///
/// # Errors
/// When a panic, an allocator or an undefined symbol is reached, or when the check
/// itself does not find what it must.
pub fn no_panic(target: &str) -> Result<()> {
    let graph = Graph::read(&objects::build(target)?)?;
    check_the_check(&graph)?;
    let mut faults = 0;
    for (what, root) in [("data path", DATA), ("control channel", CONTROL)] {
        let found = graph.find(|name| name.starts_with(root), is_fault);
        for chain in &found {
            println!("{what} reaches {}", show(chain));
        }
        let entries = graph.names(root).len();
        println!("{what}: {entries} entry points, {} faults", found.len());
        faults += found.len();
    }
    // Not from the entry points alone: from everything in the core's object.
    let from_core = graph.find(
        |name| name.contains("culvert_core::"),
        |name, _| is_allocator(name),
    );
    for chain in &from_core {
        println!("the core reaches {}", show(chain));
    }
    println!(
        "the core's object: {} ways to an allocator",
        from_core.len()
    );
    if faults + from_core.len() > 0 {
        bail!("{target}: a panic or an allocator can be reached");
    }
    Ok(())
}

/// The planted faults are found, the clean functions are clean, and what must be
/// there to be looked at is there.
fn check_the_check(graph: &Graph) -> Result<()> {
    let planted = graph.names(PLANTED);
    for kind in ["panic_", "allocation", "clean"] {
        if !planted.iter().any(|name| is_planted(name, kind)) {
            bail!("no planted function {kind}… in the object");
        }
    }
    for name in planted {
        let found = graph.find(|root| root == name, is_fault);
        let ends_in = |is: fn(&str) -> bool| {
            found
                .iter()
                .flat_map(|chain| chain.last())
                .any(|end| is(end))
        };
        let as_planted = if is_planted(name, "panic_") {
            ends_in(is_panic)
        } else if is_planted(name, "allocation") {
            ends_in(is_allocator)
        } else {
            found.is_empty()
        };
        if !as_planted {
            bail!("the check is wrong about {name}: it found {found:?}");
        }
    }
    for function in REACHED {
        let ways = graph.find(
            |name| name.starts_with(DATA) || name.starts_with(CONTROL),
            |name, _| plain(name).contains(function),
        );
        if ways.is_empty() {
            bail!("the probe does not reach {function}");
        }
    }
    Ok(())
}

/// A name as both of the compiler's manglings have it.
fn plain(name: &str) -> String {
    name.replace(['<', '>'], "")
}

fn is_planted(name: &str, kind: &str) -> bool {
    name.strip_prefix(PLANTED)
        .is_some_and(|name| name.starts_with(kind))
}

fn is_fault(name: &str, defined: bool) -> bool {
    is_panic(name) || is_allocator(name) || !defined && !MEMORY.contains(&name)
}

fn is_panic(name: &str) -> bool {
    PANICS.iter().any(|part| name.contains(part))
}

fn is_allocator(name: &str) -> bool {
    ALLOCATORS.iter().any(|part| name.contains(part))
}

/// A way as lines, the fault first.
fn show(chain: &[String]) -> String {
    let mut names = chain.iter().rev();
    let fault = names.next().map_or("", String::as_str);
    names.fold(fault.to_owned(), |text, name| {
        format!("{text}\n    from {name}")
    })
}
