//! What the core is told, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use crate::Signal;
use crate::backend::{Incarnation, Origin, Process, Reach, StartError, Survivor};
use crate::spec::{AutoShutdown, Backoff, ChildName, Codes, Intensity, KillScope, Restart};
use crate::spec::{Stop, Strategy};
use crate::words::{Cause, ControlError, End, Ending, EventKind};

/// A child's number; never used again.
pub(crate) type ChildId = u64;

/// What is asked of the core, to be answered once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// What a supervisor does about its children.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rules {
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    pub(crate) auto_shutdown: AutoShutdown,
}

/// All that the core must know of a child.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) codes: Codes,
    pub(crate) stop: Stop,
    /// How long it may take to be ready; `None`: it bounds itself.
    pub(crate) ready_within: Option<Duration>,
    pub(crate) significant: bool,
    /// It has ladders of its own (a supervisor), so it is told to stop and to kill,
    /// and then ends within their bounds.
    pub(crate) bounds_itself: bool,
}

/// A child to be.
#[derive(Debug, Clone)]
pub(crate) struct NewChild {
    pub(crate) name: ChildName,
    pub(crate) policy: Policy,
}

#[derive(Debug)]
pub(crate) enum Input {
    /// Start all children.
    Begin,
    Report(Incarnation, Told),
    Request(RequestId, Request),
    /// End. `now`: without any grace.
    Shutdown {
        now: bool,
        cause: Cause,
    },
    /// Time has passed; all reports up to now have been told.
    Tick,
}

/// What is told of an incarnation; as [`Report`](crate::backend::Report), for tasks
/// and supervisors as well.
#[derive(Debug)]
pub(crate) enum Told {
    Started(Option<(Process, Origin, KillScope)>),
    Ready,
    Failed(Arc<StartError>),
    Exited(Ending),
    Empty,
    /// The answer to [`Action::AskSurvivors`].
    Survivors(Vec<Survivor>),
}

#[derive(Debug)]
pub(crate) enum Request {
    Start(ChildName),
    Stop(ChildName),
    Restart(ChildName),
    Signal(ChildName, Signal, Reach),
    Add(NewChild),
    Remove(ChildName),
    /// These are the children from now on, in this order. `true`: what is to run is
    /// another than before.
    Reload(Rules, Vec<(NewChild, bool)>),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    Launch(Incarnation),
    /// The signal and SIGCONT to the scope; to what is no process: the word to stop.
    Stop(ChildId, Signal),
    Kill(ChildId),
    /// Who is in its scope? To be answered, if only with nobody.
    AskSurvivors(Incarnation),
    /// A signal on request; whoever does it answers.
    Signal(ChildId, Signal, Reach, RequestId),
    /// There is a new child of this name.
    Added(ChildId, ChildName),
    /// What the child of this name is to run is another from now on.
    Changed(ChildId, ChildName),
    /// The child is no more.
    Removed(ChildId),
    /// `None`: about the supervisor.
    Event(Option<ChildId>, EventKind, Cause),
    Answer(RequestId, Result<(), ControlError>),
    /// All children are ready.
    Up,
    /// Nothing more will be done.
    Ended(End),
}
