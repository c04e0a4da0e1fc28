//! What a former run left: taken up again, stopped, or cleared away.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kmonitor_event::Pid;
use kmonitor_pidfd::Readiness;
use tokio_util::sync::CancellationToken;

use super::cgroup::Cgroup;
use super::identity::{Identity, open_seen};
use super::leader::{Leader, ended, send};
use super::marks::Marks;
use super::procfs::Stat;
use super::reap::reap;
use super::scope::{Group, Scope, Tree, wait_for_one};
use super::state::Record;
use super::{Inner, LinuxBackend, ourselves, procfs};
use crate::Signal;
use crate::backend::{Process, Survivor};
use crate::spec::{KillScope, Stop};

/// How long killed processes may take to die before a start is given up.
const CLEAR_PATIENCE: Duration = Duration::from_secs(5);
/// After this they are told again; who could not be looked at is looked at again.
const CLEAR_ROUND: Duration = Duration::from_millis(250);
const CLEAR_PAUSE: Duration = Duration::from_millis(10);

/// A child of a former run that this one has not started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// Its place in the tree, then.
    pub path: String,
    /// Its own process, if that lives.
    pub process: Option<Process>,
    /// Its scope.
    pub scope: KillScope,
}

impl LinuxBackend {
    /// What a former run left that has not been started by this one: children that
    /// are no longer declared, once all that are have been started.
    pub fn leftovers(&self) -> Vec<Leftover> {
        let left = self.inner.left.lock();
        let left = left.unwrap_or_else(PoisonError::into_inner);
        left.iter()
            .map(|record| Leftover {
                path: record.path.clone(),
                // Who cannot be looked at may live.
                process: match living(record) {
                    Ok(leader) => leader.map(|leader| leader.identity.process()),
                    Err(_) => record.process.map(|process| process.process()),
                },
                scope: record.scope,
            })
            .collect()
    }

    /// Stops one of them: the signal, the grace, SIGKILL, until nothing is left or
    /// the patience has run out. Who survived that; then it is still a leftover.
    ///
    /// # Errors
    /// Its scope cannot be looked at; or this program is in it, or descends from it: then
    /// nobody is signalled.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, it may have been signalled, and can be stopped
    /// again.
    pub async fn stop_leftover(&self, which: &Leftover, stop: &Stop) -> io::Result<Vec<Survivor>> {
        let record = {
            let left = self.inner.left.lock();
            let left = left.unwrap_or_else(PoisonError::into_inner);
            left.iter()
                .find(|record| record.path == which.path)
                .cloned()
        };
        let Some(record) = record else {
            return Ok(Vec::new());
        };
        if let Some(leader) = living(&record)? {
            if let Some(why) = ourselves::reached_with(&record) {
                return Err(io::Error::other(why));
            }
            let leader = Arc::new(leader);
            let scope = scope_of(&self.inner, &record, &leader).await?;
            let survivors = stop_scope(&scope, &leader, stop).await?;
            if !survivors.is_empty() {
                return Ok(survivors);
            }
            leader.reap();
        }
        clear(&record).await.map_err(io::Error::other)?;
        if let Some(state) = &self.inner.state {
            state.forget(&record.path);
        }
        self.inner.no_longer_left(&record.path);
        drop(self.inner.no_longer_kept(&record.path));
        Ok(Vec::new())
    }
}

async fn stop_scope(
    scope: &Arc<Scope>,
    leader: &Arc<Leader>,
    stop: &Stop,
) -> io::Result<Vec<Survivor>> {
    let gone = async {
        ended(&leader.pidfd).await;
        scope.emptied(leader).await;
    };
    tokio::pin!(gone);
    let (of, told) = (Arc::clone(scope), Arc::clone(leader));
    let signals = [stop.signal, Signal::CONT];
    let sent = tokio::task::spawn_blocking(move || of.signal(&told, &signals)).await;
    if let Ok(Err(error)) = sent {
        tracing::warn!(%error, "cannot signal a leftover");
    }
    if tokio::time::timeout(stop.grace, &mut gone).await.is_ok() {
        return Ok(Vec::new());
    }
    // Who waits here cares.
    let cares = CancellationToken::new();
    let killed = async {
        tokio::select! {
            () = &mut gone => {}
            () = scope.kill(leader, &cares) => {}
        }
    };
    if tokio::time::timeout(stop.patience, killed).await.is_ok() {
        return Ok(Vec::new());
    }
    let (of, left) = (Arc::clone(scope), Arc::clone(leader));
    tokio::task::spawn_blocking(move || of.survivors(&left)).await?
}

/// A record's process, if it lives.
///
/// # Errors
/// It could not be found out.
pub(super) fn living(record: &Record) -> io::Result<Option<Leader>> {
    let Some(process) = record.process else {
        return Ok(None);
    };
    let Some(pidfd) = process.open().map_err(io::Error::other)? else {
        return Ok(None);
    };
    if pidfd.readiness()? != Readiness::Alive {
        return Ok(None);
    }
    let pidfd = Arc::new(pidfd);
    Ok(Some(match record.adopted {
        true => Leader::adopted(pidfd),
        false => Leader::recovered(pidfd),
    }))
}

/// A record's process, dead or alive, if it is our child and ours to reap.
pub(super) fn child(record: &Record) -> Option<Pid> {
    let process = record.process.filter(|_| !record.adopted)?;
    let pidfd = process.open().ok()??;
    let stat = procfs::stat(pidfd.pid().as_raw())?;
    (stat.parent == procfs::own_pid()).then(|| pidfd.pid())
}

/// The scope that a record tells of.
pub(super) async fn scope_of(
    inner: &Inner,
    record: &Record,
    leader: &Arc<Leader>,
) -> io::Result<Arc<Scope>> {
    if let (KillScope::Cgroup, Some(dir)) = (record.scope, &record.cgroup) {
        match Cgroup::open(dir.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(cgroup = %dir.display(), "it is gone; the tree is followed instead");
            }
            opened => return opened.map(|cgroup| Arc::new(Scope::Cgroup(cgroup))),
        }
    }
    let scope = match record.scope {
        KillScope::Group => Scope::Group(Group::default()),
        KillScope::Leader => Scope::Leader,
        _ => {
            let marks = Arc::new(marks_of(record, leader));
            let line = match inner.census().await {
                Some(census) => {
                    let line = census.line_of(leader.identity.process_ref(), &marks).await;
                    line.map(|line| (census, line))
                }
                None => None,
            };
            Scope::Tree(Tree {
                line,
                marks,
                // They are not our descendants, and come to somebody else.
                orphans: None,
            })
        }
    };
    Ok(Arc::new(scope))
}

fn marks_of(record: &Record, leader: &Leader) -> Marks {
    let mut marks = Marks::new(leader.identity);
    marks.strays = true;
    if !record.adopted {
        marks.session = Some(Arc::clone(&leader.pidfd));
        marks.word = Some(record.marker.clone());
    }
    marks
}

/// Ends a child of a former run that lives and cannot be supervised, with all that is
/// its.
///
/// # Errors
/// Who could not be killed.
pub(super) async fn end(record: &Record, leader: &Leader) -> Result<(), String> {
    let pid = leader.identity.pid;
    let killed = leader.signal(Signal::KILL);
    killed.map_err(|error| format!("cannot kill process {pid}: {error}"))?;
    let died = tokio::time::timeout(CLEAR_PATIENCE, ended(&leader.pidfd)).await;
    died.map_err(|_| format!("process {pid} does not die"))?;
    leader.reap();
    clear(record).await
}

/// Kills what is left of a child whose own process is dead, and removes its cgroup.
///
/// # Errors
/// Who could not be killed.
pub(super) async fn clear(record: &Record) -> Result<(), String> {
    if let Some(dir) = &record.cgroup {
        clear_cgroup(dir).await?;
    }
    let Some(root) = record.process else {
        return Ok(());
    };
    // If it came to us nobody else reaps it.
    if child(record).is_some()
        && let Ok(Some(pidfd)) = root.open()
    {
        reap(&pidfd);
    }
    if record.adopted || matches!(record.scope, KillScope::Leader | KillScope::Cgroup) {
        return Ok(());
    }
    clear_marked(root, &record.marker).await
}

/// Kills who is marked as a descendant of a process that is dead and reaped: its
/// numbers may be another's, so only the mark tells. Spares those we descend from.
///
/// # Errors
/// Who could not be killed.
pub(super) async fn clear_marked(root: Identity, word: &str) -> Result<(), String> {
    let mut marks = Marks::new(root);
    marks.rootless = true;
    marks.word = Some(word.to_owned());
    // Its orphans went to another, if it was of a former run; and those near us may be
    // spared.
    marks.strays = true;
    let marks = Arc::new(marks);
    let look = || {
        let (marks, word) = (Arc::clone(&marks), word.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut members = marks.members(true)?;
            ourselves::spare(&mut members, &word)?;
            io::Result::Ok(members)
        })
    };
    let cleared = async {
        loop {
            // That it cannot be looked at does not mean that nobody is there.
            let Ok(Ok(members)) = look().await else {
                tokio::time::sleep(CLEAR_PAUSE).await;
                continue;
            };
            if members.is_empty() {
                return;
            }
            kill(&members);
            if !wait_for_one(&members, false).await {
                tokio::time::sleep(CLEAR_PAUSE).await;
            }
        }
    };
    if tokio::time::timeout(CLEAR_PATIENCE, cleared).await.is_ok() {
        return Ok(());
    }
    let looked = look().await.unwrap_or_else(|panic| Err(panic.into()));
    let members = looked.map_err(|error| format!("it is not known who is left: {error}"))?;
    if members.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = members.iter().map(|stat| stat.pid.to_string()).collect();
    Err(format!("processes {} do not die", names.join(", ")))
}

/// Kills those of some that are still there. Who cannot be taken hold of now is found again.
fn kill(members: &[Stat]) {
    for stat in members {
        if let Ok(Some(pidfd)) = open_seen(stat) {
            let _ = send(&pidfd, Signal::KILL);
        }
    }
}

/// Kills all in a cgroup that nobody supervises, and removes it. Nobody, where we are in
/// it, or one that we descend from.
///
/// # Errors
/// Who could not be killed, or why it could not be tried.
pub(super) async fn clear_cgroup(dir: &Path) -> Result<(), String> {
    let cgroup = match Cgroup::open(dir.to_owned()) {
        Ok(cgroup) => cgroup,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cgroup {}: {error}", dir.display())),
    };
    if let Some(why) = ourselves::within(&cgroup, dir) {
        return Err(why);
    }
    let killed = async {
        loop {
            match cgroup.kill() {
                Ok(true) => {}
                Ok(false) | Err(_) => kill(&cgroup.members().unwrap_or_default()),
            }
            match tokio::time::timeout(CLEAR_ROUND, cgroup.emptied()).await {
                Ok(Ok(())) => return,
                // That it cannot be looked at does not mean that nobody is there.
                Ok(Err(_)) => tokio::time::sleep(CLEAR_PAUSE).await,
                Err(_) => {}
            }
        }
    };
    if tokio::time::timeout(CLEAR_PATIENCE, killed).await.is_err() {
        let members = cgroup.members();
        let members = members.map_err(|error| format!("it is not known who is left: {error}"))?;
        let names: Vec<String> = members.iter().map(|stat| stat.pid.to_string()).collect();
        return Err(format!("processes {} do not die", names.join(", ")));
    }
    cgroup.remove().await;
    Ok(())
}
