//! Who calls: from the thread that FUSE names to the process it belongs to.
//!
//! The number cannot become another task's meanwhile: a request that the server
//! has read is waited for by its caller uninterruptibly (`request_wait_answer`
//! in `fs/fuse/dev.c`), even when killed, so the thread exists until it is
//! answered. A pidfd is held and checked all the same: it costs little, and an
//! aborted connection lets callers go.

use std::num::NonZeroI32;

use kmonitor_event::Pid;
use kmonitor_pidfd::{Pidfd, Readiness};
use rustix::io::Errno;

use crate::procfs::value;

/// A process that called, held by a pidfd.
#[derive(Debug)]
pub(crate) struct Caller {
    pidfd: Pidfd,
}

/// Why a caller cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallerError {
    /// Signals into another pid namespace carry no `si_pid`.
    #[error("it is in another pid namespace, where si_pid would read 0")]
    OtherNamespace,
    /// It went away while it called.
    #[error("it has ended")]
    Gone,
    /// `/proc` did not say.
    #[error("/proc does not say which process it is")]
    Unknown,
}

impl CallerError {
    pub(crate) fn errno(self) -> Errno {
        match self {
            Self::OtherNamespace => Errno::OPNOTSUPP,
            Self::Gone => Errno::SRCH,
            Self::Unknown => Errno::IO,
        }
    }
}

impl Caller {
    /// The process of a thread.
    pub(crate) fn identify(tid: u32) -> Result<Self, CallerError> {
        // The kernel gives zero to those it cannot see from here.
        let tid = i32::try_from(tid).ok().and_then(NonZeroI32::new);
        let tid = tid.ok_or(CallerError::OtherNamespace)?;
        let process = process_of(tid)?;
        let pidfd = Pidfd::open(process).map_err(|_| CallerError::Gone)?;
        let caller = Self { pidfd };
        if process_of(tid)? != process || !caller.lives() {
            return Err(CallerError::Gone);
        }
        Ok(caller)
    }

    pub(crate) fn process(&self) -> Pid {
        self.pidfd.pid()
    }

    /// Whether the process has not ended.
    pub(crate) fn lives(&self) -> bool {
        matches!(self.pidfd.readiness(), Ok(Readiness::Alive))
    }
}

fn process_of(tid: NonZeroI32) -> Result<Pid, CallerError> {
    let status = std::fs::read(format!("/proc/{tid}/status")).map_err(|_| CallerError::Gone)?;
    let status = parse(&status).ok_or(CallerError::Unknown)?;
    // One number for each namespace, from that of this /proc to its own.
    if status.depth != 1 {
        return Err(CallerError::OtherNamespace);
    }
    Ok(status.process)
}

/// Whether `/proc` tells of the pid namespace that this process is in. FUSE
/// names callers as that namespace numbers them.
pub(crate) fn proc_is_ours() -> bool {
    let status = std::fs::read("/proc/self/status").ok();
    let status = status.and_then(|status| parse(&status));
    status.is_some_and(|status| status.depth == 1 && status.process == Pid::current())
}

#[derive(Debug, PartialEq, Eq)]
struct Status {
    process: Pid,
    /// In how many pid namespaces the thread has a number, from here downwards.
    depth: usize,
}

fn parse(status: &[u8]) -> Option<Status> {
    let status = String::from_utf8_lossy(status);
    let process = value(&status, "Tgid:")?.trim().parse().ok()?;
    // Linux 4.1; no kernel with pidfds is without.
    let depth = value(&status, "NSpid:")?.split_ascii_whitespace().count();
    Some(Status { process, depth })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_counted() {
        let text = b"Name:\tTgid:\\n9\nUmask:\t0022\nTgid:\t7\nNgid:\t0\nPid:\t8\nNSpid:\t8\t2\n";
        let process = Pid::new(7).unwrap();
        assert_eq!(parse(text), Some(Status { process, depth: 2 }));
        for end in 0..text.len() - 2 {
            let _ = parse(&text[..end]);
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"Tgid:\t0\nNSpid:\t1\n"), None);
        assert_eq!(parse(b"Tgid:\t5\n"), None);
    }

    #[test]
    fn a_thread_is_its_process() {
        assert!(proc_is_ours());
        let caller = std::thread::spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            assert_ne!(tid, Pid::current().as_raw());
            Caller::identify(tid.cast_unsigned())
        });
        let caller = caller.join().unwrap().unwrap();
        assert_eq!(caller.process(), Pid::current());
        assert!(caller.lives());
    }

    #[test]
    fn who_cannot_be_seen_is_in_another_namespace() {
        let refused = |tid| Caller::identify(tid).unwrap_err();
        assert_eq!(refused(0), CallerError::OtherNamespace);
        assert_eq!(refused(i32::MAX.cast_unsigned()), CallerError::Gone);
        assert_eq!(refused(u32::MAX), CallerError::OtherNamespace);
    }
}
