//! The probe that stands beside a recording: there is no system to ask.

use kmonitor_event::{Pid, Status, UnknownReason};

use crate::{
    Identity, Listing, ProbeError, ProcessEntry, ProcessProbe, ProcessState, ReapFuture,
    ThreadPhase, ThreadState,
};

/// Knows nothing, and says what leaves every decision to the recording: each pid
/// exists (it may yet come), lives until the recording says that it ended, and
/// has one thread. So a process can be subscribed to before its first line.
///
/// ```
/// use kmonitor_event::Pid;
/// use kmonitor_source::replay::ReplayProbe;
/// use kmonitor_source::{ProcessProbe, ProcessState};
/// let probe = ReplayProbe::new();
/// let pid = Pid::new(4711).unwrap();
/// let identity = probe.identify(pid)?;
/// assert_eq!(probe.state(pid, Some(identity))?, ProcessState::Alive);
/// # Ok::<(), kmonitor_source::ProbeError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplayProbe(());

impl ReplayProbe {
    /// The probe for any recording.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl ProcessProbe for ReplayProbe {
    /// The same for every process. An inode is not made up: which process of a
    /// pid is meant, the order of the recording decides.
    fn identify(&self, _pid: Pid) -> Result<Identity, ProbeError> {
        Ok(Identity::StartTime(0))
    }

    fn state(&self, _pid: Pid, _identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
        Ok(ProcessState::Alive)
    }

    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<Listing, ProbeError> {
        threads.clear();
        threads.push(ThreadState {
            tid: pid.leader(),
            phase: ThreadPhase::Alive,
        });
        Ok(Listing::Whole)
    }

    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        processes.clear();
        Ok(())
    }

    /// Resolves at once: a recording does not tell of reapings.
    fn reaped(&self, _pid: Pid, _identity: Identity) -> ReapFuture {
        Box::pin(std::future::ready(Ok(Status::Unknown(
            UnknownReason::NotObservable,
        ))))
    }
}
