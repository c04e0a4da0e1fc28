//! The exit of one process, through a hub.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;

use kmonitor_event::{Exit, ProcessKey};
use kmonitor_source::{HeldState, ProcessProbe, WatchError};

use crate::command::{Line, WatchLease};
use crate::latch::Stage;

/// What a watch costs, and how certain its status is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WatchMode {
    /// The watch has no descriptor of its own. The hub holds some processes by pidfds
    /// for all ([`holds_max`](crate::HubBuilder::holds_max)). For one beyond these, that
    /// dies and is reaped before anybody looks, the exit reports must do: where its
    /// threads ended with different codes, or a report was lost, its status is
    /// [`Unknown`](kmonitor_event::Status::Unknown).
    #[default]
    Shared,
    /// A pidfd is held for this very watch, whatever others hold, until that is dropped:
    /// one descriptor each. It buys the status of a process that died and was reaped
    /// at once, or within an overflow, which nothing else can tell then.
    ///
    /// What the kernel keeps with a pidfd is the code of the first thread. Where that
    /// was inside an exit of its own while another thread ended the process, and was the
    /// last to finish, `waitpid` says otherwise (seen on 6.18).
    ///
    /// # Minimum kernel version
    /// 5.3 to hold; 6.15 for the status of a process that is reaped and no child.
    HeldPidfd,
}

/// The exit of one process, as a value that stays.
///
/// It cannot be lost to a full queue, an overflow in the kernel or a late poll,
/// and holds no descriptor of its own, unless [that was asked
/// for](WatchMode::HeldPidfd). Awaiting it gives the exit with the best
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

    /// The exit with the status that the hold tells, where nobody else could.
    fn with_held_status(&self, mut exit: Exit) -> Exit {
        let Some(held) = self.lease.held.as_ref() else {
            return exit;
        };
        if exit.status.known().is_none()
            && let Ok(HeldState::Zombie(status) | HeldState::Reaped(status)) = held.state()
            && status.known().is_some()
        {
            exit.status = status;
        }
        exit
    }

    async fn stage(&self, reached: impl Fn(&Stage) -> bool) -> Result<Exit, WatchError> {
        let stage = poll_fn(|cx| self.lease.latch.poll(cx, &reached)).await;
        match stage {
            Stage::Dead(exit) | Stage::Settled(exit) => Ok(self.with_held_status(exit)),
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
