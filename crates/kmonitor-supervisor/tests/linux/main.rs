//! The Linux backend on a real kernel, directly, without a tree above it.

mod adoption;
mod beside;
mod daemons;
mod errors;
mod killed;
mod many;
mod output;
mod readiness;
mod recovery;
mod scopes;
mod world;
