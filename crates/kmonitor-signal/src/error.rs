//! What can go wrong, one type per operation.

use std::io;

use kmonitor_event::{EventMask, Pid, ProcessRef};
use kmonitor_hub::SubscribeError;
use kmonitor_source::{ProbeError, WatchError};

/// Why a monitor could not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// Only the events of 2004 have a bit that a signal can carry.
    #[error(
        "{0} cannot be told by a signal; use thread_create, thread_abort, thread_exit, fork, \
         abort, exec and exit, or subscribe to the hub"
    )]
    Events(EventMask),
    /// The monitor does not exist, or is on its way out.
    #[error("there is no process {monitor} to be told")]
    NoSuchMonitor {
        /// The one to be told.
        monitor: ProcessRef,
        /// How that showed.
        #[source]
        source: Option<ProbeError>,
    },
    /// The monitor cannot be looked at: the number is that of a thread, or no
    /// descriptor is left.
    #[error("cannot take hold of the monitor {monitor}")]
    Monitor {
        /// The one to be told.
        monitor: ProcessRef,
        /// Why.
        #[source]
        source: ProbeError,
    },
    /// The kernel would not let us send it signals.
    #[error(
        "not permitted to signal {monitor}: it belongs to another user; run as that user, \
         or with CAP_KILL"
    )]
    NotPermitted {
        /// The one to be told.
        monitor: Pid,
    },
    /// The kernel would put 0 into `si_pid`.
    #[error(
        "process {monitor} is in another pid namespace, where our pids mean nothing; \
         run kmonitor inside it"
    )]
    ForeignNamespace {
        /// The one to be told.
        monitor: Pid,
    },
    /// The target does not exist (any more).
    #[error("there is no process {target} to be monitored")]
    NoSuchTarget {
        /// The one to be monitored.
        target: ProcessRef,
        /// How that showed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The target cannot be watched: the number is that of a thread, or it may
    /// not be looked at.
    #[error("cannot watch {target}")]
    Target {
        /// The one to be monitored.
        target: ProcessRef,
        /// Why.
        #[source]
        source: WatchError,
    },
    /// The hub cannot serve it: mostly because its source sees no such events.
    #[error("cannot subscribe to these events of {target}")]
    Subscribe {
        /// The one to be monitored.
        target: ProcessRef,
        /// Why.
        #[source]
        source: SubscribeError,
    },
    /// There are as many records as may be.
    #[error("too many registrations: {max} are allowed {scope}; deregister some")]
    TooMany {
        /// How many there may be.
        max: usize,
        /// Of whom: a session, or all.
        scope: &'static str,
    },
    /// A system call failed.
    #[error("failed to {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The hub was closed, or there is no runtime for the adapter.
    #[error("no signals are sent any more: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}

impl RegisterError {
    pub(crate) fn closed(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Closed { reason }
    }

    pub(crate) fn watch(target: ProcessRef, error: WatchError) -> Self {
        match error {
            WatchError::HubClosed { reason } => Self::closed(reason),
            error if error.is_gone() => Self::NoSuchTarget {
                target,
                source: Box::new(error),
            },
            source => Self::Target { target, source },
        }
    }

    pub(crate) fn subscribe(target: ProcessRef, error: SubscribeError) -> Self {
        match error {
            SubscribeError::Closed { reason } => Self::closed(reason),
            error if error.is_gone() => Self::NoSuchTarget {
                target,
                source: Box::new(error),
            },
            source => Self::Subscribe { target, source },
        }
    }
}

/// Why a registration could not be taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeregisterError {
    /// Nothing is registered for these two: it never was, it was taken back, or
    /// one of them has ended.
    #[error("{monitor} is not registered to be told of {target}")]
    NoRecord {
        /// The one to be told.
        monitor: ProcessRef,
        /// The one to be monitored.
        target: ProcessRef,
    },
    /// The hub was closed, or there is no runtime for the adapter.
    #[error("no signals are sent any more: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}
