//! Receiving queued signals. A program without the test harness, because the
//! harness's threads would not block them.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::time::Duration;

use kmonitor_event::{EventMask, Pid};
use kmonitor_hub::Hub;
use kmonitor_signal::{MonitorSignals, ReceiveError, Signal, SignalAdapter, block};
use kmonitor_source::sim::{SimConfig, SimKernel};
use rustix::process::{getpid, kill_process};

const FORKS: usize = 200;

fn main() {
    let signals = [Signal::realtime(1).unwrap(), "USR1".parse().unwrap()];
    // A thread that was started too early is found out.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (start, started) = std::sync::mpsc::channel::<()>();
    let early = std::thread::spawn(move || {
        start.send(()).unwrap();
        ended.recv().is_err()
    });
    // Until it runs the C library has all signals blocked in it.
    started.recv().unwrap();
    block(signals).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match MonitorSignals::new(signals) {
            Err(ReceiveError::NotBlocked { signal, .. }) => assert_eq!(signal, signals[0]),
            other => panic!("a thread does not block them: {other:?}"),
        }
        drop(end);
        early.join().unwrap();
        assert!(matches!(
            MonitorSignals::new([]),
            Err(ReceiveError::NoSignals)
        ));
        let within = tokio::time::timeout(Duration::from_secs(60), receive(signals));
        within.await.unwrap();
    });
    println!("receive: ok");
}

async fn receive([queued, coalescing]: [Signal; 2]) {
    let mut received = MonitorSignals::new([queued, coalescing]).unwrap();
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let hub = Hub::builder().source(kernel.source()).probe(kernel.probe());
    let hub = hub.open().await.unwrap();
    let adapter = SignalAdapter::new(&hub);
    let target = kernel.spawn().unwrap();
    let me = Pid::current();
    let registered = adapter.register(me, target, EventMask::FORK, queued);
    registered.await.unwrap();
    let children: Vec<Pid> = (0..FORKS).map(|_| kernel.fork(target).unwrap()).collect();
    while adapter.stats().sent < FORKS as u64 {
        tokio::task::yield_now().await;
    }
    // All were queued before the first is read.
    for child in children {
        let told = received.next().await.unwrap();
        assert_eq!(
            (told.pid, told.event, told.signal),
            (child, EventMask::FORK, queued)
        );
    }

    // What somebody else sends is counted, and not taken for an event.
    let raw = rustix::process::Signal::USR1;
    kill_process(getpid(), raw).unwrap();
    let child = kernel.fork(target).unwrap();
    assert_eq!(received.next().await.unwrap().pid, child);
    assert_eq!(received.strangers(), 1);
}
