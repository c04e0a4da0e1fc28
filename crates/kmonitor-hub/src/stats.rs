//! Numbers about a running hub.

use kmonitor_source::SourceStats;

/// What a hub has done since it was opened, and what it holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HubStats {
    /// Facts taken from the source.
    pub facts: u64,
    /// Events of processes that somebody had subscribed to in some way.
    pub events: u64,
    /// Events put into the queues of subscriptions.
    pub delivered: u64,
    /// Events that found a subscription's queue full.
    pub lost_by_subscriptions: u64,
    /// Events that the kernel counted as dropped.
    pub lost_by_kernel: u64,
    /// Losses of the kernel's that nobody counted.
    pub losses_uncounted: u64,
    /// Times that a loss of the kernel's was followed by finding out what it took.
    pub resyncs: u64,
    /// Looks at the system's processes for that.
    pub looks: u64,
    /// Births that were found out so, and not reported.
    pub births_inferred: u64,
    /// Ends that were found out so, and not reported.
    pub deaths_inferred: u64,
    /// Live subscriptions.
    pub subscriptions: usize,
    /// Live watches of processes that have not ended.
    pub watches: usize,
    /// Processes in the hub's table.
    pub tracked: usize,
    /// Processes held by a descriptor.
    pub held: usize,
    /// Whether the kernel is being listened to.
    pub listening: bool,
    /// What the source counts itself.
    pub source: SourceStats,
}
