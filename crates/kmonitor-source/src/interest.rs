//! What the hub wants of a source: the union of all subscriptions.

use kmonitor_event::{EventMask, ProcessKey};
use rustc_hash::FxHashMap;

use crate::Identity;

/// What is wanted of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wanted {
    /// The events.
    pub events: EventMask,
    /// Which process of that pid, for sources that must find it again.
    pub identity: Option<Identity>,
}

/// The union of all subscriptions, kept up to date step by step.
///
/// A source may read it whole, or follow [`changes`](Self::changes), which costs
/// nothing per process that stayed as it was.
#[derive(Debug, Clone, Default)]
pub struct KernelInterest {
    host: EventMask,
    named: FxHashMap<ProcessKey, Wanted>,
    changed: Vec<ProcessKey>,
}

impl KernelInterest {
    /// No interest at all: the source must not listen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing at all is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.host.is_empty() && self.named.is_empty()
    }

    /// The events wanted of every process of the host.
    #[must_use]
    pub fn host(&self) -> EventMask {
        self.host
    }

    /// What is wanted of one process by name, if anything.
    #[must_use]
    pub fn named(&self, key: ProcessKey) -> Option<Wanted> {
        self.named.get(&key).copied()
    }

    /// All processes wanted by name, in no order.
    pub fn iter_named(&self) -> impl ExactSizeIterator<Item = (ProcessKey, Wanted)> + '_ {
        self.named.iter().map(|(key, wanted)| (*key, *wanted))
    }

    /// The processes for which [`named`](Self::named) may have another answer
    /// than when [`settle`](Self::settle) was last called. May name one twice.
    #[must_use]
    pub fn changes(&self) -> &[ProcessKey] {
        &self.changed
    }

    /// Sets what is wanted of every process.
    pub fn set_host(&mut self, events: EventMask) {
        self.host = events;
    }

    /// Wants these events of a process, instead of what was wanted before.
    pub fn want(&mut self, key: ProcessKey, events: EventMask, identity: Option<Identity>) {
        let wanted = Wanted { events, identity };
        if self.named.insert(key, wanted) != Some(wanted) {
            self.changed.push(key);
        }
    }

    /// Wants nothing of a process any more.
    pub fn forget(&mut self, key: ProcessKey) {
        if self.named.remove(&key).is_some() {
            self.changed.push(key);
        }
    }

    /// Says that the source has followed: starts a new list of changes.
    pub fn settle(&mut self) {
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor_event::Pid;

    #[test]
    fn only_changes_are_listed() {
        let key = |pid| ProcessKey::new(Pid::new(pid).unwrap(), 1);
        let mut interest = KernelInterest::new();
        assert!(interest.is_empty());
        interest.want(key(1), EventMask::EXIT, None);
        interest.want(key(2), EventMask::EXIT, None);
        interest.settle();
        interest.want(key(1), EventMask::EXIT, None);
        assert!(interest.changes().is_empty());
        interest.want(key(1), EventMask::EXEC, None);
        interest.forget(key(2));
        interest.forget(key(3));
        assert_eq!(interest.changes(), [key(1), key(2)]);
        assert_eq!(interest.named(key(2)), None);
        interest.forget(key(1));
        assert!(interest.is_empty());
    }
}
