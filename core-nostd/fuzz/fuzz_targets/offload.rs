//! Cutting and joining super-frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| culvert_fuzz::offload::run(data));
