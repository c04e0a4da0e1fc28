//! One incarnation: begun, followed to its end, cleared away.

mod starting;

use std::pin::pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::starting::{capture, receiver, start, waiting_for};
use super::capture::{Capture, Ends};
use super::leader::{Ending, Leader};
use super::orphans;
use super::ourselves;
use super::ready::Waiting;
use super::running::Asked;
use super::scope::Scope;
use super::state::{Pipe, Record, RecordFile, StateDir};
use super::{Inner, leftover, procfs};
use crate::backend::{Launch, Origin, Report, Reports, StartError};
use crate::spec::{KillScope, Readiness};

/// An incarnation that exists.
struct Begun {
    leader: Arc<Leader>,
    /// Of one that we forked.
    registered: Option<orphans::Registered>,
    ending: Ending,
    origin: Origin,
    scope: Arc<Scope>,
    capture: Option<Capture>,
    waiting: Waiting,
    record: Option<RecordFile>,
    was_ready: bool,
}

/// Runs an incarnation as a task of the current runtime.
pub(super) fn begin(inner: Arc<Inner>, launch: Launch, reports: Reports, asked: Asked) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(run(inner, launch, reports, asked))),
        Err(_) => {
            let text = "the Linux backend works within a tokio runtime";
            reports.send(Report::Failed(StartError::Other(text.to_owned())));
        }
    }
}

async fn run(inner: Arc<Inner>, launch: Launch, reports: Reports, mut asked: Asked) {
    let claimed = asked
        .kill
        .run_until_cancelled(inner.claims.claim(&launch.path));
    let Some(claim) = claimed.await else {
        return reports.send(Report::Failed(StartError::Cancelled));
    };
    let kill = asked.kill.clone();
    let obtained = tokio::select! {
        biased;
        obtained = obtain(&inner, &launch, &kill) => obtained,
        never = asked.serve_start() => match never {},
    };
    let begun = match obtained {
        Ok(begun) => begun,
        Err(error) => {
            drop(claim);
            return reports.send(Report::Failed(error));
        }
    };
    let Begun {
        leader,
        registered,
        ending,
        origin,
        scope,
        capture,
        waiting,
        mut record,
        was_ready,
    } = begun;
    reports.send(Report::Started {
        process: leader.identity.process(),
        origin,
        scope: scope.kind(),
    });

    let mut serving = pin!(asked.serve(&leader, &scope));
    let status = {
        let mut ended = pin!(leader.ended(ending));
        let mut ready = pin!(waiting.ready());
        let mut is_ready = false;
        loop {
            tokio::select! {
                // A child that is ready as it is is ready before it ends.
                biased;
                () = &mut ready, if !is_ready => {
                    is_ready = true;
                    // Nothing is noted after it: the descriptor goes.
                    if let Some(mut record) = record.take().filter(|_| !was_ready) {
                        record.mark_ready();
                    }
                    reports.send(Report::Ready);
                }
                status = &mut ended => break status,
                () = &mut serving => {}
            }
        }
    };
    if let Some(capture) = &capture {
        capture.catch_up().await;
    }
    // The numbers of a tree without a census are the leader's, and nobody else's until
    // it is reaped; those of a group too, where the kernel does not tell of it.
    if match &*scope {
        Scope::Cgroup(_) | Scope::Leader => true,
        Scope::Group(_) => leader.has_group().is_some(),
        Scope::Tree(_) => false,
    } {
        leader.reap();
    }
    reports.send(Report::Exited(status));

    tokio::select! {
        () = scope.emptied(&leader) => {}
        () = &mut serving => {}
    }
    // Before anybody may reap it, the sweeping of orphans too.
    leader.retire();
    if let Some(registered) = registered {
        // It looks at all our children. It can only panic, and then they are as they are.
        let _ = tokio::task::spawn_blocking(|| registered.end()).await;
    }
    leader.reap();
    leader.reap_later();
    if let Some(capture) = capture {
        capture.finish().await;
    }
    if let Scope::Cgroup(cgroup) = &*scope {
        cgroup.remove().await;
    }
    if let Some(state) = &inner.state {
        state.forget(launch.path.as_str());
    }
    drop(claim);
    reports.send(Report::Empty);
}

async fn obtain(
    inner: &Inner,
    launch: &Launch,
    kill: &CancellationToken,
) -> Result<Begun, StartError> {
    if kill.is_cancelled() {
        return Err(StartError::Cancelled);
    }
    if let Some(why) = procfs::why_foreign() {
        return Err(StartError::Other(why));
    }
    let path = launch.path.as_str();
    if let Some(state) = &inner.state
        && let Some(record) = state.record(path).map_err(|error| {
            StartError::Other(format!("it is not known whether it runs: {error}"))
        })?
    {
        let living = leftover::living(&record).map_err(|error| {
            StartError::Other(format!("it is not known whether it runs: {error}"))
        })?;
        if let Some(leader) = living {
            return recover(inner, state, launch, &record, leader).await;
        }
        leftover::clear(&record)
            .await
            .map_err(|why| StartError::Other(format!("cannot clear what was left of it: {why}")))?;
        state.forget(path);
        drop(inner.no_longer_kept(path));
        if let (Some(adopt), Some(process), true) =
            (&launch.spec.adopt, record.process, record.adopted)
        {
            inner.meant.was(&launch.path, adopt, process);
        }
    }
    inner.no_longer_left(path);
    let spec = &launch.spec;
    let adopt = spec.adopt.as_ref();
    // The first time, or each time if nothing else is to be had.
    if let Some(adopt) = adopt.filter(|_| launch.generation == 1 || spec.command.is_none()) {
        match inner.meant.find(&launch.path, adopt) {
            Ok(pidfd) => return adopted(inner, launch, Leader::adopted(pidfd)).await,
            Err(why) if spec.command.is_none() => return Err(StartError::Adopt(why)),
            Err(why) => {
                tracing::info!(child = %launch.path, %why, "nobody to adopt: it is started");
            }
        }
    }
    match &spec.command {
        Some(command) => start(inner, launch, command, kill).await,
        None => Err(StartError::Adopt("there is nothing to start".to_owned())),
    }
}

/// Takes over what a former run started or adopted. What was started and cannot be
/// taken over is ended; what was adopted is left, with its record. So is, told nothing,
/// what we descend from ourselves.
async fn recover(
    inner: &Inner,
    state: &StateDir,
    launch: &Launch,
    record: &Record,
    leader: Leader,
) -> Result<Begun, StartError> {
    if let Some(why) = ourselves::reached_with(record) {
        return Err(StartError::Other(format!("cannot recover it: {why}")));
    }
    let leader = Arc::new(leader);
    let error = match take_over(inner, state, launch, record, &leader).await {
        Ok(begun) => {
            inner.no_longer_left(&record.path);
            return Ok(begun);
        }
        Err(error) => error,
    };
    if !record.adopted {
        leftover::end(record, &leader).await.map_err(|why| {
            StartError::Other(format!("cannot recover it ({error}), nor end it: {why}"))
        })?;
        state.forget(&record.path);
        inner.no_longer_left(&record.path);
    }
    Err(StartError::Other(format!("cannot recover it: {error}")))
}

async fn take_over(
    inner: &Inner,
    state: &StateDir,
    launch: &Launch,
    record: &Record,
    leader: &Arc<Leader>,
) -> std::io::Result<Begun> {
    let path = launch.path.as_str();
    if let Some(adopt) = launch.spec.adopt.as_ref().filter(|_| record.adopted) {
        inner.meant.was(&launch.path, adopt, leader.identity);
    }
    // A child of this very program, by an earlier backend: its orphans come to us too.
    let registered = match inner.no_longer_kept(path) {
        None if leader.ours => {
            let pid = leader.identity.pid;
            orphans::register(orphans::Expected::new(), pid, &record.marker).await
        }
        kept => kept,
    };
    let ending = leader.ending(inner.hub.as_ref()).await;
    let scope = leftover::scope_of(inner, record, leader).await?;
    look_once(&scope, leader).await;
    // Whatever the specification says now: a pipe that nobody reads stops the child.
    let ends = Ends {
        stdout: state.reopen_pipe(path, Pipe::Stdout),
        stderr: state.reopen_pipe(path, Pipe::Stderr),
    };
    let has_output = ends.stdout.is_some() || ends.stderr.is_some();
    let notify = state
        .reopen_pipe(path, Pipe::Notify)
        .map(receiver)
        .transpose()?;
    let (waiting, awaited) = match &launch.spec.ready {
        _ if record.ready => (Waiting::Nothing, None),
        Readiness::NotifyFd(_) | Readiness::Line(_) if record.adopted => (Waiting::Nothing, None),
        Readiness::Line(_) if !has_output => (Waiting::Never, None),
        readiness => waiting_for(readiness, notify),
    };
    let capture = has_output
        .then(|| capture(launch, ends, awaited))
        .transpose()?;
    Ok(Begun {
        leader: Arc::clone(leader),
        registered,
        ending,
        origin: Origin::Recovered,
        scope,
        capture,
        waiting,
        record: Some(state.reopen(path)?),
        was_ready: record.ready,
    })
}

/// Whoever is in a group, or in a session, must have been seen before somebody else reaps its
/// leader.
async fn look_once(scope: &Arc<Scope>, leader: &Arc<Leader>) {
    let is_due = match &**scope {
        Scope::Group(_) => true,
        Scope::Tree(tree) => tree.line.is_none() && tree.marks.session.is_some(),
        Scope::Cgroup(_) | Scope::Leader => false,
    };
    if is_due && !leader.ours {
        let (scope, leader) = (Arc::clone(scope), Arc::clone(leader));
        let looked = tokio::task::spawn_blocking(move || drop(scope.members(&leader, true)));
        // It can only panic, and then nobody was seen.
        let _ = looked.await;
    }
}

/// Takes over a process that was there.
async fn adopted(inner: &Inner, launch: &Launch, leader: Leader) -> Result<Begun, StartError> {
    let leader = Arc::new(leader);
    let refused = |why: &str| {
        Err(StartError::Scope {
            scope: launch.scope,
            why: why.to_owned(),
        })
    };
    let scope = match launch.scope {
        KillScope::Best | KillScope::Tree => KillScope::Tree,
        KillScope::Cgroup => {
            return refused("an adopted process stays in the cgroup it is in, with others");
        }
        KillScope::Group => {
            let pid = leader.identity.pid.as_raw();
            if procfs::stat(pid).is_none_or(|stat| stat.group != pid) {
                return refused("the adopted process does not lead its group");
            }
            KillScope::Group
        }
        KillScope::Leader => KillScope::Leader,
    };
    let record = Record {
        path: launch.path.as_str().to_owned(),
        generation: launch.generation,
        scope,
        cgroup: None,
        marker: String::new(),
        adopted: true,
        process: Some(leader.identity),
        ready: false,
    };
    if let Some(why) = ourselves::reached_with(&record) {
        return refused(&why);
    }
    let ending = leader.ending(inner.hub.as_ref()).await;
    let scope = leftover::scope_of(inner, &record, &leader).await;
    let scope = scope.map_err(|error| StartError::Other(error.to_string()))?;
    look_once(&scope, &leader).await;
    let file = match &inner.state {
        Some(state) => Some(state.write(&record).map_err(|error| {
            StartError::Other(format!("cannot record what was adopted: {error}"))
        })?),
        None => None,
    };
    let waiting = match &launch.spec.ready {
        Readiness::Tcp(address) => Waiting::Connect(*address),
        // It got no descriptor of ours, and writes elsewhere.
        _ => Waiting::Nothing,
    };
    Ok(Begun {
        leader,
        registered: None,
        ending,
        origin: Origin::Adopted,
        scope,
        capture: None,
        waiting,
        record: file,
        was_ready: false,
    })
}
