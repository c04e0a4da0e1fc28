//! How a hub ends: closed, abandoned, broken, or taken away; and that nobody
//! who waits for it is left waiting.

use std::task::{Context, Poll};

use kmonitor_event::{EventMask, Status, UnknownReason};
use kmonitor_hub::{Filter, Hub};
use kmonitor_source::sim::{SimConfig, SimKernel, SimSource};
use kmonitor_source::{Capabilities, EventSource, Fact, KernelInterest, SourceError};

use crate::probes::FaultyProbe;
use crate::support::{
    drain, exits, hub, hub_on, hub_probing, idle, kinds, status_of, subscribe, within,
};

#[tokio::test(start_paused = true)]
async fn closing_hands_out_what_was_queued_and_ends_the_streams() {
    let (kernel, hub) = hub().await;
    let mut events = subscribe(&hub, Filter::host()).await;
    let pid = kernel.spawn().unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    kernel.exec(pid.leader()).unwrap();
    hub.clone().close().await;
    assert_eq!(kinds(&drain(&mut events).await), ["fork", "exec"]);
    assert!(watch.exited().await.is_err());
    assert!(hub.stats().await.is_err());
    assert!(!kernel.listening());
}

#[tokio::test(start_paused = true)]
async fn a_broken_source_ends_streams_and_watches_with_the_reason() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::host()).await;
    let watch = hub.watch(pid).await.unwrap();
    let broken = std::io::Error::other("it broke");
    kernel.break_source(SourceError::io("read", broken));
    assert_eq!(events.next().await, None);
    assert!(watch.await.unwrap_err().to_string().contains("it broke"));
    let closed = hub.stats().await.unwrap_err();
    assert!(closed.reason.contains("it broke"), "{closed}");
}

/// Once whoever a loss had left in doubt was not looked at any more if the source ended
/// with it, and a watch of a process that was dead said that the hub was closed.
#[tokio::test(start_paused = true)]
async fn a_source_that_ends_within_a_loss_takes_no_end_with_it() {
    for reaped in [false, true] {
        let (kernel, hub) = hub().await;
        let pid = kernel.spawn().unwrap();
        let watch = hub.watch(pid).await.unwrap();
        kernel.lose(3);
        kernel.exit_group(pid.leader(), 5).unwrap();
        if reaped {
            kernel.reap(pid).unwrap();
        }
        kernel.end();
        let exit = within(watch).await.expect("an end").unwrap();
        assert!(exit.inferred, "{exit:?}");
        assert_eq!(exit.status.raw(), Some(5 << 8));
    }
}

/// Once a hub ended with its last handle, whoever still watched: the exit was
/// an error.
#[tokio::test(start_paused = true)]
async fn a_watch_outlives_the_last_handle_of_its_hub() {
    let (kernel, hub) = hub().await;
    let pid = kernel.spawn().unwrap();
    let watch = hub.watch(pid).await.unwrap();
    drop(hub);
    tokio::task::yield_now().await;
    kernel.exit_group(pid.leader(), 3).unwrap();
    let exit = within(watch).await.expect("an end").unwrap();
    assert_eq!(exit.status.code(), Some(3));
}

/// Once closing forgot the deaths whose status was still being waited for: what
/// a watch had told became an error, and streams ended without the exit.
#[tokio::test(start_paused = true)]
async fn closing_does_not_forget_a_death_whose_status_is_due() {
    let (kernel, hub) = hub_on(SimConfig::default().seed(1).status_readable(false)).await;
    let pid = kernel.spawn().unwrap();
    let thread = kernel.clone_thread(pid).unwrap();
    let mut watch = hub.watch(pid).await.unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid).events(EventMask::EXIT)).await;
    kernel.exit_task(thread, 7).unwrap();
    kernel.exit_task(pid.leader(), 3).unwrap();
    let exit = within(watch.exited()).await.expect("an end").unwrap();
    assert_eq!(exit.status, Status::Pending);
    within(hub.close()).await.expect("an answer");
    let exit = within(watch.exited()).await.expect("an end").unwrap();
    let unknown = Status::Unknown(UnknownReason::CodesDiffer);
    assert_eq!(exit.status, unknown);
    let events = drain(&mut events).await;
    assert_eq!(exits(&events), [(pid, None)]);
    assert_eq!(status_of(&events, pid), unknown);
}

/// Who could not be looked at when its exit was reported is looked at before the end.
#[tokio::test(start_paused = true)]
async fn a_source_that_ends_before_the_next_look_takes_no_end_with_it() {
    let kernel = SimKernel::new(SimConfig::default().seed(1));
    let probe = FaultyProbe::new(&kernel);
    let faults = probe.faults();
    let hub = hub_probing(&kernel, probe).await;
    let pid = kernel.spawn().unwrap();
    let watch = hub.watch(pid).await.unwrap();
    kernel.clone_thread(pid).unwrap();
    idle().await;
    faults.fail_states(1);
    kernel.exit_group(pid.leader(), 5).unwrap();
    // It is read, and the look fails.
    while faults.states_to_fail() > 0 {
        tokio::task::yield_now().await;
    }
    kernel.end();
    assert_eq!(watch.await.unwrap().status.code(), Some(5));
}

/// Once streams and watches waited for ever for a hub whose runtime had been
/// dropped under it.
#[test]
fn a_runtime_that_is_dropped_ends_streams_and_watches() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let short_lived = runtime();
    let (kernel, hub) = short_lived.block_on(hub());
    let pid = kernel.spawn().unwrap();
    let (mut events, mut watch) = short_lived.block_on(async {
        let events = subscribe(&hub, Filter::pid(pid)).await;
        (events, hub.watch(pid).await.unwrap())
    });
    drop(short_lived);
    runtime().block_on(async {
        assert!(within(hub.stats()).await.expect("an answer").is_err());
        assert_eq!(within(events.next()).await, Some(None));
        let error = within(watch.exited()).await.expect("an end").unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    });
}

/// A source that panics as soon as it has something to tell.
struct PanickingSource(SimSource);

impl EventSource for PanickingSource {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.0.poll_interest(cx, interest)
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let read = self.0.poll_batch(cx, facts);
        assert!(read.is_pending(), "a bug in a source of one's own");
        read
    }

    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.0.close(facts)
    }
}

/// Once streams and watches waited for ever for a hub whose thread had died of
/// a panic in the source.
#[tokio::test]
async fn a_source_that_panics_ends_streams_and_watches() {
    let kernel = SimKernel::with_seed(1);
    let hub = Hub::builder()
        .source(PanickingSource(kernel.source()))
        .probe(kernel.probe())
        .open()
        .await
        .unwrap();
    let pid = kernel.spawn().unwrap();
    let mut events = subscribe(&hub, Filter::pid(pid)).await;
    let mut watch = hub.watch(pid).await.unwrap();
    kernel.exec(pid.leader()).unwrap();
    // The hub has a thread of its own here, so the time is real.
    let patience = std::time::Duration::from_secs(10);
    let next = tokio::time::timeout(patience, events.next()).await;
    assert_eq!(next.expect("an end"), None);
    let exited = tokio::time::timeout(patience, watch.exited()).await;
    let error = exited.expect("an end").unwrap_err();
    assert!(error.to_string().contains("stopped"), "{error}");
}
