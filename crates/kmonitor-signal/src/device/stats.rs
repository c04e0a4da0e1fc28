//! What the device has done, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a device has done since it was mounted, and what it holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeviceStats {
    /// Files that are open now.
    pub open_files: usize,
    /// Files that were opened.
    pub opened: u64,
    /// Opens that found no room.
    pub open_refused: u64,
    /// Commands that were carried out.
    pub done: u64,
    /// Commands that were answered with an error.
    pub refused: u64,
    /// Commands that were answered with `ETIMEDOUT`; not among the refused.
    pub timed_out: u64,
}

/// The same while they are being counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) opened: Counter,
    pub(crate) open_refused: Counter,
    pub(crate) done: Counter,
    pub(crate) refused: Counter,
    pub(crate) timed_out: Counter,
}

impl Counters {
    pub(crate) fn read(&self, open_files: usize) -> DeviceStats {
        DeviceStats {
            open_files,
            opened: self.opened.get(),
            open_refused: self.open_refused.get(),
            done: self.done.get(),
            refused: self.refused.get(),
            timed_out: self.timed_out.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
