//! The simulated kernel's source of facts.

use std::task::{Context, Poll};

use kmonitor_event::EventMask;

use super::wanted::WantedByName;
use super::{SimKernel, SimMode};
use crate::{
    BATCH_FACTS_MAX, Capabilities, EventSource, Fact, KernelInterest, LossReport, Reach,
    SourceError, SourceKind, SourceStats,
};

/// The facts of a [`SimKernel`], from [`SimKernel::source`].
///
/// Works on any executor, also without a tokio runtime. Dropping it stops the
/// listening; what was queued is discarded.
#[derive(Debug)]
pub struct SimSource {
    kernel: SimKernel,
    reader: u64,
    capabilities: Capabilities,
}

impl SimSource {
    pub(super) fn connect(kernel: SimKernel) -> Self {
        let (reader, config) = kernel.with(|state| {
            let (reader, wakers) = state.link.connect();
            state.to_wake.extend(wakers);
            state.queue.discard();
            state.wanted = WantedByName::default();
            (reader, state.config.clone())
        });
        let kind = SourceKind::Simulated;
        let capabilities = match config.mode {
            SimMode::Tasks => {
                let loss = if config.count_losses {
                    LossReport::Exact
                } else {
                    LossReport::Noticed
                };
                Capabilities::new(kind, EventMask::all(), Reach::Host, loss)
            }
            SimMode::Named => Capabilities::new(
                kind,
                EventMask::EXIT | EventMask::ABORT,
                Reach::Named,
                LossReport::Lossless,
            ),
        };
        Self {
            kernel,
            reader,
            capabilities,
        }
    }
}

impl EventSource for SimSource {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.kernel.with(|state| {
            if !state.link.is_reader(self.reader) {
                return Poll::Ready(Err(SourceError::Ended));
            }
            if let Some(failure) = state.link.take_interest_failure() {
                return Poll::Ready(Err(failure));
            }
            if state.link.stalled {
                let replaced = state.link.await_interest(cx.waker());
                state.to_drop.extend(replaced);
                return Poll::Pending;
            }
            state.apply_interest(interest);
            Poll::Ready(Ok(()))
        })
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        self.kernel.with(|state| {
            if !state.link.is_reader(self.reader) {
                return Poll::Ready(Err(SourceError::Ended));
            }
            let (now, count_losses) = (state.clock, state.config.count_losses);
            let next = std::iter::from_fn(|| state.queue.pop(now, count_losses));
            let before = facts.len();
            facts.extend(next.take(BATCH_FACTS_MAX));
            if facts.len() > before {
                return Poll::Ready(Ok(()));
            }
            if let Some(failure) = state.link.take_failure() {
                return Poll::Ready(Err(failure));
            }
            let replaced = state.link.await_batch(cx.waker());
            state.to_drop.extend(replaced);
            Poll::Pending
        })
    }

    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        self.kernel.with(|state| {
            if !state.link.is_reader(self.reader) {
                return Err(SourceError::Ended);
            }
            state.queue.listen(false);
            state.wanted = WantedByName::default();
            let (now, count_losses) = (state.clock, state.config.count_losses);
            facts.extend(std::iter::from_fn(|| state.queue.pop(now, count_losses)));
            Ok(())
        })
    }

    fn stats(&self) -> SourceStats {
        let counts = self.kernel.counts();
        SourceStats {
            received: counts.delivered,
            overflows: counts.overflows,
            dropped: counts.dropped,
            ..SourceStats::default()
        }
    }
}

impl Drop for SimSource {
    fn drop(&mut self) {
        self.kernel.with(|state| {
            if state.link.is_reader(self.reader) {
                state.queue.discard();
                state.wanted = WantedByName::default();
                let wakers = state.link.disconnect();
                state.to_drop.extend(wakers);
            }
        });
    }
}
