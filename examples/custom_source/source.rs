//! The source: what the hub reads the script's facts from.

use std::task::{Context, Poll};

use kmonitor::source::{Capabilities, Fact, KernelInterest, LossReport, Reach, SourceError};
use kmonitor::{EventMask, EventSource, SourceKind};

use crate::world::World;

pub(crate) struct ScriptSource {
    world: World,
    capabilities: Capabilities,
}

impl ScriptSource {
    pub(crate) fn new(world: World) -> Self {
        // No more than is true: who asks for threads or users is then refused.
        let (events, loss) = (EventMask::LIFECYCLE, LossReport::Exact);
        let kind = SourceKind::Custom("script");
        Self {
            world,
            capabilities: Capabilities::new(kind, events, Reach::Host, loss),
        }
    }
}

impl EventSource for ScriptSource {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Ready when the interest is in force. That is at once: the script is told
    /// under the same lock. It may deliver more than is wanted (here: whatever
    /// there is), but nothing at all where nothing is wanted.
    fn poll_interest(
        &mut self,
        _: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.world.lock().listening = !interest.is_empty();
        Poll::Ready(Ok(()))
    }

    /// Pending only with nothing queued, and only after the waker was left where
    /// the next fact finds it. Both under one lock, or a fact could come between
    /// the look and the leaving, and nobody would be woken for it.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let mut state = self.world.lock();
        if state.queue.is_empty() && !state.ended {
            state.wake_on_change(cx.waker());
            return Poll::Pending;
        }
        if state.queue.is_empty() {
            return Poll::Ready(Err(SourceError::Ended)); // After the last fact, not before.
        }
        state.take_queued(facts); // At most a batch, by the bound of the queue.
        Poll::Ready(Ok(()))
    }

    /// Stops listening; what was queued before still counts.
    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        let mut state = self.world.lock();
        state.listening = false;
        state.take_queued(facts);
        Ok(())
    }
}
