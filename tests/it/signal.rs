//! Monitors in other programs are told of targets' events by signals: what
//! arrives there is what happened, and nobody else is told.

mod followers;
mod identity;
mod pressure;
mod refusals;

use std::process::Command;

use kmonitor::signal::{
    DeregisterError, MonitorSignal, MonitorSignals, ReceiveError, RegisterError, Session, Signal,
    SignalAdapter, SignalError, SignalStats,
};
use kmonitor::{EventMask, Hub, Pid, SourceKind};
use kmonitor_tests::{Listener, Puppets, Told};

use crate::child::HeldChild;
use crate::patience::{soon, until};
use crate::{LISTENER, PUPPET};

const ALL: EventMask = EventMask::from_bits_retain(0x7f);

fn signal(offset: u8) -> Signal {
    Signal::realtime(offset).unwrap()
}

fn listener() -> Listener {
    Listener::start(LISTENER).unwrap()
}

fn pid(raw: i32) -> Pid {
    Pid::new(raw).unwrap()
}

async fn connector() -> Hub {
    let hub = Hub::builder().only(SourceKind::Connector).open();
    hub.await.unwrap()
}

/// What a listener gets of an event of a process of ours.
fn told(signal: Signal, pid: i32, event: EventMask) -> Told {
    Told {
        signal: signal.as_raw(),
        code: -1,
        pid,
        uid: rustix::process::getuid().as_raw(),
        int: event.bits().cast_signed(),
    }
}

/// Takes what comes up to the exit of `fence`, which is registered after all else
/// and told after all that happened before.
fn up_to(listener: &mut Listener, fence: Told) -> Vec<Told> {
    let mut all = Vec::new();
    loop {
        let [next] = listener.take(1).unwrap()[..] else {
            panic!("{fence} did not come; but {all:?}");
        };
        if next == fence {
            return all;
        }
        all.push(next);
    }
}

/// A process whose exit says to a listener that all before it has been told.
struct Fence {
    child: HeldChild,
    signal: Signal,
}

impl Fence {
    async fn new(adapter: &SignalAdapter, monitor: Pid) -> Self {
        let child = HeldChild::shell("exit 0");
        let signal = signal(20);
        let registered = adapter.register(monitor, child.pid(), EventMask::EXIT, signal);
        registered.await.unwrap();
        Self { child, signal }
    }

    fn fall(mut self) -> Told {
        self.child.make_zombie();
        told(self.signal, self.child.pid().as_raw(), EventMask::EXIT)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn each_of_the_seven_events_is_told() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let mut puppets = Puppets::start(PUPPET).unwrap();
    for _ in 0..20 {
        let target = puppets.spawn().unwrap();
        let registered = adapter.register(pid(monitor.pid()), pid(target), ALL, signal(1));
        registered.await.unwrap();
        let tell = |pid, event| told(signal(1), pid, event);

        let child = puppets.fork(target).unwrap();
        let thread = puppets.thread(target).unwrap();
        puppets.end_thread(target, thread).unwrap();
        puppets.exec(target).unwrap();
        let last = puppets.thread(target).unwrap();
        puppets.kill(target, 9).unwrap();
        let due = [
            tell(child, EventMask::FORK),
            tell(thread, EventMask::THREAD_CREATE),
            tell(thread, EventMask::THREAD_EXIT),
            tell(target, EventMask::EXEC),
            tell(last, EventMask::THREAD_CREATE),
            tell(last, EventMask::THREAD_ABORT),
            tell(last, EventMask::THREAD_EXIT),
            tell(target, EventMask::ABORT),
            tell(target, EventMask::EXIT),
        ];
        assert_eq!(monitor.take(due.len()).unwrap(), due);
        puppets.reap(target).unwrap();
    }
    assert_eq!(monitor.drain().unwrap(), []);
    soon("the adapter's rest", adapter.idle()).await;
    let stats = adapter.stats();
    assert_eq!(stats.sent, 20 * 9, "{stats:?}");
    assert_eq!((stats.records, stats.targets, stats.waiting), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_normal_end_is_no_abort() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let mut puppets = Puppets::start(PUPPET).unwrap();
    let target = puppets.spawn().unwrap();
    let registered = adapter.register(pid(monitor.pid()), pid(target), ALL, signal(0));
    registered.await.unwrap();
    let fence = Fence::new(&adapter, pid(monitor.pid())).await;
    puppets.exit(target, 9).unwrap();
    let all = up_to(&mut monitor, fence.fall());
    assert_eq!(all, [told(signal(0), target, EventMask::EXIT)]);
}

/// Without a fence it would be seen only if it came early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn each_monitor_gets_its_own_and_no_more() {
    const TARGETS: usize = 200;
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let (mut one, mut other) = (listener(), listener());
    let mut puppets = Puppets::start(PUPPET).unwrap();
    let targets: Vec<i32> = (0..TARGETS).map(|_| puppets.spawn().unwrap()).collect();
    for target in &targets {
        let registered = adapter.register(pid(one.pid()), pid(*target), ALL, signal(2));
        registered.await.unwrap();
    }
    // The other one watches two of them, with signals of its own, one of them
    // for its exec only.
    let both = EventMask::EXEC | EventMask::EXIT;
    let other_pid = pid(other.pid());
    let (first, last) = (targets[0], targets[TARGETS - 1]);
    adapter
        .register(other_pid, pid(first), both, signal(3))
        .await
        .unwrap();
    adapter
        .register(other_pid, pid(last), EventMask::EXEC, signal(4))
        .await
        .unwrap();
    let fence_one = Fence::new(&adapter, pid(one.pid())).await;
    let fence_other = Fence::new(&adapter, other_pid).await;
    assert_eq!(adapter.stats().monitors, 2);
    assert_eq!(adapter.stats().records, TARGETS as u64 + 4);

    let mut due = Vec::new();
    for target in &targets {
        puppets.exec(*target).unwrap();
        due.push(told(signal(2), *target, EventMask::EXEC));
    }
    for target in targets.iter().rev() {
        puppets.exit(*target, 0).unwrap();
        due.push(told(signal(2), *target, EventMask::EXIT));
    }
    // The kernel may report the end of one after that of the next, which it reaped first.
    let in_order = |mut all: Vec<Told>| {
        all.sort_by_key(|it| (it.int, it.pid));
        all
    };
    let all = up_to(&mut one, fence_one.fall());
    assert_eq!(in_order(all), in_order(due));
    // By number of the signal first: that is how the kernel hands them out.
    let mut all = up_to(&mut other, fence_other.fall());
    all.sort_by_key(|it| (it.signal, it.int));
    assert_eq!(
        all,
        [
            told(signal(3), first, EventMask::EXEC),
            told(signal(3), first, EventMask::EXIT),
            told(signal(4), last, EventMask::EXEC),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn register_adds_deregister_takes_away_and_the_last_signal_counts() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    let mut puppets = Puppets::start(PUPPET).unwrap();
    let target = puppets.spawn().unwrap();
    adapter
        .register(me, pid(target), EventMask::FORK, signal(1))
        .await
        .unwrap();
    adapter
        .register(me, pid(target), EventMask::EXEC, signal(2))
        .await
        .unwrap();
    assert_eq!(adapter.stats().records, 1);
    let child = puppets.fork(target).unwrap();
    puppets.exec(target).unwrap();
    // Both are told by the signal that came last, so they are in order.
    let due = [
        told(signal(2), child, EventMask::FORK),
        told(signal(2), target, EventMask::EXEC),
    ];
    assert_eq!(monitor.take(2).unwrap(), due);

    adapter
        .deregister(me, pid(target), EventMask::FORK)
        .await
        .unwrap();
    // What was not registered is no harm.
    adapter
        .deregister(me, pid(target), EventMask::EXIT)
        .await
        .unwrap();
    let fence = Fence::new(&adapter, me).await;
    puppets.fork(target).unwrap();
    puppets.exec(target).unwrap();
    let due = [told(signal(2), target, EventMask::EXEC)];
    assert_eq!(up_to(&mut monitor, fence.fall()), due);

    adapter.deregister(me, pid(target), ALL).await.unwrap();
    assert!(adapter.deregister(me, pid(target), ALL).await.is_err());
    let fence = Fence::new(&adapter, me).await;
    puppets.exec(target).unwrap();
    assert_eq!(up_to(&mut monitor, fence.fall()), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_session_takes_its_own_registrations_with_it() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    let mut puppets = Puppets::start(PUPPET).unwrap();
    let target = puppets.spawn().unwrap();
    let (kept, dropped) = (adapter.session(), adapter.session());
    kept.register(me, pid(target), EventMask::EXEC, signal(1))
        .await
        .unwrap();
    dropped
        .register(me, pid(target), EventMask::EXEC, signal(2))
        .await
        .unwrap();
    assert!(dropped.deregister(me, pid(1), ALL).await.is_err());
    puppets.exec(target).unwrap();
    let mut both = monitor.take(2).unwrap();
    both.sort_by_key(|it| it.signal);
    let exec = |by| told(signal(by), target, EventMask::EXEC);
    assert_eq!(both, [exec(1), exec(2)]);

    drop(dropped);
    until("its record goes", async || adapter.stats().records == 1).await;
    let fence = Fence::new(&adapter, me).await;
    puppets.exec(target).unwrap();
    assert_eq!(up_to(&mut monitor, fence.fall()), [exec(1)]);
    drop(kept);
    until("the hub rests", async || {
        !hub.stats().await.unwrap().listening
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_registration_outlives_the_handles_but_not_the_target() {
    let hub = connector().await;
    let mut monitor = listener();
    let mut puppets = Puppets::start(PUPPET).unwrap();
    let target = puppets.spawn().unwrap();
    let adapter = SignalAdapter::new(&hub);
    let session = adapter.session();
    let me = pid(monitor.pid());
    let both = EventMask::EXEC | EventMask::EXIT;
    adapter
        .register(me, pid(target), both, signal(1))
        .await
        .unwrap();
    session
        .register(me, pid(target), both, signal(2))
        .await
        .unwrap();
    let numbers = adapter.clone();
    drop((adapter, session));
    until("the session has ended", async || {
        numbers.stats().records == 1
    })
    .await;
    drop(numbers);
    puppets.exec(target).unwrap();
    puppets.exit(target, 0).unwrap();
    let due = [EventMask::EXEC, EventMask::EXIT].map(|event| told(signal(1), target, event));
    assert_eq!(monitor.take(2).unwrap(), due);
    until("nothing is left", async || {
        let stats = hub.stats().await.unwrap();
        stats.subscriptions == 0 && stats.watches == 0 && !stats.listening
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn nobody_registered_nothing_listened_to() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let monitor = listener();
    let me = pid(monitor.pid());
    let facts = async || {
        let before = hub.stats().await.unwrap();
        assert!(!before.listening && before.subscriptions == 0, "{before:?}");
        for _ in 0..20 {
            Command::new("true").status().unwrap();
        }
        assert_eq!(hub.stats().await.unwrap().facts, before.facts);
    };
    facts().await;
    for _ in 0..3 {
        let mut target = HeldChild::shell("exit 0");
        adapter
            .register(me, target.pid(), ALL, signal(1))
            .await
            .unwrap();
        assert_eq!(hub.stats().await.unwrap().subscriptions, 1);
        assert!(hub.stats().await.unwrap().listening);
        adapter.deregister(me, target.pid(), ALL).await.unwrap();
        until("it rests", async || !hub.stats().await.unwrap().listening).await;
        facts().await;

        // So it is when the last target ends, and when the last monitor does.
        adapter
            .register(me, target.pid(), ALL, signal(1))
            .await
            .unwrap();
        target.make_zombie();
        until("it rests", async || !hub.stats().await.unwrap().listening).await;
        let target = HeldChild::shell("exit 0");
        let mortal = listener();
        let registered = adapter.register(pid(mortal.pid()), target.pid(), ALL, signal(1));
        registered.await.unwrap();
        mortal.kill().unwrap();
        until("it rests", async || !hub.stats().await.unwrap().listening).await;
        facts().await;
    }
    soon("the adapter's rest", adapter.idle()).await;
    assert_eq!(adapter.stats().monitors, 0);
}

#[test]
fn the_types_are_send_and_sync_and_their_futures_send() {
    fn shared<T: Send + Sync + Unpin + 'static>() {}
    fn error<T: std::error::Error + Send + Sync + 'static>() {}
    fn future<T: Send>(_: T) {}
    shared::<SignalAdapter>();
    shared::<Session>();
    shared::<SignalStats>();
    shared::<Signal>();
    shared::<MonitorSignal>();
    shared::<MonitorSignals>();
    error::<RegisterError>();
    error::<DeregisterError>();
    error::<ReceiveError>();
    error::<SignalError>();
    let _ = |adapter: &SignalAdapter, session: &Session, signals: &mut MonitorSignals| {
        let me = Pid::current();
        future(adapter.register(me, me, ALL, signal(1)));
        future(adapter.deregister(me, me, ALL));
        future(adapter.idle());
        future(adapter.closed());
        future(session.register(me, me, ALL, signal(1)));
        future(session.deregister(me, me, ALL));
        future(signals.next());
    };
}
