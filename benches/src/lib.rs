//! What the benches share: made-up facts and datagrams, a source that hands
//! them out and takes the time, a probe that asks nobody, the hub on both, the
//! baselines, and the processes for the runs on the real kernel.
//!
//! `README.md` beside this crate says what each bench measures and how to run it.
#![deny(unsafe_code)]

pub mod baseline;
pub mod datagrams;
pub mod feed;
pub mod idlers;
pub mod probe;
pub mod rng;
pub mod stage;
pub mod stats;
#[expect(
    unsafe_code,
    reason = "a counting allocator and fork exist only as unsafe interfaces"
)]
pub mod sys;
pub mod workload;
