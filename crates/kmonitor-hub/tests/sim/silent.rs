//! Losses of which the source says nothing: the kernel had no memory for a message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kmonitor_event::{Event, EventKind, EventMask, LossOrigin, Pid, Resync};
use kmonitor_hub::{Filter, Hub};
use kmonitor_source::sim::{SimConfig, SimKernel, SimSource};
use kmonitor_source::{Capabilities, EventSource, Fact, FactKind, KernelInterest, SourceError};

use crate::support::{drain, exits, hub, subscribe, within};

/// A simulated source that keeps ends to itself, as long as it shall.
struct SilentSource {
    source: SimSource,
    is_silent: Arc<AtomicBool>,
}

impl EventSource for SilentSource {
    fn capabilities(&self) -> &Capabilities {
        self.source.capabilities()
    }

    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.source.poll_interest(cx, interest)
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        ready!(self.source.poll_batch(cx, facts))?;
        if self.is_silent.load(SeqCst) {
            facts.retain(|fact| !matches!(fact.kind, FactKind::TaskExited { .. }));
        }
        Poll::Ready(Ok(()))
    }

    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.source.close(facts)
    }
}

async fn silent_hub(kernel: &SimKernel) -> (Hub, Arc<AtomicBool>) {
    let is_silent = Arc::new(AtomicBool::new(false));
    let source = SilentSource {
        source: kernel.source(),
        is_silent: Arc::clone(&is_silent),
    };
    let hub = Hub::builder()
        .source(source)
        .probe(kernel.probe())
        .on_current_runtime();
    (hub.open().await.unwrap(), is_silent)
}

fn alone(kernel: &SimKernel) -> Pid {
    kernel.spawn().unwrap()
}

fn with_a_thread(kernel: &SimKernel) -> Pid {
    let pid = kernel.spawn().unwrap();
    kernel.clone_thread(pid).unwrap();
    pid
}

/// Such a watch waited for ever.
#[tokio::test(start_paused = true)]
async fn an_end_that_was_never_reported_is_found_out() {
    for (reaped, begin) in [
        (false, alone as fn(&SimKernel) -> Pid),
        (true, alone),
        (false, with_a_thread),
        (true, with_a_thread),
    ] {
        let kernel = SimKernel::new(SimConfig::default().seed(1));
        let (hub, is_silent) = silent_hub(&kernel).await;
        let pid = begin(&kernel);
        let watch = hub.watch(pid).await.unwrap();
        let mut events = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
        is_silent.store(true, SeqCst);
        kernel.exit_group(pid.leader(), 7).unwrap();
        if reaped {
            kernel.reap(pid).unwrap();
        }
        let began = tokio::time::Instant::now();
        let exit = within(watch).await.expect("it is found out").unwrap();
        assert!(began.elapsed() < Duration::from_secs(25));
        assert_eq!((exit.status.code(), exit.inferred), (Some(7), true));
        let told = drain(&mut events).await;
        assert_eq!(exits(&told), [(pid, Some(7 << 8))]);
        let kinds: Vec<_> = told.iter().map(|event| event.kind).collect();
        let [EventKind::Lost(lost), EventKind::Resync(Resync::Begin), ..] = kinds[..] else {
            panic!("{kinds:?}");
        };
        assert_eq!((lost.origin, lost.count), (LossOrigin::Kernel, None));
        let stats = hub.stats().await.unwrap();
        assert_eq!((stats.losses_uncounted, stats.deaths_inferred), (1, 1));
    }
}

/// However many others are tracked: a few at a time are looked at.
#[tokio::test(start_paused = true)]
async fn it_is_found_out_among_many() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let (hub, is_silent) = silent_hub(&kernel).await;
    let mut watches = Vec::new();
    for _ in 0..1000 {
        let pid = kernel.spawn().unwrap();
        watches.push((pid, hub.watch(pid).await.unwrap()));
    }
    for at in [999, 500, 0] {
        let (pid, watch) = watches.remove(at);
        is_silent.store(true, SeqCst);
        kernel.exit_group(pid.leader(), 3).unwrap();
        kernel.reap(pid).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        is_silent.store(false, SeqCst);
        let exit = within(watch).await.expect("it is found out").unwrap();
        assert!(exit.inferred);
        // The last of the others is looked at.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let stats = hub.stats().await.unwrap();
    assert_eq!((stats.losses_uncounted, stats.watches), (3, 997));
}

/// A report that is late is no loss.
#[tokio::test(start_paused = true)]
async fn who_is_dead_at_one_look_and_told_before_the_next_was_not_lost() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    kernel.hold_exits(true);
    kernel.exit_group(pid.leader(), 7).unwrap();
    // There is a look in between.
    tokio::time::sleep(Duration::from_secs(9)).await;
    kernel.hold_exits(false);
    kernel.settle();
    let told = drain(&mut events).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(exits(&told), [(pid, Some(7 << 8))]);
    assert!(!told[0].inferred);
    assert_eq!(hub.stats().await.unwrap().losses_uncounted, 0);
}

/// Since when messages are missing is not known then, so nor is who was born since.
#[tokio::test(start_paused = true)]
async fn what_was_lost_at_an_unknown_time_is_not_said_to_be_found_out() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let (hub, is_silent) = silent_hub(&kernel).await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::tree(pid).keep_open()).await;
    is_silent.store(true, SeqCst);
    kernel.exit_group(pid.leader(), 7).unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let told = drain(&mut events).await;
    let is_end = |event: &&Event| matches!(event.kind, EventKind::Resync(Resync::End { .. }));
    let end = told.iter().find(is_end).expect("an end");
    let complete = false;
    assert_eq!(end.kind, EventKind::Resync(Resync::End { complete }));
}

/// A zombie of a tree, of which the host's stream was told before.
#[tokio::test(start_paused = true)]
async fn who_was_dead_before_it_was_named_is_no_loss() {
    let (kernel, hub) = hub().await;
    let root = kernel.spawn().unwrap();
    let zombie = kernel.fork(root).unwrap();
    let mut host = subscribe(&hub, Filter::host()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    kernel.exit_group(zombie.leader(), 3).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _tree = subscribe(&hub, Filter::tree(root)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(exits(&drain(&mut host).await), [(zombie, Some(0x300))]);
    let stats = hub.stats().await.unwrap();
    // Held is who was named, and tracked who lives.
    let left = (stats.losses_uncounted, stats.held, stats.tracked);
    assert_eq!(left, (0, 1, 2), "{stats:?}");
}
