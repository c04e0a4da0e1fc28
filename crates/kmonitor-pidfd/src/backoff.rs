//! A timer that ticks ever more slowly.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

/// Ticks at intervals that grow by half from a first one to a greatest one.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
    /// Made when first polled, so that a timer that is never needed costs
    /// nothing and needs no runtime.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self {
            next: first,
            max,
            sleep: None,
        }
    }

    /// Ready at each tick. Needs a runtime with time enabled.
    pub(crate) fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let next = self.next;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(next)));
        ready!(sleep.as_mut().poll(cx));
        self.sleep = None;
        self.next = next.saturating_add(next / 2).min(self.max);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn intervals_grow_to_the_greatest() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(4), ms(10));
        for expected in [ms(4), ms(6), ms(9), ms(10), ms(10)] {
            let start = tokio::time::Instant::now();
            poll_fn(|cx| backoff.poll_tick(cx)).await;
            assert_eq!(start.elapsed(), expected);
        }
    }
}
