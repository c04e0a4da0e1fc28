//! Which process, beyond its pid: what is written down to find it again.

use std::io;
use std::num::NonZeroU64;

use kmonitor_event::{Pid, ProcessRef};
use kmonitor_pidfd::Pidfd;
use kmonitor_source::ProbeError;

use super::procfs;
use crate::backend::Process;

/// A process, told from all others of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) pid: Pid,
    /// The inode of its pidfd, where the kernel gives it one (6.9).
    pub(super) inode: Option<NonZeroU64>,
    /// Clock ticks from boot; 0 where it could not be read.
    pub(super) start: u64,
}

impl Identity {
    /// Of a process that is held.
    pub(super) fn of(pidfd: &Pidfd) -> Self {
        Self {
            pid: pidfd.pid(),
            inode: pidfd.inode(),
            start: procfs::stat(pidfd.pid().as_raw()).map_or(0, |stat| stat.start),
        }
    }

    /// Takes hold of it, dead or alive; `None` if it has been reaped.
    ///
    /// # Errors
    /// It could not be found out, which says nothing of whether it lives.
    pub(super) fn open(&self) -> Result<Option<Pidfd>, ProbeError> {
        let pidfd = match Pidfd::open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let same = match (self.inode, pidfd.inode()) {
            (Some(expected), Some(found)) => expected == found,
            // Start times count in hundredths of a second: another process has this
            // one only if it got the same pid within one.
            _ => self.start != 0 && Self::of(&pidfd).start == self.start,
        };
        Ok(same.then_some(pidfd))
    }

    pub(super) fn process(&self) -> Process {
        Process::new(self.pid, self.inode)
    }

    pub(super) fn process_ref(&self) -> ProcessRef {
        ProcessRef {
            pid: self.pid,
            inode: self.inode,
        }
    }
}

/// Whether a process could not be opened because there is none. That its number is a
/// thread's now says the same; all else says nothing.
pub(super) fn is_gone(error: &ProbeError) -> bool {
    error.is_gone() || matches!(error, ProbeError::Thread { .. })
}

/// Takes hold of a process that was seen in a listing, if it is still that one.
///
/// The pidfd is opened first and the listing's start time compared after it. If the
/// pid changed hands before the opening, the times differ; if after it, the pidfd is
/// that of a reaped process, and does nothing.
///
/// # Errors
/// It could not be taken hold of, or looked at, though it may be there.
pub(super) fn open_seen(seen: &procfs::Stat) -> io::Result<Option<Pidfd>> {
    let Some(pid) = seen.pid() else {
        return Ok(None);
    };
    let pidfd = match Pidfd::open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(io::Error::other(error)),
    };
    let now = procfs::look_at(seen.pid)?;
    Ok(now
        .is_some_and(|now| now.start == seen.start)
        .then_some(pidfd))
}
