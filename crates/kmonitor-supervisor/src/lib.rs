//! Supervision trees over processes and tasks, fed by kernel events.
//!
//! OTP's trees, for operating-system processes and tokio tasks alike. What is to
//! run is declared ([`spec`]); a pure decision core says what to do when something
//! happens; a [`backend`] does it and reports what came of it. The core has no
//! clock, no runtime and no system call, so it is tested against a model of OTP's
//! rules, and a tree can be tested without a process (see the simulated backend).
#![deny(unsafe_code)]

pub mod backend;
pub mod spec;

mod ask;
mod core;
mod output;
mod signal;
mod start;
#[expect(
    unsafe_code,
    reason = "code between fork and exec, system calls that rustix does not have, and AsyncFd"
)]
mod sys;
mod tree;
mod words;

pub use output::{Line, OutputRing, OutputSnapshot, Stream};
pub use signal::{ParseSignalError, Signal};
#[doc(no_inline)]
pub use tokio_util::sync::CancellationToken;
pub use tree::{
    ChildHandle, ChildSpec, Events, Handle, Requested, Schedule, Scheduled, Service, Supervisor,
    SupervisorBuilder, Task, TaskError, Tree,
};
pub use words::{
    BuildError, Cause, ChildReport, ChildState, ChildStatus, ControlError, End, Ending, Event,
    EventKind, Gone, Report, Snapshot, StartFailure, StartTreeError, TaskEnd, TreeFailed,
};
