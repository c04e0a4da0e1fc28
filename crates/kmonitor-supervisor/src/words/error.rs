//! What can go wrong when a tree is started or told to do something.

use std::io;
use std::sync::Arc;

use super::{ChildReport, End, Report, StartFailure};
use crate::backend::Survivor;
use crate::spec::{ChildName, NameError};

/// A declaration that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two children with one name.
    #[error("two children are named {0}")]
    Twice(ChildName),
    /// It can never end by itself, so it cannot be significant.
    #[error("{0} is significant and restarted always: it would never end")]
    SignificantForever(ChildName),
    /// There is nothing to start, and nobody to adopt.
    #[error("{0} has neither a command nor anybody to adopt")]
    Nothing(ChildName),
    /// A wait between restarts that is no number of seconds, or a jitter beyond 0 to 1.
    #[error("{child}: {what} is {value}")]
    Backoff {
        /// Whose.
        child: ChildName,
        /// Which of its numbers.
        what: &'static str,
        /// What it is.
        value: f64,
    },
    /// Supervisors within supervisors, beyond all sense.
    #[error("supervisors are nested more than {0} deep")]
    TooDeep(usize),
}

/// Why a tree was not started. Nothing of it runs, but for the survivors named.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StartTreeError {
    /// Its declaration makes no sense.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It ended before all its children were ready; they were stopped again.
    #[error("the tree {}", .0.end)]
    Ended(Arc<Report>),
}

impl StartTreeError {
    /// Why the tree ended.
    pub fn end(&self) -> Option<&End> {
        match self {
            Self::Ended(report) => Some(&report.end),
            Self::Build(_) => None,
        }
    }

    /// What became of each child.
    pub fn children(&self) -> &[ChildReport] {
        match self {
            Self::Ended(report) => &report.children,
            Self::Build(_) => &[],
        }
    }
}

/// Why a request was not fulfilled.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No child has this path.
    #[error("there is no child {0}")]
    NoSuchChild(String),
    /// A child with this name is there already.
    #[error("there is a child {0} already")]
    Exists(ChildName),
    /// Nothing to signal: it does not run.
    #[error("{0} is not running")]
    NotRunning(ChildName),
    /// Children can only be given to supervisors.
    #[error("{0} is not a supervisor")]
    NotASupervisor(ChildName),
    /// It did not start.
    #[error("{child} {why}")]
    StartFailed {
        /// Which child.
        child: ChildName,
        /// Why.
        why: Arc<StartFailure>,
    },
    /// It did not stop: these outlived SIGKILL.
    #[error("{child} could not be stopped: {} left", .survivors.len())]
    Survivors {
        /// Which child.
        child: ChildName,
        /// Who is left.
        survivors: Vec<Survivor>,
    },
    /// A later request wanted something else.
    #[error("a later request about {0} came in between")]
    Superseded(ChildName),
    /// The supervisor is stopping all its children.
    #[error("the supervisor is shutting down")]
    ShuttingDown,
    /// The supervisor has ended.
    #[error("the supervisor has ended")]
    Ended,
    /// More requests are waiting than are borne.
    #[error("too many requests are waiting")]
    Busy,
    /// What was to be added makes no sense.
    #[error(transparent)]
    Invalid(#[from] BuildError),
    /// The system refused the signal.
    #[error("cannot signal {child}: {error}")]
    Signal {
        /// Which child.
        child: ChildName,
        /// What the system said.
        #[source]
        error: Arc<io::Error>,
    },
}

/// The child was removed, or its supervisor has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the child was removed, or its tree has ended")]
pub struct Gone;
