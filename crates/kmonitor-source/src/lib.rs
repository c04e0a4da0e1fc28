//! Where process-lifecycle facts come from.
//!
//! An [`EventSource`] reports *facts*, as the kernel tells them: single tasks
//! that fork, exec and exit. It decides nothing; what a fact means for a process
//! is the hub's tracker's business. A [`ProcessProbe`] stands beside it and asks
//! the system about one process now.
//!
//! Both traits are object-safe, so that a source can be chosen at run time and a
//! new one fits in without touching the hub. Two sources live here because they
//! need no operating system: [`sim`], a simulated kernel run by a seed, and
//! `replay` (feature `replay`), which plays recorded events.
#![forbid(unsafe_code)]

mod capabilities;
mod error;
mod fact;
mod interest;
mod probe;
#[cfg(feature = "replay")]
pub mod replay;
pub mod sim;
mod source;
mod target;

pub use capabilities::{
    Capabilities, LossReport, Narrowing, QueueSize, Reach, Refusal, Scope, SourceKind,
};
pub use error::{SourceError, StartError, StartErrorKind, WatchError};
pub use fact::{Fact, FactKind};
pub use interest::{KernelInterest, Wanted};
pub use probe::{
    HeldProcess, HeldState, Identity, Listing, ProbeError, ProcessEntry, ProcessProbe,
    ProcessState, ReapFuture, ThreadPhase, ThreadState,
};
pub use source::{BATCH_FACTS_MAX, EventSource, SourceStats};
pub use target::{IntoTarget, Target, TargetError};
