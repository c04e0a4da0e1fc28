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

use super::environment::{self, NoWords};
use super::kin;
use super::procfs::{self, Stat};
use super::reap::reap;
use super::subreaper::Subreaper;

#[derive(Debug, Default)]
struct Known {
    /// Leaders whose scopes are not empty: their pids, which their sessions have too,
    /// and their marks. A pid can be that of two for a moment: one was reaped, and has
    /// not been taken off yet when the other gets its pid.
    leaders: HashMap<i32, Vec<String>>,
    /// By pid and start, as seen alive among our children or in a scope; and their
    /// sessions. Nobody joins a session from outside, so whoever is or was in one of
    /// these descends from a leader too.
    ours: HashMap<(i32, u64), i32>,
    others: HashSet<(i32, u64)>,
    /// How many leaders are being started: a child may be one that is not known yet,
    /// or one's orphan.
    starting: usize,
    /// How many were ever.
    begun: u64,
    /// A child was seen alive that may belong to one of those.
    undecided: bool,
    /// A child was seen dead that is ours only if all are, and none of those.
    left_dead: bool,
    /// How many were told that all children are theirs.
    all: usize,
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
pub(super) struct Registered {
    leader: Pid,
    word: String,
}

impl Expected {
    pub(super) fn new() -> Self {
        let mut known = known();
        known.starting += 1;
        known.begun += 1;
        Self(())
    }

    /// It was, and its orphans are reaped from now on.
    pub(super) fn started(self, leader: Pid, word: &str) -> Registered {
        let undecided = {
            let mut known = known();
            let words = known.leaders.entry(leader.as_raw()).or_default();
            words.push(word.to_owned());
            std::mem::take(&mut known.undecided)
        };
        drop(self);
        if undecided {
            // Who dies before it is looked at again would stay a zombie.
            sweep();
        }
        let word = word.to_owned();
        Registered { leader, word }
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
        let left_dead = {
            let mut known = known();
            known.starting = known.starting.saturating_sub(1);
            known.starting == 0 && std::mem::take(&mut known.left_dead)
        };
        if left_dead && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Nothing may tell of it again.
            drop(runtime.spawn_blocking(sweep));
        }
    }
}

impl Registered {
    /// Its scope is empty, and it will be reaped by who started it.
    pub(super) fn end(self) {
        // Nobody else's orphans come to us.
        if Subreaper::is_active() {
            sweep();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        known().forget(self.leader.as_raw(), &self.word);
    }
}

/// Reaps orphans at each SIGCHLD.
#[derive(Debug)]
pub(super) struct Orphans {
    all: bool,
}

impl Orphans {
    /// Begins. Within a runtime. `all`: every child of this program is ours to reap.
    pub(super) fn start(all: bool) -> std::io::Result<Arc<Self>> {
        let mut children = signal(SignalKind::child())?;
        let orphans = Arc::new(Self { all });
        known().all += usize::from(all);
        let weak: Weak<Self> = Arc::downgrade(&orphans);
        tokio::spawn(async move {
            while children.recv().await.is_some() {
                let used = weak.strong_count() > 0;
                // It reads /proc, and there may be many children.
                let swept = tokio::task::spawn_blocking(sweep).await;
                // What has come to us is nobody else's to reap.
                if !used && !swept.unwrap_or(false) {
                    return;
                }
            }
        });
        Ok(orphans)
    }

    /// Looks now: nothing may tell of those who are dead already.
    pub(super) async fn look(&self) {
        // It can only panic.
        let _ = tokio::task::spawn_blocking(sweep).await;
    }

    /// Members of a scope of ours that were found alive: should they come to us and
    /// die before the next look, they are known.
    pub(super) fn saw(&self, members: &[Stat]) {
        let ids = members.iter().map(|s| ((s.pid, s.start), s.session));
        known().ours.extend(ids);
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        known().all -= usize::from(self.all);
    }
}

/// Looks at all children of this program. Whether an orphan of ours is among them, or
/// may come.
fn sweep() -> bool {
    let read = Environments::read();
    let mut known = known();
    let known = &mut *known;
    let wants_all = known.all > 0;
    if known.leaders.is_empty() && known.ours.is_empty() && !wants_all {
        return false;
    }
    let all = wants_all && known.starting == 0;
    // Nobody was started since who may be without a mark yet.
    let is_read = known.starting == 0 && read.begun == known.begun;
    let me = procfs::own_pid();
    // Another time, if they cannot be listed.
    let Ok(mut children) = kin::own_children() else {
        known.left_dead |= wants_all;
        return true;
    };
    // Before anything is read of them: there may be thousands.
    children.retain(|pid| !known.leaders.contains_key(pid));
    let children = children.into_iter().filter_map(procfs::stat);
    let children: Vec<Stat> = children.filter(|stat| stat.parent == me).collect();
    let mut present: HashSet<_> = children.iter().map(Stat::id).collect();
    // When the youngest of each was born, those included who have been reaped since.
    let mut sessions: HashMap<i32, u64> = HashMap::new();
    for ((_, start), session) in &known.ours {
        let youngest = sessions.entry(*session).or_default();
        *youngest = (*youngest).max(*start);
    }
    // What the application forked itself is in its own session, or leads one. The leader of
    // one of ours is not younger than its members: else it has the number of one that is gone.
    let is_its = |stat: &Stat, youngest: &u64| stat.pid != stat.session || stat.start <= *youngest;
    for stat in children {
        let (pid, id) = (stat.pid, stat.id());
        let session = sessions.get(&stat.session);
        let in_session = known.leaders.contains_key(&stat.session)
            || session.is_some_and(|youngest| is_its(&stat, youngest));
        if !stat.is_dead() {
            let is_news = !known.ours.contains_key(&id) && !known.others.contains(&id);
            if is_news {
                let is_ours = if in_session {
                    Some(true)
                } else {
                    known.is_marked(read.of.get(&id))
                };
                match is_ours {
                    Some(true) => drop(known.ours.insert(id, stat.session)),
                    Some(false) if is_read => drop(known.others.insert(id)),
                    // Who executes a program just now is looked at the next time.
                    _ => known.undecided = true,
                }
            }
        } else if in_session || known.ours.contains_key(&id) || all {
            // Its pid is its own until we reap it, and nobody else does.
            let held = Pid::new(pid).and_then(|pid| Pidfd::open(pid).ok());
            match held {
                Some(pidfd) if reap(&pidfd) => {
                    present.remove(&id);
                }
                Some(_) => {}
                None => known.left_dead |= wants_all,
            }
        } else {
            known.left_dead |= wants_all;
        }
    }
    // Also those who have not come to us yet.
    known
        .ours
        .retain(|id, _| present.contains(id) || procfs::may_be_there(*id));
    known.others.retain(|id| present.contains(id));
    !known.ours.is_empty()
}

impl Known {
    fn forget(&mut self, leader: i32, word: &str) {
        let Some(words) = self.leaders.get_mut(&leader) else {
            return;
        };
        if let Some(at) = words.iter().position(|known| known == word) {
            words.swap_remove(at);
        }
        if words.is_empty() {
            self.leaders.remove(&leader);
        }
    }

    /// Whether an environment is that of one of ours. `None` while it cannot be told.
    fn is_marked(&self, words: Option<&Words>) -> Option<bool> {
        if self.leaders.is_empty() {
            return Some(false);
        }
        match words? {
            Ok(words) => {
                let mut ours = self.leaders.values().flatten();
                Some(ours.any(|word| words.contains(word)))
            }
            Err(NoWords::None | NoWords::Gone) => Some(false),
            Err(NoWords::NotYet | NoWords::Dying | NoWords::Unknown(_)) => None,
        }
    }
}

type Words = Result<Vec<String>, NoWords>;

/// The marks of our children of whom it is not known whose they are. Read while nobody
/// waits for what is known: whoever reads the memory of one that waits for a device may
/// wait as long.
#[derive(Debug, Default)]
struct Environments {
    /// [`Known::begun`] before that.
    begun: u64,
    of: HashMap<(i32, u64), Words>,
}

impl Environments {
    fn read() -> Self {
        let (begun, told) = {
            let known = known();
            if known.leaders.is_empty() && known.ours.is_empty() {
                return Self::default();
            }
            let ids = known.ours.keys().chain(&known.others);
            let told: HashSet<i32> = ids
                .map(|id| id.0)
                .chain(known.leaders.keys().copied())
                .collect();
            (known.begun, told)
        };
        // Those who have the pid of one who was told have their turn when that is forgotten.
        let mut children = kin::own_children().unwrap_or_default();
        children.retain(|pid| !told.contains(pid));
        let living = children.into_iter().filter_map(procfs::stat);
        let living = living.filter(|stat| !stat.is_dead());
        let of = living.map(|stat| (stat.id(), environment::marks(stat.pid)));
        let of = of.collect();
        Self { begun, of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_got_the_pid_of_another_stays_known_when_that_one_goes() {
        // Nobody's: pids end far below.
        let pid = Pid::new(i32::MAX).unwrap();
        let words = || known().leaders.get(&pid.as_raw()).cloned();
        let first = Expected::new().started(pid, "a");
        let second = Expected::new().started(pid, "b");
        drop(first);
        assert_eq!(words(), Some(vec!["b".to_owned()]));
        drop(second);
        assert_eq!(words(), None);
    }
}
