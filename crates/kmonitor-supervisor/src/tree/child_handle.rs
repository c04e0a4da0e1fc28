//! Asking about one child, and telling what to do with it.

use std::sync::Arc;

use tokio::sync::watch;

use super::board::{EntryId, Seen};
use super::builder::SupervisorBuilder;
use super::command::{Meant, Requested, Verb};
use super::handle::Handle;
use super::plan::ChildSpec;
use crate::Signal;
use crate::backend::Reach;
use crate::output::OutputSnapshot;
use crate::spec::ChildPath;
use crate::words::{ChildStatus, Ending, Gone};

/// One child of a tree. Cheap to clone.
///
/// It stays the same child over restarts, and those of its supervisor. Once the child
/// has been removed it tells of the past only, and what is asked of it is refused as
/// [`NoSuchChild`](crate::ControlError::NoSuchChild), even if another one of its name is added.
#[derive(Debug, Clone)]
pub struct ChildHandle {
    tree: Handle,
    /// From the tree's supervisor on.
    names: Vec<String>,
    path: ChildPath,
    id: EntryId,
    seen: watch::Receiver<Seen>,
}

impl ChildHandle {
    pub(super) fn new(
        tree: Handle,
        names: Vec<String>,
        path: ChildPath,
        id: EntryId,
        seen: watch::Receiver<Seen>,
    ) -> Self {
        Self {
            tree,
            names,
            path,
            id,
            seen,
        }
    }

    /// Its path, the tree's name first.
    pub fn path(&self) -> &ChildPath {
        &self.path
    }

    /// How it is now.
    pub fn status(&self) -> Arc<ChildStatus> {
        Arc::clone(&self.seen.borrow().status)
    }

    /// Its last lines of output; none, once it has been removed.
    pub fn output(&self) -> OutputSnapshot {
        let ring = self.tree.board.output(&self.path, self.id);
        ring.map(|ring| ring.snapshot()).unwrap_or_default()
    }

    /// Waits until it is ready, however long; if it is, resolves at once.
    ///
    /// # Errors
    /// It was removed, or the tree has ended.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn ready(&self) -> Result<(), Gone> {
        let mut seen = self.seen.clone();
        let seen = seen
            .wait_for(|seen| seen.gone || seen.status.is_ready())
            .await;
        match seen {
            Ok(seen) if seen.status.is_ready() && !seen.gone => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Waits until the incarnation that it is in when this is called has ended, and
    /// tells how; if it has, resolves at once. Who is up again meanwhile has ended all
    /// the same.
    ///
    /// # Errors
    /// It was removed, or the tree has ended, before it ended.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; called again it means the incarnation of then.
    pub fn exited(&self) -> impl Future<Output = Result<Ending, Gone>> + Send + use<> {
        let mut seen = self.seen.clone();
        let generation = seen.borrow().status.generation.max(1);
        async move {
            let end = |seen: &Seen| match &seen.status.ended {
                Some((of, ending)) if *of >= generation => Some(ending.clone()),
                _ => None,
            };
            let last = seen
                .wait_for(|seen| seen.gone || end(seen).is_some())
                .await
                .map_err(|_| Gone)?;
            end(&last).ok_or(Gone)
        }
    }

    /// Starts it, if it is down; at once, if it waits for its restart. Resolves when it
    /// is ready. If it fails to start it stays down.
    ///
    /// # Errors
    /// [`ControlError`](crate::ControlError): it did not start, a later request superseded this one, it outlived
    /// its last stop, it was removed, or the supervisor ends.
    pub fn start(&self) -> Requested {
        self.request(Verb::Start)
    }

    /// Stops it, for good; this goes before a pending restart. Resolves when nothing
    /// is left of it.
    ///
    /// # Errors
    /// [`ControlError`](crate::ControlError): with the names of those that outlived being killed; it was removed, or
    /// the supervisor has ended.
    pub fn stop(&self) -> Requested {
        self.request(Verb::Stop)
    }

    /// Stops it, if it runs, and starts it; its siblings are left alone, whatever the
    /// strategy. Resolves when it is ready again. If it fails to start it stays down.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`stop`](Self::stop).
    pub fn restart(&self) -> Requested {
        self.request(Verb::Restart)
    }

    /// Sends a signal to its own process. Resolves when it was sent. To a task or a
    /// supervisor in the tree any signal is the word to stop.
    ///
    /// # Errors
    /// [`ControlError`](crate::ControlError): it does not run, what the system said, it was removed, or the
    /// supervisor has ended.
    pub fn signal(&self, signal: Signal) -> Requested {
        self.request(Verb::Signal(signal, Reach::Leader))
    }

    /// Sends a signal to all in its scope.
    ///
    /// # Errors
    /// As [`signal`](Self::signal); the others in the scope got it all the same.
    pub fn signal_all(&self, signal: Signal) -> Requested {
        self.request(Verb::Signal(signal, Reach::Scope))
    }

    /// Stops it and removes it. Resolves when it is gone; who outlives being killed
    /// goes later.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn remove(&self) -> Requested {
        self.request(Verb::Remove)
    }

    /// If it is a supervisor: adds a child to it. See [`Handle::add`].
    ///
    /// # Errors
    /// [`ControlError`](crate::ControlError): as [`Handle::add`], and if it is none, or does not run.
    pub fn add(&self, child: impl Into<ChildSpec>) -> Requested {
        self.tree
            .add_at(self.names.clone(), Some(self.meant()), &child.into())
    }

    /// If it is a supervisor: takes over a new declaration of it. It holds until this
    /// supervisor is restarted by the one above, which has the declaration of before.
    /// See [`Handle::reload`].
    ///
    /// # Errors
    /// [`ControlError`](crate::ControlError): as [`Handle::reload`], and if it is none, or does not run.
    pub fn reload(&self, declaration: &SupervisorBuilder) -> Requested {
        self.tree
            .reload_at(self.names.clone(), Some(self.meant()), declaration)
    }

    fn request(&self, verb: Verb) -> Requested {
        self.tree
            .request(self.names.clone(), Some(self.meant()), verb)
    }

    fn meant(&self) -> Meant {
        Meant {
            path: self.path.clone(),
            id: self.id,
        }
    }
}
