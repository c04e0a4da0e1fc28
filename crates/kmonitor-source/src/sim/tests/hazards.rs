//! What makes death hard to decide.

use std::time::Duration;

use super::*;
use crate::sim::SimError;

#[test]
fn a_process_with_one_thread_is_told_by_its_fork_and_its_exit() {
    let (kernel, mut source) = listening(SimConfig::default());
    let init = Pid::new(1).unwrap();
    let child = kernel.spawn().unwrap();
    kernel.exit_group(child.leader(), 3).unwrap();
    assert_eq!(
        kinds(&mut source),
        [
            FactKind::Forked {
                parent: Some(init),
                child
            },
            FactKind::TaskExited {
                process: child,
                tid: child.leader(),
                code: 0x300,
                parent: Some(init)
            },
        ]
    );
    assert_eq!(kernel.reap(child), Some(0x300));
    assert_eq!(kernel.reap(child), None);
}

#[test]
fn leader_first_exit_has_last_threads_status() {
    let (kernel, mut source) = listening(SimConfig::default());
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    drain(&mut source);
    kernel.exit_task(pid.leader(), 3).unwrap();
    assert_eq!(
        without_parents(kinds(&mut source)),
        [exited(pid, pid.leader(), 0x300)]
    );
    assert_eq!(kernel.reap(pid), None, "the process lives on");
    kernel.exit_task(thread, 9).unwrap();
    assert_eq!(kinds(&mut source), [exited(pid, thread, 0x900)]);
    assert_eq!(kernel.reap(pid), Some(0x900));
}

#[test]
fn a_thread_in_its_own_exit_is_told_last_and_does_not_decide() {
    let (kernel, mut source) = listening(SimConfig::default());
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    drain(&mut source);
    kernel.begin_exit(thread, 7).unwrap();
    kernel.exit_group(pid.leader(), 5).unwrap();
    assert_eq!(
        without_parents(kinds(&mut source)),
        [exited(pid, pid.leader(), 0x500), exited(pid, thread, 0x700)]
    );
    assert_eq!(kernel.reap(pid), Some(0x500));
}

#[test]
fn the_thread_that_began_its_exit_last_decides_even_if_it_finished_first() {
    let (kernel, mut source) = listening(SimConfig::default());
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    drain(&mut source);
    kernel.begin_exit(pid.leader(), 3).unwrap();
    kernel.begin_exit(thread, 9).unwrap();
    assert_eq!(kernel.fork(pid), Err(SimError::Dead { pid }));
    assert_eq!(kernel.kill(pid, 9), Err(SimError::Dead { pid }));
    kernel.finish_exit(thread).unwrap();
    assert_eq!(kernel.reap(pid), None);
    kernel.finish_exit(pid.leader()).unwrap();
    assert_eq!(
        without_parents(kinds(&mut source)),
        [exited(pid, thread, 0x900), exited(pid, pid.leader(), 0x300)]
    );
    assert_eq!(kernel.reap(pid), Some(0x900));
}

#[test]
fn exec_by_a_thread_ends_the_leader_and_never_tells_the_threads_own_exit() {
    let (kernel, mut source) = listening(SimConfig::default());
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    let other = kernel.clone_thread(pid).unwrap();
    drain(&mut source);
    kernel.exec(thread).unwrap();
    let mut facts = without_parents(kinds(&mut source));
    assert_eq!(facts.pop(), Some(FactKind::Execed { process: pid }));
    assert_eq!(facts.len(), 2);
    assert!(facts.contains(&exited(pid, pid.leader(), 0)));
    assert!(facts.contains(&exited(pid, other, 0)));
    assert_eq!(kernel.threads(pid), [pid.leader()]);
    assert_eq!(
        kernel.exec(thread),
        Err(SimError::NoSuchThread { tid: thread })
    );
    // A second exit of the leader at the true end.
    kernel.exit_group(pid.leader(), 4).unwrap();
    assert_eq!(
        without_parents(kinds(&mut source)),
        [exited(pid, pid.leader(), 0x400)]
    );
    assert_eq!(kernel.reap(pid), Some(0x400));
}

#[test]
fn exec_by_a_thread_after_the_leader_went_tells_the_leader_once_before_it() {
    let (kernel, mut source) = listening(SimConfig::default());
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    let leaving = kernel.clone_thread(pid).unwrap();
    drain(&mut source);
    kernel.exit_task(pid.leader(), 1).unwrap();
    kernel.begin_exit(leaving, 2).unwrap();
    kernel.exec(thread).unwrap();
    assert_eq!(
        without_parents(kinds(&mut source)),
        [
            exited(pid, pid.leader(), 0x100),
            exited(pid, leaving, 0x200),
            FactKind::Execed { process: pid }
        ]
    );
    kernel.kill(pid, 9).unwrap();
    assert_eq!(kernel.reap(pid), Some(9));
}

#[test]
fn exec_may_be_overtaken_by_nothing_unless_told_so() {
    let config = SimConfig::default().exit_delay(1.0);
    for (delay, last_is_exec) in [(0.0, true), (1.0, false)] {
        let (kernel, mut source) = listening(config.clone().exec_exit_delay(delay));
        let pid = kernel.spawn().unwrap();
        let sibling = kernel.clone_thread(pid).unwrap();
        kernel.exit_task(sibling, 1).unwrap();
        let thread = kernel.clone_thread(pid).unwrap();
        kernel.exec(thread).unwrap();
        kernel.settle();
        let last = kinds(&mut source).pop().unwrap();
        assert_eq!(last == FactKind::Execed { process: pid }, last_is_exec);
    }
}

#[test]
fn reuse_may_tell_the_new_fork_before_the_old_exit() {
    let (kernel, mut source) = listening(SimConfig::default());
    let old = kernel.spawn().unwrap();
    let first = kernel.inode(old);
    kernel.hold_exits(true);
    kernel.exit_group(old.leader(), 1).unwrap();
    assert_eq!(kernel.reap(old), Some(0x100));
    kernel.set_next_pid(old).unwrap();
    assert_eq!(kernel.spawn(), Ok(old));
    assert_ne!(kernel.inode(old), first);
    kernel.hold_exits(false);
    let facts = kinds(&mut source);
    assert!(matches!(facts[1], FactKind::Forked { child, .. } if child == old));
    // The kernel does not know the parent any more: the old one was reaped.
    assert_eq!(facts[2], exited(old, old.leader(), 0x100));
}

#[test]
fn reuse_never_swaps_the_exits_of_two_processes_of_one_pid() {
    let (kernel, mut source) = listening(SimConfig::default());
    kernel.hold_exits(true);
    let pid = kernel.spawn().unwrap();
    for code in [1, 2, 3] {
        kernel.exit_group(pid.leader(), code).unwrap();
        kernel.reap(pid).unwrap();
        kernel.set_next_pid(pid).unwrap();
        kernel.spawn().unwrap();
    }
    let codes: Vec<_> = kinds(&mut source)
        .into_iter()
        .map(|kind| match kind {
            FactKind::TaskExited { code, .. } => code >> 8,
            _ => 0,
        })
        .collect();
    assert_eq!(codes, [0, 0, 1, 0, 2, 0], "forks are 0, the third is held");
}

#[test]
fn a_small_pid_max_makes_ids_come_again_and_run_out() {
    let kernel = SimKernel::new(SimConfig::default().pid_max(3));
    let two = kernel.spawn().unwrap();
    let three = kernel.clone_thread(two).unwrap();
    assert_eq!((two.as_raw(), three.as_raw()), (2, 3));
    assert_eq!(kernel.spawn(), Err(SimError::NoFreeId));
    kernel.exit_task(three, 0).unwrap();
    assert_eq!(kernel.spawn(), Ok(three.as_leader()));
    assert!(kernel.set_next_pid(two).is_err());
    assert!(kernel.set_next_pid(Pid::new(4).unwrap()).is_err());
}

#[test]
fn a_coredump_is_told_before_the_exits_and_only_the_crashing_thread_says_core() {
    let (kernel, mut source) = listening(SimConfig::default());
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    drain(&mut source);
    kernel.coredump(thread, 11, true).unwrap();
    let facts = without_parents(kinds(&mut source));
    assert!(matches!(facts[0], FactKind::Coredump { tid, .. } if tid == thread));
    assert!(facts.contains(&exited(pid, thread, 0x8b)));
    assert!(facts.contains(&exited(pid, pid.leader(), 0x0b)));
    assert_eq!(kernel.reap(pid), Some(0x8b));
}

#[test]
fn orphans_are_handed_to_init_without_a_fact_and_reaped_by_it() {
    let (kernel, mut source) = listening(SimConfig::default());
    let parent = kernel.spawn().unwrap();
    let living = kernel.fork(parent).unwrap();
    let zombie = kernel.fork(parent).unwrap();
    kernel.exit_group(zombie.leader(), 1).unwrap();
    kernel.advance(Duration::from_secs(1));
    assert_eq!(kernel.zombies(), [zombie], "its parent lives");
    drain(&mut source);
    kernel.exit_group(parent.leader(), 0).unwrap();
    kernel.advance(Duration::from_secs(1));
    assert_eq!(kinds(&mut source).len(), 1, "only the parent's exit");
    assert_eq!(kernel.zombies(), [parent], "not init's to reap: the test's");
    kernel.kill(living, 15).unwrap();
    kernel.settle();
    assert_eq!(kernel.zombies(), [parent]);
    let died: Vec<_> = kernel.truth().into_iter().map(|it| it.pid).collect();
    assert_eq!(died, [zombie, parent, living]);
}

#[test]
fn misuse_is_refused() {
    let kernel = SimKernel::with_seed(0);
    let init = Pid::new(1).unwrap();
    let nobody = Pid::new(999).unwrap();
    assert_eq!(kernel.kill(init, 9), Err(SimError::Init));
    assert_eq!(kernel.exit_group(init.leader(), 0), Err(SimError::Init));
    assert_eq!(kernel.exec(init.leader()), Err(SimError::Init));
    let signal = 65;
    assert_eq!(
        kernel.kill(nobody, signal),
        Err(SimError::BadSignal { signal })
    );
    assert_eq!(
        kernel.fork(nobody),
        Err(SimError::NoSuchProcess { pid: nobody })
    );
    let pid = kernel.spawn().unwrap();
    let tid = pid.leader();
    assert_eq!(kernel.finish_exit(tid), Err(SimError::NotExiting { tid }));
    kernel.begin_exit(tid, 1).unwrap();
    assert_eq!(kernel.exit_task(tid, 2), Err(SimError::Exiting { tid }));
    kernel.finish_exit(tid).unwrap();
    assert_eq!(kernel.kill(pid, 9), Err(SimError::Dead { pid }));
    assert_eq!(kernel.set_sid(pid), Err(SimError::Dead { pid }));
    assert_eq!(kernel.reap(nobody), None);
    // Codes are cut as the kernel cuts them.
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), -1).unwrap();
    assert_eq!(kernel.reap(pid), Some(0xff00));
}
