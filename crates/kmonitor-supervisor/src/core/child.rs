//! One child, as the core sees it.

use std::sync::Arc;
use std::time::Duration;

use super::input::{ChildId, NewChild, Policy, RequestId};
use crate::Signal;
use crate::backend::{Incarnation, Origin, Process, Survivor};
use crate::spec::{ChildName, KillScope};
use crate::words::{Cause, Ending, StartFailure};

#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: ChildId,
    pub(crate) name: ChildName,
    pub(crate) policy: Policy,
    pub(crate) goal: Goal,
    pub(crate) run: Run,
    /// It is to be stopped when those after it have been.
    pub(crate) stop: Option<Cause>,
    /// Its start waits for those before it.
    pub(crate) gated: bool,
    /// Its start waits for this.
    pub(crate) not_before: Option<Duration>,
    pub(crate) attempt: Attempt,
    /// Why it is started.
    pub(crate) why: Cause,
    pub(crate) generation: u64,
    /// Restarts without a good run in between.
    pub(crate) in_a_row: u32,
    pub(crate) restarts: u64,
    pub(crate) process: Option<(Process, Origin, KillScope)>,
    pub(crate) ended: Option<(u64, Ending)>,
    pub(crate) failure: Option<Arc<StartFailure>>,
    /// The last signal that a request had us send to this incarnation.
    pub(crate) sent: Option<Signal>,
    pub(crate) stopped: Stopped,
    pub(crate) waiters: Vec<Waiter>,
    /// It was added, and goes again if it does not start.
    pub(crate) on_trial: bool,
    /// It goes when it is down.
    pub(crate) removing: bool,
    /// It changed since the runtime looked last.
    pub(crate) dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    Up,
    /// `revivable`: a sibling's restart takes it along, for it ended by itself.
    Down {
        revivable: bool,
    },
}

/// On whose behalf a child is being started, which says what a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// Of the whole tree: all is rolled back.
    Initial,
    /// A request's: it is told, and that is all.
    Requested,
    /// A restart: it is tried again.
    Restart,
}

#[derive(Debug)]
pub(crate) enum Run {
    Down,
    Starting {
        until: Option<Duration>,
    },
    Ready {
        since: Duration,
    },
    Stopping {
        rung: Rung,
        cause: Cause,
        since: Duration,
        exited: bool,
    },
}

/// How far up the ladder a stop is.
#[derive(Debug, PartialEq)]
pub(crate) enum Rung {
    /// It ended by itself; whether it left anything is about to be told.
    Left { at: Duration },
    /// Told to stop; killed then.
    Grace { until: Option<Duration> },
    /// Killed; given up then.
    Killed { until: Option<Duration> },
    /// We asked who is left.
    Asked,
    /// Given up; it may still become empty.
    Stuck(Vec<Survivor>),
}

/// What the last stop was like.
#[derive(Debug, Default, Clone)]
pub(crate) struct Stopped {
    pub(crate) killed: bool,
    pub(crate) took: Option<Duration>,
}

/// Somebody waits for a child.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) request: RequestId,
    pub(crate) until: Until,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Until {
    /// Ready, in a later incarnation than this.
    ReadyAfter(u64),
    Down,
    Removed,
}

impl Child {
    pub(crate) fn new(id: ChildId, new: NewChild) -> Self {
        Self {
            id,
            name: new.name,
            policy: new.policy,
            goal: Goal::Up,
            run: Run::Down,
            stop: None,
            gated: true,
            not_before: None,
            attempt: Attempt::Initial,
            why: Cause::Parent,
            generation: 0,
            in_a_row: 0,
            restarts: 0,
            process: None,
            ended: None,
            failure: None,
            sent: None,
            stopped: Stopped::default(),
            waiters: Vec::new(),
            on_trial: false,
            removing: false,
            dirty: true,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation {
            child: self.id,
            generation: self.generation,
        }
    }

    /// It runs, and nobody stops it.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.run, Run::Starting { .. } | Run::Ready { .. })
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.run, Run::Down)
    }

    /// It outlived its stop.
    pub(crate) fn is_stuck(&self) -> bool {
        self.survivors().is_some()
    }

    pub(crate) fn survivors(&self) -> Option<&Vec<Survivor>> {
        match &self.run {
            Run::Stopping {
                rung: Rung::Stuck(survivors),
                ..
            } => Some(survivors),
            _ => None,
        }
    }

    /// Its stop goes on.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.run, Run::Stopping { .. }) && !self.is_stuck()
    }

    /// When something is due, if nothing happens before.
    pub(crate) fn due(&self) -> Option<Duration> {
        match &self.run {
            Run::Down if self.goal == Goal::Up => self.not_before,
            Run::Down | Run::Ready { .. } => None,
            Run::Starting { until } => *until,
            Run::Stopping { rung, .. } => match rung {
                Rung::Left { at } => Some(*at),
                Rung::Grace { until } | Rung::Killed { until } => *until,
                Rung::Asked | Rung::Stuck(_) => None,
            },
        }
    }
}
