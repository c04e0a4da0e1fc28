//! One incarnation: begun, followed to its end, cleared away.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::capture::{Awaited, Capture, Ends};
use super::census::{Census, Expected, Line};
use super::cgroup::{self, Cgroup};
use super::leader::{Ending, Leader};
use super::orphans;
use super::ready::{self, Waiting};
use super::running::Asked;
use super::scope::{Group, Marks, Scope, Tree};
use super::spawn::{Failed, Surroundings, spawn};
use super::state::{Pipe, Record, RecordFile, StateDir, file_name};
use super::{Inner, MARK, leftover, procfs};
use crate::backend::{Launch, Origin, Report, Reports, StartError};
use crate::spec::{CommandSpec, KillScope, Output, Readiness};

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

async fn run(inner: Arc<Inner>, launch: Launch, reports: Reports, asked: Asked) {
    let claimed = asked
        .kill
        .run_until_cancelled(inner.claims.claim(&launch.path));
    let Some(claim) = claimed.await else {
        return reports.send(Report::Failed(StartError::Cancelled));
    };
    let begun = match obtain(&inner, &launch, &asked.kill).await {
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
    // The numbers of a tree without a census and of a group are the leader's, and
    // nobody else's until it is reaped.
    if matches!(&*scope, Scope::Cgroup(_) | Scope::Leader) {
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
/// taken over is ended; what was adopted is left, with its record.
async fn recover(
    inner: &Inner,
    state: &StateDir,
    launch: &Launch,
    record: &Record,
    leader: Leader,
) -> Result<Begun, StartError> {
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

/// Whoever is in a group must have been seen before somebody else reaps its leader.
async fn look_once(scope: &Arc<Scope>, leader: &Arc<Leader>) {
    if let Scope::Group(_) = &**scope
        && !leader.ours
    {
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

fn receiver(fd: OwnedFd) -> std::io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd)
}

fn waiting_for(
    readiness: &Readiness,
    notify: Option<pipe::Receiver>,
) -> (Waiting, Option<Awaited>) {
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
    kill: &CancellationToken,
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
            Ok(_) => match attempt(inner, launch, command, KillScope::Cgroup, kill).await {
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
        return attempt(inner, launch, command, KillScope::Tree, kill).await;
    }
    attempt(inner, launch, command, launch.scope, kill).await
}

/// What was made for a child that is not started yet: all that needs a descriptor, so
/// that nothing is missing once it runs.
#[derive(Default)]
struct Prepared {
    dir: Option<std::path::PathBuf>,
    cgroup: Option<Cgroup>,
    capture: Option<Capture>,
    waiting: Option<Waiting>,
    record: Option<RecordFile>,
}

async fn attempt(
    inner: &Inner,
    launch: &Launch,
    command: &CommandSpec,
    scope: KillScope,
    kill: &CancellationToken,
) -> Result<Begun, StartError> {
    let mark = inner.next_word();
    let census = match scope {
        KillScope::Tree => inner.census().await,
        _ => None,
    };
    let orphans = match (scope, &census) {
        (KillScope::Tree, None) => inner.orphans().await,
        _ => None,
    };
    let permit = inner.spawns.acquire().await;
    if kill.is_cancelled() {
        return Err(StartError::Cancelled);
    }
    let expected = census.as_ref().map(Census::expect_child);
    // Whatever its scope: another child's, or another backend's, may have made us a
    // subreaper, and what comes to us must be reaped.
    let registering = orphans::Expected::new();
    let mut prepared = Prepared::default();
    let surroundings = prepare(inner, launch, scope, mark.clone(), &mut prepared);
    let spawned = match surroundings {
        Ok(surroundings) => {
            let command = command.clone();
            let task = move || spawn(&command, surroundings, scope);
            match tokio::task::spawn_blocking(task).await {
                Ok(result) => result,
                Err(error) => Err(Failed::before(StartError::Other(format!(
                    "cannot start it: {error}"
                )))),
            }
        }
        Err(error) => Err(Failed::before(error)),
    };
    drop(permit);
    let leader = match spawned {
        Ok(pidfd) => Arc::new(Leader::spawned(pidfd)),
        Err(failed) => return Err(undo(inner, launch, prepared, failed, &mark).await),
    };
    let registered = orphans::register(registering, leader.identity.pid, &mark).await;
    let scope = match (scope, prepared.cgroup) {
        (KillScope::Cgroup, Some(cgroup)) => Scope::Cgroup(cgroup),
        (KillScope::Tree, _) => Scope::Tree(Tree {
            line: match &expected {
                Some(expected) => line_of(expected, &leader).await,
                None => None,
            },
            marks: Arc::new({
                let mut marks = Marks::new(leader.identity);
                marks.session = Some(Arc::clone(&leader.pidfd));
                marks.word = Some(mark);
                marks
            }),
            orphans: orphans.cloned(),
        }),
        (KillScope::Group, _) => Scope::Group(Group::default()),
        _ => Scope::Leader,
    };
    Ok(Begun {
        leader,
        registered,
        ending: Ending::Waited,
        origin: Origin::Spawned,
        scope: Arc::new(scope),
        capture: prepared.capture,
        waiting: prepared.waiting.unwrap_or(Waiting::Never),
        record: prepared.record,
        was_ready: false,
    })
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
        prepared.dir = Some(dir.clone());
        with.cgroup = Some(procs);
        prepared.cgroup = Some(Cgroup::open(dir).map_err(failed("cgroup"))?);
    }
    let state = inner.state.as_ref();
    let owner = launch.spec.command.as_ref().and_then(|spec| spec.user);
    let pipe = |which| match state {
        Some(state) => state.make_pipe(path, which, owner),
        None => plain_pipe(),
    };
    let mut ends = Ends::default();
    if let Output::Capture { .. } = launch.spec.output {
        for (which, ours, childs) in [
            (Pipe::Stdout, &mut ends.stdout, &mut with.stdout),
            (Pipe::Stderr, &mut ends.stderr, &mut with.stderr),
        ] {
            let (reading, writing) = pipe(which).map_err(failed("output pipes"))?;
            *ours = Some(reading);
            *childs = Some(writing);
        }
    }
    let mut notify = None;
    if let Readiness::NotifyFd(number) = launch.spec.ready {
        let failed = failed("notification pipe");
        let (reading, writing) = pipe(Pipe::Notify).map_err(failed)?;
        notify = Some(receiver(reading).map_err(failed)?);
        with.notify = Some((writing, number));
    }
    let (waiting, awaited) = waiting_for(&launch.spec.ready, notify);
    prepared.waiting = Some(waiting);
    if ends.stdout.is_some() {
        let capture = capture(launch, ends, awaited).map_err(failed("output pipes"))?;
        prepared.capture = Some(capture);
    }
    if let Some(state) = state {
        let record = Record {
            path: path.to_owned(),
            generation: launch.generation,
            scope,
            cgroup: prepared.dir.clone(),
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

/// Takes back what was made for a child that could not be started, and ends what it
/// may have done if it ran.
async fn undo(
    inner: &Inner,
    launch: &Launch,
    prepared: Prepared,
    failed: Failed,
    mark: &str,
) -> StartError {
    let left = match (&prepared.dir, failed.ran) {
        (Some(dir), Some(_)) => leftover::clear_cgroup(dir).await,
        (Some(dir), None) => {
            drop(prepared.cgroup);
            // It cannot be removed while it is not empty, and nobody was in it.
            let _ = cgroup::remove_all(dir);
            Ok(())
        }
        (None, Some(process)) => leftover::clear_marked(process, mark).await,
        (None, None) => Ok(()),
    };
    match left {
        Ok(()) => {
            if let Some(state) = &inner.state {
                state.forget(launch.path.as_str());
            }
            failed.error
        }
        // The record stays, for the next try to clear it.
        Err(why) => StartError::Other(format!("{}; and of what it left: {why}", failed.error)),
    }
}

async fn line_of(expected: &Expected, leader: &Leader) -> Option<(Arc<Census>, Line)> {
    let identity = leader.identity;
    let line = expected.line_of(identity.pid, identity.start).await?;
    Some((Arc::clone(expected.census()), line))
}
