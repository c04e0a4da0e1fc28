//! Which processes are a child's: whom a signal reaches, and when nobody is left.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use kmonitor_pidfd::{Pidfd, Readiness};
use rustix::process::Signal as NamedSignal;

use super::census::{Census, Line, reap};
use super::cgroup::Cgroup;
use super::identity::{Identity, open_seen};
use super::leader::{Leader, ended, send};
use super::orphans::Orphans;
use super::procfs::{self, Stat, Table};
use crate::Signal;
use crate::backend::Survivor;
use crate::spec::KillScope;

/// How often a signal looks for members that were forked while it went round.
const PASSES_MAX: usize = 16;

/// How many members are waited for at a time.
const HELD_MAX: usize = 32;

/// Between two rounds of killing: the processes need a moment to die.
const KILL_PAUSE_MIN: Duration = Duration::from_millis(1);
const KILL_PAUSE_MAX: Duration = Duration::from_millis(250);

/// The processes of one incarnation.
#[derive(Debug)]
pub(super) enum Scope {
    Cgroup(Cgroup),
    Tree(Tree),
    Group,
    Leader,
}

/// What descends from a process.
#[derive(Debug)]
pub(super) struct Tree {
    /// By every fork the connector told of, where there is one.
    pub(super) line: Option<(Arc<Census>, Line)>,
    /// By what `/proc` shows.
    pub(super) marks: Marks,
    /// To be told of members, where there is no connector.
    pub(super) orphans: Option<Arc<Orphans>>,
}

/// By what a scan of `/proc` knows the members of a tree: as descendants of members,
/// by their session, or by a variable in their environment.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    pub(super) root: Identity,
    /// Known to be dead, so that whoever has its pid is another.
    pub(super) rootless: bool,
    /// Of a root that led a session of its own from the beginning: nobody else is in
    /// it. Its number is the root's until that is reaped, and says nothing after.
    pub(super) session: Option<Arc<Pidfd>>,
    /// `NAME=value` that only its descendants have.
    pub(super) variable: Option<String>,
}

impl Marks {
    /// The members that live; none only if there is none.
    ///
    /// Missed is who left the session, lost its parents *and* cleared its
    /// environment.
    pub(super) fn members(&self) -> Vec<Stat> {
        match self.near() {
            Some(near) if !near.is_empty() => near,
            _ => procfs::certainly(|| self.anywhere()),
        }
    }

    /// Those that are found by lists of children: what descends from the root, and
    /// from orphans that came to us. The lists are quick and not always whole; `None`
    /// where there are none.
    fn near(&self) -> Option<Vec<Stat>> {
        let root = self.root.pid.as_raw();
        let orphans = procfs::own_children().into_iter().filter(|pid| {
            *pid != root && procfs::stat(*pid).is_some_and(|stat| self.is_root(&stat))
        });
        let has_root =
            !self.rootless && procfs::stat(root).is_some_and(|stat| stat.start == self.root.start);
        let roots = orphans.chain(has_root.then_some(root));
        procfs::descending_from(roots).map(Self::living)
    }

    /// All, by reading the whole process table.
    fn anywhere(&self) -> Vec<Stat> {
        let table = Table::read();
        Self::living(table.descending_from(|stat| self.is_root(stat)))
    }

    fn living(mut members: Vec<Stat>) -> Vec<Stat> {
        let me = procfs::own_pid();
        members.retain(|stat| !stat.is_dead() && stat.pid != me);
        members
    }

    /// Whether a process is a member, whoever its parents are.
    fn is_root(&self, stat: &Stat) -> bool {
        let root = self.root.pid.as_raw();
        // A member is not older than the root, nor is it this program.
        if stat.start < self.root.start || stat.pid == procfs::own_pid() {
            return false;
        }
        (!self.rootless && stat.pid == root && stat.start == self.root.start)
            || (stat.session == root && self.has_session())
            || self.variable.as_ref().is_some_and(|variable| {
                !stat.is_dead() && procfs::has_variable(stat.pid, variable.as_bytes())
            })
    }

    /// Asked after a stat was read: whoever was read with that session was in it.
    fn has_session(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|root| {
            matches!(root.readiness(), Ok(Readiness::Alive | Readiness::Zombie))
        })
    }
}

impl Scope {
    pub(super) fn kind(&self) -> KillScope {
        match self {
            Self::Cgroup(_) => KillScope::Cgroup,
            Self::Tree(_) => KillScope::Tree,
            Self::Group => KillScope::Group,
            Self::Leader => KillScope::Leader,
        }
    }

    /// Its members that live, the leader among them. Reads `/proc`, so it blocks for a
    /// while where there are many processes.
    pub(super) fn members(&self, leader: &Leader) -> Vec<Stat> {
        let mut members = match self {
            Self::Cgroup(cgroup) => cgroup.members(),
            Self::Tree(tree) => tree.members(),
            Self::Group => group_members(leader),
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

    /// Sends a signal to all members.
    ///
    /// # Errors
    /// The first refusal; the others got it all the same.
    pub(super) fn signal(&self, leader: &Leader, signal: Signal) -> io::Result<()> {
        match self {
            Self::Leader => leader.signal(signal),
            // At once to all: a fork that is under way begins anew, and finds it.
            Self::Group if leader.ours => match NamedSignal::from_named_raw(signal.as_raw()) {
                Some(named) => leader.signal_group(named),
                None => self.signal_each(leader, signal),
            },
            _ => self.signal_each(leader, signal),
        }
    }

    fn signal_each(&self, leader: &Leader, signal: Signal) -> io::Result<()> {
        let mut told = HashSet::new();
        let mut result = Ok(());
        for _ in 0..PASSES_MAX {
            let mut news = false;
            for member in self.members(leader) {
                if !told.insert((member.pid, member.start)) {
                    continue;
                }
                news = true;
                let Some(pidfd) = open_seen(&member) else {
                    continue;
                };
                if let Self::Cgroup(cgroup) = self
                    && !cgroup.has(member.pid)
                {
                    continue;
                }
                let sent = send(&pidfd, signal);
                if result.is_ok() {
                    result = sent;
                }
            }
            if !news {
                break;
            }
        }
        result
    }

    /// Kills all members, again and again. Never ends by itself: its user stops it
    /// when the scope is empty.
    pub(super) async fn kill(self: &Arc<Self>, leader: &Arc<Leader>) {
        let mut pause = KILL_PAUSE_MIN;
        loop {
            let (scope, of) = (Arc::clone(self), Arc::clone(leader));
            let round = tokio::task::spawn_blocking(move || scope.kill_once(&of)).await;
            if let Ok(Err(error)) = round {
                tracing::warn!(%error, pid = %leader.identity.pid, "cannot kill all of a scope");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(KILL_PAUSE_MAX);
        }
    }

    fn kill_once(&self, leader: &Leader) -> io::Result<()> {
        match self {
            Self::Cgroup(cgroup) => {
                let whole = cgroup.kill()?;
                // A child that was not moved, or moved itself away.
                leader.signal(Signal::KILL)?;
                if whole {
                    return Ok(());
                }
            }
            Self::Group if leader.ours => return self.signal(leader, Signal::KILL),
            _ => {}
        }
        self.signal_each(leader, Signal::KILL)
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
            Self::Group => {}
        }
        loop {
            let (scope, of) = (Arc::clone(self), Arc::clone(leader));
            let members = tokio::task::spawn_blocking(move || scope.members(&of)).await;
            let members = members.unwrap_or_default();
            if members.is_empty() {
                return;
            }
            match &**self {
                // Nothing tells that somebody went to another group, and lives on there.
                Self::Group => tokio::select! {
                    () = wait_for_one(&members) => {}
                    () = left_its_group(&members) => {}
                },
                _ => wait_for_one(&members).await,
            }
        }
    }

    /// Who is in it now, for people.
    pub(super) fn survivors(&self, leader: &Leader) -> Vec<Survivor> {
        let members = self.members(leader).into_iter();
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
    fn members(&self) -> Vec<Stat> {
        match &self.line {
            Some((census, line)) if !census.is_incomplete() => census.members(*line),
            Some((census, line)) => {
                let mut members = self.marks.members();
                let told = census.members(*line).into_iter();
                let news: Vec<Stat> = told
                    .filter(|stat| members.iter().all(|known| known.pid != stat.pid))
                    .collect();
                members.extend(news);
                members
            }
            None => {
                let members = self.marks.members();
                if let Some(orphans) = &self.orphans {
                    orphans.saw(&members);
                }
                members
            }
        }
    }
}

/// Those in the leader's group. Its number is the group's until the leader is reaped;
/// after that nobody is looked for: it may be another's.
fn group_members(leader: &Leader) -> Vec<Stat> {
    let group = leader.identity.pid.as_raw();
    let members = procfs::certainly(|| {
        let mut members = procfs::all();
        members.retain(|stat| stat.group == group && !stat.is_dead());
        members
    });
    match leader.pidfd.readiness() {
        Ok(Readiness::Reaped) => Vec::new(),
        _ => members,
    }
}

/// Waits until one of some processes is in another group than it was, or is gone. It
/// looks again and again, more and more seldom: only while somebody outlives a leader.
async fn left_its_group(members: &[Stat]) {
    let stays = |member: &Stat| {
        procfs::stat(member.pid)
            .is_some_and(|now| now.start == member.start && now.group == member.group)
    };
    let mut pause = KILL_PAUSE_MIN;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(KILL_PAUSE_MAX);
        if !members.iter().all(stays) {
            return;
        }
    }
}

/// Waits until one of some processes is dead, and reaps it if it came to us.
pub(super) async fn wait_for_one(members: &[Stat]) {
    let held: Vec<_> = members
        .iter()
        .take(HELD_MAX)
        .filter_map(open_seen)
        .map(Arc::new)
        .collect();
    if held.len() < members.len().min(HELD_MAX) {
        // Some died meanwhile, or there is no descriptor left: look again soon.
        tokio::time::sleep(KILL_PAUSE_MIN).await;
        return;
    }
    let waits = held.iter().map(|pidfd| Box::pin(ended(pidfd)));
    let (result, at, _) = select_all(waits).await;
    if result.is_err() {
        tokio::time::sleep(KILL_PAUSE_MAX).await;
    }
    if let Some(pidfd) = held.get(at) {
        // Members descend from a leader, so they are not the application's children.
        reap(pidfd);
    }
}
