//! The adapter's one task: commands, events, deaths of monitors, retries.

mod deferring;
mod following;
mod monitors;
mod registering;
mod telling;

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::{Abortable, Aborted, BoxFuture};
use futures::stream::{FuturesUnordered, StreamExt as _};
use kmonitor_event::{Event, EventMask, Pid, ProcessKey, ProcessRef};
use kmonitor_hub::{Filter, Hub, SubscribeError, Subscription, Watch as HubWatch};
use kmonitor_source::{Identity, WatchError};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::deferring::Deferred;
use crate::Signal;
use crate::adapter::TargetGone;
use crate::error::RegisterError;
use crate::memory::{LIMITS, Memory};
use crate::monitor::{Candidate, Monitor};
use crate::registry::{MonitorId, Place, Registry, SEVEN, SessionId, Subject};
use crate::stats::Counters;

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
