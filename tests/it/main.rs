//! Integration tests against the real kernel. One binary, so that it links
//! once; one module for each promise or tool.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod api;
mod idle;
mod many;
mod oracle;
mod thread_groups;

/// The program that forces the hazards.
const HAZARD: &str = env!("CARGO_BIN_EXE_hazard");
