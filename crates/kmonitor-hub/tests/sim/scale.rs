//! Very many at once.

use std::collections::HashMap;
use std::future::IntoFuture as _;

use futures::future::join_all;
use kmonitor_event::{EventMask, Pid};
use kmonitor_hub::{Filter, Hub, Watch};
use kmonitor_source::sim::{SimConfig, SimKernel, SimMode};

use crate::support::{hub_on, idle};

const PROCESSES: usize = 100_000;

/// As many calls as may wait for the hub.
const AT_ONCE: usize = 1000;

fn crowd(kernel: &SimKernel, count: usize) -> Vec<Pid> {
    (0..count).map(|_| kernel.spawn().unwrap()).collect()
}

async fn watch_all(hub: &Hub, pids: &[Pid]) -> Vec<Watch> {
    let mut watches = Vec::with_capacity(pids.len());
    for some in pids.chunks(AT_ONCE) {
        let asked = join_all(some.iter().map(|pid| hub.watch(*pid)));
        watches.extend(asked.await.into_iter().map(Result::unwrap));
    }
    watches
}

async fn watched_and_ended(mode: SimMode) {
    let config = SimConfig::default().mode(mode).pid_max(200_000);
    let (kernel, hub) = hub_on(config.queue_facts_max(PROCESSES + 1)).await;
    let pids = crowd(&kernel, PROCESSES);
    let watches = watch_all(&hub, &pids).await;
    let stats = hub.stats().await.unwrap();
    assert_eq!((stats.watches, stats.tracked), (PROCESSES, PROCESSES));
    for (code, pid) in (0..).zip(&pids) {
        kernel.exit_group(pid.leader(), code % 256).unwrap();
        kernel.reap(*pid).unwrap();
    }
    let truth = kernel.truth();
    let mut due: HashMap<Pid, i32> = truth.iter().map(|it| (it.pid, it.status)).collect();
    assert_eq!(due.len(), PROCESSES);
    for exit in join_all(watches.into_iter().map(Watch::into_future)).await {
        let exit = exit.unwrap();
        let status = due.remove(&exit.process.pid());
        assert_eq!(exit.status.raw(), status, "{exit}");
    }
    assert!(due.is_empty());
    idle().await;
    let stats = hub.stats().await.unwrap();
    assert_eq!((stats.watches, stats.tracked), (0, 0));
    assert!(!kernel.listening());
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_watched_end_at_once_over_tasks() {
    watched_and_ended(SimMode::Tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_watched_end_at_once_over_named() {
    watched_and_ended(SimMode::Named).await;
}

/// Each call is one change of interest, however many there were before; many calls
/// at a time share theirs. Counted, not timed.
#[tokio::test(start_paused = true)]
async fn each_of_ten_thousand_subscriptions_changes_the_interest_once() {
    const SUBSCRIPTIONS: usize = 10_000;
    let (kernel, hub) = hub_on(SimConfig::default()).await;
    let pids = crowd(&kernel, SUBSCRIPTIONS);
    let exits = |pid: &Pid| Filter::pid(*pid).events(EventMask::EXIT);
    let mut streams = Vec::new();
    for (before, pid) in (0..).zip(&pids) {
        assert_eq!(kernel.interest_changes(), before);
        streams.push(hub.subscribe(exits(pid)).await.unwrap());
    }
    let one_by_one = kernel.interest_changes();
    assert_eq!(one_by_one, SUBSCRIPTIONS as u64);
    // They all go in one sweep.
    streams.clear();
    idle().await;
    let swept = kernel.interest_changes() - one_by_one;
    assert!((1..=2).contains(&swept), "{swept}");

    let asked = join_all(pids.iter().map(|pid| hub.subscribe(exits(pid))));
    let streams: Vec<_> = asked.await.into_iter().map(Result::unwrap).collect();
    let together = kernel.interest_changes() - one_by_one - swept;
    assert!(together <= SUBSCRIPTIONS as u64 / 100, "{together}");
    drop(streams);
}
