//! Where in the stream a loss belongs, and how large it is: pure, without a
//! socket.
//!
//! The kernel's rules (`net/netlink/af_netlink.c`), each checked by a test on a
//! real socket:
//! * an overflow is reported once, by `ENOBUFS`, *ahead* of the datagrams that
//!   were queued before it;
//! * from the overflow on everything is dropped until a read has found or left
//!   the queue empty. So until then the queue only shrinks, and its end is the
//!   place of the loss;
//! * `SO_MEMINFO` tells how much is queued, and how many were dropped so far.
//!
//! The reads after an `ENOBUFS` are therefore kept from reaching beyond that end:
//! what is read behind it came after the loss. All datagrams of the connector
//! take the same memory, so how many are left follows from how much is left.
//!
//! What was lost without an overflow is no drop, and shows by its number, if at all:
//! `sequence.rs`.
//!
//! What cannot be told apart: where the queue overflows again in the moment
//! between the read that emptied it and the look at the count, the first loss is
//! told with drops of the second, which then has so many less, maybe none. Each
//! place and the sum are right all the same.

use crate::sys::{DATAGRAMS_MAX, QueueState};

/// What one datagram takes of the queue is not known before the first was read
/// after an overflow. Until then: more than that, so that no read goes too far.
const DATAGRAM_MEMORY_BYTES_GUESS: u32 = 4096;

/// Follows overflows, read by read.
#[derive(Debug)]
pub(crate) struct Overflow {
    phase: Phase,
    datagram_bytes: u32,
    dropped_before: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was lost.
    Clear,
    /// There was a loss, and what was queued before it is being read. What was
    /// queued before the last read, and how many that one fetched, if known.
    Draining { last: Option<(u32, u32)> },
    /// All that was queued before the loss has been read.
    Drained,
    /// The loss was told. Its last drops may have been counted a moment after.
    Settling,
}

/// What the next read may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Read so many datagrams at most.
    Read(usize),
    /// Tell the loss, by [`Overflow::settle`], and plan again.
    Tell,
}

impl Overflow {
    /// Without a loss; counts from what was dropped before.
    pub(crate) fn new(dropped_before: u32) -> Self {
        Self {
            phase: Phase::Clear,
            datagram_bytes: DATAGRAM_MEMORY_BYTES_GUESS,
            dropped_before,
        }
    }

    /// Forgets all losses so far.
    pub(crate) fn restart(&mut self, dropped_before: u32) {
        self.phase = Phase::Clear;
        self.dropped_before = dropped_before;
    }

    /// The kernel reported an overflow.
    pub(crate) fn reported(&mut self) {
        // A second report before the first was told: still the same place, or
        // one behind it that the second `Drained` will find.
        self.phase = Phase::Draining { last: None };
    }

    /// What the next read may do. `state` is asked for only while a loss is
    /// being placed; it says `None` where the kernel cannot tell (before 4.12).
    pub(crate) fn plan(&mut self, state: impl FnOnce() -> Option<QueueState>) -> Plan {
        let last = match self.phase {
            Phase::Clear | Phase::Settling => return Plan::Read(DATAGRAMS_MAX),
            Phase::Drained => return Plan::Tell,
            Phase::Draining { last } => last,
        };
        let Some(QueueState { queued_bytes, .. }) = state() else {
            // Told when the queue is found empty, which may be a little late.
            return Plan::Read(DATAGRAMS_MAX);
        };
        if let Some((before, count)) = last {
            if queued_bytes == 0 || queued_bytes >= before {
                // The last read emptied it, and maybe it has grown since.
                self.phase = Phase::Drained;
                return Plan::Tell;
            }
            self.datagram_bytes = (before - queued_bytes).div_ceil(count.max(1)).max(1);
        }
        let left = (queued_bytes / self.datagram_bytes).max(1);
        let limit = usize::try_from(left).map_or(DATAGRAMS_MAX, |left| left.min(DATAGRAMS_MAX));
        self.phase = Phase::Draining {
            last: Some((queued_bytes, 0)),
        };
        Plan::Read(limit)
    }

    /// A read returned `count` datagrams.
    pub(crate) fn received(&mut self, count: usize) {
        if let Phase::Draining {
            last: Some((before, fetched)),
        } = &mut self.phase
        {
            *fetched = u32::try_from(count).unwrap_or(u32::MAX);
            let known = self.datagram_bytes != DATAGRAM_MEMORY_BYTES_GUESS;
            if known && before.saturating_sub(fetched.saturating_mul(self.datagram_bytes)) == 0 {
                self.phase = Phase::Drained;
            }
        }
    }

    /// A read found the queue empty. Says whether there is something to tell.
    pub(crate) fn found_empty(&mut self) -> bool {
        match self.phase {
            Phase::Clear => false,
            Phase::Draining { .. } | Phase::Drained => {
                self.phase = Phase::Drained;
                true
            }
            Phase::Settling => true,
        }
    }

    /// The loss to tell at this place, `dropped` being the kernel's count now:
    /// `Some(None)` where there was one that the kernel does not count.
    pub(crate) fn settle(&mut self, dropped: Option<u32>) -> Option<Option<u64>> {
        let settling = self.phase == Phase::Settling;
        self.phase = if settling {
            Phase::Clear
        } else {
            Phase::Settling
        };
        let Some(dropped) = dropped else {
            self.phase = Phase::Clear;
            return (!settling).then_some(None);
        };
        let count = dropped.wrapping_sub(self.dropped_before);
        self.dropped_before = dropped;
        // The place counts even where all drops were told a moment earlier.
        (count > 0 || !settling).then_some(Some(u64::from(count)))
    }
}

#[cfg(test)]
#[path = "overflow_tests.rs"]
mod tests;
