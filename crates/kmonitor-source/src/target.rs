//! The many ways in which callers name the process they mean.

use std::os::fd::OwnedFd;

use kmonitor_event::{ParsePidError, Pid, ProcessKey, ProcessRef};

/// A process, as a caller names it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Target {
    /// By pid, or by `PID:INODE`.
    Process(ProcessRef),
    /// By a pidfd that the caller holds and gives away: it cannot be fooled.
    Pidfd(OwnedFd),
}

/// Why something names no process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// It is no process id.
    #[error(transparent)]
    Parse(#[from] ParsePidError),
    /// The child was waited for already, and has no pid any more.
    #[error("the child was already waited for, and has no pid any more")]
    ChildReaped,
}

/// What can name a process: a [`Pid`], a number, `"PID:INODE"`, a pidfd, a child.
///
/// A child is only looked at: it stays the caller's to wait for.
pub trait IntoTarget {
    /// The process named.
    ///
    /// # Errors
    /// It names none.
    fn into_target(self) -> Result<Target, TargetError>;
}

impl IntoTarget for Target {
    fn into_target(self) -> Result<Target, TargetError> {
        Ok(self)
    }
}

impl IntoTarget for ProcessRef {
    fn into_target(self) -> Result<Target, TargetError> {
        Ok(Target::Process(self))
    }
}

impl IntoTarget for Pid {
    fn into_target(self) -> Result<Target, TargetError> {
        ProcessRef::from(self).into_target()
    }
}

/// By pid and, where the key has it, inode.
impl IntoTarget for ProcessKey {
    fn into_target(self) -> Result<Target, TargetError> {
        ProcessRef::from(self).into_target()
    }
}

impl IntoTarget for i32 {
    fn into_target(self) -> Result<Target, TargetError> {
        Pid::try_from(self)?.into_target()
    }
}

impl IntoTarget for u32 {
    fn into_target(self) -> Result<Target, TargetError> {
        Pid::try_from(self)?.into_target()
    }
}

impl IntoTarget for &str {
    fn into_target(self) -> Result<Target, TargetError> {
        self.parse::<ProcessRef>()?.into_target()
    }
}

impl IntoTarget for OwnedFd {
    fn into_target(self) -> Result<Target, TargetError> {
        Ok(Target::Pidfd(self))
    }
}

impl IntoTarget for &std::process::Child {
    fn into_target(self) -> Result<Target, TargetError> {
        self.id().into_target()
    }
}

impl IntoTarget for &tokio::process::Child {
    fn into_target(self) -> Result<Target, TargetError> {
        self.id().ok_or(TargetError::ChildReaped)?.into_target()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_no_pids_are_refused() {
        assert!(0.into_target().is_err());
        assert!((-3).into_target().is_err());
        assert!(u32::MAX.into_target().is_err());
        assert!("12:x".into_target().is_err());
        assert!(matches!("12:9".into_target(), Ok(Target::Process(_))));
    }
}
