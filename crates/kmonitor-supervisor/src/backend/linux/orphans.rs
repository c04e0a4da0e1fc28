//! Reaping what came to us because we are a subreaper, where no connector tells who
//! forked whom.
//!
//! Only what is certainly not the application's own child is reaped: who is in the
//! session of a child we started (nobody can join one from outside), or was seen
//! alive with the mark of one. A process that left its session, cleared its
//! environment, was handed to us and died before we looked stays a zombie, unless we
//! were told that all children are ours.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kmonitor_event::Pid;
use kmonitor_pidfd::Pidfd;
use tokio::signal::unix::{SignalKind, signal};

use super::census::reap;
use super::procfs::{self, Stat};

#[derive(Debug, Default)]
struct Known {
    /// Leaders whose scopes are not empty: their pids, which their sessions have too,
    /// and their marks.
    leaders: HashMap<i32, String>,
    /// By pid and start, as seen alive among our children or in a scope; and their
    /// sessions. Nobody joins a session from outside, so whoever is or was in one of
    /// these descends from a leader too.
    ours: HashMap<(i32, u64), i32>,
    others: HashSet<(i32, u64)>,
    /// How many leaders are being started: a child may be one that is not known yet.
    starting: usize,
}

/// Reaps orphans at each SIGCHLD.
#[derive(Debug)]
pub(super) struct Orphans {
    known: Mutex<Known>,
    /// Every child of this program is ours to reap.
    all: bool,
}

impl Orphans {
    /// Begins. Within a runtime.
    pub(super) fn start(all: bool) -> std::io::Result<Arc<Self>> {
        let orphans = Arc::new(Self {
            known: Mutex::default(),
            all,
        });
        let mut children = signal(SignalKind::child())?;
        let weak: Weak<Self> = Arc::downgrade(&orphans);
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                let Some(orphans) = weak.upgrade() else {
                    return;
                };
                // It reads /proc, and there may be many children.
                let _ = tokio::task::spawn_blocking(move || orphans.sweep()).await;
            }
        });
        Ok(orphans)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader is about to be started.
    pub(super) fn expect(&self) {
        self.known().starting += 1;
    }

    /// It was, and its orphans are reaped from now on; or it was not.
    pub(super) fn add(&self, leader: Option<Pid>, variable: &str) {
        let mut known = self.known();
        known.starting = known.starting.saturating_sub(1);
        if let Some(leader) = leader {
            known.leaders.insert(leader.as_raw(), variable.to_owned());
        }
    }

    /// Members of a scope of ours that were found alive: should they come to us and
    /// die before the next look, they are known.
    pub(super) fn saw(&self, members: &[Stat]) {
        let ids = members.iter().map(|s| ((s.pid, s.start), s.session));
        self.known().ours.extend(ids);
    }

    /// Its scope is empty, and it will be reaped by who started it.
    pub(super) fn remove(&self, leader: Pid) {
        self.sweep();
        self.known().leaders.remove(&leader.as_raw());
    }

    /// Looks at all children of this program.
    pub(super) fn sweep(&self) {
        let mut known = self.known();
        if known.leaders.is_empty() && !self.all {
            return;
        }
        let all = self.all && known.starting == 0;
        let me = procfs::own_pid();
        let sessions: HashSet<i32> = known.ours.values().copied().collect();
        let mut present = HashSet::new();
        for pid in procfs::own_children() {
            let Some(stat) = procfs::stat(pid).filter(|stat| stat.parent == me) else {
                continue;
            };
            if known.leaders.contains_key(&pid) {
                continue;
            }
            let id = (pid, stat.start);
            present.insert(id);
            let in_session =
                known.leaders.contains_key(&stat.session) || sessions.contains(&stat.session);
            if !stat.is_dead() {
                let is_news = !known.ours.contains_key(&id) && !known.others.contains(&id);
                if is_news {
                    let is_ours = in_session || known.is_marked(pid);
                    if is_ours {
                        known.ours.insert(id, stat.session);
                    } else {
                        known.others.insert(id);
                    }
                }
            } else if in_session || known.ours.contains_key(&id) || all {
                // Its pid is its own until we reap it, and nobody else does.
                let held = Pid::new(pid).and_then(|pid| Pidfd::open(pid).ok());
                if held.is_some_and(|pidfd| reap(&pidfd)) {
                    present.remove(&id);
                }
            }
        }
        // Also those who have not come to us yet.
        known.ours.retain(|id, _| {
            present.contains(id) || procfs::stat(id.0).is_some_and(|stat| stat.start == id.1)
        });
        known.others.retain(|id| present.contains(id));
    }
}

impl Known {
    fn is_marked(&self, pid: i32) -> bool {
        let mut variables = self.leaders.values();
        variables.any(|variable| procfs::has_variable(pid, variable.as_bytes()))
    }
}
