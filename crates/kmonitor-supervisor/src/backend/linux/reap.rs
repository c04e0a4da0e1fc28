//! Reaping one process, by pidfd, that nobody else is to reap.

use std::os::fd::AsFd;

use kmonitor_event::Pid;
use kmonitor_pidfd::Pidfd;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::procfs;

/// Reaps a dead process if it came to us. Its parent, if that may still do so.
pub(super) fn reap_if_ours(pid: i32, born_by: u64) -> Option<i32> {
    // For want of a descriptor, mostly: another time.
    let Ok(seen) = procfs::look_at(pid) else {
        return Some(procfs::own_pid());
    };
    let seen = seen?;
    let pidfd = match Pidfd::open(Pid::new(pid)?) {
        Ok(pidfd) => pidfd,
        Err(error) if error.is_gone() => return None,
        Err(_) => return Some(seen.parent),
    };
    // Read after the opening, so that it is of the one that is held, or of a later one.
    let Ok(now) = procfs::look_at(pid) else {
        return Some(seen.parent);
    };
    let stat = now.filter(|stat| stat.start <= born_by)?;
    if stat.parent != procfs::own_pid() {
        return Some(stat.parent);
    }
    reap(&pidfd);
    None
}

/// Reaps a child that is dead.
pub(super) fn reap(pidfd: &Pidfd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let id = || WaitId::PidFd(pidfd.as_fd());
    matches!(
        rustix::io::retry_on_intr(|| waitid(id(), options)),
        Ok(Some(_))
    )
}
