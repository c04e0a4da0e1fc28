//! The trait that every source of facts implements.

use std::task::{Context, Poll};

use crate::{Capabilities, Fact, KernelInterest, SourceError};

/// A source appends at most this many facts per [`EventSource::poll_batch`], so
/// that its reader gets to its other duties between batches.
pub const BATCH_FACTS_MAX: usize = 1024;

/// A source of process-lifecycle facts.
///
/// # Order of calls
/// One owner drives it, from inside a tokio runtime with I/O and time enabled:
/// 1. [`poll_interest`](Self::poll_interest) with what is wanted, again and again
///    with the same interest until it is ready. A source starts with no interest
///    and then delivers nothing and costs nothing.
/// 2. [`poll_batch`](Self::poll_batch) until it is pending, and again when woken and
///    [`poll_due`](Self::poll_due) says so.
/// 3. 1 and 2 in turn, as the interest changes.
/// 4. [`close`](Self::close), once. Dropping a source instead loses what is
///    still queued, but leaves nothing behind in the kernel.
///
/// Facts come in the order of the kernel's queue.
pub trait EventSource: Send {
    /// What this source can see, truthfully, here and now.
    fn capabilities(&self) -> &Capabilities;

    /// Brings the kernel to deliver what `interest` asks for.
    ///
    /// Ready when that is in force: no fact that `interest` asks for and that
    /// happens later is missed. A source may deliver more than it was asked for,
    /// but with an empty interest it must not listen. Facts that arrive
    /// meanwhile are kept for [`poll_batch`](Self::poll_batch). What is still
    /// queued when the interest becomes empty may be dropped.
    ///
    /// # Errors
    /// The kernel refused, or did not answer in time. The source is then as
    /// before the call.
    fn poll_interest(
        &mut self,
        cx: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>>;

    /// Appends the facts that are there, at least one and at most
    /// [`BATCH_FACTS_MAX`]; pending where there is none, which also says that
    /// the kernel's queue was drained to empty. (So a source must not be pending
    /// because a tokio resource has spent the task's budget.)
    ///
    /// A loss is a fact ([`FactKind::Lost`](crate::FactKind::Lost)), not an error.
    ///
    /// # Errors
    /// The source is of no use any more. [`SourceError::Ended`] where it simply
    /// has nothing more to tell.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>>;

    /// Ready when it is time for [`poll_batch`](Self::poll_batch). A source may let
    /// facts gather for a moment while many come; who must know what there is by now
    /// need not ask.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Ready(())
    }

    /// Stops listening, and appends all facts that were queued before.
    ///
    /// # Errors
    /// The kernel refused; nothing more will come all the same.
    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError>;

    /// Counts of what was read and passed over.
    fn stats(&self) -> SourceStats {
        SourceStats::default()
    }
}

/// What a source has read and passed over since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SourceStats {
    /// Messages received.
    pub received: u64,
    /// Messages that were too short or made no sense, and were dropped.
    pub malformed: u64,
    /// Messages that did not come from the kernel, and were dropped.
    pub foreign: u64,
    /// Times the kernel's queue to us overflowed.
    pub overflows: u64,
    /// Events that the kernel says it dropped.
    pub dropped: u64,
    /// Events that are missing by their numbers, because the kernel had no memory to
    /// send them. Told as lost, too.
    pub unsent: u64,
    /// Times the source let events gather instead of being woken by each.
    pub pauses: u64,
}

/// An object of the trait must be enough, so that sources are chosen at run time.
const _OBJECT_SAFE: Option<Box<dyn EventSource>> = None;
