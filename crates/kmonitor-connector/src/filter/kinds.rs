//! Sets of the kernel's kinds of events.

use kmonitor_event::EventMask;

use crate::wire;

/// The kinds that have a name, each with what asks for it.
pub(crate) const NAMED: [(u32, EventMask); 9] = [
    (
        wire::EXIT,
        EventMask::EXIT
            .union(EventMask::ABORT)
            .union(EventMask::THREAD_EXIT)
            .union(EventMask::THREAD_ABORT),
    ),
    (wire::FORK, EventMask::FORK.union(EventMask::THREAD_CREATE)),
    (wire::EXEC, EventMask::EXEC),
    (wire::UID, EventMask::UID),
    (wire::GID, EventMask::GID),
    (wire::SID, EventMask::SID),
    (wire::PTRACE, EventMask::PTRACE),
    (wire::COMM, EventMask::COMM),
    (wire::COREDUMP, EventMask::COREDUMP),
];

/// Kinds of events, one bit for each of [`NAMED`] and one for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kinds(u16);

impl Kinds {
    pub(crate) const NONE: Self = Self(0);
    /// Those that have no name here.
    pub(crate) const OTHER: Self = Self(1 << NAMED.len());
    pub(crate) const ALL: Self = Self((1 << (NAMED.len() + 1)) - 1);
    pub(crate) const FORK: Self = Self(1 << 1);
    /// EXIT, FORK and EXEC: nearly all that happens. Where these pass of the whole host,
    /// holding the rest back spares little, and without a filter it shows if the kernel
    /// did not send something (`sequence.rs`).
    pub(crate) const COMMON: Self = Self(0b111);

    /// What the kernel must tell for these events to be told.
    pub(crate) fn of(events: EventMask) -> Self {
        let known = NAMED
            .iter()
            .fold(EventMask::OTHER, |known, (_, asks)| known | *asks);
        if !known.contains(events) {
            // A bit without a rule here may need anything.
            return Self::ALL;
        }
        let mut kinds = Self::NONE;
        if events.contains(EventMask::OTHER) {
            kinds = Self::OTHER;
        }
        for (bit, (_, asks)) in NAMED.iter().enumerate() {
            if events.intersects(*asks) {
                kinds = kinds | Self(1 << bit);
            }
        }
        kinds
    }

    /// The set of this one kind alone.
    pub(crate) fn only(what: u32) -> Self {
        match NAMED.iter().position(|(named, _)| *named == what) {
            Some(bit) => Self(1 << bit),
            None => Self::OTHER,
        }
    }

    pub(crate) fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for Kinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_its_kind() {
        assert_eq!(Kinds::of(EventMask::all()), Kinds::ALL);
        assert_eq!(Kinds::of(EventMask::empty()), Kinds::NONE);
        assert_eq!(Kinds::of(EventMask::OTHER), Kinds::OTHER);
        assert_eq!(Kinds::of(EventMask::from_bits_retain(1 << 31)), Kinds::ALL);
        for asks in [EventMask::FORK, EventMask::THREAD_CREATE] {
            assert_eq!(Kinds::of(asks), Kinds::FORK);
        }
        for (what, asks) in NAMED {
            for one in asks.iter() {
                assert_eq!(Kinds::of(one), Kinds::only(what), "{one}");
            }
        }
        assert_eq!(Kinds::only(wire::FORK), Kinds::FORK);
        let common = [wire::EXIT, wire::FORK, wire::EXEC].map(Kinds::only);
        assert_eq!(common[0] | common[1] | common[2], Kinds::COMMON);
        assert_eq!(Kinds::only(0x8000), Kinds::OTHER);
    }
}
