//! Following processes and all that descend from them.

use kmonitor_event::{EventKind, EventMask, Pid, ProcessRef};
use kmonitor_hub::Filter;
use kmonitor_source::sim::SimKernel;

use crate::probes::FaultyProbe;
use crate::support::{drain, exits, hub, hub_probing, idle, kinds, subscribe};

#[tokio::test(start_paused = true)]
async fn a_tree_is_followed_from_the_moment_the_call_returns() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let old_child = kernel.fork(root).unwrap();
    let old_grandchild = kernel.fork(old_child).unwrap();
    let stranger = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    let new_child = kernel.fork(old_grandchild).unwrap();
    let newest = kernel.fork(new_child).unwrap();
    for pid in [stranger, root, old_child, old_grandchild, new_child, newest] {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    let seen: Vec<Pid> = exits(&drain(&mut events).await)
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    assert_eq!(seen, [root, old_child, old_grandchild, new_child, newest]);
    assert_eq!(events.next().await, None, "the tree has ended");
}

#[tokio::test(start_paused = true)]
async fn descendants_leave_out_the_root_but_for_its_forks() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::descendants(root)).await;
    kernel.exec(root.leader()).unwrap();
    let child = kernel.fork(root).unwrap();
    kernel.exec(child.leader()).unwrap();
    kernel.exit_group(child.leader(), 1).unwrap();
    kernel.exit_group(root.leader(), 2).unwrap();
    let events = drain(&mut events).await;
    assert_eq!(kinds(&events), ["fork", "exec", "exit"]);
    assert!(matches!(events[0].kind, EventKind::Fork { child: key } if key.pid() == child));
    assert_eq!(exits(&events), [(child, Some(0x100))]);
    assert_eq!(events[2].parent, Some(root));
}

#[tokio::test(start_paused = true)]
async fn without_the_forks_in_the_mask_the_tree_is_followed_all_the_same() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::tree(root).events(EventMask::EXIT)).await;
    let child = kernel.fork(root).unwrap();
    kernel.exit_group(child.leader(), 1).unwrap();
    kernel.exit_group(root.leader(), 2).unwrap();
    let seen = exits(&drain(&mut events).await);
    assert_eq!(seen, [(child, Some(0x100)), (root, Some(0x200))]);
}

#[tokio::test(start_paused = true)]
async fn a_tree_added_later_is_followed_too() {
    let (kernel, hub) = hub().await;
    let (first, second) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let old = kernel.fork(second).unwrap();
    let mut events = subscribe(&hub, Filter::pid(first).events(EventMask::EXIT)).await;
    events.add_tree(second).await.unwrap();
    let new = kernel.fork(old).unwrap();
    for pid in [new, old, second, first] {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    assert_eq!(exits(&drain(&mut events).await).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn descendants_lost_to_reparenting_during_the_look_are_told() {
    let kernel = SimKernel::with_seed(3);
    let root = kernel.spawn().unwrap();
    let middle = kernel.fork(root).unwrap();
    let orphan = kernel.fork(middle).unwrap();
    // Between the parent's entry and the child's: what a look at `/proc` cannot
    // exclude.
    let probe = FaultyProbe::new(&kernel).during_listing(move |kernel| {
        kernel.exit_group(middle.leader(), 0).unwrap();
    });
    let hub = hub_probing(&kernel, probe).await;
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    kernel.exit_group(orphan.leader(), 0).unwrap();
    kernel.exit_group(root.leader(), 0).unwrap();
    let events = drain(&mut events).await;
    assert!(kinds(&events).contains(&"track_incomplete"), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_found_dead_is_told_as_a_possible_gap_at_once() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let zombie = kernel.fork(root).unwrap();
    kernel.exit_group(zombie.leader(), 0).unwrap();
    let filter = Filter::tree(root).events(EventMask::EXEC);
    let mut events = subscribe(&hub, filter).await;
    assert_eq!(
        events.next().await.unwrap().kind,
        EventKind::TrackIncomplete
    );
}

/// Whoever had the pid when the look came to it was followed as a descendant.
#[tokio::test(start_paused = true)]
async fn a_stranger_with_the_pid_of_a_listed_descendant_is_not_followed() {
    let kernel = SimKernel::with_seed(3);
    let root = kernel.spawn().unwrap();
    let child = kernel.fork(root).unwrap();
    let stranger = kernel.spawn().unwrap();
    for ends_too in [false, true] {
        let probe = FaultyProbe::new(&kernel).after_listing(move |kernel| {
            kernel.exit_group(child.leader(), 0).unwrap();
            kernel.reap(child).unwrap();
            kernel.set_next_pid(child).unwrap();
            assert_eq!(kernel.fork(stranger).unwrap(), child);
            if ends_too {
                kernel.exit_group(child.leader(), 9).unwrap();
            }
        });
        let hub = hub_probing(&kernel, probe).await;
        let mut events = subscribe(&hub, Filter::tree(root)).await;
        if ends_too {
            kernel.reap(child).unwrap();
        } else {
            kernel.exec(child.leader()).unwrap();
            kernel.exit_group(child.leader(), 9).unwrap();
            kernel.reap(child).unwrap();
        }
        // For the next round, and as one who does belong to the tree.
        kernel.set_next_pid(child).unwrap();
        assert_eq!(kernel.fork(root).unwrap(), child);
        let seen = drain(&mut events).await;
        assert!(!kinds(&seen).contains(&"exec"), "{seen:?}");
        assert!(!exits(&seen).contains(&(child, Some(9 << 8))), "{seen:?}");
        assert!(kinds(&seen).contains(&"fork"), "{seen:?}");
    }
}

/// Once such a gap went untold where the parent's exit was reported only after
/// the look, because nobody compared the two any more.
#[tokio::test(start_paused = true)]
async fn descendants_lost_during_the_look_are_told_however_late_the_exit() {
    let kernel = SimKernel::with_seed(3);
    let root = kernel.spawn().unwrap();
    let middle = kernel.fork(root).unwrap();
    let orphan = kernel.fork(middle).unwrap();
    let probe = FaultyProbe::new(&kernel).during_listing(move |kernel| {
        kernel.hold_exits(true);
        kernel.exit_group(middle.leader(), 0).unwrap();
        kernel.reap(middle).unwrap();
    });
    let hub = hub_probing(&kernel, probe).await;
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    kernel.hold_exits(false);
    kernel.settle();
    kernel.exit_group(orphan.leader(), 0).unwrap();
    kernel.exit_group(root.leader(), 0).unwrap();
    let events = drain(&mut events).await;
    assert!(kinds(&events).contains(&"track_incomplete"), "{events:?}");
}

/// Once the look for descendants stopped at a process that was followed by
/// itself already, and missed all below it, then and later.
#[tokio::test(start_paused = true)]
async fn a_tree_goes_on_below_a_process_that_was_followed_by_itself() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let middle = kernel.fork(root).unwrap();
    let old = kernel.fork(middle).unwrap();
    let mut events = subscribe(&hub, Filter::pid(middle)).await;
    events.add_tree(root).await.unwrap();
    let new = kernel.fork(middle).unwrap();
    let order = [old, new, middle, root];
    for pid in order {
        kernel.exit_group(pid.leader(), 0).unwrap();
    }
    let seen = exits(&drain(&mut events).await);
    assert_eq!(seen, order.map(|pid| (pid, Some(0))));
}

/// Once a member that was born before the hub's eyes could not be removed by
/// pid and inode, because its key has no inode.
#[tokio::test(start_paused = true)]
async fn a_member_born_in_the_tree_is_removed_by_pid_and_inode() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::tree(root).events(EventMask::EXIT)).await;
    let child = kernel.fork(root).unwrap();
    let watch = hub.watch(child).await.unwrap();
    let named = ProcessRef {
        pid: child,
        inode: kernel.inode(child),
    };
    assert!(named.inode.is_some());
    assert_eq!(ProcessRef::from(watch.process()), named);
    assert!(events.remove(named).await.unwrap());
    assert!(!events.remove(named).await.unwrap());
    kernel.exit_group(child.leader(), 1).unwrap();
    kernel.exit_group(root.leader(), 2).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(root, Some(0x200))]);
}

/// Once the kernel was listened to for the whole host until the stream of a
/// tree that had ended was dropped.
#[tokio::test(start_paused = true)]
async fn listening_ends_with_the_tree() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    assert!(kernel.listening());
    kernel.exit_group(root.leader(), 0).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(root, Some(0))]);
    idle().await;
    assert!(!kernel.listening());
    assert_eq!(events.next().await, None);
}
