//! Segmentation and coalescing through the public interface.

#![allow(unreachable_pub, reason = "shared by this crate's modules")]

mod any;
mod build;
mod cut;
mod drive;
mod join;
