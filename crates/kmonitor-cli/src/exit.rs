//! The exit codes of the command: a contract, listed in each man page.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// It did what was asked.
    Success,
    /// As the process in question ended: its code, or 128 and its signal.
    Target(ExitStatus),
    /// Something went wrong.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// Who was to be told ended first.
    MonitorEnded,
    /// The time limit was over first (as `timeout(1)` says it).
    Timeout,
    /// The process ended, and nobody could know how.
    StatusUnknown,
    /// The command to run exists, and cannot be executed (as shells say it).
    NotExecutable,
    /// The command to run does not exist (as shells say it).
    NotFound,
    /// A signal asked the command to stop.
    Interrupted(i32),
}

impl Code {
    /// The number that the caller gets.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Target(status) => match (status.code(), status.signal()) {
                // Linux keeps eight bits of a code, so that nothing is cut off.
                (Some(code), _) => low_byte(code),
                (None, Some(signal)) => of_signal(signal),
                (None, None) => Self::Failure.number(),
            },
            Self::Failure => 1,
            Self::Usage => 2,
            Self::MonitorEnded => 3,
            Self::Timeout => 124,
            Self::StatusUnknown => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Interrupted(signal) => of_signal(signal),
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code.number())
    }
}

fn of_signal(signal: i32) -> u8 {
    low_byte(128 + (signal & 0x7f))
}

fn low_byte(number: i32) -> u8 {
    u8::try_from(number & 0xff).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_told_as_shells_tell_it() {
        let target = |raw| Code::Target(ExitStatus::from_raw(raw)).number();
        assert_eq!(target(0x700), 7);
        assert_eq!(target(0xff00), 255);
        assert_eq!(target(9), 137);
        assert_eq!(target(0x80 | 11), 139);
        assert_eq!(target(64), 192);
    }

    #[test]
    fn the_numbers_are_those_of_the_manual() {
        let codes = [
            (Code::Success, 0),
            (Code::Failure, 1),
            (Code::Usage, 2),
            (Code::MonitorEnded, 3),
            (Code::Timeout, 124),
            (Code::StatusUnknown, 125),
            (Code::NotExecutable, 126),
            (Code::NotFound, 127),
            (Code::Interrupted(2), 130),
            (Code::Interrupted(15), 143),
        ];
        for (code, number) in codes {
            assert_eq!(code.number(), number, "{code:?}");
        }
    }
}
