//! The limit on open descriptors.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What was tried when the descriptors ran out; names the limit to raise.
pub(crate) const OPEN_WITHIN_LIMIT: &str =
    "open a pidfd: no descriptor is left (RLIMIT_NOFILE, `ulimit -n`)";
/// The same for the whole system's limit.
pub(crate) const OPEN_WITHIN_SYSTEM_LIMIT: &str =
    "open a pidfd: the system has no descriptor left (/proc/sys/fs/file-max)";

/// Whether the error says that descriptors ran out.
pub(crate) fn is_exhaustion(error: &std::io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Raises the soft limit on open descriptors to the hard one; says whether that
/// made room.
pub(crate) fn raise_soft_to_hard() -> bool {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return false;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let done = setrlimit(Resource::Nofile, raised).is_ok();
    if done {
        tracing::info!(from = ?limit.current, to = ?limit.maximum, "raised the soft RLIMIT_NOFILE");
    }
    done
}
