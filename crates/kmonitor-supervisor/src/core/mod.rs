//! What to do when something happens.
//!
//! One [`Core`] per supervisor. It has no clock, no runtime and does no I/O: time is
//! an argument, what is to be done comes out as [`Action`]s, and the only chance in
//! it (the jitter of restarts) comes from a seed. A child has a *goal* (up or down)
//! and a *run* (where it is now); what happens changes goals and runs, and then
//! [`reconcile`](Core::reconcile) takes every step that leads from the runs to the
//! goals and is allowed now. So there is no state such as "in the midst of a
//! one-for-all restart" that a stop, a second crash or a shutdown could break.

mod child;
mod ends;
mod input;
mod ladder;
mod reconcile;
mod reports;
mod requests;
mod verdict;
mod waits;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::spec::{ChildName, KillScope};
use crate::words::{Cause, ControlError, End, Ending, EventKind};
pub(crate) use child::{Child, Goal, Run};
pub(crate) use input::{Action, ChildId, Input, NewChild, Policy, Request, RequestId, Rules, Told};
pub(crate) use waits::plain_wait;

/// Decides for one supervisor.
#[derive(Debug)]
pub(crate) struct Core {
    rules: Rules,
    /// In the order of their start.
    children: Vec<Child>,
    next_id: ChildId,
    mode: Mode,
    window: waits::Window,
    dice: fastrand::Rng,
    /// Requests that concern several children: how many are outstanding, and what
    /// went wrong first.
    parts: BTreeMap<RequestId, Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    left: usize,
    error: Option<ControlError>,
}

#[derive(Debug)]
enum Mode {
    New,
    /// The first start of all children.
    Starting,
    Running,
    Ending {
        end: End,
        now: bool,
    },
    Ended,
}

impl Core {
    /// A supervisor with these children, in this order. `seed` is all the chance
    /// there is.
    pub(crate) fn new(rules: Rules, children: Vec<NewChild>, seed: u64) -> Self {
        let mut core = Self {
            rules,
            children: Vec::with_capacity(children.len()),
            next_id: 0,
            mode: Mode::New,
            window: waits::Window::default(),
            dice: fastrand::Rng::with_seed(seed),
            parts: BTreeMap::new(),
        };
        for child in children {
            core.push_child(child);
        }
        core
    }

    /// A child goes on counting where it was in a former run of this supervisor.
    pub(crate) fn resume(&mut self, id: ChildId, generation: u64, ended: Option<(u64, Ending)>) {
        if let Some(index) = self.index_of(id) {
            let child = &mut self.children[index];
            child.generation = generation;
            child.ended = ended;
        }
    }

    fn push_child(&mut self, new: NewChild) -> usize {
        self.children.push(Child::new(self.next_id, new));
        self.next_id += 1;
        self.children.len() - 1
    }

    /// Takes account of what happened, and says what to do about it.
    pub(crate) fn step(&mut self, input: Input, now: Duration, actions: &mut Vec<Action>) {
        match input {
            Input::Begin => {
                if matches!(self.mode, Mode::New) {
                    self.mode = Mode::Starting;
                }
            }
            Input::Report(about, told) => self.report(about, told, now, actions),
            Input::Request(id, request) => self.request(id, request, now, actions),
            Input::Shutdown {
                now: at_once,
                cause,
            } => {
                self.shutdown(at_once, &cause, now, actions);
            }
            Input::Tick => self.sweep_what_was_left(now, actions),
        }
        self.pass_deadlines(now, actions);
        self.reconcile(now, actions);
    }

    /// When to say [`Input::Tick`], if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.children.iter().filter_map(Child::due).min()
    }

    /// The children in the order of their start.
    pub(crate) fn children(&self) -> &[Child] {
        &self.children
    }

    /// The children that changed since this was asked last.
    pub(crate) fn take_dirty(&mut self) -> impl Iterator<Item = &Child> {
        // The others are not written to: each page that is costs a copy while a child
        // of ours has yet to execute its program.
        let dirty = self.children.iter_mut().filter(|child| child.dirty);
        dirty.map(|child| {
            child.dirty = false;
            &*child
        })
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.mode, Mode::Ended)
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.mode, Mode::Ending { .. } | Mode::Ended)
    }

    pub(crate) fn name_of(&self, id: ChildId) -> Option<ChildName> {
        let index = self.index_of(id)?;
        Some(self.children[index].name.clone())
    }

    pub(crate) fn scope_of(&self, id: ChildId) -> KillScope {
        let index = self.index_of(id);
        index.map_or(KillScope::Best, |index| {
            self.children[index].policy.stop.scope
        })
    }

    fn skips_grace(&self) -> bool {
        matches!(self.mode, Mode::Ending { now: true, .. })
    }

    fn index_of(&self, id: ChildId) -> Option<usize> {
        self.children.iter().position(|child| child.id == id)
    }

    fn index_named(&self, name: &ChildName) -> Option<usize> {
        self.children.iter().position(|child| child.name == *name)
    }

    /// Stops everything, in reverse order of start, and ends.
    fn begin_ending(&mut self, end: End, cause: &Cause) {
        if self.is_ending() {
            return;
        }
        self.mode = Mode::Ending { end, now: false };
        for child in &mut self.children {
            child.goal = Goal::Down { revivable: false };
            child.not_before = None;
            child.dirty = true;
            if child.is_live() {
                child.stop = Some(cause.clone());
            }
        }
    }

    fn shutdown(&mut self, at_once: bool, cause: &Cause, now: Duration, actions: &mut Vec<Action>) {
        self.begin_ending(End::Shutdown, cause);
        let Mode::Ending { now: skips, .. } = &mut self.mode else {
            return;
        };
        *skips |= at_once;
        if at_once {
            for index in 0..self.children.len() {
                self.skip_grace(index, now, actions);
            }
        }
    }

    fn tell(&mut self, index: usize, kind: EventKind, cause: Cause, actions: &mut Vec<Action>) {
        if let Some(child) = self.children.get_mut(index) {
            child.dirty = true;
            actions.push(Action::Event(Some(child.id), kind, cause));
        }
    }
}
