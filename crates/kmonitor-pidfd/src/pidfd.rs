//! One pidfd, and what can be asked of it.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use kmonitor_event::{Pid, ProcessRef, Status, StatusSource, UnknownReason};
use kmonitor_source::{Identity, ProbeError, WatchError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::process::{PidfdFlags, WaitId, pidfd_open};

use crate::{error, procfs, status, sys};

/// `f_type` of the file system that pidfds live in since Linux 6.9. Before,
/// they all share one inode, which identifies nothing.
const PIDFS_MAGIC: u64 = 0x5049_4446;

/// How far a process is on its way out of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Readiness {
    /// At least one of its threads lives.
    Alive,
    /// All its threads are dead, and its parent has not reaped it.
    Zombie,
    /// Its parent has reaped it, and its pid is free.
    Reaped,
}

/// A descriptor that names one process, and never another, while it is held.
///
/// Holding one keeps neither the process nor its pid. It is closed on exec.
///
/// ```
/// use kmonitor_event::Pid;
/// use kmonitor_pidfd::{Pidfd, Readiness};
///
/// let myself = Pidfd::open(Pid::current())?;
/// assert_eq!(myself.readiness()?, Readiness::Alive);
/// assert_eq!(myself.status()?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Minimum kernel version
/// 5.3 (`pidfd_open`); methods that need more say so.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
    pid: Pid,
    /// Whether inodes identify, and whether poll tells of the reaping (both 6.9).
    pidfs: bool,
}

impl Pidfd {
    /// Opens the process that has this pid now, zombie or not.
    ///
    /// # Errors
    /// * `Gone`: there is none.
    /// * `Thread`: the number is that of a thread other than a process's first.
    ///   Kernels say so differently (`EINVAL`, since 6.9 `ENOENT`), and older
    ///   ones say `EINVAL` of a process that goes away just now too; `/proc`
    ///   tells these apart.
    /// * `Denied`: `pidfd_open` does not work here at all.
    /// * `Io`: no descriptor left, among others.
    pub fn open(pid: Pid) -> Result<Self, ProbeError> {
        match Self::open_raw(pid) {
            Ok(pidfd) => Ok(pidfd),
            Err(Errno::SRCH) => Err(ProbeError::Gone { pid }),
            Err(Errno::INVAL | Errno::NOENT) => {
                let tid = pid.leader();
                match procfs::thread_group(tid) {
                    // A process has the number now: it must be a new one.
                    Some(group) if group == pid => {
                        Self::open_raw(pid).map_err(|_| ProbeError::Gone { pid })
                    }
                    Some(group) => Err(ProbeError::Thread {
                        tid,
                        process: Some(group),
                    }),
                    None if procfs::exists(pid) => Err(ProbeError::Thread { tid, process: None }),
                    None => Err(ProbeError::Gone { pid }),
                }
            }
            Err(error) => Err(error::open_failed(pid, error)),
        }
    }

    fn open_raw(pid: Pid) -> Result<Self, Errno> {
        // Close-on-exec is implied.
        let fd = pidfd_open(procfs::raw(pid), PidfdFlags::empty())?;
        let pidfs = has_pidfs(fd.as_fd());
        Ok(Self { fd, pid, pidfs })
    }

    /// Opens a process by `PID` or `PID:INODE`.
    ///
    /// # Errors
    /// As [`open`](Self::open), and `Reused` where the pid belongs to a process
    /// with another inode now. Where inodes do not identify, one that is given
    /// cannot be verified, and is refused (`Io`, [`io::ErrorKind::Unsupported`]).
    ///
    /// # Minimum kernel version
    /// 6.9 for `PID:INODE`.
    pub fn open_ref(process: ProcessRef) -> Result<Self, ProbeError> {
        let pidfd = Self::open(process.pid)?;
        if let Some(inode) = process.inode {
            pidfd.verify(Identity::Inode(inode))?;
        }
        Ok(pidfd)
    }

    /// Takes over a descriptor, after making sure that it is a pidfd, and finds
    /// out the pid. Sets close-on-exec.
    ///
    /// One that was opened with `PIDFD_THREAD` for a process's first thread is
    /// exchanged for one of the process, because it would tell of the end of
    /// that thread.
    ///
    /// # Errors
    /// * [`WatchError::NotAPidfd`].
    /// * [`WatchError::PidfdReaped`], with the status where the kernel tells it:
    ///   the process was reaped, and its pid cannot be known any more.
    /// * [`WatchError::Probe`]: it is the pidfd of a thread.
    /// * [`WatchError::Io`]: the process is in no pid namespace of ours, or
    ///   `/proc` could not be read.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, WatchError> {
        let io = |action| move |source| WatchError::Io { action, source };
        let info = procfs::fdinfo(fd.as_raw_fd()).map_err(io("read /proc/self/fdinfo"))?;
        let Some(raw) = info.pid else {
            return Err(WatchError::NotAPidfd);
        };
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)
            .map_err(|errno| io("set close-on-exec")(errno.into()))?;
        let Some(pid) = Pid::new(raw) else {
            return Err(if raw == 0 {
                io("find the pid of the pidfd's process")(io::Error::new(
                    io::ErrorKind::NotFound,
                    "it is not in this pid namespace",
                ))
            } else {
                WatchError::PidfdReaped {
                    status: exit_status(fd.as_fd()),
                }
            });
        };
        let pidfs = has_pidfs(fd.as_fd());
        let given = Self { fd, pid, pidfs };
        if !info.thread {
            return Ok(given);
        }
        // Fails with the right error where the thread leads no process.
        let process = Self::open(pid)?;
        // Both live in pidfs, and have one inode if they are of one process.
        process.verify(given.identity()?)?;
        Ok(process)
    }

    /// The pid. It belongs to the process until [`Readiness::Reaped`].
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The inode that identifies the process until the next boot.
    ///
    /// # Minimum kernel version
    /// 6.9; `None` before.
    #[must_use]
    pub fn inode(&self) -> Option<NonZeroU64> {
        if !self.pidfs {
            return None;
        }
        NonZeroU64::new(rustix::fs::fstat(&self.fd).ok()?.st_ino)
    }

    /// What tells the process from all others: its inode, or its start time
    /// where the kernel has none.
    ///
    /// # Errors
    /// Only for want of an inode: it was reaped, or `/proc` hides it.
    pub fn identity(&self) -> Result<Identity, ProbeError> {
        match self.inode() {
            Some(inode) => Ok(Identity::Inode(inode)),
            None => self.start_time().map(Identity::StartTime),
        }
    }

    /// The start time, in clock ticks since boot.
    fn start_time(&self) -> Result<u64, ProbeError> {
        let stat = procfs::stat(self.pid)?;
        // Not reaped after the reading, so its pid was its own during it.
        if self.state()? == Readiness::Reaped {
            return Err(ProbeError::Gone { pid: self.pid });
        }
        Ok(stat.start_time)
    }

    /// Makes sure that this is the process meant.
    ///
    /// # Errors
    /// `Reused` where it is another one; `Io` where this kernel cannot tell;
    /// and those of [`identity`](Self::identity).
    pub fn verify(&self, expected: Identity) -> Result<(), ProbeError> {
        let found = match expected {
            Identity::Inode(_) => Identity::Inode(self.inode().ok_or_else(error::cannot_verify)?),
            Identity::StartTime(_) => Identity::StartTime(self.start_time()?),
            _ => self.identity()?,
        };
        if found == expected {
            Ok(())
        } else {
            Err(ProbeError::Reused {
                pid: self.pid,
                expected,
                found,
            })
        }
    }

    /// How far the process is on its way out, now.
    ///
    /// A process is a zombie only when all its threads are dead; that its first
    /// thread has exited, or that another one is in `execve`, is still
    /// [`Alive`](Readiness::Alive) (`pidfd_poll` in `fs/pidfs.c`).
    ///
    /// # Errors
    /// Those of `poll(2)`: out of memory.
    pub fn readiness(&self) -> io::Result<Readiness> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))?;
        let [fd] = fds;
        let events = fd.revents();
        Ok(if events.contains(PollFlags::HUP) {
            Readiness::Reaped
        } else if events.is_empty() {
            Readiness::Alive
        } else if !self.pidfs && self.is_reaped_by_fdinfo() {
            Readiness::Reaped
        } else {
            Readiness::Zombie
        })
    }

    /// Before 6.9 poll says the same of a zombie and of a reaped process, and
    /// only fdinfo tells them apart.
    fn is_reaped_by_fdinfo(&self) -> bool {
        procfs::fdinfo(self.fd.as_raw_fd()).is_ok_and(|info| info.pid == Some(-1))
    }

    pub(crate) fn state(&self) -> Result<Readiness, ProbeError> {
        self.readiness().map_err(|source| ProbeError::Io {
            action: "poll a pidfd",
            source,
        })
    }

    /// Whether the descriptor wakes its waiters when the process is reaped.
    pub(crate) fn wakes_at_reap(&self) -> bool {
        self.pidfs
    }

    /// The best status that can be had now; `None` while the process lives.
    ///
    /// Of a zombie: what `waitid` tells its parent, or what `/proc/PID/stat`
    /// tells those who may ptrace it, else [`Status::Pending`]. After the
    /// reaping: [`exit_info`](Self::exit_info). Nothing is reaped.
    ///
    /// # Errors
    /// As [`readiness`](Self::readiness).
    pub fn status(&self) -> io::Result<Option<Status>> {
        let readiness = self.readiness()?;
        self.status_when(readiness)
    }

    /// The status of a process that was just found to be in this state.
    pub(crate) fn status_when(&self, readiness: Readiness) -> io::Result<Option<Status>> {
        Ok(match readiness {
            Readiness::Alive => None,
            Readiness::Reaped => Some(self.exit_info()),
            Readiness::Zombie => Some(self.zombie_status()?),
        })
    }

    fn zombie_status(&self) -> io::Result<Status> {
        if let Some(status) = status::waited(&WaitId::PidFd(self.fd.as_fd())) {
            return Ok(status);
        }
        let read = procfs::stat(self.pid)
            .ok()
            .and_then(|stat| status::of_zombie(self.pid, &stat));
        // The files belonged to this process only if it was not reaped meanwhile.
        if self.readiness()? == Readiness::Reaped {
            return Ok(self.exit_info());
        }
        Ok(read.unwrap_or(Status::Pending))
    }

    /// The status that the kernel kept with this descriptor when the process was
    /// reaped; anybody may ask.
    ///
    /// [`Status::Pending`] until then, and `Unknown(KernelTooOld)` where the
    /// kernel does not tell.
    ///
    /// # Where the kernel errs
    /// `pidfs_exit` notes the code of the process's first thread, and `waitpid`
    /// says that of `exit_group` or the fatal signal. They differ where the
    /// first thread was on its way through `exit(2)` (not `exit_group`) while
    /// another ended the whole process, and finished last: seen on 6.18, where
    /// this says 7 and `waitpid` 5. Before 6.16 they differ whenever the first
    /// thread exited by itself and another ended the process with another code.
    /// The status of a zombie has no such flaw, which is why it is preferred.
    ///
    /// # Minimum kernel version
    /// 6.15 (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`).
    #[must_use]
    pub fn exit_info(&self) -> Status {
        exit_status(self.fd.as_fd())
    }

    /// Sends a signal to this very process, never to another that has its pid.
    ///
    /// Zero sends nothing, and only checks that a signal could be sent.
    ///
    /// # Errors
    /// `ESRCH`: reaped. `EPERM`: not allowed. `EAGAIN`: its queue of real-time
    /// signals is full. [`io::ErrorKind::InvalidInput`]: no signal has that
    /// number, or the C library keeps it for itself.
    ///
    /// # Minimum kernel version
    /// 5.1 (`pidfd_send_signal`).
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.fd.as_fd(), signal, 0)
    }

    /// Sends a signal to the process group that has this process's pid for a number,
    /// never to another one of that number: all at once, so that a child that is being
    /// forked gets it too. Also when the process itself was reaped, as long as anybody
    /// is in its group.
    ///
    /// Zero sends nothing, and asks whether anybody is in it: dead ones that are not
    /// reaped count.
    ///
    /// # Errors
    /// `ESRCH`: nobody is in it. `EPERM`: allowed for none of them. `EINVAL`: the kernel
    /// is too old. [`io::ErrorKind::InvalidInput`]: as for
    /// [`send_signal`](Self::send_signal).
    ///
    /// # Minimum kernel version
    /// 6.9 (`PIDFD_SIGNAL_PROCESS_GROUP`, `kernel/signal.c`).
    pub fn send_signal_to_group(&self, signal: i32) -> io::Result<()> {
        let flags = sys::PIDFD_SIGNAL_PROCESS_GROUP;
        sys::pidfd_send_signal(self.fd.as_fd(), signal, flags)
    }

    /// As if the kernel had no pidfs, for tests of what is done then.
    #[cfg(test)]
    pub(crate) fn forget_pidfs(mut self) -> Self {
        self.pidfs = false;
        self
    }
}

fn exit_status(fd: BorrowedFd<'_>) -> Status {
    match sys::pidfd_exit_code(fd) {
        Ok(Some(raw)) => Status::from_raw(raw, StatusSource::PidfdInfo),
        Ok(None) => Status::Pending,
        // ENOTTY or EINVAL: no such ioctl. ESRCH: it exists (6.13), and knows
        // nothing of reaped processes.
        Err(_) => Status::Unknown(UnknownReason::KernelTooOld),
    }
}

/// Whether pidfds have inodes of their own here. Asked of the kernel once.
fn has_pidfs(fd: BorrowedFd<'_>) -> bool {
    static PIDFS: OnceLock<bool> = OnceLock::new();
    *PIDFS.get_or_init(|| {
        rustix::fs::fstatfs(fd).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(PIDFS_MAGIC))
    })
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> OwnedFd {
        pidfd.fd
    }
}

#[cfg(test)]
mod tests;
