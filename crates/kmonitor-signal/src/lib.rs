//! Process-lifecycle events as queued signals: the interface of kmonitor 2004.
//!
//! * [`SignalAdapter`] tells *monitors* of events of *targets* by signals, any
//!   number of each, from the events of a hub.
//! * [`MonitorSignals`] receives such signals in a Rust program, as a stream.
//! * `include/kmonitor.h` is the interface of `/dev/kmonitor` for C programs.
//!
//! # Why signals
//! For programs that exist. A program of its own is better served by the
//! hub's typed streams, which tell more, and lose nothing silently.
//!
//! # How it is built
//! One task owns the tables (`registry`: who is told what of whom, no I/O), one
//! subscription to the hub that grows and shrinks with them, and the monitors,
//! each held by a pidfd with a bounded queue of signals that found the kernel's
//! full (`outbox`, no I/O). The checks that a registration needs are made in its
//! caller's task, so that the signals of others do not wait for them.
//!
//! While somebody wants the forks of a target, that subscription has all that is born
//! below it from then on, and `memory` (no I/O) keeps what it does until those who
//! were told of it have registered it.
//!
//! Identity is never a pid: targets are known by the hub's keys, monitors by
//! their pidfds. The end of a target is a latched [`HubWatch`](kmonitor_hub::Watch)
//! beside the stream, so it is told whatever the queues lost.
//!
//! # Minimum kernel version
//! 5.3 for pidfds, 6.9 for identities that cannot be fooled.
#![deny(unsafe_code)]

mod adapter;
#[cfg(feature = "device")]
pub mod device;
mod disposition;
mod error;
mod memory;
mod monitor;
mod outbox;
mod procfs;
mod receive;
mod registry;
mod signal;
mod stats;
#[expect(
    unsafe_code,
    reason = "system calls that rustix does not have, and AsyncFd"
)]
mod sys;
mod task;

pub use adapter::{Session, SignalAdapter, TargetGone};
pub use disposition::{Disposition, disposition};
pub use error::{DeregisterError, RegisterError};
pub use receive::{MonitorSignal, MonitorSignals, ReceiveError, block};
pub use signal::{Signal, SignalError};
pub use stats::SignalStats;
