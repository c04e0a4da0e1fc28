//! What the simulated kernel knows for certain, to hold a report against.

use std::num::NonZeroU64;

use kmonitor_event::{Pid, Timestamp};

/// A process that died. All of them are kept as long as the kernel: they are the
/// oracle of a test, which runs for a bounded time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Death {
    /// The process.
    pub pid: Pid,
    /// Which process of that pid: no other process has or had this inode.
    pub inode: NonZeroU64,
    /// What `waitpid` says of it.
    pub status: i32,
    /// When it died.
    pub time: Timestamp,
    /// Its birth's place in the order of all births, deaths and reapings.
    pub born: u64,
    /// Its death's place in that order.
    pub died: u64,
    /// Its reaping's place in that order; `None` while it is a zombie.
    pub reaped: Option<u64>,
    /// How many tasks it had in its life.
    pub tasks: u64,
}

/// How many facts went where. At every moment
/// `sent == delivered + dropped + queued + discarded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SimCounts {
    /// Facts that happened while somebody listened.
    pub sent: u64,
    /// Facts that the reader was given; the reports of losses not counted.
    pub delivered: u64,
    /// Facts that did not fit the queue.
    pub dropped: u64,
    /// Facts that wait in the queue.
    pub queued: u64,
    /// Facts that were in the queue when the source was dropped or replaced.
    pub discarded: u64,
    /// How often the queue overflowed.
    pub overflows: u64,
}
