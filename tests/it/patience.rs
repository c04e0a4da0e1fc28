//! Waiting with a bound: what does not come fails its test, and hangs nothing.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use kmonitor::{Event, EventKind, Status, Subscription};

/// Longer than anything here takes, also on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a future gives, in time.
pub(crate) async fn soon<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: waited {PATIENCE:?} in vain"))
}

/// Returns when a condition holds that nothing wakes us for.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::task::yield_now().await;
    }
}

/// Whether a future has nothing to give yet.
pub(crate) fn is_pending<T>(future: impl IntoFuture<Output = T>) -> bool {
    future.into_future().now_or_never().is_none()
}

/// The next event, which must come.
pub(crate) async fn next(stream: &mut Subscription) -> Event {
    let event = soon("an event", stream.next()).await;
    event.expect("the stream goes on")
}

/// All that comes until the stream ends.
pub(crate) async fn rest(stream: &mut Subscription) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = soon("the end of the stream", stream.next()).await {
        assert_eq!(event.seq, events.len() as u64, "numbered without gaps");
        events.push(event);
    }
    events
}

/// The status, if the event is an exit.
pub(crate) fn exit_status(event: &Event) -> Option<Status> {
    match event.kind {
        EventKind::Exit(status) => Some(status),
        _ => None,
    }
}

/// The one event of a stream, which must be an exit: its raw status.
pub(crate) fn only_exit(events: &[Event]) -> Option<i32> {
    match events {
        [event] => exit_status(event)
            .unwrap_or_else(|| panic!("not an exit: {event}"))
            .raw(),
        _ => panic!("one event was due: {events:?}"),
    }
}
