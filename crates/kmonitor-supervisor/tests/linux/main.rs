//! The Linux backend on a real kernel, directly, without a tree above it.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, also in a function it calls"
)]

mod adoption;
mod below;
mod beside;
mod daemons;
mod errors;
mod groups;
mod handles;
mod killed;
mod looks;
mod many;
mod output;
mod readiness;
mod reaping;
mod recovery;
mod scopes;
mod surroundings;
mod taken_over;
mod world;
