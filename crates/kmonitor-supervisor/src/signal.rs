//! Signals by name and number.

use std::fmt;
use std::str::FromStr;

/// A signal's number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(i32);

/// Not a signal's name or number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal; write TERM, SIGTERM or 15")]
pub struct ParseSignalError(String);

macro_rules! signals {
    ($($name:ident = $number:expr;)*) => {
        impl Signal {
            $(#[doc = concat!("`SIG", stringify!($name), "`.")]
            pub const $name: Signal = Signal($number.as_raw());)*
        }

        const NAMES: &[(&str, Signal)] = &[$((stringify!($name), Signal::$name)),*];
    };
}

use rustix::process::Signal as S;

signals! {
    HUP = S::HUP; INT = S::INT; QUIT = S::QUIT; ABRT = S::ABORT; KILL = S::KILL;
    USR1 = S::USR1; USR2 = S::USR2; PIPE = S::PIPE; ALRM = S::ALARM; TERM = S::TERM;
    CHLD = S::CHILD; CONT = S::CONT; STOP = S::STOP; TSTP = S::TSTP; WINCH = S::WINCH;
    SEGV = S::SEGV; BUS = S::BUS; FPE = S::FPE; ILL = S::ILL; TRAP = S::TRAP;
}

impl Signal {
    /// A signal by its number; `None` outside 1 to 64.
    pub const fn new(raw: i32) -> Option<Self> {
        if raw >= 1 && raw <= 64 {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn as_raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, signal)| signal == self) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = ParseSignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseSignalError(text.to_owned());
        if let Ok(raw) = text.parse() {
            return Self::new(raw).ok_or_else(wrong);
        }
        let upper = text.to_ascii_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known = NAMES.iter().find(|(name, _)| *name == short);
        known.map(|(_, signal)| *signal).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(text.parse(), Ok(Signal::TERM));
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        for text in ["", "0", "65", "-1", "SIG", "NONE"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
