//! What a source can see, and what it must refuse.

use std::fmt;

use kmonitor_event::EventMask;

/// Which source it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceKind {
    /// The kernel's proc connector.
    Connector,
    /// One pidfd per process.
    Pidfd,
    /// A simulated kernel.
    Simulated,
    /// A recording.
    Replay,
    /// Somebody else's, by its name.
    Custom(&'static str),
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connector => "connector",
            Self::Pidfd => "pidfd",
            Self::Simulated => "sim",
            Self::Replay => "replay",
            Self::Custom(name) => name,
        })
    }
}

/// Of whom a source can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// Every process of the host, also those it was never told of.
    Host,
    /// Only processes that it is asked to watch, one by one.
    Named,
}

/// What a source does about its own losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReport {
    /// It cannot lose anything.
    Lossless,
    /// It reports every loss with its exact count.
    Exact,
    /// It reports that there was a loss, but not how much.
    Noticed,
}

/// Whom a subscription asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Processes named one by one.
    Named,
    /// Processes and all that descend from them.
    Tree,
    /// All processes.
    Host,
}

/// How much of what nobody wants a source has held back before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Narrowing {
    /// Nothing: it reads whatever happens.
    #[default]
    None,
    /// Events of kinds that nobody wants of anybody.
    Kinds,
    /// Also events of processes that nobody named.
    Processes {
        /// As long as no more than so many are named.
        max: usize,
    },
}

/// How much the system keeps for a source until that has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct QueueSize {
    /// Room for about so many events now.
    pub events: usize,
    /// Room for about so many after it has grown because of losses.
    pub events_max: usize,
    /// Whether that is less than what was asked for, because the system grants
    /// no more without privilege.
    pub curtailed: bool,
}

impl QueueSize {
    /// A queue for so many events.
    #[must_use]
    pub const fn new(events: usize, events_max: usize, curtailed: bool) -> Self {
        Self {
            events,
            events_max,
            curtailed,
        }
    }
}

/// What a source can see.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Which source this is.
    pub kind: SourceKind,
    /// The events it can tell of.
    pub events: EventMask,
    /// Of whom.
    pub reach: Reach,
    /// What it does about losses.
    pub loss: LossReport,
    /// What it has held back of what nobody wants.
    pub narrowing: Narrowing,
    /// The system's queue to it, where there is one that can overflow.
    pub queue: Option<QueueSize>,
}

/// Why a source cannot serve a subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot see events of this kind.
    #[error("the {kind} source cannot see {missing} events")]
    Events {
        /// The source.
        kind: SourceKind,
        /// What it cannot see.
        missing: EventMask,
    },
    /// It sees only processes that are named one by one.
    #[error("the {kind} source sees only processes named one by one, not {}", match wanted {
        Scope::Tree => "a tree",
        _ => "the whole host",
    })]
    Reach {
        /// The source.
        kind: SourceKind,
        /// What was wanted.
        wanted: Scope,
    },
}

impl Capabilities {
    /// What a source of this kind can see. It holds nothing back and has no
    /// queue, unless that is set.
    #[must_use]
    pub const fn new(kind: SourceKind, events: EventMask, reach: Reach, loss: LossReport) -> Self {
        Self {
            kind,
            events,
            reach,
            loss,
            narrowing: Narrowing::None,
            queue: None,
        }
    }

    /// Whether the source can serve a subscription, and if not, why.
    ///
    /// # Errors
    /// It would be silent about something that was asked for.
    pub fn serve(&self, scope: Scope, events: EventMask) -> Result<(), Refusal> {
        let missing = events - self.events;
        if !missing.is_empty() {
            return Err(Refusal::Events {
                kind: self.kind,
                missing,
            });
        }
        if self.reach == Reach::Named && scope != Scope::Named {
            return Err(Refusal::Reach {
                kind: self.kind,
                wanted: scope,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_refused_with_the_reason() {
        let pidfd = Capabilities::new(
            SourceKind::Pidfd,
            EventMask::EXIT | EventMask::ABORT,
            Reach::Named,
            LossReport::Lossless,
        );
        assert_eq!(pidfd.serve(Scope::Named, EventMask::EXIT), Ok(()));
        let refusal = pidfd
            .serve(Scope::Named, EventMask::EXIT | EventMask::FORK)
            .unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the pidfd source cannot see fork events"
        );
        let refusal = pidfd.serve(Scope::Tree, EventMask::EXIT).unwrap_err();
        assert!(refusal.to_string().ends_with("not a tree"));
    }
}
