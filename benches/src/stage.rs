//! A hub on a feed, with subscribers: what the dispatch benches measure.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::Stream as _;
use futures::future::join_all;
use kmonitor_event::{EventKind, EventMask, Pid};
use kmonitor_hub::{Filter, Hub, HubStats, QUEUE_EVENTS_DEFAULT, Subscription};
use kmonitor_source::Fact;
use tokio::runtime::Runtime;

use crate::feed::Feed;
use crate::probe::AllAlive;
use crate::workload::matched_order;

/// How many facts are dispatched at most before the queues are read: as many as
/// the default queue holds, so that one subscriber can get all of them.
pub const RUN_FACTS: usize = QUEUE_EVENTS_DEFAULT;

/// How many subscribe calls are under way at a time while the stage is set.
const SUBSCRIBE_AT_ONCE: usize = 256;

/// A hub on the caller's thread, on a [`Feed`], with one subscription for each of
/// some processes.
pub struct Stage {
    runtime: Runtime,
    hub: Hub,
    feed: Feed,
    subscriptions: Vec<Subscription>,
    /// In which order the matched facts are about them.
    order: Vec<usize>,
    sent: u64,
    read: u64,
}

/// What one run cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run {
    /// The hub's work.
    pub dispatch: Duration,
    /// Taking the events out of the streams, on the same thread.
    pub reading: Duration,
}

impl Stage {
    /// Opens the hub and subscribes to each process by itself.
    ///
    /// # Errors
    /// No runtime, or the hub refused.
    pub fn new(pids: &[Pid], facts: Arc<[Fact]>) -> io::Result<Self> {
        Self::with_events(pids, facts, EventMask::LIFECYCLE)
    }

    /// The same, each subscription selecting these events.
    ///
    /// # Errors
    /// No runtime, or the hub refused.
    pub fn with_events(pids: &[Pid], facts: Arc<[Fact]>, events: EventMask) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let feed = Feed::new(facts);
        let queue = NonZeroUsize::new(RUN_FACTS).unwrap_or(NonZeroUsize::MIN);
        let (hub, subscriptions) = runtime.block_on(async {
            let hub = Hub::builder()
                .source(feed.source())
                .probe(AllAlive)
                .on_current_runtime()
                .open()
                .await
                .map_err(io::Error::other)?;
            let mut subscriptions = Vec::with_capacity(pids.len());
            for some in pids.chunks(SUBSCRIBE_AT_ONCE) {
                let filters = some
                    .iter()
                    .map(|pid| Filter::pid(*pid).events(events).queue_events(queue));
                for subscribed in join_all(filters.map(|filter| hub.subscribe(filter))).await {
                    subscriptions.push(subscribed.map_err(io::Error::other)?);
                }
            }
            io::Result::Ok((hub, subscriptions))
        })?;
        Ok(Self {
            runtime,
            hub,
            feed,
            order: matched_order(subscriptions.len()),
            subscriptions,
            sent: 0,
            read: 0,
        })
    }

    /// Hands out other facts from now on.
    pub fn replace(&mut self, facts: Arc<[Fact]>) {
        self.feed.replace(facts);
    }

    /// Dispatches so many facts that nobody gets: of no subscribed process, or not
    /// among the events selected.
    pub fn run_unmatched(&mut self, facts: usize) -> Duration {
        self.runtime.block_on(self.feed.run(facts))
    }

    /// Dispatches so many facts of [`matched`](crate::workload::matched), at most
    /// [`RUN_FACTS`], and reads the streams that got something.
    pub fn run_matched(&mut self, facts: usize) -> Run {
        self.run_matched_of(facts, self.subscriptions.len())
    }

    /// The same of [`matched_of`](crate::workload::matched_of).
    pub fn run_matched_of(&mut self, facts: usize, busy: usize) -> Run {
        let first = self.feed.at();
        let dispatch = self.runtime.block_on(self.feed.run(facts));
        self.sent += facts as u64;
        let busy = busy.min(self.subscriptions.len());
        let mut cx = Context::from_waker(Waker::noop());
        let began = Instant::now();
        for hit in 0..facts.min(busy) {
            let subscription = &mut self.subscriptions[self.order[(first + hit) % busy]];
            while let Poll::Ready(Some(event)) = Pinned::new(&mut *subscription).poll_next(&mut cx)
            {
                self.read += u64::from(matches!(event.kind, EventKind::Exec));
            }
        }
        Run {
            dispatch,
            reading: began.elapsed(),
        }
    }

    /// Makes sure that every matched fact was delivered once, and nothing else.
    ///
    /// # Panics
    /// If not: then the numbers mean nothing.
    pub fn check(&self) {
        let stats = self.stats();
        assert_eq!(stats.lost_by_subscriptions, 0, "a queue overflowed");
        assert_eq!(stats.delivered, self.sent, "not delivered once each");
        assert_eq!(self.read, self.sent, "not read once each");
    }

    fn stats(&self) -> HubStats {
        let stats = self.runtime.block_on(self.hub.stats());
        stats.unwrap_or_default()
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("subscriptions", &self.subscriptions.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{self, Population};

    #[test]
    fn every_matched_fact_is_delivered_and_no_other() {
        let population = Population::new(10);
        let facts = workload::unmatched_sequential(&population);
        let mut stage = Stage::new(&population.subscribed, facts).unwrap();
        stage.run_unmatched(10_000);
        stage.check();
        stage.replace(workload::matched(&population));
        for _ in 0..20 {
            stage.run_matched(RUN_FACTS);
        }
        stage.check();
        assert_eq!(stage.stats().delivered, 20 * RUN_FACTS as u64);
    }
}
