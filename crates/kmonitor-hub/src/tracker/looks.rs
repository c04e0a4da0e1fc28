//! Looking at processes: at one that is taken up, and at those that a loss or a late
//! start left in doubt.

use std::time::Duration;

use kmonitor_event::{Pid, ProcessKey};
use kmonitor_source::{HeldState, ProbeError, ProcessProbe, ProcessState};

use super::process::Process;
use super::{Cx, Now, Sink, Tracker};

/// After how long a look that failed is taken again.
const RECHECK_RETRY: Duration = Duration::from_millis(100);

/// Why a process must be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Reports about it may have been lost.
    Loss,
    /// After a loss its pid was found to be a zombie's.
    Zombie,
    /// It was there before we listened.
    NewToUs,
    /// It could not be looked at when its exit was reported.
    NotSeen,
}

impl Tracker {
    /// Has [`recheck`](Self::recheck) look at those who could not be looked at, too.
    /// Whether the end of anybody may be untold.
    pub(crate) fn look_again(&mut self) -> bool {
        self.retry_at = None;
        self.recheck.append(&mut self.retry);
        // Of who was there before us nobody waits for the end.
        let mut doubts = self.recheck.iter();
        doubts.any(|(_, doubt)| *doubt != Doubt::NewToUs)
    }

    /// Whether [`recheck`](Self::recheck) has something to do.
    pub(crate) fn needs_recheck(&self) -> bool {
        !self.recheck.is_empty()
    }

    /// Looks at some of the processes that a loss or a late start left in doubt. Before
    /// the births within a loss are known (`looked`) nobody is looked at who is known
    /// by nothing but a pid, which may be another's by now.
    pub(crate) fn recheck(&mut self, slice: usize, looked: bool, cx: &mut Cx<'_, impl Sink>) {
        if looked {
            self.recheck.append(&mut self.unproven);
        }
        for _ in 0..slice {
            let Some((key, doubt)) = self.recheck.pop() else {
                return;
            };
            let pid = key.pid();
            let by_pid = |p: &Process| p.key == key && p.identity.is_none();
            if !looked && self.current.get(pid).is_some_and(by_pid) {
                self.unproven.push((key, doubt));
                continue;
            }
            let in_doubt = |p: &Process| {
                p.key == key
                    && p.dying.is_none()
                    && (!p.threads.complete || doubt == Doubt::NotSeen)
            };
            if !self.current.get(pid).is_some_and(in_doubt) {
                continue;
            }
            match self.reseed(pid, cx.probe) {
                Ok(ProcessState::Alive) => {
                    let told_out = self.current.get(pid).is_some_and(Process::is_told_out);
                    self.look_at_the_traced_later(key, told_out, cx.now);
                }
                // Out of descriptors, say: its exit report may be lost already.
                Err(ProbeError::Io { .. }) => {
                    self.look_later(key, doubt, cx.now);
                }
                // Not allowed to look: its own exit report must do.
                Err(_) => {}
                Ok(ProcessState::Zombie(_)) if doubt == Doubt::Loss && self.is_by_pid(pid) => {
                    self.bind(pid, cx.probe);
                    self.zombies.push(key);
                }
                Ok(state) => match doubt {
                    Doubt::Loss | Doubt::Zombie => self.bury(pid, state, cx.now.stamp, true, cx),
                    Doubt::NotSeen => self.bury(pid, state, cx.now.stamp, false, cx),
                    Doubt::NewToUs if state == ProcessState::Gone => self.await_report(pid, cx),
                    // Dead before we listened, or its report is still to be read.
                    Doubt::NewToUs => self.remove_current(pid),
                },
            }
        }
    }

    /// Whether a tracked process is dead, and nothing has said so.
    pub(crate) fn is_dead(&self, key: ProcessKey, probe: &dyn ProcessProbe) -> bool {
        let process = self.current.get(key.pid()).filter(|it| it.key == key);
        process.is_some_and(|process| is_dead_untold(process, probe))
    }

    /// Who of so many processes, from a place in the table on, is dead and nothing has said
    /// so; and where to go on.
    pub(crate) fn dead_among(
        &self,
        from: usize,
        count: usize,
        probe: &dyn ProcessProbe,
    ) -> (Vec<ProcessKey>, usize) {
        let processes = self.current.values().skip(from).take(count);
        let dead = processes.filter(|process| is_dead_untold(process, probe));
        let next = from.saturating_add(count);
        let next = if next < self.current.len() { next } else { 0 };
        (dead.map(|process| process.key).collect(), next)
    }

    /// All reports of it have come, and it is not dead: where a thread is traced it is not
    /// until its tracer has waited for that thread, of which nobody tells.
    pub(super) fn look_at_the_traced_later(&mut self, key: ProcessKey, told_out: bool, now: Now) {
        let process = self.current.get(key.pid()).filter(|it| it.key == key);
        if told_out && process.is_some_and(|it| it.dying.is_none() && it.threads.had_others) {
            self.look_later(key, Doubt::NotSeen, now);
        }
    }

    pub(super) fn look_later(&mut self, key: ProcessKey, doubt: Doubt, now: Now) {
        self.retry.push((key, doubt));
        let at = now.elapsed.saturating_add(RECHECK_RETRY);
        self.retry_at.get_or_insert(at);
    }

    /// Holds a process, as long as the budget lasts. Without a hold its status
    /// may end up unknown where its threads end differently; nothing else.
    pub(super) fn hold(&mut self, pid: Pid, probe: &dyn ProcessProbe) {
        let Some(process) = self.current.get_mut(pid) else {
            return;
        };
        if process.held.is_some() {
            return;
        }
        let known = process.identity.is_some();
        if self.holds < self.config.holds_max
            && let Ok(Some(held)) = probe.hold(pid, process.identity)
        {
            process.identity = Some(held.identity());
            process.held = Some(held);
            self.holds += 1;
        }
        if process.identity.is_none() {
            // At least tell it from whoever has the pid when it comes to ask.
            process.identity = probe.identify(pid).ok();
        }
        if !known {
            process.bound_at = Some(probe.now());
        }
    }

    /// Asks how a process is, and if it lives, which threads it has.
    pub(super) fn reseed(
        &mut self,
        pid: Pid,
        probe: &dyn ProcessProbe,
    ) -> Result<ProcessState, ProbeError> {
        let Some(process) = self.current.get_mut(pid) else {
            return Ok(ProcessState::Gone);
        };
        process.only_listed = false;
        if process.seeded && process.identity.is_none() {
            process.identity = probe.identify(pid).ok();
            process.key = process
                .key
                .with_inode(process.identity.and_then(|i| i.inode()));
            // A look runs ahead of the reports: it may have met a later owner.
            process.bound_at = Some(probe.now());
        }
        // The threads first and the state after: what was read belongs to this
        // process only if it still lives then.
        let began = probe.now();
        let threads = probe.threads(pid, &mut self.threads_scratch);
        let state = ask(process, probe)?;
        if state == ProcessState::Alive {
            process.told_to_host = false;
            // Hidden, perhaps: then each exit report is a hint to look again.
            if let Ok(listing) = threads {
                process.seed(&self.threads_scratch, listing, began, probe.now());
            }
        }
        Ok(state)
    }
}

fn is_dead_untold(process: &Process, probe: &dyn ProcessProbe) -> bool {
    process.dying.is_none()
        && matches!(
            ask(process, probe),
            Ok(ProcessState::Zombie(_) | ProcessState::Gone)
        )
}

/// Asks how a process is: its hold if there is one, else whoever has its pid.
pub(super) fn ask(process: &Process, probe: &dyn ProcessProbe) -> Result<ProcessState, ProbeError> {
    match &process.held {
        Some(held) => Ok(match held.state()? {
            HeldState::Alive => ProcessState::Alive,
            HeldState::Zombie(status) => ProcessState::Zombie(status),
            HeldState::Reaped(_) => ProcessState::Gone,
        }),
        None => match probe.state(process.key.pid(), process.identity) {
            // It was a process: the number has been used again.
            Err(ProbeError::Thread { .. }) => Ok(ProcessState::Gone),
            state => state,
        },
    }
}
