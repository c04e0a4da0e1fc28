//! The state of a tree at one moment.

use std::fmt;
use std::time::Duration;

use super::{Ending, StartFailure};
use crate::backend::{Origin, Process, Survivor};
use crate::spec::{ChildPath, KillScope};
use std::sync::Arc;

/// How far a child is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChildState {
    /// Down, and to be started when its time has come, or its predecessors are ready.
    Waiting {
        /// Not before this, since the tree was started; a restart that is put off.
        until: Option<Duration>,
    },
    /// Started, and not ready yet.
    Starting,
    /// Ready.
    Ready,
    /// Being stopped, or it ended by itself and what it left is being stopped.
    Stopping,
    /// It outlived being killed. It is not started while this is so.
    Stuck {
        /// Who is left.
        survivors: Vec<Survivor>,
    },
    /// Down, and to stay so: it ended by itself, or was stopped.
    Down,
}

/// What is known of a child.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildStatus {
    /// Its place.
    pub path: ChildPath,
    /// How far it is.
    pub state: ChildState,
    /// Which incarnation it is in, or was in last; 0: it never was started.
    pub generation: u64,
    /// Its process, while it has one.
    pub process: Option<Process>,
    /// How that came to be.
    pub origin: Option<Origin>,
    /// The scope it really has.
    pub scope: Option<KillScope>,
    /// How often it was restarted because of an end of its own.
    pub restarts: u64,
    /// How its last incarnation that ended did, and which one that was.
    pub ended: Option<(u64, Ending)>,
    /// Why its last start failed, unless it was ready since.
    pub failure: Option<Arc<StartFailure>>,
}

/// A tree at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// The number of the last event that it takes account of.
    pub seq: u64,
    /// When, since the tree was started.
    pub at: Duration,
    /// All children, by path, those of supervisors in the tree as well.
    pub children: Vec<ChildStatus>,
}

impl ChildStatus {
    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, ChildState::Ready)
    }

    /// Whether the incarnation it is in has ended by itself or was stopped.
    pub fn has_exited(&self) -> bool {
        matches!(&self.ended, Some((generation, _)) if *generation == self.generation)
    }
}

impl Snapshot {
    /// The child with this path.
    pub fn child(&self, path: &str) -> Option<&ChildStatus> {
        self.children
            .iter()
            .find(|child| child.path.as_str() == path)
    }
}

impl fmt::Display for ChildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting { .. } => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Stuck { .. } => "stuck",
            Self::Down => "down",
        })
    }
}
