//! From an event to the signals of those who want to know.

use std::os::unix::process::ExitStatusExt as _;

use futures::FutureExt as _;
use kmonitor_event::{Event, EventKind, EventMask, LossOrigin, Lost, Status};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::{HubClosed, QUEUE_EVENTS, Task, Told};
use crate::outbox::{Due, Pushed};
use crate::registry::{MonitorId, Place, Subject};
use crate::stats::Counters;

/// After so many events the others have their turn.
const EVENTS_PER_TURN: usize = 256;

impl Task {
    /// An event, and those that came with it.
    pub(super) async fn take_in(&mut self, event: Event) -> Result<(), HubClosed> {
        self.event(&event);
        for _ in 1..EVENTS_PER_TURN {
            match self.next_now() {
                Some(Some(event)) => self.event(&event),
                Some(None) => return Err(HubClosed),
                // Only now: what is queued tells of the same ends, in order.
                None if self.recheck => self.recheck(),
                None => break,
            }
        }
        self.settle().await
    }

    /// An event that is there already; nothing if there is none, and `None` at
    /// the end of the stream.
    fn next_now(&mut self) -> Option<Option<Event>> {
        self.subscription.as_mut()?.next().now_or_never()
    }

    fn event(&mut self, event: &Event) {
        if let EventKind::Lost(lost) = event.kind {
            self.lost(lost);
            return;
        }
        let Some(process) = event.process else {
            return;
        };
        let at = self.memory.tick();
        let subject = Subject::live(process);
        let pid = process.pid().as_raw();
        match event.kind {
            EventKind::Fork { child } => self.born(subject, child),
            EventKind::ThreadCreate { tid } => {
                self.happened(subject, EventMask::THREAD_CREATE, tid.as_raw());
            }
            EventKind::Exec => self.happened(subject, EventMask::EXEC, pid),
            EventKind::ThreadExit { tid, status } => {
                if status.signal().is_some() {
                    self.happened(subject, EventMask::THREAD_ABORT, tid.as_raw());
                }
                self.happened(subject, EventMask::THREAD_EXIT, tid.as_raw());
            }
            EventKind::Exit(status) => {
                self.exit(subject, status, at);
                // Nothing follows, so it has left by itself.
                return;
            }
            EventKind::Uid { tid, real, .. } if tid.is_leader_of(process.pid()) => {
                if let Some(live) = self.live.get_mut(&subject) {
                    live.real_uid = real;
                }
                self.memory.set_uid(subject, real);
            }
            _ => {}
        }
        if self.is_stranger(subject) {
            self.leaving.push(subject);
        }
    }

    /// To be told to those who registered it, and kept for those who will.
    fn happened(&mut self, subject: Subject, event: EventMask, pid: i32) {
        self.tell(subject, event, pid);
        self.memory.note(subject, event, pid);
    }

    /// A process ended, at that event.
    pub(super) fn exit(&mut self, subject: Subject, status: Status, at: u64) {
        self.memory.end(subject, status);
        let Some(live) = self.live.remove(&subject) else {
            return;
        };
        let aborted = status.known().is_some_and(|it| it.signal().is_some());
        let records = self.registry.end(subject);
        for record in &records {
            let events = [EventMask::ABORT, EventMask::EXIT].into_iter();
            let events = events.filter(|it| record.events.contains(*it));
            let dues = events.filter(|it| aborted || *it != EventMask::ABORT);
            let dues = dues.map(|event| Due {
                session: record.place.session,
                subject,
                pid: live.key.pid().as_raw(),
                uid: live.real_uid,
                event,
                signal: record.signal,
            });
            self.tell_end(record.place, live.tree, at, dues.collect());
        }
        // Only now: some are told twice, for two sessions.
        for record in records {
            self.retire(record.place.monitor);
        }
    }

    /// Takes in what is there already: what the adapter has taken of the queue, and
    /// what has come since.
    pub(super) fn catch_up(&mut self) {
        for _ in 0..2 * QUEUE_EVENTS.get() {
            let Some(Some(event)) = self.next_now() else {
                return;
            };
            self.event(&event);
        }
    }

    /// Tells all who want to know. A child and a thread have their creator's uid.
    /// Who was told, if it is of a birth.
    pub(super) fn tell(&mut self, subject: Subject, event: EventMask, pid: i32) -> Vec<Place> {
        let mut births_told = Vec::new();
        let Some(live) = self.live.get(&subject) else {
            return births_told;
        };
        for record in self.registry.records_about(subject) {
            if !record.events.contains(event) {
                continue;
            }
            let due = Due {
                session: record.place.session,
                subject,
                pid,
                uid: live.real_uid,
                event,
                signal: record.signal,
            };
            let told = deliver(
                &mut self.monitors,
                &self.counters,
                record.place.monitor,
                due,
            );
            if told && event == EventMask::FORK {
                births_told.push(record.place);
            }
        }
        births_told
    }

    /// Tries what waits, where it is time.
    pub(super) fn retry(&mut self) {
        let now = Instant::now();
        let mut done = Vec::new();
        for (id, told) in &mut self.monitors {
            if told.retry_at.is_none_or(|at| at > now) {
                continue;
            }
            let (taken, refused) = told.monitor.flush();
            self.counters.sent.add(taken);
            self.counters.refused.add(refused);
            if told.monitor.outbox.waiting() > 0 {
                told.retry_at = Some(now + told.monitor.outbox.pause());
                continue;
            }
            let dropped = std::mem::take(&mut told.monitor.dropped);
            let pid = told.monitor.key.0;
            tracing::info!(%pid, dropped, "a monitor's signal queue has room again");
            told.retry_at = None;
            done.push(*id);
        }
        for id in done {
            self.retire(id);
        }
    }

    fn lost(&mut self, lost: Lost) {
        tracing::warn!(%lost, "events were lost: monitors are not told of them");
        match (lost.origin, lost.count) {
            (LossOrigin::Subscription, count) => {
                self.counters.lost_by_adapter.add(count.unwrap_or(1));
                self.recheck = true;
            }
            (_, Some(count)) => self.counters.lost_by_kernel.add(count),
            (_, None) => self.counters.losses_uncounted.add(1),
        }
    }

    /// Tells of the ends that the stream lost.
    fn recheck(&mut self) {
        self.recheck = false;
        let mut ended = Vec::new();
        for (subject, live) in &mut self.live {
            if let Some(watch) = &mut live.watch
                && let Some(Ok(exit)) = watch.settled().now_or_never()
            {
                ended.push((*subject, exit.status));
            }
        }
        // The hub queues an exit before it settles the watch: what has been
        // queued since the last look may tell of these, in order.
        self.catch_up();
        let at = self.memory.tick();
        for (subject, status) in ended {
            self.exit(subject, status, at);
        }
    }
}

/// Sends one signal, now or as soon as there is room. Whether it will arrive, as
/// far as that is up to us.
pub(super) fn deliver(
    monitors: &mut FxHashMap<MonitorId, Told>,
    counters: &Counters,
    monitor: MonitorId,
    due: Due,
) -> bool {
    let Some(told) = monitors.get_mut(&monitor) else {
        return false;
    };
    match told.monitor.push(due) {
        Pushed::Taken => {
            counters.sent.add(1);
            true
        }
        Pushed::Refused => {
            counters.refused.add(1);
            false
        }
        Pushed::Waits => {
            if told.retry_at.is_none() {
                let pid = told.monitor.key.0;
                tracing::warn!(%pid, "a monitor's signal queue is full: signals wait");
                told.retry_at = Some(Instant::now() + told.monitor.outbox.pause());
            }
            true
        }
        Pushed::Dropped => {
            counters.dropped.add(1);
            told.monitor.dropped += 1;
            if told.monitor.dropped == 1 {
                let pid = told.monitor.key.0;
                tracing::warn!(%pid, "a monitor does not take its signals: dropping");
            }
            false
        }
    }
}
