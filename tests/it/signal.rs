//! Monitors in other programs are told of targets' events by signals: what
//! arrives there is what happened, and nobody else is told.

use std::process::{Command, Stdio};

use kmonitor::signal::{
    DeregisterError, MonitorSignal, MonitorSignals, ReceiveError, RegisterError, Session, Signal,
    SignalAdapter, SignalError, SignalStats,
};
use kmonitor::source::sim::{SimConfig, SimKernel};
use kmonitor::{EventMask, Hub, Pid, SourceKind};
use kmonitor_tests::{
    HeldPid, Listener, Puppets, Rng, Told, in_unshare, run_as_nobody, spawn_with_pid,
};

use crate::child::HeldChild;
use crate::elsewhere::elsewhere;
use crate::patience::{PATIENCE, soon, until};
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
    assert_eq!(up_to(&mut one, fence_one.fall()), due);
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

/// The next owner of a pid that has just become free.
fn successor(pid: i32) -> HeldPid {
    let since = std::time::Instant::now();
    loop {
        match HeldPid::spawn(pid) {
            Ok(held) => return held,
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists
                    && since.elapsed() < PATIENCE =>
            {
                std::thread::yield_now();
            }
            Err(error) => panic!("{pid} again: {error}"),
        }
    }
}

/// By pid, the successor would be ended by the signal. The adapter, which has this
/// thread too, learns of the events and of the death at the same time.
#[tokio::test(flavor = "current_thread")]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn who_gets_a_dead_monitors_pid_gets_no_signal() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut puppets = Puppets::start(PUPPET).unwrap();
    for _ in 0..50 {
        let monitor = listener();
        let number = monitor.pid();
        let target = puppets.spawn().unwrap();
        let registered = adapter.register(pid(number), pid(target), ALL, signal(1));
        registered.await.unwrap();
        let before = adapter.stats();
        monitor.kill().unwrap();
        let new = successor(number);
        for _ in 0..3 {
            puppets.exec(target).unwrap();
        }
        puppets.kill(target, 15).unwrap();
        // An answer of the hub's: it has queued all of that.
        futures::executor::block_on(hub.stats()).unwrap();
        until("nobody is told any more", async || {
            let stats = adapter.stats();
            stats.records == 0 && stats.monitors == 0
        })
        .await;
        assert_eq!(adapter.stats().sent, before.sent);
        assert_eq!(new.finish(7).unwrap(), 7 << 8, "it was ended by a signal");
        puppets.reap(target).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for clone3 with set_tid, and the proc connector"]
async fn who_gets_a_dead_targets_pid_is_not_monitored() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    let mut rng = Rng::from_env();
    for _ in 0..50 {
        let old = HeldPid::spawn_far_away(&mut rng).unwrap();
        let number = old.pid();
        adapter
            .register(me, pid(number), ALL, signal(1))
            .await
            .unwrap();
        let fence = Fence::new(&adapter, me).await;
        old.finish(3).unwrap();
        let new = successor(number);
        new.finish(9).unwrap();
        spawn_with_pid(number, 5)
            .or_else(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })
            .unwrap();
        let exit = told(signal(1), number, EventMask::EXIT);
        assert_eq!(up_to(&mut monitor, fence.fall()), [exit]);
    }
}

/// A monitor with room for 100 signals sleeps while a simulated target forks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, for a user whose queue nobody else fills"]
async fn what_a_full_queue_cannot_take_waits_in_order_or_is_counted() {
    const FORKS: usize = 20_000;
    const ROOM: u32 = 100;
    const NOBODY_ELSE: u32 = 1_234_567;
    let config = SimConfig::default().seed(1);
    let kernel = SimKernel::new(config.queue_facts_max(1 << 20));
    let hub = Hub::builder().source(kernel.source()).probe(kernel.probe());
    let hub = hub.open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = Listener::with_room(LISTENER, ROOM, NOBODY_ELSE).unwrap();
    let target = kernel.spawn().unwrap();
    let registered = adapter.register(pid(monitor.pid()), target, EventMask::FORK, signal(1));
    registered.await.unwrap();

    let mut children = Vec::new();
    let due = |stats: &SignalStats| stats.sent + stats.waiting + stats.dropped;
    for number in 1..=FORKS {
        let child = kernel.fork(target).unwrap();
        children.push(child.as_raw());
        kernel.exit_group(child.leader(), 0).unwrap();
        kernel.reap(child).unwrap();
        if number % 1000 == 0 {
            until("all have been told", async || {
                due(&adapter.stats()) == number as u64
            })
            .await;
        }
    }
    let asleep = adapter.stats();
    assert_eq!(asleep.sent, u64::from(ROOM));
    assert!(asleep.waiting > 0 && asleep.dropped > 0, "{asleep:?}");
    assert_eq!((asleep.lost_by_adapter, asleep.lost_by_kernel), (0, 0));

    // It wakes up: what waited comes, in order, and not one more.
    let wanted = FORKS - usize::try_from(asleep.dropped).unwrap();
    let arrived: Vec<i32> = monitor
        .take(wanted)
        .unwrap()
        .iter()
        .map(|it| it.pid)
        .collect();
    assert_eq!(arrived, children[..wanted]);
    until("nothing waits", async || adapter.stats().waiting == 0).await;
    let awake = adapter.stats();
    assert_eq!((awake.sent, awake.dropped), (wanted as u64, asleep.dropped));
    assert_eq!(monitor.drain().unwrap(), []);

    // And from now on it is told as ever.
    let child = kernel.fork(target).unwrap();
    assert_eq!(monitor.take(1).unwrap()[0].pid, child.as_raw());
}

/// The adapter does not run while the hub fills its queue.
#[tokio::test(flavor = "current_thread")]
async fn an_end_is_told_although_the_queue_lost_it() {
    let kernel = SimKernel::new(SimConfig::default().seed(1).queue_facts_max(1 << 20));
    let hub = Hub::builder().source(kernel.source()).probe(kernel.probe());
    let hub = hub.open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    let [loud, quiet] = [kernel.spawn().unwrap(), kernel.spawn().unwrap()];
    adapter
        .register(me, loud, EventMask::EXEC, signal(1))
        .await
        .unwrap();
    let ends = EventMask::ABORT | EventMask::EXIT;
    adapter.register(me, quiet, ends, signal(1)).await.unwrap();
    for _ in 0..20_000 {
        kernel.exec(loud.leader()).unwrap();
    }
    kernel.kill(quiet, 9).unwrap();
    // This thread is the adapter's too.
    while futures::executor::block_on(hub.stats())
        .unwrap()
        .lost_by_subscriptions
        < 3_000
    {
        std::thread::yield_now();
    }
    until("the loss is known", async || {
        adapter.stats().lost_by_adapter > 0
    })
    .await;
    until("the end is told", async || adapter.stats().targets == 1).await;
    let all = monitor.drain().unwrap();
    let tell = |event| told(signal(1), quiet.as_raw(), event);
    let [.., abort, exit] = all[..] else {
        panic!("{} came", all.len());
    };
    assert_eq!(((abort.pid, abort.int), (exit.pid, exit.int)), {
        let (abort, exit) = (tell(EventMask::ABORT), tell(EventMask::EXIT));
        ((abort.pid, abort.int), (exit.pid, exit.int))
    });
    let stats = adapter.stats();
    let execs = (all.len() - 2) as u64;
    assert_eq!(
        stats.lost_by_adapter + execs,
        20_000 + 1,
        "with the end: {stats:?}"
    );
}

/// The kernel keeps one of each, and so it was in 2004.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_do_not_queue_coalesce() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let hub = Hub::builder().source(kernel.source()).probe(kernel.probe());
    let hub = hub.open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let target = kernel.spawn().unwrap();
    let usr1 = "USR1".parse().unwrap();
    let registered = adapter.register(pid(monitor.pid()), target, EventMask::EXEC, usr1);
    registered.await.unwrap();
    for _ in 0..10 {
        kernel.exec(target.leader()).unwrap();
    }
    until("all are sent", async || adapter.stats().sent == 10).await;
    let all = monitor.drain().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((all[0].signal, all[0].int), (usr1.as_raw(), 0x20));
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

/// A process that dies between any two steps of a registration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the proc connector: initial namespaces"]
async fn a_target_that_ends_meanwhile_is_told_once_or_refused() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    let mut due = Vec::new();
    for round in 0..300 {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let target = Pid::try_from(child.id()).unwrap();
        let killed = std::thread::spawn(move || {
            for _ in 0..(round % 10) * 2000 {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
            if round % 2 == 0 {
                child.wait().unwrap();
            }
            child
        });
        let registered = adapter
            .register(me, target, EventMask::EXIT, signal(1))
            .await;
        killed.join().unwrap().wait().unwrap();
        match registered {
            Ok(()) => due.push(told(signal(1), target.as_raw(), EventMask::EXIT)),
            Err(RegisterError::NoSuchTarget { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let came = monitor.take(due.len()).unwrap();
    let mut sorted = (came.clone(), due.clone());
    // Registrations follow each other, but a status may take its time.
    sorted.0.sort_by_key(|it| it.pid);
    sorted.1.sort_by_key(|it| it.pid);
    assert_eq!(sorted.0, sorted.1);
    let fence = Fence::new(&adapter, me).await;
    assert_eq!(up_to(&mut monitor, fence.fall()), []);
    until("no record is left", async || adapter.stats().records == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, the proc connector, and setpriv"]
async fn the_uid_is_that_of_the_subject() {
    let hub = connector().await;
    let adapter = SignalAdapter::new(&hub);
    let mut monitor = listener();
    let me = pid(monitor.pid());
    // One of another user, and one that becomes another user's.
    let mut cat = Command::new("cat");
    cat.stdin(Stdio::piped());
    let mut nobody = run_as_nobody(&cat).stdin(Stdio::piped()).spawn().unwrap();
    let theirs = Pid::try_from(nobody.id()).unwrap();
    until("it is nobody's", async || {
        let status = std::fs::read_to_string(format!("/proc/{theirs}/status")).unwrap();
        status.contains("Uid:\t65534\t") && status.starts_with("Name:\tcat\n")
    })
    .await;
    adapter
        .register(me, theirs, EventMask::EXIT, signal(1))
        .await
        .unwrap();
    let script = "exec setpriv --reuid 65534 --clear-groups sh -c 'exit 0'";
    let mut changing = HeldChild::shell(script);
    let both = EventMask::EXEC | EventMask::EXIT;
    adapter
        .register(me, changing.pid(), both, signal(1))
        .await
        .unwrap();

    drop(nobody.stdin.take());
    nobody.wait().unwrap();
    let [exit] = monitor.take(1).unwrap()[..] else {
        panic!("its exit was due");
    };
    assert_eq!((exit.pid, exit.uid), (theirs.as_raw(), 65534));
    changing.make_zombie();
    let uids: Vec<_> = monitor
        .take(3)
        .unwrap()
        .iter()
        .map(|it| (it.int, it.uid))
        .collect();
    assert_eq!(uids, [(0x20, 0), (0x20, 65534), (0x40, 65534)]);
}

#[test]
#[ignore = "needs root, and setpriv"]
fn an_unprivileged_service_tells_its_own_users_processes() {
    elsewhere(
        "signal::an_unprivileged_service_tells_its_own_users_processes",
        run_as_nobody,
        |_| {},
        || async {
            assert!(!rustix::process::geteuid().is_root());
            let hub = Hub::open().await.unwrap();
            let adapter = SignalAdapter::new(&hub);
            let mut target = HeldChild::shell("exit 0");
            // Not its own: whoever started it, as root.
            let root = Pid::new(rustix::process::getppid().unwrap().as_raw_pid()).unwrap();
            let refused = adapter.register(root, target.pid(), EventMask::EXIT, signal(1));
            let error = refused.await.unwrap_err();
            assert!(
                matches!(error, RegisterError::NotPermitted { .. }),
                "{error}"
            );
            assert!(error.to_string().contains("CAP_KILL"), "{error}");

            // Its own, of a process of root's.
            let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
            let own = Pid::try_from(sleeper.id()).unwrap();
            adapter
                .register(own, root, EventMask::EXIT, signal(1))
                .await
                .unwrap();
            adapter
                .register(own, target.pid(), EventMask::EXIT, signal(1))
                .await
                .unwrap();
            target.make_zombie();
            // Nobody told sleep what to do about it.
            let status = soon("its end", async { sleeper.wait().unwrap() }).await;
            use std::os::unix::process::ExitStatusExt as _;
            assert_eq!(status.signal(), Some(signal(1).as_raw()));
        },
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, and unshare"]
async fn who_cannot_be_told_is_refused_with_the_reason() {
    let hub = Hub::open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let target = HeldChild::shell("exit 0");
    let register = async |monitor: Pid, target: Pid, events: EventMask| {
        let registered = adapter.register(monitor, target, events, signal(1));
        registered.await.unwrap_err()
    };
    let monitor = listener();
    let me = pid(monitor.pid());
    let error = register(me, target.pid(), EventMask::EXIT | EventMask::UID).await;
    assert!(
        matches!(error, RegisterError::Events(EventMask::UID)),
        "{error}"
    );

    let mut dead = HeldChild::shell("exit 0");
    dead.make_zombie();
    let error = register(dead.pid(), target.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::NoSuchMonitor { .. }),
        "{error}"
    );
    dead.reap();
    let error = register(dead.pid(), target.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::NoSuchMonitor { .. }),
        "{error}"
    );
    let error = register(me, dead.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::NoSuchTarget { .. }),
        "{error}"
    );

    let inside = in_unshare(&["--pid", "--mount-proc"], &Command::new(LISTENER));
    let inside = Listener::from_command(inside).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", inside.pid());
    let child = std::fs::read_to_string(children).unwrap();
    let child: Pid = child.trim().parse().unwrap();
    let error = register(child, target.pid(), ALL).await;
    assert!(
        matches!(error, RegisterError::ForeignNamespace { .. }),
        "{error}"
    );
    let thread = Pid::new(own_other_thread()).unwrap();
    let error = register(thread, target.pid(), ALL).await;
    assert!(matches!(error, RegisterError::Monitor { .. }), "{error}");
    assert_eq!(adapter.stats(), SignalStats::default());

    // On pidfds there are exits only.
    let pidfds = Hub::builder().only(SourceKind::Pidfd).open().await.unwrap();
    let adapter = SignalAdapter::new(&pidfds);
    let refused = adapter.register(me, target.pid(), EventMask::FORK, signal(1));
    let error = refused.await.unwrap_err();
    assert!(matches!(error, RegisterError::Subscribe { .. }), "{error}");
    adapter
        .register(me, target.pid(), EventMask::EXIT, signal(1))
        .await
        .unwrap();
    let refused = adapter.register(me, target.pid(), EventMask::EXEC, signal(1));
    assert!(refused.await.is_err());
    assert_eq!(adapter.stats().records, 1);
}

/// A thread of this process other than the first.
fn own_other_thread() -> i32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let mut tids = tasks.map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap());
    let first = std::process::id().cast_signed();
    tids.find(|tid| *tid != first).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_hub_is_told_to_whoever_registers() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let hub = Hub::builder().source(kernel.source()).probe(kernel.probe());
    let hub = hub.open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let monitor = listener();
    let me = pid(monitor.pid());
    let target = kernel.spawn().unwrap();
    adapter
        .register(me, target, EventMask::EXIT, signal(1))
        .await
        .unwrap();
    hub.close().await;
    soon("the adapter's end", adapter.closed()).await;
    let error = adapter
        .register(me, target, EventMask::EXIT, signal(1))
        .await
        .unwrap_err();
    assert!(matches!(error, RegisterError::Closed { .. }), "{error}");
    assert!(adapter.deregister(me, target, ALL).await.is_err());
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
