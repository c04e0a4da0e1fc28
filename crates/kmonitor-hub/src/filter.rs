//! What a subscription is to get.

use std::num::NonZeroUsize;

use kmonitor_event::{EventMask, ProcessRef};
use kmonitor_source::Scope;

use crate::command::Follow;

/// How many events a subscription's queue holds unless told otherwise. A full
/// queue of them takes some 350 KiB; an empty one takes nothing.
pub const QUEUE_EVENTS_DEFAULT: usize = 4096;

/// Which events of which processes a subscription is to get.
///
/// ```
/// use kmonitor_event::{EventMask, Pid};
/// use kmonitor_hub::Filter;
///
/// let pid = Pid::new(4711).unwrap();
/// let filter = Filter::tree(pid).events(EventMask::EXEC | EventMask::EXIT);
/// # let _ = filter;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub(crate) subjects: Subjects,
    pub(crate) events: EventMask,
    pub(crate) queue_events: usize,
    pub(crate) keep_open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subjects {
    Host,
    Named {
        processes: Vec<ProcessRef>,
        follow: Follow,
        /// The named ones stand for their descendants only.
        descendants_only: bool,
    },
}

impl Filter {
    fn new(subjects: Subjects) -> Self {
        Self {
            subjects,
            events: EventMask::LIFECYCLE,
            queue_events: QUEUE_EVENTS_DEFAULT,
            keep_open: false,
        }
    }

    /// One process: a pid, or `PID:INODE`.
    #[must_use]
    pub fn pid(process: impl Into<ProcessRef>) -> Self {
        Self::pids([process])
    }

    /// Some processes. None at all is allowed: see
    /// [`Subscription::add`](crate::Subscription::add).
    #[must_use]
    pub fn pids(processes: impl IntoIterator<Item = impl Into<ProcessRef>>) -> Self {
        Self::new(Subjects::Named {
            processes: processes.into_iter().map(Into::into).collect(),
            follow: Follow::Nobody,
            descendants_only: false,
        })
    }

    /// A process and all its descendants: those it has, and those to come.
    #[must_use]
    pub fn tree(process: impl Into<ProcessRef>) -> Self {
        Self::new(Subjects::Named {
            processes: vec![process.into()],
            follow: Follow::Tree,
            descendants_only: false,
        })
    }

    /// All descendants of a process, without itself: of its own events, only the
    /// forks that create them are delivered.
    #[must_use]
    pub fn descendants(process: impl Into<ProcessRef>) -> Self {
        Self::new(Subjects::Named {
            processes: vec![process.into()],
            follow: Follow::Tree,
            descendants_only: true,
        })
    }

    /// Every process of the host.
    #[must_use]
    pub fn host() -> Self {
        Self::new(Subjects::Host)
    }

    /// Only these events; [`EventMask::LIFECYCLE`] unless told. Losses are told
    /// whatever the mask.
    #[must_use]
    pub fn events(mut self, events: EventMask) -> Self {
        self.events = events;
        self
    }

    /// How many events may wait to be read; [`QUEUE_EVENTS_DEFAULT`] unless told.
    /// What exceeds it is counted, and told in the stream as
    /// [`Lost`](kmonitor_event::Lost).
    ///
    /// A reader takes all that waits at once and hands it out one by one, so there
    /// can be as many again on its side.
    #[must_use]
    pub fn queue_events(mut self, events: NonZeroUsize) -> Self {
        self.queue_events = events.get();
        self
    }

    /// Keeps the stream open when the last of the named processes has ended,
    /// because others will be added. Otherwise the stream ends then.
    #[must_use]
    pub fn keep_open(mut self) -> Self {
        self.keep_open = true;
        self
    }

    pub(crate) fn scope(&self) -> Scope {
        match &self.subjects {
            Subjects::Host => Scope::Host,
            Subjects::Named { follow, .. } => follow.scope(),
        }
    }
}
