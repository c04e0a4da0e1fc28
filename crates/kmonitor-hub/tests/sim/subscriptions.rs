//! Who gets what, and what it costs the kernel.

use std::num::NonZeroUsize;

use kmonitor_event::{EventKind, EventMask, LossOrigin, Pid};
use kmonitor_hub::{Filter, SubscribeError};
use kmonitor_source::SourceError;
use kmonitor_source::sim::{SimConfig, SimMode};

use crate::support::{drain, exits, hub, hub_on, kinds, subscribe};

#[tokio::test(start_paused = true)]
async fn a_pid_subscription_gets_its_process_and_nobody_else() {
    let (kernel, hub) = hub().await;
    let (watched, other) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let mut events = subscribe(&hub, Filter::pid(watched).events(EventMask::all())).await;
    kernel.fork(other).unwrap();
    let child = kernel.fork(watched).unwrap();
    kernel.exec(child.leader()).unwrap();
    kernel.exec(watched.leader()).unwrap();
    kernel.exit_group(other.leader(), 1).unwrap();
    kernel.exit_group(watched.leader(), 2).unwrap();
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["fork", "exec", "exit"]);
    assert_eq!(exits(&events), [(watched, Some(0x200))]);
    let numbers: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_last_process() {
    let (kernel, hub) = hub().await;
    let pids = [kernel.spawn().unwrap(), kernel.spawn().unwrap()];
    let mut events = subscribe(&hub, Filter::pids(pids)).await;
    for pid in pids {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    assert!(events.next().await.is_some());
    assert!(events.next().await.is_some());
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_process_added_to_an_ended_stream_makes_it_go_on() {
    let (kernel, hub) = hub().await;
    let none: [Pid; 0] = [];
    let mut events = subscribe(&hub, Filter::pids(none)).await;
    assert_eq!(events.next().await, None);
    let pid = kernel.spawn().unwrap();
    events.add(pid).await.unwrap();
    kernel.exit_group(pid.leader(), 0).unwrap();
    assert!(events.next().await.is_some());
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn add_remove_and_set_mask_change_a_running_subscription() {
    let (kernel, hub) = hub().await;
    let (first, second) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let filter = Filter::pid(first).events(EventMask::EXEC).keep_open();
    let mut events = subscribe(&hub, filter).await;
    events.add(second).await.unwrap();
    kernel.exec(second.leader()).unwrap();
    assert_eq!(events.next().await.unwrap().pid(), Some(second));
    assert!(events.remove(first).await.unwrap());
    assert!(!events.remove(first).await.unwrap());
    kernel.exec(first.leader()).unwrap();
    events.set_mask(EventMask::EXIT).await.unwrap();
    kernel.exec(second.leader()).unwrap();
    kernel.exit_group(second.leader(), 4).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(second, Some(0x400))]);
}

#[tokio::test(start_paused = true)]
async fn without_a_subscription_the_kernel_is_not_listened_to() {
    let (kernel, hub) = hub().await;
    assert!(!kernel.listening());
    let pid = kernel.spawn().unwrap();
    let events = subscribe(&hub, Filter::host()).await;
    assert!(kernel.listening());
    let watch = hub.watch(pid).await.unwrap();
    drop(events);
    hub.stats().await.unwrap();
    assert!(kernel.listening(), "the watch still needs it");
    drop(watch);
    while hub.stats().await.unwrap().listening {
        tokio::task::yield_now().await;
    }
    assert!(!kernel.listening());
    let stats = hub.stats().await.unwrap();
    assert_eq!(
        (stats.subscriptions, stats.watches, stats.tracked),
        (0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn listening_ends_when_the_last_named_process_has_ended() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let events = subscribe(&hub, Filter::pid(pid)).await;
    kernel.exit_group(pid.leader(), 0).unwrap();
    while kernel.listening() {
        tokio::task::yield_now().await;
    }
    drop(events);
}

#[tokio::test(start_paused = true)]
async fn an_answer_dropped_unread_leaves_no_subscription() {
    let (kernel, hub) = hub().await;
    kernel.stall_interest(true);
    let mut pending = Box::pin(hub.subscribe(Filter::host()));
    assert!(futures::poll!(&mut pending).is_pending());
    tokio::task::yield_now().await;
    drop(pending);
    kernel.stall_interest(false);
    while hub.stats().await.unwrap().subscriptions > 0 {
        tokio::task::yield_now().await;
    }
    assert!(!kernel.listening());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_serve_refuses_at_once() {
    let (kernel, hub) = hub_on(SimConfig::default().mode(SimMode::Named)).await;
    let pid = kernel.spawn().unwrap();
    let refused = [
        Filter::host().events(EventMask::EXIT),
        Filter::tree(pid).events(EventMask::EXIT),
        Filter::pid(pid).events(EventMask::FORK),
    ];
    for filter in refused {
        let error = hub.subscribe(filter).await.unwrap_err();
        assert!(matches!(error, SubscribeError::Refused(_)), "{error}");
    }
    let none = Filter::host().events(EventMask::empty());
    let error = hub.subscribe(none).await.unwrap_err();
    assert!(matches!(error, SubscribeError::NoEvents), "{error}");
    let events = hub
        .subscribe(Filter::pid(pid).events(EventMask::EXIT))
        .await;
    assert!(events.unwrap().set_mask(EventMask::EXEC).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_failed_interest_fails_the_call_and_leaves_nothing() {
    let (kernel, hub) = hub().await;
    kernel.fail_interest(SourceError::Ended);
    let error = hub.subscribe(Filter::host()).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Source(_)), "{error}");
    let events = hub.subscribe(Filter::host()).await.unwrap();
    assert_eq!(hub.stats().await.unwrap().subscriptions, 1);
    drop(events);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_loses_its_own_events_and_is_told_how_many() {
    let (kernel, hub) = hub().await;
    let small = Filter::host()
        .events(EventMask::FORK)
        .queue_events(NonZeroUsize::new(3).unwrap());
    let mut slow = subscribe(&hub, small).await;
    let mut other = subscribe(&hub, Filter::host().events(EventMask::FORK)).await;
    for _ in 0..10 {
        kernel.spawn().unwrap();
    }
    let all = drain(&mut other).await;
    assert_eq!(all.len(), 10);
    let seen = drain(&mut slow).await;
    assert_eq!(kinds(&seen), ["fork", "fork", "fork", "lost"]);
    assert!(matches!(seen[3].kind, EventKind::Lost(lost)
            if lost.origin == LossOrigin::Subscription && lost.count == Some(7)));
    kernel.spawn().unwrap();
    let next = slow.next().await.unwrap();
    assert_eq!((next.kind.name(), next.seq), ("fork", 4));
    let stats = hub.stats().await.unwrap();
    assert_eq!(stats.lost_by_subscriptions, 7);
    assert_eq!(stats.delivered, 11 + 4);
}

#[tokio::test(start_paused = true)]
async fn unknown_events_are_passed_on() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut named = subscribe(&hub, Filter::pid(pid).events(EventMask::all())).await;
    let mut host = subscribe(&hub, Filter::host().events(EventMask::OTHER)).await;
    kernel.other(0x4000, Some(pid));
    kernel.other(0x8000, None);
    let other = |event: kmonitor_event::Event| (event.kind, event.pid());
    let what = |what| EventKind::Other { what };
    assert_eq!(
        named.next().await.map(other),
        Some((what(0x4000), Some(pid)))
    );
    assert_eq!(
        host.next().await.map(other),
        Some((what(0x4000), Some(pid)))
    );
    assert_eq!(host.next().await.map(other), Some((what(0x8000), None)));
}

#[tokio::test(start_paused = true)]
async fn closing_hands_out_what_was_queued_and_ends_the_streams() {
    let (kernel, hub) = hub().await;
    let mut events = subscribe(&hub, Filter::host()).await;
    let pid = kernel.spawn().unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    kernel.exec(pid.leader()).unwrap();
    hub.clone().close().await;
    assert_eq!(kinds(&drain(&mut events).await), ["fork", "exec"]);
    assert!(watch.exited().await.is_err());
    assert!(hub.stats().await.is_err());
    assert!(!kernel.listening());
}

#[tokio::test(start_paused = true)]
async fn a_broken_source_ends_streams_and_watches_with_the_reason() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::host()).await;
    let watch = hub.watch(pid).await.unwrap();
    let broken = std::io::Error::other("it broke");
    kernel.break_source(SourceError::io("read", broken));
    assert_eq!(events.next().await, None);
    assert!(watch.await.unwrap_err().to_string().contains("it broke"));
    let closed = hub.stats().await.unwrap_err();
    assert!(closed.reason.contains("it broke"), "{closed}");
}
