//! When a process is dead, and with which status.

use std::time::Duration;

use kmonitor_event::{EventMask, Pid, Status, StatusSource, UnknownReason};
use kmonitor_hub::{Filter, Hub, Subscription};
use kmonitor_source::sim::{SimConfig, SimKernel};

use crate::probes::FaultyProbe;
use crate::support::{
    drain, exits, hub, hub_on, hub_probing, idle, kinds, status_of, subscribe, within,
};

async fn early() -> (SimKernel, Hub, Pid, Subscription) {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let events = subscribe(&hub, Filter::pid(pid)).await;
    (kernel, hub, pid, events)
}

#[tokio::test(start_paused = true)]
async fn leader_first_exit_is_no_exit_of_the_process() {
    let (kernel, _hub, pid, mut events) = early().await;
    let last = kernel.clone_thread(pid).unwrap();
    kernel.exit_task(pid.leader(), 0).unwrap();
    assert!(futures::poll!(Box::pin(events.next())).is_pending());
    kernel.exit_group(last, 5).unwrap();
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["exit"]);
    assert_eq!(status_of(&events, pid).raw(), kernel.reap(pid));
}

#[tokio::test(start_paused = true)]
async fn leader_first_seen_late_has_the_last_threads_status() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let last = kernel.clone_thread(pid).unwrap();
    kernel.exit_task(pid.leader(), 3).unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid)).await;
    kernel.exit_task(last, 9).unwrap();
    assert_eq!(kernel.reap(pid), Some(0x900));
    assert_eq!(exits(&drain(&mut events).await), [(pid, Some(0x900))]);
}

#[tokio::test(start_paused = true)]
async fn a_thread_in_its_own_exit_does_not_decide_the_status() {
    let (kernel, _hub, pid, mut events) = early().await;
    let thread = kernel.clone_thread(pid).unwrap();
    kernel.begin_exit(thread, 7).unwrap();
    kernel.exit_group(pid.leader(), 5).unwrap();
    kernel.finish_exit(thread).ok();
    let events = drain(&mut events).await;
    assert_eq!(status_of(&events, pid).raw(), Some(0x500));
}

#[tokio::test(start_paused = true)]
async fn differing_codes_of_a_process_reaped_at_once_are_unknown_not_wrong() {
    let (kernel, _hub, pid, mut events) = early().await;
    let thread = kernel.clone_thread(pid).unwrap();
    kernel.exit_task(pid.leader(), 3).unwrap();
    kernel.exit_task(thread, 9).unwrap();
    kernel.reap(pid).unwrap();
    let events = drain(&mut events).await;
    let status = status_of(&events, pid);
    assert!(
        matches!(status, Status::Unknown(UnknownReason::CodesDiffer))
            || status.raw() == Some(0x900),
        "{status:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn exec_by_a_thread_is_no_exit() {
    let (kernel, _hub, pid, mut events) = early().await;
    let thread = kernel.clone_thread(pid).unwrap();
    kernel.clone_thread(pid).unwrap();
    kernel.exec(thread).unwrap();
    kernel.exit_group(pid.leader(), 6).unwrap();
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["exec", "exit"]);
    assert_eq!(status_of(&events, pid).raw(), Some(0x600));
}

#[tokio::test(start_paused = true)]
async fn exec_by_a_thread_after_its_leader_is_no_exit() {
    let (kernel, _hub, pid, mut events) = early().await;
    let thread = kernel.clone_thread(pid).unwrap();
    kernel.exit_task(pid.leader(), 0).unwrap();
    kernel.exec(thread).unwrap();
    kernel.exit_group(pid.leader(), 8).unwrap();
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["exec", "exit"]);
    assert_eq!(status_of(&events, pid).raw(), Some(0x800));
}

#[tokio::test(start_paused = true)]
async fn threads_are_told_as_threads() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let filter = Filter::pid(pid).events(EventMask::THREADS | EventMask::EXIT);
    let mut events = subscribe(&hub, filter).await;
    let thread = kernel.clone_thread(pid).unwrap();
    kernel.exit_task(thread, 0).unwrap();
    kernel.exit_group(pid.leader(), 1).unwrap();
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["thread_create", "thread_exit", "exit"]);
    assert_eq!(events[0].kind.tid(), Some(thread));
    assert_eq!(events[0].pid(), Some(pid));
}

#[tokio::test(start_paused = true)]
async fn abort_selects_abnormal_deaths_only() {
    let (kernel, hub) = hub().await;
    let (killed, done) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let filter = Filter::pids([killed, done]).events(EventMask::ABORT);
    let mut events = subscribe(&hub, filter).await;
    kernel.exit_group(done.leader(), 1).unwrap();
    kernel.kill(killed, 9).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(killed, Some(9))]);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_is_reported_when_it_is_subscribed_to() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), 4).unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    let events = drain(&mut events).await;
    assert_eq!(
        status_of(&events, pid),
        Status::from_raw(0x400, StatusSource::ZombieStat)
    );
}

#[tokio::test(start_paused = true)]
async fn a_zombie_whose_status_may_not_be_read_is_unknown_after_the_grace() {
    let (kernel, hub) = hub_on(SimConfig::default().status_readable(false)).await;
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), 4).unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    let events = drain(&mut events).await;
    assert_eq!(
        status_of(&events, pid),
        Status::Unknown(UnknownReason::NotReaped)
    );
}

#[tokio::test(start_paused = true)]
async fn fork_of_a_reused_pid_before_the_old_exit_keeps_the_two_apart() {
    let (kernel, hub) = hub().await;
    let mut host = subscribe(&hub, Filter::host()).await;
    let pid = kernel.spawn().unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    kernel.hold_exits(true);
    kernel.exit_group(pid.leader(), 1).unwrap();
    kernel.reap(pid).unwrap();
    kernel.set_next_pid(pid).unwrap();
    assert_eq!(kernel.spawn().unwrap(), pid);
    kernel.hold_exits(false);
    kernel.exit_group(pid.leader(), 2).unwrap();
    assert_eq!(watch.settled().await.unwrap().status.raw(), Some(0x100));
    let events = drain(&mut host).await;
    assert_eq!(exits(&events), [(pid, Some(0x100)), (pid, Some(0x200))]);
    let keys: Vec<_> = events
        .iter()
        .filter(|event| event.kind.name() == "exit")
        .map(|event| event.process.unwrap())
        .collect();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(keys[0], watch.process());
}

#[tokio::test(start_paused = true)]
async fn the_late_exit_of_an_unknown_former_owner_is_not_taken_for_the_new_ones() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let stranger = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::tree(root).events(EventMask::EXIT)).await;
    kernel.hold_exits(true);
    kernel.exit_group(stranger.leader(), 1).unwrap();
    kernel.reap(stranger).unwrap();
    kernel.set_next_pid(stranger).unwrap();
    assert_eq!(kernel.fork(root).unwrap(), stranger);
    kernel.hold_exits(false);
    assert!(within(events.next()).await.is_none());
    kernel.exit_group(stranger.leader(), 2).unwrap();
    kernel.exit_group(root.leader(), 3).unwrap();
    let seen = exits(&drain(&mut events).await);
    assert_eq!(seen, [(stranger, Some(0x200)), (root, Some(0x300))]);
}

/// On a fully preemptible kernel the report of a task that an exec swept away
/// may come after the exec's own. Never seen on a real one, so forced here.
#[tokio::test(start_paused = true)]
async fn exits_reported_after_the_exec_that_caused_them_end_nothing() {
    for seed in 0..200 {
        let config = SimConfig::default().seed(seed).exec_exit_delay(0.7);
        let (kernel, hub) = hub_on(config).await;
        let mut host = subscribe(&hub, Filter::host()).await;
        let pid = kernel.spawn().unwrap();
        let threads = [pid.leader(), kernel.clone_thread(pid).unwrap()];
        kernel.clone_thread(pid).unwrap();
        kernel.exec(threads[(seed % 2) as usize]).unwrap();
        if seed % 3 == 0 {
            // Read before the end, not all at once.
            kernel.settle();
            tokio::task::yield_now().await;
        }
        kernel.exit_group(pid.leader(), 6).unwrap();
        kernel.settle();
        let seen = exits(&drain(&mut host).await);
        let right = seen == [(pid, Some(0x600))] || seen == [(pid, None)];
        assert!(right, "seed {seed}: {seen:x?}");
    }
}

/// Once what was remembered of a zombie that had been watched swallowed the
/// exit of the next owner of its pid: nobody was told of it at all.
#[tokio::test(start_paused = true)]
async fn a_watched_zombie_does_not_swallow_the_exit_of_the_pids_next_owner() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), 3).unwrap();
    let root = kernel.spawn().unwrap();
    let mut tree = subscribe(&hub, Filter::tree(root).events(EventMask::EXIT)).await;
    tokio::task::yield_now().await;
    let old = hub.watch(pid).await.unwrap().await.unwrap();
    assert_eq!(old.status.code(), Some(3));
    kernel.reap(pid).unwrap();
    kernel.set_next_pid(pid).unwrap();
    assert_eq!(kernel.fork(root).unwrap(), pid);
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let watch = hub.watch(pid).await.unwrap();
    assert_ne!(watch.process(), old.process);
    kernel.exit_group(pid.leader(), 5).unwrap();
    let new = within(watch).await.expect("an end").unwrap();
    assert_eq!(new.status.code(), Some(5));
    assert_eq!(exits(&drain(&mut tree).await), [(pid, Some(0x500))]);
}

/// Once the deadline of a death was computed by an addition that overflowed
/// with such a grace, which took the hub's task down.
#[tokio::test(start_paused = true)]
async fn a_grace_of_any_length_is_fine() {
    let kernel = SimKernel::with_seed(1);
    let hub = Hub::builder()
        .source(kernel.source())
        .probe(kernel.probe())
        .on_current_runtime()
        .status_grace(Duration::MAX)
        .open()
        .await
        .unwrap();
    let pid = kernel.spawn().unwrap();
    let watch = hub.watch(pid).await.unwrap();
    // Any time that has passed makes the sum too large.
    idle().await;
    kernel.exit_group(pid.leader(), 3).unwrap();
    let exit = within(watch).await.expect("an end").unwrap();
    assert_eq!(exit.status.code(), Some(3));
}

/// The look at everybody was ahead of the reports: it met a later owner of the pid,
/// and the ends of those between were taken for that one's, which lived.
#[tokio::test(start_paused = true)]
async fn owners_of_a_pid_that_the_first_look_was_ahead_of_all_end() {
    let kernel = SimKernel::with_seed(5);
    let parent = kernel.spawn().unwrap();
    let pid = kernel.fork(parent).unwrap();
    let probe = FaultyProbe::new(&kernel).after_listing(move |kernel| {
        for code in 1..=3 {
            kernel.exit_group(pid.leader(), code).unwrap();
            kernel.reap(pid).unwrap();
            kernel.set_next_pid(pid).unwrap();
            assert_eq!(kernel.fork(parent).unwrap(), pid);
        }
    });
    let hub = hub_probing(&kernel, probe).await;
    let mut host = subscribe(&hub, Filter::host()).await;
    idle().await;
    kernel.exit_group(pid.leader(), 4).unwrap();
    let seen = exits(&drain(&mut host).await);
    let raws: Vec<_> = seen
        .iter()
        .map(|(_, raw)| raw.map(|raw| raw >> 8))
        .collect();
    assert_eq!(raws, [1, 2, 3, 4].map(Some));
}

/// It was listed, and gone when it was looked at. Once its report was taken for the
/// next owner's of its pid, that one's for the next, and so on.
#[tokio::test(start_paused = true)]
async fn the_end_of_one_who_was_listed_is_not_the_next_owners() {
    let kernel = SimKernel::with_seed(5);
    let parent = kernel.spawn().unwrap();
    let pid = kernel.fork(parent).unwrap();
    let probe = FaultyProbe::new(&kernel).after_listing(move |kernel| {
        kernel.hold_exits(true);
        kernel.exit_group(pid.leader(), 1).unwrap();
        kernel.reap(pid).unwrap();
    });
    let hub = hub_probing(&kernel, probe).await;
    let mut host = subscribe(&hub, Filter::host()).await;
    for code in 2..=3 {
        kernel.set_next_pid(pid).unwrap();
        assert_eq!(kernel.fork(parent).unwrap(), pid);
        if code == 2 {
            kernel.hold_exits(false);
            kernel.settle();
        }
        kernel.exit_group(pid.leader(), code).unwrap();
        kernel.reap(pid).unwrap();
    }
    let seen = exits(&drain(&mut host).await);
    let raws: Vec<_> = seen
        .iter()
        .map(|(_, raw)| raw.map(|raw| raw >> 8))
        .collect();
    assert_eq!(raws, [None, Some(2), Some(3)]);
}
