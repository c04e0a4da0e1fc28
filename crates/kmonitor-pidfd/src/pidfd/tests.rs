//! What a pidfd tells on kernels that tell less than this one.

use std::process::{Command, Stdio};

use super::*;
use crate::watch::Waiter;

/// On this kernel the answers of an older one are known to be right, because
/// the newer means say the same.
#[tokio::test]
async fn without_pidfs_zombie_and_reaped_are_told_apart_by_fdinfo() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = Pid::try_from(child.id()).unwrap();
    let old = Pidfd::open(pid).unwrap().forget_pidfs();
    let new = Pidfd::open(pid).unwrap();
    let mut waiter = Waiter::holding(Pidfd::open(pid).unwrap().forget_pidfs());
    assert_eq!(old.inode(), None);
    let identity = old.identity().unwrap();
    assert!(matches!(identity, Identity::StartTime(_)));
    new.verify(identity).unwrap();
    assert_eq!(old.readiness().unwrap(), Readiness::Alive);
    drop(child.stdin.take());
    let seen = waiter.reached(Readiness::Zombie).await.unwrap();
    assert_eq!(seen.readiness, Readiness::Zombie);
    assert_eq!(old.readiness().unwrap(), Readiness::Zombie);
    child.wait().unwrap();
    assert_eq!(new.readiness().unwrap(), Readiness::Reaped);
    assert!(old.is_reaped_by_fdinfo());
    assert_eq!(old.readiness().unwrap(), Readiness::Reaped);
    assert!(old.identity().unwrap_err().is_gone());
    // Nothing wakes it, so it looks again by itself.
    let seen = waiter.reached(Readiness::Reaped).await.unwrap();
    assert_eq!(seen.readiness, Readiness::Reaped);
}

#[test]
fn an_inode_cannot_be_verified_without_pidfs() {
    let pid = Pid::current();
    let inode = Pidfd::open(pid).unwrap().inode().unwrap();
    let old = Pidfd::open(pid).unwrap().forget_pidfs();
    let error = old.verify(Identity::Inode(inode)).unwrap_err();
    assert!(matches!(error, ProbeError::Io { .. }), "{error:?}");
}

#[test]
fn a_pidfd_of_a_first_thread_is_exchanged_for_one_of_the_process() {
    // PIDFD_THREAD, which is O_EXCL.
    let flags = PidfdFlags::from_bits_retain(rustix::fs::OFlags::EXCL.bits());
    let thread = pidfd_open(procfs::raw(Pid::current()), flags).unwrap();
    let raw = thread.as_raw_fd();
    assert!(procfs::fdinfo(raw).unwrap().thread);
    let process = Pidfd::from_fd(thread).unwrap();
    assert!(!procfs::fdinfo(process.as_raw_fd()).unwrap().thread);
    assert_eq!(process.pid(), Pid::current());
}

#[test]
fn what_is_taken_over_is_closed_on_exec() {
    let fd: OwnedFd = Pidfd::open(Pid::current()).unwrap().into();
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    let taken = Pidfd::from_fd(fd).unwrap();
    let flags = rustix::io::fcntl_getfd(&taken).unwrap();
    assert!(flags.contains(FdFlags::CLOEXEC));
}
