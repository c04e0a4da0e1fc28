//! The adapter's one task: commands, events, deaths of monitors, retries.

mod deferring;
mod following;
mod telling;

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::{AbortHandle, Abortable, Aborted};
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, future::BoxFuture};
use kmonitor_event::{Event, EventMask, Pid, ProcessKey, ProcessRef};
use kmonitor_hub::{Filter, Hub, SubscribeError, Subscription, Watch as HubWatch};
use kmonitor_pidfd::{Pidfd, Readiness};
use kmonitor_source::{Identity, WatchError};
use rustc_hash::FxHashMap;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::deferring::Deferred;
use crate::adapter::TargetGone;
use crate::error::RegisterError;
use crate::memory::{LIMITS, Memory};
use crate::monitor::{Candidate, Monitor};
use crate::outbox::Due;
use crate::registry::{MonitorId, Place, Registry, SEVEN, SessionId, Subject};
use crate::stats::Counters;
use crate::{Signal, procfs, sys};

/// How many events may wait for the adapter. It never waits for a monitor, so
/// this is room for bursts only.
const QUEUE_EVENTS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(16_384).unwrap();

/// How many records there may be: of one session, and of all.
const SESSION_RECORDS_MAX: usize = 65_536;
const RECORDS_MAX: usize = 262_144;

/// The uid of whom nobody could be asked: the kernel's `overflowuid`. Not 0,
/// which would be a claim.
const UID_UNKNOWN: u32 = 65_534;

/// What handles ask of the task.
pub(crate) enum Command {
    Register {
        monitor: Box<Candidate>,
        registration: Box<Registration>,
        reply: oneshot::Sender<Result<(), RegisterError>>,
    },
    Deregister {
        session: SessionId,
        monitor: (Pid, Identity),
        target: ProcessRef,
        events: EventMask,
        /// Whether there was such a record.
        reply: oneshot::Sender<bool>,
    },
}

/// A registration whose target has been looked for.
pub(crate) struct Registration {
    pub(crate) session: SessionId,
    pub(crate) target_gone: TargetGone,
    pub(crate) target: ProcessRef,
    pub(crate) watch: Result<HubWatch, WatchError>,
    /// The target's, as of before it was watched.
    pub(crate) real_uid: Option<u32>,
    pub(crate) events: EventMask,
    pub(crate) signal: Signal,
}

/// A target that lives.
struct Live {
    key: ProcessKey,
    /// Says that it ended, also where the stream lost that. There is none of one
    /// that had gone when it was registered.
    watch: Option<HubWatch>,
    real_uid: u32,
    /// Whether the subscription gets the children that it has.
    followed: bool,
    /// The number of the tree that it belongs to: that of those who descend from one
    /// target that was registered as it was.
    tree: u64,
}

struct Told {
    monitor: Monitor,
    /// When to try what waits.
    retry_at: Option<Instant>,
}

pub(crate) struct Task {
    hub: Hub,
    counters: Arc<Counters>,
    /// Whether nothing is registered and nothing waits.
    idle: watch::Sender<bool>,
    commands: mpsc::Receiver<Command>,
    /// Whether a handle is left to send commands.
    open: bool,
    ended: mpsc::UnboundedReceiver<SessionId>,
    registry: Registry,
    memory: Memory,
    live: FxHashMap<Subject, Live>,
    monitors: FxHashMap<MonitorId, Told>,
    by_identity: FxHashMap<(Pid, Identity), MonitorId>,
    next_monitor: u64,
    next_tree: u64,
    deaths: FuturesUnordered<Abortable<BoxFuture<'static, MonitorId>>>,
    /// There is one while there is a live target.
    subscription: Option<Subscription>,
    subscribed: EventMask,
    /// Whether the stream lost events since the watches were last asked.
    recheck: bool,
    /// Who is to leave the subscription, and whose children are, soon.
    leaving: Vec<Subject>,
    childless: Vec<Subject>,
    /// Targets without a watch, and when to give them up. No more than were
    /// registered within that time.
    adrift: VecDeque<(Instant, Subject)>,
    /// Ends that are to be told when those for whom they are have caught up.
    deferred: Deferred,
}

enum Wake {
    Command(Option<Command>),
    Ended(SessionId),
    Died(Result<MonitorId, Aborted>),
    Event(Option<Event>),
    Retry,
    Expire,
    /// All channels are closed, and nothing is left that could wake us.
    Idle,
}

impl Task {
    pub(crate) fn new(
        hub: Hub,
        counters: Arc<Counters>,
        idle: watch::Sender<bool>,
        commands: mpsc::Receiver<Command>,
        ended: mpsc::UnboundedReceiver<SessionId>,
    ) -> Self {
        Self {
            hub,
            counters,
            idle,
            commands,
            open: true,
            ended,
            registry: Registry::default(),
            memory: Memory::new(LIMITS),
            live: FxHashMap::default(),
            monitors: FxHashMap::default(),
            by_identity: FxHashMap::default(),
            next_monitor: 0,
            next_tree: 1,
            deaths: FuturesUnordered::new(),
            subscription: None,
            subscribed: EventMask::empty(),
            recheck: false,
            leaving: Vec::new(),
            childless: Vec::new(),
            adrift: VecDeque::new(),
            deferred: Deferred::default(),
        }
    }

    pub(crate) async fn run(mut self) {
        while self.open || self.registry.records() > 0 || self.is_waiting() {
            let went_on = match self.wait().await {
                Wake::Command(Some(command)) => self.carry_out(command).await,
                Wake::Command(None) => {
                    self.open = false;
                    Ok(())
                }
                Wake::Ended(session) => self.drop_session(session).await,
                Wake::Died(Ok(monitor)) => self.drop_monitor(monitor).await,
                Wake::Died(Err(Aborted)) => Ok(()),
                Wake::Event(Some(event)) => self.take_in(event).await,
                Wake::Event(None) => Err(HubClosed),
                Wake::Retry => {
                    self.retry();
                    Ok(())
                }
                Wake::Expire => self.expire().await,
                Wake::Idle => return,
            };
            self.gauge();
            if went_on.is_err() {
                // The hub knows why.
                let reason = self.hub.stats().await.err();
                let reason = reason.map_or_else(String::new, |closed| closed.reason);
                let records = self.registry.records();
                tracing::error!(%reason, records, "the hub is closed: no signals are sent any more");
                return;
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let retry_at = self.monitors.values().filter_map(|it| it.retry_at).min();
        let expire_at = self.next_expiry();
        let Self {
            commands,
            open,
            ended,
            deaths,
            subscription,
            ..
        } = self;
        let event = async {
            match subscription {
                Some(subscription) => subscription.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv(), if *open => Wake::Command(command),
            Some(session) = ended.recv() => Wake::Ended(session),
            Some(died) = deaths.next() => Wake::Died(died),
            event = event => Wake::Event(event),
            () = at(retry_at) => Wake::Retry,
            () = at(expire_at) => Wake::Expire,
            else => Wake::Idle,
        }
    }

    fn is_waiting(&self) -> bool {
        !self.deferred.is_empty() || self.monitors.values().any(|it| it.retry_at.is_some())
    }

    fn gauge(&self) {
        let waiting = self.monitors.values();
        let waiting: usize = waiting.map(|it| it.monitor.outbox.waiting()).sum();
        let waiting = waiting + self.deferred.signals();
        self.counters.waiting.set(waiting);
        self.counters.records.set(self.registry.records());
        self.counters.monitors.set(self.monitors.len());
        self.counters.targets.set(self.live.len());
        self.counters.remembered.set(self.memory.len());
        let (before, forgotten) = (self.counters.forgotten.get(), self.memory.forgotten());
        if forgotten > before {
            let more = forgotten - before;
            tracing::debug!(
                more,
                "no room to remember what those did who are not registered"
            );
            if before == 0 {
                tracing::warn!("monitors are told of more births than they register in time");
            }
        }
        self.counters.forgotten.store(forgotten);
        let idle = self.registry.records() == 0 && waiting == 0;
        self.idle
            .send_if_modified(|was| std::mem::replace(was, idle) != idle);
    }

    async fn carry_out(&mut self, command: Command) -> Result<(), HubClosed> {
        match command {
            Command::Register {
                monitor,
                registration,
                reply,
            } => {
                let registered = self.register(*monitor, *registration).await;
                // What was widened for it is narrowed again, if it failed.
                let settled = self.settle().await;
                self.gauge();
                // Who asked may have stopped waiting.
                let _ = reply.send(registered);
                settled
            }
            Command::Deregister {
                session,
                monitor,
                target,
                events,
                reply,
            } => {
                let known = self.by_identity.get(&monitor).copied();
                let record = known.and_then(|monitor| {
                    let place = Place { session, monitor };
                    self.registry.deregister(place, target, events)
                });
                let mut settled = Ok(());
                if let (Some((subject, gone)), Some(monitor)) = (record, known) {
                    if gone {
                        self.withdraw(monitor, |due| {
                            due.session == session && due.subject == subject
                        });
                        self.unfollow([subject]);
                        self.retire(monitor);
                    }
                    self.reconsider(subject);
                    settled = self.settle().await;
                }
                self.gauge();
                let _ = reply.send(record.is_some());
                settled
            }
        }
    }

    async fn register(
        &mut self,
        monitor: Candidate,
        registration: Registration,
    ) -> Result<(), RegisterError> {
        let session = registration.session;
        // What has happened by now is no news to who registers now. Not later than
        // this: whose last target has ended is let go of.
        self.catch_up();
        self.check_room(session)?;
        let monitor = match self.by_identity.get(&monitor.key()) {
            Some(known) => *known,
            None => self.adopt(monitor)?,
        };
        let place = Place { session, monitor };
        let held = self.held(place, &registration);
        let registered = if held.is_empty() {
            self.register_present(place, registration).await
        } else {
            self.register_held(place, held, registration).await
        };
        registered.inspect_err(|_| self.retire(monitor))
    }

    /// As the target is now.
    async fn register_present(
        &mut self,
        place: Place,
        registration: Registration,
    ) -> Result<(), RegisterError> {
        let Registration {
            target_gone,
            target,
            watch,
            real_uid,
            events,
            signal,
            ..
        } = registration;
        let watch = match watch {
            Ok(watch) => self.follow(watch, target, target_gone, events).await?,
            Err(error) if error.is_gone() && target_gone == TargetGone::Accept => Err(target.pid),
            Err(error) => return Err(RegisterError::watch(target, error)),
        };
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(pid) => {
                self.registry.register(place, Err(pid), events, signal);
                return Ok(());
            }
        };
        let key = watch.process();
        let subject = Subject::live(key);
        self.registry.register(place, Ok(key), events, signal);
        // A process that died between the watch and the subscription is told of by
        // its watch only: what the stream says of it then is under a new key.
        let exit = watch.settled().now_or_never();
        let tree = self.memory.tree(subject).unwrap_or(self.next_tree);
        self.next_tree += 1;
        let live = self.live.entry(subject).or_insert_with(|| Live {
            key,
            watch: None,
            // Once more, now that changes of it are told.
            real_uid: procfs::real_uid(ProcessRef::from(key))
                .or(real_uid)
                .unwrap_or(UID_UNKNOWN),
            followed: false,
            tree,
        });
        live.watch.get_or_insert(watch);
        // Of one that somebody else was told of, the children are followed too.
        live.followed |= events.contains(EventMask::FORK) || self.memory.contains(subject);
        if let Some(Ok(exit)) = exit {
            let at = self.memory.tick();
            self.exit(subject, exit.status, at);
        }
        Ok(())
    }

    fn check_room(&self, session: SessionId) -> Result<(), RegisterError> {
        let (max, scope) = if self.registry.records() >= RECORDS_MAX {
            (RECORDS_MAX, "in all")
        } else if self.registry.records_of(session) >= SESSION_RECORDS_MAX {
            (SESSION_RECORDS_MAX, "for one session")
        } else {
            return Ok(());
        };
        Err(RegisterError::TooMany { max, scope })
    }

    /// Subscribes to a target, or says that it is gone where that is accepted.
    async fn follow(
        &mut self,
        watch: HubWatch,
        target: ProcessRef,
        target_gone: TargetGone,
        events: EventMask,
    ) -> Result<Result<HubWatch, Pid>, RegisterError> {
        let failed = |error| RegisterError::subscribe(target, error);
        let wanted = self.registry.union() | events;
        self.listen(wanted).await.map_err(failed)?;
        let Some(subscription) = &self.subscription else {
            return Ok(Ok(watch));
        };
        let process = ProcessRef::from(watch.process());
        let known = self.live.get(&Subject::live(watch.process()));
        let forks = events.contains(EventMask::FORK);
        let added = match known {
            Some(live) if live.followed || !forks => Ok(()),
            _ if forks => subscription.add_births(process).await,
            _ => subscription.add(process).await,
        };
        match added {
            Ok(()) => Ok(Ok(watch)),
            // Its end is in the stream.
            Err(error) if error.is_gone() && known.is_some() => Ok(Ok(watch)),
            Err(error) if error.is_gone() && target_gone == TargetGone::Accept => {
                Ok(Err(target.pid))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Subscribes to these events, and to what the adapter itself must know.
    async fn listen(&mut self, events: EventMask) -> Result<(), SubscribeError> {
        let seen = self.hub.capabilities().source.events;
        let mut wanted = events | EventMask::EXIT | (EventMask::UID & seen);
        if events.contains(EventMask::FORK) || !self.memory.is_empty() {
            // Nobody knows yet what will be wanted of those who are born.
            wanted |= SEVEN & seen;
        }
        match &self.subscription {
            Some(_) if self.subscribed == wanted => {}
            Some(subscription) => subscription.set_mask(wanted).await?,
            None => {
                let nobody: [Pid; 0] = [];
                let filter = Filter::pids(nobody)
                    .events(wanted)
                    .queue_events(QUEUE_EVENTS)
                    .keep_open();
                self.subscription = Some(self.hub.subscribe(filter).await?);
            }
        }
        self.subscribed = wanted;
        Ok(())
    }

    /// Asks the hub for no more than the records need.
    async fn settle(&mut self) -> Result<(), HubClosed> {
        self.tell_ends();
        if self.live.is_empty() && self.memory.is_empty() {
            self.subscription = None;
        }
        self.part().await;
        if self.subscription.is_none() {
            return Ok(());
        }
        match self.listen(self.registry.union()).await {
            Ok(()) => Ok(()),
            Err(SubscribeError::Closed { .. }) => Err(HubClosed),
            Err(error) => {
                // Fewer events than before were asked for.
                tracing::warn!(%error, "the hub goes on with events that nobody wants");
                Ok(())
            }
        }
    }

    fn adopt(&mut self, candidate: Candidate) -> Result<MonitorId, RegisterError> {
        let key = candidate.key();
        let registered = sys::register(candidate.pidfd);
        let pidfd = Arc::new(registered.map_err(|source| RegisterError::Io {
            action: "wait for the end of the monitor",
            source,
        })?);
        let id = MonitorId(self.next_monitor);
        self.next_monitor += 1;
        let (watching, registration) = AbortHandle::new_pair();
        let death = death(Arc::clone(&pidfd), id).boxed();
        self.deaths.push(Abortable::new(death, registration));
        let told = Told {
            monitor: Monitor::new(key, pidfd, watching),
            retry_at: None,
        };
        self.monitors.insert(id, told);
        self.by_identity.insert(key, id);
        Ok(id)
    }

    /// Lets go of a monitor that nothing is to be told any more.
    fn retire(&mut self, id: MonitorId) {
        // Who may register one that it was told of is to be known again then.
        if self.registry.has_monitor(id)
            || self.memory.has_monitor(id)
            || self.deferred.has_monitor(id)
        {
            return;
        }
        if self
            .monitors
            .get(&id)
            .is_some_and(|it| it.retry_at.is_none())
        {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: MonitorId) {
        if let Some(told) = self.monitors.remove(&id) {
            self.by_identity.remove(&told.monitor.key);
            let waiting = told.monitor.outbox.waiting();
            self.counters.withdrawn.add(waiting as u64);
        }
    }

    async fn drop_monitor(&mut self, id: MonitorId) -> Result<(), HubClosed> {
        let subjects = self.registry.drop_monitor(id);
        self.memory.drop_monitor(id);
        let withdrawn = self.deferred.withdraw(|place| place.monitor == id);
        self.counters.withdrawn.add(withdrawn as u64);
        self.forget(id);
        self.unfollow(subjects);
        self.settle().await
    }

    async fn drop_session(&mut self, session: SessionId) -> Result<(), HubClosed> {
        // A registration whose caller gave up waiting may still be queued.
        while let Ok(command) = self.commands.try_recv() {
            self.carry_out(command).await?;
        }
        let (mut monitors, subjects) = self.registry.drop_session(session);
        monitors.extend(self.memory.drop_session(session));
        let withdrawn = self.deferred.withdraw(|place| place.session == session);
        self.counters.withdrawn.add(withdrawn as u64);
        let all: Vec<_> = self.monitors.keys().copied().collect();
        for monitor in all {
            // Also those whose records of this session ended with their targets.
            self.withdraw(monitor, |due| due.session == session);
        }
        for monitor in monitors {
            self.retire(monitor);
        }
        self.unfollow(subjects);
        self.settle().await
    }

    /// Takes back what waits and is not wanted any more.
    fn withdraw(&mut self, id: MonitorId, unwanted: impl Fn(&Due) -> bool) {
        let Some(told) = self.monitors.get_mut(&id) else {
            return;
        };
        let withdrawn = told.monitor.outbox.withdraw(unwanted);
        self.counters.withdrawn.add(withdrawn as u64);
        if told.monitor.outbox.waiting() == 0 {
            told.retry_at = None;
            self.retire(id);
        }
    }

    /// Unsubscribes soon from those that nobody wants to know of any more.
    fn unfollow(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        for subject in subjects {
            if self.registry.contains(subject) {
                self.reconsider(subject);
            } else if self.live.remove(&subject).is_some() && !self.memory.contains(subject) {
                self.leaving.push(subject);
            }
        }
    }
}

struct HubClosed;

/// Ends at that time, if there is one.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Ends when the monitor is dead.
async fn death(pidfd: Arc<AsyncFd<Pidfd>>, id: MonitorId) -> MonitorId {
    loop {
        match pidfd.readable().await {
            Ok(mut guard) => match guard.get_inner().readiness() {
                Ok(Readiness::Alive) => guard.clear_ready(),
                _ => return id,
            },
            // The runtime shuts down.
            Err(_) => return id,
        }
    }
}
