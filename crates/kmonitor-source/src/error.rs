//! What can go wrong with a source: when it is opened, and while it runs.

use std::fmt;
use std::io;

use kmonitor_event::Status;

use crate::{ProbeError, Refusal, SourceKind, TargetError};

/// Why a source could not be opened.
///
/// The message says what a person can do; [`kind`](Self::kind) is for programs.
#[derive(Debug)]
pub struct StartError {
    source_kind: SourceKind,
    kind: StartErrorKind,
    message: String,
    cause: Option<io::Error>,
}

/// The cause, for programs that branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// This kernel was built without it, or is too old for it.
    Unsupported,
    /// The caller lacks a privilege.
    Denied,
    /// It works in the initial network namespace only.
    NetworkNamespace,
    /// It works in the initial pid namespace only.
    PidNamespace,
    /// It works in the initial user namespace only.
    UserNamespace,
    /// It is of use in the initial time namespace only: reports are stamped with its clock.
    TimeNamespace,
    /// A filter (seccomp or a security module) forbids the system call.
    Blocked,
    /// The kernel accepted the request and then did not answer.
    NoAnswer,
    /// Another system error.
    Io,
}

impl StartError {
    /// An error of a source, with a message that reads after "the … source does
    /// not work here: ".
    #[must_use]
    pub fn new(
        source_kind: SourceKind,
        kind: StartErrorKind,
        message: impl Into<String>,
        cause: Option<io::Error>,
    ) -> Self {
        Self {
            source_kind,
            kind,
            message: message.into(),
            cause,
        }
    }

    /// Which source.
    #[must_use]
    pub fn source_kind(&self) -> SourceKind {
        self.source_kind
    }

    /// The cause.
    #[must_use]
    pub fn kind(&self) -> StartErrorKind {
        self.kind
    }

    /// The cause in words, without the source's name.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the {} source does not work here: {}",
            self.source_kind, self.message
        )
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}

/// Why a running source cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It has nothing more to tell: the end of a recording.
    #[error("the source has ended")]
    Ended,
    /// The kernel did not confirm in time that it listens.
    #[error("the kernel did not confirm {request} within {waited:?}")]
    NoAnswer {
        /// What was asked.
        request: &'static str,
        /// How long was waited.
        waited: std::time::Duration,
    },
    /// A recording that cannot be read.
    #[error("line {line} of the recording: {message}")]
    Malformed {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        message: String,
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
}

impl SourceError {
    /// An error of a system call.
    #[must_use]
    pub fn io(action: &'static str, source: io::Error) -> Self {
        Self::Io { action, source }
    }
}

/// Why a process cannot be watched. That it ended is never an error; that it had
/// ended *before* is: see [`is_gone`](Self::is_gone).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// What was given names no process.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The process does not exist any more, is not a process, or may not be
    /// looked at.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The descriptor that was given is no pidfd.
    #[error("the descriptor is not a pidfd")]
    NotAPidfd,
    /// The process of the pidfd that was given had been reaped before: its pid
    /// cannot be known any more, but its status perhaps can.
    #[error("the process of the pidfd was reaped before, and has no pid any more; it {status}")]
    PidfdReaped {
        /// How it ended, where the kernel kept that with the pidfd (Linux 6.15).
        status: Status,
    },
    /// The source cannot tell of this process's exit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was asked that a pidfd be held for the watch, and none can be had: there are
    /// no descriptors left, or this system has no pidfds.
    #[error("no pidfd can be held for the watch: {}", match .source {
        Some(_) => "it could not be opened",
        None => "they do not work here",
    })]
    NotHeld {
        /// Why it could not be opened.
        #[source]
        source: Option<ProbeError>,
    },
    /// The hub was closed, or its source failed, while the process lived.
    #[error("the hub was closed before the process ended: {reason}")]
    HubClosed {
        /// Why it was closed.
        reason: String,
    },
    /// Another system error.
    #[error("failed to {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl WatchError {
    /// Whether the process had gone before it could be watched: it ended and was
    /// reaped, or its pid belongs to another one now.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Probe(error) if error.is_gone())
            || matches!(
                self,
                Self::Target(TargetError::ChildReaped) | Self::PidfdReaped { .. }
            )
    }
}
