//! What a simulated process does.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Signal;

/// What an incarnation does: nothing but run, unless told.
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub(super) starts_after: Duration,
    pub(super) fails: Option<String>,
    pub(super) ready: Ready,
    pub(super) ends: Option<(Duration, i32)>,
    pub(super) reactions: BTreeMap<i32, Reaction>,
    pub(super) leaves: Vec<Escapee>,
    pub(super) prints: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    After(Duration),
    Never,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Reaction {
    Ignore,
    Exit { code: u8, after: Duration },
}

/// A process in the scope of a child beside the child's own, which outlives that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Escapee {
    /// It dies of what kills others.
    Meek,
    /// It ignores all but SIGKILL.
    Stubborn,
    /// Not even SIGKILL ends it before this time has passed since it was killed: it
    /// waits for a device.
    Stuck(Duration),
}

impl Default for Ready {
    fn default() -> Self {
        Self::After(Duration::ZERO)
    }
}

impl Program {
    /// Ready at once, runs for ever, dies of what kills others.
    pub fn new() -> Self {
        Self::default()
    }

    /// It takes so long until it exists.
    #[must_use]
    pub fn starts_after(mut self, wait: Duration) -> Self {
        self.starts_after = wait;
        self
    }

    /// It cannot be started, with this error.
    #[must_use]
    pub fn fails_to_start(mut self, error: impl Into<String>) -> Self {
        self.fails = Some(error.into());
        self
    }

    /// It is ready so long after it was started.
    #[must_use]
    pub fn ready_after(mut self, wait: Duration) -> Self {
        self.ready = Ready::After(wait);
        self
    }

    /// It never is.
    #[must_use]
    pub fn never_ready(mut self) -> Self {
        self.ready = Ready::Never;
        self
    }

    /// It exits with this code, so long after it was started.
    #[must_use]
    pub fn exits_after(mut self, run: Duration, code: u8) -> Self {
        self.ends = Some((run, i32::from(code) << 8));
        self
    }

    /// It dies of this signal, so long after it was started.
    #[must_use]
    pub fn dies_after(mut self, run: Duration, signal: Signal) -> Self {
        self.ends = Some((run, signal.as_raw()));
        self
    }

    /// It ignores this signal. Nobody can ignore SIGKILL.
    #[must_use]
    pub fn ignores(self, signal: Signal) -> Self {
        self.reacts(signal, Reaction::Ignore)
    }

    /// At this signal it exits with this code, so much later.
    #[must_use]
    pub fn exits_on(self, signal: Signal, code: u8, after: Duration) -> Self {
        self.reacts(signal, Reaction::Exit { code, after })
    }

    fn reacts(mut self, signal: Signal, reaction: Reaction) -> Self {
        self.reactions.insert(signal.as_raw(), reaction);
        self
    }

    /// It starts one more process in its scope.
    #[must_use]
    pub fn leaves(mut self, escapee: Escapee) -> Self {
        self.leaves.push(escapee);
        self
    }

    /// It writes this line when it starts.
    #[must_use]
    pub fn prints(mut self, line: impl Into<String>) -> Self {
        self.prints.push(line.into());
        self
    }
}
