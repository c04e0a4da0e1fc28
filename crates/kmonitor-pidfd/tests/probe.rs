//! `LinuxProbe` and `Pidfd` on the real kernel, with and without pidfds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::future::IntoFuture;
use std::process::Command;
use std::sync::{Arc, Barrier, mpsc};

use common::{
    Foreign, Held, LEADER_FIRST, NOBODY, as_user, block_on, state_of, until,
    with_pidfd_open_answering,
};
use kmonitor_event::{Pid, Status, StatusSource, UnknownReason};
use kmonitor_pidfd::{LinuxProbe, Pidfd, Readiness};
use kmonitor_source::{
    HeldState, Identity, Listing, ProbeError, ProcessProbe, ProcessState, ThreadPhase,
};

#[test]
fn a_process_is_alive_then_a_zombie_then_gone() {
    let probe = LinuxProbe::new();
    let mut child = Held::shell("exit 7", None);
    let pid = child.pid();
    let identity = probe.identify(pid).unwrap();
    assert!(identity.inode().is_some());
    assert_eq!(probe.state(pid, None).unwrap(), ProcessState::Alive);
    assert_eq!(
        probe.state(pid, Some(identity)).unwrap(),
        ProcessState::Alive
    );
    child.make_zombie();
    let zombie = ProcessState::Zombie(Status::from_raw(0x700, StatusSource::Waited));
    assert_eq!(probe.state(pid, Some(identity)).unwrap(), zombie);
    assert_eq!(probe.identify(pid).unwrap(), identity);
    child.reap();
    assert_eq!(
        probe.state(pid, Some(identity)).unwrap(),
        ProcessState::Gone
    );
    assert!(probe.identify(pid).unwrap_err().is_gone());
}

#[test]
fn without_pidfds_the_same_is_said_by_proc() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let probe = LinuxProbe::new();
        let mut child = Foreign::shell("exit 7");
        let pid = child.pid();
        with_pidfd_open_answering(errno, || {
            let error = Pidfd::open(pid).unwrap_err();
            assert!(matches!(error, ProbeError::Denied { .. }));
            assert!(
                error.to_string().contains("pidfd_open is blocked"),
                "{error}"
            );
            let identity = probe.identify(pid).unwrap();
            assert!(matches!(identity, Identity::StartTime(_)));
            let state = || probe.state(pid, Some(identity)).unwrap();
            assert_eq!(state(), ProcessState::Alive);
            child.make_zombie();
            let ProcessState::Zombie(_) = state() else {
                panic!("{:?}", state());
            };
            child.reap();
            assert_eq!(state(), ProcessState::Gone);
            assert!(probe.hold(Pid::current(), None).unwrap().is_none());
            let me = Pid::current();
            let other = Identity::StartTime(1);
            assert_eq!(probe.state(me, Some(other)).unwrap(), ProcessState::Gone);
            let inode = Identity::Inode(1.try_into().unwrap());
            probe.state(me, Some(inode)).unwrap_err();
        });
    }
}

#[test]
fn a_dead_first_thread_is_no_dead_process_with_pidfds_and_without() {
    let probe = LinuxProbe::new();
    let mut child = Held::python(LEADER_FIRST);
    let pid = child.pid();
    until("the first thread is dead", || state_of(pid) == 'Z');
    assert_eq!(probe.state(pid, None).unwrap(), ProcessState::Alive);
    let polled = || with_pidfd_open_answering(libc::EPERM, || probe.state(pid, None).unwrap());
    assert_eq!(polled(), ProcessState::Alive);
    let mut threads = Vec::new();
    probe.threads(pid, &mut threads).unwrap();
    assert_eq!(threads.len(), 2);
    for thread in &threads {
        let dead = thread.phase == ThreadPhase::Dead;
        assert_eq!(dead, thread.tid.is_leader_of(pid));
    }
    child.make_zombie();
    let status = Status::from_raw(0x500, StatusSource::Waited);
    assert_eq!(
        probe.state(pid, None).unwrap(),
        ProcessState::Zombie(status)
    );
    assert_eq!(polled(), ProcessState::Zombie(status));
    probe.threads(pid, &mut threads).unwrap();
    assert_eq!(threads.len(), 1);
    assert_eq!(threads[0].phase, ThreadPhase::Dead);
    child.reap();
    assert!(probe.threads(pid, &mut threads).unwrap_err().is_gone());
}

#[test]
fn a_thread_is_refused_by_both_means() {
    let probe = LinuxProbe::new();
    let (name, named) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        name.send(rustix::thread::gettid().as_raw_nonzero().get())
            .unwrap();
        let _ = ended.recv();
    });
    let tid = Pid::new(named.recv().unwrap()).unwrap();
    for error in [
        probe.identify(tid).unwrap_err(),
        with_pidfd_open_answering(libc::EPERM, || probe.identify(tid)).unwrap_err(),
    ] {
        let ProbeError::Thread { process, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(process, Some(Pid::current()));
    }
    // Named with an identity, the number was a process's once.
    let identity = Identity::StartTime(1);
    assert_eq!(
        probe.state(tid, Some(identity)).unwrap(),
        ProcessState::Gone
    );
    drop(end);
    thread.join().unwrap();
}

#[test]
fn all_processes_are_listed_with_their_parents() {
    let child = Held::shell("exit 0", None);
    let mut processes = Vec::new();
    LinuxProbe::new().processes(&mut processes).unwrap();
    let found = processes.iter().find(|entry| entry.pid == child.pid());
    assert_eq!(found.unwrap().parent, Some(Pid::current()));
    let init = processes.iter().find(|entry| entry.pid.as_raw() == 1);
    assert_eq!(init.unwrap().parent, None);
}

#[test]
fn what_is_held_is_certain_of_its_status_after_the_reaping() {
    let probe = LinuxProbe::new();
    let mut child = Held::shell("exit 3", None);
    let held = probe.hold(child.pid(), None).unwrap().unwrap();
    assert_eq!(held.state().unwrap(), HeldState::Alive);
    child.make_zombie();
    let waited = Status::from_raw(0x300, StatusSource::Waited);
    assert_eq!(held.state().unwrap(), HeldState::Zombie(waited));
    child.reap();
    let kept = Status::from_raw(0x300, StatusSource::PidfdInfo);
    assert_eq!(held.state().unwrap(), HeldState::Reaped(kept));
    let error = probe
        .hold(child.pid(), Some(held.identity()))
        .err()
        .unwrap();
    assert!(error.is_gone());
}

#[test]
fn reaped_waits_for_the_reaping() {
    let probe = LinuxProbe::new();
    let mut child = Held::shell("exit 3", None);
    let identity = probe.identify(child.pid()).unwrap();
    let mut reaped = probe.reaped(child.pid(), identity);
    block_on(async {
        child.make_zombie();
        let early = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(reaped.as_mut().poll(cx).is_pending())
        });
        assert!(early.await);
        child.reap();
        assert_eq!(reaped.await.unwrap().code(), Some(3));
        let gone = probe.reaped(child.pid(), identity).await.unwrap();
        assert_eq!(gone, Status::Unknown(UnknownReason::ReapedUnseen));
    });
}

#[test]
fn signals_reach_the_process_and_no_other() {
    let mut child = Held::shell("exit 0", None);
    let pidfd = Pidfd::open(child.pid()).unwrap();
    pidfd.send_signal(0).unwrap();
    pidfd.send_signal(libc::SIGTERM).unwrap();
    child.await_zombie();
    assert_eq!(pidfd.readiness().unwrap(), Readiness::Zombie);
    assert_eq!(
        pidfd.status().unwrap().unwrap().signal(),
        Some(libc::SIGTERM)
    );
    child.reap();
    assert_eq!(pidfd.readiness().unwrap(), Readiness::Reaped);
    let error = pidfd.send_signal(libc::SIGTERM).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn signals_reach_the_group_and_no_other() {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    let sleeper = |group| {
        let mut command = Command::new("sleep");
        command.arg("60").process_group(group).spawn().unwrap()
    };
    let mut first = sleeper(0);
    let pidfd = Pidfd::open(Pid::try_from(first.id()).unwrap()).unwrap();
    if let Err(error) = pidfd.send_signal_to_group(0) {
        // Before 6.9.
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        first.kill().unwrap();
        first.wait().unwrap();
        return;
    }
    let mut second = sleeper(first.id() as i32);
    let mut stranger = sleeper(0);
    first.kill().unwrap();
    first.wait().unwrap();
    pidfd.send_signal_to_group(libc::SIGTERM).unwrap();
    assert_eq!(second.wait().unwrap().signal(), Some(libc::SIGTERM));
    let error = pidfd.send_signal_to_group(libc::SIGKILL).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// Without the inode the second process would be taken for the first.
#[test]
#[ignore = "needs root"]
fn a_pid_that_is_used_again_is_another_process() {
    let probe = LinuxProbe::new();
    let mut first = Held::shell("exit 0", None);
    let pid = first.pid();
    let identity = probe.identify(pid).unwrap();
    let held = Pidfd::open(pid).unwrap();
    first.make_zombie();
    first.reap();
    let second = respawn(pid);
    assert_eq!(
        probe.state(pid, Some(identity)).unwrap(),
        ProcessState::Gone
    );
    assert_eq!(probe.state(pid, None).unwrap(), ProcessState::Alive);
    let found = probe.identify(pid).unwrap();
    assert_ne!(found, identity);
    assert_eq!(held.readiness().unwrap(), Readiness::Reaped);
    assert!(held.send_signal(libc::SIGKILL).is_err(), "hit a stranger");
    let error = probe.hold(pid, Some(identity)).err().unwrap();
    assert!(matches!(error, ProbeError::Reused { .. }), "{error:?}");
    let named = format!("{pid}:{}", identity.inode().unwrap());
    let error = block_on(kmonitor_pidfd::watch(named.as_str()).into_future()).unwrap_err();
    assert!(error.is_gone(), "{error:?}");
    drop(second);
}

/// A new process with this pid. Others start processes too, so it takes some
/// tries.
fn respawn(pid: Pid) -> Held {
    for _ in 0..500 {
        let before = (pid.as_raw() - 1).to_string();
        std::fs::write("/proc/sys/kernel/ns_last_pid", before).unwrap();
        let child = Held::shell("exit 0", None);
        if child.pid() == pid {
            return child;
        }
    }
    panic!("pid {pid} was not given again in 500 tries");
}

#[test]
#[ignore = "needs root"]
fn a_hidden_proc_is_denied_and_not_gone() {
    // In a mount namespace of its own: this program again, for the part below.
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount -t proc -o hidepid=2 proc /proc && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "inside_a_hidden_proc",
            "--include-ignored",
            "--nocapture",
        ])
        .env("KMONITOR_TEST_HIDDEN_PROC", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
}

#[test]
#[ignore = "run by a_hidden_proc_is_denied_and_not_gone"]
fn inside_a_hidden_proc() {
    let hidden = std::env::var_os("KMONITOR_TEST_HIDDEN_PROC").is_some();
    let child = Held::shell("exit 0", None);
    let pid = child.pid();
    as_user(NOBODY, || {
        let probe = LinuxProbe::new();
        let mut threads = Vec::new();
        let mut processes = Vec::new();
        // A pidfd needs no /proc.
        assert_eq!(probe.state(pid, None).unwrap(), ProcessState::Alive);
        let polled = with_pidfd_open_answering(libc::EPERM, || probe.state(pid, None));
        let threads = probe.threads(pid, &mut threads);
        let processes = probe.processes(&mut processes);
        if hidden {
            assert!(
                matches!(polled, Err(ProbeError::Denied { .. })),
                "{polled:?}"
            );
            assert!(
                matches!(threads, Err(ProbeError::Denied { .. })),
                "{threads:?}"
            );
            assert!(
                matches!(processes, Err(ProbeError::Denied { .. })),
                "{processes:?}"
            );
        } else {
            assert!(polled.is_ok() && threads.is_ok() && processes.is_ok());
        }
    });
}

/// Where a thread leaves while it is its turn, the kernel ends the list there. Told were
/// fewer than live, and that one alone is left decides what an exit means.
#[test]
fn no_thread_is_missing_because_one_before_it_leaves() {
    let probe = LinuxProbe::new();
    let mut listed = Vec::new();
    for round in 0..300 {
        let go = Arc::new(Barrier::new(21));
        let leaving: Vec<_> = (0..20)
            .map(|_| {
                let go = Arc::clone(&go);
                std::thread::spawn(move || go.wait().is_leader())
            })
            .collect();
        // Younger than all of them.
        let (told, tid) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let stays = std::thread::spawn(move || {
            told.send(rustix::thread::gettid()).unwrap();
            ended.recv().unwrap_err();
        });
        let tid = tid.recv().unwrap().as_raw_nonzero().get();
        go.wait();
        for _ in 0..20 {
            let listing = probe.threads(Pid::current(), &mut listed).unwrap();
            assert!(
                listing == Listing::Partial || listed.iter().any(|it| it.tid.as_raw() == tid),
                "{tid} is missing from {listed:?} in round {round}"
            );
        }
        drop(end);
        stays.join().unwrap();
        for thread in leaving {
            thread.join().unwrap();
        }
    }
}
