//! All that a simulated kernel consists of, behind the lock of its handle.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::task::Waker;

use kmonitor_event::{Pid, Status, StatusSource, Tid, Timestamp, UnknownReason};
use rustc_hash::FxHashMap;

use super::delayed::Delayed;
use super::filter::Filter;
use super::link::Link;
use super::queue::Queue;
use super::rng::Rng;
use super::wanted::WantedByName;
use super::{Death, SimConfig, SimError, SimMode};
use crate::{Fact, FactKind, Identity};

/// How long one operation takes in virtual time.
const OPERATION_NANOS: u64 = 1_000;
/// The ticks of process start times.
pub(super) const TICK_NANOS: u64 = 10_000_000;

/// What one thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Live,
    /// Inside its own exit, with this code; not yet dead.
    Exiting(i32),
    /// Dead, and kept because it is the leader.
    Dead,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) inode: NonZeroU64,
    pub(super) parent: Option<Pid>,
    pub(super) threads: BTreeMap<Tid, Phase>,
    pub(super) children: BTreeSet<Pid>,
    /// The code that a group exit began with.
    pub(super) group_code: Option<i32>,
    /// The place of its record among the deaths, once it is a zombie.
    pub(super) death: Option<usize>,
    /// Whether it was handed to init, which reaps it.
    pub(super) adopted: bool,
    pub(super) born: u64,
    pub(super) started: u64,
    pub(super) tasks: u64,
}

impl Process {
    pub(super) fn live_threads(&self) -> impl Iterator<Item = Tid> + '_ {
        self.threads
            .iter()
            .filter(|(_, phase)| **phase == Phase::Live)
            .map(|(tid, _)| *tid)
    }

    pub(super) fn can_act(&self) -> bool {
        self.live_threads().next().is_some()
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: SimConfig,
    pub(super) rng: Rng,
    pub(super) clock: u64,
    order: u64,
    inodes: u64,
    last_id: i32,
    next_id: Option<i32>,
    pub(super) init: Pid,
    /// Living processes and zombies.
    pub(super) processes: BTreeMap<Pid, Process>,
    /// Every id in use, and the process it belongs to.
    pub(super) tasks: FxHashMap<Tid, Pid>,
    pub(super) delayed: Delayed,
    pub(super) deaths: Vec<Death>,
    death_of: FxHashMap<NonZeroU64, usize>,
    pub(super) queue: Queue,
    pub(super) link: Link,
    pub(super) wanted: WantedByName,
    pub(super) filter: Filter,
    /// Who waits for a reaping, by process and waiter.
    pub(super) reap_waiters: BTreeMap<(NonZeroU64, u64), Waker>,
    pub(super) waiters: u64,
    /// To be woken once the lock is free.
    pub(super) to_wake: Vec<Waker>,
    /// To be dropped once the lock is free: the last waker of a task may drop
    /// the task, and that may call the kernel.
    pub(super) to_drop: Vec<Waker>,
}

impl State {
    pub(super) fn new(mut config: SimConfig) -> Self {
        config.pid_max = config.pid_max.max(2);
        let facts_max = match config.mode {
            SimMode::Tasks => Some(config.queue_facts_max),
            SimMode::Named => None,
        };
        // 1 is positive: the other arm is never taken.
        let init = Pid::new(1).unwrap_or_else(Pid::current);
        let mut state = Self {
            rng: Rng::new(config.seed),
            config,
            clock: 1_000_000_000,
            order: 0,
            inodes: 0,
            last_id: 1,
            next_id: None,
            init,
            processes: BTreeMap::new(),
            tasks: FxHashMap::default(),
            delayed: Delayed::default(),
            deaths: Vec::new(),
            death_of: FxHashMap::default(),
            queue: Queue::new(facts_max),
            link: Link::default(),
            wanted: WantedByName::default(),
            filter: Filter::default(),
            reap_waiters: BTreeMap::new(),
            waiters: 0,
            to_wake: Vec::new(),
            to_drop: Vec::new(),
        };
        state.insert_process(init, None);
        state
    }

    pub(super) fn next_in_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// A new process with one thread, of an id that is free.
    pub(super) fn insert_process(&mut self, pid: Pid, parent: Option<Pid>) {
        self.inodes += 1;
        let process = Process {
            inode: NonZeroU64::MIN.saturating_add(self.inodes),
            parent,
            threads: BTreeMap::from([(pid.leader(), Phase::Live)]),
            children: BTreeSet::new(),
            group_code: None,
            death: None,
            adopted: false,
            born: self.next_in_order(),
            started: self.clock / TICK_NANOS,
            tasks: 1,
        };
        self.processes.insert(pid, process);
        self.tasks.insert(pid.leader(), pid);
        if let Some(parent) = parent.and_then(|parent| self.processes.get_mut(&parent)) {
            parent.children.insert(pid);
        }
    }

    /// Time goes on by one operation, and what is due happens.
    pub(super) fn tick(&mut self) {
        self.advance(OPERATION_NANOS);
    }

    pub(super) fn advance(&mut self, nanos: u64) {
        self.clock = self.clock.saturating_add(nanos);
        self.run_delayed(self.clock);
    }

    pub(super) fn set_next_id(&mut self, pid: Pid) -> Result<(), SimError> {
        let raw = pid.as_raw();
        if raw > self.config.pid_max || self.tasks.contains_key(&pid.leader()) {
            return Err(SimError::BadNextId { pid });
        }
        self.next_id = Some(raw);
        Ok(())
    }

    /// The next free id, as the kernel gives them: upwards, and around.
    pub(super) fn allocate(&mut self) -> Result<Pid, SimError> {
        let free = |state: &Self, raw: i32| {
            Pid::new(raw).filter(|pid| !state.tasks.contains_key(&pid.leader()))
        };
        let forced = self.next_id.take();
        let pid = forced.and_then(|raw| free(self, raw)).or_else(|| {
            let after = self.last_id.saturating_add(1)..=self.config.pid_max;
            after
                .chain(2..=self.last_id.min(self.config.pid_max))
                .find_map(|raw| free(self, raw))
        });
        let pid = pid.ok_or(SimError::NoFreeId)?;
        self.last_id = pid.as_raw();
        Ok(pid)
    }

    /// The kernel tells a fact of a task, now.
    pub(super) fn emit(&mut self, kind: FactKind) {
        self.emit_at(self.clock, kind);
    }

    pub(super) fn emit_at(&mut self, nanos: u64, kind: FactKind) {
        let passes = self.config.mode == SimMode::Tasks && self.filter.passes(&kind);
        if passes {
            self.queue
                .push(Fact::new(Timestamp::from_nanos(nanos), kind));
            self.wake_reader();
        }
    }

    pub(super) fn wake_reader(&mut self) {
        if self.queue.is_ready() || self.link.has_failure() {
            self.to_wake.extend(self.link.take_batch_waker());
        }
    }

    pub(super) fn process(&self, pid: Pid) -> Result<&Process, SimError> {
        self.processes
            .get(&pid)
            .ok_or(SimError::NoSuchProcess { pid })
    }

    pub(super) fn identity(&self, process: &Process) -> Identity {
        if self.config.pidfs {
            Identity::Inode(process.inode)
        } else {
            Identity::StartTime(process.started)
        }
    }

    pub(super) fn is(&self, process: &Process, identity: Identity) -> bool {
        match identity {
            Identity::Inode(inode) => process.inode == inode,
            Identity::StartTime(started) => process.started == started,
        }
    }

    /// The status of a process that died, as a zombie shows it to the probe.
    pub(super) fn zombie_status(&self, process: &Process) -> Option<Status> {
        let death = self.deaths.get(process.death?)?;
        Some(if self.config.status_readable {
            Status::from_raw(death.status, StatusSource::ZombieStat)
        } else {
            Status::Pending
        })
    }

    /// The status of a process that was reaped, for somebody who held its pidfd.
    pub(super) fn reaped_status(&self, inode: NonZeroU64) -> Status {
        let death = self.death_of.get(&inode);
        match death.and_then(|place| self.deaths.get(*place)) {
            Some(_) if !self.config.pidfd_info => Status::Unknown(UnknownReason::KernelTooOld),
            Some(death) => Status::from_raw(death.status, StatusSource::PidfdInfo),
            None => Status::Unknown(UnknownReason::ReapedUnseen),
        }
    }

    pub(super) fn record_death(&mut self, death: Death) -> usize {
        let place = self.deaths.len();
        self.death_of.insert(death.inode, place);
        self.deaths.push(death);
        place
    }
}
