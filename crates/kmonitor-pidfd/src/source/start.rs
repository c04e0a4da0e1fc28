//! Why the source does not open.

use std::io;

use kmonitor_source::{ProbeError, SourceKind, StartError, StartErrorKind};

use crate::procfs;

/// Why `pidfd_open` on ourselves failed, and with it the source.
pub(super) fn failed(error: ProbeError) -> StartError {
    let new = |kind, message: String, source| {
        StartError::new(SourceKind::Pidfd, kind, message, Some(source))
    };
    match error {
        ProbeError::Denied { source, .. } if procfs::kernel_is_older_than(5, 3) => new(
            StartErrorKind::Unsupported,
            "the kernel has no pidfd_open; Linux 5.3 has".to_owned(),
            source,
        ),
        ProbeError::Denied { source, .. } => new(
            StartErrorKind::Blocked,
            "pidfd_open is blocked, by seccomp or a security module".to_owned(),
            source,
        ),
        ProbeError::Io { action, source } => {
            new(StartErrorKind::Io, format!("failed to {action}"), source)
        }
        // We ourselves exist, and are a process.
        other => {
            let message = other.to_string();
            new(StartErrorKind::Io, message, io::Error::other(other))
        }
    }
}
