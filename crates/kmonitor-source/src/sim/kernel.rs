//! The handle of a simulated kernel, and what its processes do.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kmonitor_event::{Comm, Pid, Tid};

use super::state::State;
use super::{SimConfig, SimError};
use crate::FactKind;

/// A simulated kernel. Clones are handles to the same one.
///
/// No method blocks or panics; what a real kernel would refuse is refused with a
/// [`SimError`]. Each operation takes a microsecond of virtual time. Operations
/// from several threads are safe, but a run is only repeatable where their order
/// is.
#[derive(Clone)]
pub struct SimKernel {
    state: Arc<Mutex<State>>,
}

/// Processes.
impl SimKernel {
    /// A kernel on which only init (pid 1) runs.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(config))),
        }
    }

    /// A kernel with the default configuration and this seed.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self::new(SimConfig::default().seed(seed))
    }

    /// Init forks. The new process is the test's to [`reap`](Self::reap).
    ///
    /// # Errors
    /// All ids are in use.
    pub fn spawn(&self) -> Result<Pid, SimError> {
        self.operate(|state| state.fork(state.init))
    }

    /// A process forks.
    ///
    /// # Errors
    /// It does not exist, it is dead or ending, or all ids are in use.
    pub fn fork(&self, parent: Pid) -> Result<Pid, SimError> {
        self.operate(|state| state.fork(parent))
    }

    /// A process gets another thread.
    ///
    /// # Errors
    /// It does not exist, it is dead or ending, or all ids are in use.
    pub fn clone_thread(&self, process: Pid) -> Result<Tid, SimError> {
        self.operate(|state| state.clone_thread(process))
    }

    /// A thread replaces its process's program.
    ///
    /// All other threads end, with exit facts in a seeded order, the leader's
    /// among them unless it ended before. The thread itself goes on as the
    /// leader; the exit of its old id is never told. The exec comes last, unless
    /// [`exec_exit_delay`](SimConfig::exec_exit_delay) says otherwise.
    ///
    /// # Errors
    /// The thread does not exist or is ending, or it is init's.
    pub fn exec(&self, tid: Tid) -> Result<(), SimError> {
        self.operate(|state| state.exec(tid))
    }

    /// One thread ends itself (`SYS_exit`); with the last one ends the process.
    ///
    /// # Errors
    /// The thread does not exist or is ending already, or it is init's.
    pub fn exit_task(&self, tid: Tid, code: i32) -> Result<(), SimError> {
        self.operate(|state| {
            state.begin_exit(tid, code)?;
            state.finish_exit(tid)
        })
    }

    /// One thread enters its own exit and stays inside until
    /// [`finish_exit`](Self::finish_exit), or until something ends its process.
    /// Whatever that is, the thread ends with this code.
    ///
    /// Where all threads leave by themselves, the one that *began* last decides
    /// what `waitpid` says, not the one that finished last.
    ///
    /// # Errors
    /// The thread does not exist or is ending already, or it is init's.
    pub fn begin_exit(&self, tid: Tid, code: i32) -> Result<(), SimError> {
        self.operate(|state| state.begin_exit(tid, code))
    }

    /// A thread inside its own exit is done with it.
    ///
    /// # Errors
    /// The thread does not exist, or did not begin to exit.
    pub fn finish_exit(&self, tid: Tid) -> Result<(), SimError> {
        self.operate(|state| state.finish_exit(tid))
    }

    /// A thread ends its whole process (`exit_group`).
    ///
    /// The exits of the threads are told in a seeded order, those inside their
    /// own exit after the others and with their own codes.
    ///
    /// # Errors
    /// The thread does not exist or is ending already, or it is init's.
    pub fn exit_group(&self, tid: Tid, code: i32) -> Result<(), SimError> {
        self.operate(|state| state.exit_group(tid, code))
    }

    /// A signal ends a process: any from 1 to 64 does here.
    ///
    /// # Errors
    /// The process does not exist, is dead or ending already, or is init, or
    /// there is no such signal.
    pub fn kill(&self, pid: Pid, signal: i32) -> Result<(), SimError> {
        self.operate(|state| state.kill(pid, signal))
    }

    /// A thread gets a signal of the core-dumping kind, which ends its process.
    /// Only this thread's code and the process's status say that a core was
    /// written, if it was: the others were told to end before.
    ///
    /// # Errors
    /// The thread does not exist or is ending already, or it is init's, or there
    /// is no such signal.
    pub fn coredump(&self, tid: Tid, signal: i32, written: bool) -> Result<(), SimError> {
        self.operate(|state| state.coredump(tid, signal, written))
    }

    /// The parent waits for a process: its status as `waitpid` tells it, and the
    /// pid is free. `None` where there is no such process or it lives.
    pub fn reap(&self, pid: Pid) -> Option<i32> {
        self.operate(|state| state.reap(pid))
    }

    /// A task changes its name.
    ///
    /// # Errors
    /// It does not exist or is ending.
    pub fn set_comm(&self, tid: Tid, comm: Comm) -> Result<(), SimError> {
        self.tell_of(tid, |process| FactKind::Comm { process, tid, comm })
    }

    /// A task changes its user ids.
    ///
    /// # Errors
    /// It does not exist or is ending.
    pub fn set_uid(&self, tid: Tid, real: u32, effective: u32) -> Result<(), SimError> {
        self.tell_of(tid, |process| FactKind::Uid {
            process,
            tid,
            real,
            effective,
        })
    }

    /// A task changes its group ids.
    ///
    /// # Errors
    /// It does not exist or is ending.
    pub fn set_gid(&self, tid: Tid, real: u32, effective: u32) -> Result<(), SimError> {
        self.tell_of(tid, |process| FactKind::Gid {
            process,
            tid,
            real,
            effective,
        })
    }

    /// A process becomes the leader of a new session.
    ///
    /// # Errors
    /// It does not exist, or is dead or ending.
    pub fn set_sid(&self, process: Pid) -> Result<(), SimError> {
        self.operate(|state| {
            if !state.process(process)?.can_act() {
                return Err(SimError::Dead { pid: process });
            }
            state.emit(FactKind::Sid { process });
            Ok(())
        })
    }

    /// A tracer attaches to a task, or (`None`) leaves it.
    ///
    /// # Errors
    /// The task does not exist or is ending.
    pub fn ptrace(&self, tid: Tid, tracer: Option<Pid>) -> Result<(), SimError> {
        self.tell_of(tid, |process| FactKind::Ptrace {
            process,
            tid,
            tracer,
        })
    }

    /// The kernel tells something that has no name yet.
    pub fn other(&self, what: u32, process: Option<Pid>) {
        self.operate(|state| state.emit(FactKind::Other { what, process }));
    }

    fn tell_of(&self, tid: Tid, kind: impl FnOnce(Pid) -> FactKind) -> Result<(), SimError> {
        self.operate(|state| {
            let process = state.live(tid)?;
            state.emit(kind(process));
            Ok(())
        })
    }
}

/// How everything else gets at the state.
impl SimKernel {
    /// One operation: time passes, then it happens.
    pub(super) fn operate<R>(&self, operation: impl FnOnce(&mut State) -> R) -> R {
        self.with(|state| {
            state.tick();
            operation(state)
        })
    }

    /// Does something under the lock, and then wakes without it: a waker may run
    /// its task, which may call the kernel.
    pub(super) fn with<R>(&self, action: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = action(&mut state);
        let wakers = std::mem::take(&mut state.to_wake);
        let replaced = std::mem::take(&mut state.to_drop);
        drop(state);
        drop(replaced);
        for waker in wakers {
            waker.wake();
        }
        result
    }
}

impl fmt::Debug for SimKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, processes) = self.with(|state| (state.config.seed, state.processes.len()));
        f.debug_struct("SimKernel")
            .field("seed", &seed)
            .field("processes", &processes)
            .finish_non_exhaustive()
    }
}
