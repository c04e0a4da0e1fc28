//! A process that is told: taking hold of it, and sending it signals.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use futures::future::AbortHandle;
use kmonitor_event::{Pid, ProcessRef};
use kmonitor_pidfd::{Pidfd, Readiness};
use kmonitor_source::Identity;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::error::RegisterError;
use crate::outbox::{Due, Outbox, Verdict};
use crate::{procfs, sys};

/// A process to be told that passed all checks. Held by its pidfd, so that a
/// later process with its pid never gets a signal.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) pidfd: Pidfd,
    pub(crate) identity: Identity,
}

impl Candidate {
    /// Takes hold of a process, and makes sure that signals would reach it as
    /// they are meant.
    pub(crate) fn new(monitor: ProcessRef) -> Result<Self, RegisterError> {
        let pid = monitor.pid;
        let gone = |source| RegisterError::NoSuchMonitor { monitor, source };
        let failed = |source: kmonitor_source::ProbeError| {
            if source.is_gone() {
                gone(Some(source))
            } else {
                RegisterError::Monitor { monitor, source }
            }
        };
        let pidfd = Pidfd::open_ref(monitor).map_err(failed)?;
        let identity = pidfd.identity().map_err(failed)?;
        match pidfd.send_signal(0) {
            Ok(()) => {}
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM) => return Err(RegisterError::NotPermitted { monitor: pid }),
                Some(Errno::SRCH) => return Err(gone(None)),
                _ => {
                    return Err(RegisterError::Io {
                        action: "signal the monitor by its pidfd",
                        source: error,
                    });
                }
            },
        }
        let status = procfs::status(pid);
        // Read only now, so that the file was its own: not another process's
        // that has its pid.
        let readiness = pidfd.readiness().map_err(|source| RegisterError::Io {
            action: "poll the monitor's pidfd",
            source,
        })?;
        if readiness != Readiness::Alive {
            return Err(gone(None));
        }
        let status = status.map_err(|source| RegisterError::Io {
            action: "read the monitor's /proc/PID/status",
            source,
        })?;
        if status.namespaces > 1 {
            return Err(RegisterError::ForeignNamespace { monitor: pid });
        }
        Ok(Self { pidfd, identity })
    }

    pub(crate) fn key(&self) -> (Pid, Identity) {
        (self.pidfd.pid(), self.identity)
    }
}

/// A process that is told, as the adapter's task keeps it.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) key: (Pid, Identity),
    pidfd: Arc<AsyncFd<Pidfd>>,
    pub(crate) outbox: Outbox,
    /// Ends the waiting for its death.
    pub(crate) watching: AbortHandle,
    /// Dropped since its queue was last empty.
    pub(crate) dropped: u64,
}

impl Monitor {
    pub(crate) fn new(
        key: (Pid, Identity),
        pidfd: Arc<AsyncFd<Pidfd>>,
        watching: AbortHandle,
    ) -> Self {
        Self {
            key,
            pidfd,
            outbox: Outbox::new(),
            watching,
            dropped: 0,
        }
    }

    pub(crate) fn push(&mut self, due: Due) -> crate::outbox::Pushed {
        self.outbox.push(due, |due| send(self.pidfd.get_ref(), due))
    }

    pub(crate) fn flush(&mut self) -> (u64, u64) {
        self.outbox.flush(|due| send(self.pidfd.get_ref(), due))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn send(monitor: &Pidfd, due: &Due) -> Verdict {
    // A single bit of the lowest seven.
    let event = due.event.bits().cast_signed();
    match sys::queue_signal(monitor.as_fd(), due.signal, due.pid, due.uid, event) {
        Ok(()) => Verdict::Taken,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Verdict::Full,
        Err(error) => {
            tracing::debug!(monitor = %monitor.pid(), %error, "a signal was refused");
            Verdict::Refused
        }
    }
}
