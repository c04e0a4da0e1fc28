//! Turns facts about tasks into events of processes.
//!
//! Sans-IO: it has no clock and makes no system call. Time comes as an argument,
//! questions go to the [`ProcessProbe`] it is handed, results to a [`Sink`].
//! How a death is decided is told in ARCHITECTURE.md, "How death is decided".

mod births;
mod codes;
mod deaths;
mod exits;
mod facts;
mod ghost;
#[cfg(test)]
mod ghost_tests;
mod looks;
mod pids;
mod process;
mod seen;
mod table;
mod threads;

use std::collections::VecDeque;
use std::time::Duration;

use kmonitor_event::{Event, Exit, Lost, Pid, ProcessKey, Timestamp};
use kmonitor_source::{
    Identity, ProbeError, ProcessEntry, ProcessProbe, ProcessState, ThreadState,
};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use self::ghost::Ghost;
use self::looks::Doubt;
use self::pids::Pids;
use self::process::Process;
use self::table::Table;
use crate::router::SubscriptionId;

/// How long after a birth its report is stamped at most: it can be seen before (in
/// `copy_process()` it gets its pid, and `proc_fork_connector()` comes last), and a busy
/// machine may come to that late. Includes the 10 ms that a birth is told too early.
pub(crate) const REPORT_DELAY_MAX: Duration = Duration::from_millis(50);

/// Who learns what the tracker concludes.
pub(crate) trait Sink {
    /// A tracked process created another. Whether the child is to be tracked.
    fn inherit(&mut self, parent: ProcessKey, child: ProcessKey) -> bool;
    /// A process found in a list turns out to be a child of this one, or of one
    /// that is not tracked: the pid was not the listed one's any more.
    fn disown(&mut self, parent: Option<ProcessKey>, child: ProcessKey);
    /// Something happened to a tracked process.
    fn event(&mut self, event: &Event);
    /// A tracked process had created another whose end was told to some before this:
    /// the birth is news to all others. Whether any of them is to be told of the child.
    fn inherit_late(&mut self, fork: &Event, told: &[SubscriptionId]) -> bool;
    /// Who is told of a process by name.
    fn recipients(&self, key: ProcessKey) -> Recipients;
    /// As [`event`](Self::event), of a process that has a hint.
    fn event_of(&mut self, event: &Event, hint: &mut Hint);
    /// As [`event`](Self::event), but only for those who asked for it by name.
    fn event_by_name(&mut self, event: &Event);
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

/// Where the sink found who wants to know of a process, the last time. It may be
/// wrong by now; the sink can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hint(pub(crate) u32);

/// Who is told of a process by name: nearly always few.
pub(crate) type Recipients = SmallVec<[SubscriptionId; 2]>;

/// Both of the hub's clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Since the hub began, on the clock that its timers use.
    pub(crate) elapsed: Duration,
    /// As events are stamped.
    pub(crate) stamp: Timestamp,
}

/// What comes with every call: the time, whom to ask, and whom to tell.
pub(crate) struct Cx<'a, S> {
    pub(crate) now: Now,
    pub(crate) probe: &'a dyn ProcessProbe,
    pub(crate) sink: &'a mut S,
}

/// Limits and delays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrackerConfig {
    /// How long a death waits for its status.
    pub(crate) status_grace: Duration,
    /// How many processes may be held at once.
    pub(crate) holds_max: usize,
}

/// What was concluded after losses, and told as that.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Concluded {
    pub(crate) births: u64,
    pub(crate) deaths: u64,
}

/// The table of processes and the rules of their deaths.
pub(crate) struct Tracker {
    config: TrackerConfig,
    /// The present owner of each pid that matters. Bounded by `pid_max`.
    current: Table,
    /// All pids of `current`, `parked` and `ghosts`, and perhaps a few more.
    pids: Pids,
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
    /// Those that could not be looked at, and when to try again.
    retry: Vec<(ProcessKey, Doubt)>,
    retry_at: Option<Duration>,
    /// Processes to look at when it is known who has changed hands within a loss.
    unproven: Vec<(ProcessKey, Doubt)>,
    /// Zombies that have the pids of processes known by nothing else: who they are is
    /// certain when all births that had been reported by then are read.
    zombies: Vec<ProcessKey>,
    /// Whether there was a loss, and what was sent after it has not been read yet.
    behind: bool,
    /// Deaths that were concluded and whose status is due. May name settled ones.
    concluded: Vec<ProcessKey>,
    counts: Concluded,
    /// Whether the host was not told of somebody's birth since that was last asked.
    birth_untold: bool,
    next_incarnation: u64,
    /// Whether every process of the host is tracked.
    host: bool,
    /// When the processes of the host were listed, the last time.
    listed_at: Timestamp,
    holds: usize,
    threads_scratch: Vec<ThreadState>,
}

impl Tracker {
    pub(crate) fn new(config: TrackerConfig) -> Self {
        Self {
            config,
            current: Table::default(),
            pids: Pids::default(),
            parked: FxHashMap::default(),
            ghosts: FxHashMap::default(),
            deadlines: VecDeque::new(),
            recheck: Vec::new(),
            retry: Vec::new(),
            retry_at: None,
            unproven: Vec::new(),
            zombies: Vec::new(),
            behind: false,
            concluded: Vec::new(),
            counts: Concluded::default(),
            birth_untold: false,
            next_incarnation: 1,
            host: false,
            listed_at: Timestamp::default(),
            holds: 0,
            threads_scratch: Vec::new(),
        }
    }

    /// Whether every process of the host is tracked from now on.
    pub(crate) fn set_host(&mut self, host: bool) {
        let narrower = self.host && !host;
        self.host = host;
        if narrower {
            self.remake_pids();
        }
    }

    /// How many processes are tracked.
    pub(crate) fn len(&self) -> usize {
        self.current.len() + self.parked.values().map(Vec::len).sum::<usize>()
    }

    /// Whether nobody is tracked.
    pub(crate) fn is_empty(&self) -> bool {
        self.current.len() == 0
    }

    /// How many processes are held (by a descriptor each).
    pub(crate) fn holds(&self) -> usize {
        self.holds
    }

    /// The key of the process that has this pid, if it is tracked and lives.
    pub(crate) fn key_of(&self, pid: Pid) -> Option<ProcessKey> {
        let process = self.current.get(pid)?;
        process.dying.is_none().then_some(process.key)
    }

    /// The identity of a tracked process, where it was ever needed.
    pub(crate) fn identity_of(&self, key: ProcessKey) -> Option<Identity> {
        self.current
            .get(key.pid())
            .filter(|process| process.key == key)
            .and_then(|process| process.identity)
    }

    /// A key for a process that [`adopt`](Self::adopt) will be told of.
    ///
    /// Who is asked for twice before that gets the same key. One that is never
    /// adopted is to be forgotten again.
    pub(crate) fn reserve(
        &mut self,
        pid: Pid,
        identity: Identity,
        cx: &mut Cx<'_, impl Sink>,
    ) -> ProcessKey {
        if let Some(process) = self.current.get_mut(pid)
            && process.identity.is_none_or(|own| own == identity)
        {
            process.identity = Some(identity);
            process.bound_at = None;
            process.found_at = Some(cx.now.stamp);
            process.key = process.key.with_inode(identity.inode());
            return process.key;
        }
        self.supersede(pid, None, cx);
        let key = self.new_key(pid).with_inode(identity.inode());
        let mut process = Process::found(key, Some(identity));
        process.found_at = Some(cx.now.stamp);
        // With the whole host tracked, who is not in the table and turns out to
        // be dead has had its exit told, or died before we listened.
        process.told_to_host = self.host;
        self.enter(process);
        key
    }

    /// Tracks a reserved process from the moment of this call: the source must
    /// have been made to report on it before. One that is found dead is told to
    /// the sink like any other death.
    ///
    /// # Errors
    /// It is gone, or may not be looked at.
    pub(crate) fn adopt(
        &mut self,
        key: ProcessKey,
        cx: &mut Cx<'_, impl Sink>,
    ) -> Result<(), ProbeError> {
        let pid = key.pid();
        match self.current.get(pid) {
            Some(process) if process.key == key => {
                if let Some(dying) = process.dying {
                    cx.sink.dead(&dying.exit(key));
                    return Ok(());
                }
                if process.threads.complete {
                    self.hold(pid, cx.probe);
                    return Ok(());
                }
            }
            // It ended since it was reserved.
            _ => return Ok(()),
        }
        self.hold(pid, cx.probe);
        match self.reseed(pid, cx.probe) {
            // Others may want it still; if not, it will be forgotten.
            Err(error) => Err(error),
            Ok(ProcessState::Alive) => Ok(()),
            Ok(state) => {
                self.bury(pid, state, cx.now.stamp, false, cx);
                Ok(())
            }
        }
    }

    /// As [`adopt`](Self::adopt), but leaves one that is found dead to the reports
    /// that are still to be read, because those of its birth may be among them.
    /// Whether it lives.
    pub(crate) fn adopt_if_alive(&mut self, key: ProcessKey, cx: &mut Cx<'_, impl Sink>) -> bool {
        let pid = key.pid();
        let mine = |p: &&Process| p.key == key && p.dying.is_none();
        let Some(process) = self.current.get(pid).filter(mine) else {
            return false;
        };
        if process.threads.complete {
            return true;
        }
        self.hold(pid, cx.probe);
        matches!(self.reseed(pid, cx.probe), Ok(ProcessState::Alive))
    }

    /// Stops tracking a process that nobody is interested in any more.
    pub(crate) fn forget(&mut self, key: ProcessKey) {
        if self.host {
            let process = self.current.get_mut(key.pid());
            if process
                .as_ref()
                .is_some_and(|p| p.key == key && p.told_to_host)
            {
                // Found dead, and never seen alive: the host has been told, or never will be.
                self.remove_current(key.pid());
                return;
            }
            // Tracked on, but not held: without threads its own report will do.
            if let Some(process) = process.filter(|p| p.key == key && !p.threads.had_others)
                && process.held.take().is_some()
            {
                self.holds -= 1;
            }
            return;
        }
        if self.current.get(key.pid()).is_some_and(|p| p.key == key) {
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
        self.current.retain(|process| keep(process.key));
        self.parked.retain(|_, parked| {
            parked.retain(|process| keep(process.key));
            !parked.is_empty()
        });
        self.remake_pids();
        let current = self.current.values();
        self.holds = current
            .chain(self.parked.values().flatten())
            .filter(|process| process.held.is_some())
            .count();
    }

    /// Tracks these processes too, from before the next look at them: with the
    /// whole host tracked, whoever has the pid is told from who comes after.
    pub(crate) fn expect(&mut self, processes: &[ProcessEntry], listed_at: Timestamp) {
        self.listed_at = listed_at;
        for entry in processes {
            if !self.current.contains(entry.pid) {
                let key = self.new_key(entry.pid);
                let mut process = Process::found(key, None);
                process.parent = entry.parent;
                process.only_listed = true;
                // Whatever is told of it is told when its report comes.
                process.birth_told = true;
                self.enter(process);
                self.recheck.push((key, Doubt::NewToUs));
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
        if self.host && !self.current.contains(pid) {
            if self.ghosts.contains_key(&pid) {
                // Done before its exit was told by a look that was ahead of this. Who
                // has the pid after it begins by being born.
                return None;
            }
            let key = self.new_key(pid);
            self.enter(Process::found(key, None));
        }
        let process = self.current.get_mut(pid)?;
        if process.only_listed {
            process.only_listed = false;
        }
        Some(process)
    }

    fn enter(&mut self, process: Process) {
        let pid = process.key.pid();
        self.current.insert(process);
        // With the whole host tracked nobody asks, and afterwards it is made anew.
        if !self.host && self.pids.insert(pid) {
            self.remake_pids();
        }
    }

    fn remake_pids(&mut self) {
        let former = self.parked.keys().chain(self.ghosts.keys()).copied();
        let count = self.current.len() + self.parked.len() + self.ghosts.len();
        self.pids = Pids::new(count);
        for pid in self.current.pids().chain(former) {
            self.pids.insert(pid);
        }
    }

    fn find(&self, key: ProcessKey) -> Option<&Process> {
        let current = self.current.get(key.pid()).filter(|p| p.key == key);
        current.or_else(|| {
            let parked = self.parked.get(&key.pid())?;
            parked.iter().find(|process| process.key == key)
        })
    }

    fn remove_current(&mut self, pid: Pid) {
        if let Some(process) = self.current.remove(pid)
            && process.held.is_some()
        {
            self.holds -= 1;
        }
    }
}
