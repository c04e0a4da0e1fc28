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

    #[test]
    fn rusts_runtime_ignores_sigpipe_and_leaves_the_real_time_signals() {
        let me = Pid::current();
        let pipe = Signal::new(libc::SIGPIPE).unwrap();
        assert_eq!(disposition(me, pipe).unwrap(), Disposition::Ignored);
        let unused = Signal::new(50).unwrap();
        assert_eq!(disposition(me, unused).unwrap(), Disposition::Default);
    }
}
