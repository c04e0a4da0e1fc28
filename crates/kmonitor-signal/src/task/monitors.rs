//! Those who are told: from their first record to their last signal.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{AbortHandle, Abortable};
use kmonitor_pidfd::{Pidfd, Readiness};
use tokio::io::unix::AsyncFd;

use super::{HubClosed, Task, Told};
use crate::error::RegisterError;
use crate::monitor::{Candidate, Monitor};
use crate::outbox::Due;
use crate::registry::{MonitorId, SessionId};
use crate::sys;

impl Task {
    pub(super) fn adopt(&mut self, candidate: Candidate) -> Result<MonitorId, RegisterError> {
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
    pub(super) fn retire(&mut self, id: MonitorId) {
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

    pub(super) async fn drop_monitor(&mut self, id: MonitorId) -> Result<(), HubClosed> {
        let subjects = self.registry.drop_monitor(id);
        self.memory.drop_monitor(id);
        let withdrawn = self.deferred.withdraw(|place| place.monitor == id);
        self.counters.withdrawn.add(withdrawn as u64);
        self.forget(id);
        self.unfollow(subjects);
        self.settle().await
    }

    pub(super) async fn drop_session(&mut self, session: SessionId) -> Result<(), HubClosed> {
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
    pub(super) fn withdraw(&mut self, id: MonitorId, unwanted: impl Fn(&Due) -> bool) {
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
