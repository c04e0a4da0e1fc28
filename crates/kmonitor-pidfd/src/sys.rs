//! What the compiler cannot check: the system calls that rustix does not have,
//! and giving descriptors to tokio. Each behind a safe function.
//!
//! No decisions are made here: what an error means is the caller's business.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::ioctl::{Opcode, Updater, opcode};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

use crate::Pidfd;

/// `struct pidfd_info` of `include/uapi/linux/pidfd.h` in its first published
/// size. The kernel takes every size from 64 bytes up and fills as much as it
/// is given room for. The last word was a spare one before Linux 6.15.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

const PIDFD_GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// For [`pidfd_send_signal`]: the group whose number is the process's pid.
pub(crate) const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

/// The wait status of a reaped process, or `None` where the kernel does not have
/// it (yet).
pub(crate) fn pidfd_exit_code(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: PIDFD_GET_INFO reads and writes one `struct pidfd_info`, of the
    // size that is encoded in the opcode, which is that of `PidfdInfo`.
    let request = unsafe { Updater::<PIDFD_GET_INFO, PidfdInfo>::new(&mut info) };
    // SAFETY: `request` holds a valid, exclusive reference for the whole call,
    // and no bit pattern is invalid for the integers the kernel writes.
    unsafe { rustix::ioctl::ioctl(pidfd, request) }?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// `pidfd_send_signal(2)` without a siginfo of the caller's. Zero sends nothing
/// and only checks. The numbers that the C library keeps for itself are refused.
/// `flags` are the kernel's; one that does not know them says `EINVAL`.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32, flags: u32) -> io::Result<()> {
    let ours = (0..32).contains(&signal) || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal);
    if !ours {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the arguments are an open descriptor and integers; the siginfo
    // pointer may be null, and then the kernel fills in its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Owners of one descriptor that is open, and stays the same, until they drop.
pub(crate) trait OneDescriptor: AsRawFd {}

impl OneDescriptor for OwnedFd {}
/// Has one `OwnedFd`, which nothing replaces, and which leaves it by value only.
impl OneDescriptor for Pidfd {}

/// Registers a descriptor with the reactor of the current runtime, for reading.
/// Panics where there is no runtime, or it has no I/O.
pub(crate) fn register<T: OneDescriptor>(owner: T) -> Result<AsyncFd<T>, AsyncFdRegisterError<T>> {
    // SAFETY: `OneDescriptor` is implemented above only for types that keep their
    // descriptor open and unchanged while they live.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn signals_that_do_not_exist_or_are_the_c_librarys_are_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        for signal in [-1, 32, 33, 65, i32::MIN, i32::MAX] {
            let error = pidfd_send_signal(null.as_fd(), signal, 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{signal}");
        }
    }

    #[test]
    fn what_is_no_pidfd_has_no_exit_code() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(pidfd_exit_code(null.as_fd()).is_err());
    }
}
