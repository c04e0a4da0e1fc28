//! A program is started: what it needs is made, it is forked, or all is taken back.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::Begun;
use crate::backend::linux::capture::{Awaited, Capture, Ends};
use crate::backend::linux::census::{Census, Expected, Line};
use crate::backend::linux::cgroup::{self, Cgroup};
use crate::backend::linux::leader::{Ending, Leader};
use crate::backend::linux::marks::Marks;
use crate::backend::linux::ready::{self, Waiting};
use crate::backend::linux::scope::{Group, Scope, Tree};
use crate::backend::linux::spawn::{Failed, Surroundings, spawn};
use crate::backend::linux::state::{Pipe, Record, RecordFile, file_name};
use crate::backend::linux::{Inner, MARK, leftover, orphans};
use crate::backend::{Launch, Origin, StartError};
use crate::spec::{CommandSpec, KillScope, Output, Readiness};

/// Between two tries to kill a child that is being started.
const KILL_PAUSE: Duration = Duration::from_millis(100);

/// After this the report of a child's birth is taken for lost.
const LINE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn receiver(fd: OwnedFd) -> std::io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd)
}

pub(super) fn waiting_for(
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

pub(super) fn capture(
    launch: &Launch,
    ends: Ends,
    awaited: Option<Awaited>,
) -> std::io::Result<Capture> {
    let ring = Arc::clone(&launch.output);
    Capture::start(ends, launch.path.clone(), ring, awaited)
}

/// Starts a program, in the best scope that works if that is what was asked for.
pub(super) async fn start(
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
    // Those before it may hang.
    let permit = kill.run_until_cancelled(inner.spawns.acquire()).await;
    if permit.is_none() || kill.is_cancelled() {
        return Err(StartError::Cancelled);
    }
    hear_of_children();
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
            let spawning = tokio::task::spawn_blocking(task);
            match until_spawned(spawning, kill, prepared.cgroup.as_ref()).await {
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

/// Where SIGCHLD is ignored, as a parent may leave it to us, the kernel reaps children as
/// they die: before they can be taken hold of, and without a status.
fn hear_of_children() {
    static HEARS: OnceLock<()> = OnceLock::new();
    if HEARS.get().is_some() {
        return;
    }
    // It stays so, whatever becomes of what is returned.
    match signal(SignalKind::child()) {
        Ok(_) => drop(HEARS.set(())),
        Err(error) => tracing::warn!(%error, "children may be reaped by the kernel"),
    }
}

/// Waits for a start. One that is to be killed meanwhile, and has not executed its program
/// yet, is killed by its cgroup: nobody knows its pid but the thread that waits for it.
async fn until_spawned<T>(
    mut spawning: JoinHandle<T>,
    kill: &CancellationToken,
    cgroup: Option<&Cgroup>,
) -> Result<T, JoinError> {
    tokio::select! {
        biased;
        spawned = &mut spawning => return spawned,
        () = kill.cancelled() => {}
    }
    loop {
        if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.kills_at_once())
            && let Err(error) = cgroup.kill()
        {
            tracing::debug!(%error, "cannot kill who is being started");
        }
        // It may join the cgroup only now.
        if let Ok(spawned) = tokio::time::timeout(KILL_PAUSE, &mut spawning).await {
            return spawned;
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
    let told = expected.line_of(identity.pid, identity.start);
    let Ok(line) = tokio::time::timeout(LINE_PATIENCE, told).await else {
        tracing::warn!(process = %identity.pid, "its birth is not told: it is scanned for");
        return None;
    };
    Some((Arc::clone(expected.census()), line?))
}
