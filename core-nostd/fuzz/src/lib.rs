//! What the fuzz targets do: each reads choices from a fuzzer's bytes, hands what
//! it made of them to the core, and checks what comes back. The models and checks
//! are those of the core's tests, where the core has them.
//!
//! `ci/fuzz` builds and runs the targets.

#[allow(
    missing_docs,
    reason = "shared with the core's tests, public to nobody else"
)]
#[path = "../../tests/common/mod.rs"]
mod common;
pub mod control;
pub mod fib;
pub mod offload;
mod reader;
pub mod tables;
pub mod traffic;

pub use reader::Reader;
