//! What each fact means for the process it is about.

use kmonitor_event::{Event, EventKind, LossOrigin, Lost, Pid, ProcessKey, Timestamp};
use kmonitor_source::{Fact, FactKind, HeldState, ProcessState};
use rustc_hash::FxHashSet;

use super::ghost::Ghost;
use super::looks::{Doubt, ask};
use super::process::{Death, Dying, Process};
use super::{Cx, Hint, Sink, Tracker};

impl Tracker {
    /// Whether a fact may be about a process in the table.
    fn may_concern(&self, kind: &FactKind) -> bool {
        match kind {
            FactKind::Forked { parent, child } => {
                parent.is_some_and(|parent| self.pids.may_contain(parent))
                    || self.pids.may_contain(*child)
            }
            _ => kind.process().is_none_or(|pid| self.pids.may_contain(pid)),
        }
    }

    /// Touches what tells whether these are tracked.
    pub(crate) fn warm_pids(&self, pids: &[Pid]) {
        self.pids.warm(pids);
    }

    /// Where a process lies in the table.
    pub(crate) fn place(&self, pid: Pid) -> Option<u32> {
        let tracked = self.host || self.pids.may_contain(pid);
        tracked.then(|| self.current.place(pid)).flatten()
    }

    /// Where the sink may find who wants to know of the process that lies there.
    pub(crate) fn hint(&self, place: u32) -> Option<Hint> {
        self.current.at(place).map(|process| process.hint)
    }

    /// Takes in one fact.
    pub(crate) fn fact(&mut self, fact: &Fact, cx: &mut Cx<'_, impl Sink>) {
        if !self.host && !self.may_concern(&fact.kind) {
            return;
        }
        let time = fact.time;
        match fact.kind {
            FactKind::TaskExited {
                process,
                tid,
                code,
                parent,
            } => self.task_exited(process, tid, code, parent, time, cx),
            FactKind::Forked { parent, child } => self.forked(parent, child, time, cx),
            FactKind::ThreadCreated { process, tid } => {
                let Some(entry) = self.entry(process) else {
                    return;
                };
                let first = entry.threads.others.is_none();
                if !entry.outdates(time) {
                    entry.thread_created(tid);
                }
                let key = entry.key;
                if first {
                    // Only a process with threads can end ambiguously.
                    self.hold(process, cx.probe);
                }
                cx.sink.event(&Event::new(
                    time,
                    Some(key),
                    EventKind::ThreadCreate { tid },
                ));
            }
            FactKind::Execed { process } => {
                if let Some(entry) = self.entry(process) {
                    entry.execed_at(time);
                    let mut event = Event::new(time, Some(entry.key), EventKind::Exec);
                    event.parent = entry.parent;
                    cx.sink.event_of(&event, &mut entry.hint);
                }
            }
            FactKind::GroupDead {
                process,
                key,
                status,
            } => self.group_dead(process, key, status, time, cx),
            FactKind::Reaped {
                process,
                key,
                status,
            } => self.reaped(process, key, status, time, cx),
            FactKind::Uid {
                process,
                tid,
                real,
                effective,
            } => self.plain(
                process,
                time,
                EventKind::Uid {
                    tid,
                    real,
                    effective,
                },
                cx,
            ),
            FactKind::Gid {
                process,
                tid,
                real,
                effective,
            } => self.plain(
                process,
                time,
                EventKind::Gid {
                    tid,
                    real,
                    effective,
                },
                cx,
            ),
            FactKind::Sid { process } => self.plain(process, time, EventKind::Sid, cx),
            FactKind::Ptrace {
                process,
                tid,
                tracer,
            } => self.plain(process, time, EventKind::Ptrace { tid, tracer }, cx),
            FactKind::Comm { process, tid, comm } => {
                self.plain(process, time, EventKind::Comm { tid, comm }, cx);
            }
            FactKind::Coredump { process, tid, .. } => {
                self.plain(process, time, EventKind::Coredump { tid }, cx);
            }
            FactKind::Lost { count } => self.lost(count, time, cx),
            FactKind::Other { what, process } => {
                let kind = EventKind::Other { what };
                match process {
                    Some(process) => self.plain(process, time, kind, cx),
                    None if self.host => cx.sink.event(&Event::new(time, None, kind)),
                    None => {}
                }
            }
            // The source's vocabulary may grow; what we have no rule for changes
            // no process's state.
            _ => {}
        }
    }

    pub(super) fn plain(
        &mut self,
        pid: Pid,
        time: Timestamp,
        kind: EventKind,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        if let Some(entry) = self.entry(pid) {
            let event = Event::new(time, Some(entry.key), kind);
            cx.sink.event_of(&event, &mut entry.hint);
        }
    }

    pub(super) fn forked(
        &mut self,
        parent: Option<Pid>,
        child: Pid,
        time: Timestamp,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        let parent_key = match parent {
            Some(parent) => self.entry(parent).map(|entry| entry.key),
            None => None,
        };
        // Of a parent whose end was told by a look that was ahead of this, nothing more
        // is told.
        self.birth_untold |= self.host && parent_key.is_none();
        // Who was found by looking before this was read: this is its birth, or that of
        // an owner of the pid before it.
        let told_late = |found_at: Option<Timestamp>| found_at.is_some_and(|at| time <= at);
        self.born_after_parked(child, time);
        if !self.current.contains(child)
            && let Some(ghost) = self.take_ghost(child, |ghost| told_late(ghost.found_at))
        {
            self.born_after_its_end(ghost, parent, parent_key, time, cx);
            return;
        }
        let mut known = None;
        let mut told = false;
        if let Some(old) = self.current.get_mut(child) {
            // Found by looking before the report of its birth was read? Then this
            // is that report, or that of an owner of the pid before it. Only an
            // identity can tell; who has none yet has no story to be mixed up.
            let same = old.dying.is_none()
                && (old.only_listed
                    || old.is_identified()
                        && !matches!(ask(old, cx.probe), Ok(ProcessState::Gone)));
            // Dead by now, perhaps, but its end is still to be told: also to those who
            // learn of it only here.
            if same || told_late(old.found_at) {
                let key = old.key;
                let born_before = old.born_at.is_some();
                old.reborn(parent);
                old.born_at = Some(time);
                known = Some(key);
                told = old.birth_inferred;
                cx.sink.disown(parent_key, key);
                if born_before {
                    // Two owners in one: see ARCHITECTURE.md, "Known to fall short".
                    let fork = Event::new(time, parent_key, EventKind::Fork { child: key });
                    let told = cx.sink.recipients(key);
                    cx.sink.inherit_late(&fork, &told);
                    return;
                }
            } else {
                self.supersede(child, Some(time), cx);
            }
        }
        let key = known.unwrap_or_else(|| self.new_key(child));
        let inherited = parent_key.is_some_and(|parent| cx.sink.inherit(parent, key));
        if known.is_none() && (self.host || inherited) {
            let mut process = Process::born(key, parent);
            process.born_at = Some(time);
            self.enter(process);
        }
        if let Some(parent_key) = parent_key.filter(|_| !told) {
            let kind = EventKind::Fork { child: key };
            cx.sink.event(&Event::new(time, Some(parent_key), kind));
        }
    }

    /// A birth, seen from the pid's former owners: they had been reaped before. Who was
    /// listed after it, and is gone, is no former owner but whoever is born here.
    fn born_after_parked(&mut self, pid: Pid, time: Timestamp) {
        let Some(parked) = self.parked.get_mut(&pid) else {
            return;
        };
        let is_older = |process: &Process| process.found_at.is_none_or(|at| at < time);
        parked.retain(|process| is_older(process) || !process.awaits_first_report());
        for process in parked.iter_mut().filter(|process| is_older(process)) {
            process.replaced_at.get_or_insert(time);
        }
        if parked.is_empty() {
            self.parked.remove(&pid);
        }
    }

    /// The birth of one whose end was told to those who had found it by looking. All
    /// others who follow its parent learn of it from here on.
    fn born_after_its_end(
        &mut self,
        ghost: Ghost,
        parent: Option<Pid>,
        parent_key: Option<ProcessKey>,
        time: Timestamp,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        let kind = EventKind::Fork { child: ghost.key };
        let event = Event::new(time, parent_key, kind);
        if ghost.birth_inferred || !cx.sink.inherit_late(&event, &ghost.told) {
            self.haunt(ghost);
            return;
        }
        let mut process = Process::born(ghost.key, parent);
        process.born_at = Some(time);
        process.found_at = ghost.found_at;
        process.told_to_host = true;
        self.enter(process);
    }

    /// It was listed and is gone: its report is still to be read, and perhaps after
    /// the birth of a new owner; or it was a zombie, and none will come.
    pub(super) fn await_report(&mut self, pid: Pid, cx: &mut Cx<'_, impl Sink>) {
        let Some(mut process) = self.current.remove(pid) else {
            return;
        };
        let deadline = cx.now.elapsed.saturating_add(self.config.status_grace);
        process.only_if_told = true;
        process.found_at = Some(self.listed_at);
        process.dying = Some(Dying {
            death: Death {
                time: cx.now.stamp,
                inferred: false,
                reaped: true,
            },
            deadline,
        });
        self.deadlines.push_back((deadline, process.key));
        self.parked.entry(pid).or_default().push(process);
    }

    /// A pid has a new owner, so the old one is dead, and its last exit report
    /// may still be on its way.
    pub(super) fn supersede(
        &mut self,
        pid: Pid,
        next_born: Option<Timestamp>,
        cx: &mut Cx<'_, impl Sink>,
    ) {
        let Some(mut process) = self.current.remove(pid) else {
            return;
        };
        let key = process.key;
        process.replaced_at = next_born;
        if process.unbind_if_unproven() {
            self.holds -= 1;
        }
        if let Some(codes) = process.take_last_words(next_born) {
            process.tell_out(codes);
        }
        if let Some(dying) = &mut process.dying {
            dying.death.reaped = true;
        } else {
            process.dying = Some(Dying {
                death: Death {
                    time: cx.now.stamp,
                    inferred: false,
                    reaped: true,
                },
                deadline: cx.now.elapsed.saturating_add(self.config.status_grace),
            });
            let deadline = cx.now.elapsed.saturating_add(self.config.status_grace);
            self.deadlines.push_back((deadline, key));
        }
        let held = process.held.as_ref().map(|held| held.state());
        let told_out = process.is_told_out();
        self.parked.entry(pid).or_default().push(process);
        match held {
            Some(Ok(HeldState::Reaped(status))) => self.settle(key, Some(status), cx),
            _ if told_out => self.settle(key, None, cx),
            _ => {}
        }
    }

    pub(super) fn lost(&mut self, count: Option<u64>, time: Timestamp, cx: &mut Cx<'_, impl Sink>) {
        cx.sink.lost(Lost::new(LossOrigin::Kernel, count), time);
        self.behind = true;
        let mut parked = Vec::new();
        for process in self.parked.values_mut().flatten() {
            if let Some(dying) = &mut process.dying {
                dying.death.inferred = true;
            }
            parked.push(process.key);
        }
        for key in parked {
            self.settle(key, None, cx);
        }
        // Reports that were due may be among the missing, or come yet; also of those who
        // were settled just now.
        self.ghosts.values_mut().flatten().for_each(Ghost::doubt);
        // Those that wait already come first (at the end), or losses that follow
        // each other would keep the same ones from ever being looked at.
        let mut waiting = std::mem::take(&mut self.recheck);
        waiting.append(&mut self.unproven);
        waiting.extend(self.zombies.drain(..).map(|key| (key, Doubt::Loss)));
        waiting.append(&mut self.retry);
        self.retry_at = None;
        let known: FxHashSet<_> = waiting.iter().map(|(key, _)| *key).collect();
        for process in self.current.values_mut() {
            process.threads.complete = false;
            process.threads.lost = true;
            // Births of threads may be among what was lost.
            process.threads.had_others = true;
            if process.dying.is_none() && !known.contains(&process.key) {
                self.recheck.push((process.key, Doubt::Loss));
            }
        }
        let waiting = waiting.into_iter().map(|(key, _)| (key, Doubt::Loss));
        self.recheck.extend(waiting);
    }
}
