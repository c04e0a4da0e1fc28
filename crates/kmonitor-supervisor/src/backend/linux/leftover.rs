//! What a former run left: taken up again, stopped, or cleared away.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kmonitor_pidfd::Readiness;

use super::cgroup::Cgroup;
use super::identity::open_seen;
use super::leader::{Leader, send};
use super::scope::{Marks, Scope, Tree, wait_for_one};
use super::state::Record;
use super::{Inner, LinuxBackend, MARK, procfs};
use crate::Signal;
use crate::backend::{Process, Survivor};
use crate::spec::{KillScope, Stop};

/// How long killed processes may take to die before a start is given up.
const CLEAR_PATIENCE: Duration = Duration::from_secs(5);

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
                process: living(record).map(|leader| leader.identity.process()),
                scope: record.scope,
            })
            .collect()
    }

    /// Stops one of them: the signal, the grace, SIGKILL, until nothing is left or
    /// the patience has run out. Who survived that; then it is still a leftover.
    ///
    /// # Errors
    /// Its scope cannot be looked at.
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
        if let Some(leader) = living(&record) {
            let leader = Arc::new(leader);
            let scope = Arc::new(scope_of(&self.inner, &record, &leader).await?);
            let survivors = stop_scope(&scope, &leader, stop).await;
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
        Ok(Vec::new())
    }
}

async fn stop_scope(scope: &Arc<Scope>, leader: &Arc<Leader>, stop: &Stop) -> Vec<Survivor> {
    let gone = async {
        if super::leader::ended(&leader.pidfd).await.is_ok() {
            scope.emptied(leader).await;
        }
    };
    tokio::pin!(gone);
    for signal in [stop.signal, Signal::CONT] {
        if let Err(error) = scope.signal(leader, signal) {
            tracing::warn!(%error, "cannot signal a leftover");
        }
    }
    if tokio::time::timeout(stop.grace, &mut gone).await.is_ok() {
        return Vec::new();
    }
    let killed = async {
        tokio::select! {
            () = &mut gone => {}
            () = scope.kill(leader) => {}
        }
    };
    match tokio::time::timeout(stop.patience, killed).await {
        Ok(()) => Vec::new(),
        Err(_) => scope.survivors(leader),
    }
}

/// A record's process, if it lives.
pub(super) fn living(record: &Record) -> Option<Leader> {
    let pidfd = record.process?.open()?;
    if !matches!(pidfd.readiness(), Ok(Readiness::Alive)) {
        return None;
    }
    let pid = pidfd.pid().as_raw();
    // Of this very program, by an earlier backend; or it came to us from one that died.
    let is_child = procfs::stat(pid).is_some_and(|stat| stat.parent == procfs::own_pid());
    let ours = is_child && !record.adopted;
    Some(Leader::new(Arc::new(pidfd), ours))
}

/// The scope that a record tells of.
pub(super) async fn scope_of(
    inner: &Inner,
    record: &Record,
    leader: &Arc<Leader>,
) -> io::Result<Scope> {
    if let (KillScope::Cgroup, Some(dir)) = (record.scope, &record.cgroup) {
        match Cgroup::open(dir.clone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(cgroup = %dir.display(), "it is gone; the tree is followed instead");
            }
            opened => return opened.map(Scope::Cgroup),
        }
    }
    Ok(match record.scope {
        KillScope::Group => Scope::Group,
        KillScope::Leader => Scope::Leader,
        _ => {
            let line = match inner.census().await {
                Some(census) => {
                    let process = leader.identity.process_ref();
                    census.line_of(process).await.map(|line| (census, line))
                }
                None => None,
            };
            let mut marks = marks_of(record, leader);
            if record.adopted {
                marks.variable = None;
                marks.session = None;
            }
            Scope::Tree(Tree {
                line,
                marks,
                // They are not our descendants, and come to somebody else.
                orphans: None,
            })
        }
    })
}

fn marks_of(record: &Record, leader: &Leader) -> Marks {
    Marks {
        root: leader.identity,
        rootless: false,
        session: Some(Arc::clone(&leader.pidfd)),
        variable: Some(format!("{MARK}={}", record.marker)),
    }
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
    if record.adopted || matches!(record.scope, KillScope::Leader | KillScope::Cgroup) {
        return Ok(());
    }
    // Its numbers may be another's now: only the mark tells.
    let marks = Marks {
        root,
        rootless: true,
        session: None,
        variable: Some(format!("{MARK}={}", record.marker)),
    };
    let cleared = async {
        loop {
            let of = marks.clone();
            let members = tokio::task::spawn_blocking(move || of.members()).await;
            let members = members.unwrap_or_default();
            if members.is_empty() {
                return;
            }
            for pidfd in members.iter().filter_map(open_seen) {
                let _ = send(&pidfd, Signal::KILL);
            }
            wait_for_one(&members).await;
        }
    };
    if tokio::time::timeout(CLEAR_PATIENCE, cleared).await.is_ok() {
        return Ok(());
    }
    let names: Vec<String> = marks
        .members()
        .iter()
        .map(|stat| stat.pid.to_string())
        .collect();
    Err(format!("processes {} do not die", names.join(", ")))
}

/// Kills all in a cgroup that nobody supervises, and removes it.
///
/// # Errors
/// Who could not be killed, or why it could not be tried.
pub(super) async fn clear_cgroup(dir: &Path) -> Result<(), String> {
    let cgroup = match Cgroup::open(dir.to_owned()) {
        Ok(cgroup) => cgroup,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cgroup {}: {error}", dir.display())),
    };
    let killed = async {
        loop {
            match cgroup.kill() {
                Ok(true) | Err(_) => {}
                Ok(false) => {
                    for pidfd in cgroup.members().iter().filter_map(open_seen) {
                        let _ = send(&pidfd, Signal::KILL);
                    }
                }
            }
            let emptied = tokio::time::timeout(Duration::from_millis(250), cgroup.emptied());
            if emptied.await.is_ok() {
                return;
            }
        }
    };
    if tokio::time::timeout(CLEAR_PATIENCE, killed).await.is_err() {
        let members = cgroup.members();
        let names: Vec<String> = members.iter().map(|stat| stat.pid.to_string()).collect();
        return Err(format!("processes {} do not die", names.join(", ")));
    }
    cgroup.remove().await;
    Ok(())
}
