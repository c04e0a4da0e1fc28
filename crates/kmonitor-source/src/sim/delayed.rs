//! What the kernel does a little later: exit facts that are overtaken, and
//! orphans that init has yet to reap.
//!
//! A late exit fact may be overtaken by the reaping, and by the fork of another
//! process of the same pid; never by the exit of that other process, so that the
//! exits of a pid stay in the order of its incarnations.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use kmonitor_event::{Pid, Tid};

use super::state::State;
use crate::FactKind;

/// The exit facts of delayed tasks come within so many nanoseconds.
const EXIT_DELAY_NANOS_MAX: u64 = 12_000;
/// Init reaps within so many nanoseconds.
const REAP_DELAY_NANOS_MAX: u64 = 24_000;
/// Due when the test says so.
const HELD: u64 = u64::MAX;

/// The exit of one task, to be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct LateExit {
    pub(super) process: Pid,
    pub(super) inode: NonZeroU64,
    pub(super) tid: Tid,
    pub(super) code: i32,
    pub(super) died: u64,
}

#[derive(Debug, Clone, Copy)]
enum Late {
    Exit(LateExit),
    Reap { process: Pid, inode: NonZeroU64 },
}

/// Bounded by the tasks that ended within the delay, and by what is held.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    late: BTreeMap<(u64, u64), Late>,
    entries: u64,
    exits: usize,
    pub(super) hold_exits: bool,
}

impl Delayed {
    fn add(&mut self, due: u64, late: Late) {
        self.entries += 1;
        self.exits += usize::from(matches!(late, Late::Exit(_)));
        self.late.insert((due, self.entries), late);
    }

    fn pop_due(&mut self, now: u64) -> Option<(u64, Late)> {
        let entry = self.late.first_entry()?;
        let due = entry.key().0;
        if due == HELD || due > now {
            return None;
        }
        let late = entry.remove();
        self.exits -= usize::from(matches!(late, Late::Exit(_)));
        Some((due, late))
    }

    /// Takes the late exits for which this holds, in the order they are due.
    fn take_exits(&mut self, matches: impl Fn(bool, &LateExit) -> bool) -> Vec<LateExit> {
        if self.exits == 0 {
            return Vec::new();
        }
        let mut taken = Vec::new();
        self.late.retain(|(due, _), late| match late {
            Late::Exit(exit) if matches(*due == HELD, exit) => {
                taken.push(*exit);
                false
            }
            _ => true,
        });
        self.exits -= taken.len();
        taken
    }
}

impl State {
    /// Tells the end of a task, or leaves it for later.
    pub(super) fn emit_exit(&mut self, exit: LateExit, delay: f64) {
        let overtaken = self.delayed.take_exits(|_, late| {
            late.tid == exit.tid || (late.process == exit.process && late.inode != exit.inode)
        });
        self.tell_exits(overtaken);
        if self.delayed.hold_exits {
            self.delayed.add(HELD, Late::Exit(exit));
        } else if self.rng.chance(delay) {
            let wait = 1 + self.rng.below(EXIT_DELAY_NANOS_MAX);
            let due = self.clock.saturating_add(wait);
            self.delayed.add(due, Late::Exit(exit));
        } else {
            self.tell_exits(vec![exit]);
        }
    }

    fn tell_exits(&mut self, exits: Vec<LateExit>) {
        for exit in exits {
            let known = self
                .processes
                .get(&exit.process)
                .filter(|process| process.inode == exit.inode);
            let parent = known
                .filter(|_| exit.tid.is_leader_of(exit.process))
                .and_then(|process| process.parent);
            let kind = FactKind::TaskExited {
                process: exit.process,
                tid: exit.tid,
                code: exit.code,
                parent,
            };
            self.emit_at(exit.died, kind);
        }
    }

    /// Tells what is still to be told of the exits of a process's tasks.
    pub(super) fn flush_exits_of(&mut self, inode: NonZeroU64) {
        let exits = self
            .delayed
            .take_exits(|held, late| !held && late.inode == inode);
        self.tell_exits(exits);
    }

    /// Tells all exits that are held back.
    pub(super) fn release_exits(&mut self) {
        let exits = self.delayed.take_exits(|held, _| held);
        self.tell_exits(exits);
    }

    /// Init gets an orphan's zombie, and reaps it soon.
    pub(super) fn reap_by_init(&mut self, process: Pid, inode: NonZeroU64) {
        if self.config.init_reaps {
            let wait = 1 + self.rng.below(REAP_DELAY_NANOS_MAX);
            let due = self.clock.saturating_add(wait);
            self.delayed.add(due, Late::Reap { process, inode });
        }
    }

    /// Lets happen what is due.
    pub(super) fn run_delayed(&mut self, now: u64) {
        while let Some((due, late)) = self.delayed.pop_due(now) {
            self.clock = self.clock.max(due);
            match late {
                Late::Exit(exit) => self.tell_exits(vec![exit]),
                Late::Reap { process, inode } => {
                    let zombie = self.processes.get(&process);
                    if zombie.is_some_and(|zombie| zombie.inode == inode) {
                        self.reap(process);
                    }
                }
            }
        }
    }

    /// Lets happen all that is only a matter of time.
    pub(super) fn settle(&mut self) {
        self.run_delayed(HELD);
    }
}
