//! How a process ended, where that is known from, or why it is not known.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a process ended.
///
/// A status that nobody could know is [`Unknown`](Status::Unknown) with the
/// reason; it is never made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// What the parent's `waitpid` says.
    Known {
        /// The status itself.
        status: ExitStatus,
        /// Who told.
        source: StatusSource,
    },
    /// The process is dead, and its status may still be learnt.
    Pending,
    /// The process is dead, and its status cannot be learnt any more.
    Unknown(UnknownReason),
}

/// Where a known status comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StatusSource {
    /// The exit events of all tasks of the process, which agreed.
    Event,
    /// Field 52 of `/proc/PID/stat`, read while the process was a zombie. Before Linux 5.17
    /// that is its first thread's own code, which is not the status where that thread had
    /// left before another ended the process.
    ZombieStat,
    /// `PIDFD_GET_INFO` on a pidfd that was held beyond the reaping.
    PidfdInfo,
    /// `waitid` without reaping: the process was a child of ours. Before Linux 5.17 as
    /// [`ZombieStat`](Self::ZombieStat).
    Waited,
}

/// Why a status cannot be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnknownReason {
    /// The process is a zombie whose status only its parent may read, and the
    /// parent did not reap it in the time allowed.
    NotReaped,
    /// The process was reaped before anybody could ask.
    ReapedUnseen,
    /// Its threads ended with different codes, and it was reaped before anybody
    /// could ask which of them counts.
    CodesDiffer,
    /// The event that told of it was lost.
    EventLost,
    /// This kernel does not tell the status of a process that is no child (6.15 does).
    KernelTooOld,
    /// Only polling worked here, and polling does not see the status.
    NotObservable,
}

impl Status {
    /// A known status from the number that `wait(2)` gives.
    #[must_use]
    pub fn from_raw(raw: i32, source: StatusSource) -> Self {
        Self::Known {
            status: ExitStatus::from_raw(raw),
            source,
        }
    }

    /// The status, if it is known.
    #[must_use]
    pub const fn known(&self) -> Option<ExitStatus> {
        match self {
            Self::Known { status, .. } => Some(*status),
            Self::Pending | Self::Unknown(_) => None,
        }
    }

    /// The number that `wait(2)` gives, if it is known.
    #[must_use]
    pub fn raw(&self) -> Option<i32> {
        self.known().map(ExitStatus::into_raw)
    }

    /// The exit code, if the process is known to have exited by itself.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.known().and_then(|status| status.code())
    }

    /// The signal, if the process is known to have been ended by one.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.known().and_then(|status| status.signal())
    }

    /// What a shell would set `$?` to: the exit code, or 128 and the signal.
    ///
    /// ```
    /// use kmonitor_event::{Status, StatusSource};
    /// let killed = Status::from_raw(9, StatusSource::Event);
    /// assert_eq!(killed.shell_code(), Some(137));
    /// ```
    #[must_use]
    pub fn shell_code(&self) -> Option<u8> {
        let code = self
            .code()
            .or_else(|| self.signal().map(|signal| 128 + signal))?;
        u8::try_from(code).ok()
    }

    /// Whether the process is known to have exited with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.known().is_some_and(|status| status.success())
    }

    /// Whether the process is known to have been ended by a signal.
    #[must_use]
    pub fn is_abnormal(&self) -> bool {
        self.signal().is_some()
    }
}

/// `exited with status 3`, `killed by signal 9 (core dumped)`, `unknown: …`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { status, .. } => fmt_exit_status(*status, f),
            Self::Pending => f.write_str("ended, status not known yet"),
            Self::Unknown(reason) => write!(f, "ended, status unknown: {reason}"),
        }
    }
}

pub(crate) fn fmt_exit_status(status: ExitStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (status.code(), status.signal()) {
        (Some(code), _) => write!(f, "exited with status {code}"),
        (None, Some(signal)) => {
            write!(f, "killed by signal {signal}")?;
            if status.core_dumped() {
                f.write_str(" (core dumped)")?;
            }
            Ok(())
        }
        (None, None) => write!(f, "ended with wait status {:#x}", status.into_raw()),
    }
}

macro_rules! named {
    ($type:ty { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The stable name, as in JSON.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            #[cfg(feature = "serde")]
            pub(crate) fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

named!(StatusSource {
    Event => "event",
    ZombieStat => "zombie_stat",
    PidfdInfo => "pidfd_info",
    Waited => "waited",
});

named!(UnknownReason {
    NotReaped => "not_reaped",
    ReapedUnseen => "reaped_unseen",
    CodesDiffer => "codes_differ",
    EventLost => "event_lost",
    KernelTooOld => "kernel_too_old",
    NotObservable => "not_observable",
});

impl fmt::Display for StatusSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReaped => "only its parent may read it, and has not reaped it yet",
            Self::ReapedUnseen => "it was reaped before it could be asked",
            Self::CodesDiffer => "its threads ended differently, and it was reaped too soon to ask",
            Self::EventLost => "the event that told of it was lost",
            Self::KernelTooOld => "this kernel does not tell it to strangers (6.15 does)",
            Self::NotObservable => "only polling works here, and polling cannot see it",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_read_as_people_say_them() {
        let known = |raw| Status::from_raw(raw, StatusSource::Event).to_string();
        assert_eq!(known(0x300), "exited with status 3");
        assert_eq!(known(9), "killed by signal 9");
        assert_eq!(known(0x8b), "killed by signal 11 (core dumped)");
        assert!(
            Status::Unknown(UnknownReason::NotReaped)
                .to_string()
                .starts_with("ended, status unknown: ")
        );
    }

    #[test]
    fn an_unknown_status_is_neither_success_nor_failure() {
        let unknown = Status::Unknown(UnknownReason::EventLost);
        assert!(!unknown.success());
        assert!(!unknown.is_abnormal());
        assert_eq!(unknown.raw(), None);
    }
}
