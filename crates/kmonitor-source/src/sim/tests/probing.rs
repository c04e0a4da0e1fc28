//! The probe, which runs ahead of the queue.

use std::pin::pin;

use kmonitor_event::{Status, StatusSource, UnknownReason};

use super::*;
use crate::{ProbeError, ProcessProbe, ProcessState, ThreadPhase, ThreadState};

#[test]
fn the_probe_says_dead_while_the_exit_is_not_even_queued() {
    let (kernel, mut source) = listening(SimConfig::default());
    let probe = kernel.probe();
    let pid = kernel.spawn().unwrap();
    let identity = probe.identify(pid).unwrap();
    drain(&mut source);
    kernel.hold_exits(true);
    kernel.exit_group(pid.leader(), 3).unwrap();
    assert_eq!(kinds(&mut source), []);
    let stat = Status::from_raw(0x300, StatusSource::ZombieStat);
    assert_eq!(
        probe.state(pid, Some(identity)).unwrap(),
        ProcessState::Zombie(stat)
    );
    kernel.reap(pid).unwrap();
    assert_eq!(probe.state(pid, None).unwrap(), ProcessState::Gone);
    assert!(probe.identify(pid).unwrap_err().is_gone());
}

#[test]
fn a_status_that_may_not_be_read_is_pending() {
    let kernel = SimKernel::new(SimConfig::default().status_readable(false));
    let pid = kernel.spawn().unwrap();
    kernel.kill(pid, 9).unwrap();
    assert_eq!(
        kernel.probe().state(pid, None).unwrap(),
        ProcessState::Zombie(Status::Pending)
    );
}

#[test]
fn a_reused_pid_is_gone_for_who_knows_the_inode_but_not_for_old_kernels() {
    for (pidfs, expected) in [(true, ProcessState::Gone), (false, ProcessState::Alive)] {
        let kernel = SimKernel::new(SimConfig::default().pidfs(pidfs));
        let probe = kernel.probe();
        let pid = kernel.spawn().unwrap();
        let identity = probe.identify(pid).unwrap();
        assert_eq!(identity.inode().is_some(), pidfs);
        kernel.kill(pid, 9).unwrap();
        kernel.reap(pid).unwrap();
        kernel.set_next_pid(pid).unwrap();
        kernel.spawn().unwrap();
        assert_eq!(probe.state(pid, Some(identity)).unwrap(), expected);
    }
}

#[test]
fn threads_on_their_way_out_and_dead_leaders_are_marked() {
    let kernel = SimKernel::with_seed(0);
    let probe = kernel.probe();
    let pid = kernel.spawn().unwrap();
    let (leaving, staying) = (
        kernel.clone_thread(pid).unwrap(),
        kernel.clone_thread(pid).unwrap(),
    );
    kernel.exit_task(pid.leader(), 0).unwrap();
    kernel.begin_exit(leaving, 0).unwrap();
    let mut threads = vec![ThreadState {
        tid: pid.leader(),
        phase: ThreadPhase::Alive,
    }];
    probe.threads(pid, &mut threads).unwrap();
    let expected = [
        (pid.leader(), ThreadPhase::Dead),
        (leaving, ThreadPhase::Exiting),
        (staying, ThreadPhase::Alive),
    ];
    assert_eq!(
        threads,
        expected.map(|(tid, phase)| ThreadState { tid, phase })
    );
    assert_eq!(probe.state(pid, None).unwrap(), ProcessState::Alive);
    let error = probe.identify(staying.as_leader()).unwrap_err();
    assert!(matches!(error, ProbeError::Thread { process, .. } if process == Some(pid)));
}

#[test]
fn all_processes_are_listed_with_their_parents() {
    let kernel = SimKernel::with_seed(0);
    let parent = kernel.spawn().unwrap();
    let child = kernel.fork(parent).unwrap();
    let mut entries = Vec::new();
    kernel.probe().processes(&mut entries).unwrap();
    let init = Pid::new(1).unwrap();
    let pairs: Vec<_> = entries.iter().map(|it| (it.pid, it.parent)).collect();
    assert_eq!(
        pairs,
        [(init, None), (parent, Some(init)), (child, Some(parent))]
    );
}

#[test]
fn who_waits_for_the_reaping_learns_the_status_and_who_comes_late_does_not() {
    let kernel = SimKernel::with_seed(0);
    let probe = kernel.probe();
    let pid = kernel.spawn().unwrap();
    let identity = probe.identify(pid).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut early = pin!(probe.reaped(pid, identity));
    // Dropping one leaves nothing behind.
    let mut dropped = probe.reaped(pid, identity);
    assert!(dropped.as_mut().poll(&mut cx).is_pending());
    drop(dropped);
    assert!(early.as_mut().poll(&mut cx).is_pending());
    kernel.kill(pid, 9).unwrap();
    assert!(early.as_mut().poll(&mut cx).is_pending(), "still a zombie");
    kernel.reap(pid).unwrap();
    let info = Status::from_raw(9, StatusSource::PidfdInfo);
    assert!(matches!(early.as_mut().poll(&mut cx), Poll::Ready(Ok(it)) if it == info));
    let mut late = pin!(probe.reaped(pid, identity));
    let unseen = Status::Unknown(UnknownReason::ReapedUnseen);
    assert!(matches!(late.as_mut().poll(&mut cx), Poll::Ready(Ok(it)) if it == unseen));
}

#[tokio::test]
async fn the_reaping_wakes_all_who_wait() {
    let kernel = SimKernel::with_seed(0);
    let pid = kernel.spawn().unwrap();
    let probe = kernel.probe();
    let identity = probe.identify(pid).unwrap();
    let waiting = [(); 2].map(|()| tokio::spawn(probe.reaped(pid, identity)));
    tokio::task::yield_now().await;
    kernel.exit_group(pid.leader(), 2).unwrap();
    kernel.reap(pid).unwrap();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap().code(), Some(2));
    }
}
