//! What carries out the core's decisions: Linux, or a simulation.
//!
//! A backend is told to begin an incarnation of a child and answers by reports. Per
//! incarnation these come in this order:
//!
//! ```text
//! Started ─▶ (Ready) ─▶ Exited ─▶ Empty
//! Failed                                    nothing was started, nothing is left
//! ```
//!
//! `Ready` may be missing, and comes at most once. `Exited` is the end of the child's
//! own process (the leader), `Empty` that of the last process in its scope; nothing
//! follows it. Everything else (grace, time limits, restarts) is the core's business.

pub mod linux;
pub mod sim;

use std::fmt;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use futures::future::BoxFuture;
use kmonitor_event::{Pid, Status};
use tokio::sync::mpsc;

use crate::output::OutputRing;
use crate::signal::Signal;
use crate::spec::{ChildPath, KillScope, ProcessSpec};

/// Starts processes.
pub trait Backend: Send + Sync + 'static {
    /// Begins an incarnation. Returns at once: it never blocks, and whatever goes
    /// wrong is a report.
    fn start(&self, launch: Launch, reports: Reports) -> Box<dyn Running>;
}

/// One incarnation, from [`Backend::start`] on. Dropped, it goes on unsupervised.
///
/// No method blocks: finding out who is in a scope can take a while, so what is asked
/// for is done in the background, in the order of the calls, whether or not the futures
/// are polled. They only tell what came of it.
pub trait Running: Send + 'static {
    /// Sends signals, in this order, to the child's own process or to all in its scope.
    /// Before `Started` they are kept and sent then.
    ///
    /// # Errors
    /// The first of what the system said; a process that is gone is no error.
    ///
    /// # Cancel safety
    /// If the future is dropped, they are sent all the same.
    fn signal(&self, signals: &[Signal], reach: Reach) -> BoxFuture<'static, io::Result<()>>;

    /// Kills all in the scope, and whoever is found in it later, until it is empty. What
    /// has not been started yet is not started, or killed as soon as it is.
    fn kill(&self);

    /// Who is in the scope; nobody, once it is empty.
    ///
    /// # Cancel safety
    /// The future can be dropped at will.
    fn survivors(&self) -> BoxFuture<'static, Vec<Survivor>>;
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// The child's own process.
    Leader,
    /// All in its scope.
    Scope,
}

/// What a backend is to start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Launch {
    /// The child's place in the tree. At most one incarnation of a path is alive on a
    /// backend: a start waits until nothing is left of the former.
    pub path: ChildPath,
    /// Which incarnation this is: 1 for the first in this tree. A supervisor that is
    /// restarted goes on counting.
    pub generation: u64,
    /// What it is.
    pub spec: Arc<ProcessSpec>,
    /// Which processes are its.
    pub scope: KillScope,
    /// Where captured lines go.
    pub output: Arc<OutputRing>,
}

impl Launch {
    /// All of it.
    pub fn new(
        path: ChildPath,
        generation: u64,
        spec: Arc<ProcessSpec>,
        scope: KillScope,
        output: Arc<OutputRing>,
    ) -> Self {
        Self {
            path,
            generation,
            spec,
            scope,
            output,
        }
    }
}

/// A supervised process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Process {
    /// Its pid.
    pub pid: Pid,
    /// With the pid, what tells it from all others (Linux 6.9).
    pub inode: Option<NonZeroU64>,
}

impl Process {
    /// A process by pid and, where known, inode.
    pub const fn new(pid: Pid, inode: Option<NonZeroU64>) -> Self {
        Self { pid, inode }
    }
}

/// How a process came to be a child of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// We started it.
    Spawned,
    /// It was there, and the specification names it.
    Adopted,
    /// A former run of this supervisor had started or adopted it.
    Recovered,
}

/// A process that a stop left.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survivor {
    /// Which.
    pub pid: Pid,
    /// Its name, as `/proc/PID/comm` has it.
    pub comm: String,
    /// Its state, as `/proc/PID/stat` has it (`D`: waits for a device).
    pub state: char,
}

impl Survivor {
    /// All that is said of it.
    pub fn new(pid: Pid, comm: impl Into<String>, state: char) -> Self {
        Self {
            pid,
            comm: comm.into(),
            state,
        }
    }
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, state {})", self.pid, self.comm, self.state)
    }
}

/// What a backend tells of an incarnation. See the [module](self) for the order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report {
    /// It exists.
    Started {
        /// Its own process.
        process: Process,
        /// How it came to be.
        origin: Origin,
        /// The scope it really has; never [`KillScope::Best`].
        scope: KillScope,
    },
    /// It is ready.
    Ready,
    /// Nothing was started, and nothing is left of what was. What a former run left
    /// may be, if it could not be found out, or could not be ended; the error says so.
    Failed(StartError),
    /// Its own process has ended.
    Exited(Status),
    /// Nothing is left of it.
    Empty,
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The program could not be executed.
    #[error("cannot run {program:?}: {error}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The scope that was asked for does not work here.
    #[error("scope {scope:?} does not work here: {why}")]
    Scope {
        /// Which.
        scope: KillScope,
        /// Why.
        why: String,
    },
    /// There is nobody to adopt, and nothing to start.
    #[error("cannot adopt: {0}")]
    Adopt(String),
    /// It was stopped before it was started.
    #[error("stopped before it was started")]
    Cancelled,
    /// Something else that a person must read.
    #[error("{0}")]
    Other(String),
}

/// Where the reports of one incarnation go.
///
/// Not bounded: an incarnation has at most four reports.
#[derive(Debug, Clone)]
pub struct Reports {
    about: Incarnation,
    to: mpsc::UnboundedSender<(Incarnation, Report)>,
}

/// Which incarnation of which child, within one supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation {
    /// The child, as its supervisor numbers them.
    pub child: u64,
    /// As in [`Launch::generation`].
    pub generation: u64,
}

impl Reports {
    /// Reports about one incarnation.
    pub fn new(about: Incarnation, to: mpsc::UnboundedSender<(Incarnation, Report)>) -> Self {
        Self { about, to }
    }

    /// Tells the supervisor; nobody hears it if that has ended.
    pub fn send(&self, report: Report) {
        // Without a supervisor nobody needs to know.
        let _ = self.to.send((self.about, report));
    }
}
