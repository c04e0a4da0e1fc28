//! A source that hands out facts made beforehand, and takes the time that the
//! hub needs for them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use kmonitor_event::EventMask;
use kmonitor_source::{
    BATCH_FACTS_MAX, Capabilities, EventSource, Fact, KernelInterest, LossReport, Reach,
    SourceError, SourceKind,
};

/// The far end of a [`FeedSource`]: says what it hands out, and when.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    /// Handed out in a ring.
    facts: Arc<[Fact]>,
    at: usize,
    /// How many are still to be handed out.
    left: usize,
    /// When the first of them was asked for.
    began: Option<Instant>,
    took: Option<Duration>,
    source: Option<Waker>,
    runner: Option<Waker>,
}

impl Feed {
    /// Hands out these facts, again and again.
    #[must_use]
    pub fn new(facts: Arc<[Fact]>) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                facts,
                at: 0,
                left: 0,
                began: None,
                took: None,
                source: None,
                runner: None,
            })),
        }
    }

    /// The source to give to a hub.
    #[must_use]
    pub fn source(&self) -> FeedSource {
        let capabilities = Capabilities::new(
            SourceKind::Custom("feed"),
            EventMask::all(),
            Reach::Host,
            LossReport::Lossless,
        );
        FeedSource {
            feed: self.clone(),
            capabilities,
        }
    }

    /// Hands out other facts from now on.
    pub fn replace(&self, facts: Arc<[Fact]>) {
        let mut shared = self.lock();
        shared.facts = facts;
        shared.at = 0;
    }

    /// Which fact of the ring is the next.
    #[must_use]
    pub fn at(&self) -> usize {
        self.lock().at
    }

    /// Hands out so many facts. Resolves when their reader is through with the
    /// last one, with the time from its asking for the first until its asking for
    /// more than there are: the reader's own work, without waking it up.
    pub async fn run(&self, facts: usize) -> Duration {
        {
            let mut shared = self.lock();
            shared.left = facts;
            shared.began = None;
            shared.took = None;
            if let Some(waker) = shared.source.take() {
                waker.wake();
            }
        }
        std::future::poll_fn(|cx| {
            let mut shared = self.lock();
            if let Some(took) = shared.took {
                return Poll::Ready(took);
            }
            shared.runner = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

/// See [`Feed`].
#[derive(Debug)]
pub struct FeedSource {
    feed: Feed,
    capabilities: Capabilities,
}

impl EventSource for FeedSource {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll_interest(
        &mut self,
        _cx: &mut Context<'_>,
        _interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let mut shared = self.feed.lock();
        if shared.left == 0 {
            if let Some(began) = shared.began.take() {
                shared.took = Some(began.elapsed());
                if let Some(waker) = shared.runner.take() {
                    waker.wake();
                }
            }
            shared.source = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if shared.began.is_none() {
            shared.began = Some(Instant::now());
        }
        // A batch ends with the ring: it is as if fewer had been there.
        let rest = shared.facts.len() - shared.at;
        let count = shared.left.min(BATCH_FACTS_MAX).min(rest);
        facts.extend_from_slice(&shared.facts[shared.at..shared.at + count]);
        shared.at = (shared.at + count) % shared.facts.len();
        shared.left -= count;
        Poll::Ready(Ok(()))
    }

    fn close(&mut self, _facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        Ok(())
    }
}
