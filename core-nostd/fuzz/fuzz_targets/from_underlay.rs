//! Frames of other nodes, behind sockets and on a raw Ethernet port.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culvert_fuzz::traffic::run(
    culvert_fuzz::traffic::From::Underlay,
    data
));
