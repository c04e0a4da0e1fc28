//! What can go wrong, one type per operation.

use std::sync::Arc;

use kmonitor_source::{ProbeError, Refusal, SourceError, StartError};

/// Why no hub could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// None of the sources works here.
    #[error("no event source works here: {}", list(.0))]
    NoSource(Vec<StartError>),
    /// The one source that was asked for does not work here.
    #[error(transparent)]
    Source(#[from] StartError),
    /// The hub's thread could not be started.
    #[error("failed to start the hub's thread")]
    Thread(#[source] std::io::Error),
    /// `on_current_runtime` was called outside a tokio runtime.
    #[error("not inside a tokio runtime with I/O and time enabled")]
    NoRuntime,
    /// A source was given without a probe, and this build has none of its own.
    #[error("a source was given without a process probe")]
    NoProbe,
}

fn list(errors: &[StartError]) -> String {
    let reasons: Vec<_> = errors.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}

/// Why a subscription was refused, or could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The source that is open would be silent about something asked for.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A named process does not exist (any more), or may not be looked at.
    #[error(transparent)]
    Process(#[from] ProbeError),
    /// No event was asked for: nothing would ever come.
    #[error("the filter selects no events")]
    NoEvents,
    /// The source could not be made to listen.
    #[error("the source could not be made to listen")]
    Source(#[source] Arc<SourceError>),
    /// The hub is closed, or its source has failed.
    #[error("the hub is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}

impl SubscribeError {
    /// Whether a named process had gone before it could be subscribed to.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Process(error) if error.is_gone())
    }
}

/// The hub is closed, or its source has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the hub is closed: {reason}")]
#[non_exhaustive]
pub struct Closed {
    /// Why.
    pub reason: String,
}
