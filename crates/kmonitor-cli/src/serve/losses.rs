//! What the log is told of signals and events that did not arrive.

use kmonitor::signal::SignalStats;

/// Compares what the adapter counts with what was told last.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    told: SignalStats,
}

impl Losses {
    /// Tells what has been lost since the last time.
    pub(crate) fn tell(&mut self, now: SignalStats) {
        let before = std::mem::replace(&mut self.told, now);
        let dropped = now.dropped - before.dropped;
        if dropped > 0 {
            tracing::warn!(
                dropped,
                waiting = now.waiting,
                "signals were dropped: monitors did not take them, and their queues are full \
                 (RLIMIT_SIGPENDING)"
            );
        }
        let forgotten = now.forgotten - before.forgotten;
        if forgotten > 0 {
            tracing::warn!(
                forgotten,
                remembered = now.remembered,
                "events of newborn processes were not remembered: monitors are told of more \
                 births than they register in time"
            );
        }
        let by_kernel = now.lost_by_kernel - before.lost_by_kernel;
        let uncounted = now.losses_uncounted - before.losses_uncounted;
        let here = now.lost_by_adapter - before.lost_by_adapter;
        if by_kernel + uncounted + here > 0 {
            tracing::warn!(
                by_kernel,
                uncounted,
                here,
                "events were lost before they became signals; ends of targets are told all the same"
            );
        }
    }
}
