//! The present owner of each pid that matters.

use kmonitor_event::Pid;
use rustc_hash::FxHashMap;

use super::process::Process;

/// Processes by pid.
///
/// The hash holds no more than where each process lies: with many thousands that
/// is what still fits into the cache. The processes themselves lie side by side.
#[derive(Default)]
pub(super) struct Table {
    places: FxHashMap<Pid, u32>,
    processes: Vec<Process>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.processes.len()
    }

    pub(super) fn contains(&self, pid: Pid) -> bool {
        self.places.contains_key(&pid)
    }

    pub(super) fn get(&self, pid: Pid) -> Option<&Process> {
        self.at(self.place(pid)?)
    }

    pub(super) fn get_mut(&mut self, pid: Pid) -> Option<&mut Process> {
        let place = self.place(pid)?;
        self.processes.get_mut(place as usize)
    }

    /// Where the process of a pid lies.
    pub(super) fn place(&self, pid: Pid) -> Option<u32> {
        self.places.get(&pid).copied()
    }

    pub(super) fn at(&self, place: u32) -> Option<&Process> {
        self.processes.get(place as usize)
    }

    /// Enters a process under its pid, in the place of whoever had it.
    pub(super) fn insert(&mut self, process: Process) {
        let pid = process.key.pid();
        self.remove(pid);
        // There are no more processes than pids, and a pid has 31 bits.
        let place = self.processes.len() as u32;
        self.places.insert(pid, place);
        self.processes.push(process);
    }

    pub(super) fn remove(&mut self, pid: Pid) -> Option<Process> {
        let place = self.places.remove(&pid)?;
        let process = self.processes.swap_remove(place as usize);
        if let Some(moved) = self.at(place) {
            self.places.insert(moved.key.pid(), place);
        }
        Some(process)
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.places.keys().copied()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.processes.iter_mut()
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Process) -> bool) {
        self.processes.retain(keep);
        self.places.clear();
        for (place, process) in (0..).zip(&self.processes) {
            self.places.insert(process.key.pid(), place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmonitor_event::ProcessKey;
    use std::collections::HashMap;

    #[test]
    fn finds_each_under_its_pid_whoever_leaves() {
        let process = |raw: i32, n| {
            let pid = Pid::new(raw).unwrap();
            Process::born(ProcessKey::new(pid, n), None)
        };
        let mut table = Table::default();
        let mut model = HashMap::new();
        for n in 0..200_u64 {
            let raw = (n * 37 % 50 + 1) as i32;
            if n % 3 == 2 {
                let removed = table.remove(Pid::new(raw).unwrap());
                let removed = removed.map(|it| it.key.incarnation());
                assert_eq!(removed, model.remove(&raw));
            } else {
                table.insert(process(raw, n));
                model.insert(raw, n);
            }
            if n == 150 {
                table.retain(|it| it.key.incarnation() % 2 == 0);
                model.retain(|_, n| *n % 2 == 0);
            }
            assert_eq!(table.len(), model.len());
            for raw in 1..=50 {
                let found = table.get(Pid::new(raw).unwrap());
                let found = found.map(|it| it.key.incarnation());
                assert_eq!(found, model.get(&raw).copied());
            }
        }
    }
}
