//! What a source reports.

use kmonitor_event::{Comm, Pid, ProcessKey, Status, Tid, Timestamp};

/// One thing that the kernel told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// When the kernel says it happened, on the clock of
    /// [`ProcessProbe::now`](crate::ProcessProbe::now): a report is told from those of a
    /// pid's former owners by when it was looked at. Of a loss, when it was noticed, or a
    /// time before which nothing was lost, if that is earlier than what was told before it.
    pub time: Timestamp,
    /// What happened.
    pub kind: FactKind,
}

impl Fact {
    /// A fact at a time.
    #[must_use]
    pub const fn new(time: Timestamp, kind: FactKind) -> Self {
        Self { time, kind }
    }
}

/// What the kernel told. `process` is always the thread group's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FactKind {
    /// A new process exists.
    Forked {
        /// Its parent; `None` where the kernel named none.
        parent: Option<Pid>,
        /// The new process. It has one thread.
        child: Pid,
    },
    /// A process has a new thread.
    ThreadCreated {
        /// The process.
        process: Pid,
        /// The new thread.
        tid: Tid,
    },
    /// A process replaced its program; from now on its only thread is its leader.
    Execed {
        /// The process.
        process: Pid,
    },
    /// One task ended. The process may live on, even if it was the leader, and
    /// `code` need not be the process's status.
    TaskExited {
        /// The process.
        process: Pid,
        /// The task.
        tid: Tid,
        /// The task's code, encoded as `wait(2)` does.
        code: i32,
        /// The process's parent, where the kernel still knew it.
        parent: Option<Pid>,
    },
    /// The whole process is dead: this is final, and never said of a process
    /// that lives.
    GroupDead {
        /// The process.
        process: Pid,
        /// Which one exactly, for sources that were told to watch it by key.
        key: Option<ProcessKey>,
        /// Its status; [`Status::Pending`] where the source may still learn it,
        /// or does not know.
        status: Status,
    },
    /// The process was reaped by its parent.
    Reaped {
        /// The process.
        process: Pid,
        /// Which one exactly, for sources that were told to watch it by key.
        key: Option<ProcessKey>,
        /// Its status, or why it is unknown.
        status: Status,
    },
    /// A task changed a user id.
    Uid {
        /// The process.
        process: Pid,
        /// The task.
        tid: Tid,
        /// Its real user id now.
        real: u32,
        /// Its effective user id now.
        effective: u32,
    },
    /// A task changed a group id.
    Gid {
        /// The process.
        process: Pid,
        /// The task.
        tid: Tid,
        /// Its real group id now.
        real: u32,
        /// Its effective group id now.
        effective: u32,
    },
    /// A process leads a new session.
    Sid {
        /// The process.
        process: Pid,
    },
    /// A tracer attached to a task, or left it.
    Ptrace {
        /// The process.
        process: Pid,
        /// The task.
        tid: Tid,
        /// The tracing process; `None` where it left.
        tracer: Option<Pid>,
    },
    /// A task changed its name.
    Comm {
        /// The process.
        process: Pid,
        /// The task.
        tid: Tid,
        /// The new name.
        comm: Comm,
    },
    /// A signal of the core-dumping kind is ending the process.
    Coredump {
        /// The process.
        process: Pid,
        /// The task that got the signal.
        tid: Tid,
        /// The process's parent, where the kernel still knew it.
        parent: Option<Pid>,
    },
    /// Facts are missing here.
    Lost {
        /// How many, where the kernel counts them.
        count: Option<u64>,
    },
    /// The kernel told something that this version has no name for.
    Other {
        /// The kernel's number for it.
        what: u32,
        /// The process, where the message names one in the usual place.
        process: Option<Pid>,
    },
}

impl FactKind {
    /// The process that it is about, where it names one; for a fork the parent.
    #[must_use]
    pub const fn process(&self) -> Option<Pid> {
        match *self {
            Self::Forked { parent, .. } => parent,
            Self::ThreadCreated { process, .. }
            | Self::Execed { process }
            | Self::TaskExited { process, .. }
            | Self::GroupDead { process, .. }
            | Self::Reaped { process, .. }
            | Self::Uid { process, .. }
            | Self::Gid { process, .. }
            | Self::Sid { process }
            | Self::Ptrace { process, .. }
            | Self::Comm { process, .. }
            | Self::Coredump { process, .. } => Some(process),
            Self::Other { process, .. } => process,
            Self::Lost { .. } => None,
        }
    }
}
