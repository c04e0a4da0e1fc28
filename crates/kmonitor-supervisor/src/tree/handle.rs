//! Asking a tree things, and telling it what to do.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::board::Board;
use super::builder::SupervisorBuilder;
use super::child_handle::ChildHandle;
use super::command::{Command, Meant, Requested, Verb};
use super::events::Events;
use super::nested::Ask;
use super::plan::{ChildSpec, Plan, Planned};
use crate::spec::{ChildName, ChildPath};
use crate::words::{ControlError, Snapshot};

/// So many events wait for a reader.
const EVENTS_MAX: usize = 1024;

/// A tree, to be asked and told. Cheap to clone; holding one does not keep the tree up.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) board: Arc<Board>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) ask: Arc<watch::Sender<Ask>>,
}

impl Handle {
    /// The child with this path, from the tree's supervisor on: `db`, or `web/api` for
    /// a child of a supervisor in the tree. `None`: there is none now.
    pub fn child(&self, path: &str) -> Option<ChildHandle> {
        let mut full = self.board.root().clone();
        let mut names = Vec::new();
        for name in path.split('/') {
            let name = ChildName::new(name).ok()?;
            full = full.join(&name);
            names.push(name.to_string());
        }
        let (id, seen) = self.board.look(&full)?;
        Some(ChildHandle::new(self.clone(), names, full, id, seen))
    }

    /// The tree's own path: its name.
    pub fn path(&self) -> &ChildPath {
        self.board.root()
    }

    /// The tree now.
    pub fn snapshot(&self) -> Snapshot {
        self.board.snapshot()
    }

    /// The tree now, and all events from now on: none is missing in between, and none
    /// is told twice.
    pub fn subscribe(&self) -> (Snapshot, Events) {
        self.subscribe_with(EVENTS_MAX)
    }

    /// As [`subscribe`](Self::subscribe), with a queue of another length than 1 024.
    pub fn subscribe_with(&self, events_max: usize) -> (Snapshot, Events) {
        let (snapshot, id) = self.board.subscribe(events_max);
        (snapshot, Events::new(Arc::clone(&self.board), id))
    }

    /// Adds a child, after all others, and starts it. Resolves when it is ready; if it
    /// does not start, it is stopped and not added.
    ///
    /// # Errors
    /// [`ControlError`]: its declaration makes no sense, there is one of its name, it did
    /// not start, or the supervisor ends.
    pub fn add(&self, child: impl Into<ChildSpec>) -> Requested {
        self.add_at(Vec::new(), None, &child.into())
    }

    /// Takes over a new declaration of the tree. Who is in both and would run the same
    /// goes on; who changed is restarted, or stays down if it was; who is new is
    /// started; who is missing is stopped and removed. Order, strategy and intensity
    /// are the new ones'. The name stays.
    ///
    /// A task is taken to be the same as one of its name, because functions cannot be
    /// compared. A supervisor in the tree in which anything changed is restarted as a
    /// whole; [`ChildHandle::reload`] does better.
    ///
    /// Resolves when all are ready or gone; the first failure is told, and whoever did
    /// not start is down.
    ///
    /// # Errors
    /// [`ControlError`]: the declaration makes no sense, a child did not start or outlived
    /// being killed, a later request superseded this one, or the supervisor ends.
    pub fn reload(&self, declaration: &SupervisorBuilder) -> Requested {
        self.reload_at(Vec::new(), None, declaration)
    }

    pub(super) fn add_at(
        &self,
        path: Vec<String>,
        meant: Option<Meant>,
        child: &ChildSpec,
    ) -> Requested {
        match Planned::check(child) {
            Ok(planned) => self.request(path, meant, Verb::Add(Box::new(planned))),
            Err(error) => Requested::refused(ControlError::Invalid(error)),
        }
    }

    pub(super) fn reload_at(
        &self,
        path: Vec<String>,
        meant: Option<Meant>,
        to: &SupervisorBuilder,
    ) -> Requested {
        match Plan::check(to) {
            Ok(plan) => self.request(path, meant, Verb::Reload(Box::new(plan))),
            Err(error) => Requested::refused(ControlError::Invalid(error)),
        }
    }

    /// Asks for the end of the tree: all children are stopped in reverse order. Asking
    /// again changes nothing.
    pub fn shutdown(&self) {
        self.ask.send_if_modified(|ask| {
            let first = *ask == Ask::Nothing;
            if first {
                *ask = Ask::Stop;
            }
            first
        });
    }

    /// Asks for the end of the tree without any grace: in reverse order still, but with
    /// SIGKILL. Hastens a shutdown that is under way.
    pub fn shutdown_now(&self) {
        self.ask.send_replace(Ask::Kill);
    }

    pub(super) fn request(&self, path: Vec<String>, meant: Option<Meant>, verb: Verb) -> Requested {
        Requested::make(&self.commands, path, meant, verb)
    }
}
