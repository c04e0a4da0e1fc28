//! What the compiler cannot check: the system calls that rustix does not have,
//! and giving descriptors to tokio. Each behind a safe function.
//!
//! No decisions are made here: what an error means is the caller's business.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use kmonitor_pidfd::Pidfd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::Signal;

/// What a queued signal carries (`struct __rt` of `siginfo.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Queued {
    pid: libc::pid_t,
    uid: libc::uid_t,
    value: libc::sigval,
}

/// The whole of it. The alignment of `queued`, which holds a pointer, puts it
/// where the kernel's union begins, on 32 and 64 bits alike.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    /// `si_signo`, `si_errno` and `si_code`, in the order of the architecture.
    head: [i32; 3],
    queued: Queued,
}

#[repr(C)]
union SigInfo {
    libc: libc::siginfo_t,
    ours: Info,
}

const _: () = assert!(size_of::<Info>() <= size_of::<libc::siginfo_t>());
const _: () = assert!(align_of::<Info>() <= align_of::<libc::siginfo_t>());

/// `pidfd_send_signal(2)` with a siginfo as `sigqueue(3)` makes it, but for pid
/// and uid, which are the caller's to say: the kernel lets any sender fill these
/// in as long as `si_code` is negative (`kernel/signal.c`,
/// `do_pidfd_send_signal`).
pub(crate) fn queue_signal(
    monitor: BorrowedFd<'_>,
    signal: Signal,
    pid: i32,
    uid: u32,
    value: i32,
) -> io::Result<()> {
    // SAFETY: all zeroes are a valid siginfo, which is plain integers.
    let mut info: SigInfo = unsafe { std::mem::zeroed() };
    // As libc reads it back, the value is the int at the beginning of the union.
    let mut bytes = [0_u8; size_of::<libc::sigval>()];
    bytes[..4].copy_from_slice(&value.to_ne_bytes());
    // One by one, so that what lies between them stays zero: the receiver sees it.
    info.ours.queued.pid = pid;
    info.ours.queued.uid = uid;
    info.ours.queued.value = libc::sigval {
        sival_ptr: std::ptr::without_provenance_mut(usize::from_ne_bytes(bytes)),
    };
    // SAFETY: the union is initialized, and any integers are a valid siginfo.
    let head = unsafe { &mut info.libc };
    head.si_signo = signal.as_raw();
    head.si_errno = 0;
    head.si_code = libc::SI_QUEUE;
    // SAFETY: the arguments are an open descriptor, integers, and a pointer to a
    // whole siginfo that outlives the call, which only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            monitor.as_raw_fd(),
            signal.as_raw(),
            &raw const info,
            0_u32,
        )
    };
    check(result)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: all zeroes are a valid set: the empty one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in signals {
        // SAFETY: the set is initialized; a bad number would only be refused.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    set
}

/// Blocks signals in the calling thread, and in those that it starts.
pub(crate) fn block(signals: &[Signal]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: `set` is a valid set, and the old mask is not asked for.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A descriptor that signals are read from, without blocking.
pub(crate) fn signalfd(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: `set` is a valid set, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Owners of one descriptor that is open, and stays the same, until they drop.
pub(crate) trait OneDescriptor: AsRawFd {}

impl OneDescriptor for OwnedFd {}
/// Has one `OwnedFd`, which nothing replaces, and which leaves it by value only.
impl OneDescriptor for Pidfd {}

/// Registers a descriptor with the reactor of the current runtime, for reading.
/// Panics where there is no runtime, or it has no I/O.
pub(crate) fn register<T: OneDescriptor>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `OneDescriptor` is implemented above only for types that keep their
    // descriptor open and unchanged while they live.
    let registered = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_sent_lies_where_libc_reads_it() {
        let queued = Queued {
            pid: 11,
            uid: 22,
            value: libc::sigval {
                sival_ptr: std::ptr::null_mut(),
            },
        };
        let info = SigInfo {
            ours: Info {
                head: [1, 2, 3],
                queued,
            },
        };
        // SAFETY: any integers are a valid siginfo.
        let libc = unsafe { &info.libc };
        // SAFETY: pid and uid lie at the same place in all members that have them.
        let (pid, uid) = (unsafe { libc.si_pid() }, unsafe { libc.si_uid() });
        assert_eq!((pid, uid), (11, 22));
    }

    #[test]
    fn what_is_no_pidfd_gets_no_signal() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let signal = Signal::realtime(0).unwrap();
        assert!(queue_signal(null.as_fd(), signal, 1, 0, 1).is_err());
    }
}
