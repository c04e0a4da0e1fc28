//! Why the simulated kernel refuses an operation.

use kmonitor_event::{Pid, Tid};

/// Why the simulated kernel refuses an operation, as a real one would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// There is no such process.
    #[error("there is no process {pid}")]
    NoSuchProcess {
        /// The pid.
        pid: Pid,
    },
    /// There is no such thread.
    #[error("there is no thread {tid}")]
    NoSuchThread {
        /// The thread.
        tid: Tid,
    },
    /// None of the process's threads can act: they are dead or on their way out.
    #[error("no thread of process {pid} can act any more")]
    Dead {
        /// The process.
        pid: Pid,
    },
    /// The thread is dead, or on its way out.
    #[error("thread {tid} is dead or on its way out")]
    Exiting {
        /// The thread.
        tid: Tid,
    },
    /// The thread is not on its way out.
    #[error("thread {tid} is not on its way out")]
    NotExiting {
        /// The thread.
        tid: Tid,
    },
    /// Init cannot end.
    #[error("init cannot end")]
    Init,
    /// All ids are in use.
    #[error("all ids are in use")]
    NoFreeId,
    /// The id is in use, or larger than the largest.
    #[error("{pid} cannot be the next id: it is in use or too large")]
    BadNextId {
        /// The id.
        pid: Pid,
    },
    /// There is no such signal.
    #[error("there is no signal {signal}")]
    BadSignal {
        /// The number.
        signal: i32,
    },
}
