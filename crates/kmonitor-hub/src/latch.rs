//! The latched end of one watched process: a value, not a message, so that no
//! queue can lose it and no poll can come too late.

use std::sync::PoisonError;
use std::task::{Context, Poll};

use kmonitor_event::{Exit, Status, UnknownReason};

use crate::sync::{AtomicWaker, Mutex, MutexGuard};

/// Shared by the dispatcher and one watch.
#[derive(Default)]
pub(crate) struct Latch {
    stage: Mutex<Stage>,
    waker: AtomicWaker,
}

/// How far a watched process has come.
#[derive(Debug, Clone, Default)]
pub(crate) enum Stage {
    #[default]
    Alive,
    /// Dead, with the status pending.
    Dead(Exit),
    /// Dead, with all that will be known.
    Settled(Exit),
    /// The hub ended first, for this reason.
    Closed(String),
}

impl Latch {
    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on to a later stage; never back.
    fn advance(&self, next: Stage) {
        let mut stage = self.lock();
        let goes_on = match (&*stage, &next) {
            (Stage::Settled(_) | Stage::Closed(_), _) | (Stage::Dead(_), Stage::Dead(_)) => false,
            _ => !matches!(next, Stage::Alive),
        };
        if goes_on {
            *stage = next;
            drop(stage);
            self.waker.wake();
        }
    }

    pub(crate) fn dead(&self, exit: Exit) {
        self.advance(Stage::Dead(exit));
    }

    pub(crate) fn settle(&self, exit: Exit) {
        self.advance(Stage::Settled(exit));
    }

    pub(crate) fn close(&self, reason: &str) {
        let dead = match &*self.lock() {
            Stage::Dead(exit) => Some(*exit),
            _ => None,
        };
        // A death that was told stays told.
        self.advance(match dead {
            Some(mut exit) => {
                exit.status = Status::Unknown(UnknownReason::NotReaped);
                Stage::Settled(exit)
            }
            None => Stage::Closed(reason.to_owned()),
        });
    }

    /// The stage, once `reached` says that it will do.
    pub(crate) fn poll(
        &self,
        cx: &mut Context<'_>,
        reached: impl Fn(&Stage) -> bool,
    ) -> Poll<Stage> {
        for look in 0..2 {
            let stage = self.lock();
            if reached(&stage) {
                return Poll::Ready(stage.clone());
            }
            drop(stage);
            if look == 0 {
                self.waker.register(cx.waker());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor_event::{Pid, ProcessKey, Status, StatusSource, Timestamp};

    #[test]
    fn a_settled_end_stays_as_it_is() {
        let key = ProcessKey::new(Pid::new(3).unwrap(), 1);
        let exit = |status| Exit::new(key, status, Timestamp::default());
        let latch = Latch::default();
        latch.dead(exit(Status::Pending));
        let known = Status::from_raw(0, StatusSource::Event);
        latch.settle(exit(known));
        latch.dead(exit(Status::Pending));
        latch.close("too late");
        let waker = futures::task::noop_waker();
        let poll = latch.poll(&mut Context::from_waker(&waker), |_| true);
        assert!(matches!(poll, Poll::Ready(Stage::Settled(exit)) if exit.status == known));
    }
}
