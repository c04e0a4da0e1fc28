//! Starting a program, and saying clearly why that failed.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kmonitor_event::Pid;
use kmonitor_pidfd::Pidfd;

use super::child::{ChildSide, Step};
use crate::backend::StartError;
use crate::spec::{CommandSpec, KillScope};
use crate::sys;

/// What a program is started with, beside its specification.
pub(super) struct Surroundings {
    /// Set in its environment, to find what escaped.
    pub(super) marker: (&'static str, String),
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Neither captured nor inherited.
    pub(super) silent: bool,
    pub(super) notify: Option<(OwnedFd, i32)>,
    pub(super) cgroup: Option<File>,
    pub(super) record: Option<File>,
}

/// Starts it. Blocks until it has executed its program, or could not.
///
/// The child is ours to reap, and nobody's else: it is in no list of the standard
/// library's or tokio's.
pub(super) fn spawn(
    spec: &CommandSpec,
    with: Surroundings,
    scope: KillScope,
) -> Result<Arc<Pidfd>, StartError> {
    let program = || spec.program.to_string_lossy().into_owned();
    let failed = |error: io::Error| StartError::Spawn {
        program: program(),
        error,
    };
    let dir = match &spec.dir {
        None => None,
        Some(dir) => Some(
            CString::new(dir.as_os_str().as_bytes())
                .map_err(|_| failed(invalid("its directory's name contains NUL")))?,
        ),
    };
    if let Some((_, number)) = with.notify
        && number < 3
    {
        let text = "descriptors 0 to 2 are taken; the notification descriptor is 3 or more";
        return Err(failed(invalid(text)));
    }
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).stdin(Stdio::null());
    set_environment(&mut command, spec, &with.marker);
    command.stdout(stdio(with.stdout, with.silent));
    command.stderr(stdio(with.stderr, with.silent));
    // Takes the number, if it is free, so that the standard library's own pipe to
    // the child cannot have it: placing the notification descriptor would close it.
    let _taken = match &with.notify {
        Some((fd, number)) => Some(
            rustix::io::fcntl_dupfd_cloexec(fd, *number)
                .map_err(|errno| failed(notify_failed(*number, &errno.into())))?,
        ),
        None => None,
    };
    let number = with.notify.as_ref().map(|(_, number)| *number);
    let steps = ChildSide {
        cgroup: with.cgroup,
        record: with.record,
        user: spec.user,
        dir,
        notify: with.notify,
    };
    sys::between_fork_and_exec(&mut command, steps);
    let child = command
        .spawn()
        .map_err(|error| explain(spec, scope, number, error))?;
    // Not reaped, and nobody's to reap but ours: the pid is its own.
    let pid = Pid::try_from(child.id()).map_err(|error| StartError::Other(error.to_string()))?;
    match Pidfd::open(pid) {
        Ok(pidfd) => Ok(Arc::new(pidfd)),
        Err(error) => {
            // Without a pidfd (no descriptor left, mostly) it cannot be supervised.
            let mut child = child;
            let _ = child.kill();
            let _ = child.wait();
            Err(StartError::Other(format!(
                "started {:?} and ended it at once, for want of a pidfd: {error}",
                program()
            )))
        }
    }
}

fn stdio(captured: Option<OwnedFd>, silent: bool) -> Stdio {
    match captured {
        Some(fd) => Stdio::from(fd),
        None if silent => Stdio::null(),
        None => Stdio::inherit(),
    }
}

fn set_environment(command: &mut Command, spec: &CommandSpec, marker: &(&'static str, String)) {
    if spec.env_clear {
        command.env_clear();
    }
    for (name, value) in &spec.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env(marker.0, OsString::from(&marker.1));
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn notify_failed(number: i32, error: &io::Error) -> io::Error {
    let text = format!("cannot give it descriptor {number} to notify by: {error}");
    io::Error::new(error.kind(), text)
}

/// What it means that a child could not be started.
fn explain(
    spec: &CommandSpec,
    scope: KillScope,
    notify: Option<i32>,
    error: io::Error,
) -> StartError {
    let program = spec.program.to_string_lossy().into_owned();
    let (step, raw) = error.raw_os_error().map_or((None, 0), Step::of_error);
    let cause = || io::Error::from_raw_os_error(raw);
    let wrapped = |text: String| io::Error::new(cause().kind(), text);
    let error = match step {
        None => error,
        Some(Step::Cgroup) => {
            return StartError::Scope {
                scope,
                why: format!("a child cannot join its cgroup: {}", cause()),
            };
        }
        Some(Step::Session) => wrapped(format!("it cannot lead a session: {}", cause())),
        Some(Step::Record) => wrapped(format!("it cannot be recorded: {}", cause())),
        Some(Step::User) => {
            let (user, group) = spec.user.unwrap_or_default();
            wrapped(format!(
                "it cannot become user {user} and group {group}: {}",
                cause()
            ))
        }
        Some(Step::Directory) => {
            let dir = spec.dir.as_deref().unwrap_or_else(|| "".as_ref());
            wrapped(format!(
                "its directory {} cannot be entered: {}",
                dir.display(),
                cause()
            ))
        }
        Some(Step::Notify) => notify_failed(notify.unwrap_or_default(), &cause()),
    };
    StartError::Spawn { program, error }
}
