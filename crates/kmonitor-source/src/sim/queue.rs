//! The kernel's queue to its reader, and how it overflows.
//!
//! As a netlink socket does (kernel facts, "Overflow"): what does not fit sets
//! the queue congested; from then on everything is dropped until the reader has
//! drained it to empty. The loss is told at that place: after the facts that were
//! queued before it, ahead of all that came after it.

use std::collections::VecDeque;

use kmonitor_event::Timestamp;

use super::SimCounts;
use crate::{Fact, FactKind};

#[derive(Debug, Default)]
pub(super) struct Queue {
    facts: VecDeque<Fact>,
    facts_max: Option<usize>,
    listening: bool,
    congested: bool,
    /// Dropped since the queue became congested.
    untold: u64,
    /// A loss that is over and not told yet; it comes before all that is queued.
    loss_first: Option<u64>,
    counts: SimCounts,
}

impl Queue {
    /// A queue of at most so many facts; without a bound for facts that are the
    /// state of a descriptor and not messages: those are bounded by the interest.
    pub(super) fn new(facts_max: Option<usize>) -> Self {
        Self {
            facts_max,
            ..Self::default()
        }
    }

    pub(super) fn listening(&self) -> bool {
        self.listening
    }

    pub(super) fn listen(&mut self, listening: bool) {
        self.listening = listening;
    }

    pub(super) fn counts(&self) -> SimCounts {
        SimCounts {
            queued: self.facts.len() as u64,
            ..self.counts
        }
    }

    /// Whether there is anything for the reader, or a loss to be told.
    pub(super) fn is_ready(&self) -> bool {
        !self.facts.is_empty() || self.congested || self.loss_first.is_some()
    }

    pub(super) fn push(&mut self, fact: Fact) {
        if !self.listening {
            return;
        }
        self.counts.sent += 1;
        let full = self.facts_max.is_some_and(|max| self.facts.len() >= max);
        if self.congested || full {
            self.overflow(1);
        } else {
            self.facts.push_back(fact);
        }
    }

    /// Facts of no importance come in such numbers that the queue overflows, and
    /// `count` of them are lost. False where nobody listens or nothing is lost.
    pub(super) fn lose(&mut self, count: u64) -> bool {
        if !self.listening || count == 0 || self.facts_max.is_none() {
            return false;
        }
        self.counts.sent = self.counts.sent.saturating_add(count);
        self.overflow(count);
        true
    }

    fn overflow(&mut self, count: u64) {
        if !self.congested {
            self.congested = true;
            self.counts.overflows += 1;
        }
        self.counts.dropped = self.counts.dropped.saturating_add(count);
        self.untold = self.untold.saturating_add(count);
    }

    /// The next fact for the reader. `None` says that the queue is drained.
    pub(super) fn pop(&mut self, now: u64, count_losses: bool) -> Option<Fact> {
        let fact = match self.loss_first.take() {
            Some(count) => {
                let count = count_losses.then_some(count);
                Some(Fact::new(
                    Timestamp::from_nanos(now),
                    FactKind::Lost { count },
                ))
            }
            None => {
                let fact = self.facts.pop_front();
                self.counts.delivered += u64::from(fact.is_some());
                fact
            }
        };
        if self.facts.is_empty() && self.congested {
            // Drained: the kernel takes new facts again, and the loss is over.
            self.congested = false;
            let count = std::mem::take(&mut self.untold);
            if fact.is_none() {
                self.loss_first = Some(count);
                return self.pop(now, count_losses);
            }
            self.loss_first = Some(count);
        }
        fact
    }

    /// The reader is gone: nothing is kept for it.
    pub(super) fn discard(&mut self) {
        self.counts.discarded += self.facts.len() as u64;
        self.facts.clear();
        self.listening = false;
        self.congested = false;
        self.untold = 0;
        self.loss_first = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(n: u32) -> Fact {
        let kind = FactKind::Other {
            what: n,
            process: None,
        };
        Fact::new(Timestamp::default(), kind)
    }

    fn drain(queue: &mut Queue) -> Vec<FactKind> {
        std::iter::from_fn(|| queue.pop(0, true))
            .map(|fact| fact.kind)
            .collect()
    }

    #[test]
    fn overflow_drops_until_drained_to_empty() {
        let mut queue = Queue::new(Some(2));
        queue.listen(true);
        for n in 0..4 {
            queue.push(fact(n));
        }
        // Room again, but the queue is not empty: still dropping.
        assert_eq!(queue.pop(0, true), Some(fact(0)));
        queue.push(fact(4));
        assert_eq!(
            drain(&mut queue),
            [fact(1).kind, FactKind::Lost { count: Some(3) }]
        );
        queue.push(fact(5));
        assert_eq!(drain(&mut queue), [fact(5).kind]);
        let counts = queue.counts();
        assert_eq!(counts.overflows, 1);
        assert_eq!(counts.sent, counts.delivered + counts.dropped);
    }

    #[test]
    fn a_loss_is_told_before_facts_that_came_after_it() {
        let mut queue = Queue::new(Some(1));
        queue.listen(true);
        queue.push(fact(0));
        queue.push(fact(1));
        assert_eq!(queue.pop(0, true), Some(fact(0)));
        // Drained by a reader whose batch is full: the next facts fit again.
        queue.push(fact(2));
        queue.push(fact(3));
        let lost = |count| FactKind::Lost { count: Some(count) };
        assert_eq!(drain(&mut queue), [lost(1), fact(2).kind, lost(1)]);
        assert_eq!(queue.counts().overflows, 2);
    }

    #[test]
    fn a_queue_without_room_only_loses() {
        let mut queue = Queue::new(Some(0));
        queue.listen(true);
        queue.push(fact(0));
        assert!(queue.is_ready());
        assert_eq!(drain(&mut queue), [FactKind::Lost { count: Some(1) }]);
        assert!(!queue.is_ready());
    }

    #[test]
    fn what_happens_while_nobody_listens_is_not_sent() {
        let mut queue = Queue::new(Some(1));
        queue.push(fact(0));
        assert!(!queue.lose(5));
        assert_eq!(queue.counts(), SimCounts::default());
    }
}
