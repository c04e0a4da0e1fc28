//! When a child is started again, and how it is stopped.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::Signal;

/// What else is restarted when one child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// Nothing.
    #[default]
    OneForOne,
    /// All children.
    OneForAll,
    /// Those that were declared after it.
    RestForOne,
}

/// Which ends make a child be started again. A stop that was asked for never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Restart {
    /// Every end (OTP: permanent).
    Always,
    /// Every end but a success (OTP: transient).
    #[default]
    OnFailure,
    /// An end by a signal, or a panic.
    OnAbnormal,
    /// None (OTP: temporary).
    Never,
}

/// How often children may be restarted before their supervisor gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Intensity {
    /// So many restarts are borne...
    pub restarts: u32,
    /// ...within so long; one more, and the supervisor gives up.
    pub period: Duration,
}

impl Intensity {
    /// So many restarts within a period.
    pub const fn new(restarts: u32, period: Duration) -> Self {
        Self { restarts, period }
    }
}

impl Default for Intensity {
    /// 5 in 30 s.
    fn default() -> Self {
        Self::new(5, Duration::from_secs(30))
    }
}

/// How long to wait before a restart.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Backoff {
    /// Before the first restart.
    pub first: Duration,
    /// What each wait is multiplied by to give the next.
    pub factor: f64,
    /// No wait is longer, but for the jitter.
    pub max: Duration,
    /// A wait is lengthened or shortened by up to this part of itself, 0 to 1.
    pub jitter: f64,
    /// Who was ready for so long begins with `first` again.
    pub reset_after: Duration,
}

impl Backoff {
    /// Doubling from `first` to `max`, with a jitter of 20 %, reset after 60 s.
    pub const fn exponential(first: Duration, max: Duration) -> Self {
        Self {
            first,
            factor: 2.0,
            max,
            jitter: 0.2,
            reset_after: Duration::from_secs(60),
        }
    }

    /// Always the same wait, without jitter; zero: none.
    pub const fn constant(wait: Duration) -> Self {
        Self {
            first: wait,
            factor: 1.0,
            max: wait,
            jitter: 0.0,
            reset_after: Duration::ZERO,
        }
    }

    /// With another jitter, 0 to 1.
    #[must_use]
    pub const fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// With another length of a good run.
    #[must_use]
    pub const fn reset_after(mut self, good_run: Duration) -> Self {
        self.reset_after = good_run;
        self
    }
}

impl Default for Backoff {
    /// 200 ms doubling up to 30 s.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(200), Duration::from_secs(30))
    }
}

/// Ends that count otherwise than usual, by exit code and by signal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Codes {
    /// Exit codes that are a success beside 0.
    pub success: BTreeSet<i32>,
    /// Signals whose deaths are a success.
    pub success_signals: BTreeSet<i32>,
    /// Exit codes after which the child is never restarted.
    pub forbid: BTreeSet<i32>,
    /// Exit codes after which it always is.
    pub force: BTreeSet<i32>,
}

/// Which processes are a child's, to be signalled and to be gone after a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KillScope {
    /// The best that works here: cgroup, else tree.
    #[default]
    Best,
    /// All in its cgroup (v2).
    Cgroup,
    /// It and its descendants, wherever they were reparented to.
    ///
    /// To follow them, this program becomes a subreaper as long as the backend lives: all
    /// orphans below it come to it instead of init, those of the application's own
    /// commands too (a daemon that one of them forked twice). Without a connector those
    /// cannot be told from the application's children, so they stay zombies when they
    /// end, until the application waits for them or ends. Whoever does not want that
    /// uses another scope, or [`reap_all_children`][all].
    ///
    /// [all]: crate::backend::linux::LinuxBackendBuilder::reap_all_children
    Tree,
    /// Its process group.
    Group,
    /// Only itself.
    Leader,
}

/// How a child is stopped: a signal to its scope, some grace, SIGKILL, until the
/// scope is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stop {
    /// The first signal; SIGCONT follows it, so that a stopped child hears it.
    pub signal: Signal,
    /// From the signal to SIGKILL.
    pub grace: Duration,
    /// From SIGKILL to a report that names who survived it.
    pub patience: Duration,
    /// Whom it reaches.
    pub scope: KillScope,
}

impl Stop {
    /// Begins with this signal.
    #[must_use]
    pub fn signal(signal: Signal) -> Self {
        Self {
            signal,
            ..Self::default()
        }
    }

    /// With another grace.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// With another patience.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// With another scope.
    #[must_use]
    pub fn scope(mut self, scope: KillScope) -> Self {
        self.scope = scope;
        self
    }
}

impl Default for Stop {
    /// SIGTERM, 10 s, SIGKILL, 5 s, to the best scope.
    fn default() -> Self {
        Self {
            signal: Signal::TERM,
            grace: Duration::from_secs(10),
            patience: Duration::from_secs(5),
            scope: KillScope::Best,
        }
    }
}

/// Whether a supervisor ends when significant children end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum AutoShutdown {
    /// No.
    #[default]
    Never,
    /// When any of them has.
    AnySignificant,
    /// When all of them have.
    AllSignificant,
}
