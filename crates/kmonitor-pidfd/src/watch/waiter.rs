//! Waiting for one process to get as far as a given moment, by whichever means
//! works here. Keeps no opinion on statuses and deadlines: see the module above.

use std::future::{Future, poll_fn};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kmonitor_event::{Pid, Status, UnknownReason};
use kmonitor_source::{Identity, ProbeError, ProcessState};
use tokio::io::unix::AsyncFd;

use crate::backoff::Backoff;
use crate::pidfd::{Pidfd, Readiness};
use crate::{error, probe, sys};

/// First and greatest interval of polling where nothing can wake us.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(5);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// How far a process was found to be, at least as far as was waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) readiness: Readiness,
    /// The best status there was then.
    pub(crate) status: Status,
}

/// Waits for one process.
#[derive(Debug)]
pub(crate) enum Waiter {
    Pidfd(PidfdWaiter),
    Polling(PollingWaiter),
}

impl Waiter {
    /// Takes hold of a process now. Needs no runtime yet.
    pub(crate) fn open(pid: Pid, identity: Option<Identity>) -> Result<Self, ProbeError> {
        match Pidfd::open(pid) {
            Ok(pidfd) => {
                if let Some(identity) = identity {
                    pidfd.verify(identity)?;
                }
                Ok(Self::holding(pidfd))
            }
            Err(error) if error::is_blocked(&error) => {
                PollingWaiter::open(pid, identity).map(Self::Polling)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn holding(pidfd: Pidfd) -> Self {
        Self::Pidfd(PidfdWaiter {
            fd: Some(Registered::No(pidfd)),
            reap_poll: Backoff::new(POLL_INTERVAL_MIN, POLL_INTERVAL_MAX),
        })
    }

    /// Resolves when the process is at least as far as `wanted`.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was seen is seen again.
    pub(crate) fn reached(
        &mut self,
        wanted: Readiness,
    ) -> impl Future<Output = Result<Seen, ProbeError>> + Send {
        poll_fn(move |cx| self.poll_reached(cx, wanted))
    }

    pub(crate) fn poll_reached(
        &mut self,
        cx: &mut Context<'_>,
        wanted: Readiness,
    ) -> Poll<Result<Seen, ProbeError>> {
        match self {
            Self::Pidfd(waiter) => {
                waiter
                    .poll_reached(cx, wanted)
                    .map_err(|source| ProbeError::Io {
                        action: "wait for a pidfd",
                        source,
                    })
            }
            Self::Polling(waiter) => waiter.poll_reached(cx, wanted),
        }
    }
}

/// Waits on a pidfd.
#[derive(Debug)]
pub(crate) struct PidfdWaiter {
    /// `None` only while it is being registered, or after that failed.
    fd: Option<Registered>,
    /// For kernels that do not wake us at the reaping (before 6.9).
    reap_poll: Backoff,
}

#[derive(Debug)]
enum Registered {
    No(Pidfd),
    /// With the reactor of the runtime that first polled.
    Yes(AsyncFd<Pidfd>),
}

impl PidfdWaiter {
    pub(crate) fn pidfd(&self) -> Option<&Pidfd> {
        match self.fd.as_ref()? {
            Registered::No(pidfd) => Some(pidfd),
            Registered::Yes(pidfd) => Some(pidfd.get_ref()),
        }
    }

    fn poll_reached(&mut self, cx: &mut Context<'_>, wanted: Readiness) -> Poll<io::Result<Seen>> {
        loop {
            // Asked first, so that a process that is dead already is told
            // without a reactor, and again after each wake-up.
            let pidfd = self.pidfd().ok_or(io::ErrorKind::NotConnected)?;
            let readiness = pidfd.readiness()?;
            if readiness >= wanted {
                let status = pidfd.status_when(readiness)?.unwrap_or(Status::Pending);
                return Poll::Ready(Ok(Seen { readiness, status }));
            }
            if readiness == Readiness::Zombie && !pidfd.wakes_at_reap() {
                ready!(self.reap_poll.poll_tick(cx));
                continue;
            }
            // The reactor watches for edges. The kernel gives one when the
            // process becomes a zombie and one when it is reaped; one that comes
            // between our question and the clearing is noticed by its tick.
            ready!(self.registered()?.poll_read_ready(cx))?.clear_ready();
        }
    }

    fn registered(&mut self) -> io::Result<&AsyncFd<Pidfd>> {
        if let Some(Registered::No(_)) = self.fd {
            // Tokio panics where there is no runtime; an error is kinder.
            tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
            if let Some(Registered::No(pidfd)) = self.fd.take() {
                match sys::register(pidfd) {
                    Ok(pidfd) => self.fd = Some(Registered::Yes(pidfd)),
                    Err(error) => {
                        let (pidfd, error) = error.into_parts();
                        self.fd = Some(Registered::No(pidfd));
                        return Err(error);
                    }
                }
            }
        }
        match &self.fd {
            Some(Registered::Yes(pidfd)) => Ok(pidfd),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Looks into `/proc` again and again: where `pidfd_open` is blocked.
#[derive(Debug)]
pub(crate) struct PollingWaiter {
    pid: Pid,
    identity: Identity,
    interval: Backoff,
    /// The status, once it was seen as a zombie.
    zombie: Option<Status>,
}

impl PollingWaiter {
    pub(crate) fn open(pid: Pid, identity: Option<Identity>) -> Result<Self, ProbeError> {
        let found = Identity::StartTime(probe::polled_identity(pid)?);
        match identity {
            Some(Identity::Inode(_)) => return Err(error::cannot_verify()),
            Some(expected) if expected != found => {
                return Err(ProbeError::Reused {
                    pid,
                    expected,
                    found,
                });
            }
            _ => {}
        }
        Ok(Self {
            pid,
            identity: found,
            interval: Backoff::new(POLL_INTERVAL_MIN, POLL_INTERVAL_MAX),
            zombie: None,
        })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    fn poll_reached(
        &mut self,
        cx: &mut Context<'_>,
        wanted: Readiness,
    ) -> Poll<Result<Seen, ProbeError>> {
        loop {
            let readiness = match probe::polled_state(self.pid, Some(self.identity))? {
                ProcessState::Alive => Readiness::Alive,
                ProcessState::Gone => Readiness::Reaped,
                ProcessState::Zombie(status) => {
                    // Nothing later will tell more: the reaping is seen only as
                    // an absence.
                    self.zombie.get_or_insert(match status {
                        Status::Pending => Status::Unknown(UnknownReason::NotObservable),
                        status => status,
                    });
                    Readiness::Zombie
                }
            };
            if readiness >= wanted {
                let unseen = Status::Unknown(UnknownReason::NotObservable);
                let status = self.zombie.unwrap_or(unseen);
                return Poll::Ready(Ok(Seen { readiness, status }));
            }
            if let Err(error) = tokio::runtime::Handle::try_current() {
                return Poll::Ready(Err(ProbeError::Io {
                    action: "wait for a process",
                    source: io::Error::other(error),
                }));
            }
            ready!(self.interval.poll_tick(cx));
        }
    }
}
