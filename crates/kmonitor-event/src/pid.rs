//! Process and thread identifiers as the kernel numbers them.

use std::fmt;
use std::num::NonZeroI32;
use std::str::FromStr;

/// Why a number or a word is no [`Pid`] or [`Tid`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePidError {
    /// Zero or negative: the kernel numbers tasks from 1.
    #[error("{0} is not a process id: ids are positive")]
    NotPositive(i64),
    /// Larger than any id the kernel can give (2³¹ − 1).
    #[error("{0} is not a process id: ids end at 2147483647")]
    TooLarge(u64),
    /// Not a number at all.
    #[error("{0:?} is not a process id: expected a number")]
    NotANumber(String),
    /// `PID:INODE` with a part after the colon that is no inode number.
    #[error("{0:?} is not PID:INODE: the inode must be a positive number")]
    BadInode(String),
}

macro_rules! task_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(try_from = "i32", into = "i32"))]
        pub struct $name(NonZeroI32);

        impl $name {
            /// The id, or `None` where `raw` is zero or negative.
            #[must_use]
            pub const fn new(raw: i32) -> Option<Self> {
                match NonZeroI32::new(raw) {
                    Some(id) if raw > 0 => Some(Self(id)),
                    _ => None,
                }
            }

            /// The number, as system calls take it. Always positive.
            #[must_use]
            pub const fn as_raw(self) -> i32 {
                self.0.get()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl TryFrom<i32> for $name {
            type Error = ParsePidError;
            fn try_from(raw: i32) -> Result<Self, ParsePidError> {
                Self::new(raw).ok_or(ParsePidError::NotPositive(raw.into()))
            }
        }

        impl TryFrom<u32> for $name {
            type Error = ParsePidError;
            fn try_from(raw: u32) -> Result<Self, ParsePidError> {
                let signed =
                    i32::try_from(raw).map_err(|_| ParsePidError::TooLarge(raw.into()))?;
                Self::try_from(signed)
            }
        }

        impl From<$name> for i32 {
            fn from(id: $name) -> i32 {
                id.as_raw()
            }
        }

        impl FromStr for $name {
            type Err = ParsePidError;
            fn from_str(text: &str) -> Result<Self, ParsePidError> {
                let wide: i64 = text
                    .parse()
                    .map_err(|_| ParsePidError::NotANumber(text.to_owned()))?;
                if wide <= 0 {
                    return Err(ParsePidError::NotPositive(wide));
                }
                let raw = i32::try_from(wide)
                    .map_err(|_| ParsePidError::TooLarge(wide.unsigned_abs()))?;
                Self::try_from(raw)
            }
        }
    };
}

task_id! {
    /// A process id: the id of a whole thread group (`tgid` in kernel words).
    ///
    /// A pid alone does not name a process for long, because the kernel uses it
    /// again; see [`ProcessKey`](crate::ProcessKey).
    ///
    /// ```
    /// use kmonitor_event::Pid;
    /// assert_eq!(Pid::new(1).map(Pid::as_raw), Some(1));
    /// assert_eq!(Pid::new(0), None);
    /// assert!("-7".parse::<Pid>().is_err());
    /// ```
    Pid
}

task_id! {
    /// A thread id: the id of one task (`pid` in kernel words).
    ///
    /// A process's first thread has the process's own number.
    Tid
}

impl Pid {
    /// The thread id of this process's first thread, the thread group leader.
    #[must_use]
    pub const fn leader(self) -> Tid {
        Tid(self.0)
    }

    /// The pid of the calling process.
    #[must_use]
    pub fn current() -> Pid {
        let raw = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
        Pid::new(raw).unwrap_or(Pid(NonZeroI32::MAX))
    }
}

impl Tid {
    /// Whether this is the first thread of `process`.
    #[must_use]
    pub const fn is_leader_of(self, process: Pid) -> bool {
        self.as_raw() == process.as_raw()
    }

    /// The pid of the process that this thread leads, if it leads one.
    #[must_use]
    pub const fn as_leader(self) -> Pid {
        Pid(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_positive_numbers_are_ids() {
        assert_eq!(Pid::try_from(0), Err(ParsePidError::NotPositive(0)));
        assert_eq!(Pid::try_from(-1), Err(ParsePidError::NotPositive(-1)));
        assert_eq!(
            Pid::try_from(u32::MAX),
            Err(ParsePidError::TooLarge(u32::MAX.into()))
        );
        assert_eq!(
            "99999999999".parse::<Pid>(),
            Err(ParsePidError::TooLarge(99_999_999_999))
        );
        assert!(matches!(
            "1x".parse::<Pid>(),
            Err(ParsePidError::NotANumber(_))
        ));
        assert_eq!("4194304".parse::<Pid>().unwrap().as_raw(), 4_194_304);
    }

    #[test]
    fn current_is_this_process() {
        assert_eq!(Pid::current().as_raw(), std::process::id() as i32);
    }

    #[test]
    fn an_optional_pid_costs_nothing() {
        assert_eq!(size_of::<Option<Pid>>(), 4);
    }
}
