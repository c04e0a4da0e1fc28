//! The handles: the adapter, and sessions that own registrations.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kmonitor_event::{EventMask, ProcessRef};
use kmonitor_hub::Hub;
use kmonitor_pidfd::Pidfd;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{DeregisterError, RegisterError};
use crate::monitor::Candidate;
use crate::registry::{SEVEN, SessionId};
use crate::stats::Counters;
use crate::task::{Command, Registration, Task};
use crate::{Signal, SignalStats, procfs};

/// How many commands may wait; who sends one more waits himself.
const COMMANDS_MAX: usize = 64;

/// The session that [`SignalAdapter::register`] uses. It ends with the hub only.
const NOBODYS: SessionId = SessionId(0);

const NO_RUNTIME: &str = "the adapter was made outside a tokio runtime";
const ENDED: &str = "the hub was closed, or the adapter's runtime has ended";

/// Tells processes of other processes' events by signals, as kmonitor did in 2004.
///
/// A cheap handle: clones share one background task, which runs on the tokio
/// runtime that [`new`](Self::new) was called in (with I/O and time enabled), and
/// one subscription to the hub. While nobody is registered there is no
/// subscription, the kernel is not listened to, and nothing wakes up.
///
/// ```no_run
/// use kmonitor_event::{EventMask, Pid};
/// use kmonitor_hub::Hub;
/// use kmonitor_signal::{Signal, SignalAdapter};
///
/// # async fn run(monitor: Pid, target: Pid) -> Result<(), Box<dyn std::error::Error>> {
/// let hub = Hub::open().await?;
/// let adapter = SignalAdapter::new(&hub);
/// let events = EventMask::FORK | EventMask::EXIT;
/// adapter.register(monitor, target, events, Signal::realtime(1)?).await?;
/// # Ok(()) }
/// ```
///
/// # What a monitor gets
/// The signal, with `si_code` `SI_QUEUE`, the **single bit** of the event in
/// `si_int`, in `si_pid` whom it concerns (of a fork or a new thread the *new*
/// one, else the process or thread itself), and in `si_uid` the real uid of that
/// one. One signal an event, in the order of the hub's stream. An end by a
/// signal is told as `ABORT`, and then as `EXIT`; likewise that of a thread. An
/// end whose status nobody could know is told as `EXIT` alone.
///
/// # What is not lost silently
/// A monitor whose queue of signals is full (`RLIMIT_SIGPENDING`, which all
/// processes of its user share) gets the rest, in order, when there is room
/// again: up to 8192 wait for each monitor, and what exceeds these is counted in
/// [`stats`](Self::stats) and logged. Events that the kernel or the hub lost are
/// counted there too; ends of targets are told whatever was lost.
///
/// # Following a tree
/// A monitor that is told of a `FORK` can register the new process, and so on. Being
/// told and registering take most of a millisecond, so what a new process does is
/// remembered for those who were told of its birth: registering it tells them first
/// what it has done since, of the events asked for, in order. So a monitor that
/// registers all that it is told of sees every process, its `FORK` before anything
/// else of it, and each event once, however deep the tree and short the lives. The
/// registration is of the process that was told of, even if that has ended by then,
/// or another has its pid; where several had it in turn, of all of them.
///
/// * It has 2 seconds to register, from the signal on (or from when it had room).
///   Later, and for whom it was not told of, a registration is of the present only.
/// * 16 384 processes and 65 536 events are remembered, of them 8192 processes for
///   one monitor of one session, and 4096 events of one process. What exceeds that
///   is counted in [`stats`](Self::stats) (`forgotten`) and logged.
/// * `ABORT` and `EXIT` of a process wait until the monitor has registered those of
///   its tree that it was told of and that did something before that end: for 0.2
///   seconds after it was told or last registered one, at most. So a follower that
///   stops with the first process has been told of all the others.
/// * What the kernel or the hub lost is not remembered either.
///
/// # What it cannot do
/// The kernel names no creator of a thread, so `THREAD_CREATE` is of the
/// process. `si_uid` of a process that changed its uid while events were lost may
/// be an earlier one.
///
/// # Minimum kernel version
/// 5.3; 6.9 for targets and monitors that no reuse of a pid can be taken for.
/// The events are those that the hub's source sees.
#[derive(Clone)]
pub struct SignalAdapter {
    line: Line,
}

/// An owner of registrations, which go when it is dropped: what one opening of
/// `/dev/kmonitor` is.
///
/// Its registrations are its own: another session may register the same monitor
/// for the same target, and both tell it.
pub struct Session {
    id: SessionId,
    target_gone: TargetGone,
    line: Line,
}

/// What to do about a target that does not exist (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TargetGone {
    /// [`RegisterError::NoSuchTarget`].
    #[default]
    Refuse,
    /// Accept it, as kmonitor did in 2004, which did not look. Nothing is ever
    /// told by such a registration: a process born later under that number is
    /// not taken for it. Registering the number again, when a process has it,
    /// is of that process.
    Accept,
}

#[derive(Clone)]
struct Line {
    hub: Hub,
    commands: mpsc::Sender<Command>,
    /// Sessions that ended. Each is sent once, so there are no more than
    /// sessions.
    ended: mpsc::UnboundedSender<SessionId>,
    sessions: Arc<AtomicU64>,
    counters: Arc<Counters>,
    idle: watch::Receiver<bool>,
    no_runtime: bool,
}

impl SignalAdapter {
    /// An adapter that tells of what this hub sees. Call it inside a tokio
    /// runtime; outside one, nothing can be registered.
    #[must_use]
    pub fn new(hub: &Hub) -> Self {
        let (commands, requests) = mpsc::channel(COMMANDS_MAX);
        let (ended, dropped) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let (tell_idle, idle) = watch::channel(true);
        let runtime = tokio::runtime::Handle::try_current();
        let no_runtime = runtime.is_err();
        if let Ok(runtime) = runtime {
            let numbers = Arc::clone(&counters);
            let task = Task::new(hub.clone(), numbers, tell_idle, requests, dropped);
            runtime.spawn(task.run());
        }
        Self {
            line: Line {
                hub: hub.clone(),
                commands,
                ended,
                sessions: Arc::new(AtomicU64::new(NOBODYS.0 + 1)),
                counters,
                idle,
                no_runtime,
            },
        }
    }

    /// Tells `monitor` of these events of `target` from now on: what happens
    /// after this returns is told. If that was registered before, adds the
    /// events, and replaces the signal for all of them.
    ///
    /// The registration ends when either process does, or by
    /// [`deregister`](Self::deregister). It outlives this handle; to own one,
    /// use a [`session`](Self::session).
    ///
    /// Without any event, as in 2004, there is a registration that tells
    /// nothing.
    ///
    /// # Errors
    /// See [`RegisterError`]. Among others: one of the two does not exist, the
    /// monitor may not be signalled, or the hub's source sees no such events.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, it may or may not have been registered.
    pub async fn register(
        &self,
        monitor: impl Into<ProcessRef>,
        target: impl Into<ProcessRef>,
        events: EventMask,
        signal: Signal,
    ) -> Result<(), RegisterError> {
        let (monitor, target) = (monitor.into(), target.into());
        let line = &self.line;
        line.register(NOBODYS, TargetGone::Refuse, monitor, target, events, signal)
            .await
    }

    /// Takes events away from a registration; it goes when none is left. No
    /// signal of it is sent after this returns; those that the kernel has queued
    /// by then still arrive.
    ///
    /// Where several processes had the target's pid, and the ends of the earlier
    /// ones have not been told yet, the last is meant; an inode tells exactly.
    ///
    /// # Errors
    /// There is no such registration, or the hub is closed.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, it may or may not have happened.
    pub async fn deregister(
        &self,
        monitor: impl Into<ProcessRef>,
        target: impl Into<ProcessRef>,
        events: EventMask,
    ) -> Result<(), DeregisterError> {
        let (monitor, target) = (monitor.into(), target.into());
        self.line.deregister(NOBODYS, monitor, target, events).await
    }

    /// An owner of registrations, without any yet.
    #[must_use]
    pub fn session(&self) -> Session {
        let id = self.line.sessions.fetch_add(1, Ordering::Relaxed);
        Session {
            id: SessionId(id),
            target_gone: TargetGone::default(),
            line: self.line.clone(),
        }
    }

    /// Numbers about this adapter. They may lag behind by what is under way.
    #[must_use]
    pub fn stats(&self) -> SignalStats {
        self.line.counters.read()
    }

    /// Waits until nothing is registered and no signal waits to be sent, or
    /// [`closed`](Self::closed). After a registration: until it has ended, and
    /// all that it was to tell has been told.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn idle(&self) {
        let mut idle = self.line.idle.clone();
        // The task has ended: it will not be busy again.
        let _ = idle.wait_for(|idle| *idle).await;
    }

    /// Waits until no signals are sent any more, because the hub was closed or
    /// its source failed. Why, [`Hub::stats`] says. While nothing is registered
    /// the adapter does not notice.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn closed(&self) {
        self.line.commands.closed().await;
    }
}

impl Session {
    /// What to do about targets that do not exist; [`TargetGone::Refuse`] unless
    /// told.
    #[must_use]
    pub fn target_gone(mut self, policy: TargetGone) -> Self {
        self.target_gone = policy;
        self
    }

    /// As [`SignalAdapter::register`], owned by this session.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn register(
        &self,
        monitor: impl Into<ProcessRef>,
        target: impl Into<ProcessRef>,
        events: EventMask,
        signal: Signal,
    ) -> Result<(), RegisterError> {
        let (monitor, target) = (monitor.into(), target.into());
        let line = &self.line;
        line.register(self.id, self.target_gone, monitor, target, events, signal)
            .await
    }

    /// As [`SignalAdapter::deregister`], of this session's registrations.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn deregister(
        &self,
        monitor: impl Into<ProcessRef>,
        target: impl Into<ProcessRef>,
        events: EventMask,
    ) -> Result<(), DeregisterError> {
        let (monitor, target) = (monitor.into(), target.into());
        self.line.deregister(self.id, monitor, target, events).await
    }
}

/// Takes all its registrations away, soon; signals that waited for room in a
/// monitor's queue are withdrawn.
impl Drop for Session {
    fn drop(&mut self) {
        // An adapter that has ended has no registrations.
        let _ = self.line.ended.send(self.id);
    }
}

impl Line {
    fn why_closed(&self) -> &'static str {
        if self.no_runtime { NO_RUNTIME } else { ENDED }
    }

    async fn register(
        &self,
        session: SessionId,
        target_gone: TargetGone,
        monitor: ProcessRef,
        target: ProcessRef,
        events: EventMask,
        signal: Signal,
    ) -> Result<(), RegisterError> {
        let unknown = events - SEVEN;
        if !unknown.is_empty() {
            return Err(RegisterError::Events(unknown));
        }
        if self.no_runtime {
            return Err(RegisterError::closed(NO_RUNTIME));
        }
        // Done here and not by the task, so that many of these go on at a time.
        let monitor = Candidate::new(monitor)?;
        // While it is there: it may end before it is watched. Whether it may have
        // ended, the task knows: it may have told of its birth.
        let real_uid = procfs::real_uid(target);
        let registration = Registration {
            session,
            target_gone,
            target,
            watch: self.hub.watch(target).await,
            real_uid,
            events,
            signal,
        };
        let command = |reply| Command::Register {
            monitor: Box::new(monitor),
            registration: Box::new(registration),
            reply,
        };
        let answer = self.ask(command).await;
        answer.unwrap_or_else(|| Err(RegisterError::closed(self.why_closed())))
    }

    async fn deregister(
        &self,
        session: SessionId,
        monitor: ProcessRef,
        target: ProcessRef,
        events: EventMask,
    ) -> Result<(), DeregisterError> {
        let no_record = || DeregisterError::NoRecord { monitor, target };
        // Whoever does not exist any more has no records.
        let pidfd = Pidfd::open_ref(monitor).map_err(|_| no_record())?;
        let identity = pidfd.identity().map_err(|_| no_record())?;
        let command = |reply| Command::Deregister {
            session,
            monitor: (monitor.pid, identity),
            target,
            events,
            reply,
        };
        match self.ask(command).await {
            Some(true) => Ok(()),
            Some(false) => Err(no_record()),
            None => Err(DeregisterError::Closed {
                reason: self.why_closed().to_owned(),
            }),
        }
    }

    /// `None` if the task has ended, or ends meanwhile.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let place = self.commands.reserve().await.ok()?;
        let (reply, mut answer) = oneshot::channel();
        place.send(command(reply));
        // Not the answer alone: a command that is sent while the receiver goes stays in
        // the channel, its reply with it, as long as there is a handle.
        tokio::select! {
            biased;
            answer = &mut answer => answer.ok(),
            () = self.commands.closed() => answer.try_recv().ok(),
        }
    }
}

impl fmt::Debug for SignalAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalAdapter")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id.0)
            .field("target_gone", &self.target_gone)
            .finish_non_exhaustive()
    }
}
