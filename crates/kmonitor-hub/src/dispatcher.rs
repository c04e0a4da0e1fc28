//! The one task that owns source, tracker and router.
//!
//! Everything that happens in a hub happens here, one thing after the other:
//! commands, batches of facts, deadlines. Nothing here waits for a subscriber.

use std::sync::{Arc, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kmonitor_event::{ProcessKey, Status, Timestamp};
use kmonitor_source::{
    EventSource, Fact, FactKind, KernelInterest, ProbeError, ProcessProbe, Reach, SourceError,
};
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::command::{Command, Dropped, Sweep};
use crate::patrol::Patrol;
use crate::resync::Resync;
use crate::router::Router;
use crate::scan::Scan;
use crate::stats::HubStats;
use crate::sync::Mutex;
use crate::tracker::{Cx, Now, Tracker};

/// How many facts are looked up ahead of being acted on. With thousands of
/// subscriptions each step of a delivery waits for memory; done step by step for
/// many facts, those waits overlap (`benches/`, dispatch).
const WARM_AHEAD: usize = 32;

/// How many batches are read at most before a command is carried out.
pub(super) const DRAIN_BATCHES_MAX: usize = 64;

/// How many commands are carried out together, with one change of interest.
const COMMANDS_PER_TURN: usize = 256;

/// Something of each fact that is looked up ahead.
type Few<T> = SmallVec<[T; WARM_AHEAD]>;

type Reaping = futures::future::BoxFuture<'static, (ProcessKey, Result<Status, ProbeError>)>;

pub(crate) struct Dispatcher {
    pub(super) source: Box<dyn EventSource>,
    pub(super) probe: Arc<dyn ProcessProbe>,
    pub(super) tracker: Tracker,
    pub(super) router: Router,
    pub(super) interest: KernelInterest,
    /// Whether the source has not been told of the present interest yet.
    pub(super) interest_changed: bool,
    /// Whether the tracker's table may hold processes nobody asked for by name.
    pub(super) tracked_for_host: bool,
    pub(super) must_expect_all: bool,
    pub(super) sweep: Arc<Sweep>,
    /// Looks at trees that reports may still come of. Each goes in a moment.
    pub(super) scans: Vec<Scan>,
    /// Finding out what a loss took.
    pub(super) resync: Resync,
    pub(super) patrol: Patrol,
    /// All that was reported up to then has been read, unless it was lost.
    pub(super) read_up_to: Timestamp,
    commands: mpsc::Receiver<Command>,
    ended: Arc<Mutex<Option<String>>>,
    /// Deaths whose status only the reaping will tell. Bounded by the deaths
    /// within one grace, which drops them.
    reapings: FuturesUnordered<Reaping>,
    pub(super) facts: Vec<Fact>,
    facts_taken: u64,
    status_grace: Duration,
    started: Instant,
}

/// Why the dispatcher ends.
enum End {
    /// Nobody is left to serve.
    Abandoned,
    Closed(crate::command::Reply<()>),
    Failed(SourceError),
}

impl Dispatcher {
    pub(crate) fn new(
        source: Box<dyn EventSource>,
        probe: Arc<dyn ProcessProbe>,
        tracker: Tracker,
        sweep: Arc<Sweep>,
        commands: mpsc::Receiver<Command>,
        ended: Arc<Mutex<Option<String>>>,
        status_grace: Duration,
    ) -> Self {
        Self {
            source,
            probe,
            tracker,
            router: Router::default(),
            interest: KernelInterest::new(),
            interest_changed: false,
            tracked_for_host: false,
            must_expect_all: false,
            sweep,
            scans: Vec::new(),
            resync: Resync::default(),
            patrol: Patrol::default(),
            read_up_to: Timestamp::default(),
            commands,
            ended,
            reapings: FuturesUnordered::new(),
            facts: Vec::new(),
            facts_taken: 0,
            status_grace,
            started: Instant::now(),
        }
    }

    /// Serves until nobody is left, a handle closes the hub, or the source fails.
    pub(crate) async fn run(mut self) {
        let end = self.serve().await;
        let mut facts = Vec::new();
        if let Err(error) = self.source.close(&mut facts) {
            tracing::debug!(%error, "closing the source");
        }
        // Whatever was queued when the end came still counts.
        self.facts.append(&mut facts);
        self.take_in();
        self.look_at_the_end();
        self.track(Tracker::settle_all);
        let reason = match &end {
            End::Abandoned | End::Closed(_) => "it was closed".to_owned(),
            End::Failed(SourceError::Ended) => SourceError::Ended.to_string(),
            End::Failed(error) => {
                let reason = chain(error);
                tracing::error!(%reason, "the hub's source failed");
                reason
            }
        };
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
        self.router.close(&reason);
        if let End::Closed(reply) = end {
            // Who asked may have stopped waiting; the hub is closed all the same.
            let _ = reply.send(());
        }
    }

    async fn serve(&mut self) -> End {
        let mut commands = Vec::with_capacity(COMMANDS_PER_TURN);
        let sweep = Arc::clone(&self.sweep);
        loop {
            let listening = !self.interest.is_empty();
            let deadline = self.tracker.next_deadline();
            let looks = self.resync.next_look().into_iter();
            let patrol = self.patrol.next_look();
            let looks = looks.chain(patrol.filter(|_| !self.tracker.is_empty()));
            let deadline = deadline.into_iter().chain(looks).min();
            let deadline = deadline.and_then(|at| self.started.checked_add(at));
            let turn = tokio::select! {
                biased;
                count = self.commands.recv_many(&mut commands, COMMANDS_PER_TURN) => {
                    if count == 0 {
                        return End::Abandoned;
                    }
                    self.carry_out(&mut commands).await
                }
                () = sweep.notified() => {
                    self.sweep_up();
                    Ok(())
                }
                // Before the source, which may always have more.
                Some((key, told)) = self.reapings.next(), if !self.reapings.is_empty() => {
                    self.reaping_told(key, told);
                    Ok(())
                }
                read = read(
                    &mut self.source,
                    &mut self.facts,
                    &*self.probe,
                    &mut self.read_up_to,
                ), if listening => read,
                () = tokio::time::sleep_until(deadline.unwrap_or(self.started)),
                    if deadline.is_some() => Ok(()),
                () = tokio::task::yield_now(), if self.tracker.needs_recheck() => Ok(()),
            };
            // Whoever keeps sending commands must not keep this from being done.
            self.sweep_up();
            let has_read = !self.facts.is_empty();
            self.take_in();
            self.track(Tracker::expire);
            let turn = match turn {
                Ok(()) => self.look_around().await,
                stop => stop,
            };
            self.follow_up();
            if has_read {
                // A source may always have more, and to ask the kernel for less is not
                // urgent: whom that woke, and others on this runtime, come first.
                tokio::task::yield_now().await;
            }
            let settled = if self.commands.is_empty() {
                self.settle_interest().await
            } else {
                // Those may want it back; and they come with a change of interest anyway.
                Ok(())
            };
            match turn {
                Ok(()) => {}
                Err(Stop::Closed(reply)) => return End::Closed(reply),
                Err(Stop::Failed(error)) => return End::Failed(error),
            }
            if let Err(error) = settled {
                tracing::warn!(error = %chain(&error), "failed to narrow the source's interest");
            }
        }
    }

    /// Calls the tracker with what comes with every call.
    pub(super) fn track<R>(
        &mut self,
        call: impl FnOnce(&mut Tracker, &mut Cx<'_, Router>) -> R,
    ) -> R {
        let mut cx = Cx {
            now: now(self.started, &*self.probe),
            probe: &*self.probe,
            sink: &mut self.router,
        };
        call(&mut self.tracker, &mut cx)
    }

    /// Turns the facts that were read into events, and those into deliveries.
    pub(super) fn take_in(&mut self) {
        if self.facts.is_empty() {
            return;
        }
        self.facts_taken += self.facts.len() as u64;
        let mut cx = Cx {
            now: now(self.started, &*self.probe),
            probe: &*self.probe,
            sink: &mut self.router,
        };
        for facts in self.facts.chunks(WARM_AHEAD) {
            warm(facts, &self.tracker, cx.sink);
            for fact in facts {
                if matches!(fact.kind, FactKind::Lost { .. }) {
                    self.resync.note_loss(self.read_up_to, fact.time);
                } else {
                    self.read_up_to = self.read_up_to.max(fact.time);
                }
                for scan in &mut self.scans {
                    scan.inspect(fact, &self.tracker, cx.sink);
                }
                self.tracker.fact(fact, &mut cx);
            }
        }
        self.facts.clear();
        self.tell_scans(None);
    }

    /// Looks at the system, as far as that is due.
    async fn look_around(&mut self) -> Result<(), Stop> {
        self.resync().await?;
        self.patrol().await
    }

    /// What the work of this turn calls for.
    pub(super) fn follow_up(&mut self) {
        let reapings = self.router.take_reapings();
        // A source of named processes tells of their reaping itself.
        let told = self.source.capabilities().reach == Reach::Named;
        for (key, identity) in reapings.into_iter().filter(|_| !told) {
            let reaped = self.probe.reaped(key.pid(), identity);
            let grace = self.status_grace;
            self.reapings.push(Box::pin(async move {
                // The tracker gives up at the same time.
                match tokio::time::timeout(grace, reaped).await {
                    Ok(told) => (key, told),
                    Err(_) => (key, Ok(Status::Pending)),
                }
            }));
        }
        let orphaned = self.router.take_orphaned();
        let narrower = !orphaned.is_empty();
        for key in orphaned {
            if !self.router.routes_to(key) {
                self.tracker.forget(key);
                self.interest.forget(key);
                self.interest_changed = true;
            }
        }
        if narrower {
            // The last of a tree may have gone.
            self.broaden();
        }
        self.router.wake();
    }

    fn reaping_told(&mut self, key: ProcessKey, told: Result<Status, ProbeError>) {
        match told {
            Ok(status @ Status::Known { .. }) => {
                self.track(|tracker, cx| tracker.reaping_told(key, status, cx));
            }
            // The reports or the deadline will have to do.
            Ok(_) => {}
            Err(error) => tracing::debug!(%key, %error, "waiting for a reaping"),
        }
    }

    fn sweep_up(&mut self) {
        let dropped = self.sweep.take();
        if dropped.is_empty() {
            return;
        }
        for dropped in dropped {
            match dropped {
                Dropped::Subscription(id) => self.router.remove(id),
                Dropped::Watch(key, latch) => self.router.remove_watch(key, &latch),
            }
        }
        self.broaden();
    }

    /// Reads until the kernel's queue is empty, so that the tracker knows what
    /// had happened when this was called. Whether it came to be empty.
    pub(super) async fn drain(&mut self) -> Result<bool, Stop> {
        if self.interest.is_empty() && !self.interest_changed {
            return Ok(true);
        }
        for _ in 0..DRAIN_BATCHES_MAX {
            let now = self.probe.now();
            let source = &mut self.source;
            let facts = &mut self.facts;
            let look = std::future::poll_fn(|cx| Poll::Ready(source.poll_batch(cx, facts)));
            // A spent budget would pass for an empty queue.
            let poll = tokio::task::unconstrained(look).await;
            self.take_in();
            match poll {
                Poll::Pending => {
                    self.read_up_to = self.read_up_to.max(now);
                    self.tell_scans(Some(now));
                    return Ok(true);
                }
                Poll::Ready(read) => read.map_err(Stop::Failed)?,
            }
        }
        Ok(false)
    }

    /// The time on the clock of deadlines.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn stats(&self) -> HubStats {
        let counts = self.router.counts;
        HubStats {
            facts: self.facts_taken,
            events: counts.events,
            delivered: counts.delivered,
            lost_by_subscriptions: counts.lost_by_subscriptions,
            lost_by_kernel: counts.lost_by_kernel,
            losses_uncounted: counts.losses_uncounted,
            resyncs: self.resync.begun(),
            looks: self.resync.looks(),
            births_inferred: self.tracker.concluded().births,
            deaths_inferred: self.tracker.concluded().deaths,
            subscriptions: self.router.subscription_count(),
            watches: self.router.watch_count(),
            tracked: self.tracker.len(),
            held: self.tracker.holds(),
            // Also until the kernel knows that nothing is wanted any more.
            listening: !self.interest.is_empty() || self.interest_changed,
            source: self.source.stats(),
        }
    }
}

/// However the dispatcher ends (a source that panics, a runtime that is shut
/// down), nobody waits for it for ever.
impl Drop for Dispatcher {
    fn drop(&mut self) {
        let reason = self
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| "its task was stopped".to_owned())
            .clone();
        self.router.close(&reason);
    }
}

/// What ends a turn and the dispatcher with it.
pub(super) enum Stop {
    Closed(crate::command::Reply<()>),
    Failed(SourceError),
}

/// Brings what a few facts need into the cache. Has no other effect.
///
/// One step for all facts after the other, and each step as short as it can be:
/// so many loads are under way at a time as the processor can keep in mind.
fn warm(facts: &[Fact], tracker: &Tracker, router: &Router) {
    let mut pids = Few::default();
    pids.extend(facts.iter().filter_map(|fact| fact.kind.process()));
    tracker.warm_pids(&pids);
    let mut places = Few::default();
    places.extend(pids.iter().filter_map(|pid| tracker.place(*pid)));
    let mut hints = Few::default();
    hints.extend(places.iter().filter_map(|place| tracker.hint(*place)));
    let mut queues = Few::default();
    queues.extend(hints.iter().filter_map(|hint| router.hinted_queue(*hint)));
    for queue in queues {
        queue.warm();
    }
}

fn now(started: Instant, probe: &dyn ProcessProbe) -> Now {
    Now {
        elapsed: started.elapsed(),
        stamp: probe.now(),
    }
}

async fn read(
    source: &mut Box<dyn EventSource>,
    facts: &mut Vec<Fact>,
    probe: &dyn ProcessProbe,
    read_up_to: &mut Timestamp,
) -> Result<(), Stop> {
    let read = std::future::poll_fn(|cx| {
        ready!(source.poll_due(cx));
        let now = probe.now();
        let poll = source.poll_batch(cx, facts);
        if poll.is_pending() {
            *read_up_to = (*read_up_to).max(now);
        }
        poll
    });
    read.await.map_err(Stop::Failed)
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
