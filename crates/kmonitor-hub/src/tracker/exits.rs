//! What reports of exits mean: a death, a hint to look, or another's.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use kmonitor_event::{Event, EventKind, Pid, ProcessKey, Status, StatusSource, Tid, Timestamp};
use kmonitor_source::{ProbeError, ProcessProbe, ProcessState};

use super::codes::Codes;
use super::looks::{Doubt, ask};
use super::process::{Death, Process};
use super::{Cx, Sink, Tracker};

impl Tracker {
    pub(super) fn task_exited(
        &mut self,
        pid: Pid,
        tid: Tid,
        code: i32,
        parent: Option<Pid>,
        time: Timestamp,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        // Both are empty, nearly always.
        if !self.ghosts.is_empty() && self.ghost_task_exited(pid, tid)
            || !self.parked.is_empty() && self.parked_task_exited(pid, tid, code, parent, time, cx)
        {
            return;
        }
        let unheard_of = self.host && !self.current.contains(pid);
        let behind = self.behind;
        let leader = tid.is_leader_of(pid);
        let Some(process) = self.entry(pid) else {
            return;
        };
        if leader && process.outdates(time) {
            return;
        }
        let key = process.key;
        process.parent = process.parent.or(parent);
        // Without a parent it may be a former owner's.
        if parent.is_some() || !leader {
            process.lived_at(time);
        }
        let of_before_exec = process.task_exited(tid, code, parent, time);
        if !leader {
            let status = ExitStatus::from_raw(code);
            let kind = EventKind::ThreadExit { tid, status };
            let event = Event::new(time, Some(key), kind);
            cx.sink.event_of(&event, &mut process.hint);
        }
        let told_out = process.is_told_out();
        if process.dying.is_some() {
            if told_out {
                self.settle_from_reports(key, cx);
            }
        } else if process.is_single_threaded()
            && !of_before_exec
            && !process.may_be_of_a_former(parent, time)
        {
            // A report without a parent is of one who was reaped before it was
            // sent: this one, or an owner of the pid before it whom we did not
            // track, or who has been given up, whose report came after this one's birth.
            let doubtful = parent.is_none() && leader;
            let identity = process.identity.filter(|_| process.is_identified());
            if doubtful && matches!(cx.probe.state(pid, identity), Ok(ProcessState::Alive)) {
                process.lives_on_or_was_replaced(cx.probe.now());
                if identity.is_some() {
                    // It is not its own word that was heard.
                    process.forget_last_words();
                }
            } else if leader {
                let status = Status::from_raw(code, StatusSource::Event);
                let death = Death {
                    time,
                    inferred: false,
                    reaped: false,
                };
                self.die(pid, death, Some(status), cx);
            }
        } else if behind && !process.threads.complete {
            // It is looked at when all that is queued has been read: now a look would
            // be ahead of what it did before it died.
            self.recheck.push((key, Doubt::NotSeen));
        } else if told_out || of_before_exec || !process.threads.complete {
            let codes = process.codes();
            match self.look(pid, told_out, of_before_exec, cx.probe) {
                Ok(ProcessState::Alive) => {
                    if let Some(process) = self.current.get_mut(pid)
                        && !told_out
                        && !of_before_exec
                        && process.threads.contains(tid, pid)
                    {
                        // Who was told to have ended is there again.
                        process.lives_on_after(codes, cx.probe.now());
                    }
                    self.look_at_the_traced_later(key, told_out, cx.now);
                }
                // A straggler of a process that was told, or never known.
                Ok(_) if unheard_of && !leader => self.remove_current(pid),
                Ok(state) => self.bury(pid, state, time, false, cx),
                // Out of descriptors, say: whether it lives can be asked later.
                Err(ProbeError::Io { .. }) => self.look_later(key, Doubt::NotSeen, cx.now),
                // Nobody may look, so the reports must do: all that are known
                // of have come, or the leader's has and none is known to be due.
                Err(_) if leader || told_out => {
                    self.bury(pid, ProcessState::Gone, time, false, cx);
                }
                Err(_) => {}
            }
        }
    }

    /// Asks about a process after an exit report that does not decide by itself.
    pub(super) fn look(
        &mut self,
        pid: Pid,
        told_out: bool,
        of_before_exec: bool,
        probe: &dyn ProcessProbe,
    ) -> Result<ProcessState, ProbeError> {
        let Some(process) = self.current.get_mut(pid) else {
            return Ok(ProcessState::Gone);
        };
        if !told_out && !of_before_exec {
            let state = self.reseed(pid, probe)?;
            let process = self.current.get(pid);
            let proven = process.is_some_and(Process::is_identified);
            return Ok(match state {
                // Dead in any case; the status may be another's.
                ProcessState::Zombie(_) if !proven => ProcessState::Gone,
                state => state,
            });
        }
        if process.unbind_if_unproven() {
            self.holds -= 1;
        }
        if process.is_identified() {
            let codes = process.codes();
            process.set_codes(Codes::None);
            let state = self.reseed(pid, probe);
            if !matches!(state, Ok(ProcessState::Alive))
                && let Some(process) = self.current.get_mut(pid)
            {
                process.set_codes(codes);
            }
            return state;
        }
        let state = ask(process, probe)?;
        if state == ProcessState::Alive {
            if told_out {
                process.lives_on_or_was_replaced(probe.now());
            }
            return Ok(state);
        }
        // Whoever it is that has the pid, this one is dead; a status found there
        // may be another's.
        Ok(ProcessState::Gone)
    }

    pub(super) fn group_dead(
        &mut self,
        pid: Pid,
        key: Option<ProcessKey>,
        status: Status,
        time: Timestamp,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        // By pid alone it is the oldest owner's whose end is still due.
        if let Some(parked) = self.parked.get_mut(&pid)
            && let Some(oldest) = parked
                .iter_mut()
                .find(|it| key.is_none_or(|key| key == it.key))
        {
            let key = oldest.key;
            oldest.died_at(time);
            let told = Some(status).filter(|status| *status != Status::Pending);
            self.settle(key, told, cx);
            return;
        }
        let Some(process) = self.entry(pid) else {
            return;
        };
        if process.dying.is_some() || key.is_some_and(|key| key != process.key) {
            return;
        }
        let state = match status {
            Status::Pending => match ask(process, cx.probe) {
                // Reaped since: the source, which knew of whom it spoke, tells that next.
                Ok(ProcessState::Gone) if key.is_some() => ProcessState::Zombie(Status::Pending),
                Ok(state @ (ProcessState::Zombie(_) | ProcessState::Gone)) => state,
                Ok(ProcessState::Alive) | Err(_) => ProcessState::Zombie(Status::Pending),
            },
            settled => ProcessState::Zombie(settled),
        };
        // Final: no report of a task of it will follow.
        process.tell_out(Codes::None);
        self.bury(pid, state, time, false, cx);
    }

    /// The status of a death that was waited for by its reaping.
    pub(crate) fn reaping_told(
        &mut self,
        key: ProcessKey,
        status: Status,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        self.reaped(key.pid(), Some(key), status, cx.now.stamp, cx);
    }

    pub(super) fn reaped(
        &mut self,
        pid: Pid,
        key: Option<ProcessKey>,
        status: Status,
        time: Timestamp,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        let key = key.or_else(|| self.current.get(pid).map(|process| process.key));
        let Some(process) = key.and_then(|key| self.find(key)) else {
            return;
        };
        let key = process.key;
        if process.dying.is_none() {
            let death = Death {
                time,
                inferred: false,
                reaped: true,
            };
            self.die(pid, death, Some(status), cx);
        } else {
            self.settle(key, Some(status), cx);
        }
    }
}
