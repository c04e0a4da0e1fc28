//! More than fits: in the monitor's queue, and in the adapter's.

use kmonitor::signal::{SignalAdapter, SignalStats};
use kmonitor::source::sim::{SimConfig, SimKernel};
use kmonitor::{EventMask, Hub};
use kmonitor_tests::Listener;

use super::{listener, pid, signal, told};
use crate::LISTENER;
use crate::patience::until;

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
