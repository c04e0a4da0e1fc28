//! A source that counts how often it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use kmonitor::source::{Capabilities, EventSource, Fact, KernelInterest, SourceError, SourceStats};

/// How often it was asked, and what for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Answers with something to take in: facts, or the word of a loss.
    fruitful: AtomicU64,
    /// Answers that there is nothing.
    in_vain: AtomicU64,
}

impl Asked {
    pub(crate) fn fruitful(&self) -> u64 {
        self.fruitful.load(Ordering::Relaxed)
    }

    pub(crate) fn in_vain(&self) -> u64 {
        self.in_vain.load(Ordering::Relaxed)
    }
}

pub(crate) struct Counted<S> {
    source: S,
    asked: Arc<Asked>,
}

impl<S> Counted<S> {
    pub(crate) fn new(source: S) -> (Self, Arc<Asked>) {
        let asked = Arc::<Asked>::default();
        let counted = Self {
            source,
            asked: Arc::clone(&asked),
        };
        (counted, asked)
    }
}

impl<S: EventSource> EventSource for Counted<S> {
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
        let answer = self.source.poll_batch(cx, facts);
        let count = match answer {
            Poll::Ready(_) => &self.asked.fruitful,
            Poll::Pending => &self.asked.in_vain,
        };
        count.fetch_add(1, Ordering::Relaxed);
        answer
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.source.poll_due(cx)
    }

    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.source.close(facts)
    }

    fn stats(&self) -> SourceStats {
        self.source.stats()
    }
}
