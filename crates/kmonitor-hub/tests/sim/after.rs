//! What happened before a subscription, or before a loss was read, and is read after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use kmonitor_event::{EventMask, Pid};
use kmonitor_hub::Filter;
use kmonitor_source::sim::{SimConfig, SimKernel};

use crate::probes::FaultyProbe;
use crate::support::{drain, exits, hub, hub_on, hub_probing, idle, subscribe};

const PROCESSES: usize = 1000;

/// A subscription that comes just when the one before has ended gets nothing of the time
/// in which nobody subscribed, though the kernel was still listened to.
#[tokio::test(start_paused = true)]
async fn the_next_subscription_gets_nothing_from_before_it() {
    let (kernel, hub) = hub().await;
    let (p, q) = (kernel.spawn().unwrap(), kernel.spawn().unwrap());
    let mut tree = subscribe(&hub, Filter::tree(p)).await;
    kernel.exit_group(p.leader(), 0).unwrap();
    while tree.next().await.is_some() {}
    kernel.exec(q.leader()).unwrap();
    kernel.fork(q).unwrap();
    let mut next = subscribe(&hub, Filter::host().events(EventMask::all())).await;
    let before = drain(&mut next).await;
    assert!(before.is_empty(), "{before:?}");
}

/// Nor a loss.
#[tokio::test(start_paused = true)]
async fn the_next_subscription_is_told_of_no_loss_from_before_it() {
    let (kernel, hub) = hub().await;
    let p = kernel.spawn().unwrap();
    let watch = hub.watch(p).await.unwrap();
    kernel.exit_group(p.leader(), 0).unwrap();
    watch.await.unwrap();
    kernel.lose(7);
    let mut next = subscribe(&hub, Filter::host().events(EventMask::all())).await;
    let before = drain(&mut next).await;
    assert!(before.is_empty(), "{before:?}");
}

/// Threads whose birth is lost execute a program; the reports of the former leaders'
/// ends come after those of the execs.
async fn exec_by_unheard_of_threads(kernel: &SimKernel, pids: &[Pid]) {
    kernel.lose(1);
    let threads: Vec<_> = pids
        .iter()
        .map(|pid| kernel.clone_thread(*pid).unwrap())
        .collect();
    // The loss is read before the execs, and not yet made good.
    tokio::task::yield_now().await;
    for thread in threads {
        kernel.hold_exits(true);
        kernel.exec(thread).unwrap();
        kernel.hold_exits(false);
    }
}

#[tokio::test(start_paused = true)]
async fn an_exec_within_a_loss_ends_nobody_who_was_found_alone() {
    let (kernel, hub) = hub_on(SimConfig::default().seed(1)).await;
    let pids: Vec<_> = (0..PROCESSES).map(|_| kernel.spawn().unwrap()).collect();
    let mut events = subscribe(&hub, Filter::pids(pids.clone())).await;
    exec_by_unheard_of_threads(&kernel, &pids).await;
    assert_eq!(exits(&drain(&mut events).await).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_exec_within_a_loss_ends_nobody_who_was_born_before_our_eyes() {
    let (kernel, hub) = hub_on(SimConfig::default().seed(1)).await;
    let root = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::tree(root)).await;
    let pids: Vec<_> = (0..PROCESSES).map(|_| kernel.fork(root).unwrap()).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    exec_by_unheard_of_threads(&kernel, &pids).await;
    assert_eq!(exits(&drain(&mut events).await).len(), 0);
}

/// The end of the leader of before an exec is reported after a loss was made good, and the
/// process has ended otherwise by then.
#[tokio::test(start_paused = true)]
async fn a_late_report_of_before_an_exec_is_not_the_status() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    // Which has nothing to hold a process by.
    let hub = hub_probing(&kernel, FaultyProbe::new(&kernel)).await;
    let pid = kernel.spawn().unwrap();
    let watch = hub.watch(pid).await.unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    idle().await;
    kernel.hold_exits(true);
    kernel.exec(thread).unwrap();
    idle().await;
    kernel.lose(1);
    idle().await;
    kernel.hold_exits(false);
    kernel.exit_group(pid.leader(), 7).unwrap();
    kernel.reap(pid).unwrap();
    let status = watch.await.unwrap().status;
    assert!(status.code().is_none_or(|code| code == 7), "{status}");
}

/// An exec happens just before a look and is read after it, when the process has ended: the
/// report of the leader of before the exec is not its end.
#[tokio::test(start_paused = true)]
async fn a_report_of_before_the_look_is_not_the_end() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    let executed = Arc::new(AtomicBool::new(false));
    let has_executed = Arc::clone(&executed);
    let probe = FaultyProbe::new(&kernel)
        .after_listing(move |kernel| {
            // Not before the loss.
            if kernel.counts().dropped > 0 && kernel.exec(thread).is_ok() {
                executed.store(true, SeqCst);
            }
        })
        .after_state(move |kernel, _| {
            if has_executed.load(SeqCst) && kernel.exit_group(pid.leader(), 7).is_ok() {
                kernel.reap(pid).unwrap();
            }
        });
    let hub = hub_probing(&kernel, probe).await;
    let mut events = subscribe(&hub, Filter::tree(pid)).await;
    idle().await;
    kernel.lose(1);
    assert_eq!(exits(&drain(&mut events).await), [(pid, Some(0x700))]);
}

/// The same, of a thread that was born only then, too: nothing of that has been read.
#[tokio::test(start_paused = true)]
async fn nor_is_one_of_a_thread_that_came_and_executed_just_before() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let pid = kernel.spawn().unwrap();
    let executed = AtomicBool::new(false);
    let probe = FaultyProbe::new(&kernel).after_listing(move |kernel| {
        if kernel.counts().dropped > 0 && !executed.swap(true, SeqCst) {
            let thread = kernel.clone_thread(pid).unwrap();
            kernel.exec(thread).unwrap();
        }
    });
    let hub = hub_probing(&kernel, probe).await;
    let mut events = subscribe(&hub, Filter::tree(pid)).await;
    idle().await;
    kernel.lose(1);
    idle().await;
    kernel.exit_group(pid.leader(), 7).unwrap();
    kernel.reap(pid).unwrap();
    assert_eq!(exits(&drain(&mut events).await), [(pid, Some(0x700))]);
}

/// All that a look has shown have ended, and the process lives on by who was missing.
#[tokio::test(start_paused = true)]
async fn who_was_missing_from_a_list_may_end_last() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let probe = FaultyProbe::new(&kernel);
    let faults = probe.faults();
    let hub = hub_probing(&kernel, probe).await;
    let root = kernel.spawn().unwrap();
    let mut host = subscribe(&hub, Filter::host()).await;
    let pid = kernel.fork(root).unwrap();
    idle().await;
    // Births of threads are among what is lost.
    kernel.lose(1);
    let [first, last] = [(); 2].map(|()| kernel.clone_thread(pid).unwrap());
    faults.cut_lists(true);
    idle().await;
    faults.cut_lists(false);
    kernel.exit_task(first, 0).unwrap();
    kernel.exit_task(pid.leader(), 0).unwrap();
    idle().await;
    kernel.exit_task(last, 7).unwrap();
    let told = exits(&drain(&mut host).await);
    let [(ended, status)] = told[..] else {
        panic!("{told:?}");
    };
    // Nothing says for certain that the zombie there is it.
    assert!(ended == pid && status.is_none_or(|raw| raw == 0x700));
}
