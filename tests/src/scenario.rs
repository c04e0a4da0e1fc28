//! The hazards, and the wait statuses that the kernel may report for each.

use std::fmt;

use clap::ValueEnum;

/// How long the last thread of [`Scenario::LeaderFirst`] outlives the leader
/// when nothing else is asked for.
pub const LEADER_FIRST_DELAY_MS: u64 = 300;

/// Exit code of the program that the `thread-exec*` scenarios execute.
pub const EXEC_CODE: i32 = 42;

/// First of the codes that the threads of [`Scenario::Race6`] race with.
pub const RACE_FIRST_CODE: i32 = 10;

/// Threads that race in [`Scenario::Race6`], the leader among them.
pub const RACE_THREADS: i32 = 6;

/// The signals that [`Scenario::Signal`] takes in turn.
pub const SIGNALS: [i32; 3] = [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV];

/// What each process of a `hazard` run does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, ValueEnum)]
pub enum Scenario {
    /// `_exit(index % 256)`
    Plain,
    /// Dies of SIGKILL, SIGTERM or SIGSEGV, by index
    Signal,
    /// The leader exits alone with 0; later the last thread calls `exit_group(5)`
    LeaderFirst,
    /// A second thread execs while the leader waits
    ThreadExec,
    /// A second thread execs after the leader has exited alone
    ThreadExecLeaderGone,
    /// A thread in exit(7) races the leader in `exit_group(5)`
    #[value(name = "thread-exit7-group5")]
    ThreadExit7Group5,
    /// The leader exits alone with 3, then the last thread alone with 9
    #[value(name = "leader3-last9")]
    Leader3Last9,
    /// Six threads race in `exit_group` with codes 10 to 15
    #[value(name = "race6")]
    Race6,
    /// As `plain`, one after the other, all with the pid of the first
    Reuse,
    /// Children that exit 0 at once, created by vfork as fast as possible
    Storm,
}

impl Scenario {
    /// Every scenario, in the order of the help text.
    #[must_use]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Whether `waitpid` may report this raw status for a process of this
    /// scenario. This is what the kernel promises (6.0 and later for
    /// [`Self::Leader3Last9`]), not what one run happened to show.
    #[must_use]
    pub fn allows(self, status: i32) -> bool {
        let exited = |code: i32| status == code << 8;
        match self {
            Self::Plain | Self::Reuse => status & 0xff == 0 && status >> 8 <= 0xff,
            // Without the core bit: hazard turns core dumps off.
            Self::Signal => SIGNALS.contains(&status),
            // `exit_group` settles the status, whoever exits alone and when.
            Self::LeaderFirst | Self::ThreadExit7Group5 => exited(5),
            Self::ThreadExec | Self::ThreadExecLeaderGone => exited(EXEC_CODE),
            // Nobody calls `exit_group`: the last thread's code counts.
            Self::Leader3Last9 => exited(9),
            Self::Race6 => (RACE_FIRST_CODE..RACE_FIRST_CODE + RACE_THREADS).any(exited),
            Self::Storm => exited(0),
        }
    }

    /// Whether there is a moment worth attaching at other than the start:
    /// the leader has gone, or the threads that will race exist.
    #[must_use]
    pub fn has_late_point(self) -> bool {
        match self {
            Self::LeaderFirst
            | Self::ThreadExec
            | Self::ThreadExecLeaderGone
            | Self::ThreadExit7Group5
            | Self::Leader3Last9
            | Self::Race6 => true,
            Self::Plain | Self::Signal | Self::Reuse | Self::Storm => false,
        }
    }

    /// The delay before the decisive call when the caller names none.
    #[must_use]
    pub fn default_delay_ms(self) -> u64 {
        match self {
            Self::LeaderFirst => LEADER_FIRST_DELAY_MS,
            _ => 0,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No variant is skipped, so every one has a name.
        let value = self.to_possible_value().ok_or(fmt::Error)?;
        f.write_str(value.get_name())
    }
}
