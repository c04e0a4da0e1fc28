//! The same promises over every source that can keep them: each body runs once
//! per source named with it, on the real or the simulated kernel.

use kmonitor::source::{Reach, Refusal, Scope};
use kmonitor::{
    Event, EventKind, EventMask, Filter, LossOrigin, Lost, Pid, Resync, SubscribeError,
    Subscription,
};

use crate::patience::{is_pending, next, only_exit, rest, soon, until};
use crate::world::Source;

macro_rules! on {
    ($body:ident, connector) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs the proc connector: initial namespaces"]
        async fn connector() {
            super::$body(Source::Connector).await;
        }
    };
    ($body:ident, pidfd) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn pidfd() {
            super::$body(Source::Pidfd).await;
        }
    };
    ($body:ident, sim_tasks) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn sim_tasks() {
            super::$body(Source::SimTasks).await;
        }
    };
    ($body:ident, sim_named) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn sim_named() {
            super::$body(Source::SimNamed).await;
        }
    };
}

macro_rules! bodies {
    ($($body:ident: $($source:ident)+;)+) => {$(
        mod $body {
            use super::Source;
            $(on!($body, $source);)+
        }
    )+};
}

bodies! {
    an_exit_is_told_once_with_its_status: connector pidfd sim_tasks sim_named;
    a_killing_signal_is_the_status: connector pidfd sim_tasks sim_named;
    a_zombie_is_reported_to_who_comes_late: connector pidfd sim_tasks sim_named;
    who_is_gone_is_refused: connector pidfd sim_tasks sim_named;
    death_and_reaping_are_two_moments: connector pidfd sim_tasks sim_named;
    the_abort_mask_selects_abnormal_ends_only: connector pidfd sim_tasks sim_named;
    a_dropped_subscription_costs_nothing_more: connector pidfd sim_tasks sim_named;
    a_dropped_watch_costs_nothing_more: connector pidfd sim_tasks sim_named;
    a_removed_process_is_told_of_no_more: connector pidfd sim_tasks sim_named;
    a_process_with_threads_ends_once: connector pidfd sim_tasks sim_named;
    what_named_sources_cannot_see_is_refused: pidfd sim_named;
    a_tree_is_told_in_its_order: connector sim_tasks;
    threads_are_told_of: connector sim_tasks;
    an_exec_keeps_the_process: connector sim_tasks;
    the_host_is_told_of_strangers: connector sim_tasks;
    a_loss_is_told_at_its_place_and_no_watch_is_lost: sim_tasks;
}

/// Every way of watching tells of the end of `pid`, once.
async fn an_exit_is_told_once_with_its_status(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let watch = hub.watch(pid).await.unwrap();
    assert_eq!(watch.process().pid(), pid);
    world.exit(pid, 7);
    assert_eq!(only_exit(&rest(&mut stream).await), Some(7 << 8));
    let exit = soon("the watch", watch).await.unwrap();
    assert_eq!((exit.process.pid(), exit.status.code()), (pid, Some(7)));
    assert_eq!(world.reap(pid), 7 << 8);
}

async fn a_killing_signal_is_the_status(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    world.kill(pid, 9);
    assert_eq!(only_exit(&rest(&mut stream).await), Some(9));
    assert_eq!(world.reap(pid), 9);
}

async fn a_zombie_is_reported_to_who_comes_late(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    world.exit(pid, 4);
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let watch = hub.watch(pid).await.unwrap();
    assert_eq!(only_exit(&rest(&mut stream).await), Some(4 << 8));
    let exit = soon("the watch", watch).await.unwrap();
    assert_eq!(exit.status.code(), Some(4));
    world.reap(pid);
}

async fn who_is_gone_is_refused(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    world.exit(pid, 0);
    world.reap(pid);
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let error = hub.subscribe(filter).await.unwrap_err();
    assert!(error.is_gone(), "{error}");
    let error = hub.watch(pid).await.unwrap_err();
    assert!(error.is_gone(), "{error}");
    until("nothing is left of the attempts", async || {
        let stats = hub.stats().await.unwrap();
        (stats.subscriptions, stats.watches, stats.tracked) == (0, 0, 0)
    })
    .await;
}

async fn death_and_reaping_are_two_moments(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    let mut watch = hub.watch(pid).await.unwrap();
    assert!(is_pending(watch.exited()), "it lives");
    world.exit(pid, 6);
    let exit = soon("the exit", watch.exited()).await.unwrap();
    assert_eq!(exit.process.pid(), pid);
    let settled = soon("the status", watch.settled()).await.unwrap();
    assert_eq!(settled.status.code(), Some(6));
    assert!(is_pending(watch.reaped()), "nobody has reaped it");
    world.reap(pid);
    let exit = soon("the reaping", watch.reaped()).await.unwrap();
    assert_eq!(exit.status.code(), Some(6));
}

async fn the_abort_mask_selects_abnormal_ends_only(source: Source) {
    let (mut world, hub) = source.open().await;
    let (normal, killed) = (world.spawn(), world.spawn());
    let filter = Filter::pids([normal, killed]).events(EventMask::ABORT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    world.exit(normal, 3);
    world.kill(killed, 15);
    // Its end says that nothing more would have come.
    let events = rest(&mut stream).await;
    assert_eq!(only_exit(&events), Some(15));
    assert_eq!(events[0].pid(), Some(killed));
}

async fn a_dropped_subscription_costs_nothing_more(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let stream = hub.subscribe(filter.clone()).await.unwrap();
    let other = hub.subscribe(filter).await.unwrap();
    assert!(hub.stats().await.unwrap().listening);
    drop(stream);
    until("one subscription is left", async || {
        hub.stats().await.unwrap().subscriptions == 1
    })
    .await;
    assert!(hub.stats().await.unwrap().listening, "one is left");
    drop(other);
    until("nobody listens", async || {
        let stats = hub.stats().await.unwrap();
        !stats.listening && (stats.subscriptions, stats.tracked, stats.held) == (0, 0, 0)
    })
    .await;
    world.exit(pid, 0);
    world.reap(pid);
}

async fn a_dropped_watch_costs_nothing_more(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    let watch = hub.watch(pid).await.unwrap();
    assert!(hub.stats().await.unwrap().listening);
    drop(watch);
    until("nobody listens", async || {
        let stats = hub.stats().await.unwrap();
        !stats.listening && (stats.watches, stats.tracked, stats.held) == (0, 0, 0)
    })
    .await;
}

async fn a_removed_process_is_told_of_no_more(source: Source) {
    let (mut world, hub) = source.open().await;
    let (kept, removed) = (world.spawn(), world.spawn());
    let filter = Filter::pids([kept, removed]).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    assert!(stream.remove(removed).await.unwrap());
    assert!(!stream.remove(removed).await.unwrap(), "it was removed");
    world.exit(removed, 1);
    world.exit(kept, 2);
    let events = rest(&mut stream).await;
    assert_eq!(only_exit(&events), Some(2 << 8));
    assert_eq!(events[0].pid(), Some(kept));
}

async fn a_process_with_threads_ends_once(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    let first = world.thread(pid);
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    world.thread(pid);
    world.end_thread(pid, first);
    assert!(is_pending(watch.exited()), "it lives");
    world.exit(pid, 9);
    assert_eq!(only_exit(&rest(&mut stream).await), Some(9 << 8));
    let exit = soon("the watch", watch.settled()).await.unwrap();
    assert_eq!(exit.status.code(), Some(9));
    assert_eq!(world.reap(pid), 9 << 8);
}

async fn what_named_sources_cannot_see_is_refused(source: Source) {
    let (mut world, hub) = source.open().await;
    assert_eq!(hub.capabilities().source.reach, Reach::Named);
    let kind = source.kind();
    let pid = world.spawn();
    let refused = async |filter: Filter| match hub.subscribe(filter).await {
        Err(SubscribeError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    };
    for (filter, wanted) in [
        (Filter::tree(pid), Scope::Tree),
        (Filter::descendants(pid), Scope::Tree),
        (Filter::host(), Scope::Host),
    ] {
        let refusal = refused(filter.events(EventMask::EXIT)).await;
        assert_eq!(refusal, Refusal::Reach { kind, wanted });
    }
    let missing = EventMask::FORK | EventMask::EXEC;
    let refusal = refused(Filter::pid(pid).events(EventMask::LIFECYCLE)).await;
    assert_eq!(refusal, Refusal::Events { kind, missing });

    // A running subscription is refused the same, and goes on.
    let filter = Filter::pid(pid).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let refusals = [
        stream.set_mask(EventMask::EXEC).await,
        stream.add_tree(pid).await,
    ];
    for refusal in refusals {
        assert!(
            matches!(refusal, Err(SubscribeError::Refused(_))),
            "{refusal:?}"
        );
    }
    world.exit(pid, 5);
    assert_eq!(only_exit(&rest(&mut stream).await), Some(5 << 8));
}

/// The next event, which must be of this process.
async fn next_of(stream: &mut Subscription, pid: Pid) -> Event {
    let event = next(stream).await;
    assert_eq!(event.pid(), Some(pid), "{event}");
    event
}

async fn forked(stream: &mut Subscription, parent: Pid, expected: Pid) -> kmonitor::ProcessKey {
    let event = next_of(stream, parent).await;
    let EventKind::Fork { child } = event.kind else {
        panic!("a fork of {parent} was due: {event}");
    };
    assert_eq!(child.pid(), expected);
    child
}

async fn ended(stream: &mut Subscription, pid: Pid, raw: i32) -> Event {
    let event = next_of(stream, pid).await;
    let status = crate::patience::exit_status(&event);
    assert_eq!(status.and_then(|status| status.raw()), Some(raw), "{event}");
    event
}

/// Step by step, because the kernel promises no order between the exit of one
/// task and what another does after it.
async fn a_tree_is_told_in_its_order(source: Source) {
    let (mut world, hub) = source.open().await;
    let root = world.spawn();
    let mut stream = hub.subscribe(Filter::tree(root)).await.unwrap();

    let child = world.fork(root);
    let child_key = forked(&mut stream, root, child).await;
    let grandchild = world.fork(child);
    let grandchild_key = forked(&mut stream, child, grandchild).await;
    world.exec(grandchild);
    let event = next_of(&mut stream, grandchild).await;
    assert_eq!(
        (event.process, event.kind),
        (Some(grandchild_key), EventKind::Exec)
    );
    world.exit(grandchild, 3);
    let event = ended(&mut stream, grandchild, 3 << 8).await;
    assert_eq!(event.process, Some(grandchild_key));
    world.reap(grandchild);
    world.kill(child, 15);
    let event = ended(&mut stream, child, 15).await;
    assert_eq!(event.process, Some(child_key));
    world.reap(child);
    world.exit(root, 0);
    ended(&mut stream, root, 0).await;
    assert_eq!(soon("the end", stream.next()).await, None);
}

async fn threads_are_told_of(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    let filter = Filter::pid(pid).events(EventMask::THREADS | EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let tid = world.thread(pid);
    let event = next_of(&mut stream, pid).await;
    assert_eq!(event.kind, EventKind::ThreadCreate { tid });
    world.end_thread(pid, tid);
    let event = next_of(&mut stream, pid).await;
    assert!(
        matches!(event.kind, EventKind::ThreadExit { tid: ended, status }
        if ended == tid && status.success()),
        "{event}"
    );
    world.exit(pid, 1);
    ended(&mut stream, pid, 1 << 8).await;
    assert_eq!(soon("the end", stream.next()).await, None);
}

async fn an_exec_keeps_the_process(source: Source) {
    let (mut world, hub) = source.open().await;
    let pid = world.spawn();
    world.thread(pid);
    let filter = Filter::pid(pid).events(EventMask::EXEC | EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let watch = hub.watch(pid).await.unwrap();
    world.exec(pid);
    let event = next_of(&mut stream, pid).await;
    assert_eq!(
        (event.process, event.kind),
        (Some(watch.process()), EventKind::Exec)
    );
    world.exit(pid, 8);
    let event = ended(&mut stream, pid, 8 << 8).await;
    assert_eq!(event.process, Some(watch.process()));
    assert_eq!(soon("the end", stream.next()).await, None);
    let exit = soon("the watch", watch).await.unwrap();
    assert_eq!(exit.status.code(), Some(8));
}

/// With other processes on the host, so only one's events are looked at.
async fn the_host_is_told_of_strangers(source: Source) {
    let (mut world, hub) = source.open().await;
    assert_eq!(hub.capabilities().source.reach, Reach::Host);
    let mut stream = hub.subscribe(Filter::host()).await.unwrap();
    let pid = world.spawn();
    world.exec(pid);
    world.exit(pid, 2);
    let mut told = Vec::new();
    let mut born = None;
    while told.last() != Some(&"exit") {
        let event = next(&mut stream).await;
        match event.kind {
            EventKind::Fork { child } if child.pid() == pid => {
                born = Some(child);
                told.push("fork");
            }
            kind if event.pid() == Some(pid) => {
                assert_eq!(event.process, born, "{event}");
                told.push(kind.name());
            }
            _ => {}
        }
    }
    assert_eq!(told, ["fork", "exec", "exit"]);
}

async fn a_loss_is_told_at_its_place_and_no_watch_is_lost(source: Source) {
    let (mut world, hub) = source.open().await;
    let (before, within) = (world.spawn(), world.spawn());
    let filter = Filter::pids([before, within]).events(EventMask::EXIT);
    let mut stream = hub.subscribe(filter).await.unwrap();
    let watch = hub.watch(within).await.unwrap();
    world.exit(before, 1);
    ended(&mut stream, before, 1 << 8).await;
    world.lose(5);
    let event = next(&mut stream).await;
    let lost = Lost::new(LossOrigin::Kernel, Some(5));
    assert_eq!(event.kind, EventKind::Lost(lost));
    let mark = next(&mut stream).await;
    assert_eq!(mark.kind, EventKind::Resync(Resync::Begin));
    let mark = next(&mut stream).await;
    assert_eq!(mark.kind, EventKind::Resync(Resync::End { complete: true }));
    world.exit(within, 2);
    ended(&mut stream, within, 2 << 8).await;
    assert_eq!(soon("the end", stream.next()).await, None);
    let exit = soon("the watch", watch).await.unwrap();
    assert_eq!(exit.status.code(), Some(2));
}
