//! Which processes are a child's: whom a signal reaches, and when nobody is left.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::select_all;
use kmonitor_pidfd::{Pidfd, Readiness};
use tokio_util::sync::CancellationToken;

use super::census::{Census, Line};
use super::certain::{Look, certainly};
use super::cgroup::Cgroup;
use super::identity::open_seen;
use super::leader::{Leader, ended, send_all};
use super::marks::Marks;
use super::orphans::Orphans;
use super::procfs::{self, Stat};
use super::reap::reap;
use crate::Signal;
use crate::backend::Survivor;
use crate::spec::KillScope;

/// How often a signal looks for members that were forked while it went round.
const PASSES_MAX: usize = 16;

/// How often survivors are looked for who come and go faster than they can be named.
const SURVIVOR_LOOKS_MAX: usize = 16;

/// How many members are waited for at a time.
const HELD_MAX: usize = 32;

/// Between two rounds of killing: twice as long each time, as long as nobody new is found.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Between two looks at whether somebody left a group.
const GROUP_PAUSE_MAX: Duration = Duration::from_millis(250);

/// Between two looks, where one could not tell whether anybody is left, or nobody it found
/// could be waited for: they were gone already. Shorter than the patience with survivors.
const UNKNOWN_PAUSE_MAX: Duration = Duration::from_secs(1);

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
    ///
    /// # Errors
    /// It could not be found out whether there are any.
    pub(super) fn members(&self, leader: &Leader, all: bool) -> io::Result<Vec<Stat>> {
        let mut members = match self {
            Self::Cgroup(cgroup) => cgroup.members()?,
            Self::Tree(tree) => tree.members(all)?,
            Self::Group(group) => group.members(leader)?,
            Self::Leader => Vec::new(),
        };
        let pid = leader.identity.pid.as_raw();
        if !leader.is_dead() && members.iter().all(|stat| stat.pid != pid) {
            members.extend(procfs::look_at(pid)?);
        }
        Ok(members)
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
            let members = match self.members(leader, all) {
                Ok(members) => members,
                Err(error) => {
                    result = result.and(Err(error));
                    break;
                }
            };
            for member in members {
                let id = member.id();
                if told.contains(&id) {
                    continue;
                }
                let pidfd = match self.take_hold(leader, &member) {
                    Ok(Some(pidfd)) => pidfd,
                    Ok(None) => continue,
                    // For want of a descriptor, mostly: it has not been told.
                    Err(error) => {
                        result = result.and(Err(error));
                        continue;
                    }
                };
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

    /// Takes hold of a member, if it still is one.
    fn take_hold(&self, leader: &Leader, member: &Stat) -> io::Result<Option<Pidfd>> {
        let held = open_seen(member)?;
        let is_member = match self {
            Self::Cgroup(cgroup)
                if held.is_some() && member.pid != leader.identity.pid.as_raw() =>
            {
                cgroup.has(member.pid)?
            }
            _ => true,
        };
        Ok(held.filter(|_| is_member))
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
            // Whether all that were there have been told.
            let mut all_told = false;
            if let Ok((all, news, result)) = round.await {
                (told, any) = (all, news);
                all_told = !news && result.is_ok();
                if let Err(error) = result {
                    tracing::warn!(%error, pid = %leader.identity.pid, "cannot kill all of a scope");
                }
            }
            if any {
                pause = PAUSE_MIN;
            } else if all_told && abandoned.is_cancelled() {
                pending::<()>().await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = abandoned.cancelled(), if all_told => {}
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
            Self::Cgroup(cgroup) => return emptied(cgroup).await,
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
        loop {
            let (scope, of) = (Arc::clone(self), Arc::clone(leader));
            let look = move || scope.members(&of, false);
            // If it panicked nothing is known either.
            let Ok(Ok(members)) = tokio::task::spawn_blocking(look).await else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(UNKNOWN_PAUSE_MAX);
                continue;
            };
            let waited = match members.as_slice() {
                [] => return,
                members => match &**self {
                    // Nothing tells that somebody went to another group, and lives on there.
                    Self::Group(_) => tokio::select! {
                        waited = wait_for_one(members, leader.adopted) => waited,
                        () = left_its_group(members) => true,
                    },
                    _ => wait_for_one(members, leader.adopted).await,
                },
            };
            if waited {
                pause = PAUSE_MIN;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(UNKNOWN_PAUSE_MAX);
            }
        }
    }

    /// Who is in it now, for people.
    ///
    /// # Errors
    /// It could not be found out.
    pub(super) fn survivors(&self, leader: &Leader) -> io::Result<Vec<Survivor>> {
        for _ in 0..SURVIVOR_LOOKS_MAX {
            let members = match self.members(leader, true) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                members => members?,
            };
            let named = members.iter().filter_map(|member| {
                let (stat, name) = procfs::stat_and_name(member.pid)?;
                let same = stat.id() == member.id() && !stat.is_dead();
                same.then(|| Some(Survivor::new(stat.pid()?, name, char::from(stat.state))))?
            });
            let named: Vec<_> = named.collect();
            // Of members that fork and end all may have ended before they were named.
            if !named.is_empty() || members.is_empty() {
                return Ok(named);
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Tree {
    fn members(&self, all: bool) -> io::Result<Vec<Stat>> {
        match &self.line {
            Some((census, line)) if !census.is_incomplete() => census.members(*line),
            Some((census, line)) => {
                let mut members = census.members(*line)?;
                match self.marks.members(all) {
                    Ok(marked) => {
                        let known: HashSet<i32> = members.iter().map(|stat| stat.pid).collect();
                        let news = marked.into_iter().filter(|stat| !known.contains(&stat.pid));
                        members.extend(news);
                    }
                    // Whom the census knows is there in any case.
                    Err(error) if members.is_empty() => return Err(error),
                    Err(_) => {}
                }
                Ok(members)
            }
            None => {
                let members = self.marks.members(all)?;
                if let Some(orphans) = &self.orphans {
                    orphans.saw(&members);
                }
                Ok(members)
            }
        }
    }
}

impl Group {
    fn members(&self, leader: &Leader) -> io::Result<Vec<Stat>> {
        if leader.has_group() == Some(false) {
            return Ok(Vec::new());
        }
        let group = leader.identity.pid.as_raw();
        // The dead whom nobody reaps are in it, too, for the kernel.
        let members = certainly(|| {
            let mut listing = procfs::all()?;
            listing.found.retain(|stat| stat.group == group);
            let (dead, members) = listing.found.into_iter().partition(Stat::is_dead);
            let dead: Vec<Stat> = dead;
            Ok(Look {
                members,
                dead: dead.iter().map(Stat::id).collect(),
                any_vanished: listing.any_vanished,
            })
        })?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |stat: &Stat| seen.contains(&stat.id());
        // Asked after the look: who has been in it until now is in it for certain.
        let is_its = leader.has_group().unwrap_or_else(|| {
            !matches!(leader.pidfd.readiness(), Ok(Readiness::Reaped)) || members.iter().any(known)
        });
        if !is_its {
            return Ok(Vec::new());
        }
        *seen = members.iter().map(Stat::id).collect();
        Ok(members)
    }
}

/// Waits until a cgroup has no living member.
async fn emptied(cgroup: &Cgroup) {
    let mut pause = PAUSE_MIN;
    // That it cannot be looked at does not mean that nobody is there.
    while let Err(error) = cgroup.emptied().await {
        if pause == PAUSE_MIN {
            tracing::warn!(%error, "cannot read a cgroup's events");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(UNKNOWN_PAUSE_MAX);
    }
}

/// Waits until one of some processes is in another group than it was, or is gone. It
/// looks again and again, more and more seldom: only while somebody outlives a leader.
async fn left_its_group(members: &[Stat]) {
    let stays = |member: &Stat| match procfs::look_at(member.pid) {
        Ok(now) => now.is_some_and(|now| now.id() == member.id() && now.group == member.group),
        Err(_) => true,
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
        .filter_map(|stat| Some((Arc::new(open_seen(stat).ok()??), stat)))
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
