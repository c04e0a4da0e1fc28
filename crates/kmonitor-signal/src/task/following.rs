//! Those who register what they are told is born, and get its story from birth.
//!
//! While somebody wants the forks of a process, the subscription has all that
//! descends from it from then on, so that nothing of them is missed; `memory` says
//! of whom that is needed still, and the others leave.

use std::time::Duration;

use kmonitor_event::{EventMask, ProcessKey, Status, UnknownReason};
use kmonitor_hub::Watch as HubWatch;
use kmonitor_source::{ProbeError, WatchError};
use tokio::time::Instant;

use super::telling::deliver;
use super::{HubClosed, Live, Registration, Task};
use crate::error::RegisterError;
use crate::outbox::Due;
use crate::registry::{Place, Record, Subject};

/// How long the end of a process may take to be told that has gone: longer than a
/// hub waits for a status.
const ADRIFT_MAX: Duration = Duration::from_secs(10);

impl Task {
    /// A process was born.
    pub(super) fn born(&mut self, parent: Subject, child: ProcessKey) {
        let pid = child.pid().as_raw();
        let born = Subject::live(child);
        let mut told = self.tell(parent, EventMask::FORK, pid);
        // Who registered it by its number before is told of it as it is.
        told.retain(|place| !self.registry.has_record(*place, born));
        let uid = self.live.get(&parent).map(|live| live.real_uid);
        let uid = uid.or_else(|| self.memory.uid(parent));
        let uid = uid.unwrap_or(super::UID_UNKNOWN);
        let tree = self.live.get(&parent).map(|live| live.tree);
        let tree = tree
            .or_else(|| self.memory.tree(parent))
            .unwrap_or_default();
        let told_at = Instant::now();
        let kept = self.memory.born(parent, born, (uid, tree), &told, told_at);
        if let Some(live) = self.live.get_mut(&born) {
            live.tree = tree;
            // The hub follows it, as it follows its parent.
            live.followed = true;
            self.reconsider(born);
        } else if !kept {
            self.leaving.push(born);
        }
    }

    /// Something happened to a process that no table has: it descends from one that
    /// was followed, and has not left yet.
    pub(super) fn is_stranger(&self, subject: Subject) -> bool {
        !self.live.contains_key(&subject) && !self.memory.contains(subject)
    }

    /// The processes that a monitor means that registers one it was told of.
    ///
    /// Of several that had the pid in turn, all: it will register each that it was
    /// told of, and these cannot be told apart by their pid. Where the inode is
    /// given too, there is one at most.
    pub(super) fn held(&self, place: Place, registration: &Registration) -> Vec<Subject> {
        let target = registration.target;
        let mut held = self.memory.held(place, target.pid);
        if target.inode.is_some() {
            let watched = registration.watch.as_ref().ok();
            let watched = watched.map(|watch| Subject::live(watch.process()));
            held.retain(|subject| Some(*subject) == watched);
        }
        held
    }

    /// Registers processes that the monitor was told of, and tells it what they
    /// have done since they were born.
    pub(super) async fn register_held(
        &mut self,
        place: Place,
        held: Vec<Subject>,
        registration: Registration,
    ) -> Result<(), RegisterError> {
        let Registration {
            target,
            watch,
            events,
            signal,
            ..
        } = registration;
        let watch = match watch {
            Ok(watch) => Some(watch),
            Err(error) if is_elsewhere(&error) => None,
            Err(error) if held.iter().all(|it| self.memory.has_ended(*it)) => {
                tracing::debug!(%target, %error, "it has ended all the same");
                None
            }
            Err(error) => return Err(RegisterError::watch(target, error)),
        };
        let wanted = self.registry.union() | events;
        let listens = self.listen(wanted).await;
        listens.map_err(|error| RegisterError::subscribe(target, error))?;
        let mut watch = watch;
        for subject in held {
            let its_own = watch.take_if(|it| Subject::live(it.process()) == subject);
            let record = Record {
                place,
                events,
                signal,
            };
            self.register_one(subject, record, its_own);
        }
        Ok(())
    }

    fn register_one(&mut self, subject: Subject, record: Record, watch: Option<HubWatch>) {
        let Record {
            place,
            events,
            signal,
        } = record;
        let watched = watch.as_ref().map(HubWatch::process);
        let Some(key) = watched.or_else(|| subject.key()) else {
            return;
        };
        let Some(story) = self.memory.claim(place, subject, Instant::now()) else {
            return;
        };
        self.registry.register(place, Ok(key), events, signal);
        if watch.is_none() && story.ended.is_none() {
            // It has gone, and the stream will say how.
            let until = Instant::now() + ADRIFT_MAX;
            self.adrift.push_back((until, subject));
        }
        let live = self.live.entry(subject).or_insert(Live {
            key,
            watch: None,
            real_uid: story.uid,
            followed: true,
            tree: story.tree,
        });
        live.watch = live.watch.take().or(watch);
        for past in story.events.iter().filter(|it| events.contains(it.event)) {
            let due = Due {
                session: place.session,
                subject,
                pid: past.pid,
                uid: past.uid,
                event: past.event,
                signal,
            };
            let told = deliver(&mut self.monitors, &self.counters, place.monitor, due);
            if let Some(child) = past.child
                && told
                && !self.registry.has_record(place, child)
            {
                self.memory.hold(place, child, Instant::now());
            }
        }
        self.memory.release(subject);
        if let Some((status, at)) = story.ended {
            self.exit(subject, status, at);
        }
    }

    /// Ends what was waited for in vain.
    pub(super) async fn expire(&mut self) -> Result<(), HubClosed> {
        let now = Instant::now();
        let monitors = &self.monitors;
        let losers = self.memory.expire(now, |id| {
            let told = monitors.get(&id);
            told.is_some_and(|it| it.retry_at.is_some())
        });
        for monitor in losers {
            self.retire(monitor);
        }
        while let Some((until, subject)) = self.adrift.front().copied()
            && until <= now
        {
            self.adrift.pop_front();
            if self.live.get(&subject).is_some_and(|it| it.watch.is_none()) {
                let at = self.memory.tick();
                self.exit(subject, Status::Unknown(UnknownReason::EventLost), at);
            }
        }
        self.settle().await
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let adrift = self.adrift.front().map(|(until, _)| *until);
        let deferred = self.deferred.until();
        let all = [self.memory.next_expiry(), adrift, deferred];
        all.into_iter().flatten().min()
    }

    /// Lets the children of a process go where nobody wants to know of them.
    pub(super) fn reconsider(&mut self, subject: Subject) {
        if self.registry.is_wanted(subject, EventMask::FORK) || self.memory.contains(subject) {
            return;
        }
        if let Some(live) = self.live.get_mut(&subject)
            && std::mem::take(&mut live.followed)
        {
            self.childless.push(subject);
        }
    }

    /// Takes those out of the subscription that nobody wants to know of any more.
    pub(super) async fn part(&mut self) {
        for subject in self.memory.take_dropped() {
            if self.live.contains_key(&subject) {
                self.reconsider(subject);
            } else {
                self.leaving.push(subject);
            }
        }
        let leaving = std::mem::take(&mut self.leaving);
        let childless = std::mem::take(&mut self.childless);
        let Some(subscription) = &self.subscription else {
            return;
        };
        // Some may have been registered again since.
        let leaving: Vec<_> = leaving
            .into_iter()
            .filter(|it| self.is_stranger(*it))
            .filter_map(Subject::key)
            .collect();
        let childless: Vec<_> = childless
            .into_iter()
            .filter(|it| self.live.get(it).is_some_and(|live| !live.followed))
            .filter_map(Subject::key)
            .collect();
        // Fails only where the hub is closed, which shows soon enough.
        if !leaving.is_empty() {
            let _ = subscription.leave(leaving).await;
        }
        if !childless.is_empty() {
            let _ = subscription.ignore_births(childless).await;
        }
    }
}

/// Whether the number is nobody's now, or another's, or a thread's.
fn is_elsewhere(error: &WatchError) -> bool {
    error.is_gone() || matches!(error, WatchError::Probe(ProbeError::Thread { .. }))
}
