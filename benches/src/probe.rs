//! A probe that finds every process alive, with one thread, and asks nobody.

use std::num::NonZeroU64;

use kmonitor_event::{Pid, Status};
use kmonitor_source::{
    Identity, Listing, ProbeError, ProcessEntry, ProcessProbe, ProcessState, ReapFuture,
    ThreadPhase, ThreadState,
};

/// Every pid belongs to a process that lives for ever.
#[derive(Debug, Clone, Copy)]
pub struct AllAlive;

impl ProcessProbe for AllAlive {
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        let inode = NonZeroU64::MIN.saturating_add(pid.as_raw().unsigned_abs().into());
        Ok(Identity::Inode(inode))
    }

    fn state(&self, _pid: Pid, _of: Option<Identity>) -> Result<ProcessState, ProbeError> {
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

    fn reaped(&self, _pid: Pid, _of: Identity) -> ReapFuture {
        Box::pin(std::future::pending::<Result<Status, ProbeError>>())
    }
}
