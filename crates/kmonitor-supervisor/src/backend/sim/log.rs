//! What happened in a simulation.

use std::time::Duration;

use crate::Signal;
use crate::backend::Reach;
use crate::spec::ChildPath;
use kmonitor_event::{Pid, Status};

/// Something that happened to an incarnation of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deed {
    /// When, since the first start.
    pub at: Duration,
    /// To which child.
    pub path: ChildPath,
    /// In which incarnation.
    pub generation: u64,
    /// What.
    pub what: What,
}

/// What can happen to a simulated process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// It exists.
    Started {
        /// Its pid.
        pid: Pid,
    },
    /// It was not started, as its script says, or because it was killed before.
    FailedToStart,
    /// It said that it is ready.
    Ready,
    /// The tree sent this.
    Signalled {
        /// Which signal.
        signal: Signal,
        /// To whom.
        reach: Reach,
    },
    /// The tree had all in its scope killed.
    Killed,
    /// Its own process ended.
    Exited {
        /// How.
        status: Status,
    },
    /// Nothing is left of it.
    Empty,
}
