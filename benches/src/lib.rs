//! Benchmarks of culvert's packet core; see `benches/`.
//!
//! `cargo bench -p culvert-benches --bench pipeline` times a packet's whole way
//! through the core. Rates between nodes, beside the kernel's, come from
//! `ci/demo`.
