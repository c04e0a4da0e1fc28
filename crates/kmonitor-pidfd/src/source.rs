//! The event source that needs nothing but pidfds: it tells of the end and the
//! reaping of processes that it is told to watch.

mod kept;
mod pidfd_set;
mod start;
#[cfg(test)]
mod tests;
mod unheld;

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, Waker};

use kmonitor_event::{EventMask, Pid, ProcessKey, Status, Timestamp, UnknownReason};
use kmonitor_source::{
    BATCH_FACTS_MAX, Capabilities, EventSource, Fact, Identity, KernelInterest, LossReport,
    ProbeError, Reach, SourceError, SourceKind, SourceStats, StartError, StartErrorKind, Wanted,
};
use rustc_hash::FxHashMap;

use self::kept::{Kept, Told};
use self::pidfd_set::PidfdSet;
use self::unheld::Unheld;
use crate::pidfd::{Pidfd, Readiness};
use crate::{error, limits};

/// The events that a pidfd can tell of.
const EVENTS: EventMask = EventMask::EXIT.union(EventMask::ABORT);

/// Facts that one look at a process can yield: its death and its reaping.
const FACTS_PER_LOOK_MAX: usize = 2;

/// Tells of the end of named processes, and of nothing else; works without
/// privilege, and in containers.
///
/// It holds one pidfd for each process that is wanted by name with
/// [`EventMask::EXIT`] or [`EventMask::ABORT`], all of them in one epoll
/// instance. Each such process yields one [`GroupDead`] and, when its
/// parent reaps it, one [`Reaped`], with the best status there is at
/// either moment. One that is gone, or whose pid is another's, when it is first
/// wanted yields both at once with [`UnknownReason::ReapedUnseen`], so that
/// nobody waits for it for ever.
///
/// # When descriptors run out
/// The soft limit (`RLIMIT_NOFILE`) is raised to the hard one, once. Beyond that
/// the processes that found no descriptor are looked at every 100 ms by turns
/// instead, 1024 at a time, with two descriptors kept in reserve for it, and get
/// a pidfd as soon as one is free. Their end is told all the same, only later,
/// and with [`UnknownReason::NotObservable`] where they were not seen as zombies;
/// a warning is logged once. The same is done where `pidfd_open` stops working.
///
/// [`GroupDead`]: kmonitor_source::FactKind::GroupDead
/// [`Reaped`]: kmonitor_source::FactKind::Reaped
///
/// # Order of calls
/// That of [`EventSource`]. The interest passed to
/// [`poll_interest`](EventSource::poll_interest) must be the same object each
/// time, because after the first call only its changes are followed.
///
/// ```
/// use kmonitor_event::EventMask;
/// use kmonitor_pidfd::PidfdSource;
/// use kmonitor_source::{EventSource, Scope};
///
/// let source = PidfdSource::open()?;
/// let serve = |scope| source.capabilities().serve(scope, EventMask::EXIT);
/// assert!(serve(Scope::Named).is_ok());
/// assert!(serve(Scope::Host).is_err());
/// # Ok::<(), kmonitor_source::StartError>(())
/// ```
///
/// # Minimum kernel version
/// 5.3. Before 6.9 the reaping wakes nobody and is looked for every 100 ms, and
/// before 6.15 its status is known only of children and to those who may ptrace
/// the process.
#[derive(Debug)]
pub struct PidfdSource {
    capabilities: Capabilities,
    pidfds: PidfdSet,
    /// What became of each process that is wanted. As large as the interest.
    followed: FxHashMap<ProcessKey, Followed>,
    /// The owners of `pidfds`, by token. No larger than `followed`.
    kept: FxHashMap<u64, Kept>,
    next_token: u64,
    /// Those of `kept` to look at by a timer: dead on a kernel that does not tell
    /// of their reaping, or not to be looked at when epoll told.
    again: Vec<u64>,
    /// What epoll just told; kept for its memory.
    tokens: Vec<u64>,
    /// Processes to be looked at by a timer. No larger than `followed`.
    unheld: Unheld,
    /// Facts found otherwise than by epoll. At most two for each followed process.
    queue: VecDeque<Fact>,
    /// Who waits in `poll_batch`.
    waker: Option<Waker>,
    started: bool,
    raised: bool,
    received: u64,
}

/// Where a wanted process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Followed {
    /// A pidfd of it is held, under this token.
    Kept(u64),
    /// It is looked at by a timer.
    Unheld,
    /// All of it was told; kept so that it is not told again.
    Done,
}

impl PidfdSource {
    /// Opens the source, after making sure that `pidfd_open` works here.
    ///
    /// # Errors
    /// [`StartErrorKind::Unsupported`]: a kernel before 5.3.
    /// [`StartErrorKind::Blocked`]: a newer kernel, but seccomp or a security
    /// module forbids the call. [`StartErrorKind::Io`]: no descriptor left.
    pub fn open() -> Result<Self, StartError> {
        Pidfd::open(Pid::current()).map_err(start::failed)?;
        let pidfds = PidfdSet::new().map_err(|source| {
            let message = "cannot create an epoll instance";
            StartError::new(SourceKind::Pidfd, StartErrorKind::Io, message, Some(source))
        })?;
        Ok(Self {
            capabilities: Capabilities::new(
                SourceKind::Pidfd,
                EVENTS,
                Reach::Named,
                LossReport::Lossless,
            ),
            pidfds,
            followed: FxHashMap::default(),
            kept: FxHashMap::default(),
            next_token: 0,
            again: Vec::new(),
            tokens: Vec::new(),
            unheld: Unheld::new(),
            queue: VecDeque::new(),
            waker: None,
            started: false,
            raised: false,
            received: 0,
        })
    }

    /// Does what the interest says of one process now.
    fn follow(&mut self, key: ProcessKey, wanted: Option<Wanted>) {
        match wanted.filter(|wanted| wanted.events.intersects(EVENTS)) {
            None => self.forget(key),
            Some(_) if self.followed.contains_key(&key) => {}
            Some(wanted) => {
                let state = self.take_up(key, wanted.identity);
                self.followed.insert(key, state);
            }
        }
    }

    fn forget(&mut self, key: ProcessKey) {
        match self.followed.remove(&key) {
            Some(Followed::Kept(token)) => self.release(token),
            Some(Followed::Unheld) => {
                self.unheld.forget(key);
            }
            Some(Followed::Done) | None => {}
        }
    }

    /// Closes a pidfd.
    fn release(&mut self, token: u64) {
        if let Some(kept) = self.kept.remove(&token) {
            self.pidfds.remove(&kept.pidfd);
        }
    }

    fn take_up(&mut self, key: ProcessKey, identity: Option<Identity>) -> Followed {
        let error = match self.open_pidfd(key, identity) {
            Ok(pidfd) => match self.keep(key, pidfd, Told::default()) {
                Ok(token) => return Followed::Kept(token),
                Err(error) => error,
            },
            Err(error) if is_gone(&error) => {
                let status = Status::Unknown(UnknownReason::ReapedUnseen);
                let queue = &mut self.queue;
                Told::default().reaped(key, status, Timestamp::now(), &mut |fact| {
                    queue.push_back(fact);
                });
                return Followed::Done;
            }
            Err(error) => error,
        };
        self.unheld.warn_once(key, &error);
        self.unheld.add(key, identity);
        Followed::Unheld
    }

    /// Opens a pidfd of the very process that is wanted.
    fn open_pidfd(
        &mut self,
        key: ProcessKey,
        identity: Option<Identity>,
    ) -> Result<Pidfd, ProbeError> {
        let pidfd = match Pidfd::open(key.pid()) {
            Err(error) if error::is_exhaustion(&error) && !self.raised => {
                self.raised = true;
                limits::raise_soft_to_hard();
                Pidfd::open(key.pid())?
            }
            other => other?,
        };
        if let Some(identity) = identity {
            pidfd.verify(identity)?;
        }
        Ok(pidfd)
    }

    /// Keeps a pidfd, and hears of it from now on.
    fn keep(&mut self, key: ProcessKey, pidfd: Pidfd, told: Told) -> Result<u64, ProbeError> {
        let token = self.next_token;
        self.pidfds
            .add(&pidfd, token)
            .map_err(|source| ProbeError::Io {
                action: "add a pidfd to the epoll instance",
                source,
            })?;
        self.next_token += 1;
        self.kept.insert(token, Kept { key, pidfd, told });
        Ok(token)
    }

    /// Looks at one held process and tells what is new.
    fn look_at_kept(&mut self, token: u64, now: Timestamp, push: &mut impl FnMut(Fact)) {
        let Some(kept) = self.kept.get_mut(&token) else {
            return;
        };
        match kept.look(now, push) {
            Ok(Readiness::Alive) => {}
            Ok(Readiness::Zombie) if kept.pidfd.wakes_at_reap() => {}
            Ok(Readiness::Zombie) => self.again.push(token),
            Ok(Readiness::Reaped) => {
                let key = kept.key;
                self.release(token);
                self.followed.insert(key, Followed::Done);
            }
            // Out of memory, perhaps. There will be no other edge for this one,
            // and it is no reason to give up all the others.
            Err(error) => {
                tracing::warn!(process = %kept.key, %error, "cannot poll a pidfd; trying again");
                self.again.push(token);
            }
        }
    }

    /// Looks at the processes whose turn it is and for which nothing wakes us.
    fn look_by_turns(&mut self) {
        let mut queue = std::mem::take(&mut self.queue);
        let mut push = |fact| queue.push_back(fact);
        for token in std::mem::take(&mut self.again) {
            self.look_at_kept(token, Timestamp::now(), &mut push);
        }
        // One try a round, until one succeeds, is enough to see that there is room.
        let mut may_open = true;
        for key in self.unheld.round() {
            let Some(waiting) = self.unheld.get(key) else {
                continue;
            };
            if may_open {
                let kept = self
                    .open_pidfd(key, waiting.identity)
                    .and_then(|pidfd| self.keep(key, pidfd, waiting.told));
                match kept {
                    Ok(token) => {
                        self.unheld.forget(key);
                        self.followed.insert(key, Followed::Kept(token));
                        continue;
                    }
                    Err(error) => may_open = is_gone(&error),
                }
            }
            if self.unheld.look(key, &mut push) {
                self.followed.insert(key, Followed::Done);
            }
        }
        self.queue = queue;
    }

    /// Looks at the processes of which epoll told.
    fn look_at_tokens(&mut self, facts: &mut Vec<Fact>) {
        let tokens = std::mem::take(&mut self.tokens);
        let now = Timestamp::now();
        for token in &tokens {
            self.look_at_kept(*token, now, &mut |fact| facts.push(fact));
        }
        self.received += tokens.len() as u64;
        self.tokens = tokens;
    }

    fn needs_timer(&self) -> bool {
        !self.unheld.is_empty() || !self.again.is_empty()
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl EventSource for PidfdSource {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Always ready at once, and never an error: a process that cannot be held
    /// is polled for.
    fn poll_interest(
        &mut self,
        _cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        if self.started {
            for key in interest.changes() {
                self.follow(*key, interest.named(*key));
            }
        } else {
            self.started = true;
            for (key, wanted) in interest.iter_named() {
                self.follow(key, Some(wanted));
            }
        }
        // Whoever waits for facts has to wait for other things now.
        if !self.followed.is_empty() {
            self.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let start = facts.len();
        loop {
            let room = BATCH_FACTS_MAX.saturating_sub(facts.len() - start);
            facts.extend(self.queue.drain(..self.queue.len().min(room)));
            let room = BATCH_FACTS_MAX.saturating_sub(facts.len() - start);
            if room < FACTS_PER_LOOK_MAX {
                return Poll::Ready(Ok(()));
            }
            if self.needs_timer() {
                tokio::runtime::Handle::try_current()
                    .map_err(|error| wait_failed(io::Error::other(error)))?;
                if self.unheld.poll_due(cx).is_ready() {
                    self.look_by_turns();
                    continue;
                }
            }
            if self.kept.is_empty() {
                break;
            }
            let looks_max = room / FACTS_PER_LOOK_MAX;
            match self.pidfds.poll_read(cx, &mut self.tokens, looks_max) {
                Poll::Ready(result) => result.map_err(wait_failed)?,
                Poll::Pending => break,
            }
            self.look_at_tokens(facts);
        }
        if facts.len() > start {
            return Poll::Ready(Ok(()));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        facts.extend(self.queue.drain(..));
        let result = loop {
            if let Err(error) = self.pidfds.read(&mut self.tokens, BATCH_FACTS_MAX) {
                break Err(wait_failed(error));
            }
            if self.tokens.is_empty() {
                break Ok(());
            }
            self.look_at_tokens(facts);
        };
        self.pidfds.close();
        self.kept.clear();
        self.followed.clear();
        self.again.clear();
        self.unheld = Unheld::new();
        result
    }

    fn stats(&self) -> SourceStats {
        let mut stats = SourceStats::default();
        stats.received = self.received;
        stats
    }
}

/// Whether the process that was wanted does not exist any more. That its number
/// is a thread's now says the same.
fn is_gone(error: &ProbeError) -> bool {
    error.is_gone() || matches!(error, ProbeError::Thread { .. })
}

fn wait_failed(source: io::Error) -> SourceError {
    SourceError::io("wait for pidfds", source)
}
