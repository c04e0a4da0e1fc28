//! Looking at the processes of the script, now. The hub asks when a process is
//! named, and after a loss; the answers come from the state that the facts come
//! from, and so never contradict them.

use std::future::poll_fn;
use std::task::Poll;

use kmonitor::source::{
    Identity, Listing, ProbeError, ProcessEntry, ProcessState, ReapFuture, ThreadPhase, ThreadState,
};
use kmonitor::{Pid, ProcessProbe, Status, UnknownReason};

use crate::world::World;

impl ProcessProbe for World {
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        let state = self.lock();
        let (identity, _) = state.living.get(&pid).ok_or(ProbeError::Gone { pid })?;
        Ok(*identity)
    }

    fn state(&self, pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
        match (self.identify(pid), identity) {
            (Ok(found), Some(named)) if found != named => Ok(ProcessState::Gone),
            (Ok(_), _) => Ok(ProcessState::Alive),
            // There are no zombies here: an exit is the reaping too.
            (Err(_), _) => Ok(ProcessState::Gone),
        }
    }

    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<Listing, ProbeError> {
        self.identify(pid)?;
        let (tid, phase) = (pid.leader(), ThreadPhase::Alive);
        threads.clear();
        threads.push(ThreadState { tid, phase });
        Ok(Listing::Whole)
    }

    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        let state = self.lock();
        let living = state.living.iter();
        processes.clear();
        processes.extend(living.map(|(&pid, &(_, parent))| ProcessEntry::new(pid, parent)));
        Ok(())
    }

    fn reaped(&self, pid: Pid, identity: Identity) -> ReapFuture {
        let world = self.clone();
        Box::pin(poll_fn(move |cx| {
            let mut state = world.lock();
            let lives = |(found, _): &(Identity, _)| *found == identity;
            if state.living.get(&pid).is_some_and(lives) {
                state.wake_on_change(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(Ok(Status::Unknown(UnknownReason::ReapedUnseen)))
        }))
    }
}
