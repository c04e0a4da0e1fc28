//! What a process would do with a signal.

use std::io;

use kmonitor_event::Pid;

use crate::{Signal, procfs};

/// What a process would do with a signal now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// It has a handler.
    Caught,
    /// Its first thread blocks it, to take it when it likes.
    Blocked,
    /// It ignores it: it would never know.
    Ignored,
    /// It left the default: a real-time signal ends it.
    Default,
}

/// What a process would do with a signal now, by `/proc/PID/status`.
///
/// An unprepared program is ended by most signals; ask before you register it as
/// a monitor. An answer can be out of date when it arrives.
///
/// # Errors
/// The process does not exist, or `/proc` is not readable.
pub fn disposition(process: Pid, signal: Signal) -> io::Result<Disposition> {
    let status = procfs::status(process)?;
    let bit = 1_u64 << (signal.as_raw() - 1);
    Ok(if status.caught & bit != 0 {
        Disposition::Caught
    } else if status.ignored & bit != 0 {
        Disposition::Ignored
    } else if status.blocked & bit != 0 {
        Disposition::Blocked
    } else {
        Disposition::Default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not of this process: glibc blocks all signals for a moment whenever the
    /// test harness starts a thread.
    #[test]
    fn a_process_says_what_it_would_do() {
        use std::io::Read as _;
        let mut child = std::process::Command::new("sh")
            .args(["-c", "trap '' USR1; trap : USR2; echo; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.as_mut().unwrap();
        output.read_exact(&mut [0]).unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let would = |signal: &str| disposition(pid, signal.parse().unwrap()).unwrap();
        assert_eq!(would("USR1"), Disposition::Ignored);
        assert_eq!(would("USR2"), Disposition::Caught);
        assert_eq!(would("50"), Disposition::Default);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(disposition(pid, "50".parse().unwrap()).is_err());
    }
}
