//! Turns facts about tasks into events of processes.
//!
//! Sans-IO: it has no clock and makes no system call. Time comes as an argument,
//! questions go to the [`ProcessProbe`] it is handed, results to a [`Sink`].
//! How a death is decided is told in ARCHITECTURE.md, "How death is decided".

mod process;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use kmonitor_event::{
    Event, EventKind, Exit, LossOrigin, Lost, Pid, ProcessKey, Status, StatusSource, Tid, Timestamp,
};
use kmonitor_source::{
    Fact, FactKind, HeldState, Identity, ProbeError, ProcessEntry, ProcessProbe, ProcessState,
    ThreadState,
};
use rustc_hash::FxHashMap;

use self::process::{Codes, Dying, Ghost, Process};

/// Who learns what the tracker concludes.
pub(crate) trait Sink {
    /// A tracked process created another. Whether the child is to be tracked.
    fn inherit(&mut self, parent: ProcessKey, child: ProcessKey) -> bool;
    /// Something happened to a tracked process.
    fn event(&mut self, event: &Event);
    /// A tracked process is dead; its status is not settled yet.
    fn dead(&mut self, exit: &Exit);
    /// A tracked process ended for good: comes right after its `Exit` event.
    fn ended(&mut self, exit: &Exit);
    /// A process that is dead but not reaped has a status that only its reaping
    /// will tell.
    fn await_reaping(&mut self, key: ProcessKey, identity: Identity);
    /// Events are missing here.
    fn lost(&mut self, lost: Lost, time: Timestamp);
}

/// Both of the hub's clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Since the hub began, on the clock that its timers use.
    pub(crate) elapsed: Duration,
    /// As events are stamped.
    pub(crate) stamp: Timestamp,
}

/// Limits and delays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrackerConfig {
    /// How long a death waits for its status.
    pub(crate) status_grace: Duration,
    /// How many processes may be held at once.
    pub(crate) holds_max: usize,
}

/// Why a process must be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Reports about it may have been lost.
    Loss,
    /// It was there before we listened.
    NewToUs,
}

/// The table of processes and the rules of their deaths.
pub(crate) struct Tracker {
    config: TrackerConfig,
    /// The present owner of each pid that matters. Bounded by `pid_max`.
    current: FxHashMap<Pid, Process>,
    /// Former owners whose last reports are still due. Each leaves at its
    /// deadline at the latest.
    parked: FxHashMap<Pid, Vec<Process>>,
    /// Exits that were told before all reports of them had come: those must not
    /// be taken for a later owner's. Each leaves at its deadline at the latest.
    ghosts: FxHashMap<Pid, Vec<Ghost>>,
    /// Deadlines of deaths without a status, in order, because the grace is one
    /// and the same for all. May name deaths that are settled by now.
    deadlines: VecDeque<(Duration, ProcessKey)>,
    /// Processes to look at.
    recheck: Vec<(ProcessKey, Doubt)>,
    next_incarnation: u64,
    /// Whether every process of the host is tracked.
    host: bool,
    holds: usize,
    threads_scratch: Vec<ThreadState>,
}

impl Tracker {
    pub(crate) fn new(config: TrackerConfig) -> Self {
        Self {
            config,
            current: FxHashMap::default(),
            parked: FxHashMap::default(),
            ghosts: FxHashMap::default(),
            deadlines: VecDeque::new(),
            recheck: Vec::new(),
            next_incarnation: 1,
            host: false,
            holds: 0,
            threads_scratch: Vec::new(),
        }
    }

    /// Whether every process of the host is tracked from now on.
    pub(crate) fn set_host(&mut self, host: bool) {
        self.host = host;
    }

    /// How many processes are tracked.
    pub(crate) fn len(&self) -> usize {
        self.current.len() + self.parked.values().map(Vec::len).sum::<usize>()
    }

    /// How many processes are held (by a descriptor each).
    pub(crate) fn holds(&self) -> usize {
        self.holds
    }

    /// The key of the process that has this pid, if it is tracked and lives.
    pub(crate) fn key_of(&self, pid: Pid) -> Option<ProcessKey> {
        let process = self.current.get(&pid)?;
        process.dying.is_none().then_some(process.key)
    }

    /// The identity of a tracked process, where it was ever needed.
    pub(crate) fn identity_of(&self, key: ProcessKey) -> Option<Identity> {
        self.current
            .get(&key.pid())
            .filter(|process| process.key == key)
            .and_then(|process| process.identity)
    }

    /// A key for a process that [`adopt`](Self::adopt) will be told of.
    pub(crate) fn reserve(&mut self, pid: Pid, identity: Identity) -> ProcessKey {
        if let Some(process) = self.current.get_mut(&pid)
            && process.identity.is_none_or(|own| own == identity)
        {
            process.identity = Some(identity);
            process.key = process.key.with_inode(identity.inode());
            return process.key;
        }
        self.new_key(pid).with_inode(identity.inode())
    }

    /// Tracks a process that exists already, from the moment of this call: the
    /// source must have been made to report on it before. One that is found dead
    /// is told to the sink like any other death.
    ///
    /// # Errors
    /// It is gone, or may not be looked at.
    pub(crate) fn adopt(
        &mut self,
        key: ProcessKey,
        identity: Identity,
        now: Now,
        probe: &dyn ProcessProbe,
        sink: &mut impl Sink,
    ) -> Result<(), ProbeError> {
        let pid = key.pid();
        match self.current.get(&pid) {
            Some(process) if process.key == key => {
                if let Some(dying) = process.dying {
                    sink.dead(&dying.exit(key));
                    return Ok(());
                }
                if process.complete {
                    self.hold(pid, probe);
                    return Ok(());
                }
            }
            other => {
                if other.is_some() {
                    self.supersede(pid, now, sink);
                }
                self.current
                    .insert(pid, Process::found(key, Some(identity)));
            }
        }
        self.hold(pid, probe);
        match self.reseed(pid, probe) {
            Err(error) => {
                self.remove_current(pid);
                Err(error)
            }
            Ok(ProcessState::Alive) => Ok(()),
            Ok(state) => {
                self.bury(pid, state, now.stamp, false, now, sink);
                Ok(())
            }
        }
    }

    /// Stops tracking a process that nobody is interested in any more.
    pub(crate) fn forget(&mut self, key: ProcessKey) {
        if self.host {
            return;
        }
        if self.current.get(&key.pid()).is_some_and(|p| p.key == key) {
            self.remove_current(key.pid());
        }
        if let Some(parked) = self.parked.get_mut(&key.pid()) {
            parked.retain(|process| process.key != key);
            if parked.is_empty() {
                self.parked.remove(&key.pid());
            }
        }
    }

    /// Stops tracking all processes but those that `keep` wants.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(ProcessKey) -> bool) {
        self.current.retain(|_, process| keep(process.key));
        self.parked.retain(|_, parked| {
            parked.retain(|process| keep(process.key));
            !parked.is_empty()
        });
        let current = self.current.values();
        self.holds = current
            .chain(self.parked.values().flatten())
            .filter(|process| process.held.is_some())
            .count();
    }

    /// Takes in one fact.
    pub(crate) fn fact(
        &mut self,
        fact: &Fact,
        now: Now,
        probe: &dyn ProcessProbe,
        sink: &mut impl Sink,
    ) {
        let time = fact.time;
        match fact.kind {
            FactKind::TaskExited {
                process,
                tid,
                code,
                parent,
            } => self.task_exited(process, tid, code, parent, time, now, probe, sink),
            FactKind::Forked { parent, child } => {
                self.forked(parent, child, time, now, probe, sink)
            }
            FactKind::ThreadCreated { process, tid } => {
                let Some(entry) = self.entry(process) else {
                    return;
                };
                let first = !entry.had_threads;
                entry.thread_created(tid);
                let key = entry.key;
                if first {
                    // Only a process with threads can end ambiguously.
                    self.hold(process, probe);
                }
                sink.event(&Event::new(
                    time,
                    Some(key),
                    EventKind::ThreadCreate { tid },
                ));
            }
            FactKind::Execed { process } => {
                if let Some(entry) = self.entry(process) {
                    entry.execed();
                    let mut event = Event::new(time, Some(entry.key), EventKind::Exec);
                    event.parent = entry.parent;
                    sink.event(&event);
                }
            }
            FactKind::GroupDead {
                process,
                key,
                status,
            } => self.group_dead(process, key, status, time, now, probe, sink),
            FactKind::Reaped {
                process,
                key,
                status,
            } => self.reaped(process, key, status, time, now, sink),
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
                sink,
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
                sink,
            ),
            FactKind::Sid { process } => self.plain(process, time, EventKind::Sid, sink),
            FactKind::Ptrace {
                process,
                tid,
                tracer,
            } => self.plain(process, time, EventKind::Ptrace { tid, tracer }, sink),
            FactKind::Comm { process, tid, comm } => {
                self.plain(process, time, EventKind::Comm { tid, comm }, sink);
            }
            FactKind::Coredump { process, tid, .. } => {
                self.plain(process, time, EventKind::Coredump { tid }, sink);
            }
            FactKind::Lost { count } => self.lost(count, time, sink),
            FactKind::Other { what, process } => {
                let kind = EventKind::Other { what };
                match process {
                    Some(process) => self.plain(process, time, kind, sink),
                    None if self.host => sink.event(&Event::new(time, None, kind)),
                    None => {}
                }
            }
            // The source's vocabulary may grow; what we have no rule for changes
            // no process's state.
            _ => {}
        }
    }

    /// The status of a death that was waited for by its reaping.
    pub(crate) fn reaping_told(
        &mut self,
        key: ProcessKey,
        status: Status,
        now: Now,
        sink: &mut impl Sink,
    ) {
        self.reaped(key.pid(), Some(key), status, now.stamp, now, sink);
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Ends the waiting of all deaths whose time is up.
    pub(crate) fn expire(&mut self, now: Now, sink: &mut impl Sink) {
        while let Some((deadline, key)) = self.deadlines.front().copied() {
            if deadline > now.elapsed {
                return;
            }
            self.deadlines.pop_front();
            self.lay_ghost(key);
            if let Some(process) = self.find(key)
                && process.dying.is_some_and(|d| d.deadline <= now.elapsed)
            {
                self.settle(key, None, sink);
            }
        }
    }

    /// Whether [`recheck`](Self::recheck) has something to do.
    pub(crate) fn needs_recheck(&self) -> bool {
        !self.recheck.is_empty()
    }

    /// Tracks these processes too, from before the next look at them: with the
    /// whole host tracked, whoever has the pid is told from who comes after.
    pub(crate) fn expect(&mut self, processes: &[ProcessEntry]) {
        for entry in processes {
            if !self.current.contains_key(&entry.pid) {
                let key = self.new_key(entry.pid);
                let mut process = Process::found(key, None);
                process.parent = entry.parent;
                self.current.insert(entry.pid, process);
                self.recheck.push((key, Doubt::NewToUs));
            }
        }
    }

    /// Looks at some of the processes that a loss or a late start left in doubt.
    pub(crate) fn recheck(
        &mut self,
        slice: usize,
        now: Now,
        probe: &dyn ProcessProbe,
        sink: &mut impl Sink,
    ) {
        for _ in 0..slice {
            let Some((key, doubt)) = self.recheck.pop() else {
                return;
            };
            let pid = key.pid();
            let in_doubt = |p: &Process| p.key == key && p.dying.is_none() && !p.complete;
            if !self.current.get(&pid).is_some_and(in_doubt) {
                continue;
            }
            match self.reseed(pid, probe) {
                // Not allowed to look: its own exit report must do.
                Ok(ProcessState::Alive) | Err(_) => {}
                Ok(state) => match doubt {
                    Doubt::Loss => self.bury(pid, state, now.stamp, true, now, sink),
                    // Dead before we listened, or its report is still to be read.
                    Doubt::NewToUs => self.remove_current(pid),
                },
            }
        }
    }

    fn new_key(&mut self, pid: Pid) -> ProcessKey {
        let key = ProcessKey::new(pid, self.next_incarnation);
        self.next_incarnation += 1;
        key
    }

    /// The live entry of a pid; with the whole host tracked, made if need be.
    fn entry(&mut self, pid: Pid) -> Option<&mut Process> {
        if self.host && !self.current.contains_key(&pid) {
            let key = self.new_key(pid);
            self.current.insert(pid, Process::found(key, None));
        }
        self.current.get_mut(&pid)
    }

    fn find(&self, key: ProcessKey) -> Option<&Process> {
        let current = self.current.get(&key.pid()).filter(|p| p.key == key);
        current.or_else(|| {
            let parked = self.parked.get(&key.pid())?;
            parked.iter().find(|process| process.key == key)
        })
    }

    /// Holds a process, as long as the budget lasts. Without a hold its status
    /// may end up unknown where its threads end differently; nothing else.
    fn hold(&mut self, pid: Pid, probe: &dyn ProcessProbe) {
        let Some(process) = self.current.get_mut(&pid) else {
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
    fn reseed(&mut self, pid: Pid, probe: &dyn ProcessProbe) -> Result<ProcessState, ProbeError> {
        let Some(process) = self.current.get_mut(&pid) else {
            return Ok(ProcessState::Gone);
        };
        if process.seeded && process.identity.is_none() {
            process.identity = probe.identify(pid).ok();
            process.key = process
                .key
                .with_inode(process.identity.and_then(|i| i.inode()));
        }
        // The threads first and the state after: what was read belongs to this
        // process only if it still lives then.
        let threads = probe.threads(pid, &mut self.threads_scratch);
        let state = ask(process, probe)?;
        if state == ProcessState::Alive {
            match threads {
                Ok(()) => process.seed(&self.threads_scratch),
                Err(error) if !error.is_gone() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(state)
    }

    fn plain(&mut self, pid: Pid, time: Timestamp, kind: EventKind, sink: &mut impl Sink) {
        if let Some(entry) = self.entry(pid) {
            sink.event(&Event::new(time, Some(entry.key), kind));
        }
    }

    fn forked(
        &mut self,
        parent: Option<Pid>,
        child: Pid,
        time: Timestamp,
        now: Now,
        probe: &dyn ProcessProbe,
        sink: &mut impl Sink,
    ) {
        let parent_key = match parent {
            Some(parent) => self.entry(parent).map(|entry| entry.key),
            None => None,
        };
        let mut known = None;
        if let Some(old) = self.current.get_mut(&child) {
            // It was found by looking before the report of its birth was read?
            // Then this is that report. Only an identity can tell.
            let same = old.seeded
                && old.dying.is_none()
                && old.identity.is_some()
                && !matches!(ask(old, probe), Ok(ProcessState::Gone));
            if same {
                let identity = old.identity;
                let held = old.held.take();
                *old = Process::born(old.key, parent);
                old.identity = identity;
                old.held = held;
                known = Some(old.key);
            } else {
                self.supersede(child, now, sink);
            }
        }
        let key = known.unwrap_or_else(|| self.new_key(child));
        let inherited = parent_key.is_some_and(|parent| sink.inherit(parent, key));
        if known.is_none() && (self.host || inherited) {
            self.current.insert(child, Process::born(key, parent));
        }
        if let Some(parent_key) = parent_key {
            let kind = EventKind::Fork { child: key };
            sink.event(&Event::new(time, Some(parent_key), kind));
        }
    }

    /// A pid has a new owner, so the old one is dead, and its last exit report
    /// may still be on its way.
    fn supersede(&mut self, pid: Pid, now: Now, sink: &mut impl Sink) {
        let Some(mut process) = self.current.remove(&pid) else {
            return;
        };
        let key = process.key;
        if process.unbind_if_unproven() {
            self.holds -= 1;
        }
        if let Some(codes) = process.last_words {
            process.tell_out(codes);
        }
        if process.dying.is_none() {
            process.dying = Some(Dying {
                time: now.stamp,
                inferred: false,
                reaped: true,
                deadline: now.elapsed + self.config.status_grace,
            });
            self.deadlines
                .push_back((now.elapsed + self.config.status_grace, key));
        }
        let held = process.held.as_ref().map(|held| held.state());
        let told_out = process.is_told_out();
        self.parked.entry(pid).or_default().push(process);
        match held {
            Some(Ok(HeldState::Reaped(status))) => self.settle(key, Some(status), sink),
            _ if told_out => self.settle(key, None, sink),
            _ => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one fact")]
    fn task_exited(
        &mut self,
        pid: Pid,
        tid: Tid,
        code: i32,
        parent: Option<Pid>,
        time: Timestamp,
        now: Now,
        probe: &dyn ProcessProbe,
        sink: &mut impl Sink,
    ) {
        // Both are empty, nearly always.
        if !self.ghosts.is_empty() && self.ghost_task_exited(pid, tid)
            || !self.parked.is_empty() && self.parked_task_exited(pid, tid, code, sink)
        {
            return;
        }
        let host = self.host;
        let unheard_of = host && !self.current.contains_key(&pid);
        let Some(process) = self.entry(pid) else {
            return;
        };
        let key = process.key;
        process.parent = process.parent.or(parent);
        process.lived_at(time);
        let of_before_exec = process.task_exited(tid, code);
        let leader = tid.is_leader_of(pid);
        if !leader {
            let status = ExitStatus::from_raw(code);
            sink.event(&Event::new(
                time,
                Some(key),
                EventKind::ThreadExit { tid, status },
            ));
        }
        let told_out = process.is_told_out();
        if process.dying.is_some() {
            if told_out {
                self.settle_from_reports(key, sink);
            }
        } else if process.complete && !process.had_threads {
            // A report without a parent is of one who was reaped before it was
            // sent: this one, or an owner of the pid before it whom we did not
            // track, whose report came after this one's birth.
            let doubtful = parent.is_none() && leader && !host;
            if doubtful && matches!(probe.state(pid, None), Ok(ProcessState::Alive)) {
                process.lives_on_or_was_replaced();
            } else if leader {
                let status = Status::from_raw(code, StatusSource::Event);
                self.die(pid, time, false, false, Some(status), now, sink);
            }
        } else if told_out || of_before_exec || !process.complete {
            match self.look(pid, told_out, of_before_exec, probe) {
                Ok(ProcessState::Alive) => {}
                // A straggler of a process that was told, or never known.
                Ok(_) if unheard_of && !leader => self.remove_current(pid),
                Ok(state) => self.bury(pid, state, time, false, now, sink),
                // Nobody may look, so the reports must do: all that are known
                // of have come, or the leader's has and none is known to be due.
                Err(_) if leader || told_out => {
                    self.bury(pid, ProcessState::Gone, time, false, now, sink);
                }
                Err(_) => {}
            }
        }
    }

    /// Asks about a process after an exit report that does not decide by itself.
    fn look(
        &mut self,
        pid: Pid,
        told_out: bool,
        of_before_exec: bool,
        probe: &dyn ProcessProbe,
    ) -> Result<ProcessState, ProbeError> {
        let Some(process) = self.current.get_mut(&pid) else {
            return Ok(ProcessState::Gone);
        };
        if !told_out && !of_before_exec {
            return self.reseed(pid, probe);
        }
        if process.unbind_if_unproven() {
            self.holds -= 1;
        }
        if process.is_identified() {
            let codes = std::mem::replace(&mut process.codes, Codes::None);
            let state = self.reseed(pid, probe);
            if !matches!(state, Ok(ProcessState::Alive))
                && let Some(process) = self.current.get_mut(&pid)
            {
                process.codes = codes;
            }
            return state;
        }
        let state = ask(process, probe)?;
        if state == ProcessState::Alive {
            if told_out {
                process.lives_on_or_was_replaced();
            }
            return Ok(state);
        }
        // Whoever it is that has the pid, this one is dead; a status found there
        // may be another's.
        Ok(ProcessState::Gone)
    }

    /// Whether the exit report was that of a process whose exit was told already.
    fn ghost_task_exited(&mut self, pid: Pid, tid: Tid) -> bool {
        let replaced = self.current.contains_key(&pid);
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

    fn lay_ghost(&mut self, key: ProcessKey) {
        if let Some(ghosts) = self.ghosts.get_mut(&key.pid()) {
            ghosts.retain(|ghost| ghost.key != key);
            if ghosts.is_empty() {
                self.ghosts.remove(&key.pid());
            }
        }
    }

    /// Whether the exit report was that of a former owner of the pid. The oldest
    /// one that it can belong to gets it, because it was reaped first.
    fn parked_task_exited(&mut self, pid: Pid, tid: Tid, code: i32, sink: &mut impl Sink) -> bool {
        let Some(parked) = self.parked.get_mut(&pid) else {
            return false;
        };
        let mut parked = parked.iter_mut();
        let Some(process) = parked.find(|p| p.threads.contains(tid, pid)) else {
            return false;
        };
        process.task_exited(tid, code);
        let key = process.key;
        if process.is_told_out() {
            self.settle_from_reports(key, sink);
        }
        true
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one fact")]
    fn group_dead(
        &mut self,
        pid: Pid,
        key: Option<ProcessKey>,
        status: Status,
        time: Timestamp,
        now: Now,
        probe: &dyn ProcessProbe,
        sink: &mut impl Sink,
    ) {
        let Some(process) = self.entry(pid) else {
            return;
        };
        if process.dying.is_some() || key.is_some_and(|key| key != process.key) {
            return;
        }
        let state = match status {
            Status::Pending => match ask(process, probe) {
                Ok(state @ (ProcessState::Zombie(_) | ProcessState::Gone)) => state,
                Ok(ProcessState::Alive) | Err(_) => ProcessState::Zombie(Status::Pending),
            },
            settled => ProcessState::Zombie(settled),
        };
        self.bury(pid, state, time, false, now, sink);
    }

    fn reaped(
        &mut self,
        pid: Pid,
        key: Option<ProcessKey>,
        status: Status,
        time: Timestamp,
        now: Now,
        sink: &mut impl Sink,
    ) {
        let key = key.or_else(|| self.current.get(&pid).map(|process| process.key));
        let Some(process) = key.and_then(|key| self.find(key)) else {
            return;
        };
        let key = process.key;
        if process.dying.is_none() {
            self.die(pid, time, false, true, Some(status), now, sink);
        } else {
            self.settle(key, Some(status), sink);
        }
    }

    fn lost(&mut self, count: Option<u64>, time: Timestamp, sink: &mut impl Sink) {
        sink.lost(Lost::new(LossOrigin::Kernel, count), time);
        // Reports that were due may be among the missing.
        self.ghosts.clear();
        let mut parked = Vec::new();
        for process in self.parked.values_mut().flatten() {
            if let Some(dying) = &mut process.dying {
                dying.inferred = true;
            }
            parked.push(process.key);
        }
        for key in parked {
            self.settle(key, None, sink);
        }
        self.recheck.clear();
        for process in self.current.values_mut() {
            process.complete = false;
            if process.dying.is_none() {
                self.recheck.push((process.key, Doubt::Loss));
            }
        }
    }

    /// A look has shown that a process is dead. Settles its status from the look
    /// or the reports, or waits for it.
    fn bury(
        &mut self,
        pid: Pid,
        state: ProcessState,
        time: Timestamp,
        inferred: bool,
        now: Now,
        sink: &mut impl Sink,
    ) {
        let Some(process) = self.current.get_mut(&pid) else {
            return;
        };
        let (looked_up, reaped) = match process.held.as_ref().map(|held| held.state()) {
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
        if settled.is_none() && reaped && (process.is_told_out() || inferred) {
            // No report is due and nobody is left to ask.
            self.die(pid, time, inferred, reaped, None, now, sink);
            let key = self.current.get(&pid).map(|process| process.key);
            if let Some(key) = key {
                self.settle(key, None, sink);
            }
            return;
        }
        if settled.is_none()
            && !reaped
            && let Some(identity) = process.identity
        {
            sink.await_reaping(process.key, identity);
        }
        self.die(pid, time, inferred, reaped, settled, now, sink);
    }

    /// A process is dead: with its status it ends here, without it waits.
    #[expect(clippy::too_many_arguments, reason = "the facts of one death")]
    fn die(
        &mut self,
        pid: Pid,
        time: Timestamp,
        inferred: bool,
        reaped: bool,
        status: Option<Status>,
        now: Now,
        sink: &mut impl Sink,
    ) {
        let Some(process) = self.current.get_mut(&pid) else {
            return;
        };
        let key = process.key;
        let deadline = now.elapsed + self.config.status_grace;
        process.dying = Some(Dying {
            time,
            inferred,
            reaped,
            deadline,
        });
        if status.is_none() || process.leaves_ghost() {
            self.deadlines.push_back((deadline, key));
        }
        if status.is_some() {
            self.settle(key, status, sink);
            return;
        }
        if let Some(dying) = process.dying {
            sink.dead(&dying.exit(key));
        }
    }

    /// All exit reports of a dead process have come.
    fn settle_from_reports(&mut self, key: ProcessKey, sink: &mut impl Sink) {
        let Some(process) = self.find(key) else {
            return;
        };
        if let Some(status) = process.agreed_status() {
            self.settle(key, Some(status), sink);
            return;
        }
        match process.held.as_ref().map(|held| held.state()) {
            Some(Ok(HeldState::Zombie(status) | HeldState::Reaped(status)))
                if status != Status::Pending =>
            {
                self.settle(key, Some(status), sink);
            }
            // Nobody is left to ask.
            _ if process.dying.is_some_and(|dying| dying.reaped) => {
                self.settle(key, None, sink);
            }
            // The reaping, or the deadline, will settle it.
            _ => {}
        }
    }

    /// The end of a dead process's story: its one `Exit`.
    fn settle(&mut self, key: ProcessKey, status: Option<Status>, sink: &mut impl Sink) {
        let pid = key.pid();
        let process = if self.current.get(&pid).is_some_and(|p| p.key == key) {
            self.current.remove(&pid)
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
        if process.leaves_ghost() {
            self.ghosts
                .entry(pid)
                .or_default()
                .push(Ghost::of(&process));
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
        let mut event = Event::new(dying.time, Some(key), EventKind::Exit(status));
        event.parent = process.parent;
        event.inferred = dying.inferred;
        sink.event(&event);
        let mut exit = Exit::new(key, status, dying.time);
        exit.inferred = dying.inferred;
        sink.ended(&exit);
    }

    fn unpark(&mut self, key: ProcessKey) -> Option<Process> {
        let parked = self.parked.get_mut(&key.pid())?;
        let at = parked.iter().position(|process| process.key == key)?;
        let process = parked.remove(at);
        if parked.is_empty() {
            self.parked.remove(&key.pid());
        }
        Some(process)
    }

    fn remove_current(&mut self, pid: Pid) {
        if let Some(process) = self.current.remove(&pid)
            && process.held.is_some()
        {
            self.holds -= 1;
        }
    }
}

/// Asks how a process is: its hold if there is one, else whoever has its pid.
fn ask(process: &Process, probe: &dyn ProcessProbe) -> Result<ProcessState, ProbeError> {
    match &process.held {
        Some(held) => Ok(match held.state()? {
            HeldState::Alive => ProcessState::Alive,
            HeldState::Zombie(status) => ProcessState::Zombie(status),
            HeldState::Reaped(_) => ProcessState::Gone,
        }),
        None => probe.state(process.key.pid(), process.identity),
    }
}
