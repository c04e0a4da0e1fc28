//! The end of a process is told after what descends from it has done before, also
//! to one who has still to register who did it.
//!
//! A follower stops when the last process that it knows of has ended. If it were
//! told of the root's end while the births of others are due to it only when it
//! registers their parents, it would never learn of them.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use super::Task;
use super::telling::deliver;
use crate::outbox::Due;
use crate::registry::{MonitorId, Place};

/// The end of a process: what is to be told of it to one.
struct End {
    /// When it came, on the clock of the memory.
    at: u64,
    dues: Vec<Due>,
}

/// The ends that wait, by whom they are for and by tree. Each was a registration,
/// and waits while the monitor answers, so these are bounded by what it registers
/// within that time.
#[derive(Default)]
pub(super) struct Deferred {
    ends: BTreeMap<(Place, u64), VecDeque<End>>,
    /// When to look again.
    until: Option<Instant>,
}

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// How many signals that are.
    pub(super) fn signals(&self) -> usize {
        let ends = self.ends.values().flatten();
        ends.map(|end| end.dues.len()).sum()
    }

    pub(super) fn has_monitor(&self, monitor: MonitorId) -> bool {
        self.ends.keys().any(|(place, _)| place.monitor == monitor)
    }

    /// Drops those that nobody is to be told of any more; how many signals.
    pub(super) fn withdraw(&mut self, unwanted: impl Fn(Place) -> bool) -> usize {
        let before = self.signals();
        self.ends.retain(|(place, _), _| !unwanted(*place));
        before - self.signals()
    }
}

impl Task {
    /// Tells one of the end of a process, now or when it is its turn.
    pub(super) fn tell_end(&mut self, place: Place, tree: u64, at: u64, dues: Vec<Due>) {
        match self.behind(place, tree, at, Instant::now()) {
            Some(until) => {
                let first = self.deferred.until.get_or_insert(until);
                *first = until.min(*first);
                let ends = self.deferred.ends.entry((place, tree)).or_default();
                ends.push_back(End { at, dues });
            }
            None => self.deliver_all(place, dues),
        }
    }

    fn deliver_all(&mut self, place: Place, dues: Vec<Due>) {
        for due in dues {
            deliver(&mut self.monitors, &self.counters, place.monitor, due);
        }
    }

    /// Until when to wait for one to register what it was told of, if at all.
    fn behind(&self, place: Place, tree: u64, at: u64, now: Instant) -> Option<Instant> {
        let told = self.monitors.get(&place.monitor)?;
        self.memory.behind(place, tree, at, now, told.retry_at)
    }

    /// Tells the ends whose turn it is.
    pub(super) fn tell_ends(&mut self) {
        let now = Instant::now();
        self.deferred.until = None;
        let queues: Vec<_> = self.deferred.ends.keys().copied().collect();
        for (place, tree) in queues {
            while let Some(ends) = self.deferred.ends.get_mut(&(place, tree)) {
                let Some(end) = ends.front() else {
                    self.deferred.ends.remove(&(place, tree));
                    self.retire(place.monitor);
                    break;
                };
                let at = end.at;
                if let Some(until) = self.behind(place, tree, at, now) {
                    // Those after it came later: they wait for as much.
                    let first = self.deferred.until.get_or_insert(until);
                    *first = until.min(*first);
                    break;
                }
                let end = self.deferred.ends.get_mut(&(place, tree));
                if let Some(end) = end.and_then(VecDeque::pop_front) {
                    self.deliver_all(place, end.dues);
                }
            }
        }
    }
}
