//! The signals of one monitor that found its queue in the kernel full.
//!
//! The kernel says `EAGAIN` when the receiver's user has as many signals queued
//! as `RLIMIT_SIGPENDING` allows, and never says when there is room again. So
//! what is due waits here, in order and bounded, and is tried again.

use std::collections::VecDeque;
use std::time::Duration;

use kmonitor_event::EventMask;

use crate::Signal;
use crate::registry::{SessionId, Subject};

/// How many signals may wait for one monitor: some 400 KiB of them. What comes
/// then is dropped and counted.
pub(crate) const WAITING_MAX: usize = 8192;

const RETRY_MIN: Duration = Duration::from_millis(1);
const RETRY_MAX: Duration = Duration::from_millis(100);

/// A signal that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) session: SessionId,
    pub(crate) subject: Subject,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) event: EventMask,
    pub(crate) signal: Signal,
}

/// What became of an attempt to send one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel has it.
    Taken,
    /// No room now.
    Full,
    /// Never: the monitor has ended, or may not be signalled any more.
    Refused,
}

/// What became of one that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Taken,
    Waits,
    Dropped,
    Refused,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: VecDeque<Due>,
    waiting_max: usize,
    pause: Duration,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self::with_max(WAITING_MAX)
    }

    fn with_max(waiting_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_max,
            pause: RETRY_MIN,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How long to wait before [`flush`](Self::flush) is worth a try.
    pub(crate) fn pause(&self) -> Duration {
        self.pause
    }

    /// Sends one, unless others wait before it.
    pub(crate) fn push(&mut self, due: Due, send: impl FnOnce(&Due) -> Verdict) -> Pushed {
        if self.waiting.is_empty() {
            match send(&due) {
                Verdict::Taken => return Pushed::Taken,
                Verdict::Refused => return Pushed::Refused,
                Verdict::Full => {}
            }
        }
        if self.waiting.len() >= self.waiting_max {
            return Pushed::Dropped;
        }
        self.waiting.push_back(due);
        Pushed::Waits
    }

    /// Sends what there is room for: how many were taken, and how many refused.
    pub(crate) fn flush(&mut self, mut send: impl FnMut(&Due) -> Verdict) -> (u64, u64) {
        let (mut taken, mut refused) = (0, 0);
        while let Some(due) = self.waiting.front() {
            match send(due) {
                Verdict::Taken => taken += 1,
                Verdict::Refused => refused += 1,
                Verdict::Full => break,
            }
            self.waiting.pop_front();
        }
        self.pause = if taken > 0 || self.waiting.is_empty() {
            RETRY_MIN
        } else {
            self.pause.saturating_mul(2).min(RETRY_MAX)
        };
        if self.waiting.is_empty() {
            // A rare burst is no reason to keep its memory.
            self.waiting = VecDeque::new();
        }
        (taken, refused)
    }

    /// Takes back what nobody wants any more; how many that were.
    pub(crate) fn withdraw(&mut self, unwanted: impl Fn(&Due) -> bool) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|due| !unwanted(due));
        before - self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor_event::Pid;
    use proptest::prelude::*;

    fn due(pid: i32) -> Due {
        Due {
            session: SessionId(u64::from(pid % 2 == 0)),
            subject: Subject::dormant(Pid::new(1).unwrap()),
            pid,
            uid: 0,
            event: EventMask::EXIT,
            signal: Signal::new(34).unwrap(),
        }
    }

    #[test]
    fn pauses_grow_while_nothing_moves_and_shrink_when_something_does() {
        let mut outbox = Outbox::new();
        outbox.push(due(1), |_| Verdict::Full);
        outbox.push(due(2), |_| Verdict::Taken);
        assert_eq!(outbox.pause(), RETRY_MIN);
        for _ in 0..20 {
            outbox.flush(|_| Verdict::Full);
        }
        assert_eq!(outbox.pause(), RETRY_MAX);
        let mut room = 1;
        outbox.flush(|_| {
            room -= 1;
            if room >= 0 {
                Verdict::Taken
            } else {
                Verdict::Full
            }
        });
        assert_eq!((outbox.pause(), outbox.waiting()), (RETRY_MIN, 1));
    }

    #[test]
    fn what_is_withdrawn_is_not_sent() {
        let mut outbox = Outbox::new();
        for pid in 1..=6 {
            outbox.push(due(pid), |_| Verdict::Full);
        }
        assert_eq!(outbox.withdraw(|due| due.session == SessionId(1)), 3);
        let mut sent = Vec::new();
        outbox.flush(|due| {
            sent.push(due.pid);
            Verdict::Taken
        });
        assert_eq!(sent, [1, 3, 5]);
    }

    proptest! {
        /// However much room the kernel has when: what arrives is in order, and
        /// taken + waiting + dropped is what was due.
        #[test]
        fn nothing_is_lost_without_a_count(
            steps in prop::collection::vec((0..4_u32, 0..6_usize), 0..80),
        ) {
            let mut outbox = Outbox::with_max(8);
            let (mut room, mut next, mut dropped) = (0, 0, 0);
            let mut arrived = Vec::new();
            for (step, count) in steps {
                if step == 1 {
                    // Room that nobody has noticed yet.
                    room += count;
                    continue;
                }
                if step == 0 {
                    outbox.flush(|due| {
                        if room == 0 {
                            return Verdict::Full;
                        }
                        room -= 1;
                        arrived.push(due.pid);
                        Verdict::Taken
                    });
                    continue;
                }
                for _ in 0..count {
                    next += 1;
                    let pushed = outbox.push(due(next), |due| {
                        if room == 0 {
                            return Verdict::Full;
                        }
                        room -= 1;
                        arrived.push(due.pid);
                        Verdict::Taken
                    });
                    dropped += usize::from(pushed == Pushed::Dropped);
                }
                prop_assert!(outbox.waiting() <= 8);
                prop_assert_eq!(arrived.len() + outbox.waiting() + dropped, next as usize);
            }
            prop_assert!(arrived.is_sorted());
        }
    }
}
