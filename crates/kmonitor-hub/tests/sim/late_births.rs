//! Looks that are ahead of the reports: whoever a look met, dead or alive, may still
//! have to be born in what is to be read, and others may wait for just that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kmonitor_event::{EventMask, Pid};
use kmonitor_hub::{Filter, Hub, Subscription};
use kmonitor_source::sim::SimKernel;

use crate::probes::FaultyProbe;
use crate::support::{drain, exits, hub_probing, kinds, subscribe};

const CODE: i32 = 7;
const STATUS: i32 = CODE << 8;

/// A process that has one child, born while the hub looks at something.
#[derive(Clone)]
struct Child {
    root: Pid,
    pid: Pid,
    /// Whether the child is to be born in the next look, and to die after it.
    due: Arc<AtomicBool>,
}

impl Child {
    fn is_born(&self, kernel: &SimKernel) {
        if self.due.load(Ordering::SeqCst) {
            kernel.set_next_pid(self.pid).unwrap();
            assert_eq!(kernel.fork(self.root).unwrap(), self.pid);
        }
    }

    fn ends(&self, kernel: &SimKernel, reaped: bool) {
        if self.due.swap(false, Ordering::SeqCst) {
            kernel.exit_group(self.pid.leader(), CODE).unwrap();
            if reaped {
                kernel.reap(self.pid).unwrap();
            }
        }
    }
}

struct World {
    kernel: SimKernel,
    hub: Hub,
    child: Child,
    /// Follows the tree from before the child's birth.
    first: Subscription,
}

fn forks_and_exits(filter: Filter) -> Filter {
    filter.events(EventMask::FORK | EventMask::EXIT)
}

async fn world(spoil: impl FnOnce(FaultyProbe, Child) -> FaultyProbe) -> World {
    let kernel = SimKernel::with_seed(5);
    let root = kernel.spawn().unwrap();
    let child = Child {
        root,
        pid: Pid::new(4000).unwrap(),
        due: Arc::default(),
    };
    let probe = spoil(FaultyProbe::new(&kernel), child.clone());
    let hub = hub_probing(&kernel, probe).await;
    let first = subscribe(&hub, forks_and_exits(Filter::tree(root))).await;
    World {
        kernel,
        hub,
        child,
        first,
    }
}

impl World {
    /// Subscribes to what makes the hub look.
    async fn subscribe(&self, filter: Filter) -> Subscription {
        self.child.due.store(true, Ordering::SeqCst);
        let subscription = subscribe(&self.hub, forks_and_exits(filter)).await;
        assert!(!self.child.due.load(Ordering::SeqCst), "nobody looked");
        subscription
    }

    async fn must_have_told_all_to_the_first(mut self) {
        let root = self.child.root;
        self.kernel.exit_group(root.leader(), 0).unwrap();
        let seen = drain(&mut self.first).await;
        assert_eq!(kinds(&seen), ["fork", "exit", "exit"], "{seen:?}");
        let ends = [(self.child.pid, Some(STATUS)), (root, Some(0))];
        assert_eq!(exits(&seen), ends, "{seen:?}");
        assert_eq!(self.first.next().await, None);
    }
}

/// Once it was taken for somebody who had been told of, and the others who follow the
/// parent never learnt of its birth and its end.
#[tokio::test(start_paused = true)]
async fn a_child_that_a_later_look_met_and_lost_is_told_to_those_who_followed_before() {
    let world = world(|probe, child| {
        let dying = child.clone();
        probe
            .during_listing(move |kernel| child.is_born(kernel))
            .after_identifying(move |kernel, pid| {
                if pid == dying.pid {
                    dying.ends(kernel, true);
                }
            })
    })
    .await;
    let mut later = world.subscribe(Filter::tree(world.child.root)).await;
    let told = drain(&mut later).await;
    assert_eq!(exits(&told), [(world.child.pid, Some(STATUS))], "{told:?}");
    world.must_have_told_all_to_the_first().await;
}

/// Once its birth was dropped as that of one whose end was told, which it was only to
/// who had asked for it by name.
#[tokio::test(start_paused = true)]
async fn a_child_whose_end_was_told_before_its_birth_is_told_to_those_who_follow() {
    for reaped in [false, true] {
        let world = world(move |probe, child| {
            let dying = child.clone();
            probe
                .before_identifying(move |kernel, pid| {
                    if pid == child.pid {
                        child.is_born(kernel);
                    }
                })
                .after_identifying(move |kernel, pid| {
                    if pid == dying.pid {
                        dying.ends(kernel, reaped);
                    }
                })
        })
        .await;
        let mut named = world.subscribe(Filter::pid(world.child.pid)).await;
        let told = drain(&mut named).await;
        assert_eq!(exits(&told), [(world.child.pid, Some(STATUS))], "{told:?}");
        world.must_have_told_all_to_the_first().await;
    }
}

/// Once it was told to the host as ended for unknown causes, and its birth as that of
/// another, whose end never came.
#[tokio::test(start_paused = true)]
async fn who_is_gone_by_the_first_look_at_the_host_is_born_and_ends_once() {
    let world = world(|probe, child| {
        let dying = child.clone();
        probe
            .during_listing(move |kernel| child.is_born(kernel))
            .after_listing(move |kernel| dying.ends(kernel, true))
    })
    .await;
    let mut host = world.subscribe(Filter::host()).await;
    let seen = drain(&mut host).await;
    assert_eq!(kinds(&seen), ["fork", "exit"], "{seen:?}");
    assert_eq!(exits(&seen), [(world.child.pid, Some(STATUS))]);
    world.must_have_told_all_to_the_first().await;
}
