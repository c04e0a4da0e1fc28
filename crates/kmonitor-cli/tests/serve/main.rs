//! `kmonitor serve`: programs of 2004 on a device of ours.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../kmonitor-signal/tests/hand/mod.rs"]
mod hand;

mod callers;
mod followers;
mod lifetime;
mod place;
mod programs;
mod server;

use common::Target;

/// The bits of 2004.
const FORK: u32 = 0x08;
const ABORT: u32 = 0x10;
const EXIT: u32 = 0x40;

/// `SIGRTMIN` of the C library.
const SIGRTMIN: i32 = 34;

/// The line in which a caller tells of a signal.
fn line(signal: i32, pid: impl std::fmt::Display, bit: u32, uid: u32) -> String {
    // SI_QUEUE is -1.
    format!("signal {signal} {pid} {bit} -1 {uid}")
}

fn number(target: &Target) -> i32 {
    target.pid().parse().unwrap()
}
