//! Recorded events as a source: what `kmonitor trace --json` printed, one object
//! a line, played again.
//!
//! A recording tells of *processes* (an `exit` is the death of a whole one), so
//! its facts need no probing to be decided. Fields that this version does not
//! know, such as an exec line's `exe` and `args`, are passed over.
//!
//! ```
//! use std::task::{Context, Waker};
//! use kmonitor_event::EventMask;
//! use kmonitor_source::replay::ReplaySource;
//! use kmonitor_source::{EventSource, FactKind, KernelInterest};
//!
//! let recording = r#"{"type":"fork","seq":0,"time_ns":5,"pid":7,"child":8}
//! {"type":"exec","seq":1,"time_ns":6,"pid":8,"exe":"/bin/true","args":["true"]}
//! {"type":"exit","seq":2,"time_ns":9,"pid":8,"status":{"code":0}}
//! "#;
//! let mut source = ReplaySource::new(recording.as_bytes());
//! let mut cx = Context::from_waker(Waker::noop());
//! let mut interest = KernelInterest::new();
//! interest.set_host(EventMask::LIFECYCLE);
//! assert!(source.poll_interest(&mut cx, &interest).is_ready());
//!
//! let mut facts = Vec::new();
//! assert!(source.poll_batch(&mut cx, &mut facts).is_ready());
//! assert_eq!(facts.len(), 3);
//! assert!(matches!(facts[2].kind, FactKind::GroupDead { .. }));
//! ```
//!
//! # What becomes of an event
//! | recorded | fact |
//! |---|---|
//! | `fork`, `thread_create`, `exec`, `uid`, `gid`, `sid`, `ptrace`, `comm`, `coredump`, `other` | the same |
//! | `thread_exit` | [`TaskExited`](crate::FactKind::TaskExited) |
//! | `exit` | [`GroupDead`](crate::FactKind::GroupDead), with the status as recorded |
//! | `lost`, of either origin | [`Lost`](crate::FactKind::Lost) |
//! | `track_incomplete`, `resync` | none |
//!
//! A fact has no place for an event's number, for whether it was inferred, nor
//! for the incarnations of the recording's hub: those are given anew.

mod convert;
mod lines;
mod probe;
mod source;

pub use lines::LINE_BYTES_MAX;
pub use probe::ReplayProbe;
pub use source::ReplaySource;

#[cfg(test)]
mod tests;
