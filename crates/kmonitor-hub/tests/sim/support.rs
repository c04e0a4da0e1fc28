//! What the tests share.

use std::time::Duration;

use kmonitor_event::{Event, EventKind, Pid, Status};
use kmonitor_hub::{Filter, Hub, Subscription};
use kmonitor_source::ProcessProbe;
use kmonitor_source::sim::{SimConfig, SimKernel};

/// A simulated kernel and a hub on it, on the test's own runtime.
pub(crate) async fn hub_on(config: SimConfig) -> (SimKernel, Hub) {
    let kernel = SimKernel::new(config);
    let hub = hub_probing(&kernel, kernel.probe()).await;
    (kernel, hub)
}

/// A hub on this kernel that looks at processes through this probe.
pub(crate) async fn hub_probing(kernel: &SimKernel, probe: impl ProcessProbe + 'static) -> Hub {
    Hub::builder()
        .source(kernel.source())
        .probe(probe)
        .on_current_runtime()
        .status_grace(Duration::from_millis(200))
        .open()
        .await
        .unwrap()
}

pub(crate) async fn hub() -> (SimKernel, Hub) {
    hub_on(SimConfig::default().seed(1)).await
}

/// All that the stream gives until it ends, or has nothing for a while.
pub(crate) async fn drain(stream: &mut Subscription) -> Vec<Event> {
    let mut events = Vec::new();
    // Under paused time a timeout fires as soon as nothing else can happen.
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(5), stream.next()).await {
        events.push(event);
    }
    events
}

/// What the future gives, unless nothing can make it resolve. For paused time.
pub(crate) async fn within<F: IntoFuture>(future: F) -> Option<F::Output> {
    let patience = Duration::from_secs(600);
    tokio::time::timeout(patience, future).await.ok()
}

/// Lets the hub do all that it has to do. For paused time.
pub(crate) async fn idle() {
    tokio::time::sleep(Duration::from_secs(10)).await;
}

pub(crate) fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.name()).collect()
}

/// The exits in a stream: pid and raw wait status, `None` where it is unknown.
pub(crate) fn exits(events: &[Event]) -> Vec<(Pid, Option<i32>)> {
    events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Exit(status) => Some((event.pid()?, status.raw())),
            _ => None,
        })
        .collect()
}

pub(crate) fn status_of(events: &[Event], pid: Pid) -> Status {
    let mut found = events.iter().filter_map(|event| match event.kind {
        EventKind::Exit(status) if event.pid() == Some(pid) => Some(status),
        _ => None,
    });
    let status = found.next().expect("an exit");
    assert!(found.next().is_none(), "more than one exit of {pid}");
    status
}

pub(crate) async fn subscribe(hub: &Hub, filter: Filter) -> Subscription {
    hub.subscribe(filter).await.unwrap()
}
