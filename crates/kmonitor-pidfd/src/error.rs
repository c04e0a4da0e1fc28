//! Errors that more than one part of the crate makes.

use std::io;

use kmonitor_event::Pid;
use kmonitor_source::{ProbeError, TargetError, WatchError};
use rustix::io::Errno;

use crate::limits;

const BLOCKED: &str = "open a pidfd (pidfd_open is blocked by seccomp, or Linux is older than 5.3)";

/// What an error of `pidfd_open` means, where it says nothing about the target.
pub(crate) fn open_failed(pid: Pid, error: Errno) -> ProbeError {
    let source = io::Error::from(error);
    match error {
        Errno::NOSYS | Errno::PERM | Errno::ACCESS => ProbeError::Denied {
            pid,
            action: BLOCKED,
            source,
        },
        Errno::MFILE => ProbeError::Io {
            action: limits::OPEN_WITHIN_LIMIT,
            source,
        },
        Errno::NFILE => ProbeError::Io {
            action: limits::OPEN_WITHIN_SYSTEM_LIMIT,
            source,
        },
        _ => ProbeError::Io {
            action: "open a pidfd",
            source,
        },
    }
}

/// Whether the error says that `pidfd_open` does not work here at all.
pub(crate) fn is_blocked(error: &ProbeError) -> bool {
    matches!(error, ProbeError::Denied { action, .. } if *action == BLOCKED)
}

/// Whether the error says that there was no descriptor left.
pub(crate) fn is_exhaustion(error: &ProbeError) -> bool {
    matches!(error, ProbeError::Io { source, .. } if limits::is_exhaustion(source))
}

/// The error for an identity that this system has no means to check.
pub(crate) fn cannot_verify() -> ProbeError {
    ProbeError::Io {
        action: "verify the inode of the process, which needs pidfds and Linux 6.9",
        source: io::ErrorKind::Unsupported.into(),
    }
}

/// The same error once more. A watch keeps its error and tells it each time it
/// is awaited, and system errors cannot be cloned.
pub(crate) fn again(error: &WatchError) -> WatchError {
    match error {
        WatchError::Target(target) => WatchError::Target(TargetError::clone(target)),
        WatchError::Probe(probe) => WatchError::Probe(probe_again(probe)),
        WatchError::NotAPidfd => WatchError::NotAPidfd,
        WatchError::PidfdReaped { status } => WatchError::PidfdReaped { status: *status },
        WatchError::Io { action, source } => WatchError::Io {
            action,
            source: io_again(source),
        },
        other => WatchError::Io {
            action: "watch the process",
            source: io::Error::other(other.to_string()),
        },
    }
}

fn probe_again(error: &ProbeError) -> ProbeError {
    match error {
        ProbeError::Gone { pid } => ProbeError::Gone { pid: *pid },
        ProbeError::Reused {
            pid,
            expected,
            found,
        } => ProbeError::Reused {
            pid: *pid,
            expected: *expected,
            found: *found,
        },
        ProbeError::Thread { tid, process } => ProbeError::Thread {
            tid: *tid,
            process: *process,
        },
        ProbeError::Denied {
            pid,
            action,
            source,
        } => ProbeError::Denied {
            pid: *pid,
            action,
            source: io_again(source),
        },
        ProbeError::Io { action, source } => ProbeError::Io {
            action,
            source: io_again(source),
        },
        other => ProbeError::Io {
            action: "look at the process",
            source: io::Error::other(other.to_string()),
        },
    }
}

fn io_again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_told_again_says_the_same() {
        let pid = Pid::current();
        let errors = [
            WatchError::NotAPidfd,
            WatchError::Target(TargetError::ChildReaped),
            WatchError::Probe(ProbeError::Gone { pid }),
            WatchError::Probe(open_failed(pid, Errno::MFILE)),
            WatchError::Probe(open_failed(pid, Errno::NOSYS)),
            WatchError::Probe(cannot_verify()),
        ];
        for error in errors {
            let again = again(&error);
            assert_eq!(again.to_string(), error.to_string());
            assert_eq!(again.is_gone(), error.is_gone());
        }
    }

    #[test]
    fn running_out_of_descriptors_names_the_limit() {
        let error = open_failed(Pid::current(), Errno::MFILE);
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        assert!(is_exhaustion(&error) && !is_blocked(&error));
        assert!(is_blocked(&open_failed(Pid::current(), Errno::NOSYS)));
    }
}
