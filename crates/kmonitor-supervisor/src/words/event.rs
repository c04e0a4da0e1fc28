//! What happened, as it is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{End, Ending, Snapshot, StartFailure};
use crate::Signal;
use crate::backend::{Origin, Process, Survivor};
use crate::spec::{ChildName, ChildPath, KillScope};

/// Something that happened in a tree.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// Its number in the tree's stream: one more than that of the event before.
    pub seq: u64,
    /// When, since the tree was started.
    pub at: Duration,
    /// To which child or supervisor.
    pub path: ChildPath,
    /// What.
    pub kind: EventKind,
    /// Why.
    pub cause: Cause,
}

/// What can happen.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventKind {
    /// The child is being started.
    Starting {
        /// Which incarnation this is.
        generation: u64,
    },
    /// It exists. Tasks and supervisors are no processes.
    Started {
        /// Its process.
        process: Option<Process>,
        /// Its scope.
        scope: Option<KillScope>,
    },
    /// A process that was there is the child now.
    Adopted {
        /// Which.
        process: Process,
        /// Named by the declaration, or left by a former run.
        origin: Origin,
        /// Its scope.
        scope: KillScope,
    },
    /// It is ready. Of a supervisor: all its children are.
    Ready,
    /// It did not start.
    StartFailed {
        /// Why.
        why: Arc<StartFailure>,
    },
    /// It ended; some of its processes may be left.
    Exited {
        /// How.
        ending: Ending,
    },
    /// It will be restarted.
    RestartScheduled {
        /// Which restart in a row this is, from 1.
        attempt: u32,
        /// How long that is put off.
        after: Duration,
    },
    /// Its stop has begun. The event's cause says who wanted it.
    StopRequested {
        /// With which signal.
        signal: Signal,
    },
    /// Its grace is over: it is being killed.
    Escalated,
    /// It outlived being killed, and is not waited for any longer.
    Survived {
        /// Who is left.
        survivors: Vec<Survivor>,
    },
    /// Nothing is left of it.
    Stopped,
    /// It was added.
    Added,
    /// It was removed.
    Removed,
    /// Its declaration is another now.
    Reloaded,
    /// The supervisor bears no more restarts, and ends.
    GaveUp,
    /// The supervisor has ended, and all its children have.
    Ended {
        /// Why.
        end: End,
    },
    /// The reader was too slow, so events are missing before this one. This is the
    /// tree's state now. In this reader's stream only.
    Resync(Arc<Snapshot>),
}

/// Why something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// A request.
    User,
    /// What happened to this sibling.
    Sibling(ChildName),
    /// The supervisor, or one above it, is ending or starting.
    Parent,
    /// It was not ready in time.
    Readiness,
    /// The child itself.
    Itself,
    /// A signal that this supervisor did not send.
    Outside,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.path, self.kind, self.cause)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { generation } => write!(f, "starting, incarnation {generation}"),
            Self::Started { process, .. } => match process {
                Some(process) => write!(f, "started, pid {}", process.pid),
                None => f.write_str("started"),
            },
            Self::Adopted { process, .. } => write!(f, "adopted, pid {}", process.pid),
            Self::Ready => f.write_str("ready"),
            Self::StartFailed { why } => why.fmt(f),
            Self::Exited { ending } => ending.fmt(f),
            Self::RestartScheduled { attempt, after } => {
                write!(f, "restarts in {after:?}, attempt {attempt}")
            }
            Self::StopRequested { signal } => write!(f, "is stopped with {signal}"),
            Self::Escalated => f.write_str("did not stop in time, is killed"),
            Self::Survived { survivors } => {
                f.write_str("outlived being killed:")?;
                survivors.iter().try_for_each(|one| write!(f, " {one}"))
            }
            Self::Stopped => f.write_str("is gone"),
            Self::Added => f.write_str("added"),
            Self::Removed => f.write_str("removed"),
            Self::Reloaded => f.write_str("declared anew"),
            Self::GaveUp => f.write_str("bears no more restarts"),
            Self::Ended { end } => end.fmt(f),
            Self::Resync(snapshot) => write!(f, "events are missing up to {}", snapshot.seq),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User => f.write_str("by request"),
            Self::Sibling(name) => write!(f, "because of {name}"),
            Self::Parent => f.write_str("because of its supervisor"),
            Self::Readiness => f.write_str("not ready in time"),
            Self::Itself => f.write_str("by itself"),
            Self::Outside => f.write_str("from outside"),
        }
    }
}
