//! What a test does to a simulated kernel, and what it may look at.

use std::num::NonZeroU64;
use std::time::Duration;

use kmonitor_event::{Pid, Tid, Timestamp};

use super::state::{Phase, State};
use super::{Death, SimConfig, SimCounts, SimError, SimKernel, SimProbe, SimSource};
use crate::SourceError;

/// Hazards and time.
impl SimKernel {
    /// The next process or thread gets this id. Used to force reuse.
    ///
    /// # Errors
    /// The id is in use, or above [`pid_max`](SimConfig::pid_max).
    pub fn set_next_pid(&self, pid: Pid) -> Result<(), SimError> {
        self.with(|state| state.set_next_id(pid))
    }

    /// The queue overflows by so many facts of no importance. From now on facts
    /// are lost until the reader has drained the queue, even an empty one. False
    /// where nobody listens, or where nothing can be lost ([`SimMode::Named`]).
    ///
    /// [`SimMode::Named`]: super::SimMode::Named
    pub fn lose(&self, count: u64) -> bool {
        self.with(|state| {
            let lost = state.queue.lose(count);
            state.wake_reader();
            lost
        })
    }

    /// While true, exits of tasks are not told; when it becomes false, all that
    /// were held back are. An exit that the rules forbid to be later still (see
    /// [`SimConfig::exit_delay`]) is told all the same: before the exit of the
    /// next task of that id.
    pub fn hold_exits(&self, hold: bool) {
        self.with(|state| {
            state.delayed.hold_exits = hold;
            if !hold {
                state.release_exits();
            }
        });
    }

    /// Time passes, and with it what was due: late exit facts, and init's
    /// reapings.
    pub fn advance(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.with(|state| state.advance(nanos));
    }

    /// So much time passes that nothing is due any more.
    pub fn settle(&self) {
        self.with(State::settle);
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.with(|state| Timestamp::from_nanos(state.clock))
    }

    /// The source ends with this error, once the queue is drained; after that,
    /// with [`SourceError::Ended`].
    pub fn break_source(&self, error: SourceError) {
        self.with(|state| {
            state.link.fail(error);
            state.wake_reader();
        });
    }

    /// The source has nothing more to tell, once the queue is drained.
    pub fn end(&self) {
        self.break_source(SourceError::Ended);
    }

    /// While true, no interest comes into force, and setting one stays pending.
    pub fn stall_interest(&self, stall: bool) {
        self.with(|state| {
            state.link.stalled = stall;
            state.to_wake.extend(state.link.take_interest_waker());
        });
    }

    /// The next time an interest is set, that fails. It fails at once where it
    /// is being set now.
    pub fn fail_interest(&self, error: SourceError) {
        self.with(|state| {
            state.link.fail_interest(error);
            state.to_wake.extend(state.link.take_interest_waker());
        });
    }
}

/// Looking.
impl SimKernel {
    /// Its source of facts. A kernel has one reader: the source that was given
    /// out before is replaced, loses what is queued, and ends.
    #[must_use]
    pub fn source(&self) -> SimSource {
        SimSource::connect(self.clone())
    }

    /// Its probe. There may be many.
    #[must_use]
    pub fn probe(&self) -> SimProbe {
        SimProbe::new(self.clone())
    }

    /// Every process that died, in the order of the deaths.
    #[must_use]
    pub fn truth(&self) -> Vec<Death> {
        self.with(|state| state.deaths.clone())
    }

    /// How many facts went where.
    #[must_use]
    pub fn counts(&self) -> SimCounts {
        self.with(|state| state.queue.counts())
    }

    /// Whether facts are queued: an interest that is not empty is in force.
    #[must_use]
    pub fn listening(&self) -> bool {
        self.with(|state| state.queue.listening())
    }

    /// How often an interest was brought into force, by all readers.
    #[must_use]
    pub fn interest_changes(&self) -> u64 {
        self.with(|state| state.link.followed())
    }

    /// The processes that live or are zombies, init among them, by pid.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        self.with(|state| state.processes.keys().copied().collect())
    }

    /// The zombies, by pid.
    #[must_use]
    pub fn zombies(&self) -> Vec<Pid> {
        self.with(|state| {
            let dead = state.processes.iter().filter(|(_, it)| it.death.is_some());
            dead.map(|(pid, _)| *pid).collect()
        })
    }

    /// The threads of a process that are not dead, by id.
    #[must_use]
    pub fn threads(&self, process: Pid) -> Vec<Tid> {
        self.with(|state| {
            let threads = state.processes.get(&process).map(|it| &it.threads);
            let alive = threads
                .into_iter()
                .flatten()
                .filter(|(_, it)| **it != Phase::Dead);
            alive.map(|(tid, _)| *tid).collect()
        })
    }

    /// What tells the process that has this pid now from all others; also where
    /// the probe does not know it ([`SimConfig::pidfs`]).
    #[must_use]
    pub fn inode(&self, pid: Pid) -> Option<NonZeroU64> {
        self.with(|state| state.processes.get(&pid).map(|process| process.inode))
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> SimConfig {
        self.with(|state| state.config.clone())
    }
}
