//! Following processes and all that descend from them.

use kmonitor_event::{EventKind, EventMask, Pid, Tid};
use kmonitor_hub::{Filter, Hub};
use kmonitor_source::sim::{SimKernel, SimProbe};
use kmonitor_source::{
    Identity, ProbeError, ProcessEntry, ProcessProbe, ProcessState, ReapFuture, ThreadState,
};

use crate::support::{drain, exits, hub, kinds, subscribe};

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

/// A probe that lets a parent die while it reads the table, between the parent's
/// entry and the child's: what a look at `/proc` cannot exclude.
struct Racing {
    probe: SimProbe,
    kernel: SimKernel,
    dies: Pid,
}

impl ProcessProbe for Racing {
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        self.probe.identify(pid)
    }
    fn state(&self, pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
        self.probe.state(pid, identity)
    }
    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<(), ProbeError> {
        self.probe.threads(pid, threads)
    }
    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        let leader: Tid = self.dies.leader();
        self.kernel.exit_group(leader, 0).unwrap();
        self.probe.processes(processes)
    }
    fn reaped(&self, pid: Pid, identity: Identity) -> ReapFuture {
        self.probe.reaped(pid, identity)
    }
}

#[tokio::test(start_paused = true)]
async fn descendants_lost_to_reparenting_during_the_look_are_told() {
    let kernel = SimKernel::with_seed(3);
    let root = kernel.spawn().unwrap();
    let middle = kernel.fork(root).unwrap();
    let orphan = kernel.fork(middle).unwrap();
    let racing = Racing {
        probe: kernel.probe(),
        kernel: kernel.clone(),
        dies: middle,
    };
    let hub = Hub::builder()
        .source(kernel.source())
        .probe(racing)
        .on_current_runtime()
        .open()
        .await
        .unwrap();
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
