//! The hub over the simulated kernel: what it promises, with the hazards forced.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod after;
mod births;
mod deaths;
mod endings;
mod fairness;
mod late_births;
mod loss;
mod owners;
mod probes;
mod probing;
mod random;
mod random_losses;
mod resync;
mod scale;
mod silent;
mod subscriptions;
mod support;
mod trees;
mod watches;
