//! Reaping what came to us because we are a subreaper, where no connector tells who
//! forked whom.
//!
//! Only what is certainly not the application's own child is reaped: who is in the
//! session of a child we started (nobody can join one from outside), or was seen
//! alive with the mark of one. A process that left its session, was
//! handed to us and died before we looked (or had cleared its environment) stays a
//! zombie, unless we were told that all children are ours: nothing tells it from a child
//! of the application's.
//!
//! Being a subreaper is a property of the whole program, so what is known here is too:
//! one backend that follows trees brings us the orphans of all others.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use kmonitor_event::Pid;
use kmonitor_pidfd::Pidfd;
use tokio::signal::unix::{SignalKind, signal};

use super::MARK;
use super::census::reap;
use super::procfs::{self, NoWords, Stat};
use super::subreaper::Subreaper;

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
    /// How many leaders are being started: a child may be one that is not known yet,
    /// or one's orphan.
    starting: usize,
    /// A child was seen alive that may belong to one of those.
    undecided: bool,
}

/// Of all backends of this program.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

fn known() -> MutexGuard<'static, Known> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A leader is about to be started.
#[derive(Debug)]
pub(super) struct Expected(());

/// A leader whose orphans are reaped as long as this lives.
#[derive(Debug)]
pub(super) struct Registered(Pid);

impl Expected {
    pub(super) fn new() -> Self {
        known().starting += 1;
        Self(())
    }

    /// It was, and its orphans are reaped from now on.
    pub(super) fn started(self, leader: Pid, word: &str) -> Registered {
        let undecided = {
            let mut known = known();
            known.leaders.insert(leader.as_raw(), word.to_owned());
            std::mem::take(&mut known.undecided)
        };
        drop(self);
        if undecided {
            // Who dies before it is looked at again would stay a zombie.
            sweep(false);
        }
        Registered(leader)
    }
}

/// Has orphans of a leader reaped. It may look at all our children.
pub(super) async fn register(expected: Expected, leader: Pid, word: &str) -> Option<Registered> {
    let word = word.to_owned();
    // It can only panic.
    let task = move || expected.started(leader, &word);
    tokio::task::spawn_blocking(task).await.ok()
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut known = known();
        known.starting = known.starting.saturating_sub(1);
    }
}

impl Registered {
    /// Its scope is empty, and it will be reaped by who started it.
    pub(super) fn end(self) {
        // Nobody else's orphans come to us.
        if Subreaper::is_active() {
            sweep(false);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        known().leaders.remove(&self.0.as_raw());
    }
}

/// Reaps orphans at each SIGCHLD.
#[derive(Debug)]
pub(super) struct Orphans(());

impl Orphans {
    /// Begins. Within a runtime. `all`: every child of this program is ours to reap.
    pub(super) fn start(all: bool) -> std::io::Result<Arc<Self>> {
        let orphans = Arc::new(Self(()));
        let mut children = signal(SignalKind::child())?;
        let weak: Weak<Self> = Arc::downgrade(&orphans);
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                let used = weak.strong_count() > 0;
                // It reads /proc, and there may be many children.
                let swept = tokio::task::spawn_blocking(move || sweep(all && used)).await;
                // What has come to us is nobody else's to reap.
                if !used && !swept.unwrap_or(false) {
                    return;
                }
            }
        });
        Ok(orphans)
    }

    /// Members of a scope of ours that were found alive: should they come to us and
    /// die before the next look, they are known.
    pub(super) fn saw(&self, members: &[Stat]) {
        let ids = members.iter().map(|s| ((s.pid, s.start), s.session));
        known().ours.extend(ids);
    }
}

/// Looks at all children of this program. Whether an orphan of ours is among them, or
/// may come.
fn sweep(all: bool) -> bool {
    let mut known = known();
    let known = &mut *known;
    if known.leaders.is_empty() && known.ours.is_empty() && !all {
        return false;
    }
    let all = all && known.starting == 0;
    let me = procfs::own_pid();
    let sessions: HashSet<i32> = known.ours.values().copied().collect();
    let mut present = HashSet::new();
    for pid in procfs::own_children() {
        // Before anything is read of it: there may be thousands of them.
        if known.leaders.contains_key(&pid) {
            continue;
        }
        let Some(stat) = procfs::stat(pid).filter(|stat| stat.parent == me) else {
            continue;
        };
        let id = (pid, stat.start);
        present.insert(id);
        let in_session =
            known.leaders.contains_key(&stat.session) || sessions.contains(&stat.session);
        if !stat.is_dead() {
            let is_news = !known.ours.contains_key(&id) && !known.others.contains(&id);
            if is_news {
                let is_ours = if in_session {
                    Some(true)
                } else {
                    known.is_marked(pid)
                };
                match is_ours {
                    Some(true) => drop(known.ours.insert(id, stat.session)),
                    Some(false) if known.starting == 0 => drop(known.others.insert(id)),
                    // Who executes a program just now is looked at the next time.
                    _ => known.undecided = true,
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
    !known.ours.is_empty()
}

impl Known {
    /// `None` while it cannot be told.
    fn is_marked(&self, pid: i32) -> Option<bool> {
        match procfs::words(pid, MARK) {
            Ok(words) => Some(self.leaders.values().any(|word| words.contains(word))),
            Err(NoWords::None) => Some(false),
            Err(NoWords::NotYet) => None,
        }
    }
}
