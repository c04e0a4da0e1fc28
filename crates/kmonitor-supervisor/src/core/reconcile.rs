//! Every step that leads from where children are to where they should be.

use std::sync::Arc;
use std::time::Duration;

use super::child::{Child, Run, Stopped, Until};
use super::{Action, Core, Goal, Mode, RequestId};
use crate::spec::ChildName;
use crate::words::{Cause, ControlError, EventKind, StartFailure};

impl Core {
    pub(super) fn reconcile(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.begin_stops(now, actions);
        self.answer_waiters(actions);
        self.remove_children(actions);
        if let Mode::Ending { end, .. } = &self.mode
            && self.children.iter().all(|c| c.is_down() || c.is_stuck())
        {
            let end = end.clone();
            self.mode = Mode::Ended;
            let kind = EventKind::Ended { end: end.clone() };
            actions.push(Action::Event(None, kind, Cause::Itself));
            actions.push(Action::Ended(end));
        }
        if matches!(self.mode, Mode::Starting | Mode::Running) {
            self.launch(now, actions);
            self.become_running(actions);
        }
    }

    /// In reverse order of start: one begins to stop when all after it are gone.
    fn begin_stops(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut waits = false;
        for index in (0..self.children.len()).rev() {
            let child = &mut self.children[index];
            if !child.is_live() {
                if child.stop.is_some() {
                    child.stop = None;
                }
                waits |= child.is_stopping();
            } else if child.stop.is_some() {
                if !waits && let Some(cause) = child.stop.take() {
                    self.begin_stop(index, cause, now, actions);
                }
                waits = true;
            }
        }
    }

    /// In order of start: one is started when all before it are ready.
    fn launch(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let sweeping = self
            .children
            .iter()
            .any(|child| child.stop.is_some() || (child.gated && child.is_stopping()));
        let mut all_ready = true;
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            if child.goal != Goal::Up {
                continue;
            }
            if child.not_before.is_some_and(|at| at <= now) {
                child.not_before = None;
            }
            let gate = !child.gated || (all_ready && !sweeping);
            if child.is_down() && child.not_before.is_none() && gate {
                child.generation += 1;
                child.sent = None;
                child.stopped = Stopped::default();
                child.run = Run::Starting {
                    until: child.policy.ready_within.and_then(|w| now.checked_add(w)),
                };
                let generation = child.generation;
                let cause = child.why.clone();
                actions.push(Action::Launch(child.incarnation()));
                self.tell(index, EventKind::Starting { generation }, cause, actions);
            }
            all_ready &= matches!(self.children[index].run, Run::Ready { .. });
        }
    }

    fn answer_waiters(&mut self, actions: &mut Vec<Action>) {
        let ending = self.is_ending();
        let mut answers = Vec::new();
        for child in &mut self.children {
            if child.waiters.is_empty() {
                continue;
            }
            let waiters = std::mem::take(&mut child.waiters);
            for waiter in waiters {
                match outcome(child, waiter.until, ending) {
                    Some(result) => answers.push((waiter.request, result)),
                    None => child.waiters.push(waiter),
                }
            }
        }
        for (request, result) in answers {
            self.answer(request, result, actions);
        }
    }

    fn remove_children(&mut self, actions: &mut Vec<Action>) {
        let gone = |child: &Child| child.removing && child.is_down();
        if !self.children.iter().any(gone) {
            return;
        }
        let mut answers = Vec::new();
        self.children.retain_mut(|child| {
            if !gone(child) {
                return true;
            }
            let name = child.name.clone();
            actions.push(Action::Event(
                Some(child.id),
                EventKind::Removed,
                Cause::User,
            ));
            actions.push(Action::Removed(child.id));
            for waiter in child.waiters.drain(..) {
                let result = match waiter.until {
                    Until::Removed | Until::Down => Ok(()),
                    Until::ReadyAfter(_) => Err(not_ready(&name, child.failure.as_ref())),
                };
                answers.push((waiter.request, result));
            }
            false
        });
        for (request, result) in answers {
            self.answer(request, result, actions);
        }
    }

    /// Answers a request, or a part of one.
    pub(super) fn answer(
        &mut self,
        request: RequestId,
        result: Result<(), ControlError>,
        actions: &mut Vec<Action>,
    ) {
        let Some(parts) = self.parts.get_mut(&request) else {
            actions.push(Action::Answer(request, result));
            return;
        };
        parts.left = parts.left.saturating_sub(1);
        if parts.error.is_none() {
            parts.error = result.err();
        }
        if parts.left == 0
            && let Some(parts) = self.parts.remove(&request)
        {
            let result = parts.error.map_or(Ok(()), Err);
            actions.push(Action::Answer(request, result));
        }
    }
}

fn not_ready(name: &ChildName, failure: Option<&Arc<StartFailure>>) -> ControlError {
    match failure {
        Some(why) => ControlError::StartFailed {
            child: name.clone(),
            why: Arc::clone(why),
        },
        None => ControlError::Superseded(name.clone()),
    }
}

/// What a waiter is told, if it is time.
fn outcome(child: &Child, until: Until, ending: bool) -> Option<Result<(), ControlError>> {
    let stuck = || {
        child.survivors().map(|survivors| {
            Err(ControlError::Survivors {
                child: child.name.clone(),
                survivors: survivors.clone(),
            })
        })
    };
    match until {
        Until::ReadyAfter(_) if ending => Some(Err(ControlError::ShuttingDown)),
        Until::ReadyAfter(generation) => match &child.run {
            Run::Ready { .. } if child.generation > generation => Some(Ok(())),
            Run::Down if child.goal != Goal::Up && !child.removing => {
                Some(match &child.failure {
                    // It was done before it was ready, and that is as it should be.
                    None => Ok(()),
                    Some(why) => Err(not_ready(&child.name, Some(why))),
                })
            }
            _ => stuck(),
        },
        Until::Down => match &child.run {
            Run::Down => Some(Ok(())),
            _ => stuck(),
        },
        // Who goes when down answers when it goes.
        Until::Removed => stuck(),
    }
}
