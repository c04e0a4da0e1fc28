//! Taking events from the stream, many at a time.

use std::pin::Pin;
use std::task::Poll;

use futures::Stream as _;
use kmonitor::{Event, Subscription};

/// Taken at most at a time, so that signals and timers get their turn.
const EVENTS_MAX: usize = 1024;

/// What came of asking for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batch {
    /// Some came, and more are there already.
    More,
    /// Some came, and none is left: a moment to write them out.
    Drained,
    /// None will come any more.
    Ended,
}

/// Appends the events that are there; waits for the first.
///
/// # Cancel safety
/// Cancel-safe: what was taken is in `events`, and only a ready future takes.
pub(crate) async fn next(stream: &mut Subscription, events: &mut Vec<Event>) -> Batch {
    std::future::poll_fn(|cx| {
        loop {
            match Pin::new(&mut *stream).poll_next(cx) {
                Poll::Ready(Some(event)) => {
                    events.push(event);
                    if events.len() >= EVENTS_MAX {
                        return Poll::Ready(Batch::More);
                    }
                }
                // The end is told again when it is asked for the next time.
                Poll::Ready(None) if events.is_empty() => return Poll::Ready(Batch::Ended),
                Poll::Pending if events.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => return Poll::Ready(Batch::Drained),
            }
        }
    })
    .await
}
