//! Finding out what a loss of the kernel's took: see ARCHITECTURE.md, "How a loss is
//! made good".

use std::time::Duration;

use kmonitor_event::{Pid, Timestamp};
use kmonitor_source::ProcessEntry;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::dispatcher::{Dispatcher, Stop};
use crate::router::SubscriptionId;
use crate::tracker::REPORT_DELAY_MAX;

/// How many tracked processes are looked at between two reads. At some 6 µs each, the
/// kernel's queue goes unread for a millisecond and a half at most.
const RECHECK_SLICE: usize = 256;

/// How often the process table is read at most because of losses that follow each
/// other. After that the resync ends as incomplete, and the next loss begins another.
const LOOKS_MAX: usize = 8;

/// The least time between two looks, so that losses without end do not make us look
/// without end.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);

/// And so many times the time that the last one took: looking takes a fifth of the
/// dispatcher's time at most, and makes no loss worse.
const LOOK_PAUSE_FACTOR: u32 = 4;

/// How often the queue is read to its end in vain, before the look is taken all the
/// same. Reports that are still queued then may be taken for those of other owners of
/// their pids, so such a look proves nothing.
const DRAINS_MAX: usize = 16;

/// How far before the last report that was read a loss may reach, so that those born since
/// are looked for. Of a message that was never sent it shows only by the next of the same
/// processor.
const LOOK_BACK_MAX: Duration = Duration::from_secs(1);

/// How far finding out has come.
#[derive(Debug, Default)]
pub(crate) struct Resync {
    now: Option<Underway>,
    /// When the next look may be taken, on the clock of deadlines.
    next_look_at: Duration,
    begun: u64,
    looks: u64,
}

#[derive(Debug)]
struct Underway {
    /// All that was reported up to then had been read when the first loss came.
    since: Timestamp,
    /// Whether nothing was lost before that.
    is_bounded: bool,
    look_due: bool,
    looks: usize,
    drains: usize,
}

impl Resync {
    /// The source has told a loss. `read_up_to`: what was reported up to then has been
    /// read. `lost_after`: nothing was lost before.
    pub(crate) fn note_loss(&mut self, read_up_to: Timestamp, lost_after: Timestamp) {
        let earliest = read_up_to.saturating_sub(LOOK_BACK_MAX);
        let since = read_up_to.min(lost_after).max(earliest);
        let begun = &mut self.begun;
        let now = self.now.get_or_insert_with(|| {
            *begun += 1;
            Underway {
                since,
                is_bounded: true,
                look_due: true,
                looks: 0,
                drains: 0,
            }
        });
        now.since = now.since.min(since);
        now.is_bounded &= lost_after >= earliest;
        now.look_due = now.looks < LOOKS_MAX;
        now.drains = 0;
    }

    /// When a look must be taken, if one must.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        self.is_look_due().then_some(self.next_look_at)
    }

    fn is_look_due(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.look_due)
    }

    /// How many there were.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// How many looks there were.
    pub(crate) fn looks(&self) -> u64 {
        self.looks
    }
}

impl Dispatcher {
    /// Goes on with finding out what a loss took, for a slice of time.
    pub(super) async fn resync(&mut self) -> Result<(), Stop> {
        if self.resync.is_look_due() && !self.router.follows_anybody() {
            // Nobody wants to know of births.
            self.drain().await?;
            self.looked();
        }
        if self.resync.is_look_due() && self.resync.next_look_at <= self.elapsed() {
            let drained = self.drain().await?;
            let tries = self.resync.now.as_mut().map_or(0, |now| {
                now.drains += 1;
                now.drains
            });
            if drained || tries >= DRAINS_MAX {
                let began = self.elapsed();
                self.look(drained);
                let ended = self.elapsed();
                let pause = ended
                    .saturating_sub(began)
                    .saturating_mul(LOOK_PAUSE_FACTOR);
                self.resync.next_look_at = ended.saturating_add(pause.max(LOOK_PAUSE_MIN));
            }
        }
        let looked = !self.resync.is_look_due();
        if looked {
            self.tracker.caught_up();
        }
        self.track(|tracker, cx| tracker.recheck(RECHECK_SLICE, looked, cx));
        let over = self.resync.now.is_some() && looked && !self.tracker.needs_recheck();
        if over && self.tracker.has_settled_concluded() {
            // Whether more was lost meanwhile, the reading tells.
            self.drain().await?;
            if self.resync.is_look_due() || self.tracker.look_at_zombies() {
                return Ok(());
            }
            let is_bounded = self.resync.now.take().is_some_and(|now| now.is_bounded);
            let all_told = !self.tracker.take_birth_untold() && is_bounded;
            let (time, complete) = (self.probe.now(), all_told && !self.tracker.has_unseen());
            self.router.end_resync(time, complete);
        }
        Ok(())
    }

    /// Nothing more will be read: whoever is in doubt is looked at now or never.
    pub(super) fn look_at_the_end(&mut self) {
        let in_doubt = self.tracker.look_again();
        if self.resync.now.is_none() && !in_doubt {
            return;
        }
        self.looked();
        self.track(|tracker, cx| tracker.recheck(usize::MAX, true, cx));
        if self.tracker.look_at_zombies() {
            self.track(|tracker, cx| tracker.recheck(usize::MAX, true, cx));
        }
    }

    /// No look is due any more.
    fn looked(&mut self) {
        if let Some(now) = &mut self.resync.now {
            now.look_due = false;
        }
        self.tracker.caught_up();
    }

    /// Reads the process table and takes up whom it shows that nobody was told of.
    fn look(&mut self, drained: bool) {
        self.looked();
        let Some(now) = &mut self.resync.now else {
            return;
        };
        now.looks += 1;
        self.resync.looks += 1;
        let since = now.since;
        let mut listed = Vec::new();
        if let Err(error) = self.probe.processes(&mut listed) {
            tracing::warn!(%error, "births within a loss could not be looked for");
            return;
        }
        // Before the last report that came through somebody may have been born whose report
        // was lost.
        let born_since = since.saturating_sub(REPORT_DELAY_MAX);
        let young = |entry: &&ProcessEntry| entry.started.is_none_or(|born| born >= born_since);
        let (dead, living): (Vec<&ProcessEntry>, Vec<&ProcessEntry>) =
            listed.iter().filter(young).partition(|entry| entry.dead);
        for entry in dead {
            self.track(|tracker, cx| tracker.found_dead(entry, cx));
        }
        let young: FxHashMap<Pid, ProcessEntry> = living
            .into_iter()
            .map(|entry| (entry.pid, *entry))
            .collect();
        let mut all_told = true;
        for entry in parents_first(&young) {
            all_told &= self.track(|tracker, cx| tracker.found_alive(&entry, since, cx));
        }
        // A list without anybody is no list.
        if drained && !listed.is_empty() {
            self.tell_looked(&listed, &young, all_told);
        }
    }

    /// Says in which trees somebody may have been missed.
    fn tell_looked(
        &mut self,
        listed: &[ProcessEntry],
        young: &FxHashMap<Pid, ProcessEntry>,
        all_told: bool,
    ) {
        let trees: Vec<SubscriptionId> = self.router.doubtful_trees().collect();
        let entries = listed.iter().filter(|_| !trees.is_empty());
        let parents: FxHashMap<Pid, Pid> = entries
            .filter_map(|entry| Some((entry.pid, entry.parent?)))
            .collect();
        let doubtful: FxHashSet<SubscriptionId> = trees
            .into_iter()
            .filter(|id| self.may_lack_orphans(*id, &parents, young))
            .collect();
        let hosts: FxHashSet<SubscriptionId> = self.router.hosts().collect();
        self.router
            .looked(|id| doubtful.contains(&id) || !all_told && hosts.contains(&id));
    }

    /// Whether a process may have been born of a tree within the loss and handed on.
    /// Orphans go to a parent above the dead one: to one of the tree, where they are
    /// found, or to one above it.
    fn may_lack_orphans(
        &self,
        id: SubscriptionId,
        parents: &FxHashMap<Pid, Pid>,
        young: &FxHashMap<Pid, ProcessEntry>,
    ) -> bool {
        let is_member = |pid: Pid| {
            let key = self.tracker.key_of(pid);
            key.is_some_and(|key| self.router.has_member(id, key))
        };
        let mut above = FxHashSet::default();
        let mut seen = FxHashSet::default();
        for member in self.router.members(id) {
            let mut next = parents.get(&member.pid());
            while let Some(at) = next.filter(|at| seen.insert(**at)) {
                if !is_member(*at) {
                    above.insert(*at);
                }
                next = parents.get(at);
            }
        }
        if above.is_empty() {
            // Nobody is left who shows where it would have been handed.
            return true;
        }
        let mut young = young.values();
        young.any(|it| it.parent.is_some_and(|p| above.contains(&p)) && !is_member(it.pid))
    }
}

/// The same processes, each after its parent.
fn parents_first(young: &FxHashMap<Pid, ProcessEntry>) -> Vec<ProcessEntry> {
    let mut ordered = Vec::with_capacity(young.len());
    let mut done = FxHashSet::default();
    let mut line = Vec::new();
    for entry in young.values() {
        // A list is no snapshot: in principle it can show a circle.
        let mut next = Some(entry);
        while let Some(entry) = next.filter(|entry| done.insert(entry.pid)) {
            line.push(*entry);
            next = entry.parent.and_then(|parent| young.get(&parent));
        }
        ordered.extend(line.drain(..).rev());
    }
    ordered
}
