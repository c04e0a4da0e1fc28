//! The kernel as pidfds show it.

use kmonitor_event::{Status, StatusSource, UnknownReason};

use super::*;
use crate::sim::SimMode;
use crate::{LossReport, Reach};

fn named(config: SimConfig) -> (SimKernel, SimSource) {
    let kernel = SimKernel::new(config.mode(SimMode::Named));
    let source = kernel.source();
    (kernel, source)
}

fn want(interest: &mut KernelInterest, kernel: &SimKernel, pid: Pid) -> ProcessKey {
    let (key, identity) = key(kernel, pid);
    interest.want(key, EventMask::EXIT, identity);
    key
}

fn dead(key: ProcessKey, status: Status) -> FactKind {
    FactKind::GroupDead {
        process: key.pid(),
        key: Some(key),
        status,
    }
}

fn reaped(key: ProcessKey, status: Status) -> FactKind {
    FactKind::Reaped {
        process: key.pid(),
        key: Some(key),
        status,
    }
}

#[test]
fn only_who_is_wanted_is_told_and_only_of_the_whole_groups_death() {
    let (kernel, mut source) = named(SimConfig::default());
    assert_eq!(source.capabilities().reach, Reach::Named);
    assert_eq!(source.capabilities().loss, LossReport::Lossless);
    let watched = kernel.spawn().unwrap();
    let other = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(watched).unwrap();
    let mut interest = KernelInterest::new();
    let key = want(&mut interest, &kernel, watched);
    set_interest(&mut source, &interest);
    assert!(kernel.listening());
    assert!(!kernel.lose(3), "a pidfd cannot lose");
    kernel.kill(other, 9).unwrap();
    kernel.exit_task(watched.leader(), 1).unwrap();
    assert_eq!(kinds(&mut source), [], "not at the leader's exit");
    kernel.exit_task(thread, 2).unwrap();
    let stat = Status::from_raw(0x200, StatusSource::ZombieStat);
    assert_eq!(kinds(&mut source), [dead(key, stat)]);
    kernel.reap(watched).unwrap();
    let info = Status::from_raw(0x200, StatusSource::PidfdInfo);
    assert_eq!(kinds(&mut source), [reaped(key, info)]);
}

#[test]
fn what_may_not_be_read_is_pending_and_then_unknown_on_an_old_kernel() {
    let config = SimConfig::default()
        .status_readable(false)
        .pidfd_info(false);
    let (kernel, mut source) = named(config);
    let pid = kernel.spawn().unwrap();
    let mut interest = KernelInterest::new();
    let key = want(&mut interest, &kernel, pid);
    set_interest(&mut source, &interest);
    kernel.kill(pid, 9).unwrap();
    kernel.reap(pid).unwrap();
    assert_eq!(
        kinds(&mut source),
        [
            dead(key, Status::Pending),
            reaped(key, Status::Unknown(UnknownReason::KernelTooOld))
        ]
    );
}

#[test]
fn a_zombie_is_told_when_it_is_wanted_and_who_has_gone_too() {
    let (kernel, mut source) = named(SimConfig::default());
    let zombie = kernel.spawn().unwrap();
    let gone = kernel.spawn().unwrap();
    let mut interest = KernelInterest::new();
    let (zombie_key, gone_key) = (
        want(&mut interest, &kernel, zombie),
        want(&mut interest, &kernel, gone),
    );
    interest.settle();
    for pid in [zombie, gone] {
        kernel.exit_group(pid.leader(), 1).unwrap();
    }
    kernel.reap(gone).unwrap();
    // The pid is another's now, who is not wanted.
    kernel.set_next_pid(gone).unwrap();
    kernel.spawn().unwrap();
    set_interest(&mut source, &interest);
    let stat = Status::from_raw(0x100, StatusSource::ZombieStat);
    assert_eq!(
        kinds(&mut source),
        [
            dead(zombie_key, stat),
            dead(gone_key, Status::Pending),
            reaped(gone_key, Status::Unknown(UnknownReason::ReapedUnseen))
        ]
    );
}

#[test]
fn who_is_forgotten_is_not_told() {
    let (kernel, mut source) = named(SimConfig::default());
    let pids = [kernel.spawn().unwrap(), kernel.spawn().unwrap()];
    let mut interest = KernelInterest::new();
    let keys = pids.map(|pid| want(&mut interest, &kernel, pid));
    set_interest(&mut source, &interest);
    interest.settle();
    interest.forget(keys[0]);
    set_interest(&mut source, &interest);
    for pid in pids {
        kernel.kill(pid, 9).unwrap();
    }
    let facts = kinds(&mut source);
    assert!(
        matches!(facts[..], [FactKind::GroupDead { key, .. }] if key == Some(keys[1])),
        "{facts:?}"
    );
}
