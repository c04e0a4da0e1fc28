//! What the compiler cannot check: running code between fork and exec, the system
//! calls for it that rustix does not have, and giving descriptors to tokio. Each
//! behind a safe function.
//!
//! No decisions are made here: what an error means is the caller's business.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use kmonitor_pidfd::Pidfd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a child does between fork and exec.
///
/// It runs in a copy of a program that has other threads, so an implementation must
/// not allocate, lock or panic: system calls and arithmetic only.
pub(crate) trait BetweenForkAndExec: Send + Sync + 'static {
    /// Runs in the child. An error ends it, and its number is all that the parent
    /// gets.
    fn run(&self) -> Result<(), i32>;
}

/// Has a command's child do that before it executes its program.
pub(crate) fn between_fork_and_exec(command: &mut Command, steps: impl BetweenForkAndExec) {
    // SAFETY: `BetweenForkAndExec` requires what `pre_exec` does: nothing but
    // async-signal-safe calls, no memory management and no locks. `run` keeps to
    // system calls; an `io::Error` made from a number does not allocate.
    unsafe {
        command.pre_exec(move || steps.run().map_err(io::Error::from_raw_os_error));
    }
}

/// Gives every signal its default action. What was ignored would stay so beyond exec.
/// By the system call: the C library refuses two signals that it keeps for itself,
/// which somebody above us may have ignored all the same.
pub(crate) fn reset_signal_actions() {
    /// At least as large as the kernel's `struct sigaction` of any architecture.
    const DEFAULT_ACTION: [u64; 8] = [0; 8];
    for signal in 1..=SIGNALS {
        // SAFETY: the kernel reads a `struct sigaction` of its own, which is all zero
        // for the default action, and writes nothing. KILL and STOP are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                std::ptr::null::<u64>(),
                SIGNALS / 8,
            )
        };
    }
}

/// Blocks no signal, whatever the forking thread blocked.
pub(crate) fn unblock_signals() {
    const NONE: [u64; 2] = [0; 2];
    // SAFETY: the kernel reads a signal set of the size told, and writes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            NONE.as_ptr(),
            std::ptr::null::<u64>(),
            SIGNALS / 8,
        )
    };
}

/// How many signals there are: 64, on MIPS 128.
const SIGNALS: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) {
    128
} else {
    64
};

/// Marks all descriptors from `first` on to be closed on exec. Before Linux 5.11
/// nothing happens.
pub(crate) fn close_on_exec_from(first: RawFd) {
    let Ok(first) = libc::c_uint::try_from(first) else {
        return;
    };
    // SAFETY: three integers; with CLOEXEC no descriptor is closed now.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Makes `number` another name of `fd` that stays open on exec. What had the number
/// is closed: for a process that is about to exec.
pub(crate) fn place(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), i32> {
    let result = if fd.as_raw_fd() == number {
        // SAFETY: `fd` is open, and F_SETFD takes an integer.
        unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
    } else {
        // SAFETY: two integers. The caller is a child between fork and exec, where
        // nobody uses what had the number any more.
        unsafe { libc::dup2(fd.as_raw_fd(), number) }
    };
    if result < 0 {
        Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(())
    }
}

/// A pidfd that others hold too.
#[derive(Debug, Clone)]
pub(crate) struct SharedPidfd(pub(crate) Arc<Pidfd>);

impl AsRawFd for SharedPidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Registers a pidfd with the reactor of the current runtime.
pub(crate) fn register_pidfd(pidfd: Arc<Pidfd>) -> io::Result<AsyncFd<SharedPidfd>> {
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    // SAFETY: a `Pidfd` keeps one descriptor open and unchanged while it lives, and
    // the `Arc` keeps it alive as long as the registration.
    Ok(unsafe { AsyncFd::register_with_interest(SharedPidfd(pidfd), Interest::READABLE) }?)
}

/// Registers a file whose changes the kernel tells as POLLPRI.
pub(crate) fn register_notified(file: File) -> io::Result<AsyncFd<File>> {
    tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
    // SAFETY: a `File` has one descriptor, open and unchanged while it lives.
    Ok(unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?)
}
