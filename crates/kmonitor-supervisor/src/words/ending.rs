//! How children and supervisors end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kmonitor_event::Status;

use crate::backend::StartError;
use crate::spec::ChildName;

/// How an incarnation of a child ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Ending {
    /// A process.
    Process(Status),
    /// A task.
    Task(TaskEnd),
    /// A supervisor in the tree.
    Supervisor(End),
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskEnd {
    /// It returned `Ok`.
    Done,
    /// It returned an error, which says this.
    Failed(Arc<str>),
    /// It panicked, saying this.
    Panicked(Arc<str>),
    /// It did not stop within its grace, so it was aborted.
    Aborted,
}

/// Why a supervisor ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum End {
    /// It was asked to.
    Shutdown,
    /// A child did not start, so all were stopped again.
    StartFailed {
        /// Which.
        child: ChildName,
        /// Why.
        why: Arc<StartFailure>,
    },
    /// Its children were restarted more often than its intensity bears.
    GaveUp {
        /// Whose restart was one too many.
        child: ChildName,
    },
    /// Its significant children ended by themselves.
    AutoShutdown {
        /// Which was the last.
        child: ChildName,
    },
    /// Its task is gone: the runtime ended, or a defect in this library. What ran is
    /// not known.
    Lost,
}

/// Why a child did not start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StartFailure {
    /// Nothing was started.
    Spawn(Arc<StartError>),
    /// It was not ready within this time.
    NotReady(Duration),
    /// It ended before it was ready.
    Ended(Ending),
}

impl Ending {
    /// Whether it ended as a program does that has done its work. Lists of codes
    /// are not looked at.
    pub fn success(&self) -> bool {
        match self {
            Self::Process(status) => status.success(),
            Self::Task(end) => *end == TaskEnd::Done,
            Self::Supervisor(end) => end.success(),
        }
    }

    /// The status, of a process.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Process(status) => Some(*status),
            Self::Task(_) | Self::Supervisor(_) => None,
        }
    }
}

impl End {
    /// Whether it ended because it should.
    pub fn success(&self) -> bool {
        matches!(self, Self::Shutdown | Self::AutoShutdown { .. })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(status) => status.fmt(f),
            Self::Task(end) => end.fmt(f),
            Self::Supervisor(end) => end.fmt(f),
        }
    }
}

impl fmt::Display for TaskEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("returned"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Aborted => f.write_str("was aborted"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("was shut down"),
            Self::StartFailed { child, why } => write!(f, "did not start: {child} {why}"),
            Self::GaveUp { child } => write!(f, "gave up restarting {child}"),
            Self::Lost => f.write_str("was lost"),
            Self::AutoShutdown { child } => write!(f, "ended with {child}"),
        }
    }
}

/// Goes on where a child's name stands: `db was not ready within 60s`.
impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(error) => write!(f, "was not started: {error}"),
            Self::NotReady(within) => write!(f, "was not ready within {within:?}"),
            Self::Ended(ending) => write!(f, "ended before it was ready: {ending}"),
        }
    }
}
