//! That nothing is left of a process for ever.

use std::time::Duration;

use kmonitor_event::Pid;
use kmonitor_source::sim::{SimConfig, SimKernel};
use kmonitor_source::{Fact, FactKind, ProcessProbe};

use super::*;
use crate::router::Router;

/// A tracker beside its kernel, which is told and asked by hand.
struct World {
    kernel: SimKernel,
    tracker: Tracker,
    router: Router,
}

impl World {
    fn new(kernel: SimKernel) -> Self {
        let config = TrackerConfig {
            status_grace: Duration::from_secs(1),
            holds_max: 0,
        };
        Self {
            kernel,
            tracker: Tracker::new(config),
            router: Router::default(),
        }
    }

    /// Does something so many seconds after the hub began.
    fn at<R>(&mut self, secs: u64, act: impl FnOnce(&mut Tracker, &mut Cx<'_, Router>) -> R) -> R {
        let mut cx = Cx {
            now: Now {
                elapsed: Duration::from_secs(secs),
                stamp: self.kernel.now(),
            },
            probe: &self.kernel.probe(),
            sink: &mut self.router,
        };
        act(&mut self.tracker, &mut cx)
    }

    /// Tells a fact that happens now.
    fn tell(&mut self, secs: u64, kind: FactKind) {
        let fact = Fact::new(self.kernel.now(), kind);
        self.at(secs, |tracker, cx| tracker.fact(&fact, cx));
    }

    /// Ends and reaps who has the pid, and has another get it.
    fn changes_hands(&self, pid: Pid, parent: Pid) {
        self.kernel.exit_group(pid.leader(), 1).unwrap();
        self.kernel.reap(pid).unwrap();
        self.kernel.set_next_pid(pid).unwrap();
        self.kernel.fork(parent).unwrap();
    }

    /// Long after all: nothing is due, and nothing is left.
    fn assert_no_ghosts(&mut self) {
        self.at(5000, Tracker::expire);
        let deadline = self.tracker.next_deadline();
        assert_eq!(deadline, None, "nothing is due any more");
        let ghosts = self.tracker.ghosts.values().map(Vec::len);
        assert_eq!(ghosts.sum::<usize>(), 0);
    }
}

fn ended(pid: Pid, parent: Pid) -> FactKind {
    FactKind::TaskExited {
        process: pid,
        tid: pid.leader(),
        code: 0x200,
        parent: Some(parent),
    }
}

/// A death that its deadline settled leaves a ghost that nothing ever takes away.
#[test]
fn ghosts_of_expired_deaths_go() {
    let mut world = World::new(SimKernel::new(SimConfig::default().status_readable(false)));
    for round in 0..100 {
        let pid = world.kernel.spawn().unwrap();
        world.kernel.exit_group(pid.leader(), 1).unwrap();
        let identity = world.kernel.probe().identify(pid).unwrap();
        world.at(round * 10, |tracker, cx| {
            let key = tracker.reserve(pid, identity, cx);
            tracker.adopt(key, cx).unwrap();
        });
        world.kernel.reap(pid);
        world.at(round * 10 + 5, Tracker::expire);
        assert_eq!(world.tracker.len(), 0, "it has ended");
    }
    world.assert_no_ghosts();
}

/// The same of those that a look found to have been replaced within a loss.
#[test]
fn ghosts_of_those_who_were_replaced_go() {
    let mut world = World::new(SimKernel::with_seed(1));
    world.tracker.set_host(true);
    let root = world.kernel.spawn().unwrap();
    let pid = Pid::new(777).unwrap();
    for round in 0..100u64 {
        world.kernel.set_next_pid(pid).unwrap();
        world.kernel.fork(root).unwrap();
        let born_at = world.kernel.now();
        let (parent, child) = (Some(root), pid);
        world.tell(round * 10, FactKind::Forked { parent, child });
        world.kernel.advance(Duration::from_millis(20));
        world.tell(round * 10, FactKind::Lost { count: Some(1) });
        // It changed hands within the loss.
        world.changes_hands(pid, root);
        let mut listed = Vec::new();
        world.kernel.probe().processes(&mut listed).unwrap();
        world.at(round * 10, |tracker, cx| {
            for entry in listed.iter().filter(|it| it.pid == pid) {
                tracker.found_alive(entry, born_at, cx);
            }
            tracker.caught_up();
            tracker.recheck(usize::MAX, true, cx);
        });
        // And its next owner ends, and is told.
        let at = world.kernel.now().saturating_add(Duration::from_nanos(1));
        world.kernel.exit_group(pid.leader(), 2).unwrap();
        let fact = Fact::new(at, ended(pid, root));
        world.at(round * 10, |tracker, cx| tracker.fact(&fact, cx));
        world.kernel.reap(pid).unwrap();
        world.at(round * 10 + 5, Tracker::expire);
    }
    assert!(!world.tracker.current.contains(pid));
    world.assert_no_ghosts();
}

/// A former owner whose report never came (no loss is told of a message that the kernel
/// had no memory for) does not take the next one's, however much later.
#[test]
fn an_expired_former_owner_does_not_swallow_later_exits() {
    let mut world = World::new(SimKernel::with_seed(1));
    world.tracker.set_host(true);
    let root = world.kernel.spawn().unwrap();
    let pid = world.kernel.fork(root).unwrap();
    let fork = FactKind::Forked {
        parent: Some(root),
        child: pid,
    };
    world.tell(0, fork);
    world.changes_hands(pid, root);
    world.tell(0, fork);
    world.at(5, Tracker::expire);
    // An hour later.
    world.kernel.advance(Duration::from_secs(3600));
    world.at(3605, Tracker::expire);
    world.kernel.exit_group(pid.leader(), 2).unwrap();
    world.tell(3605, ended(pid, root));
    assert_eq!(world.tracker.len(), 1, "only root is left (or nobody)");
    let key = world.tracker.key_of(pid);
    assert_eq!(key, None, "it is dead, and its report was read");
}
