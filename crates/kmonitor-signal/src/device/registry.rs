//! What the device needs of the registry of monitors. The seam between the file
//! system, which knows callers, and the adapter, which knows events; tests put
//! another registry behind it.

use std::fmt;
use std::future::Future;

use kmonitor_event::{EventMask, Pid};
use rustix::io::Errno;

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
    ) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Takes events away.
    fn deregister(
        &self,
        monitor: Pid,
        target: Pid,
        mask: EventMask,
    ) -> impl Future<Output = Result<(), Errno>> + Send;
}
