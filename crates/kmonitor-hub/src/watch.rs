//! The exit of one process, through a hub.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use kmonitor_event::{Exit, ProcessKey};
use kmonitor_source::{ProcessProbe, WatchError};

use crate::command::{Line, WatchLease};
use crate::latch::Stage;

/// The exit of one process, as a value that stays.
///
/// It cannot be lost to a full queue, an overflow in the kernel or a late poll,
/// and holds no descriptor of its own. Awaiting it gives the exit with the best
/// status there is. Dropping it ends the watching.
#[must_use = "a watch that is dropped watches nothing; await it for the exit"]
pub struct Watch {
    lease: WatchLease,
    probe: Arc<dyn ProcessProbe>,
    /// Keeps the hub at work.
    _line: Line,
}

impl Watch {
    pub(crate) fn new(lease: WatchLease, probe: Arc<dyn ProcessProbe>, line: Line) -> Self {
        Self {
            lease,
            probe,
            _line: line,
        }
    }

    /// The watched process.
    #[must_use]
    pub const fn process(&self) -> ProcessKey {
        self.lease.key
    }

    /// Waits until the process is dead: all its threads. The status may be
    /// [`Status::Pending`](kmonitor_event::Status::Pending) then.
    ///
    /// # Errors
    /// The hub was closed first.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; the exit stays.
    pub async fn exited(&mut self) -> Result<Exit, WatchError> {
        self.stage(|stage| !matches!(stage, Stage::Alive)).await
    }

    /// Waits until the process is dead and its status is known, or known not to
    /// be knowable: at most the hub's `status_grace` after its death.
    ///
    /// # Errors
    /// The hub was closed first.
    ///
    /// # Cancel safety
    /// Can be dropped and called again; the exit stays.
    pub async fn settled(&mut self) -> Result<Exit, WatchError> {
        self.stage(|stage| matches!(stage, Stage::Settled(_) | Stage::Closed(_)))
            .await
    }

    /// Waits, without bound, until the process's parent has reaped it. A status
    /// that was unknown at its death may be known then.
    ///
    /// # Errors
    /// The hub was closed before the process died, or the system does not let us
    /// wait for the reaping.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn reaped(&mut self) -> Result<Exit, WatchError> {
        let mut exit = self.exited().await?;
        let identity = self.lease.identity;
        let status = self.probe.reaped(self.lease.key.pid(), identity).await?;
        if let Ok(settled) = self.settled().await {
            exit = settled;
        }
        if exit.status.known().is_none() && status.known().is_some() {
            exit.status = status;
        }
        Ok(exit)
    }

    async fn stage(&self, reached: impl Fn(&Stage) -> bool) -> Result<Exit, WatchError> {
        let stage = poll_fn(|cx| self.lease.latch.poll(cx, &reached)).await;
        match stage {
            Stage::Dead(exit) | Stage::Settled(exit) => Ok(exit),
            Stage::Closed(reason) => Err(WatchError::HubClosed { reason }),
            Stage::Alive => unreachable_stage(self.lease.key),
        }
    }
}

/// `reached` never accepts a process that lives.
fn unreachable_stage(key: ProcessKey) -> Result<Exit, WatchError> {
    debug_assert!(false, "a live process was taken for a dead one");
    Err(WatchError::HubClosed {
        reason: format!("the state of {key} was lost"),
    })
}

/// Waits as [`Watch::settled`] does.
impl IntoFuture for Watch {
    type Output = Result<Exit, WatchError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move { self.settled().await })
    }
}

/// Waits as [`Watch::settled`] does, and leaves the watch to be asked again.
impl<'a> IntoFuture for &'a mut Watch {
    type Output = Result<Exit, WatchError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.settled())
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("process", &self.lease.key)
            .finish_non_exhaustive()
    }
}
