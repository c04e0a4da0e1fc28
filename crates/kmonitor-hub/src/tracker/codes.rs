//! What the tasks of a process ended with, taken together.

/// The codes that a process's tasks have ended with since its last exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    None,
    /// All the same.
    All(i32),
    /// Not the same, or not to be trusted.
    Differ,
}

/// [`Codes`] without the code, which a process keeps beside it to save room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Agreement {
    None,
    All,
    Differ,
}

impl Codes {
    pub(super) fn note(&mut self, code: i32) {
        *self = match *self {
            Self::None => Self::All(code),
            Self::All(seen) if seen == code => Self::All(seen),
            Self::All(_) | Self::Differ => Self::Differ,
        };
    }
}
