//! What the device needs of the registry of monitors. The seam between the file
//! system, which knows callers, and the adapter, which knows events; tests put
//! another registry behind it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::future::Future;

use kmonitor_event::{EventMask, Pid};
use rustix::io::Errno;

/// Why a registry does not do what a caller asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refused {
    /// What the caller is told.
    pub(crate) errno: Errno,
    /// What the log is told.
    pub(crate) reason: String,
}

impl Refused {
    /// With the error's causes as the reason.
    pub(crate) fn new(errno: Errno, error: &dyn Error) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(reason, ": {error}");
            cause = error.source();
        }
        Self { errno, reason }
    }
}

/// Where monitors are registered.
pub(crate) trait Registry: Send + Sync + 'static {
    /// The records of one open file.
    type Session: Session;

    /// A session without records.
    fn session(&self) -> Self::Session;
}

/// The records that were made through one open file. Dropping it drops them.
///
/// The futures must be cancel-safe: they are dropped when the caller has waited
/// for long enough.
pub(crate) trait Session: fmt::Debug + Send + Sync + 'static {
    /// Adds events to the record of this monitor and this target.
    fn register(
        &self,
        monitor: Pid,
        target: Pid,
        mask: EventMask,
        signal: i32,
    ) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Takes events away.
    fn deregister(
        &self,
        monitor: Pid,
        target: Pid,
        mask: EventMask,
    ) -> impl Future<Output = Result<(), Refused>> + Send;
}
