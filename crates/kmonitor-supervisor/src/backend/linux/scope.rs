//! Which processes are a child's: whom a signal reaches, and when nobody is left.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::select_all;
use kmonitor_pidfd::{Pidfd, Readiness};
use tokio_util::sync::CancellationToken;

use super::MARK;
use super::census::{Census, Line, reap};
use super::cgroup::Cgroup;
use super::identity::{Identity, open_seen};
use super::leader::{Leader, ended, send_all};
use super::orphans::Orphans;
use super::procfs::{self, NoWords, Stat, Table};
use crate::Signal;
use crate::backend::Survivor;
use crate::spec::KillScope;

/// How often a signal looks for members that were forked while it went round.
const PASSES_MAX: usize = 16;

/// How many members are waited for at a time.
const HELD_MAX: usize = 32;

/// Between two rounds of killing, and between two looks where nothing tells of a
/// change: twice as long each time, as long as nobody new is found.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Between two looks at whether somebody left a group.
const GROUP_PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long one look waits, in all, for programs that are being executed: till then their
/// environment tells nothing.
const EXEC_PATIENCE: Duration = Duration::from_millis(100);
const EXEC_PAUSE: Duration = Duration::from_micros(50);

/// After so many looks that found the same dead in a group, and nobody else, they are
/// those whom somebody does not reap.
const SAME_DEAD_LOOKS: usize = 5;

/// The processes of one incarnation.
#[derive(Debug)]
pub(super) enum Scope {
    Cgroup(Cgroup),
    Tree(Tree),
    Group(Group),
    Leader,
}

/// Whoever is in the leader's process group.
///
/// Its number is the group's as long as the leader is not reaped or anybody is in it.
/// Whether that is so the kernel tells by the leader's pidfd; before Linux 6.9, once
/// somebody has reaped the leader, the number is trusted only where one who was seen in
/// the group before still is.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By pid and start: who was found by the last look.
    seen: Mutex<HashSet<(i32, u64)>>,
}

/// What descends from a process.
#[derive(Debug)]
pub(super) struct Tree {
    /// By every fork the connector told of, where there is one.
    pub(super) line: Option<(Arc<Census>, Line)>,
    /// By what `/proc` shows.
    pub(super) marks: Arc<Marks>,
    /// To be told of members, where there is no connector.
    pub(super) orphans: Option<Arc<Orphans>>,
}

/// By what a scan of `/proc` knows the members of a tree: as descendants of members,
/// by their session, or by a word in their environment.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) root: Identity,
    /// Known to be dead, so that whoever has its pid is another.
    pub(super) rootless: bool,
    /// Of a root that led a session of its own from the beginning: nobody else is in
    /// it. Its number is the root's until that is reaped, and says nothing after.
    pub(super) session: Option<Arc<Pidfd>>,
    /// A word of [`MARK`] that only its descendants have.
    pub(super) word: Option<String>,
    /// Its orphans do not come to us, so that only the whole process table shows them.
    pub(super) strays: bool,
    /// Whether those seen before have the word, by pid and start.
    judged: Mutex<HashMap<(i32, u64), bool>>,
}

impl Marks {
    pub(super) fn new(root: Identity) -> Self {
        Self {
            root,
            rootless: false,
            session: None,
            word: None,
            strays: false,
            judged: Mutex::default(),
        }
    }

    /// Some of the members that live; none only if there is none. `all` of them, where
    /// nobody looks again before long.
    ///
    /// Missed is who left the session, lost its parents *and* cleared its
    /// environment.
    pub(super) fn members(&self, all: bool) -> Vec<Stat> {
        match self.near().filter(|_| !(all && self.strays)) {
            Some(near) if !near.is_empty() => near,
            _ => procfs::certainly(|| self.anywhere()),
        }
    }

    /// Those that are found by lists of children: what descends from the root, and
    /// from orphans that came to us. The lists are quick and not always whole; `None`
    /// where there are none.
    fn near(&self) -> Option<Vec<Stat>> {
        let root = self.root.pid.as_raw();
        let look = Look::begin();
        let orphans = procfs::own_children().into_iter().filter(|pid| {
            *pid != root && procfs::stat(*pid).is_some_and(|stat| self.is_root(&stat, &look))
        });
        let has_root =
            !self.rootless && procfs::stat(root).is_some_and(|stat| stat.start == self.root.start);
        let roots = orphans.chain(has_root.then_some(root));
        procfs::descending_from(roots).map(Self::living)
    }

    /// All, by reading the whole process table.
    fn anywhere(&self) -> Vec<Stat> {
        let table = Table::read();
        let look = Look::begin();
        let found = table.descending_from(|stat| self.is_root(stat, &look));
        let present: HashSet<_> = table.iter().map(|stat| (stat.pid, stat.start)).collect();
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        judged.retain(|id, _| present.contains(id));
        drop(judged);
        Self::living(found)
    }

    fn living(mut members: Vec<Stat>) -> Vec<Stat> {
        let me = procfs::own_pid();
        members.retain(|stat| !stat.is_dead() && stat.pid != me);
        members
    }

    /// Whether a process is a member, whoever its parents are.
    pub(super) fn is_root(&self, stat: &Stat, look: &Look) -> bool {
        let root = self.root.pid.as_raw();
        // A member is not older than the root, nor is it this program.
        if stat.start < self.root.start || stat.pid == procfs::own_pid() {
            return false;
        }
        (!self.rootless && stat.pid == root && stat.start == self.root.start)
            || (stat.session == root && self.has_session())
            || (!stat.is_dead() && self.has_word(stat, look))
    }

    /// An environment is given at birth, and by executing a program: who has the word
    /// has it from a member, and who has it not is none. So each is read once.
    fn has_word(&self, stat: &Stat, look: &Look) -> bool {
        let Some(word) = &self.word else { return false };
        let id = (stat.pid, stat.start);
        let judged = || self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = judged().get(&id) {
            return *known;
        }
        let Some(words) = look.words(stat.pid) else {
            return false;
        };
        let has = words.contains(word);
        judged().insert(id, has);
        has
    }

    /// Asked after a stat was read: whoever was read with that session was in it.
    fn has_session(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|root| {
            matches!(root.readiness(), Ok(Readiness::Alive | Readiness::Zombie))
        })
    }
}

/// One look at processes, which waits no longer for all of them than for one: somebody
/// can keep a program from being executed for ever.
#[derive(Debug)]
pub(super) struct Look {
    until: Cell<Option<Instant>>,
}

impl Look {
    pub(super) fn begin() -> Self {
        let until = Cell::new(None);
        Self { until }
    }

    /// The words of [`MARK`] of a process, if it has an environment in time.
    fn words(&self, pid: i32) -> Option<Vec<String>> {
        loop {
            match procfs::words(pid, MARK) {
                Ok(words) => return Some(words),
                Err(NoWords::None) => return None,
                Err(NoWords::NotYet) => {}
            }
            let now = Instant::now();
            let until = self.until.get().unwrap_or(now + EXEC_PATIENCE);
            self.until.set(Some(until));
            if now >= until {
                return None;
            }
            std::thread::sleep(EXEC_PAUSE);
        }
    }
}

impl Scope {
    pub(super) fn kind(&self) -> KillScope {
        match self {
            Self::Cgroup(_) => KillScope::Cgroup,
            Self::Tree(_) => KillScope::Tree,
            Self::Group(_) => KillScope::Group,
            Self::Leader => KillScope::Leader,
        }
    }

    /// Its members that live, the leader among them; `all` as for [`Marks::members`].
    /// Reads `/proc`, so it blocks for a while where there are many processes.
    pub(super) fn members(&self, leader: &Leader, all: bool) -> Vec<Stat> {
        let mut members = match self {
            Self::Cgroup(cgroup) => cgroup.members(),
            Self::Tree(tree) => tree.members(all),
            Self::Group(group) => group.members(leader),
            Self::Leader => Vec::new(),
        };
        let pid = leader.identity.pid.as_raw();
        if !leader.is_dead()
            && members.iter().all(|stat| stat.pid != pid)
            && let Some(stat) = procfs::stat(pid)
        {
            members.push(stat);
        }
        members
    }

    /// Sends signals to all members, to each in this order. Blocks as
    /// [`members`](Self::members) does.
    ///
    /// # Errors
    /// The first refusal; the others got it all the same.
    pub(super) fn signal(&self, leader: &Leader, signals: &[Signal]) -> io::Result<()> {
        match self {
            Self::Leader => leader.signals(signals),
            Self::Group(_) => {
                let mut result = Ok(());
                for signal in signals {
                    result = result.and(match leader.signal_group(*signal) {
                        Ok(true) => Ok(()),
                        Ok(false) | Err(_) => {
                            self.signal_each(leader, &[*signal], &mut HashSet::new()).1
                        }
                    });
                }
                result
            }
            _ => self.signal_each(leader, signals, &mut HashSet::new()).1,
        }
    }

    /// Signals the members that have not been told yet. Whether there were any.
    fn signal_each(
        &self,
        leader: &Leader,
        signals: &[Signal],
        told: &mut HashSet<(i32, u64)>,
    ) -> (bool, io::Result<()>) {
        let mut any = false;
        let mut result = Ok(());
        for _ in 0..PASSES_MAX {
            let mut news = false;
            // A word to stop is said once; killing goes on until nobody is left.
            let all = signals != [Signal::KILL];
            for member in self.members(leader, all) {
                let id = (member.pid, member.start);
                if told.contains(&id) {
                    continue;
                }
                let Some(pidfd) = open_seen(&member) else {
                    continue;
                };
                if let Self::Cgroup(cgroup) = self
                    && !cgroup.has(member.pid)
                    && member.pid != leader.identity.pid.as_raw()
                {
                    continue;
                }
                told.insert(id);
                news = true;
                result = result.and(send_all(&pidfd, signals));
            }
            if !news {
                break;
            }
            any = true;
        }
        (any, result)
    }

    /// Kills all members, and whoever is found later. Never ends by itself: its user
    /// stops it when the scope is empty. Once nobody cares any more it only makes sure
    /// that all have been told.
    pub(super) async fn kill(
        self: &Arc<Self>,
        leader: &Arc<Leader>,
        abandoned: &CancellationToken,
    ) {
        let mut pause = PAUSE_MIN;
        // Nobody can refuse SIGKILL, so once is enough.
        let mut told = HashSet::new();
        loop {
            let (scope, of) = (Arc::clone(self), Arc::clone(leader));
            let before = std::mem::take(&mut told);
            let round = tokio::task::spawn_blocking(move || {
                let mut told = before;
                let (news, result) = scope.kill_once(&of, &mut told);
                (told, news, result)
            });
            let mut any = false;
            if let Ok((all, news, result)) = round.await {
                (told, any) = (all, news);
                if let Err(error) = result {
                    tracing::warn!(%error, pid = %leader.identity.pid, "cannot kill all of a scope");
                }
            }
            if any {
                pause = PAUSE_MIN;
            } else if abandoned.is_cancelled() {
                pending::<()>().await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = abandoned.cancelled(), if !any => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn kill_once(&self, leader: &Leader, told: &mut HashSet<(i32, u64)>) -> (bool, io::Result<()>) {
        // First, as it cannot fail, and a child may have moved itself out of its cgroup.
        // Not in a tree: who loses its parent is not found by descent any more.
        let first = match self {
            Self::Tree(_) => Ok(()),
            _ => leader.signal(Signal::KILL),
        };
        let at_once = match self {
            Self::Cgroup(cgroup) => cgroup.kill(),
            Self::Group(_) => leader.signal_group(Signal::KILL),
            Self::Tree(_) => Ok(false),
            Self::Leader => Ok(true),
        };
        match at_once {
            Ok(true) => (false, first),
            Ok(false) => {
                let (news, result) = self.signal_each(leader, &[Signal::KILL], told);
                (news, first.and(result))
            }
            Err(error) => {
                tracing::warn!(%error, pid = %leader.identity.pid, "cannot kill all at once");
                let (news, result) = self.signal_each(leader, &[Signal::KILL], told);
                (news, first.and(result))
            }
        }
    }

    /// Waits until no member lives, once the leader is dead.
    pub(super) async fn emptied(self: &Arc<Self>, leader: &Arc<Leader>) {
        match &**self {
            Self::Leader => return,
            Self::Cgroup(cgroup) => match cgroup.emptied().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "cannot read a cgroup's events"),
            },
            Self::Tree(tree) => {
                if let Some((census, line)) = &tree.line
                    && census.emptied(*line).await
                {
                    return;
                }
            }
            Self::Group(_) => {}
        }
        let mut pause = PAUSE_MIN;
        let mut dead = Dead::default();
        loop {
            let (scope, of) = (Arc::clone(self), Arc::clone(leader));
            let look = move || {
                let members = scope.members(&of, false);
                let is_there = members.is_empty() && matches!(&*scope, Self::Group(_));
                let dead = (is_there && of.has_group() == Some(true)).then(|| Group::dead(&of));
                (members, dead)
            };
            let waited = match tokio::task::spawn_blocking(look).await {
                Ok((_, Some(now))) if dead.are_others(&now) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(GROUP_PAUSE_MAX);
                    continue;
                }
                Ok((members, _)) if members.is_empty() => return,
                Ok((members, _)) => match &**self {
                    // Nothing tells that somebody went to another group, and lives on there.
                    Self::Group(_) => tokio::select! {
                        waited = wait_for_one(&members, leader.adopted) => waited,
                        () = left_its_group(&members) => true,
                    },
                    _ => wait_for_one(&members, leader.adopted).await,
                },
                // It panicked: nothing is known.
                Err(_) => false,
            };
            if waited {
                pause = PAUSE_MIN;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Who is in it now, for people.
    pub(super) fn survivors(&self, leader: &Leader) -> Vec<Survivor> {
        let members = self.members(leader, true).into_iter();
        members
            .filter_map(|member| {
                let (stat, name) = procfs::stat_and_name(member.pid)?;
                let same = stat.start == member.start && !stat.is_dead();
                same.then(|| Some(Survivor::new(stat.pid()?, name, char::from(stat.state))))?
            })
            .collect()
    }
}

impl Tree {
    fn members(&self, all: bool) -> Vec<Stat> {
        match &self.line {
            Some((census, line)) if !census.is_incomplete() => census.members(*line),
            Some((census, line)) => {
                let mut members = self.marks.members(all);
                let told = census.members(*line).into_iter();
                let news: Vec<Stat> = told
                    .filter(|stat| members.iter().all(|known| known.pid != stat.pid))
                    .collect();
                members.extend(news);
                members
            }
            None => {
                let members = self.marks.members(all);
                if let Some(orphans) = &self.orphans {
                    orphans.saw(&members);
                }
                members
            }
        }
    }
}

/// Who of a group was found dead by the last looks.
#[derive(Debug, Default)]
struct Dead {
    found: HashSet<(i32, u64)>,
    looks: usize,
}

impl Dead {
    /// Somebody is in the group, the kernel says, and only these were found. Whether there
    /// may be others: members who are forked and end faster than one can look.
    fn are_others(&mut self, now: &HashSet<(i32, u64)>) -> bool {
        let same = !now.is_empty() && *now == self.found;
        self.looks = if same { self.looks + 1 } else { 1 };
        self.found.clone_from(now);
        self.looks < SAME_DEAD_LOOKS
    }
}

impl Group {
    fn dead(leader: &Leader) -> HashSet<(i32, u64)> {
        let group = leader.identity.pid.as_raw();
        let all = procfs::all().into_iter();
        all.filter(|stat| stat.group == group && stat.is_dead())
            .map(|stat| (stat.pid, stat.start))
            .collect()
    }

    fn members(&self, leader: &Leader) -> Vec<Stat> {
        if leader.has_group() == Some(false) {
            return Vec::new();
        }
        let group = leader.identity.pid.as_raw();
        let members = procfs::certainly(|| {
            let mut members = procfs::all();
            members.retain(|stat| stat.group == group && !stat.is_dead());
            members
        });
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |stat: &Stat| seen.contains(&(stat.pid, stat.start));
        // Asked after the look: who has been in it until now is in it for certain.
        let is_its = leader.has_group().unwrap_or_else(|| {
            !matches!(leader.pidfd.readiness(), Ok(Readiness::Reaped)) || members.iter().any(known)
        });
        if !is_its {
            return Vec::new();
        }
        *seen = members.iter().map(|stat| (stat.pid, stat.start)).collect();
        members
    }
}

/// Waits until one of some processes is in another group than it was, or is gone. It
/// looks again and again, more and more seldom: only while somebody outlives a leader.
async fn left_its_group(members: &[Stat]) {
    let stays = |member: &Stat| {
        procfs::stat(member.pid)
            .is_some_and(|now| now.start == member.start && now.group == member.group)
    };
    let mut pause = PAUSE_MIN;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(GROUP_PAUSE_MAX);
        if !members.iter().all(stays) {
            return;
        }
    }
}

/// Waits until one of some processes is dead, and reaps it if it came to us. `false`
/// where nothing was waited for: some died meanwhile, or there is no descriptor left.
///
/// Whoever descends from a leader of ours, or was another's child when it was seen, is
/// not the application's own. `adopted`: they may not descend from a leader of ours.
pub(super) async fn wait_for_one(members: &[Stat], adopted: bool) -> bool {
    let held: Vec<_> = members
        .iter()
        .take(HELD_MAX)
        .filter_map(|stat| Some((Arc::new(open_seen(stat)?), stat)))
        .collect();
    if held.len() < members.len().min(HELD_MAX) {
        return false;
    }
    let waits = held.iter().map(|(pidfd, _)| Box::pin(ended(pidfd)));
    let ((), at, _) = select_all(waits).await;
    if let Some((pidfd, stat)) = held.get(at)
        && (!adopted || stat.parent != procfs::own_pid())
    {
        reap(pidfd);
    }
    true
}
