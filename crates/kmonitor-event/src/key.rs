//! Which process, in spite of pid reuse.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::{ParsePidError, Pid};

/// One incarnation of a pid: a process that no later process equals.
///
/// Equality and hash use the pid and the incarnation number only. The number is
/// given by whoever made the key (a hub, or the free `watch` function), counts
/// up, and means nothing outside that hub or, for free watches, that program.
///
/// ```
/// use kmonitor_event::{Pid, ProcessKey};
/// let pid = Pid::new(42).unwrap();
/// assert_ne!(ProcessKey::new(pid, 1), ProcessKey::new(pid, 2));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct ProcessKey {
    pid: Pid,
    incarnation: u64,
    inode: Option<NonZeroU64>,
}

impl ProcessKey {
    /// The key of one incarnation of `pid`.
    #[must_use]
    pub const fn new(pid: Pid, incarnation: u64) -> Self {
        Self {
            pid,
            incarnation,
            inode: None,
        }
    }

    /// The same key with the inode of the process's pidfd noted.
    #[must_use]
    pub const fn with_inode(mut self, inode: Option<NonZeroU64>) -> Self {
        self.inode = inode;
        self
    }

    /// The process id.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// Which process of this pid, in the count of the key's maker.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The inode of the process's pidfd: unique until the next boot.
    ///
    /// Known for watched processes; `None` in host-wide streams, where asking
    /// for every fork would cost more than the event.
    ///
    /// # Minimum kernel version
    /// 6.9 (pidfs).
    #[must_use]
    pub const fn inode(&self) -> Option<NonZeroU64> {
        self.inode
    }
}

impl PartialEq for ProcessKey {
    fn eq(&self, other: &Self) -> bool {
        self.pid == other.pid && self.incarnation == other.incarnation
    }
}

impl Eq for ProcessKey {}

impl Hash for ProcessKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pid.hash(state);
        self.incarnation.hash(state);
    }
}

/// `PID:INODE` where the inode is known, else `PID`.
impl fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ProcessRef::from(*self).fmt(f)
    }
}

/// How a person or a file names a process: `PID`, or `PID:INODE` which no reuse
/// of the pid can fool.
///
/// The inode is that of the process's pidfd, as util-linux prints and takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessRef {
    /// The process id.
    pub pid: Pid,
    /// The inode of its pidfd, if the process was named by it too.
    pub inode: Option<NonZeroU64>,
}

impl From<Pid> for ProcessRef {
    fn from(pid: Pid) -> Self {
        Self { pid, inode: None }
    }
}

impl From<ProcessKey> for ProcessRef {
    fn from(key: ProcessKey) -> Self {
        Self {
            pid: key.pid,
            inode: key.inode,
        }
    }
}

impl fmt::Display for ProcessRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inode {
            Some(inode) => write!(f, "{}:{inode}", self.pid),
            None => write!(f, "{}", self.pid),
        }
    }
}

impl FromStr for ProcessRef {
    type Err = ParsePidError;

    fn from_str(text: &str) -> Result<Self, ParsePidError> {
        let (pid, inode) = match text.split_once(':') {
            None => (text, None),
            Some((pid, inode)) => {
                let inode = inode
                    .parse()
                    .map_err(|_| ParsePidError::BadInode(text.to_owned()))?;
                (pid, Some(inode))
            }
        };
        Ok(Self {
            pid: pid.parse()?,
            inode,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inode_takes_no_part_in_equality() {
        let key = ProcessKey::new(Pid::new(7).unwrap(), 3);
        assert_eq!(key, key.with_inode(NonZeroU64::new(9)));
    }

    #[test]
    fn pid_inode_round_trips() {
        for text in ["12", "12:34", "4194304:18446744073709551615"] {
            assert_eq!(text.parse::<ProcessRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_addresses_are_told_apart() {
        assert!(matches!(
            "12:".parse::<ProcessRef>(),
            Err(ParsePidError::BadInode(_))
        ));
        assert!(matches!(
            "12:0".parse::<ProcessRef>(),
            Err(ParsePidError::BadInode(_))
        ));
        assert!(matches!(
            "0:5".parse::<ProcessRef>(),
            Err(ParsePidError::NotPositive(0))
        ));
        assert!(matches!(
            "".parse::<ProcessRef>(),
            Err(ParsePidError::NotANumber(_))
        ));
    }
}
