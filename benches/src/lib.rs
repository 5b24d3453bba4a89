//! Benchmarks of culvert's packet core; see `benches/`.
//!
//! - `cargo bench -p culvert-benches --bench pipeline` times a packet's whole way
//!   through the core, beside the same job written with etherparse and prefix-trie.
//! - `cargo bench -p culvert-benches --bench instructions` counts its instructions
//!   under valgrind; it needs `cargo install gungraun-runner` and valgrind.
//! - `cargo bench -p culvert-benches --bench fib` times the FIB beside other
//!   longest-prefix matchers, and `--bench fib_instructions` counts its instructions
//!   and fails when they changed; it needs valgrind. `--bench fib_candidates` times
//!   the structures that the FIB's was chosen from, as static tables.
//! - `cargo bench -p culvert-benches --bench offload` times segmentation in software
//!   beside a copy of the bytes.
//!
//! Rates between nodes, beside the kernel's and others', come from `ci/bench`
//! (`ci/src/bench/`), which writes its report to `benches/results/host.md`.

pub mod reference;
pub mod scene;
