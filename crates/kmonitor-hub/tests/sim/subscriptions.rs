//! Who gets what, and what it costs the kernel.

use std::num::NonZeroUsize;

use kmonitor_event::{EventKind, EventMask, LossOrigin, Pid};
use kmonitor_hub::{Filter, SubscribeError};
use kmonitor_source::SourceError;
use kmonitor_source::sim::{SimConfig, SimMode};

use crate::support::{drain, exits, hub, hub_on, idle, kinds, subscribe, within};

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

/// Once the second naming of a pid took the first one's reservation for a
/// former owner, and told of the exit of a process that lived.
#[tokio::test(start_paused = true)]
async fn a_pid_named_twice_is_followed_once() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::pids([pid, pid])).await;
    let early = drain(&mut events).await;
    assert!(early.is_empty(), "it lives: {early:?}");
    kernel.exit_group(pid.leader(), 3).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(pid, Some(0x300))]);
}

/// Once the clean-up after an `add` that failed took away the process that the
/// subscription had been following before.
#[tokio::test(start_paused = true)]
async fn a_failed_add_of_a_followed_process_leaves_it_followed() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid)).await;
    kernel.fail_interest(SourceError::Ended);
    let error = events.add(pid).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Source(_)), "{error}");
    kernel.exit_group(pid.leader(), 3).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(pid, Some(0x300))]);
}

/// Once what the source still had queued when the last subscription went was
/// delivered to the next one, an hour later.
#[tokio::test(start_paused = true)]
async fn a_subscription_gets_nothing_from_before_it() {
    let (kernel, hub) = hub().await;
    let former = subscribe(&hub, Filter::host()).await;
    let old = kernel.spawn().unwrap();
    kernel.exec(old.leader()).unwrap();
    drop(former);
    while kernel.listening() {
        tokio::task::yield_now().await;
    }
    kernel.exit_group(old.leader(), 0).unwrap();
    kernel.reap(old).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    let mut events = subscribe(&hub, Filter::host()).await;
    let stale = drain(&mut events).await;
    assert!(stale.is_empty(), "{stale:?}");
    kernel.spawn().unwrap();
    assert_eq!(kinds(&drain(&mut events).await), ["fork"]);
}

/// Once a change of the mask was answered before the source had been told, and
/// events after the answer could be missed.
#[tokio::test(start_paused = true)]
async fn set_mask_is_answered_once_the_source_listens() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    kernel.stall_interest(true);
    let mut change = Box::pin(events.set_mask(EventMask::all()));
    assert!(within(&mut change).await.is_none(), "not in force yet");
    kernel.stall_interest(false);
    within(change).await.expect("an answer").unwrap();
    kernel.exec(pid.leader()).unwrap();
    assert_eq!(kinds(&drain(&mut events).await), ["exec"]);
}

/// Once a loss was put into streams that had ended, so that a reader got an
/// event after the `None`.
#[tokio::test(start_paused = true)]
async fn nothing_comes_after_the_end_of_a_stream() {
    let (kernel, hub) = hub().await;
    let (followed, watched) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let mut events = subscribe(&hub, Filter::pid(followed)).await;
    let watch = hub.watch(watched).await.unwrap();
    kernel.exit_group(followed.leader(), 0).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(followed, Some(0))]);
    assert_eq!(within(events.next()).await, Some(None));
    kernel.lose(4);
    idle().await;
    assert_eq!(hub.stats().await.unwrap().lost_by_kernel, 4);
    assert_eq!(within(events.next()).await, Some(None));
    drop(watch);
}

/// A delivery goes by where the last one of its process went. That must not outlive
/// what it was true of.
#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_between_two_events_gets_exactly_those_in_between() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let exec = || kernel.exec(pid.leader()).unwrap();
    let filter = || Filter::pid(pid).events(EventMask::EXEC);
    let mut first = subscribe(&hub, filter()).await;
    exec();
    exec();
    let below = Filter::descendants(pid).events(EventMask::EXEC);
    let mut below = subscribe(&hub, below).await;
    exec();
    let mut second = subscribe(&hub, filter()).await;
    exec();
    assert!(first.remove(pid).await.unwrap());
    exec();
    first.add(pid).await.unwrap();
    second.set_mask(EventMask::EXIT).await.unwrap();
    exec();
    assert_eq!(drain(&mut first).await.len(), 5);
    assert_eq!(drain(&mut second).await.len(), 2);
    drop(first);
    // Takes the place of the one that was dropped.
    let other = kernel.spawn().unwrap();
    let mut third = subscribe(&hub, Filter::pid(other)).await;
    second.set_mask(EventMask::EXEC).await.unwrap();
    exec();
    assert_eq!(drain(&mut second).await.len(), 1);
    assert_eq!(drain(&mut third).await.len(), 0);
    assert_eq!(drain(&mut below).await.len(), 0);
}
