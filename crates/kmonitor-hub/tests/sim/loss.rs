//! What is lost is told, and no watched exit is lost with it.

use kmonitor_event::{EventKind, EventMask, LossOrigin, Status};
use kmonitor_hub::Filter;
use kmonitor_source::sim::SimConfig;

use crate::support::{drain, hub, hub_on, idle, kinds, status_of, subscribe};

#[tokio::test(start_paused = true)]
async fn a_kernel_loss_is_told_in_every_stream_and_watched_exits_are_inferred() {
    let (kernel, hub) = hub().await;
    let pids = [kernel.spawn().unwrap(), kernel.spawn().unwrap()];
    let mut first = subscribe(&hub, Filter::pid(pids[0])).await;
    let mut second = subscribe(&hub, Filter::pid(pids[1]).keep_open()).await;
    let mut watch = hub.watch(pids[0]).await.unwrap();
    kernel.lose(1);
    // Dropped: the queue is in overflow until it has been read to its end.
    kernel.exit_group(pids[0].leader(), 3).unwrap();
    let events = drain(&mut first).await;
    assert_eq!(kinds(&events), ["lost", "resync", "exit", "resync"]);
    assert!(matches!(events[0].kind, EventKind::Lost(lost)
        if lost.origin == LossOrigin::Kernel && lost.count == Some(2)));
    assert!(events[2].inferred);
    assert_eq!(
        status_of(&events, pids[0]).code(),
        Some(3),
        "a zombie tells"
    );
    let others = drain(&mut second).await;
    assert_eq!(kinds(&others), ["lost", "resync", "resync"]);
    assert!(watch.settled().await.unwrap().inferred);
    assert_eq!(hub.stats().await.unwrap().lost_by_kernel, 2);
}

#[tokio::test(start_paused = true)]
async fn a_process_reaped_within_a_loss_is_reported_with_a_reasoned_unknown_or_its_status() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    kernel.lose(1);
    kernel.exit_group(pid.leader(), 3).unwrap();
    kernel.reap(pid).unwrap();
    let events = drain(&mut events).await;
    match status_of(&events, pid) {
        Status::Unknown(_) => {}
        known => assert_eq!(known.code(), Some(3)),
    }
}

#[tokio::test(start_paused = true)]
async fn an_overflow_never_ends_the_reading() {
    let (kernel, hub) = hub_on(SimConfig::default().queue_facts_max(4)).await;
    let mut events = subscribe(&hub, Filter::host().events(EventMask::FORK)).await;
    let mut sent = 0;
    for _ in 0..50 {
        for _ in 0..7 {
            kernel.spawn().unwrap();
            sent += 1;
        }
        tokio::task::yield_now().await;
    }
    let events = drain(&mut events).await;
    let mut told = 0;
    for event in &events {
        told += match event.kind {
            EventKind::Fork { .. } => u64::from(!event.inferred),
            EventKind::Resync(_) => 0,
            EventKind::Lost(lost) => lost.count.unwrap(),
            other => panic!("{other}"),
        };
    }
    assert_eq!(told, sent, "delivered + lost = sent");
    assert!(kinds(&events).contains(&"lost"));
    // Reading goes on.
    kernel.spawn().unwrap();
}

/// Once such counts overflowed when they were added up, which took down the task
/// of a hub built for debugging.
#[tokio::test(start_paused = true)]
async fn losses_beyond_counting_are_still_told() {
    let (kernel, hub) = hub().await;
    let mut events = subscribe(&hub, Filter::host()).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        kernel.lose(u64::MAX);
        // Read one by one.
        idle().await;
        seen.extend(drain(&mut events).await);
    }
    let loss_and_marks = ["lost", "resync", "resync"];
    assert_eq!(kinds(&seen), [loss_and_marks, loss_and_marks].concat());
    for event in seen.iter().step_by(3) {
        assert!(matches!(event.kind, EventKind::Lost(lost)
            if lost.origin == LossOrigin::Kernel && lost.count == Some(u64::MAX)));
    }
    assert_eq!(hub.stats().await.unwrap().lost_by_kernel, u64::MAX);
}
