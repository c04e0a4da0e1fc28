//! What stands between the kernel and its one reader, beside the queue.

use std::task::Waker;

use crate::SourceError;

/// The reader, as the kernel knows it.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Which source is the reader; older ones have been replaced.
    reader: u64,
    batch_waker: Option<Waker>,
    interest_waker: Option<Waker>,
    pub(super) stalled: bool,
    interest_failure: Option<SourceError>,
    failure: Option<SourceError>,
    ended: bool,
    followed: u64,
    followed_by_reader: bool,
}

impl Link {
    /// A new reader takes the place of the one before, who is to be woken. What
    /// was to go wrong for that one does not concern the new one.
    pub(super) fn connect(&mut self) -> (u64, Vec<Waker>) {
        self.reader += 1;
        self.followed_by_reader = false;
        self.failure = None;
        self.ended = false;
        (self.reader, self.disconnect())
    }

    /// Nobody waits any more.
    pub(super) fn disconnect(&mut self) -> Vec<Waker> {
        let batch = self.batch_waker.take().into_iter();
        batch.chain(self.interest_waker.take()).collect()
    }

    pub(super) fn is_reader(&self, reader: u64) -> bool {
        self.reader == reader
    }

    /// Gives back the waker that was there before.
    pub(super) fn await_batch(&mut self, waker: &Waker) -> Option<Waker> {
        self.batch_waker.replace(waker.clone())
    }

    /// Gives back the waker that was there before.
    pub(super) fn await_interest(&mut self, waker: &Waker) -> Option<Waker> {
        self.interest_waker.replace(waker.clone())
    }

    pub(super) fn take_batch_waker(&mut self) -> Option<Waker> {
        self.batch_waker.take()
    }

    pub(super) fn take_interest_waker(&mut self) -> Option<Waker> {
        self.interest_waker.take()
    }

    pub(super) fn fail_interest(&mut self, failure: SourceError) {
        self.interest_failure = Some(failure);
    }

    pub(super) fn take_interest_failure(&mut self) -> Option<SourceError> {
        self.interest_failure.take()
    }

    pub(super) fn fail(&mut self, failure: SourceError) {
        self.failure = Some(failure);
        self.ended = true;
    }

    pub(super) fn has_failure(&self) -> bool {
        self.ended
    }

    /// The error that the source ends with; the second time, that it has ended.
    pub(super) fn take_failure(&mut self) -> Option<SourceError> {
        self.ended
            .then(|| self.failure.take().unwrap_or(SourceError::Ended))
    }

    pub(super) fn note_followed(&mut self) {
        self.followed += 1;
        self.followed_by_reader = true;
    }

    /// Whether an interest of this reader's was ever brought into force.
    pub(super) fn followed_once(&self) -> bool {
        self.followed_by_reader
    }

    /// How many interests were brought into force.
    pub(super) fn followed(&self) -> u64 {
        self.followed
    }
}
