//! A stream of typed events.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use kmonitor_event::{Event, EventMask, ProcessKey, ProcessRef};

use crate::command::{Command, Follow, Line, Narrow, SubscriptionLease};
use crate::error::{Closed, SubscribeError};
use crate::queue::Taken;

/// The events that one [`Filter`](crate::Filter) selects, as a [`Stream`].
///
/// It has a queue of its own, so a slow reader loses nothing but its own events,
/// and is told in the stream how many. It ends when every process that the
/// filter names has ended (unless the filter says
/// [`keep_open`](crate::Filter::keep_open)), or when the hub does; a process
/// added after that makes it go on. Dropping it unsubscribes.
///
/// # Cancel safety
/// Dropping a `next()` future loses no event.
#[must_use = "dropping a subscription ends it"]
pub struct Subscription {
    lease: SubscriptionLease,
    /// Taken from the queue and not handed out yet.
    taken: Taken,
    next_seq: u64,
    line: Line,
}

impl Subscription {
    pub(crate) fn new(lease: SubscriptionLease, line: Line) -> Self {
        Self {
            lease,
            taken: None,
            next_seq: 0,
            line,
        }
    }

    /// Adds a process. What happens to it after this returns is not missed. A
    /// subscription to the whole host has every process already, and does not look
    /// whether this one is there.
    ///
    /// # Errors
    /// It does not exist (any more), it may not be looked at, or the hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, the process may or may not have been added.
    pub async fn add(&self, process: impl Into<ProcessRef>) -> Result<(), SubscribeError> {
        self.add_inner(process.into(), Follow::Nobody).await
    }

    /// Adds a process and all its descendants.
    ///
    /// # Errors
    /// As [`add`](Self::add), or the source cannot follow a tree.
    ///
    /// # Cancel safety
    /// As [`add`](Self::add).
    pub async fn add_tree(&self, process: impl Into<ProcessRef>) -> Result<(), SubscribeError> {
        self.add_inner(process.into(), Follow::Tree).await
    }

    /// Adds a process, and those that descend from it from now on: the children
    /// that it has already stay out, and so does what descends from them. Nobody
    /// looks for them, so this costs no more than [`add`](Self::add).
    ///
    /// # Errors
    /// As [`add_tree`](Self::add_tree).
    ///
    /// # Cancel safety
    /// As [`add`](Self::add).
    pub async fn add_births(&self, process: impl Into<ProcessRef>) -> Result<(), SubscribeError> {
        self.add_inner(process.into(), Follow::Births).await
    }

    /// Takes these very processes away, as [`remove`](Self::remove) does, but no
    /// others that have or had their pids. Who is no member is no harm.
    ///
    /// # Errors
    /// The hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, it may or may not have happened.
    pub async fn leave(&self, processes: Vec<ProcessKey>) -> Result<(), SubscribeError> {
        self.narrow(processes, Narrow::Out).await
    }

    /// No longer makes the children of these processes members; they themselves
    /// stay, and so do those that descended from them before.
    ///
    /// # Errors
    /// The hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, it may or may not have happened.
    pub async fn ignore_births(&self, processes: Vec<ProcessKey>) -> Result<(), SubscribeError> {
        self.narrow(processes, Narrow::Childless).await
    }

    async fn narrow(&self, processes: Vec<ProcessKey>, to: Narrow) -> Result<(), SubscribeError> {
        let id = self.lease.id;
        self.ask(|reply| Command::Narrow {
            id,
            processes,
            to,
            reply,
        })
        .await
    }

    async fn add_inner(&self, process: ProcessRef, follow: Follow) -> Result<(), SubscribeError> {
        let id = self.lease.id;
        self.ask(|reply| Command::Add {
            id,
            process,
            follow,
            reply,
        })
        .await
    }

    /// Takes a process away: no event of it is queued after this returns.
    /// Whether the subscription had it. Its descendants stay, if they were
    /// followed.
    ///
    /// # Errors
    /// The hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, it may or may not have happened.
    pub async fn remove(&self, process: impl Into<ProcessRef>) -> Result<bool, SubscribeError> {
        let (id, process) = (self.lease.id, process.into());
        self.ask(|reply| Command::Remove { id, process, reply })
            .await
    }

    /// Selects other events from now on.
    ///
    /// # Errors
    /// The source cannot see them, none is selected, or the hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, it may or may not have happened.
    pub async fn set_mask(&self, events: EventMask) -> Result<(), SubscribeError> {
        let id = self.lease.id;
        self.ask(|reply| Command::SetMask { id, events, reply })
            .await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(crate::command::Reply<Result<T, SubscribeError>>) -> Command,
    ) -> Result<T, SubscribeError> {
        match self.line.ask(command).await {
            Ok(answer) => answer,
            Err(Closed { reason }) => Err(SubscribeError::Closed { reason }),
        }
    }

    /// The next event; `None` when the stream has ended.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        let event = match this.taken.as_mut().and_then(|taken| taken.pop_front()) {
            Some(event) => Some(event),
            None => ready!(this.lease.queue.poll_take(cx, &mut this.taken)),
        };
        Poll::Ready(event.map(|mut event| {
            event.seq = this.next_seq;
            this.next_seq += 1;
            event
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.taken.as_ref().map_or(0, |taken| taken.len()), None)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.lease.id)
            .field("next_seq", &self.next_seq)
            .finish_non_exhaustive()
    }
}
