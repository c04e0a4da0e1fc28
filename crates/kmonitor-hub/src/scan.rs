//! Finding the descendants that a process has already.
//!
//! The source listens before the look begins, so whoever is forked during it is
//! reported. What a look can miss is a process whose parent was dead or died
//! while `/proc` was being read: it was handed to another parent, and nothing
//! tells whose it was. That cannot be mended, but it is noticed, by finding a
//! member dead or by the report of its death, and told.

use std::time::Duration;

use kmonitor_event::{Event, EventKind, Pid, ProcessKey, Timestamp};
use kmonitor_source::{Fact, FactKind};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::command::Follow;
use crate::dispatcher::{Dispatcher, Stop};
use crate::router::{Membership, Router, SubscriptionId};
use crate::tracker::Tracker;

/// How long after a look reports of deaths during it may still come: the kernel
/// sends them last of all. (They are stamped then, too: a parent that died in the
/// last microseconds of the look can still go unnoticed.)
const STRAGGLERS_MAX: Duration = Duration::from_millis(50);

/// A look at the process table, and who may have slipped through it.
pub(crate) struct Scan {
    began: Timestamp,
    ended: Timestamp,
    /// The latest that was reported since.
    latest: Timestamp,
    roots: Vec<(SubscriptionId, ProcessKey)>,
    incomplete: Vec<(SubscriptionId, ProcessKey)>,
    /// Who was born since the look began.
    born: FxHashSet<Pid>,
}

impl Scan {
    /// Notes deaths within the trees while they were being read.
    pub(crate) fn inspect(&mut self, fact: &Fact, tracker: &Tracker, router: &Router) {
        self.latest = self.latest.max(fact.time);
        let (process, parent) = match fact.kind {
            FactKind::Forked { child, .. } => {
                self.born.insert(child);
                return;
            }
            FactKind::TaskExited {
                process,
                tid,
                parent,
                ..
            } if tid.is_leader_of(process) => (process, parent),
            FactKind::GroupDead { process, .. } => (process, None),
            _ => return,
        };
        if fact.time < self.began || fact.time > self.ended {
            return;
        }
        // Who was reaped before its exit was reported has no parent any more. If
        // it is older than the look, it may have been anybody's child. (Who is
        // younger was made a member at its birth.)
        let anybodys = parent.is_none() && !self.born.contains(&process);
        let member = |id: SubscriptionId, pid: Pid| {
            let key = tracker.key_of(pid);
            key.is_some_and(|key| router.has_member(id, key))
        };
        let roots = &self.roots;
        let incomplete = &mut self.incomplete;
        for root in roots {
            let (id, _) = *root;
            let hit =
                anybodys || member(id, process) || parent.is_some_and(|parent| member(id, parent));
            if hit && !incomplete.contains(root) {
                incomplete.push(*root);
            }
        }
    }

    /// Tells each stream once that it may lack somebody. Whether more may come:
    /// all reports were read that were there at `read_up_to`, if that is known.
    fn tell(&mut self, read_up_to: Option<Timestamp>, router: &mut Router) -> bool {
        for (id, root) in self.incomplete.drain(..) {
            self.roots.retain(|other| *other != (id, root));
            if router.contains(id) {
                let event = Event::new(self.ended, Some(root), EventKind::TrackIncomplete);
                router.tell(id, &event);
            }
        }
        // Not by the clock alone: under load there may be many reports to read that
        // are older than it says.
        let latest = read_up_to.map_or(self.latest, |time| time.max(self.latest));
        !self.roots.is_empty() && latest.saturating_since(self.ended) < STRAGGLERS_MAX
    }
}

/// What became of a process that was listed as a descendant.
enum Descendant {
    Taken,
    /// It was followed before, with all that descends from it.
    Known,
    /// Its children, if it had any, belong to another parent now.
    Dead,
}

impl Dispatcher {
    /// Makes all present descendants of the roots members of their subscriptions.
    pub(super) async fn scan_trees(
        &mut self,
        roots: &[(SubscriptionId, ProcessKey)],
    ) -> Result<(), Stop> {
        let began = self.probe.now();
        let mut processes = Vec::new();
        let looked = self.probe.processes(&mut processes);
        let mut incomplete = Vec::new();
        if let Err(error) = &looked {
            tracing::warn!(%error, "descendants could not be looked for");
            incomplete.extend_from_slice(roots);
        }
        let mut children: FxHashMap<Pid, Vec<Pid>> = FxHashMap::default();
        for process in &processes {
            if let Some(parent) = process.parent {
                children.entry(parent).or_default().push(process.pid);
            }
        }
        for (id, root) in roots {
            let mut parents = vec![root.pid()];
            while let Some(parent) = parents.pop() {
                for child in children.get(&parent).into_iter().flatten() {
                    match self.take_descendant(*id, *child) {
                        Descendant::Taken => parents.push(*child),
                        Descendant::Known => {}
                        Descendant::Dead => {
                            if !incomplete.contains(&(*id, *root)) {
                                incomplete.push((*id, *root));
                            }
                        }
                    }
                }
            }
        }
        let ended = self.probe.now();
        self.scans.push(Scan {
            began,
            ended,
            latest: ended,
            roots: roots.to_vec(),
            incomplete,
            born: FxHashSet::default(),
        });
        self.drain().await?;
        // Who was found dead is told of even where nothing was reported.
        self.tell_scans(None);
        Ok(())
    }

    /// Tells what the looks of late have missed, and forgets those that are over.
    pub(super) fn tell_scans(&mut self, read_up_to: Option<Timestamp>) {
        self.scans
            .retain_mut(|scan| scan.tell(read_up_to, &mut self.router));
    }

    /// Makes a process a followed member.
    fn take_descendant(&mut self, id: SubscriptionId, pid: Pid) -> Descendant {
        let Ok(identity) = self.probe.identify(pid) else {
            return Descendant::Dead;
        };
        let key = self.reserve(pid, identity);
        // A member by its own name has descendants that are none yet.
        let had = self.router.has_member(id, key);
        if had && self.router.follows_from(id, key) {
            return Descendant::Known;
        }
        let membership = Membership {
            follow: Follow::Tree,
            forks_only: false,
            listed: true,
        };
        self.router.add_member(id, key, membership);
        if self.track(|tracker, cx| tracker.adopt_if_alive(key, cx)) {
            return Descendant::Taken;
        }
        // What is still to be read tells of its end, and of its birth before that,
        // if it was born since we listen.
        if !had {
            self.router.remove_member(id, key);
        }
        Descendant::Dead
    }
}
