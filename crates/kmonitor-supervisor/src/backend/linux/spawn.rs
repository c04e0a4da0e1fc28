//! Starting a program, and saying clearly why that failed.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use kmonitor_event::Pid;
use kmonitor_pidfd::Pidfd;
use rustix::process::kill_process_group;

use super::child::{ChildSide, Step};
use super::identity::Identity;
use super::procfs;
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

/// Held by a start that gives a child a descriptor by number.
static PLACING: Mutex<()> = Mutex::new(());

/// Why nothing was started, or what was cannot be supervised.
pub(super) struct Failed {
    pub(super) error: StartError,
    /// It had executed its program, and was ended: what it forked may be left.
    pub(super) ran: Option<Identity>,
}

impl Failed {
    /// Nothing was executed.
    pub(super) fn before(error: StartError) -> Self {
        Self { error, ran: None }
    }
}

/// Starts it. Blocks until it has executed its program, or could not.
///
/// The child is ours to reap, and nobody's else: it is in no list of the standard
/// library's or tokio's.
pub(super) fn spawn(
    spec: &CommandSpec,
    with: Surroundings,
    scope: KillScope,
) -> Result<Arc<Pidfd>, Failed> {
    let program = || spec.program.to_string_lossy().into_owned();
    let failed = |error: io::Error| {
        Failed::before(StartError::Spawn {
            program: program(),
            error,
        })
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
    // the child cannot have it: placing the notification descriptor would close it. One
    // at a time, so that it is not taken by another such start, to be free later.
    let _one = with
        .notify
        .is_some()
        .then(|| PLACING.lock().unwrap_or_else(PoisonError::into_inner));
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
    // The number of the pidfd, which must not be wanting once it runs.
    let reserved = File::open("/dev/null").map_err(failed)?;
    let mut child = command
        .spawn()
        .map_err(|error| Failed::before(explain(spec, scope, number, error)))?;
    drop(reserved);
    // Not reaped, and nobody's to reap but ours: the pid is its own.
    let pid = Pid::try_from(child.id())
        .map_err(|error| Failed::before(StartError::Other(error.to_string())))?;
    Pidfd::open(pid).map(Arc::new).map_err(|error| {
        let start = procfs::stat(pid.as_raw()).map_or(0, |stat| stat.start);
        // It leads its group, whose number is its own until it is waited for.
        let group = rustix::process::Pid::from_child(&child);
        let _ = kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait();
        Failed {
            error: StartError::Other(format!(
                "started {:?} and ended it at once, for want of a pidfd: {error}",
                program()
            )),
            ran: (scope != KillScope::Leader).then_some(Identity {
                pid,
                inode: None,
                start,
            }),
        }
    })
}

fn stdio(captured: Option<OwnedFd>, silent: bool) -> Stdio {
    match captured {
        Some(fd) => Stdio::from(fd),
        None if silent => Stdio::null(),
        None => Stdio::inherit(),
    }
}

/// What systemd tells us is about us, and not about our children.
const OUR_MANAGERS: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

fn set_environment(command: &mut Command, spec: &CommandSpec, marker: &(&'static str, String)) {
    if spec.env_clear {
        command.env_clear();
    }
    for name in OUR_MANAGERS {
        command.env_remove(name);
    }
    for (name, value) in &spec.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // If we are somebody's child, what descends from us descends from it.
    let mut words = std::env::var_os(marker.0).unwrap_or_default();
    if !words.is_empty() {
        words.push(":");
    }
    words.push(&marker.1);
    command.env(marker.0, words);
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
