//! Births and deaths of tasks, as the kernel does them. Each function changes
//! the state first and tells facts afterwards, so that a probe is never behind
//! the queue.

use kmonitor_event::{Pid, Tid, Timestamp};

use super::delayed::LateExit;
use super::state::{Phase, State};
use super::{Death, SimError};
use crate::FactKind;

/// The wait status of a task that ended itself with this code.
const fn exited(code: i32) -> i32 {
    (code & 0xff) << 8
}

/// The bit of a wait status that says that a core was written.
const CORE: i32 = 0x80;

impl State {
    pub(super) fn fork(&mut self, parent: Pid) -> Result<Pid, SimError> {
        if !self.process(parent)?.can_act() {
            return Err(SimError::Dead { pid: parent });
        }
        let child = self.allocate()?;
        self.insert_process(child, Some(parent));
        self.emit(FactKind::Forked {
            parent: Some(parent),
            child,
        });
        Ok(child)
    }

    pub(super) fn clone_thread(&mut self, pid: Pid) -> Result<Tid, SimError> {
        if !self.process(pid)?.can_act() {
            return Err(SimError::Dead { pid });
        }
        let tid = self.allocate()?.leader();
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.insert(tid, Phase::Live);
            process.tasks += 1;
        }
        self.tasks.insert(tid, pid);
        self.emit(FactKind::ThreadCreated { process: pid, tid });
        Ok(tid)
    }

    /// The process of a thread, and what the thread is doing.
    pub(super) fn phase(&self, tid: Tid) -> Result<(Pid, Phase), SimError> {
        let missing = SimError::NoSuchThread { tid };
        let pid = *self.tasks.get(&tid).ok_or(missing)?;
        let process = self.process(pid)?;
        let phase = process.threads.get(&tid).ok_or(missing)?;
        Ok((pid, *phase))
    }

    /// The process of a thread that can act.
    pub(super) fn live(&self, tid: Tid) -> Result<Pid, SimError> {
        match self.phase(tid)? {
            (pid, Phase::Live) => Ok(pid),
            _ => Err(SimError::Exiting { tid }),
        }
    }

    /// The process of a thread that can act, and can end.
    fn mortal(&self, tid: Tid) -> Result<Pid, SimError> {
        let pid = self.live(tid)?;
        if pid == self.init {
            return Err(SimError::Init);
        }
        Ok(pid)
    }

    pub(super) fn begin_exit(&mut self, tid: Tid, code: i32) -> Result<(), SimError> {
        let pid = self.mortal(tid)?;
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.insert(tid, Phase::Exiting(exited(code)));
            // The last thread that begins its exit decides what `waitpid` says,
            // even if another is slower to finish (`synchronize_group_exit`; seen
            // on 6.18 with threads stopped at PTRACE_EVENT_EXIT).
            if !process.can_act() {
                process.group_code = Some(exited(code));
            }
        }
        Ok(())
    }

    pub(super) fn finish_exit(&mut self, tid: Tid) -> Result<(), SimError> {
        let (pid, Phase::Exiting(code)) = self.phase(tid)? else {
            return Err(SimError::NotExiting { tid });
        };
        let Some(process) = self.processes.get_mut(&pid) else {
            return Err(SimError::NoSuchProcess { pid });
        };
        let others_remain = process
            .threads
            .iter()
            .any(|(other, phase)| *other != tid && *phase != Phase::Dead);
        if !others_remain {
            let status = process.group_code.unwrap_or(code);
            self.finish_group(pid, status, &[(tid, code)]);
            return Ok(());
        }
        if tid.is_leader_of(pid) {
            process.threads.insert(tid, Phase::Dead);
        } else {
            process.threads.remove(&tid);
            self.tasks.remove(&tid);
        }
        self.tell_end(pid, tid, code, self.config.exit_delay);
        Ok(())
    }

    pub(super) fn exit_group(&mut self, tid: Tid, code: i32) -> Result<(), SimError> {
        let pid = self.mortal(tid)?;
        self.end_group(pid, exited(code), |_| exited(code));
        Ok(())
    }

    pub(super) fn kill(&mut self, pid: Pid, signal: i32) -> Result<(), SimError> {
        if !(1..=64).contains(&signal) {
            return Err(SimError::BadSignal { signal });
        }
        if !self.process(pid)?.can_act() {
            return Err(SimError::Dead { pid });
        }
        if pid == self.init {
            return Err(SimError::Init);
        }
        self.end_group(pid, signal, |_| signal);
        Ok(())
    }

    pub(super) fn coredump(
        &mut self,
        tid: Tid,
        signal: i32,
        written: bool,
    ) -> Result<(), SimError> {
        if !(1..=64).contains(&signal) {
            return Err(SimError::BadSignal { signal });
        }
        let pid = self.mortal(tid)?;
        let parent = self.process(pid)?.parent;
        self.emit(FactKind::Coredump {
            process: pid,
            tid,
            parent,
        });
        let status = if written { signal | CORE } else { signal };
        // The other threads were told to die before the dump was written (6.18:
        // waitpid and the crashing thread's exit say 0x8b, the others' 0x0b).
        self.end_group(
            pid,
            status,
            |other| {
                if other == tid { status } else { signal }
            },
        );
        Ok(())
    }

    /// Ends all threads: those that live with `code_of` them, those inside their
    /// own exit with their own code, after the others.
    fn end_group(&mut self, pid: Pid, status: i32, code_of: impl Fn(Tid) -> i32) {
        let Some(process) = self.processes.get(&pid) else {
            return;
        };
        let mut ends: Vec<_> = process
            .live_threads()
            .map(|tid| (tid, code_of(tid)))
            .collect();
        self.rng.shuffle(&mut ends);
        let mut begun = self.begun(pid);
        self.rng.shuffle(&mut begun);
        ends.extend(begun);
        self.finish_group(pid, status, &ends);
    }

    /// The threads inside their own exit, with their codes.
    fn begun(&self, pid: Pid) -> Vec<(Tid, i32)> {
        let threads = self.processes.get(&pid).map(|process| &process.threads);
        threads
            .into_iter()
            .flatten()
            .filter_map(|(tid, phase)| match phase {
                Phase::Exiting(code) => Some((*tid, *code)),
                Phase::Live | Phase::Dead => None,
            })
            .collect()
    }

    /// The last threads end, and with them the process: it becomes a zombie, its
    /// children get another parent, and then the ends of the threads are told.
    fn finish_group(&mut self, pid: Pid, status: i32, ends: &[(Tid, i32)]) {
        let died = self.next_in_order();
        let init = self.init;
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        for tid in process.threads.keys() {
            if !tid.is_leader_of(pid) {
                self.tasks.remove(tid);
            }
        }
        process.threads.clear();
        process.threads.insert(pid.leader(), Phase::Dead);
        process.group_code = Some(status);
        let children = std::mem::take(&mut process.children);
        let (inode, adopted) = (process.inode, process.adopted);
        let death = Death {
            pid,
            inode,
            status,
            time: Timestamp::from_nanos(self.clock),
            born: process.born,
            died,
            reaped: None,
            tasks: process.tasks,
        };
        let place = self.record_death(death);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.death = Some(place);
        }
        for child in children {
            self.adopt(child, init);
        }
        self.tell_group_dead(pid, inode);
        for (tid, code) in ends {
            self.tell_end(pid, *tid, *code, self.config.exit_delay);
        }
        if adopted {
            self.reap_by_init(pid, inode);
        }
    }

    /// Hands an orphan to init. The kernel tells nobody.
    fn adopt(&mut self, orphan: Pid, init: Pid) {
        let Some(process) = self.processes.get_mut(&orphan) else {
            return;
        };
        process.parent = Some(init);
        process.adopted = true;
        let (zombie, inode) = (process.death.is_some(), process.inode);
        if let Some(init) = self.processes.get_mut(&init) {
            init.children.insert(orphan);
        }
        if zombie {
            self.reap_by_init(orphan, inode);
        }
    }

    fn tell_end(&mut self, process: Pid, tid: Tid, code: i32, delay: f64) {
        let Ok(inode) = self.process(process).map(|process| process.inode) else {
            return;
        };
        let exit = LateExit {
            process,
            inode,
            tid,
            code,
            died: self.clock,
        };
        self.emit_exit(exit, delay);
    }

    pub(super) fn exec(&mut self, tid: Tid) -> Result<(), SimError> {
        let pid = self.mortal(tid)?;
        let leader = pid.leader();
        // Threads that an exec ends get the code 0 (seen on 6.18); those inside their own exit
        // keep theirs. A leader that is dead already was told already.
        let Some(process) = self.processes.get_mut(&pid) else {
            return Err(SimError::NoSuchProcess { pid });
        };
        let inode = process.inode;
        let mut ends: Vec<_> = process
            .threads
            .iter()
            .filter(|(other, _)| **other != tid)
            .filter_map(|(other, phase)| match phase {
                Phase::Live => Some((*other, 0)),
                Phase::Exiting(code) => Some((*other, *code)),
                Phase::Dead => None,
            })
            .collect();
        // The thread that called exec takes the leader's id, and its own is free.
        let ids: Vec<Tid> = process.threads.keys().copied().collect();
        process.threads.clear();
        process.threads.insert(leader, Phase::Live);
        for id in ids.into_iter().filter(|id| *id != leader) {
            self.tasks.remove(&id);
        }
        self.rng.shuffle(&mut ends);
        let delay = self.config.exec_exit_delay;
        for (other, code) in ends {
            self.tell_end(pid, other, code, delay);
        }
        if !self.rng.chance(delay) {
            self.flush_exits_of(inode);
        }
        self.emit(FactKind::Execed { process: pid });
        Ok(())
    }

    pub(super) fn reap(&mut self, pid: Pid) -> Option<i32> {
        let place = self.processes.get(&pid)?.death?;
        let process = self.processes.remove(&pid)?;
        self.tasks.remove(&pid.leader());
        if let Some(parent) = process.parent.and_then(|pid| self.processes.get_mut(&pid)) {
            parent.children.remove(&pid);
        }
        let order = self.next_in_order();
        let death = self.deaths.get_mut(place)?;
        death.reaped = Some(order);
        let status = death.status;
        self.tell_reaped(process.inode);
        Some(status)
    }
}
