//! Numbers about an adapter, counted by its task and read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an adapter has done since it was made, and what it holds now.
///
/// Every signal that was due is in one of `sent`, `dropped`, `withdrawn`,
/// `refused` and `waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SignalStats {
    /// Signals that the kernel took.
    pub sent: u64,
    /// Signals that found the monitor's queue full, in the kernel and here.
    pub dropped: u64,
    /// Signals that waited for room and were given up, because the monitor ended
    /// or the registration was taken back.
    pub withdrawn: u64,
    /// Signals that the kernel refused to send, because the monitor had ended or
    /// belongs to another user now.
    pub refused: u64,
    /// Signals that wait for room in a monitor's queue.
    pub waiting: u64,
    /// Events that the kernel counted as lost, wanted or not.
    pub lost_by_kernel: u64,
    /// Losses of the kernel's that nobody counted.
    pub losses_uncounted: u64,
    /// Events that came faster than the adapter could take them.
    pub lost_by_adapter: u64,
    /// Births and other events of processes that were not registered yet, for
    /// which there was no room to be remembered.
    pub forgotten: u64,
    /// Processes that monitors were told of and have not registered, and what
    /// descends from them: what they do is remembered.
    pub remembered: u64,
    /// Registrations.
    pub records: u64,
    /// Processes that are told.
    pub monitors: u64,
    /// Processes that are monitored.
    pub targets: u64,
}

macro_rules! counters {
    ($($name:ident),+) => {
        /// The same, shared.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
        }

        impl Counters {
            pub(crate) fn read(&self) -> SignalStats {
                SignalStats { $($name: self.$name.get(),)+ }
            }
        }
    };
}

counters!(
    sent,
    dropped,
    withdrawn,
    refused,
    waiting,
    lost_by_kernel,
    losses_uncounted,
    lost_by_adapter,
    forgotten,
    remembered,
    records,
    monitors,
    targets
);

/// One number. Only the adapter's task writes it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    pub(crate) fn store(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}
