//! `watch` where `pidfd_open` is blocked, by a real seccomp filter.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::future::IntoFuture;

use common::{
    Foreign, Held, LEADER_FIRST, NOBODY, as_user, block_on, state_of, until,
    with_pidfd_open_answering,
};
use kmonitor_event::{Status, StatusSource, UnknownReason};
use kmonitor_pidfd::{Mechanism, Pidfd, watch};
use kmonitor_source::{ProbeError, WatchError};

#[test]
fn it_polls_and_says_so() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut child = Held::shell("exit 7", None);
        let pid = child.pid();
        with_pidfd_open_answering(errno, || {
            let mut watch = watch(pid);
            assert_eq!(watch.mechanism(), Some(Mechanism::Polling));
            assert_eq!(watch.process().unwrap().inode(), None);
            block_on(async {
                child.make_zombie();
                let exit = watch.exited().await.unwrap();
                assert_eq!(exit.status, Status::from_raw(0x700, StatusSource::Waited));
                child.reap();
                assert_eq!(watch.reaped().await.unwrap(), exit);
            });
        });
    }
}

#[test]
fn the_end_of_the_first_thread_is_not_the_end() {
    let mut child = Held::python(LEADER_FIRST);
    let pid = child.pid();
    until("the first thread is dead", || state_of(pid) == 'Z');
    with_pidfd_open_answering(libc::EPERM, || {
        let mut watch = watch(pid);
        block_on(async {
            let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut watch);
            assert!(early.await.is_err(), "the second thread lives");
            child.make_zombie();
            assert_eq!(watch.await.unwrap().status.code(), Some(5));
        });
    });
}

#[test]
#[ignore = "needs root"]
fn a_strangers_status_cannot_be_observed_and_is_not_made_up() {
    let mut child = Foreign::shell("exit 0");
    let pid = child.pid();
    as_user(NOBODY, || {
        with_pidfd_open_answering(libc::EPERM, || {
            let mut watch = watch(pid);
            block_on(async {
                child.make_zombie();
                let exit = (&mut watch).await.unwrap();
                assert_eq!(exit.status, Status::Unknown(UnknownReason::NotObservable));
                child.reap();
                assert_eq!(watch.reaped().await.unwrap().status, exit.status);
            });
        });
    });
}

#[test]
fn a_process_that_vanishes_between_two_looks_is_dead() {
    let mut child = Held::shell("exit 7", None);
    let pid = child.pid();
    with_pidfd_open_answering(libc::EPERM, || {
        let watch = watch(pid);
        child.make_zombie();
        child.reap();
        let exit = block_on(watch.into_future()).unwrap();
        assert_eq!(exit.status, Status::Unknown(UnknownReason::NotObservable));
        let again = block_on(kmonitor_pidfd::watch(pid).into_future());
        assert!(again.unwrap_err().is_gone());
    });
}

#[test]
fn what_needs_a_pidfd_is_refused_plainly() {
    let child = Held::shell("exit 0", None);
    let inode = Pidfd::open(child.pid()).unwrap().inode().unwrap();
    let target = format!("{}:{inode}", child.pid());
    let error = with_pidfd_open_answering(libc::EPERM, || {
        block_on(watch(target.as_str()).into_future())
    })
    .unwrap_err();
    let WatchError::Probe(ProbeError::Io { source, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::Unsupported);
    assert!(!error.is_gone());
}

#[test]
fn a_pidfd_that_is_given_works_all_the_same() {
    let mut child = Held::shell("exit 6", None);
    let fd = Pidfd::open(child.pid()).unwrap();
    with_pidfd_open_answering(libc::EPERM, || {
        let watch = watch(std::os::fd::OwnedFd::from(fd));
        assert_eq!(watch.mechanism(), Some(Mechanism::Pidfd));
        child.make_zombie();
        let exit = block_on(watch.into_future()).unwrap();
        assert_eq!(exit.status.code(), Some(6));
    });
}
