//! One incarnation: begun, followed to its end, cleared away.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::capture::{Awaited, Capture, Ends};
use super::census::{Census, Expected, Line};
use super::cgroup::{self, Cgroup};
use super::leader::{Ending, Leader};
use super::orphans::{self, Orphans};
use super::ready::{self, Waiting};
use super::running::Shared;
use super::scope::{Marks, Scope, Tree};
use super::spawn::{Surroundings, spawn};
use super::state::{Pipe, Record, RecordFile, StateDir, file_name};
use super::{Inner, MARK, adopt, leftover, procfs};
use crate::backend::{Launch, Origin, Report, Reports, StartError};
use crate::spec::{Adopt, CommandSpec, KillScope, Output, Readiness};

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
pub(super) fn begin(inner: Arc<Inner>, launch: Launch, reports: Reports, shared: Arc<Shared>) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(run(inner, launch, reports, shared))),
        Err(_) => {
            let text = "the Linux backend works within a tokio runtime";
            reports.send(Report::Failed(StartError::Other(text.to_owned())));
        }
    }
}

async fn run(inner: Arc<Inner>, launch: Launch, reports: Reports, shared: Arc<Shared>) {
    let begun = match obtain(&inner, &launch, &shared).await {
        Ok(begun) => begun,
        Err(error) => {
            shared.end();
            reports.send(Report::Failed(error));
            return;
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
    shared.begin(Arc::clone(&leader), Arc::clone(&scope));

    let killing = async {
        shared.killed().await;
        scope.kill(&leader).await;
    };
    let mut killing = pin!(killing);
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
                () = &mut killing => {}
            }
        }
    };
    if let Some(capture) = &capture {
        capture.catch_up().await;
    }
    // The numbers of a tree without a census and of a group are the leader's, and
    // nobody else's until it is reaped.
    if matches!(&*scope, Scope::Cgroup(_) | Scope::Leader) {
        leader.reap();
    }
    reports.send(Report::Exited(status));

    tokio::select! {
        () = scope.emptied(&leader) => {}
        () = &mut killing => {}
    }
    shared.end();
    // Before anybody may reap it, the sweeping of orphans too.
    leader.retire();
    if let Some(registered) = registered {
        registered.end();
    }
    leader.reap();
    if let Some(capture) = capture {
        capture.finish().await;
    }
    if let Scope::Cgroup(cgroup) = &*scope {
        cgroup.remove().await;
    }
    if let Some(state) = &inner.state {
        state.forget(launch.path.as_str());
    }
    reports.send(Report::Empty);
}

async fn obtain(inner: &Inner, launch: &Launch, shared: &Shared) -> Result<Begun, StartError> {
    if shared.is_killed() {
        return Err(StartError::Cancelled);
    }
    let path = launch.path.as_str();
    inner.no_longer_left(path);
    if let Some(state) = &inner.state
        && let Some(record) = state.record(path)
    {
        if let Some(leader) = leftover::living(&record) {
            return recover(inner, state, launch, &record, leader).await;
        }
        leftover::clear(&record)
            .await
            .map_err(|why| StartError::Other(format!("cannot clear what was left of it: {why}")))?;
        state.forget(path);
    }
    let spec = &launch.spec;
    let adopt = spec.adopt.as_ref();
    // The first time, or each time if nothing else is to be had.
    if let Some(adopt) = adopt.filter(|_| launch.generation == 1 || spec.command.is_none()) {
        match find(inner, path, adopt) {
            Ok(leader) => return adopted(inner, launch, leader).await,
            Err(why) if spec.command.is_none() => return Err(StartError::Adopt(why)),
            Err(why) => {
                tracing::info!(child = %launch.path, %why, "nobody to adopt: it is started");
            }
        }
    }
    match &spec.command {
        Some(command) => start(inner, launch, command, shared).await,
        None => Err(StartError::Adopt("there is nothing to start".to_owned())),
    }
}

/// Whom a specification names, if that is the same process as before.
fn find(inner: &Inner, path: &str, adopt: &Adopt) -> Result<Leader, String> {
    let leader = Leader::new(adopt::find(adopt)?, false);
    // By inode and by file it is checked already.
    if let Adopt::Pid(pid) = adopt
        && !inner.still_names(path, leader.identity)
    {
        return Err(format!(
            "process {pid} is not the one that had this pid when it was first adopted"
        ));
    }
    Ok(leader)
}

/// Takes over what a former run started or adopted.
async fn recover(
    inner: &Inner,
    state: &StateDir,
    launch: &Launch,
    record: &Record,
    leader: Leader,
) -> Result<Begun, StartError> {
    let path = launch.path.as_str();
    let failed = |error: std::io::Error| StartError::Other(format!("cannot recover it: {error}"));
    let leader = Arc::new(leader);
    // A child of this very program, by an earlier backend: its orphans come to us too.
    let registered = leader.ours.then(|| {
        let variable = format!("{MARK}={}", record.marker);
        orphans::Expected::new().started(leader.identity.pid, &variable)
    });
    let ending = leader.ending(inner.hub.as_ref()).await;
    let scope = leftover::scope_of(inner, record, &leader)
        .await
        .map_err(failed)?;
    // Whatever the specification says now: a pipe that nobody reads stops the child.
    let ends = Ends {
        stdout: state.reopen_pipe(path, Pipe::Stdout),
        stderr: state.reopen_pipe(path, Pipe::Stderr),
    };
    let has_output = ends.stdout.is_some() || ends.stderr.is_some();
    let notify = state.reopen_pipe(path, Pipe::Notify);
    let (waiting, awaited) = match &launch.spec.ready {
        _ if record.ready => (Waiting::Nothing, None),
        Readiness::NotifyFd(_) | Readiness::Line(_) if record.adopted => (Waiting::Nothing, None),
        Readiness::Line(_) if !has_output => (Waiting::Never, None),
        readiness => waiting_for(readiness, notify),
    };
    let capture = has_output
        .then(|| capture(launch, ends, awaited))
        .transpose()
        .map_err(failed)?;
    Ok(Begun {
        leader,
        registered,
        ending,
        origin: Origin::Recovered,
        scope: Arc::new(scope),
        capture,
        waiting,
        record: Some(state.reopen(path).map_err(failed)?),
        was_ready: record.ready,
    })
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
    let ending = leader.ending(inner.hub.as_ref()).await;
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
    let scope = leftover::scope_of(inner, &record, &leader).await;
    let scope = scope.map_err(|error| StartError::Other(error.to_string()))?;
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
        scope: Arc::new(scope),
        capture: None,
        waiting,
        record: file,
        was_ready: false,
    })
}

fn waiting_for(readiness: &Readiness, notify: Option<OwnedFd>) -> (Waiting, Option<Awaited>) {
    match readiness {
        Readiness::Immediate | Readiness::Exec => (Waiting::Nothing, None),
        Readiness::NotifyFd(_) => (notify.map_or(Waiting::Never, Waiting::Newline), None),
        Readiness::Tcp(address) => (Waiting::Connect(*address), None),
        Readiness::Line(text) => {
            let (seen, awaited) = oneshot::channel();
            let text = text.clone();
            (Waiting::Line(awaited), Some(Awaited { text, seen }))
        }
    }
}

fn capture(launch: &Launch, ends: Ends, awaited: Option<Awaited>) -> std::io::Result<Capture> {
    let ring = Arc::clone(&launch.output);
    Capture::start(ends, launch.path.clone(), ring, awaited)
}

/// Starts a program, in the best scope that works if that is what was asked for.
async fn start(
    inner: &Inner,
    launch: &Launch,
    command: &CommandSpec,
    shared: &Shared,
) -> Result<Begun, StartError> {
    match &launch.spec.ready {
        Readiness::Line(_) if !matches!(launch.spec.output, Output::Capture { .. }) => {
            let text = "readiness by a line needs its output to be captured";
            return Err(StartError::Other(text.to_owned()));
        }
        Readiness::Tcp(address) if ready::accepts(*address).await => {
            return Err(StartError::Other(format!(
                "{address} is in use: somebody accepts connections there before it was started"
            )));
        }
        _ => {}
    }
    if let KillScope::Best | KillScope::Cgroup = launch.scope {
        let why = match &inner.cgroups {
            Err(why) => why.clone(),
            Ok(_) => match attempt(inner, launch, command, KillScope::Cgroup, shared).await {
                Err(StartError::Scope { why, .. }) => why,
                result => return result,
            },
        };
        if launch.scope == KillScope::Cgroup {
            return Err(StartError::Scope {
                scope: KillScope::Cgroup,
                why,
            });
        }
        tracing::info!(child = %launch.path, %why, "no cgroup for it: it is followed as a tree");
        return attempt(inner, launch, command, KillScope::Tree, shared).await;
    }
    attempt(inner, launch, command, launch.scope, shared).await
}

/// What was made for a child that is not started yet.
#[derive(Default)]
struct Prepared {
    cgroup: Option<std::path::PathBuf>,
    ends: Ends,
    notify: Option<OwnedFd>,
    record: Option<RecordFile>,
}

async fn attempt(
    inner: &Inner,
    launch: &Launch,
    command: &CommandSpec,
    scope: KillScope,
    shared: &Shared,
) -> Result<Begun, StartError> {
    let mark = inner.next_word();
    let variable = format!("{MARK}={mark}");
    let census = match scope {
        KillScope::Tree => inner.census().await,
        _ => None,
    };
    let orphans = match (scope, &census) {
        (KillScope::Tree, None) => inner.orphans().await,
        _ => None,
    };
    let permit = inner.spawns.acquire().await;
    if shared.is_killed() {
        return Err(StartError::Cancelled);
    }
    let expected = census.as_ref().map(Census::expect_child);
    // Whatever its scope: another child's, or another backend's, may have made us a
    // subreaper, and what comes to us must be reaped.
    let registering = orphans::Expected::new();
    let mut prepared = Prepared::default();
    let surroundings = prepare(inner, launch, scope, mark, &mut prepared);
    let spawned = match surroundings {
        Ok(surroundings) => {
            let command = command.clone();
            let task = move || spawn(&command, surroundings, scope);
            match tokio::task::spawn_blocking(task).await {
                Ok(result) => result,
                Err(error) => Err(StartError::Other(format!("cannot start it: {error}"))),
            }
        }
        Err(error) => Err(error),
    };
    drop(permit);
    let leader = match spawned {
        Ok(pidfd) => Arc::new(Leader::new(pidfd, true)),
        Err(error) => {
            undo(inner, launch, &prepared);
            return Err(error);
        }
    };
    let registered = registering.started(leader.identity.pid, &variable);
    match follow(
        launch,
        scope,
        &leader,
        prepared,
        expected,
        variable,
        orphans.cloned(),
    )
    .await
    {
        Ok(begun) => Ok(Begun {
            registered: Some(registered),
            ..begun
        }),
        Err(error) => {
            // It runs, and cannot be supervised: for want of descriptors, mostly.
            let _ = leader.signal(crate::Signal::KILL);
            let _ = super::leader::ended(&leader.pidfd).await;
            leader.reap();
            if let Some(state) = &inner.state {
                state.forget(launch.path.as_str());
            }
            Err(StartError::Other(format!("cannot supervise it: {error}")))
        }
    }
}

/// Makes a child's cgroup, record and pipes.
fn prepare(
    inner: &Inner,
    launch: &Launch,
    scope: KillScope,
    mark: String,
    prepared: &mut Prepared,
) -> Result<Surroundings, StartError> {
    let path = launch.path.as_str();
    let failed = |what: &'static str| {
        move |error: std::io::Error| StartError::Other(format!("cannot make its {what}: {error}"))
    };
    let mut with = Surroundings {
        marker: (MARK, mark),
        stdout: None,
        stderr: None,
        silent: launch.spec.output == Output::Null,
        notify: None,
        cgroup: None,
        record: None,
    };
    if scope == KillScope::Cgroup
        && let Ok(base) = &inner.cgroups
    {
        let name = format!("{}.{}", file_name(path), with.marker.1);
        let (dir, procs) = base.begin(&name).map_err(|error| StartError::Scope {
            scope,
            why: format!("cannot make its cgroup: {error}"),
        })?;
        prepared.cgroup = Some(dir);
        with.cgroup = Some(procs);
    }
    let state = inner.state.as_ref();
    let owner = launch.spec.command.as_ref().and_then(|spec| spec.user);
    let pipe = |which| match state {
        Some(state) => state.make_pipe(path, which, owner),
        None => plain_pipe(),
    };
    if let Output::Capture { .. } = launch.spec.output {
        for (which, ours, childs) in [
            (Pipe::Stdout, &mut prepared.ends.stdout, &mut with.stdout),
            (Pipe::Stderr, &mut prepared.ends.stderr, &mut with.stderr),
        ] {
            let (reading, writing) = pipe(which).map_err(failed("output pipes"))?;
            *ours = Some(reading);
            *childs = Some(writing);
        }
    }
    if let Readiness::NotifyFd(number) = launch.spec.ready {
        let (reading, writing) = pipe(Pipe::Notify).map_err(failed("notification pipe"))?;
        prepared.notify = Some(reading);
        with.notify = Some((writing, number));
    }
    if let Some(state) = state {
        let record = Record {
            path: path.to_owned(),
            generation: launch.generation,
            scope,
            cgroup: prepared.cgroup.clone(),
            marker: with.marker.1.clone(),
            adopted: false,
            process: None,
            ready: false,
        };
        let file = state.write(&record).map_err(failed("record"))?;
        with.record = Some(file.for_child().map_err(failed("record"))?);
        prepared.record = Some(file);
    }
    Ok(with)
}

/// A pipe without a name: our end does not block.
fn plain_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, childs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(&ours)? | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&ours, flags)?;
    Ok((ours, childs))
}

fn undo(inner: &Inner, launch: &Launch, prepared: &Prepared) {
    if let Some(dir) = &prepared.cgroup {
        let _ = cgroup::remove_all(dir);
    }
    if let Some(state) = &inner.state {
        state.forget(launch.path.as_str());
    }
}

/// Begins to follow a child that was started.
async fn follow(
    launch: &Launch,
    scope: KillScope,
    leader: &Arc<Leader>,
    prepared: Prepared,
    expected: Option<Expected>,
    variable: String,
    orphans: Option<Arc<Orphans>>,
) -> std::io::Result<Begun> {
    let scope = match (scope, prepared.cgroup) {
        (KillScope::Cgroup, Some(dir)) => Scope::Cgroup(Cgroup::open(dir)?),
        (KillScope::Tree, _) => Scope::Tree(Tree {
            line: match &expected {
                Some(expected) => line_of(expected, leader).await,
                None => None,
            },
            marks: Marks {
                root: leader.identity,
                rootless: false,
                session: Some(Arc::clone(&leader.pidfd)),
                variable: Some(variable),
            },
            orphans,
        }),
        (KillScope::Group, _) => Scope::Group,
        _ => Scope::Leader,
    };
    let (waiting, awaited) = waiting_for(&launch.spec.ready, prepared.notify);
    let has_output = prepared.ends.stdout.is_some();
    let capture = has_output
        .then(|| capture(launch, prepared.ends, awaited))
        .transpose()?;
    Ok(Begun {
        leader: Arc::clone(leader),
        registered: None,
        ending: Ending::Waited,
        origin: Origin::Spawned,
        scope: Arc::new(scope),
        capture,
        waiting,
        record: prepared.record,
        was_ready: false,
    })
}

async fn line_of(expected: &Expected, leader: &Leader) -> Option<(Arc<Census>, Line)> {
    let identity = leader.identity;
    let line = expected.line_of(identity.pid, identity.start).await?;
    Some((Arc::clone(expected.census()), line))
}
