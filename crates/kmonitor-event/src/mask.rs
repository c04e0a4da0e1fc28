//! Which kinds of events somebody wants.

use std::fmt;
use std::str::FromStr;

bitflags::bitflags! {
    /// A set of event kinds.
    ///
    /// The seven lowest bits have the values that kmonitor gave them in 2004;
    /// the others are new. Bits and names are a contract.
    ///
    /// `ABORT` and `THREAD_ABORT` are no kinds of their own: they select those
    /// exits that were abnormal (ended by a signal). One death is one event,
    /// whichever of the two bits asked for it. An exit whose status nobody could
    /// know is selected by `ABORT` too, because it may have been one.
    ///
    /// ```
    /// use kmonitor_event::EventMask;
    /// assert_eq!(EventMask::EXIT.bits(), 0x40);
    /// assert_eq!(EventMask::LIFECYCLE.to_string(), "fork,exec,exit");
    /// ```
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
    pub struct EventMask: u32 {
        /// A thread was added to a process that exists.
        const THREAD_CREATE = 0x01;
        /// A thread other than the first ended by a signal.
        const THREAD_ABORT = 0x02;
        /// A thread other than the first ended.
        const THREAD_EXIT = 0x04;
        /// A process created a process.
        const FORK = 0x08;
        /// A process ended by a signal.
        const ABORT = 0x10;
        /// A process replaced its program.
        const EXEC = 0x20;
        /// A process ended: the whole of it, with all its threads.
        const EXIT = 0x40;
        /// A task changed its real or effective user id.
        const UID = 0x80;
        /// A task changed its real or effective group id.
        const GID = 0x100;
        /// A process became the leader of a new session.
        const SID = 0x200;
        /// A tracer attached to or explicitly left a task.
        const PTRACE = 0x400;
        /// A task changed its name (not by exec).
        const COMM = 0x800;
        /// A signal of the core-dumping kind is ending a process.
        const COREDUMP = 0x1000;
        /// An event of the kernel's that this version has no name for.
        const OTHER = 0x2000;

        /// What most programs want of a process: FORK, EXEC and EXIT.
        const LIFECYCLE = Self::FORK.bits() | Self::EXEC.bits() | Self::EXIT.bits();
        /// All that concerns single threads.
        const THREADS = Self::THREAD_CREATE.bits()
            | Self::THREAD_ABORT.bits()
            | Self::THREAD_EXIT.bits();
    }
}

/// The word for each single bit, in the order of the bits.
const NAMES: [(&str, EventMask); 14] = [
    ("thread_create", EventMask::THREAD_CREATE),
    ("thread_abort", EventMask::THREAD_ABORT),
    ("thread_exit", EventMask::THREAD_EXIT),
    ("fork", EventMask::FORK),
    ("abort", EventMask::ABORT),
    ("exec", EventMask::EXEC),
    ("exit", EventMask::EXIT),
    ("uid", EventMask::UID),
    ("gid", EventMask::GID),
    ("sid", EventMask::SID),
    ("ptrace", EventMask::PTRACE),
    ("comm", EventMask::COMM),
    ("coredump", EventMask::COREDUMP),
    ("other", EventMask::OTHER),
];

impl EventMask {
    /// The words that [`FromStr`] knows for single bits, in the order of the bits.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }
}

/// A word that names no event kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown event {word:?}; known are: {}, lifecycle, threads, all",
    known()
)]
pub struct ParseMaskError {
    /// The word in question.
    pub word: String,
}

fn known() -> String {
    EventMask::names().collect::<Vec<_>>().join(", ")
}

/// The names of the set bits, joined by commas; `none` for the empty set.
impl fmt::Display for EventMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, bit) in NAMES {
            if self.contains(bit) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        if separator.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// Names joined by commas, in any case, with `-` for `_` where wanted; `all`,
/// `lifecycle` and `threads` stand for several.
impl FromStr for EventMask {
    type Err = ParseMaskError;

    fn from_str(text: &str) -> Result<Self, ParseMaskError> {
        let mut mask = EventMask::empty();
        for word in text.split(',') {
            let name = word.trim().to_ascii_lowercase().replace('-', "_");
            mask |= match name.as_str() {
                "all" => EventMask::all(),
                "lifecycle" => EventMask::LIFECYCLE,
                "threads" => EventMask::THREADS,
                "none" => EventMask::empty(),
                name => NAMES
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, bit)| *bit)
                    .ok_or_else(|| ParseMaskError {
                        word: word.trim().to_owned(),
                    })?,
            };
        }
        Ok(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seven_bits_of_2004_keep_their_values() {
        let bits = [
            (EventMask::THREAD_CREATE, 0x01),
            (EventMask::THREAD_ABORT, 0x02),
            (EventMask::THREAD_EXIT, 0x04),
            (EventMask::FORK, 0x08),
            (EventMask::ABORT, 0x10),
            (EventMask::EXEC, 0x20),
            (EventMask::EXIT, 0x40),
        ];
        for (mask, value) in bits {
            assert_eq!(mask.bits(), value);
        }
    }

    #[test]
    fn every_bit_has_a_name_that_parses_back() {
        for bit in EventMask::all().iter() {
            assert_eq!(bit.to_string().parse::<EventMask>().unwrap(), bit);
        }
        let named = NAMES
            .iter()
            .fold(EventMask::empty(), |mask, (_, bit)| mask | *bit);
        assert_eq!(named, EventMask::all());
        assert_eq!(
            EventMask::all().to_string().parse::<EventMask>().unwrap(),
            EventMask::all()
        );
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = "exit,explode".parse::<EventMask>().unwrap_err();
        assert_eq!(error.word, "explode");
        assert!(error.to_string().contains("thread_create"));
        assert!("".parse::<EventMask>().is_err());
    }
}
