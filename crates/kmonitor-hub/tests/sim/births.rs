//! Following those that descend from a process from now on, and letting go of
//! single ones.

use kmonitor_event::{Event, EventKind, Pid, ProcessKey};
use kmonitor_hub::{Filter, Hub, Subscription};
use kmonitor_source::sim::SimConfig;

use crate::support::{drain, exits, hub, hub_on, idle, kinds, subscribe};

async fn nobody(hub: &Hub) -> Subscription {
    let none: [Pid; 0] = [];
    subscribe(hub, Filter::pids(none).keep_open()).await
}

fn pids(events: &[Event]) -> Vec<Pid> {
    exits(events).into_iter().map(|(pid, _)| pid).collect()
}

fn child_of(event: &Event) -> ProcessKey {
    match event.kind {
        EventKind::Fork { child } => child,
        kind => panic!("no fork: {kind}"),
    }
}

#[tokio::test(start_paused = true)]
async fn only_those_born_from_now_on_belong_to_it() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let old = kernel.fork(root).unwrap();
    let mut events = nobody(&hub).await;
    events.add_births(root).await.unwrap();
    let of_old = kernel.fork(old).unwrap();
    let new = kernel.fork(root).unwrap();
    let newest = kernel.fork(new).unwrap();
    for pid in [of_old, old, new, newest, root] {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["fork", "fork", "exit", "exit", "exit"]);
    assert_eq!(pids(&events), [new, newest, root]);
}

#[tokio::test(start_paused = true)]
async fn a_process_added_to_one_that_follows_comes_alone() {
    let (kernel, hub) = hub().await;
    let (root, other) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let theirs = kernel.fork(other).unwrap();
    let mut events = subscribe(&hub, Filter::tree(root).keep_open()).await;
    events.add(other).await.unwrap();
    let born = kernel.fork(other).unwrap();
    for pid in [theirs, born, other, root] {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    assert_eq!(pids(&drain(&mut events).await), [other, root]);
}

#[tokio::test(start_paused = true)]
async fn all_descendants_can_be_asked_for_after_those_to_be_born() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let old = kernel.fork(root).unwrap();
    let mut events = nobody(&hub).await;
    events.add_births(root).await.unwrap();
    events.add_tree(root).await.unwrap();
    for pid in [old, root] {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    assert_eq!(pids(&drain(&mut events).await), [old, root]);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_told_of_no_more_nor_are_its_later_children() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut events = nobody(&hub).await;
    events.add_births(root).await.unwrap();
    let gone = kernel.fork(root).unwrap();
    let stays = kernel.fork(gone).unwrap();
    let key = child_of(&events.next().await.unwrap());
    assert_eq!(child_of(&events.next().await.unwrap()).pid(), stays);
    // Another incarnation is nobody here.
    let stranger = ProcessKey::new(key.pid(), key.incarnation() + 1000);
    events.leave(vec![key, stranger]).await.unwrap();
    let late = kernel.fork(gone).unwrap();
    for pid in [late, gone, stays, root] {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    assert_eq!(pids(&drain(&mut events).await), [stays, root]);
}

/// The source is asked for no more than what is left needs, and no less.
#[tokio::test(start_paused = true)]
async fn births_that_are_ignored_are_not_listened_for() {
    let mut config = SimConfig::default().seed(1);
    config.filter = true;
    let (kernel, hub) = hub_on(config).await;
    let root = kernel.spawn().unwrap();
    let stranger = kernel.spawn().unwrap();
    let mut events = nobody(&hub).await;
    events.add_births(root).await.unwrap();
    let child = kernel.fork(root).unwrap();
    let born = events.next().await.unwrap();
    let both = vec![born.process.unwrap(), child_of(&born)];
    events.ignore_births(both).await.unwrap();
    let late = kernel.fork(root).unwrap();
    // With its last follower a tree's interest in everybody has gone.
    idle().await;
    let before = hub.stats().await.unwrap().facts;
    kernel.exec(stranger.leader()).unwrap();
    idle().await;
    assert_eq!(hub.stats().await.unwrap().facts, before);

    // Not that in the child, which nobody ever named.
    for pid in [child, late, root] {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["fork", "exit", "exit"]);
    assert_eq!(pids(&events), [child, root]);
}
