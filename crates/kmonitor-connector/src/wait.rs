//! Waiting for an empty queue to fill: woken by the reactor, or after a pause.
//!
//! With a descriptor that is registered (edge-triggered) each datagram wakes whoever
//! sleeps in `epoll_wait(2)`, whether that is wanted or not. So for the time of the
//! pauses the socket is taken out of the reactor, and a timer wakes us instead. A
//! `timerfd`, because the runtime's own timers go by whole milliseconds.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::pace::Pace;
use crate::sys;

/// How one socket is waited for.
pub(crate) struct Wait {
    /// A duplicate of the socket, while the reactor watches it.
    watched: Option<AsyncFd<OwnedFd>>,
    /// Made for the first pause.
    timer: Option<Timer>,
    pace: Pace,
    /// Datagrams since the pause began.
    gathered: u64,
    /// Whether the pause is known to be over, and the queue was not found empty since.
    over: bool,
    /// Whether nothing has been read since the queue was found empty.
    rested: bool,
    pauses: u64,
}

impl Wait {
    /// For a socket that is watched from now on.
    pub(crate) fn new(socket: BorrowedFd<'_>, latency_budget: Duration) -> io::Result<Self> {
        Ok(Self {
            watched: Some(watch(socket)?),
            timer: None,
            pace: Pace::new(latency_budget),
            gathered: 0,
            over: false,
            rested: false,
            pauses: 0,
        })
    }

    /// How many pauses there were.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses
    }

    /// Whether the reactor says that there is something. Always pending in pauses.
    pub(crate) fn poll_readable(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<AsyncFdReadyGuard<'_, OwnedFd>>> {
        match &self.watched {
            Some(watched) => poll_ready(watched, cx),
            None => Poll::Pending,
        }
    }

    /// Ready unless a pause lasts: then when it is over.
    pub(crate) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let (None, false, Some(timer)) = (&self.watched, self.over, &self.timer) {
            // It tells that only once.
            ready!(timer.poll_elapsed(cx));
            self.over = true;
        }
        Poll::Ready(())
    }

    /// So many datagrams were read.
    pub(crate) fn received(&mut self, count: usize) {
        self.gathered += count as u64;
        if std::mem::take(&mut self.rested) && self.watched.is_some() {
            self.pace.woken(Instant::now());
        }
    }

    /// The queue was found empty, and the reactor, where it watches, was asked to
    /// wake us. Ready where that must be done once more.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>, socket: BorrowedFd<'_>) -> Poll<()> {
        self.rested = true;
        if self.watched.is_some() {
            if !self.pace.begins_pause() {
                return Poll::Pending;
            }
            if let Err(error) = self.pause() {
                tracing::debug!(%error, "no timer to pause with");
                return Poll::Pending;
            }
            self.watched = None;
        }
        ready!(self.poll_due(cx));
        self.over = false;
        if Pace::goes_on(self.gathered) && self.pause().is_ok() {
            // It is over already where we were kept from the processor.
            return self.poll_due(cx);
        }
        match watch(socket) {
            Ok(watched) => {
                self.watched = Some(watched);
                Poll::Ready(())
            }
            Err(error) => {
                // Out of descriptors, say. Pausing costs a little, and loses nothing.
                tracing::debug!(%error, "the reactor does not take the socket");
                match self.pause() {
                    Ok(()) => self.poll_due(cx),
                    Err(_) => Poll::Ready(()),
                }
            }
        }
    }

    fn pause(&mut self) -> io::Result<()> {
        let timer = match &mut self.timer {
            Some(timer) => timer,
            none => none.insert(Timer::new()?),
        };
        timer.start(self.pace.budget())?;
        self.gathered = 0;
        self.over = false;
        self.pauses += 1;
        Ok(())
    }
}

fn watch(socket: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    sys::register(socket.try_clone_to_owned()?)
}

/// Asks a descriptor. Exempt from tokio's cooperative budget, because pending must
/// mean that there is nothing; whoever reads batches yields between them.
fn poll_ready<'a>(
    fd: &'a AsyncFd<OwnedFd>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<AsyncFdReadyGuard<'a, OwnedFd>>> {
    let ready = poll_fn(|cx| fd.poll_read_ready(cx));
    pin!(tokio::task::coop::unconstrained(ready)).poll(cx)
}

struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(sys::register(timer)?))
    }

    /// Starts it anew. What it counted before is forgotten, so it need not be read.
    fn start(&self, after: Duration) -> io::Result<()> {
        let it_value = Timespec {
            tv_sec: after.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: after.subsec_nanos().into(),
        };
        let it_interval = Timespec::default();
        let times = Itimerspec {
            it_interval,
            it_value,
        };
        timerfd_settime(self.0.get_ref().as_fd(), TimerfdTimerFlags::empty(), &times)?;
        Ok(())
    }

    fn poll_elapsed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Ok(mut elapsed) = ready!(poll_ready(&self.0, cx)) {
            elapsed.clear_ready();
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// Its timer elapses between being started and being asked.
    #[tokio::test]
    async fn a_pause_that_is_over_at_once_is_not_waited_for() {
        let (socket, _other) = UnixDatagram::pair().unwrap();
        let mut wait = Wait::new(socket.as_fd(), Duration::from_millis(1)).unwrap();
        wait.pause().unwrap();
        wait.watched = None;
        let elapsed = wait.timer.as_ref().unwrap();
        elapsed.0.readable().await.unwrap().retain_ready();
        // Once within the rest, and again before the next read.
        for _ in 0..2 {
            let due = poll_fn(|cx| Poll::Ready(wait.poll_due(cx)));
            assert!(due.await.is_ready());
        }
        // And then the reactor watches again.
        let rest = poll_fn(|cx| Poll::Ready(wait.poll_rest(cx, socket.as_fd())));
        assert!(rest.await.is_ready() && wait.watched.is_some());
    }
}
