//! The hub: one event source, any number of subscribers.
//!
//! Facts go one way, left to right, and each arrow is a function call on a
//! batch: [`EventSource`](kmonitor_source::EventSource) → tracker (what a fact
//! means for a process) → router (who wants to know) → [`Subscription`] or
//! [`Watch`]. One dispatcher task owns all of it and carries out a closed set of
//! commands.
#![forbid(unsafe_code)]

mod command;
mod dispatcher;
mod error;
mod filter;
mod hub;
mod interest;
mod latch;
#[cfg(all(test, kmonitor_loom))]
mod models;
mod open;
mod patrol;
mod queue;
mod requests;
mod resync;
mod router;
mod scan;
mod stats;
mod subscription;
mod sync;
mod tracker;
mod watch;

pub use error::{Closed, OpenError, SubscribeError};
pub use filter::{Filter, QUEUE_EVENTS_DEFAULT};
pub use hub::{HOLDS_MAX_DEFAULT, Hub, HubBuilder, HubCapabilities, STATUS_GRACE_DEFAULT};
pub use stats::HubStats;
pub use subscription::Subscription;
pub use watch::{Watch, WatchMode};
