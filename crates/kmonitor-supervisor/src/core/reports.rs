//! What the children's incarnations do.

use std::sync::Arc;
use std::time::Duration;

use super::child::{Attempt, Run, Rung};
use super::{Action, Core, Told, ends};
use crate::backend::{Incarnation, Origin};
use crate::words::{Cause, Ending, EventKind, StartFailure};
use kmonitor_event::{Status, UnknownReason};

impl Core {
    pub(super) fn report(
        &mut self,
        about: Incarnation,
        told: Told,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(index) = self.index_of(about.child) else {
            return;
        };
        let child = &self.children[index];
        if child.generation != about.generation || child.is_down() {
            return;
        }
        match told {
            Told::Started(process) => {
                self.children[index].process = process;
                let kind = match process {
                    Some((process, origin, scope)) if origin != Origin::Spawned => {
                        EventKind::Adopted {
                            process,
                            origin,
                            scope,
                        }
                    }
                    _ => EventKind::Started {
                        process: process.map(|(process, _, _)| process),
                        scope: process.map(|(_, _, scope)| scope),
                    },
                };
                let why = self.children[index].why.clone();
                self.tell(index, kind, why, actions);
            }
            Told::Ready => self.ready(index, now, actions),
            Told::Failed(error) => {
                let stopping = matches!(self.children[index].run, Run::Stopping { .. });
                if stopping {
                    self.empty(index, now, actions);
                } else {
                    self.children[index].run = Run::Down;
                    let why = Arc::new(StartFailure::Spawn(error));
                    self.failed_start(index, why, Cause::Itself, now, actions);
                }
            }
            Told::Exited(ending) => self.exited(index, ending, now, actions),
            Told::Empty => {
                if self.children[index].is_live() {
                    // A backend that forgot to say how it ended.
                    let unknown = Status::Unknown(UnknownReason::NotObservable);
                    self.exited(index, Ending::Process(unknown), now, actions);
                }
                self.empty(index, now, actions);
            }
            Told::Survivors(survivors) => self.give_up(index, survivors, actions),
        }
    }

    fn ready(&mut self, index: usize, now: Duration, actions: &mut Vec<Action>) {
        let child = &mut self.children[index];
        if !matches!(child.run, Run::Starting { .. }) {
            return;
        }
        child.run = Run::Ready { since: now };
        child.failure = None;
        child.on_trial = false;
        child.attempt = Attempt::Restart;
        self.tell(index, EventKind::Ready, Cause::Itself, actions);
    }

    fn exited(&mut self, index: usize, ending: Ending, now: Duration, actions: &mut Vec<Action>) {
        let child = &mut self.children[index];
        let generation = child.generation;
        let patience = child.policy.stop.patience;
        if let Run::Stopping {
            rung,
            cause,
            exited,
            ..
        } = &mut child.run
        {
            if *exited {
                return;
            }
            *exited = true;
            if child.policy.bounds_itself
                && matches!(rung, Rung::Grace { .. } | Rung::Killed { .. })
            {
                // It has climbed its own ladders; what is left is stuck.
                *rung = Rung::Killed {
                    until: now.checked_add(patience),
                };
            }
            let cause = cause.clone();
            child.ended = Some((generation, ending.clone()));
            self.tell(index, EventKind::Exited { ending }, cause, actions);
            return;
        }
        let was_ready = matches!(child.run, Run::Ready { .. });
        if let Run::Ready { since } = child.run
            && now.saturating_sub(since) >= child.policy.backoff.reset_after
        {
            child.in_a_row = 0;
        }
        let cause = super::verdict::cause(&ending, child.sent);
        child.ended = Some((generation, ending.clone()));
        child.run = Run::Stopping {
            rung: Rung::Left { at: now },
            cause: cause.clone(),
            since: now,
            exited: true,
        };
        let kind = EventKind::Exited {
            ending: ending.clone(),
        };
        self.tell(index, kind, cause, actions);
        // Who was about to be stopped anyway has what follows decided already.
        if self.children[index].stop.take().is_none() {
            let end = ends::OwnEnd { ending, was_ready };
            self.own_end(index, &end, now, actions);
        }
    }

    /// Nothing is left of it.
    fn empty(&mut self, index: usize, now: Duration, actions: &mut Vec<Action>) {
        let child = &mut self.children[index];
        let Run::Stopping { cause, since, .. } = &child.run else {
            return;
        };
        let cause = cause.clone();
        child.stopped.took = Some(now.saturating_sub(*since));
        child.run = Run::Down;
        child.process = None;
        self.tell(index, EventKind::Stopped, cause, actions);
    }
}
