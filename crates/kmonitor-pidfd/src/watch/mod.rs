//! `watch`: the end of one process as a future.

mod future;
mod waiter;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kmonitor_event::{Exit, ProcessKey, Status, Timestamp, UnknownReason};
use kmonitor_source::{Identity, IntoTarget, Target, WatchError};
use tokio::time::{Instant, Sleep};

pub use self::future::{WatchFuture, WatchRefFuture};
pub(crate) use self::waiter::Waiter;
use crate::error;
use crate::pidfd::{Pidfd, Readiness};

/// How long `.await` waits for a status after the death, unless told otherwise.
const STATUS_GRACE_DEFAULT: Duration = Duration::from_secs(1);

/// Watches one process for its end.
///
/// The process may be anybody's, needs not be a child, and may be a zombie
/// already. It is named by pid, `PID:INODE`, pidfd or child (see
/// [`IntoTarget`]). A descriptor is opened here, when this is called, so from
/// then on no reuse of the pid can fool the watch; no thread is started and no
/// runtime is needed before the watch is awaited.
///
/// A watch of the calling process itself never resolves.
///
/// Where `pidfd_open` is blocked the watch polls `/proc` instead, see
/// [`Mechanism::Polling`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn()?;
/// let exit = kmonitor_pidfd::watch(child.id()).await?;
/// assert_eq!(exit.status.code(), Some(3));
/// child.wait()?; // It is still there to be reaped.
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// They are told when the watch is awaited, each time: see [`Watch`].
///
/// # Minimum kernel version
/// 5.3, below that by polling; 6.9 for `PID:INODE`; 6.15 for the status of
/// processes that are neither children nor readable by ptrace.
#[must_use = "a watch tells nothing unless it is awaited"]
pub fn watch(target: impl IntoTarget) -> Watch {
    Watch::new(open(target))
}

fn open(target: impl IntoTarget) -> Result<(ProcessKey, Waiter), WatchError> {
    let waiter = match target.into_target()? {
        Target::Process(process) => Waiter::open(process.pid, process.inode.map(Identity::Inode))?,
        Target::Pidfd(fd) => Waiter::holding(Pidfd::from_fd(fd)?),
        _ => {
            return Err(WatchError::Io {
                action: "watch a target of this kind",
                source: io::ErrorKind::Unsupported.into(),
            });
        }
    };
    let (pid, inode) = match &waiter {
        Waiter::Polling(waiter) => (waiter.pid(), None),
        Waiter::Pidfd(waiter) => {
            let pidfd = waiter.pidfd().ok_or(WatchError::NotAPidfd)?;
            (pidfd.pid(), pidfd.inode())
        }
    };
    Ok((next_key(pid).with_inode(inode), waiter))
}

/// Keys of free watches count from here, those of a hub from 1: no key of one
/// equals a key of the other.
fn next_key(pid: kmonitor_event::Pid) -> ProcessKey {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
    ProcessKey::new(pid, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// By what means a watch learns of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// It holds a pidfd: certain, and at once.
    Pidfd,
    /// It looks into `/proc` every 5 ms at first, slowing down to 250 ms, because
    /// `pidfd_open` is blocked (seccomp) or missing (before Linux 5.3).
    ///
    /// The end is noticed late by up to that interval. The process is known by
    /// its start time, which two processes share only if they got the same pid
    /// within one tick (10 ms). The status is known only if the process is seen
    /// as a zombie by one who may ptrace it or is its parent; else it is
    /// [`UnknownReason::NotObservable`].
    Polling,
}

/// One process being watched for its end; made by [`watch`].
///
/// What was seen is kept: each method can be called again, in any order, and
/// says the same or better.
///
/// | await this | resolves | status |
/// |---|---|---|
/// | [`exited()`](Self::exited) | when the process is dead | known, or still `Pending` |
/// | the watch itself, or `&mut` of it | when the status is known too, at most [`status_grace`](Self::status_grace) after | known, or `Unknown` with the reason |
/// | [`reaped()`](Self::reaped) | when its parent has reaped it, however long that takes | known, or `Unknown` with the reason |
///
/// # Errors
/// Of all three:
/// * [`WatchError::is_gone`]: there was no such process any more, or its pid was
///   another's, when `watch` was called.
/// * [`WatchError::Target`], [`WatchError::NotAPidfd`]: nothing was named.
/// * [`WatchError::Probe`]: a thread was named; `/proc` is hidden where it is
///   needed; no descriptor was left (the message names `RLIMIT_NOFILE`); or
///   there is no tokio runtime.
///
/// # Panics
/// Tokio panics where its runtime was built without `enable_io`, or without
/// `enable_time` where the watch has to wait for a status or polls.
///
/// # Cancel safety
/// All futures are cancel-safe. In a loop of `tokio::select!` await `&mut watch`.
#[derive(Debug)]
#[must_use = "a watch tells nothing unless it is awaited"]
pub struct Watch {
    opened: Result<(ProcessKey, Waiter), WatchError>,
    grace: Duration,
    death: Option<Death>,
}

/// The end, once it was seen.
#[derive(Debug)]
struct Death {
    exit: Exit,
    reaped: bool,
    noticed: Instant,
    /// Runs out at the end of the grace.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    fn new(opened: Result<(ProcessKey, Waiter), WatchError>) -> Self {
        Self {
            opened,
            grace: STATUS_GRACE_DEFAULT,
            death: None,
        }
    }

    /// How long to wait, from when the death was noticed, for a status that only
    /// the reaping will tell. 1 s unless set; zero takes what there is at once.
    pub fn status_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        if let Some(death) = &mut self.death {
            death.timer = None;
        }
        self
    }

    /// The process, unless there was none when `watch` was called.
    #[must_use]
    pub fn process(&self) -> Option<ProcessKey> {
        self.opened.as_ref().ok().map(|(key, _)| *key)
    }

    /// By what means the process is watched, unless there was none.
    #[must_use]
    pub fn mechanism(&self) -> Option<Mechanism> {
        self.opened.as_ref().ok().map(|(_, waiter)| match waiter {
            Waiter::Pidfd(_) => Mechanism::Pidfd,
            Waiter::Polling(_) => Mechanism::Polling,
        })
    }

    /// Resolves when the process is dead: all its threads, that is. The status
    /// may be [`Status::Pending`] until it is reaped.
    ///
    /// # Errors
    /// See [`Watch`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kmonitor_pidfd::watch;
    ///
    /// let mut child = std::process::Command::new("true").spawn()?;
    /// let mut watch = watch(&child);
    /// let exit = watch.exited().await?;
    /// assert_eq!(Some(exit.process), watch.process());
    /// child.wait()?;
    /// assert!(watch.reaped().await?.status.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn exited(&mut self) -> impl Future<Output = Result<Exit, WatchError>> + Send + '_ {
        poll_fn(move |cx| self.poll_exited(cx))
    }

    /// Resolves when the parent has reaped the process, without bound: a parent
    /// that never reaps is not given up on.
    ///
    /// # Errors
    /// See [`Watch`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    ///
    /// # Minimum kernel version
    /// Before 6.9 the kernel does not tell of the reaping, and it is polled for.
    pub fn reaped(&mut self) -> impl Future<Output = Result<Exit, WatchError>> + Send + '_ {
        poll_fn(move |cx| self.poll_reaped(cx))
    }

    fn poll_exited(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exit, WatchError>> {
        if let Some(death) = &self.death {
            return Poll::Ready(Ok(death.exit));
        }
        let (key, waiter) = match &mut self.opened {
            Ok(opened) => opened,
            Err(error) => return Poll::Ready(Err(error::again(error))),
        };
        let seen = ready!(waiter.poll_reached(cx, Readiness::Zombie))?;
        let death = self.death.insert(Death {
            exit: Exit::new(*key, seen.status, Timestamp::now()),
            reaped: seen.readiness == Readiness::Reaped,
            noticed: Instant::now(),
            timer: None,
        });
        Poll::Ready(Ok(death.exit))
    }

    fn poll_reaped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exit, WatchError>> {
        ready!(self.poll_exited(cx))?;
        let (Some(death), Ok((_, waiter))) = (&mut self.death, &mut self.opened) else {
            return Poll::Ready(Err(WatchError::NotAPidfd)); // Seen just above.
        };
        if !death.reaped {
            let seen = ready!(waiter.poll_reached(cx, Readiness::Reaped))?;
            death.reaped = true;
            // What was read of the zombie is at least as good as what is kept
            // beyond the reaping.
            if death.exit.status.known().is_none() {
                death.exit.status = seen.status;
            }
        }
        Poll::Ready(Ok(death.exit))
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Result<Exit, WatchError>> {
        let exit = ready!(self.poll_exited(cx))?;
        if exit.status != Status::Pending {
            return Poll::Ready(Ok(exit));
        }
        if let Poll::Ready(result) = self.poll_reaped(cx) {
            return Poll::Ready(result);
        }
        let grace = self.grace;
        if let Some(death) = &mut self.death
            && !grace.is_zero()
        {
            // A deadline beyond the clock's end is none.
            let Some(deadline) = death.noticed.checked_add(grace) else {
                return Poll::Pending;
            };
            if Instant::now() < deadline {
                let timer = death
                    .timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
                ready!(timer.as_mut().poll(cx));
            }
        }
        // Not kept: a later reaping may still tell.
        let mut exit = exit;
        exit.status = Status::Unknown(UnknownReason::NotReaped);
        Poll::Ready(Ok(exit))
    }
}
