//! From an event to the signals of those who want to know.

use std::os::unix::process::ExitStatusExt as _;

use futures::FutureExt as _;
use kmonitor_event::{Event, EventKind, EventMask, LossOrigin, Lost, Status};
use tokio::time::Instant;

use super::{HubClosed, Task};
use crate::outbox::{Due, Pushed};
use crate::registry::Subject;

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
        let subject = Subject::live(process);
        let pid = process.pid().as_raw();
        match event.kind {
            EventKind::Fork { child } => {
                self.tell(subject, EventMask::FORK, child.pid().as_raw());
            }
            EventKind::ThreadCreate { tid } => {
                self.tell(subject, EventMask::THREAD_CREATE, tid.as_raw());
            }
            EventKind::Exec => self.tell(subject, EventMask::EXEC, pid),
            EventKind::ThreadExit { tid, status } => {
                if status.signal().is_some() {
                    self.tell(subject, EventMask::THREAD_ABORT, tid.as_raw());
                }
                self.tell(subject, EventMask::THREAD_EXIT, tid.as_raw());
            }
            EventKind::Exit(status) => self.exit(subject, status),
            EventKind::Uid { tid, real, .. } if tid.is_leader_of(process.pid()) => {
                if let Some(live) = self.live.get_mut(&subject) {
                    live.real_uid = real;
                }
            }
            _ => {}
        }
    }

    pub(super) fn exit(&mut self, subject: Subject, status: Status) {
        let Some(live) = self.live.get(&subject) else {
            return;
        };
        let pid = live.process.pid.as_raw();
        let signal = status.known().and_then(|status| status.signal());
        if signal.is_some() {
            self.tell(subject, EventMask::ABORT, pid);
        }
        self.tell(subject, EventMask::EXIT, pid);
        self.live.remove(&subject);
        for record in self.registry.end(subject) {
            self.retire(record.monitor);
        }
    }

    /// Tells all who want to know. A child and a thread have their creator's uid.
    fn tell(&mut self, subject: Subject, event: EventMask, pid: i32) {
        let Some(live) = self.live.get(&subject) else {
            return;
        };
        for record in self.registry.records_about(subject) {
            if !record.events.contains(event) {
                continue;
            }
            let Some(told) = self.monitors.get_mut(&record.monitor) else {
                continue;
            };
            let due = Due {
                session: record.session,
                subject,
                pid,
                uid: live.real_uid,
                event,
                signal: record.signal,
            };
            match told.monitor.push(due) {
                Pushed::Taken => self.counters.sent.add(1),
                Pushed::Refused => self.counters.refused.add(1),
                Pushed::Waits => {
                    if told.retry_at.is_none() {
                        let pid = told.monitor.key.0;
                        tracing::warn!(%pid, "a monitor's signal queue is full: signals wait");
                        told.retry_at = Some(Instant::now() + told.monitor.outbox.pause());
                    }
                }
                Pushed::Dropped => {
                    self.counters.dropped.add(1);
                    told.monitor.dropped += 1;
                    if told.monitor.dropped == 1 {
                        let pid = told.monitor.key.0;
                        tracing::warn!(%pid, "a monitor does not take its signals: dropping");
                    }
                }
            }
        }
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
            if let Some(Ok(exit)) = live.watch.settled().now_or_never() {
                ended.push((*subject, exit.status));
            }
        }
        // The hub queues an exit before it settles the watch: what has been
        // queued since the last look may tell of these, in order.
        while let Some(Some(event)) = self.next_now() {
            self.event(&event);
        }
        for (subject, status) in ended {
            self.exit(subject, status);
        }
    }
}
