//! Who descends from whom below this program, as the connector tells it.
//!
//! **Claim**: with a source that tells of every fork, a scope is empty exactly when
//! all processes whose line of forks begins with its leader have been told to have
//! ended. Every fork of a process is told before that process's own exit, so when the
//! count falls to zero there is nobody left who could have forked. Neither
//! `setsid`, nor double forks, nor a cleared environment hide anybody.
//!
//! It also says which of our children are not our own: those that somebody else
//! forked, and that came to us because we are a subreaper. Those are reaped here, one
//! by one, by pidfd. What this program forked itself is its own business.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kmonitor_event::{Event, EventKind, EventMask, Pid, ProcessKey, ProcessRef};
use kmonitor_hub::{Filter, Hub, SubscribeError, Subscription};
use kmonitor_pidfd::{Pidfd, Readiness};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::os::fd::AsFd;
use tokio::sync::{Notify, mpsc, oneshot};

use super::identity::open_seen;
use super::procfs::{self, Stat, Table};
use super::scope::{Look, Marks};

/// Events may queue while this program is busy. Beyond it they are counted as lost,
/// and scans of `/proc` take over.
const QUEUE_EVENTS: usize = 1 << 16;

/// A line of forks, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Line(u64);

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
struct Known {
    /// Mostly one each: a pid's next owner can be told before the end of the former.
    nodes: HashMap<i32, Vec<Node>>,
    living: HashMap<Line, usize>,
    lines: u64,
    /// Ended, not ours to reap yet, by the parent whose end can make them so.
    unreaped: HashMap<i32, Vec<(i32, u64)>>,
    /// How many leaders are being started, and where the lines of children of ours
    /// that have ended meanwhile began: one of them may be such a leader.
    expected: usize,
    ended: HashMap<i32, (u64, Line)>,
    /// Something was lost: a scan must confirm what is said here.
    incomplete: bool,
    closed: bool,
}

/// The knowledge, kept up to date by a task. When all its users are gone the task
/// goes on until the orphans that have come to us are reaped.
#[derive(Debug)]
pub(super) struct Census {
    board: Arc<Board>,
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug, Default)]
struct Board {
    known: Mutex<Known>,
    changed: Notify,
}

struct Ask {
    process: ProcessRef,
    marks: Arc<Marks>,
    reply: oneshot::Sender<Option<Line>>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ask").field(&self.process).finish()
    }
}

impl Census {
    /// Begins to follow all that descends from this program.
    pub(super) async fn open(hub: &Hub) -> Result<Arc<Self>, SubscribeError> {
        let me = Pid::current();
        let queue = std::num::NonZeroUsize::new(QUEUE_EVENTS);
        let filter = Filter::descendants(me)
            .events(EventMask::FORK | EventMask::EXIT)
            .queue_events(queue.unwrap_or(std::num::NonZeroUsize::MIN))
            .keep_open();
        let events = hub.subscribe(filter).await?;
        let (asks, asked) = mpsc::channel(64);
        let board = Arc::new(Board::default());
        let table = read_table().await;
        board.known().seed_ourselves(&table);
        tokio::spawn(run(Arc::clone(&board), events, asked));
        Ok(Arc::new(Self { board, asks }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.board.known()
    }

    /// To be had before a child is forked whose line will be asked for.
    pub(super) fn expect_child(self: &Arc<Self>) -> Expected {
        self.known().expected += 1;
        Expected(Arc::clone(self))
    }

    /// The line that begins with any process, and those that descend from it now or
    /// are marked as such: they may have lost their parents before we began.
    pub(super) async fn line_of(&self, process: ProcessRef, marks: &Arc<Marks>) -> Option<Line> {
        let (reply, answer) = oneshot::channel();
        let marks = Arc::clone(marks);
        let ask = Ask {
            process,
            marks,
            reply,
        };
        self.asks.send(ask).await.ok()?;
        answer.await.ok()?
    }

    /// Waits until a line has no living member. Whether that is certain.
    pub(super) async fn emptied(&self, line: Line) -> bool {
        self.wait(|known| {
            if known.closed || known.incomplete {
                return Some(false);
            }
            known.is_empty(line).then_some(true)
        })
        .await
    }

    /// The living of a line, as far as told.
    pub(super) fn members(&self, line: Line) -> Vec<Stat> {
        let candidates: Vec<(i32, u64)> = {
            let known = self.known();
            let all = known.nodes.iter();
            all.flat_map(|(pid, nodes)| nodes.iter().map(move |node| (*pid, node)))
                .filter(|(_, node)| node.line == line)
                .map(|(pid, node)| (pid, node.born_by))
                .collect()
        };
        let stats = candidates.into_iter().filter_map(|(pid, born_by)| {
            let stat = procfs::stat(pid)?;
            (stat.start <= born_by && !stat.is_dead()).then_some(stat)
        });
        stats.collect()
    }

    /// Whether scans must confirm what is said here.
    pub(super) fn is_incomplete(&self) -> bool {
        let known = self.known();
        known.incomplete || known.closed
    }

    async fn wait<T>(&self, mut look: impl FnMut(&Known) -> Option<T>) -> T {
        loop {
            let changed = self.board.changed.notified();
            tokio::pin!(changed);
            // Registered before the look: a change after it is not missed.
            changed.as_mut().enable();
            if let Some(found) = look(&self.known()) {
                return found;
            }
            changed.await;
        }
    }
}

/// A child that is about to be forked; what is told of it is kept so long.
#[derive(Debug)]
pub(super) struct Expected(Arc<Census>);

impl Expected {
    pub(super) fn census(&self) -> &Arc<Census> {
        &self.0
    }

    /// The line that begins with a child this program forked, and has not reaped.
    /// Waits until its fork is told; `None` if that will not be.
    pub(super) async fn line_of(&self, pid: Pid, start: u64) -> Option<Line> {
        let pid = pid.as_raw();
        self.0
            .wait(|known| {
                let nodes = known.nodes.get(&pid).into_iter().flatten();
                let living = nodes.rev().find(|node| node.first && node.born_by >= start);
                let ended = known.ended.get(&pid).filter(|ended| ended.0 >= start);
                let line = living.map(|node| node.line).or(ended.map(|ended| ended.1));
                match line {
                    Some(line) => Some(Some(line)),
                    None if known.closed || known.incomplete => Some(None),
                    None => None,
                }
            })
            .await
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.expected = known.expected.saturating_sub(1);
        if known.expected == 0 {
            known.ended = HashMap::new();
        }
    }
}

async fn run(board: Arc<Board>, mut events: Subscription, mut asked: mpsc::Receiver<Ask>) {
    let mut used = true;
    while used || board.known().has_orphans() {
        tokio::select! {
            event = events.next() => {
                let Some(event) = event else {
                    tracing::warn!("process events have ended; trees are scanned for from now on");
                    board.known().closed = true;
                    board.changed.notify_waiters();
                    return;
                };
                board.take(&event);
            }
            ask = asked.recv(), if used => {
                let Some(Ask { process, marks, reply }) = ask else {
                    used = false;
                    continue;
                };
                let answer = follow(&board, &mut events, process, &marks).await;
                // Nobody waits for it any more: the line is known all the same.
                let _ = reply.send(answer);
            }
        }
    }
}

/// Begins to follow a tree that was there before. `None` if not all of it can be.
async fn follow(
    board: &Board,
    events: &mut Subscription,
    root: ProcessRef,
    marks: &Arc<Marks>,
) -> Option<Line> {
    if let Err(error) = events.add_tree(root).await {
        tracing::debug!(process = %root, %error, "its tree cannot be followed");
        return None;
    }
    let mut followed = HashSet::from([root.pid.as_raw()]);
    loop {
        let table = read_table().await;
        let of = Arc::clone(marks);
        // Reads environments, so not here.
        let judged = tokio::task::spawn_blocking(move || {
            let look = Look::begin();
            let all = table.iter().copied();
            let marked: Vec<Stat> = all.filter(|it| of.is_root(it, &look)).collect();
            (table, marked)
        });
        // It can only panic; then there is the root at least.
        let (table, marked) = match judged.await {
            Ok(judged) => judged,
            Err(_) => (read_table().await, Vec::new()),
        };
        let known: HashSet<i32> = table
            .descending_from(|stat| followed.contains(&stat.pid))
            .iter()
            .map(|stat| stat.pid)
            .collect();
        let strays = marked
            .iter()
            .filter(|stat| !stat.is_dead() && !known.contains(&stat.pid));
        let mut news = false;
        for stat in strays {
            let Some(stray) = open_seen(stat) else {
                // It has ended, or there is no descriptor left.
                let lives = procfs::stat(stat.pid).is_some_and(|now| now.start == stat.start);
                if lives { return None } else { continue }
            };
            let (pid, inode) = (stray.pid(), stray.inode());
            if let Err(error) = events.add_tree(ProcessRef { pid, inode }).await {
                tracing::debug!(process = %pid, %error, "a part of a tree cannot be followed");
                if matches!(stray.readiness(), Ok(Readiness::Alive)) {
                    return None;
                }
            }
            news = true;
            followed.insert(pid.as_raw());
        }
        if !news {
            return Some(board.known().seed_tree(&table, root.pid, &followed));
        }
    }
}

/// Reads the whole process table, where that may block.
async fn read_table() -> Table {
    let read = tokio::task::spawn_blocking(Table::read).await;
    read.unwrap_or_else(|_| Table::read())
}

impl Board {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: &Event) {
        let mut known = self.known();
        match event.kind {
            EventKind::Fork { child } => {
                let Some(parent) = event.process else { return };
                let born_by = procfs::ticks_of_monotonic(event.time.as_nanos());
                known.forked(parent, child, born_by);
            }
            EventKind::Exit(_) => {
                let Some(process) = event.process else { return };
                known.exited(process);
            }
            EventKind::Lost(lost) => {
                tracing::warn!(%lost, "trees are scanned for from now on");
                known.incomplete = true;
            }
            _ => return,
        }
        drop(known);
        self.changed.notify_waiters();
    }
}

impl Known {
    fn new_line(&mut self) -> Line {
        self.lines += 1;
        Line(self.lines)
    }

    /// Whether a child of ours, alive or a zombie, is one that somebody else forked.
    fn has_orphans(&self) -> bool {
        let is_orphan = |pid: &i32| {
            let nodes = self.nodes.get(pid).into_iter().flatten();
            let mut unreaped = self.unreaped.values().flatten();
            nodes.into_iter().any(|node| !node.first) || unreaped.any(|(dead, _)| dead == pid)
        };
        procfs::own_children().iter().any(is_orphan)
    }

    fn add(&mut self, pid: i32, node: Node) {
        self.nodes.entry(pid).or_default().push(node);
        *self.living.entry(node.line).or_default() += 1;
    }

    fn is_empty(&self, line: Line) -> bool {
        self.living.get(&line).is_none_or(|count| *count == 0)
    }

    /// What descended from us before events began: each child of ours begins a line.
    fn seed_ourselves(&mut self, table: &Table) {
        let me = procfs::own_pid();
        let children: Vec<i32> = table
            .iter()
            .filter(|stat| stat.parent == me)
            .map(|stat| stat.pid)
            .collect();
        for child in children {
            let line = self.new_line();
            self.seed(table, child, &HashSet::from([child]), line);
        }
    }

    fn seed_tree(&mut self, table: &Table, root: Pid, all: &HashSet<i32>) -> Line {
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

    fn forked(&mut self, parent: ProcessKey, child: ProcessKey, born_by: u64) {
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

    fn exited(&mut self, process: ProcessKey) {
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
            for (pid, born_by) in self.unreaped.remove(&parent).unwrap_or_default() {
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
            let dead = self.unreaped.entry(parent).or_default();
            dead.push((pid, born_by));
        }
    }
}

/// Reaps a dead process if it came to us. Its parent, if that may still do so.
fn reap_if_ours(pid: i32, born_by: u64) -> Option<i32> {
    let seen = procfs::stat(pid)?;
    let pidfd = match Pidfd::open(Pid::new(pid)?) {
        Ok(pidfd) => pidfd,
        Err(error) if error.is_gone() => return None,
        // For want of a descriptor: another time.
        Err(_) => return Some(seen.parent),
    };
    // Read after the opening, so that it is of the one that is held, or of a later one.
    let stat = procfs::stat(pid).filter(|stat| stat.start <= born_by)?;
    if stat.parent != procfs::own_pid() {
        return Some(stat.parent);
    }
    reap(&pidfd);
    None
}

/// Reaps a child that is dead.
pub(super) fn reap(pidfd: &Pidfd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let id = || WaitId::PidFd(pidfd.as_fd());
    matches!(
        rustix::io::retry_on_intr(|| waitid(id(), options)),
        Ok(Some(_))
    )
}
