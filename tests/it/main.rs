//! Integration tests against the real kernel. One binary, so that it links
//! once; one module for each promise or tool.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod api;
mod bad_input;
mod child;
mod counted;
mod crowd;
mod elsewhere;
mod filtering;
mod identity;
mod idle;
mod isolation;
mod lingering;
mod many;
mod netlink;
mod oracle;
mod patience;
mod replay;
mod restricted;
mod resync;
mod reused;
mod signal;
mod sources;
mod stress;
mod thread_groups;
mod tree;
mod world;

/// The program that forces the hazards.
const HAZARD: &str = env!("CARGO_BIN_EXE_hazard");

/// The program whose processes each create the next.
const CHAIN: &str = env!("CARGO_BIN_EXE_chain");

/// The program that does what a test says.
const PUPPET: &str = env!("CARGO_BIN_EXE_puppet");

/// The program that says which signals it got.
const LISTENER: &str = env!("CARGO_BIN_EXE_listener");
