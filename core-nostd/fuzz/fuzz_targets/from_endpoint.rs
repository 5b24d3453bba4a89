//! Frames of pods.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culvert_fuzz::traffic::run(
    culvert_fuzz::traffic::From::Endpoint,
    data
));
