//! What is asked of a supervisor.

use std::time::Duration;

use super::child::{Attempt, Child, Run, Until, Waiter};
use super::input::{NewChild, Rules};
use super::{Action, Core, Goal, Mode, Parts, Request, RequestId};
use crate::spec::ChildName;
use crate::words::{Cause, ControlError, EventKind};

impl Core {
    pub(super) fn request(
        &mut self,
        id: RequestId,
        request: Request,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let result = match request {
            Request::Start(name) => self.start(id, &name),
            Request::Restart(name) => self.restart(id, &name, now, actions),
            Request::Stop(name) => self.stop(id, &name, Until::Down, now, actions),
            Request::Remove(name) => self.stop(id, &name, Until::Removed, now, actions),
            Request::Signal(name, signal, reach) => self.named(&name).and_then(|index| {
                let child = &mut self.children[index];
                if child.is_down() {
                    return Err(ControlError::NotRunning(name));
                }
                child.sent = Some(signal);
                actions.push(Action::Signal(child.id, signal, reach, id));
                Ok(())
            }),
            Request::Add(new) => self.add(id, new, actions),
            Request::Reload(rules, children) => self.reload(id, rules, children, actions),
        };
        if let Err(error) = result {
            actions.push(Action::Answer(id, Err(error)));
        }
    }

    /// The child that requests of this name mean; one that is about to go is none.
    fn named(&self, name: &ChildName) -> Result<usize, ControlError> {
        self.index_named(name)
            .filter(|&index| !self.children[index].removing)
            .ok_or_else(|| ControlError::NoSuchChild(name.to_string()))
    }

    /// Whoever cannot be stopped is not started a second time.
    fn not_stuck(&self, name: &ChildName) -> Result<usize, ControlError> {
        let index = self.named(name)?;
        match self.children[index].survivors() {
            None => Ok(index),
            Some(survivors) => Err(ControlError::Survivors {
                child: name.clone(),
                survivors: survivors.clone(),
            }),
        }
    }

    /// Who waits for a child to be ready is told that it will not be.
    pub(super) fn supersede(&mut self, index: usize, actions: &mut Vec<Action>) {
        let child = &mut self.children[index];
        let name = child.name.clone();
        let (gone, left) = std::mem::take(&mut child.waiters)
            .into_iter()
            .partition(|waiter| matches!(waiter.until, Until::ReadyAfter(_)));
        child.waiters = left;
        let gone: Vec<Waiter> = gone;
        for waiter in gone {
            let superseded = Err(ControlError::Superseded(name.clone()));
            self.answer(waiter.request, superseded, actions);
        }
    }

    fn must_not_end(&self) -> Result<(), ControlError> {
        match self.mode {
            Mode::Ending { .. } => Err(ControlError::ShuttingDown),
            Mode::Ended => Err(ControlError::Ended),
            _ => Ok(()),
        }
    }

    fn start(&mut self, id: RequestId, name: &ChildName) -> Result<(), ControlError> {
        self.must_not_end()?;
        let index = self.not_stuck(name)?;
        let child = &mut self.children[index];
        child.dirty = true;
        // What runs now will do, unless it is on its way down.
        let after = match child.run {
            Run::Starting { .. } | Run::Ready { .. } if child.stop.is_none() => {
                child.generation.saturating_sub(1)
            }
            _ => child.generation,
        };
        child.wait_for(id, Until::ReadyAfter(after));
        if child.goal != Goal::Up {
            child.go_up();
        } else if !child.is_live() {
            // It waits for its restart; that is now.
            child.not_before = None;
            child.gated = false;
            if child.attempt == Attempt::Restart {
                child.attempt = Attempt::Requested;
                child.why = Cause::User;
            }
        }
        Ok(())
    }

    fn restart(
        &mut self,
        id: RequestId,
        name: &ChildName,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Result<(), ControlError> {
        self.must_not_end()?;
        let index = self.not_stuck(name)?;
        let child = &mut self.children[index];
        child.dirty = true;
        child.wait_for(id, Until::ReadyAfter(child.generation));
        child.go_up();
        self.begin_stop(index, Cause::User, now, actions);
        Ok(())
    }

    fn stop(
        &mut self,
        id: RequestId,
        name: &ChildName,
        until: Until,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Result<(), ControlError> {
        if matches!(self.mode, Mode::Ended) {
            return Err(ControlError::Ended);
        }
        let index = self.named(name)?;
        let child = &mut self.children[index];
        child.dirty = true;
        child.go_down();
        child.removing |= until == Until::Removed;
        self.supersede(index, actions);
        self.children[index].wait_for(id, until);
        if !self.is_ending() {
            self.begin_stop(index, Cause::User, now, actions);
        }
        Ok(())
    }

    fn add(
        &mut self,
        id: RequestId,
        new: NewChild,
        actions: &mut Vec<Action>,
    ) -> Result<(), ControlError> {
        self.must_not_end()?;
        if self.index_named(&new.name).is_some() {
            return Err(ControlError::Exists(new.name));
        }
        let index = self.add_child(new, actions);
        let child = &mut self.children[index];
        child.gated = matches!(self.mode, Mode::Starting);
        child.wait_for(id, Until::ReadyAfter(0));
        child.on_trial = true;
        Ok(())
    }

    fn add_child(&mut self, new: NewChild, actions: &mut Vec<Action>) -> usize {
        let name = new.name.clone();
        let index = self.push_child(new);
        let child = &mut self.children[index];
        child.attempt = Attempt::Requested;
        child.why = Cause::User;
        actions.push(Action::Added(child.id, name));
        self.tell(index, EventKind::Added, Cause::User, actions);
        index
    }

    /// Takes over a new declaration: who is unchanged goes on, who is new is
    /// started, who is changed is restarted, who is not in it is removed.
    fn reload(
        &mut self,
        id: RequestId,
        rules: Rules,
        wanted: Vec<(NewChild, bool)>,
        actions: &mut Vec<Action>,
    ) -> Result<(), ControlError> {
        self.must_not_end()?;
        let taken = |(new, _): &&(NewChild, bool)| {
            self.index_named(&new.name)
                .is_some_and(|index| self.children[index].removing)
        };
        if let Some((new, _)) = wanted.iter().find(taken) {
            return Err(ControlError::Exists(new.name.clone()));
        }
        self.rules = rules;
        let mut order = Vec::with_capacity(wanted.len());
        let mut parts = Parts::default();
        for (new, changed) in wanted {
            let index = match self.index_named(&new.name) {
                None => {
                    let index = self.add_child(new, actions);
                    let child = &mut self.children[index];
                    child.wait_for(id, Until::ReadyAfter(0));
                    parts.left += 1;
                    index
                }
                Some(index) => {
                    let child = &mut self.children[index];
                    if changed {
                        actions.push(Action::Changed(child.id, child.name.clone()));
                    }
                    if child.policy != new.policy || changed {
                        child.policy = new.policy;
                        self.tell(index, EventKind::Reloaded, Cause::User, actions);
                    }
                    let child = &mut self.children[index];
                    // Who was stopped stays so, with its new declaration.
                    if changed && child.goal == Goal::Up {
                        child.wait_for(id, Until::ReadyAfter(child.generation));
                        parts.left += 1;
                        child.go_up();
                        child.gated = true;
                        child.dirty = true;
                        if child.is_live() {
                            child.stop = Some(Cause::User);
                        }
                    }
                    index
                }
            };
            order.push(self.children[index].id);
        }
        let mut before = None;
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            let child_id = child.id;
            if !order.contains(&child_id) {
                // It keeps its place after whom it followed, for the stops' order.
                let place = before
                    .and_then(|before| order.iter().position(|id| *id == before))
                    .map_or(0, |place| place + 1);
                order.insert(place, child_id);
                if !child.removing {
                    child.go_down();
                    child.dirty = true;
                    child.removing = true;
                    if child.is_live() {
                        child.stop = Some(Cause::User);
                    }
                    self.supersede(index, actions);
                    self.children[index].wait_for(id, Until::Removed);
                    parts.left += 1;
                }
            }
            before = Some(child_id);
        }
        self.children
            .sort_by_key(|child| order.iter().position(|id| *id == child.id));
        if parts.left == 0 {
            actions.push(Action::Answer(id, Ok(())));
        } else {
            self.parts.insert(id, parts);
        }
        Ok(())
    }
}

impl Child {
    fn wait_for(&mut self, request: RequestId, until: Until) {
        self.waiters.push(Waiter { request, until });
    }

    /// By a request: at once, and whatever happened before is forgiven.
    fn go_up(&mut self) {
        self.goal = Goal::Up;
        self.attempt = Attempt::Requested;
        self.why = Cause::User;
        self.not_before = None;
        self.gated = false;
        self.in_a_row = 0;
        self.failure = None;
    }

    fn go_down(&mut self) {
        self.goal = Goal::Down { revivable: false };
        self.not_before = None;
        self.failure = None;
    }
}
