//! The simulated kernel's probe: it answers from what is true now.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll};

use kmonitor_event::{Pid, Status, Timestamp, UnknownReason};

use super::SimKernel;
use super::state::{Phase, Process, State, TICK_NANOS};
use crate::{
    HeldProcess, HeldState, Identity, Listing, ProbeError, ProcessEntry, ProcessProbe,
    ProcessState, ReapFuture, ThreadPhase, ThreadState,
};

/// Asks a [`SimKernel`] about its processes, from [`SimKernel::probe`].
///
/// Answers are of the moment, and so ahead of what the source's reader has read.
/// Asking takes no virtual time.
#[derive(Debug, Clone)]
pub struct SimProbe {
    kernel: SimKernel,
}

impl SimProbe {
    pub(super) fn new(kernel: SimKernel) -> Self {
        Self { kernel }
    }
}

/// The process of a pid, or why that number names none.
fn find(state: &State, pid: Pid) -> Result<&Process, ProbeError> {
    if let Some(process) = state.processes.get(&pid) {
        return Ok(process);
    }
    let tid = pid.leader();
    match state.tasks.get(&tid) {
        Some(process) => Err(ProbeError::Thread {
            tid,
            process: Some(*process),
        }),
        None => Err(ProbeError::Gone { pid }),
    }
}

impl ProcessProbe for SimProbe {
    fn identify(&self, pid: Pid) -> Result<Identity, ProbeError> {
        self.kernel
            .with(|state| find(state, pid).map(|process| state.identity(process)))
    }

    fn state(&self, pid: Pid, identity: Option<Identity>) -> Result<ProcessState, ProbeError> {
        self.kernel.with(|state| {
            let process = match find(state, pid) {
                Ok(process) => process,
                // With an identity it was a process, which is then gone.
                Err(ProbeError::Gone { .. }) => return Ok(ProcessState::Gone),
                Err(ProbeError::Thread { .. }) if identity.is_some() => {
                    return Ok(ProcessState::Gone);
                }
                Err(error) => return Err(error),
            };
            if identity.is_some_and(|identity| !state.is(process, identity)) {
                return Ok(ProcessState::Gone);
            }
            Ok(state
                .zombie_status(process)
                .map_or(ProcessState::Alive, ProcessState::Zombie))
        })
    }

    fn threads(&self, pid: Pid, threads: &mut Vec<ThreadState>) -> Result<Listing, ProbeError> {
        self.kernel.with(|state| {
            threads.clear();
            let process = find(state, pid)?;
            threads.extend(process.threads.iter().map(|(tid, phase)| ThreadState {
                tid: *tid,
                phase: match phase {
                    Phase::Live => ThreadPhase::Alive,
                    Phase::Exiting(_) => ThreadPhase::Exiting,
                    Phase::Dead => ThreadPhase::Dead,
                },
            }));
            Ok(Listing::Whole)
        })
    }

    fn processes(&self, processes: &mut Vec<ProcessEntry>) -> Result<(), ProbeError> {
        self.kernel.with(|state| {
            processes.clear();
            let all = state.processes.iter();
            processes.extend(all.map(|(pid, process)| ProcessEntry {
                started: Some(Timestamp::from_nanos(process.started * TICK_NANOS)),
                dead: process.death.is_some(),
                ..ProcessEntry::new(*pid, process.parent)
            }));
            Ok(())
        })
    }

    fn hold(
        &self,
        pid: Pid,
        identity: Option<Identity>,
    ) -> Result<Option<Box<dyn HeldProcess>>, ProbeError> {
        self.kernel.with(|state| {
            let process = find(state, pid)?;
            let found = state.identity(process);
            match identity {
                Some(expected) if !state.is(process, expected) => Err(ProbeError::Reused {
                    pid,
                    expected,
                    found,
                }),
                _ => Ok(Some(Box::new(Held {
                    kernel: self.kernel.clone(),
                    pid,
                    inode: process.inode,
                    identity: found,
                }) as Box<dyn HeldProcess>)),
            }
        })
    }

    fn now(&self) -> Timestamp {
        self.kernel.now()
    }

    fn reaped(&self, pid: Pid, identity: Identity) -> ReapFuture {
        // Taken when called, not when polled: as a pidfd is opened.
        let held = self.kernel.with(|state| {
            let process = state.processes.get(&pid)?;
            let inode = state.is(process, identity).then_some(process.inode)?;
            state.waiters += 1;
            Some((inode, state.waiters))
        });
        Box::pin(Reaped {
            kernel: self.kernel.clone(),
            pid,
            held,
        })
    }
}

/// A hold on one process, as by a pidfd.
struct Held {
    kernel: SimKernel,
    pid: Pid,
    inode: NonZeroU64,
    identity: Identity,
}

impl HeldProcess for Held {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn state(&self) -> Result<HeldState, ProbeError> {
        self.kernel.with(|state| {
            let process = state.processes.get(&self.pid);
            Ok(match process.filter(|it| it.inode == self.inode) {
                Some(process) => state
                    .zombie_status(process)
                    .map_or(HeldState::Alive, HeldState::Zombie),
                None => HeldState::Reaped(state.reaped_status(self.inode)),
            })
        })
    }
}

/// Waits for the reaping of one process.
struct Reaped {
    kernel: SimKernel,
    pid: Pid,
    /// Which process, and which waiter this is; `None` where it had gone before.
    held: Option<(NonZeroU64, u64)>,
}

impl Future for Reaped {
    type Output = Result<Status, ProbeError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(held) = self.held else {
            return Poll::Ready(Ok(Status::Unknown(UnknownReason::ReapedUnseen)));
        };
        self.kernel.with(|state| {
            let process = state.processes.get(&self.pid);
            if process.is_some_and(|process| process.inode == held.0) {
                let replaced = state.reap_waiters.insert(held, cx.waker().clone());
                state.to_drop.extend(replaced);
                Poll::Pending
            } else {
                Poll::Ready(Ok(state.reaped_status(held.0)))
            }
        })
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(held) = self.held {
            self.kernel.with(|state| state.reap_waiters.remove(&held));
        }
    }
}
