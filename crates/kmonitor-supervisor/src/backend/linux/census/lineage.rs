//! Who descends from whom, as far as that was told: the table, and what each event
//! changes in it.

use std::collections::{HashMap, HashSet};

use kmonitor_event::{Pid, ProcessKey};

use crate::backend::linux::kin::{self, Table};
use crate::backend::linux::procfs;
use crate::backend::linux::reap::reap_if_ours;

/// A line of forks, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::backend::linux) struct Line(u64);

/// A process that was told to have been forked, or was found when we began.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// `None`: found in `/proc`, where the hub's key for it is not known.
    key: Option<ProcessKey>,
    line: Line,
    /// This program forked it, or it was named to be followed.
    first: bool,
    /// It started no later than this tick. Whoever has its pid and started later is
    /// another.
    born_by: u64,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Mostly one each: a pid's next owner can be told before the end of the former.
    nodes: HashMap<i32, Vec<Node>>,
    living: HashMap<Line, usize>,
    lines: u64,
    /// Ended, not ours to reap yet, by the parent whose end can make them so.
    unreaped: HashMap<i32, Unreaped>,
    /// How many leaders are being started, and where the lines of children of ours
    /// that have ended meanwhile began: one of them may be such a leader.
    expected: usize,
    ended: HashMap<i32, (u64, Line)>,
    /// Something was lost: a scan must confirm what is said here.
    pub(super) incomplete: bool,
    /// Nothing is told any more.
    pub(super) closed: bool,
}

impl Known {
    fn new_line(&mut self) -> Line {
        self.lines += 1;
        Line(self.lines)
    }

    /// A leader is about to be started.
    pub(super) fn expect(&mut self) {
        self.expected += 1;
    }

    /// It was, and its line is known to who asked; or it was not.
    pub(super) fn unexpect(&mut self) {
        self.expected = self.expected.saturating_sub(1);
        if self.expected == 0 {
            self.ended = HashMap::new();
        }
    }

    /// The line that began with a child of ours that was born then, or has ended since.
    pub(super) fn line_of_child(&self, pid: i32, start: u64) -> Option<Line> {
        let nodes = self.nodes.get(&pid).into_iter().flatten();
        let living = nodes.rev().find(|node| node.first && node.born_by >= start);
        let ended = self.ended.get(&pid).filter(|ended| ended.0 >= start);
        living.map(|node| node.line).or(ended.map(|ended| ended.1))
    }

    /// Who is in a line, and by which tick each started.
    pub(super) fn of_line(&self, line: Line) -> Vec<(i32, u64)> {
        let all = self.nodes.iter();
        all.flat_map(|(pid, nodes)| nodes.iter().map(move |node| (*pid, node)))
            .filter(|(_, node)| node.line == line)
            .map(|(pid, node)| (pid, node.born_by))
            .collect()
    }

    /// Whether a child of ours, alive or a zombie, is one that somebody else forked.
    pub(super) fn has_orphans(&self) -> bool {
        let is_orphan = |pid: &i32| {
            let nodes = self.nodes.get(pid).into_iter().flatten();
            let mut unreaped = self.unreaped.values().flat_map(|it| &it.dead);
            nodes.into_iter().any(|node| !node.first) || unreaped.any(|(dead, _)| dead == pid)
        };
        // Who cannot be looked at may be one.
        kin::own_children().map_or(true, |children| children.iter().any(is_orphan))
    }

    fn add(&mut self, pid: i32, node: Node) {
        self.nodes.entry(pid).or_default().push(node);
        *self.living.entry(node.line).or_default() += 1;
    }

    pub(super) fn is_empty(&self, line: Line) -> bool {
        self.living.get(&line).is_none_or(|count| *count == 0)
    }

    /// What descended from us before events began: each child of ours begins a line.
    pub(super) fn seed_ourselves(&mut self, table: &Table) {
        let me = procfs::own_pid();
        let children: Vec<i32> = table
            .all()
            .iter()
            .filter(|stat| stat.parent == me)
            .map(|stat| stat.pid)
            .collect();
        for child in children {
            let line = self.new_line();
            self.seed(table, child, &HashSet::from([child]), line);
        }
    }

    pub(super) fn seed_tree(&mut self, table: &Table, root: Pid, all: &HashSet<i32>) -> Line {
        let line = self.new_line();
        self.seed(table, root.as_raw(), all, line);
        line
    }

    fn seed(&mut self, table: &Table, root: i32, all: &HashSet<i32>, line: Line) {
        for stat in table.descending_from(|stat| all.contains(&stat.pid)) {
            let mut nodes = self.nodes.get_mut(&stat.pid).into_iter().flatten();
            if let Some(node) = nodes.find(|node| node.born_by >= stat.start) {
                // Known as another line's: the newer claim is the more exact one.
                let former = std::mem::replace(&mut node.line, line);
                if let Some(count) = self.living.get_mut(&former) {
                    *count = count.saturating_sub(1);
                }
                *self.living.entry(line).or_default() += 1;
                continue;
            }
            // Read of a zombie: its end may have been told before we began.
            if stat.is_dead() {
                if stat.pid != root {
                    self.settle(stat.pid, stat.start);
                }
                continue;
            }
            let first = stat.pid == root;
            let node = Node {
                key: None,
                line,
                first,
                born_by: stat.start,
            };
            self.add(stat.pid, node);
        }
    }

    pub(super) fn forked(&mut self, parent: ProcessKey, child: ProcessKey, born_by: u64) {
        let pid = child.pid().as_raw();
        let mut nodes = self.nodes.get_mut(&pid).into_iter().flatten();
        if let Some(node) =
            nodes.find(|node| node.key.is_none() && node.born_by.abs_diff(born_by) <= 2)
        {
            // Found in /proc before its fork was told.
            node.key = Some(child);
            return;
        }
        let ours = parent.pid() == Pid::current();
        let line = if ours {
            self.new_line()
        } else {
            match self.find(parent) {
                Some(node) => node.line,
                // Of a parent that descended from us, and is not known: a loss.
                None => self.new_line(),
            }
        };
        let node = Node {
            key: Some(child),
            line,
            first: ours,
            born_by,
        };
        self.add(pid, node);
    }

    fn find(&self, process: ProcessKey) -> Option<&Node> {
        let nodes = self.nodes.get(&process.pid().as_raw())?;
        let exact = nodes.iter().find(|node| node.key == Some(process));
        exact.or_else(|| nodes.iter().find(|node| node.key.is_none()))
    }

    pub(super) fn exited(&mut self, process: ProcessKey) {
        let pid = process.pid().as_raw();
        let Some(nodes) = self.nodes.get_mut(&pid) else {
            return;
        };
        let exact = nodes.iter().position(|node| node.key == Some(process));
        let at = exact.or_else(|| nodes.iter().position(|node| node.key.is_none()));
        let Some(at) = at else { return };
        let node = nodes.swap_remove(at);
        if nodes.is_empty() {
            self.nodes.remove(&pid);
        }
        if let Some(count) = self.living.get_mut(&node.line) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.living.remove(&node.line);
            }
        }
        if !node.first {
            self.settle(pid, node.born_by);
        } else if self.expected > 0 {
            self.ended.insert(pid, (node.born_by, node.line));
        }
        // Its own children that are zombies are ours now, if it had any; and there may
        // be a descriptor again for those that were.
        for parent in [pid, procfs::own_pid()] {
            for (pid, born_by) in self.unreaped.remove(&parent).unwrap_or_default().dead {
                self.settle(pid, born_by);
            }
        }
    }

    /// Reaps a dead process if it came to us, or notes whose end to wait for.
    fn settle(&mut self, pid: i32, born_by: u64) {
        let Some(parent) = reap_if_ours(pid, born_by) else {
            return;
        };
        // The ends of others are not told, nor do their children come to us.
        if parent == procfs::own_pid() || self.nodes.contains_key(&parent) {
            self.unreaped.entry(parent).or_default().push(pid, born_by);
        }
    }
}

/// So many are kept before it is looked whether their parent has reaped them.
const UNREAPED_MIN: usize = 32;

/// The children of one process that were dead when their ends were told, by pid and birth.
/// At most twice as many as are zombies, and a few.
#[derive(Debug, Default)]
struct Unreaped {
    dead: Vec<(i32, u64)>,
    kept: usize,
}

impl Unreaped {
    fn push(&mut self, pid: i32, born_by: u64) {
        self.dead.push((pid, born_by));
        if self.dead.len() >= UNREAPED_MIN.max(2 * self.kept) {
            self.dead.retain(|(pid, born_by)| {
                let seen = procfs::look_at(*pid);
                seen.map_or(true, |seen| seen.is_some_and(|it| it.start <= *born_by))
            });
            self.kept = self.dead.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A parent that reaps only now and then made it grow for ever.
    #[test]
    fn who_was_reaped_by_another_is_forgotten() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let zombie = i32::try_from(child.id()).unwrap();
        while !procfs::stat(zombie).unwrap().is_dead() {
            std::thread::yield_now();
        }
        let mut unreaped = Unreaped::default();
        unreaped.push(zombie, u64::MAX);
        for _ in 0..1000 {
            // Nobody's: pids end far below.
            unreaped.push(i32::MAX, u64::MAX);
            assert!(unreaped.dead.len() <= UNREAPED_MIN);
        }
        assert!(unreaped.dead.contains(&(zombie, u64::MAX)));
        child.wait().unwrap();
    }
}
