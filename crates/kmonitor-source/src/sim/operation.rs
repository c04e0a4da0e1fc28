//! The operations of the simulated kernel as values, to be chosen, printed and
//! shrunk by tests.

use kmonitor_event::{Comm, Pid, Tid};

use super::{SimError, SimKernel};

/// One operation. See the methods of [`SimKernel`] of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the methods' parameters")]
pub enum SimOperation {
    /// [`SimKernel::spawn`].
    Spawn,
    /// [`SimKernel::fork`].
    Fork { parent: Pid },
    /// [`SimKernel::clone_thread`].
    CloneThread { process: Pid },
    /// [`SimKernel::exec`].
    Exec { tid: Tid },
    /// [`SimKernel::exit_task`].
    ExitTask { tid: Tid, code: i32 },
    /// [`SimKernel::begin_exit`].
    BeginExit { tid: Tid, code: i32 },
    /// [`SimKernel::finish_exit`].
    FinishExit { tid: Tid },
    /// [`SimKernel::exit_group`].
    ExitGroup { tid: Tid, code: i32 },
    /// [`SimKernel::kill`].
    Kill { pid: Pid, signal: i32 },
    /// [`SimKernel::coredump`].
    Coredump {
        tid: Tid,
        signal: i32,
        written: bool,
    },
    /// [`SimKernel::reap`]; of a process that is no zombie, nothing.
    Reap { pid: Pid },
    /// [`SimKernel::set_next_pid`].
    SetNextPid { pid: Pid },
    /// [`SimKernel::set_comm`].
    SetComm { tid: Tid, comm: Comm },
    /// [`SimKernel::set_uid`].
    SetUid { tid: Tid, real: u32, effective: u32 },
    /// [`SimKernel::set_gid`].
    SetGid { tid: Tid, real: u32, effective: u32 },
    /// [`SimKernel::set_sid`].
    SetSid { process: Pid },
    /// [`SimKernel::ptrace`].
    Ptrace { tid: Tid, tracer: Option<Pid> },
    /// [`SimKernel::other`].
    Other { what: u32, process: Option<Pid> },
}

impl SimKernel {
    /// Does one operation.
    ///
    /// ```
    /// use kmonitor_source::sim::{SimKernel, SimOperation};
    /// let kernel = SimKernel::with_seed(0);
    /// kernel.apply(SimOperation::Spawn)?;
    /// assert_eq!(kernel.processes().len(), 2);
    /// # Ok::<(), kmonitor_source::sim::SimError>(())
    /// ```
    ///
    /// # Errors
    /// A real kernel would refuse it.
    pub fn apply(&self, operation: SimOperation) -> Result<(), SimError> {
        match operation {
            SimOperation::Spawn => self.spawn().map(drop),
            SimOperation::Fork { parent } => self.fork(parent).map(drop),
            SimOperation::CloneThread { process } => self.clone_thread(process).map(drop),
            SimOperation::Exec { tid } => self.exec(tid),
            SimOperation::ExitTask { tid, code } => self.exit_task(tid, code),
            SimOperation::BeginExit { tid, code } => self.begin_exit(tid, code),
            SimOperation::FinishExit { tid } => self.finish_exit(tid),
            SimOperation::ExitGroup { tid, code } => self.exit_group(tid, code),
            SimOperation::Kill { pid, signal } => self.kill(pid, signal),
            SimOperation::Coredump {
                tid,
                signal,
                written,
            } => self.coredump(tid, signal, written),
            SimOperation::Reap { pid } => {
                self.reap(pid);
                Ok(())
            }
            SimOperation::SetNextPid { pid } => self.set_next_pid(pid),
            SimOperation::SetComm { tid, comm } => self.set_comm(tid, comm),
            SimOperation::SetUid {
                tid,
                real,
                effective,
            } => self.set_uid(tid, real, effective),
            SimOperation::SetGid {
                tid,
                real,
                effective,
            } => self.set_gid(tid, real, effective),
            SimOperation::SetSid { process } => self.set_sid(process),
            SimOperation::Ptrace { tid, tracer } => self.ptrace(tid, tracer),
            SimOperation::Other { what, process } => {
                self.other(what, process);
                Ok(())
            }
        }
    }
}
