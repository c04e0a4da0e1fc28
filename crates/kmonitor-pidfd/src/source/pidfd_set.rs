//! Many pidfds in one epoll instance, which in turn is one descriptor for tokio.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::event::{Timespec, epoll};
use tokio::io::unix::AsyncFd;

use crate::pidfd::Pidfd;
use crate::sys;

/// Events read from epoll in one call, on the stack.
const READ_MAX: usize = 256;

/// An epoll instance full of pidfds, each under a token.
#[derive(Debug)]
pub(super) struct PidfdSet {
    epoll: Epoll,
    /// Whether it may still have something since tokio last said so.
    unread: bool,
}

#[derive(Debug)]
enum Epoll {
    Idle(OwnedFd),
    /// Known to the reactor of the runtime that first polled.
    Registered(AsyncFd<OwnedFd>),
    Closed,
}

impl PidfdSet {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::Idle(epoll::create(epoll::CreateFlags::CLOEXEC)?),
            unread: false,
        })
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.epoll {
            Epoll::Idle(fd) => Ok(fd.as_fd()),
            Epoll::Registered(fd) => Ok(fd.get_ref().as_fd()),
            Epoll::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Adds a pidfd. One that is readable already is so at once.
    ///
    /// It tells edges, not levels, or else a zombie would be told for as long as
    /// it is one. Becoming a zombie is an edge, and being reaped is another
    /// (`do_notify_pidfd` and `detach_pid`; the second since Linux 6.9).
    pub(super) fn add(&self, pidfd: &Pidfd, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(self.fd()?, pidfd, data, flags)?)
    }

    /// Takes a pidfd out. Closing it is not enough where a forked child has a
    /// copy.
    pub(super) fn remove(&self, pidfd: &Pidfd) {
        if let Ok(epoll) = self.fd() {
            // It is in there; and if it were not, so much the better.
            let _ = epoll::delete(epoll, pidfd);
        }
    }

    /// Replaces the content of `tokens` by those of pidfds that have something
    /// to tell, at least one and at most `count_max`.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        tokens: &mut Vec<u64>,
        count_max: usize,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.unread {
                // Cleared before the reading: what comes after is a new edge.
                ready!(self.registered()?.poll_read_ready(cx))?.clear_ready();
                self.unread = true;
            }
            self.read(tokens, count_max)?;
            if !tokens.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.unread = false;
        }
    }

    /// The same without waiting: none where there is none.
    pub(super) fn read(&self, tokens: &mut Vec<u64>, count_max: usize) -> io::Result<()> {
        tokens.clear();
        let mut events = [const { MaybeUninit::uninit() }; READ_MAX];
        let room = &mut events[..count_max.clamp(1, READ_MAX)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let epoll = self.fd()?;
        // Not repeated when interrupted, because it does not wait.
        let (events, _) = epoll::wait(epoll, room, Some(&now))?;
        tokens.extend(events.iter().map(|event| {
            let data = event.data;
            data.u64()
        }));
        Ok(())
    }

    fn registered(&mut self) -> io::Result<&AsyncFd<OwnedFd>> {
        if matches!(self.epoll, Epoll::Idle(_)) {
            // Tokio panics where there is no runtime; an error is kinder.
            tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
            if let Epoll::Idle(fd) = std::mem::replace(&mut self.epoll, Epoll::Closed) {
                match sys::register(fd) {
                    Ok(fd) => self.epoll = Epoll::Registered(fd),
                    Err(error) => {
                        let (fd, error) = error.into_parts();
                        self.epoll = Epoll::Idle(fd);
                        return Err(error);
                    }
                }
            }
        }
        match &self.epoll {
            Epoll::Registered(fd) => Ok(fd),
            Epoll::Idle(_) | Epoll::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes it for good.
    pub(super) fn close(&mut self) {
        self.epoll = Epoll::Closed;
    }
}
