//! What all simulated processes share: pids, scripts, and the record.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use super::log::{Deed, What};
use super::program::Program;
use crate::spec::ChildPath;
use kmonitor_event::Pid;

/// As low as a system's first free pids are.
const FIRST_PID: i32 = 100;

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) scripts: HashMap<String, VecDeque<Program>>,
    pub(super) log: Vec<Deed>,
    /// How many incarnations of a child there is something left of.
    pub(super) alive: BTreeMap<ChildPath, usize>,
    pub(super) overlaps: usize,
    began: Option<Instant>,
    pids: BTreeSet<i32>,
}

impl World {
    /// An incarnation begins: with which program?
    pub(super) fn begin(&mut self, path: &ChildPath) -> Program {
        self.began.get_or_insert_with(Instant::now);
        let alive = self.alive.entry(path.clone()).or_default();
        *alive += 1;
        self.overlaps += usize::from(*alive > 1);
        match self.scripts.get_mut(path.as_str()) {
            Some(script) if script.len() > 1 => script.pop_front().unwrap_or_default(),
            Some(script) => script.front().cloned().unwrap_or_default(),
            None => Program::new(),
        }
    }

    /// Nothing is left of one.
    pub(super) fn end(&mut self, path: &ChildPath) {
        if let Some(alive) = self.alive.get_mut(path) {
            *alive -= 1;
            if *alive == 0 {
                self.alive.remove(path);
            }
        }
    }

    /// The lowest pid that is free: as often used again as can be.
    pub(super) fn pid(&mut self) -> Pid {
        let free = (FIRST_PID..i32::MAX).find(|raw| !self.pids.contains(raw));
        let raw = free.unwrap_or(i32::MAX);
        self.pids.insert(raw);
        Pid::new(raw).unwrap_or_else(Pid::current)
    }

    pub(super) fn free(&mut self, pid: Pid) {
        self.pids.remove(&pid.as_raw());
    }

    pub(super) fn note(&mut self, path: &ChildPath, generation: u64, what: What) {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.log.push(Deed {
            at: began.elapsed(),
            path: path.clone(),
            generation,
            what,
        });
    }
}
