//! What follows when a child ends by itself, or does not start.

use std::sync::Arc;
use std::time::Duration;

use super::child::Attempt;
use super::child::{Child, Run};
use super::verdict::{Class, Verdict, class, verdict};
use super::{Action, Core, Goal, Mode, waits};
use crate::spec::{AutoShutdown, ChildName, Restart, Strategy};
use crate::words::{Cause, End, Ending, EventKind, StartFailure};

pub(super) struct OwnEnd {
    pub(super) ending: Ending,
    pub(super) was_ready: bool,
}

impl Core {
    /// A child ended, and nobody had asked it to.
    pub(super) fn own_end(
        &mut self,
        index: usize,
        end: &OwnEnd,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let child = &self.children[index];
        if self.is_ending() || child.goal != Goal::Up {
            return;
        }
        let verdict = verdict(child.policy.restart, &child.policy.codes, &end.ending);
        let rests = verdict != Verdict::Restart;
        let done = rests && class(&child.policy.codes, &end.ending) == Class::Success;
        if !end.was_ready && !done && child.attempt != Attempt::Restart {
            let why = Arc::new(StartFailure::Ended(end.ending.clone()));
            self.failed_start(index, why, Cause::Itself, now, actions);
        } else if rests {
            let child = &mut self.children[index];
            child.goal = Goal::Down {
                revivable: verdict == Verdict::Rest,
            };
            if !end.was_ready && !done {
                child.failure = Some(Arc::new(StartFailure::Ended(end.ending.clone())));
            }
            self.shut_down_with(index);
        } else {
            self.restart_because_of(index, now, actions);
        }
    }

    /// A child did not become ready.
    pub(super) fn failed_start(
        &mut self,
        index: usize,
        why: Arc<StartFailure>,
        cause: Cause,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let child = &mut self.children[index];
        child.failure = Some(Arc::clone(&why));
        let (name, attempt, goal) = (child.name.clone(), child.attempt, child.goal);
        // Who waits in a batch to be stopped has what follows decided already.
        let batched = child.stop.take().is_some();
        let kind = EventKind::StartFailed {
            why: Arc::clone(&why),
        };
        self.tell(index, kind, cause, actions);
        if self.is_ending() || goal != Goal::Up || batched {
            return;
        }
        match attempt {
            Attempt::Initial => {
                let cause = Cause::Sibling(name.clone());
                self.begin_ending(End::StartFailed { child: name, why }, &cause);
            }
            Attempt::Requested => {
                let child = &mut self.children[index];
                child.goal = Goal::Down { revivable: false };
                child.removing |= child.on_trial;
            }
            Attempt::Restart => self.restart_because_of(index, now, actions),
        }
    }

    /// Restarts a child, and whom the strategy takes along; or gives up.
    fn restart_because_of(&mut self, culprit: usize, now: Duration, actions: &mut Vec<Action>) {
        let name = self.children[culprit].name.clone();
        if !self.window.bears(self.rules.intensity, now) {
            self.tell(culprit, EventKind::GaveUp, Cause::Itself, actions);
            self.begin_ending(End::GaveUp { child: name }, &Cause::Parent);
            return;
        }
        let dice = self.dice.f64();
        let child = &mut self.children[culprit];
        let after = waits::wait(&child.policy.backoff, child.in_a_row, dice);
        let not_before = now.checked_add(after);
        child.in_a_row = child.in_a_row.saturating_add(1);
        child.restarts += 1;
        child.attempt = Attempt::Restart;
        child.why = Cause::Itself;
        child.gated = self.rules.strategy != Strategy::OneForOne;
        child.not_before = not_before;
        let attempt = child.in_a_row;
        let kind = EventKind::RestartScheduled { attempt, after };
        self.tell(culprit, kind, Cause::Itself, actions);
        let first = match self.rules.strategy {
            Strategy::OneForOne => return,
            Strategy::OneForAll => 0,
            Strategy::RestForOne => culprit,
        };
        for index in first..self.children.len() {
            if index != culprit {
                self.take_along(index, &name, not_before, actions);
            }
        }
    }

    /// A sibling's restart stops a child and starts it again, unless it is one that
    /// is never restarted or was stopped for good.
    fn take_along(
        &mut self,
        index: usize,
        culprit: &ChildName,
        wait: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        let child = &mut self.children[index];
        child.dirty = true;
        let live = child.is_live();
        if live {
            child.stop = Some(Cause::Sibling(culprit.clone()));
        }
        let returns = match child.goal {
            Goal::Up => true,
            Goal::Down { revivable } => revivable,
        };
        let never = child.policy.restart == Restart::Never;
        // Who was on its way up by a request goes on being so.
        let on_its_way = child.goal == Goal::Up && !live;
        if !returns || (never && !on_its_way) {
            child.goal = Goal::Down { revivable: false };
            self.supersede(index, actions);
            return;
        }
        if child.goal != Goal::Up || matches!(child.run, Run::Ready { .. }) {
            child.attempt = Attempt::Restart;
        }
        child.goal = Goal::Up;
        child.why = Cause::Sibling(culprit.clone());
        child.gated = true;
        child.not_before = child.not_before.max(wait);
    }

    /// Ends if this child's end is one that the tree ends with.
    fn shut_down_with(&mut self, index: usize) {
        let child = &self.children[index];
        if !child.policy.significant {
            return;
        }
        let others_live = || {
            self.children
                .iter()
                .any(|other| other.policy.significant && other.id != child.id && is_active(other))
        };
        let ends = match self.rules.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => !others_live(),
        };
        if ends {
            let child = child.name.clone();
            let cause = Cause::Sibling(child.clone());
            self.begin_ending(End::AutoShutdown { child }, &cause);
        }
    }

    /// Whether all children that are to be ready are.
    pub(super) fn become_running(&mut self, actions: &mut Vec<Action>) {
        let settled =
            |child: &Child| child.goal != Goal::Up || matches!(child.run, Run::Ready { .. });
        if matches!(self.mode, Mode::Starting) && self.children.iter().all(settled) {
            self.mode = Mode::Running;
            actions.push(Action::Event(None, EventKind::Ready, Cause::Itself));
            actions.push(Action::Up);
        }
    }
}

fn is_active(child: &Child) -> bool {
    child.goal == Goal::Up || child.is_live()
}
