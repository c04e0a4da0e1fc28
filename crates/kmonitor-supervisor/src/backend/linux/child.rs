//! What a child does between fork and exec, in its own words to the state file.
//!
//! # No double start
//! **Claim**: whoever has executed a program is recorded. The child itself appends
//! who it is to its record, by one `write(2)` of a line within one page, before it
//! executes anything; if that fails it ends. So no answer of the supervisor's is
//! needed, and it does not matter when the supervisor dies: a child that it leaves
//! behind between fork and exec either ends or records itself. And until it has done
//! one of both nobody looks at the record, because the child holds a copy of the
//! supervisor's lock (`flock` belongs to the open file, which fork shares and exec
//! closes): the next supervisor gets the lock only after that.
//!
//! What could refute it: SIGKILL to the supervisor at any of its system calls, and
//! then a child that runs and is not adopted (`tests/linux/killed.rs`).

use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use super::procfs;
use crate::sys::{self, BetweenForkAndExec};

/// The steps of a child before exec, to say at which one it failed. Exec itself, and
/// what the standard library does before, has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Session = 1,
    Cgroup,
    Record,
    User,
    Directory,
    Notify,
}

/// The standard library hands an error's number to the parent as 32 bits. The step
/// goes into the upper ones: no error of the kernel's is above 4 095.
const STEP_SHIFT: i32 = 16;

impl Step {
    const ALL: [Self; 6] = [
        Self::Session,
        Self::Cgroup,
        Self::Record,
        Self::User,
        Self::Directory,
        Self::Notify,
    ];

    fn failed(self, errno: Errno) -> i32 {
        ((self as i32) << STEP_SHIFT) | errno.raw_os_error()
    }

    /// The step, if it was one, and the number of the error.
    pub(super) fn of_error(raw: i32) -> (Option<Self>, i32) {
        let step = Self::ALL
            .into_iter()
            .find(|step| *step as i32 == raw >> STEP_SHIFT);
        match step {
            Some(step) => (Some(step), raw & ((1 << STEP_SHIFT) - 1)),
            None => (None, raw),
        }
    }
}

/// All that the steps need, made before fork: after it nothing may be allocated.
#[derive(Debug, Default)]
pub(super) struct ChildSide {
    /// `cgroup.procs` of the cgroup it goes to, open for writing.
    pub(super) cgroup: Option<File>,
    /// Its record, open for appending.
    pub(super) record: Option<File>,
    /// User and group.
    pub(super) user: Option<(u32, u32)>,
    pub(super) dir: Option<CString>,
    /// What to write a newline to when ready, and the number it is to have.
    pub(super) notify: Option<(OwnedFd, RawFd)>,
}

impl BetweenForkAndExec for ChildSide {
    fn run(&self) -> Result<(), i32> {
        // Fails only for a group's leader, which a new process is not.
        rustix::process::setsid().map_err(|errno| Step::Session.failed(errno))?;
        if let Some(procs) = &self.cgroup {
            write_once(procs, b"0").map_err(|errno| Step::Cgroup.failed(errno))?;
        }
        if let Some(record) = &self.record {
            record_self(record).map_err(|errno| Step::Record.failed(errno))?;
        }
        if let Some((user, group)) = self.user {
            become_user(user, group).map_err(|errno| Step::User.failed(errno))?;
        }
        if let Some(dir) = &self.dir {
            rustix::process::chdir(dir).map_err(|errno| Step::Directory.failed(errno))?;
        }
        sys::reset_signal_actions();
        sys::unblock_signals();
        // Also what the application opened without close-on-exec.
        sys::close_on_exec_from(3);
        if let Some((fd, number)) = &self.notify {
            sys::place(fd.as_fd(), *number)
                .map_err(|raw| Step::Notify.failed(Errno::from_raw_os_error(raw)))?;
        }
        Ok(())
    }
}

fn write_once(file: &File, bytes: &[u8]) -> Result<(), Errno> {
    match rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))? {
        all if all == bytes.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}

fn become_user(user: u32, group: u32) -> Result<(), Errno> {
    // The C library's numbers for "leave it" are nobody's.
    if user == u32::MAX || group == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (user, group) = (
        rustix::fs::Uid::from_raw(user),
        rustix::fs::Gid::from_raw(group),
    );
    let is_user = rustix::process::getuid() == user && rustix::process::getgid() == group;
    // Who is that already may not have the privilege to say so.
    match set_thread_groups(&[group]) {
        Err(Errno::PERM) if is_user => {}
        other => other?,
    }
    // These are of the one thread there is.
    set_thread_gid(group)?;
    set_thread_uid(user)
}

/// Appends `process PID INODE START`.
fn record_self(record: &File) -> Result<(), Errno> {
    let me = rustix::process::getpid();
    let inode = pidfd_open(me, PidfdFlags::empty())
        .and_then(rustix::fs::fstat)
        .map_or(0, |stat| stat.st_ino);
    let mut line = [0_u8; 96];
    let mut rest = line.as_mut_slice();
    let pid = me.as_raw_nonzero();
    writeln!(rest, "process {pid} {inode} {}", own_start()).map_err(|_| Errno::OVERFLOW)?;
    let unused = rest.len();
    let used = line.len() - unused;
    write_once(record, line.get(..used).unwrap_or_default())
}

/// 0 where `/proc` does not tell.
fn own_start() -> u64 {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut bytes = [0; 1024];
    let length = rustix::fs::open(c"/proc/self/stat", flags, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut bytes));
    length
        .ok()
        .and_then(|length| procfs::parse_stat(bytes.get(..length)?))
        .map_or(0, |stat| stat.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_its_error_come_through_as_one_number() {
        for step in Step::ALL {
            let raw = step.failed(Errno::ACCESS);
            assert_eq!(
                Step::of_error(raw),
                (Some(step), Errno::ACCESS.raw_os_error())
            );
        }
        assert_eq!(Step::of_error(2), (None, 2));
    }
}
