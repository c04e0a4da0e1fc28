//! Asking the system about one process, now.

use std::fmt;
use std::future::Future;
use std::io;
use std::num::NonZeroU64;
use std::pin::Pin;

use kmonitor_event::{Pid, Status, Tid, Timestamp};

/// What tells a process from every other process that has or had its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// The inode of its pidfd: unique until the next boot (Linux 6.9).
    Inode(NonZeroU64),
    /// Its start time, in clock ticks since boot: two processes that had the
    /// same pid within one tick (10 ms) look the same. The hub only compares it,
    /// so a source of one's own may put any number here that serves the purpose.
    StartTime(u64),
}

impl Identity {
    /// The inode, where that is what the identity consists of.
    #[must_use]
    pub const fn inode(&self) -> Option<NonZeroU64> {
        match self {
            Self::Inode(inode) => Some(*inode),
            Self::StartTime(_) => None,
        }
    }
}

/// Whether a process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// At least one of its threads lives.
    Alive,
    /// All its threads are dead, and its parent has not reaped it. The status is
    /// pending where it may not be read.
    Zombie(Status),
    /// It does not exist any more. Its pid may belong to another process.
    Gone,
}

/// A hold on one process, which outlasts its death and its reaping.
///
/// It costs the system something (a descriptor), and is certain of the status of
/// a process that was reaped before anybody looked, which nothing else is.
pub trait HeldProcess: Send + Sync {
    /// Who is held.
    fn identity(&self) -> Identity;

    /// Whether the process lives, and how it ended.
    ///
    /// # Errors
    /// The system did not answer.
    fn state(&self) -> Result<HeldState, ProbeError>;
}

/// What a hold on a process tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// At least one of its threads lives.
    Alive,
    /// All its threads are dead, and its parent has not reaped it. The status is
    /// pending where it may not be read.
    Zombie(Status),
    /// It was reaped.
    Reaped(Status),
}

/// How much of something a list of it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// All of it.
    Whole,
    /// Some may be missing: they came and went too fast.
    Partial,
}

/// One thread of a process, as found by looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadState {
    /// The thread.
    pub tid: Tid,
    /// How far it has come.
    pub phase: ThreadPhase,
}

/// How far a thread has come, as found by looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadPhase {
    /// It runs, or could, and nobody told it to end.
    Alive,
    /// It is on its way out, perhaps with a code of its own, or was told to end. Its
    /// exit has not been reported.
    Exiting,
    /// It is dead and only kept because it leads the process. Its exit has been
    /// reported, or is being reported.
    Dead,
}

/// One process of the system, as found by looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessEntry {
    /// The process.
    pub pid: Pid,
    /// Its parent; `None` for those that have none.
    pub parent: Option<Pid>,
    /// When it was born, on the clock of the facts: perhaps too early by up to 10 ms,
    /// never too late. `None` where the system does not tell.
    pub started: Option<Timestamp>,
    /// Whether it was found dead, only not reaped.
    pub dead: bool,
}

impl ProcessEntry {
    /// A process that lives, born nobody knows when.
    #[must_use]
    pub const fn new(pid: Pid, parent: Option<Pid>) -> Self {
        Self {
            pid,
            parent,
            started: None,
            dead: false,
        }
    }
}

/// Resolves when a process has been reaped, with the best status there is.
pub type ReapFuture = Pin<Box<dyn Future<Output = Result<Status, ProbeError>> + Send>>;

/// Asks the system about processes. Linux answers through transient pidfds and
/// `/proc`; a simulated kernel from its own truth.
///
/// No call blocks for longer than the system takes to answer.
pub trait ProcessProbe: Send + Sync {
    /// The identity of the process that has this pid now, zombie or not.
    ///
    /// # Errors
    /// There is none, it is a thread's id, or it may not be looked at.
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError>;

    /// Whether the process of this pid and identity lives. Without an identity:
    /// whichever has the pid now.
    ///
    /// # Errors
    /// It may not be looked at. That it does not exist is
    /// [`ProcessState::Gone`], not an error.
    fn state(&self, pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError>;

    /// Takes hold of the process of this pid and identity (without one: whichever
    /// has the pid now). `None` where this probe has nothing to hold by; the
    /// caller then does without.
    ///
    /// # Errors
    /// It is gone, may not be looked at, or the system has no room for more.
    fn hold(
        &self,
        pid: Pid,
        identity: Option<Identity>,
    ) -> Result<Option<Box<dyn HeldProcess>>, ProbeError> {
        let _ = (pid, identity);
        Ok(None)
    }

    /// Replaces the content of `threads` by the threads of the process: all that lived
    /// when this was asked, and those born since or not, if that is what is said. A whole
    /// list with its first thread only says that this one's end is that of the process.
    ///
    /// # Errors
    /// The process is gone, or may not be looked at.
    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<Listing, ProbeError>;

    /// Replaces the content of `processes` by all processes there are. The list
    /// is no snapshot: processes come and go while it is made.
    ///
    /// # Errors
    /// They may not be looked at.
    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError>;

    /// The clock that this system stamps its facts with, now.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Waits, without bound, until the process has been reaped. Gone already
    /// counts as reaped, with a status of [`Status::Unknown`].
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting and has no other effect.
    fn reaped(&self, pid: Pid, identity: Identity) -> ReapFuture;
}

/// Why a process could not be looked at.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProbeError {
    /// There is no such process (any more).
    Gone {
        /// The pid.
        pid: Pid,
    },
    /// The pid belongs to another process than the one that was named.
    Reused {
        /// The pid.
        pid: Pid,
        /// Who was named.
        expected: Identity,
        /// Who has the pid now.
        found: Identity,
    },
    /// The number is that of a thread other than its process's first.
    Thread {
        /// The thread.
        tid: Tid,
        /// Its process, where that could be found out.
        process: Option<Pid>,
    },
    /// The system does not let us look.
    Denied {
        /// The pid.
        pid: Pid,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another system error.
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { pid } => write!(f, "process {pid} does not exist (any more)"),
            Self::Reused {
                pid,
                expected: Identity::Inode(expected),
                found: Identity::Inode(found),
            } => write!(
                f,
                "process {pid}:{expected} is gone; its pid now belongs to {pid}:{found}"
            ),
            Self::Reused { pid, .. } => write!(
                f,
                "the named process {pid} is gone; its pid now belongs to another process"
            ),
            Self::Thread {
                tid,
                process: Some(process),
            } => write!(
                f,
                "{tid} is a thread of process {process}, not a process; name {process} instead"
            ),
            Self::Thread { tid, process: None } => write!(f, "{tid} is a thread, not a process"),
            Self::Denied { pid, action, .. } => {
                write!(f, "not allowed to {action} of process {pid}")
            }
            Self::Io { action, .. } => write!(f, "failed to {action}"),
        }
    }
}

impl std::error::Error for ProbeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Denied { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Gone { .. } | Self::Reused { .. } | Self::Thread { .. } => None,
        }
    }
}

impl ProbeError {
    /// Whether the process that was named does not exist any more.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Reused { .. })
    }
}

/// An object of the trait must be enough, so that probes are chosen at run time.
const _OBJECT_SAFE: Option<Box<dyn ProcessProbe>> = None;
