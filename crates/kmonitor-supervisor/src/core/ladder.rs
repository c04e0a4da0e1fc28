//! How a child is stopped: a word, some grace, SIGKILL, some patience.

use std::sync::Arc;
use std::time::Duration;

use super::child::{Child, Run, Rung, Stopped};
use super::{Action, Core};
use crate::backend::Survivor;
use crate::words::{Cause, EventKind, StartFailure};

impl Core {
    /// Begins to stop a child that runs.
    pub(super) fn begin_stop(
        &mut self,
        index: usize,
        cause: Cause,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let skips = self.skips_grace();
        let child = &mut self.children[index];
        if !child.is_live() {
            return;
        }
        child.stop = None;
        child.stopped = Stopped::default();
        let signal = child.policy.stop.signal;
        let rung = if skips {
            Rung::Left { at: now }
        } else {
            grace(child, now)
        };
        child.run = Run::Stopping {
            rung,
            cause: cause.clone(),
            since: now,
            exited: false,
        };
        let id = child.id;
        self.tell(index, EventKind::StopRequested { signal }, cause, actions);
        if skips {
            self.kill(index, now, actions);
        } else {
            actions.push(Action::Stop(id, signal));
        }
    }

    /// Whoever ended by itself and has not been found to leave nothing is swept.
    pub(super) fn sweep_what_was_left(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let skips = self.skips_grace();
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            let Run::Stopping {
                rung: Rung::Left { .. },
                ..
            } = child.run
            else {
                continue;
            };
            child.stopped = Stopped::default();
            // Whoever bounds itself has climbed its ladders before it ended.
            if skips || child.policy.bounds_itself {
                self.kill(index, now, actions);
                continue;
            }
            let (id, signal, next) = (child.id, child.policy.stop.signal, grace(child, now));
            if let Run::Stopping { rung, .. } = &mut child.run {
                *rung = next;
            }
            actions.push(Action::Stop(id, signal));
        }
    }

    /// Whose time is up goes on to the next rung.
    pub(super) fn pass_deadlines(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            let past = |until: Option<Duration>| until.is_some_and(|until| until <= now);
            match &mut child.run {
                Run::Starting { until } if past(*until) => {
                    if child.stop.is_some() {
                        // It is to be stopped anyway, but not before its turn.
                        *until = None;
                    } else {
                        self.not_ready(index, now, actions);
                    }
                }
                Run::Stopping { rung, .. } => match rung {
                    Rung::Grace { until } if past(*until) => {
                        let cause = self.cause_of_stop(index);
                        self.tell(index, EventKind::Escalated, cause, actions);
                        self.kill(index, now, actions);
                    }
                    Rung::Killed { until } if past(*until) => {
                        *rung = Rung::Asked;
                        actions.push(Action::AskSurvivors(child.incarnation()));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// Kills at once whoever is in its grace.
    pub(super) fn skip_grace(&mut self, index: usize, now: Duration, actions: &mut Vec<Action>) {
        if matches!(
            self.children[index].run,
            Run::Stopping {
                rung: Rung::Grace { .. } | Rung::Left { .. },
                ..
            }
        ) {
            let cause = self.cause_of_stop(index);
            self.tell(index, EventKind::Escalated, cause, actions);
            self.kill(index, now, actions);
        }
    }

    /// Its patience is over, and these are left.
    pub(super) fn give_up(
        &mut self,
        index: usize,
        survivors: Vec<Survivor>,
        actions: &mut Vec<Action>,
    ) {
        let child = &mut self.children[index];
        if let Run::Stopping {
            rung: rung @ Rung::Asked,
            cause,
            ..
        } = &mut child.run
        {
            let cause = cause.clone();
            *rung = Rung::Stuck(survivors.clone());
            self.tell(index, EventKind::Survived { survivors }, cause, actions);
        }
    }

    fn kill(&mut self, index: usize, now: Duration, actions: &mut Vec<Action>) {
        let child = &mut self.children[index];
        child.stopped.killed = true;
        let bounded = !child.policy.bounds_itself;
        let patience = bounded.then_some(child.policy.stop.patience);
        if let Run::Stopping { rung, exited, .. } = &mut child.run {
            let patience = patience.or((*exited).then_some(child.policy.stop.patience));
            *rung = Rung::Killed {
                until: patience.and_then(|patience| now.checked_add(patience)),
            };
        }
        actions.push(Action::Kill(child.id));
    }

    fn not_ready(&mut self, index: usize, now: Duration, actions: &mut Vec<Action>) {
        let within = self.children[index].policy.ready_within.unwrap_or_default();
        let why = Arc::new(StartFailure::NotReady(within));
        self.failed_start(index, why, Cause::Readiness, now, actions);
        self.begin_stop(index, Cause::Readiness, now, actions);
    }

    fn cause_of_stop(&self, index: usize) -> Cause {
        match &self.children[index].run {
            Run::Stopping { cause, .. } => cause.clone(),
            _ => Cause::Itself,
        }
    }
}

fn grace(child: &Child, now: Duration) -> Rung {
    let grace = child.policy.stop.grace;
    let bounded = !child.policy.bounds_itself;
    Rung::Grace {
        until: bounded.then(|| now.checked_add(grace)).flatten(),
    }
}
