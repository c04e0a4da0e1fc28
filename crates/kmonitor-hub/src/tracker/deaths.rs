//! From the first sign of a death to its one `Exit`, and what comes after.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use kmonitor_event::{Event, EventKind, Exit, Pid, ProcessKey, Status, Tid, Timestamp};
use kmonitor_source::{HeldState, ProcessState};

use super::ghost::Ghost;
use super::process::{Death, Dying, Process};
use super::{Cx, Now, Recipients, Sink, Tracker};

impl Tracker {
    /// When [`expire`](Self::expire) has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        let death = self.deadlines.front().map(|(deadline, _)| *deadline);
        death.into_iter().chain(self.retry_at).min()
    }

    /// Ends the waiting of all deaths whose time is up.
    pub(crate) fn expire(&mut self, cx: &mut Cx<'_, impl Sink>) {
        if self.retry_at.is_some_and(|at| at <= cx.now.elapsed) {
            self.look_again();
        }
        while let Some((deadline, key)) = self.deadlines.front().copied() {
            if deadline > cx.now.elapsed {
                return;
            }
            self.deadlines.pop_front();
            self.lay_ghost(key);
            if let Some(process) = self.find(key)
                && process.dying.is_some_and(|d| d.deadline <= cx.now.elapsed)
            {
                self.settle(key, None, cx);
                // What that leaves goes in its turn.
                if self.ghosts.contains_key(&key.pid()) {
                    self.lay_later(key, cx.now);
                }
            }
        }
    }

    /// Nothing more will come: tells all deaths that wait for a status.
    pub(crate) fn settle_all(&mut self, cx: &mut Cx<'_, impl Sink>) {
        let processes = self.current.values();
        let dying: Vec<_> = processes
            .chain(self.parked.values().flatten())
            .filter(|process| process.dying.is_some())
            .map(|process| process.key)
            .collect();
        for key in dying {
            self.settle(key, None, cx);
        }
    }

    /// A look has shown that a process is dead. Settles its status from the look
    /// or the reports, or waits for it.
    pub(super) fn bury(
        &mut self,
        pid: Pid,
        state: ProcessState,
        time: Timestamp,
        inferred: bool,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        let Some(process) = self.current.get_mut(pid) else {
            return;
        };
        let is_known = matches!(state, ProcessState::Zombie(Status::Known { .. }));
        let held = process.held.as_ref().filter(|_| !is_known);
        let (looked_up, reaped) = match held.map(|held| held.state()) {
            Some(Ok(HeldState::Reaped(status))) => (status, true),
            Some(Ok(HeldState::Zombie(status))) => (status, false),
            _ => match state {
                ProcessState::Zombie(status) => (status, false),
                ProcessState::Alive | ProcessState::Gone => (Status::Pending, true),
            },
        };
        // A known status first; then the reports, which may know what the look
        // could not see; then why it cannot be known.
        let known = Some(looked_up).filter(|status| status.known().is_some());
        let settled = known
            .or_else(|| process.agreed_status())
            .or_else(|| Some(looked_up).filter(|status| *status != Status::Pending));
        let death = Death {
            time,
            inferred,
            reaped,
        };
        if settled.is_none() && reaped && (process.is_told_out() || inferred) {
            // No report is due and nobody is left to ask.
            self.die(pid, death, None, cx);
            let key = self.current.get(pid).map(|process| process.key);
            if let Some(key) = key {
                self.settle(key, None, cx);
            }
            return;
        }
        if settled.is_none()
            && !reaped
            && let Some(identity) = process.identity
        {
            cx.sink.await_reaping(process.key, identity);
        }
        self.die(pid, death, settled, cx);
    }

    /// A process is dead: with its status it ends here, without it waits.
    pub(super) fn die(
        &mut self,
        pid: Pid,
        death: Death,
        status: Option<Status>,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        let Some(process) = self.current.get_mut(pid) else {
            return;
        };
        let key = process.key;
        let deadline = cx.now.elapsed.saturating_add(self.config.status_grace);
        process.dying = Some(Dying { death, deadline });
        if status.is_none() || process.leaves_ghost() {
            self.deadlines.push_back((deadline, key));
        }
        if status.is_some() {
            self.settle(key, status, cx);
            return;
        }
        if let Some(dying) = process.dying {
            cx.sink.dead(&dying.exit(key));
        }
        if death.inferred {
            self.concluded.push(key);
        }
    }

    /// All exit reports of a dead process have come.
    pub(super) fn settle_from_reports(&mut self, key: ProcessKey, cx: &mut Cx<'_, impl Sink>) {
        let Some(process) = self.find(key) else {
            return;
        };
        if let Some(status) = process.agreed_status() {
            self.settle(key, Some(status), cx);
            return;
        }
        match process.held.as_ref().map(|held| held.state()) {
            Some(Ok(HeldState::Zombie(status) | HeldState::Reaped(status)))
                if status != Status::Pending =>
            {
                self.settle(key, Some(status), cx);
            }
            // Nobody is left to ask.
            _ if process.dying.is_some_and(|dying| dying.death.reaped) => {
                self.settle(key, None, cx);
            }
            // The reaping, or the deadline, will settle it.
            _ => {}
        }
    }

    /// The end of a dead process's story: its one `Exit`.
    pub(super) fn settle(
        &mut self,
        key: ProcessKey,
        status: Option<Status>,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        let pid = key.pid();
        let process = if self.current.get(pid).is_some_and(|p| p.key == key) {
            self.current.remove(pid)
        } else {
            self.unpark(key)
        };
        let Some(process) = process else {
            return;
        };
        if process.held.is_some() {
            self.holds -= 1;
        }
        let Some(dying) = process.dying else {
            return;
        };
        if process.awaits_first_report() {
            return;
        }
        if process.leaves_ghost() {
            let told = match process.found_at {
                Some(_) => cx.sink.recipients(key),
                None => Recipients::default(),
            };
            self.haunt(Ghost::of(&process, told));
        }
        let status = status
            .or_else(|| process.agreed_status())
            .or_else(|| match process.held.as_ref()?.state() {
                Ok(HeldState::Zombie(status) | HeldState::Reaped(status)) => {
                    Some(status).filter(|status| *status != Status::Pending)
                }
                _ => None,
            })
            .unwrap_or_else(|| Status::Unknown(process.why_unknown(&dying)));
        let mut event = Event::new(dying.death.time, Some(key), EventKind::Exit(status));
        event.parent = process.parent;
        event.inferred = dying.death.inferred;
        self.counts.deaths += u64::from(event.inferred);
        if process.told_to_host {
            cx.sink.event_by_name(&event);
        } else {
            let mut hint = process.hint;
            cx.sink.event_of(&event, &mut hint);
        }
        let mut exit = Exit::new(key, status, dying.death.time);
        exit.inferred = dying.death.inferred;
        cx.sink.ended(&exit);
    }

    pub(super) fn unpark(&mut self, key: ProcessKey) -> Option<Process> {
        let parked = self.parked.get_mut(&key.pid())?;
        let at = parked.iter().position(|process| process.key == key)?;
        let process = parked.remove(at);
        if parked.is_empty() {
            self.parked.remove(&key.pid());
        }
        Some(process)
    }

    /// Whether the exit report was that of a former owner of the pid. The oldest
    /// one that it can belong to gets it, because it was reaped first.
    pub(super) fn parked_task_exited(
        &mut self,
        pid: Pid,
        tid: Tid,
        code: i32,
        parent: Option<Pid>,
        time: Timestamp,
        cx: &mut Cx<'_, impl Sink>,
    ) -> bool {
        let Some(parked) = self.parked.get_mut(&pid) else {
            return false;
        };
        let mut owners = parked.iter_mut();
        let Some(process) = owners.find(|p| p.may_have_told(tid, parent, time)) else {
            // The next owner's end: those of before it come first, and theirs were lost.
            let is_lost = |p: &&Process| tid.is_leader_of(pid) && p.threads.lost;
            let lost: Vec<_> = parked.iter().filter(is_lost).map(|p| p.key).collect();
            for key in lost {
                self.settle(key, None, cx);
            }
            return false;
        };
        process.task_exited(tid, code, parent, time);
        process.died_at(time);
        let key = process.key;
        let ends = process.ends_with(tid);
        if !tid.is_leader_of(pid) {
            let status = ExitStatus::from_raw(code);
            let kind = EventKind::ThreadExit { tid, status };
            cx.sink.event(&Event::new(time, Some(key), kind));
        }
        if ends {
            self.settle_from_reports(key, cx);
        }
        true
    }

    /// Whether the exit report was that of a process whose exit was told already.
    pub(super) fn ghost_task_exited(&mut self, pid: Pid, tid: Tid) -> bool {
        let replaced = self.current.contains(pid);
        let Some(ghosts) = self.ghosts.get_mut(&pid) else {
            return false;
        };
        let Some(at) = ghosts.iter().position(|it| it.expects(tid, replaced)) else {
            return false;
        };
        if ghosts[at].task_exited(tid) {
            ghosts.remove(at);
            if ghosts.is_empty() {
                self.ghosts.remove(&pid);
            }
        }
        true
    }

    /// The latest ghost of a pid that is meant, which is none any more.
    pub(super) fn take_ghost(
        &mut self,
        pid: Pid,
        is_meant: impl Fn(&Ghost) -> bool,
    ) -> Option<Ghost> {
        let ghosts = self.ghosts.get_mut(&pid)?;
        let ghost = ghosts.remove(ghosts.iter().rposition(is_meant)?);
        if ghosts.is_empty() {
            self.ghosts.remove(&pid);
        }
        Some(ghost)
    }

    pub(super) fn haunt(&mut self, ghost: Ghost) {
        let ghosts = self.ghosts.entry(ghost.key.pid()).or_default();
        ghosts.push(ghost);
    }

    /// Has what is left of a process go after one more grace.
    pub(super) fn lay_later(&mut self, key: ProcessKey, now: Now) {
        let deadline = now.elapsed.saturating_add(self.config.status_grace);
        self.deadlines.push_back((deadline, key));
    }

    pub(super) fn lay_ghost(&mut self, key: ProcessKey) {
        if let Some(ghosts) = self.ghosts.get_mut(&key.pid()) {
            ghosts.retain(|ghost| ghost.key != key);
            if ghosts.is_empty() {
                self.ghosts.remove(&key.pid());
            }
        }
    }
}
