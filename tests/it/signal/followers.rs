//! Monitors that register what they are told is born.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};

use kmonitor::signal::SignalAdapter;
use kmonitor::source::sim::{SimConfig, SimKernel};
use kmonitor::{EventMask, Hub, Pid};
use kmonitor_tests::{Listener, Told};

use super::{ALL, Fence, connector, listener, pid, signal, told, up_to};
use crate::CHAIN;
use crate::patience::until;

const FORK: i32 = 0x08;
const ABORT: i32 = 0x10;
const EXEC: i32 = 0x20;
const EXIT: i32 = 0x40;

/// How many processes are in a chain.
const DEPTH: usize = 50;

/// Takes signals, registering all that is born, until all have ended.
async fn follow(adapter: &SignalAdapter, monitor: &mut Listener, root: i32) -> Vec<(i32, i32)> {
    let mut live = 1;
    let mut all = Vec::new();
    while live > 0 {
        let [next] = monitor.take(1).unwrap()[..] else {
            panic!("{live} live on after {all:?}");
        };
        all.push((next.pid, next.int));
        match next.int {
            FORK => {
                live += 1;
                let child = pid(next.pid);
                let registered = adapter.register(pid(monitor.pid()), child, ALL, signal(1));
                registered
                    .await
                    .unwrap_or_else(|error| panic!("{child} below {root}: {error}"));
            }
            EXIT => live -= 1,
            _ => {}
        }
    }
    all
}

/// Each is gone long before it can be registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_deep_chain_of_short_lives_is_seen_whole_and_in_order() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    for _ in 0..20 {
        let mut chain = Command::new(CHAIN)
            .arg(DEPTH.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let root = Pid::try_from(chain.id()).unwrap();
        adapter.register(me, root, ALL, signal(1)).await.unwrap();
        drop(chain.stdin.take());
        let mut said = String::new();
        // To its end: all have written, and none but the last lives.
        let output = chain.stdout.as_mut().unwrap();
        output.read_to_string(&mut said).unwrap();
        let pids: Vec<i32> = said.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(pids.len(), DEPTH);
        chain.wait().unwrap();

        let all = follow(&adapter, &mut monitor, root.as_raw()).await;
        // Of each what is its own, from its birth to its end.
        let mut stories: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (pid, bit) in &all {
            // The root's exec came before it was registered, or not.
            if *bit != EXEC {
                stories.entry(*pid).or_default().push(*bit);
            }
        }
        for (number, pid) in pids.iter().enumerate() {
            let birth = (number > 0).then_some(FORK);
            let abort = ((number + 1) % 3 == 0).then_some(ABORT);
            let due: Vec<i32> = birth.into_iter().chain(abort).chain([EXIT]).collect();
            assert_eq!(stories.remove(pid), Some(due), "number {number}: {all:?}");
        }
        assert_eq!(stories, BTreeMap::new(), "nobody else");
        let forks = all.iter().filter(|it| it.1 == FORK).map(|it| it.0);
        assert_eq!(forks.collect::<Vec<_>>(), pids[1..]);
        let fence = Fence::new(&adapter, me).await;
        assert_eq!(up_to(&mut monitor, fence.fall()), []);
    }
    until("nothing is remembered", async || {
        adapter.stats().remembered == 0
    })
    .await;
    until("the hub rests", async || {
        !hub.stats().await.unwrap().listening
    })
    .await;
    assert_eq!(adapter.stats().forgotten, 0);
}

/// A simulated kernel, where the time between birth and registration is the test's.
struct Stage {
    kernel: SimKernel,
    hub: Hub,
    adapter: SignalAdapter,
    monitor: Listener,
    root: Pid,
}

impl Stage {
    async fn new(events: EventMask) -> Self {
        let kernel = SimKernel::new(SimConfig::default().seed(1));
        let hub = Hub::builder().source(kernel.source()).probe(kernel.probe());
        let hub = hub.open().await.unwrap();
        let adapter = SignalAdapter::new(&hub);
        let monitor = listener();
        let root = kernel.spawn().unwrap();
        let old = kernel.fork(root).unwrap();
        let registered = adapter.register(pid(monitor.pid()), root, events, signal(1));
        registered.await.unwrap();
        // What was there before is nobody's business.
        kernel.fork(old).unwrap();
        kernel.exit_group(old.leader(), 0).unwrap();
        Self {
            kernel,
            hub,
            adapter,
            monitor,
            root,
        }
    }

    async fn register(&self, target: Pid, events: EventMask) {
        let me = pid(self.monitor.pid());
        let registered = self.adapter.register(me, target, events, signal(1));
        registered.await.unwrap();
    }

    /// The next so many: whose they are, and what.
    fn take(&mut self, count: usize) -> Vec<(i32, i32)> {
        let all = self.monitor.take(count).unwrap();
        all.iter().map(|it: &Told| (it.pid, it.int)).collect()
    }

    fn end(&self, pid: Pid) {
        self.kernel.exit_group(pid.leader(), 0).unwrap();
        self.kernel.reap(pid).unwrap();
    }

    async fn until_forgotten(&self) {
        until("nothing is remembered", async || {
            self.adapter.stats().remembered == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_registers_gets_what_was_missed_and_only_what_it_asks_for() {
    let mut stage = Stage::new(EventMask::FORK).await;
    let child = stage.kernel.fork(stage.root).unwrap();
    stage.kernel.exec(child.leader()).unwrap();
    let grandchild = stage.kernel.fork(child).unwrap();
    stage.kernel.exec(grandchild.leader()).unwrap();
    stage.end(grandchild);
    stage.end(child);
    assert_eq!(stage.take(1), [(child.as_raw(), FORK)]);
    stage
        .register(child, EventMask::FORK | EventMask::EXIT)
        .await;
    assert_eq!(stage.take(1), [(grandchild.as_raw(), FORK)]);
    stage.register(grandchild, ALL).await;
    let due = [
        (grandchild.as_raw(), EXEC),
        (grandchild.as_raw(), EXIT),
        // After those that descend from it.
        (child.as_raw(), EXIT),
    ];
    assert_eq!(stage.take(3), due);
    stage.until_forgotten().await;
    assert_eq!(stage.monitor.drain().unwrap(), []);
}

/// Both owners of the pid, each by the registration that its birth calls for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pid_that_is_used_again_meanwhile_means_those_that_were_told() {
    let mut stage = Stage::new(EventMask::FORK).await;
    let child = stage.kernel.fork(stage.root).unwrap();
    stage.kernel.exec(child.leader()).unwrap();
    stage.end(child);
    assert_eq!(stage.take(1), [(child.as_raw(), FORK)]);
    // By somebody else, whom the monitor was not told of.
    let stranger = stage.kernel.spawn().unwrap();
    stage.kernel.set_next_pid(child).unwrap();
    let new = stage.kernel.fork(stranger).unwrap();
    assert_eq!(new, child);
    stage.kernel.exec(new.leader()).unwrap();
    stage.register(child, ALL).await;
    assert_eq!(
        stage.take(2),
        [(child.as_raw(), EXEC), (child.as_raw(), EXIT)]
    );
    assert_eq!(stage.adapter.stats().targets, 1, "the root only");
    // Now it is known, and the number means who has it.
    stage.register(child, ALL).await;
    assert_eq!(stage.adapter.stats().targets, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_register_in_time_gets_nothing_of_before() {
    let mut stage = Stage::new(EventMask::FORK).await;
    let child = stage.kernel.fork(stage.root).unwrap();
    stage.kernel.exec(child.leader()).unwrap();
    assert_eq!(stage.take(1), [(child.as_raw(), FORK)]);
    // The signal goes out before it is noted down whom it was about.
    until("it is remembered", async || {
        stage.adapter.stats().remembered == 1
    })
    .await;
    stage.until_forgotten().await;
    // It has left the subscription too.
    assert_eq!(stage.hub.stats().await.unwrap().tracked, 1);
    stage.register(child, ALL).await;
    stage.kernel.exec(child.leader()).unwrap();
    stage.end(child);
    assert_eq!(
        stage.take(2),
        [(child.as_raw(), EXEC), (child.as_raw(), EXIT)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_told_although_nothing_that_was_born_is_registered() {
    let mut stage = Stage::new(EventMask::FORK | EventMask::EXIT).await;
    let child = stage.kernel.fork(stage.root).unwrap();
    stage.kernel.exec(child.leader()).unwrap();
    stage.end(stage.root);
    let due = [(child.as_raw(), FORK), (stage.root.as_raw(), EXIT)];
    assert_eq!(stage.take(2), due);
    until("nobody is followed", async || {
        !stage.hub.stats().await.unwrap().listening
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_goes_with_the_session_and_with_the_monitor() {
    for kill in [false, true] {
        let stage = Stage::new(EventMask::empty()).await;
        let mut mortal = listener();
        let session = stage.adapter.session();
        let me = pid(mortal.pid());
        let events = EventMask::FORK;
        session
            .register(me, stage.root, events, signal(1))
            .await
            .unwrap();
        let child = stage.kernel.fork(stage.root).unwrap();
        stage.kernel.fork(child).unwrap();
        let fork = told(signal(1), child.as_raw(), EventMask::FORK);
        let [next] = mortal.take(1).unwrap()[..] else {
            panic!("{fork} was due");
        };
        assert_eq!((next.pid, next.int), (fork.pid, fork.int));
        until("both are remembered", async || {
            stage.adapter.stats().remembered == 2
        })
        .await;
        let since = std::time::Instant::now();
        if kill {
            mortal.kill().unwrap();
        } else {
            drop(session);
        }
        stage.until_forgotten().await;
        assert!(since.elapsed().as_millis() < 1500, "not by its time alone");
        until("they have left", async || {
            stage.hub.stats().await.unwrap().tracked == 1
        })
        .await;
    }
}
