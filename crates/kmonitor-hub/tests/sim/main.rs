//! The hub over the simulated kernel: what it promises, with the hazards forced.

mod deaths;
mod loss;
mod random;
mod subscriptions;
mod support;
mod trees;
mod watches;
