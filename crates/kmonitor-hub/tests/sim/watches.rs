//! The latched end of one process.

use std::num::NonZeroU64;

use kmonitor_event::{EventMask, ProcessRef, Status, UnknownReason};
use kmonitor_hub::{Filter, Hub, WatchMode};
use kmonitor_source::WatchError;
use kmonitor_source::sim::{SimConfig, SimKernel, SimMode};

use crate::probes::FaultyProbe;
use crate::support::{drain, exits, hub, hub_on, hub_probing, idle, subscribe, within};

#[tokio::test(start_paused = true)]
async fn a_watch_gives_the_exit_however_late_it_is_polled() {
    for mode in [SimMode::Tasks, SimMode::Named] {
        let (kernel, hub) = hub_on(SimConfig::default().mode(mode)).await;
        let pid = kernel.spawn().unwrap();
        let mut watch = hub.watch(pid).await.unwrap();
        kernel.exit_group(pid.leader(), 3).unwrap();
        let exit = watch.exited().await.unwrap();
        assert_eq!(exit.process.pid(), pid);
        kernel.reap(pid).unwrap();
        assert_eq!(watch.settled().await.unwrap().status.code(), Some(3));
        assert_eq!(watch.reaped().await.unwrap().status.code(), Some(3));
        assert_eq!(watch.await.unwrap().status.code(), Some(3));
    }
}

#[tokio::test(start_paused = true)]
async fn reaped_waits_for_the_reaping() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    kernel.exit_group(pid.leader(), 0).unwrap();
    watch.settled().await.unwrap();
    let mut reaped = Box::pin(watch.reaped());
    assert!(futures::poll!(&mut reaped).is_pending());
    kernel.reap(pid).unwrap();
    assert!(reaped.await.unwrap().status.success());
}

#[tokio::test(start_paused = true)]
async fn gone_reused_and_thread_are_errors_of_their_own() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    let error = hub.watch(thread.as_raw()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("thread of process {pid}")),
        "{error}"
    );
    assert!(!error.is_gone());
    let wrong = ProcessRef {
        pid,
        inode: NonZeroU64::new(u64::MAX),
    };
    let error = hub.watch(wrong).await.unwrap_err();
    assert!(
        error.is_gone() && error.to_string().contains("now belongs to"),
        "{error}"
    );
    kernel.exit_group(pid.leader(), 0).unwrap();
    kernel.reap(pid).unwrap();
    assert!(hub.watch(pid).await.unwrap_err().is_gone());
    assert!(matches!(hub.watch(0).await, Err(WatchError::Target(_))));
    assert!(matches!(hub.watch(-1).await, Err(WatchError::Target(_))));
}

#[tokio::test(start_paused = true)]
async fn a_zombie_is_settled_at_once() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), 9).unwrap();
    let exit = hub.watch(pid).await.unwrap().await.unwrap();
    assert_eq!(exit.status.code(), Some(9));
}

#[tokio::test(start_paused = true)]
async fn many_watches_of_one_process_all_resolve() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(hub.watch(pid).await.unwrap());
    }
    drop(watches.split_off(10));
    kernel.kill(pid, 15).unwrap();
    for watch in watches {
        assert_eq!(watch.await.unwrap().status.signal(), Some(15));
    }
}

#[tokio::test(start_paused = true)]
async fn exited_comes_before_a_status_that_is_not_known_yet() {
    let config = SimConfig::default()
        .mode(SimMode::Named)
        .status_readable(false);
    let (kernel, hub) = hub_on(config).await;
    let pid = kernel.spawn().unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    kernel.exit_group(pid.leader(), 7).unwrap();
    assert_eq!(watch.exited().await.unwrap().status, Status::Pending);
    kernel.reap(pid).unwrap();
    assert_eq!(watch.settled().await.unwrap().status.code(), Some(7));
}

/// Once the second of two watches asked for in one turn took the first one's
/// reservation for a former owner of the pid, and both told of an exit that had
/// not happened.
#[tokio::test(start_paused = true)]
async fn two_watches_asked_for_at_once_both_wait_for_the_exit() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let (first, second) = futures::join!(hub.watch(pid), hub.watch(pid));
    let (mut first, mut second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.process(), second.process());
    assert!(within(first.exited()).await.is_none(), "it lives");
    assert!(within(second.exited()).await.is_none(), "it lives");
    kernel.exit_group(pid.leader(), 3).unwrap();
    for watch in [first, second] {
        let exit = within(watch).await.expect("an end").unwrap();
        assert_eq!(exit.status.code(), Some(3));
    }
}

/// Once a watch of a zombie whose exit the host's stream had told took it up as
/// somebody new, and the host was told of the same death again.
#[tokio::test(start_paused = true)]
async fn watching_a_zombie_does_not_repeat_its_exit_to_the_host() {
    let (kernel, hub) = hub().await;
    let mut host = subscribe(&hub, Filter::host().events(EventMask::EXIT)).await;
    let pid = kernel.spawn().unwrap();
    kernel.exit_group(pid.leader(), 3).unwrap();
    assert_eq!(exits(&drain(&mut host).await), [(pid, Some(0x300))]);
    let exit = hub.watch(pid).await.unwrap().await.unwrap();
    assert_eq!(exit.status.code(), Some(3));
    // The first watch is gone by now; another has to take the zombie up anew.
    let again = hub.watch(pid).await.unwrap();
    assert_eq!(exits(&drain(&mut host).await), []);
    assert_eq!(again.await.unwrap().status.code(), Some(3));
}

/// Once a hold outlived its last watch for as long as a host subscription kept
/// the process in the table, so that holds only ever became more.
#[tokio::test(start_paused = true)]
async fn a_dropped_watch_lets_go_of_its_hold_beside_a_host_subscription() {
    let (kernel, hub) = hub().await;
    let host = subscribe(&hub, Filter::host()).await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        let pid = kernel.spawn().unwrap();
        watches.push(hub.watch(pid).await.unwrap());
    }
    assert_eq!(hub.stats().await.unwrap().held, 5);
    drop(watches);
    idle().await;
    let stats = hub.stats().await.unwrap();
    assert_eq!((stats.held, stats.watches), (0, 0));
    drop(host);
}

/// A hub that holds nothing by itself.
async fn hub_without_holds(kernel: &SimKernel) -> Hub {
    Hub::builder()
        .source(kernel.source())
        .probe(kernel.probe())
        .on_current_runtime()
        .holds_max(None)
        .open()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_held_watch_knows_the_status_of_who_dies_and_is_reaped_unseen() {
    for lost in [false, true] {
        let kernel = SimKernel::with_seed(2);
        let hub = hub_without_holds(&kernel).await;
        let pid = kernel.spawn().unwrap();
        let thread = kernel.clone_thread(pid).unwrap();
        let shared = hub.watch(pid).await.unwrap();
        let held = hub.watch_with(pid, WatchMode::HeldPidfd).await.unwrap();
        assert_eq!(hub.stats().await.unwrap().held, 0, "not of the shared ones");
        if lost {
            kernel.lose(1);
        }
        kernel.exit_task(thread, 7).unwrap();
        kernel.exit_task(pid.leader(), 5).unwrap();
        let truth = kernel.reap(pid).unwrap();
        let reason = if lost {
            UnknownReason::EventLost
        } else {
            UnknownReason::CodesDiffer
        };
        assert_eq!(shared.await.unwrap().status, Status::Unknown(reason));
        let exit = held.await.unwrap();
        assert_eq!(exit.status.raw(), Some(truth));
        assert_eq!(exit.inferred, lost);
    }
}

#[tokio::test(start_paused = true)]
async fn without_pidfds_a_held_watch_is_refused_and_leaves_nothing() {
    let kernel = SimKernel::with_seed(2);
    let hub = hub_probing(&kernel, FaultyProbe::new(&kernel)).await;
    let pid = kernel.spawn().unwrap();
    let refused = hub.watch_with(pid, WatchMode::HeldPidfd).await.unwrap_err();
    assert!(
        matches!(refused, WatchError::NotHeld { source: None }),
        "{refused}"
    );
    let stats = hub.stats().await.unwrap();
    assert_eq!(
        (stats.watches, stats.tracked, stats.listening),
        (0, 0, false)
    );
    let shared = hub.watch(pid).await;
    assert!(shared.is_ok());
}
