//! Any interest, made into a program, and any bytes that it is to judge. `cargo +nightly fuzz run filter`, in the directory of the crate.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kmonitor_connector::fuzzing::filter(bytes));
