//! Births that were lost, and found by a look at the system.

use kmonitor_event::{Event, EventKind, Pid, Timestamp};
use kmonitor_source::{HeldState, ProcessEntry, ProcessProbe};

use super::process::{Death, Dying, Process};
use super::{Concluded, Cx, Doubt, Sink, Tracker};

impl Tracker {
    /// A look after a loss has found a process alive that may have been born within
    /// it, its parent having been named before it. If its birth was told to nobody, it
    /// is told now, as far as anybody wants to know. `since`: all that was reported up
    /// to then is known. False where the whole host wants to know, and nobody is known who
    /// could be named as the parent.
    pub(crate) fn found_alive(
        &mut self,
        entry: &ProcessEntry,
        since: Timestamp,
        cx: &mut Cx<'_, impl Sink>,
    ) -> bool {
        let pid = entry.pid;
        let mut known = None;
        if let Some(process) = self.current.get(pid) {
            if process.dying.is_some() || was_replaced(process, entry, cx.probe) {
                self.died_unseen(pid, cx);
            } else if process.birth_told || process.found_at.is_some_and(|at| at <= since) {
                return true;
            } else {
                known = Some(process.key);
            }
        }
        let parent = entry.parent.and_then(|parent| self.key_of(parent));
        let key = known.unwrap_or_else(|| self.new_key(pid));
        let inherited = parent.is_some_and(|parent| cx.sink.inherit(parent, key));
        if !inherited && !self.host {
            return true;
        }
        if known.is_none() {
            let mut process = Process::found(key, cx.probe.identify(pid).ok());
            process.parent = entry.parent;
            self.enter(process);
        }
        if let Some(process) = self.current.get_mut(pid) {
            process.birth_told = true;
            process.birth_inferred = true;
            process.found_at = Some(cx.now.stamp);
        }
        // Its threads are to be found, and whether it has died since.
        self.recheck.push((key, Doubt::Loss));
        let Some(parent) = parent else {
            return entry.parent.is_none();
        };
        self.counts.births += 1;
        let kind = EventKind::Fork { child: key };
        let mut event = Event::new(cx.now.stamp, Some(parent), kind);
        event.inferred = true;
        cx.sink.event(&event);
        true
    }

    /// A look after a loss has found a zombie that may have been born within it. It may
    /// have been told, and is told no more; but it must not pass for an owner of its pid
    /// who is known.
    pub(crate) fn found_dead(&mut self, entry: &ProcessEntry, cx: &mut Cx<'_, impl Sink>) {
        let known = self.current.get(entry.pid).filter(|it| it.dying.is_none());
        if known.is_some_and(|process| was_replaced(process, entry, cx.probe)) {
            self.died_unseen(entry.pid, cx);
        }
    }

    /// Whoever has this pid now is another than the one that is known, which died
    /// within a loss. No later report must be taken for its own.
    fn died_unseen(&mut self, pid: Pid, cx: &mut Cx<'_, impl Sink>) {
        let Some(process) = self.current.get_mut(pid) else {
            return;
        };
        let key = process.key;
        if process.unbind_if_unproven() {
            self.holds -= 1;
        }
        let death = Death {
            time: process.dying.map_or(cx.now.stamp, |dying| dying.death.time),
            inferred: true,
            reaped: true,
        };
        let deadline = cx.now.elapsed;
        process.dying = Some(Dying { death, deadline });
        process.threads.complete = false;
        let status = match process.held.as_ref().map(|held| held.state()) {
            Some(Ok(HeldState::Reaped(status))) => Some(status),
            _ => None,
        };
        self.settle(key, status, cx);
        self.lay_later(key, cx.now);
    }

    /// Whether nothing but its pid says who a process is.
    pub(super) fn is_by_pid(&self, pid: Pid) -> bool {
        let process = self.current.get(pid);
        process.is_some_and(|process| !process.is_identified())
    }

    /// Notes who has a pid now, unproven.
    pub(super) fn bind(&mut self, pid: Pid, probe: &dyn ProcessProbe) {
        if let Some(process) = self.current.get_mut(pid)
            && process.bound_at.is_none()
        {
            process.identity = probe.identify(pid).ok();
            process.bound_at = Some(probe.now());
        }
    }

    /// All births are read that were reported when zombies were found: those who still
    /// have their pids are them. Whether there are any.
    pub(crate) fn look_at_zombies(&mut self) -> bool {
        let zombies = self.zombies.drain(..);
        self.recheck.extend(zombies.map(|key| (key, Doubt::Zombie)));
        !self.recheck.is_empty()
    }

    /// What was sent after the last loss has been read.
    pub(crate) fn caught_up(&mut self) {
        self.behind = false;
    }

    /// Whether all deaths that were concluded have their status.
    pub(crate) fn has_settled_concluded(&mut self) -> bool {
        while let Some(key) = self.concluded.last() {
            if self
                .find(*key)
                .is_some_and(|process| process.dying.is_some())
            {
                return false;
            }
            self.concluded.pop();
        }
        true
    }

    /// Whether there are processes that could not be looked at.
    pub(crate) fn has_unseen(&self) -> bool {
        !self.retry.is_empty()
    }

    /// Whether the host was not told of somebody's birth since this was last asked.
    pub(crate) fn take_birth_untold(&mut self) -> bool {
        std::mem::take(&mut self.birth_untold)
    }

    /// What was concluded so far.
    pub(crate) fn concluded(&self) -> Concluded {
        self.counts
    }
}

/// Whether a pid has another owner than the one that is known.
fn was_replaced(process: &Process, entry: &ProcessEntry, probe: &dyn ProcessProbe) -> bool {
    let another = |found| Some(found) != process.identity;
    entry
        .started
        .is_some_and(|born| process.is_older_than(born))
        || process.is_identified() && probe.identify(entry.pid).is_ok_and(another)
}
