//! Any bytes as what the kernel sent. `cargo +nightly fuzz run codec`, in the directory of the crate.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kmonitor_connector::fuzzing::codec(bytes));
