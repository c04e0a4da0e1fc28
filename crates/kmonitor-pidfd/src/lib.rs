//! Processes by pidfd: looking at one, waiting for one, watching many.
//!
//! A pidfd names one process for as long as it is held: its pid may be used
//! again, the descriptor never names another. It needs no privilege, works for
//! any process and not only for children, and becomes readable when the whole
//! process is dead. On this stand:
//!
//! * [`watch`]: one process's end as a future. No set-up, no thread, no hub.
//! * [`Pidfd`]: the descriptor itself: identity, readiness, status, signals.
//! * [`LinuxProbe`]: the [`ProcessProbe`](kmonitor_source::ProcessProbe) of a
//!   real Linux, through transient pidfds and `/proc`.
//! * [`PidfdSource`]: the [`EventSource`](kmonitor_source::EventSource) that
//!   works in containers, where the proc connector does not.
//!
//! # Three moments
//! Death (the last thread is gone), the status becoming readable, and the
//! reaping by the parent are three moments, and [`Readiness`] tells the first
//! from the last. Who may read the status when:
//!
//! | who asks | while it is a zombie | after it was reaped |
//! |---|---|---|
//! | its parent | `waitid`, without reaping | `PIDFD_GET_INFO`, Linux 6.15 |
//! | who may ptrace it (root, mostly) | `/proc/PID/stat` | `PIDFD_GET_INFO`, Linux 6.15 |
//! | anybody else | not at all | `PIDFD_GET_INFO`, Linux 6.15 |
//!
//! # Minimum kernel version
//! 5.3 for pidfds; 6.9 for an identity that cannot be fooled and for a wake-up
//! at the reaping; 6.15 for the status of strangers. Where `pidfd_open` does not
//! work at all, [`watch`] and [`LinuxProbe`] poll `/proc`, and say so.
//!
//! Behaviour is that of `pidfd_open(2)`, `kernel/pid.c`, `kernel/exit.c` and
//! `fs/pidfs.c`; each function names the rule it stands on.
#![deny(unsafe_code)]

mod backoff;
mod error;
mod limits;
mod pidfd;
mod probe;
mod procfs;
mod source;
mod status;
#[expect(
    unsafe_code,
    reason = "system calls that rustix does not have, and AsyncFd"
)]
mod sys;
mod watch;

pub use pidfd::{Pidfd, Readiness};
pub use probe::LinuxProbe;
pub use source::PidfdSource;
pub use watch::{Mechanism, Watch, WatchFuture, WatchRefFuture, watch};
