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

mod lineage;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kmonitor_event::{Event, EventKind, EventMask, Pid, ProcessRef};
use kmonitor_hub::{Filter, Hub, SubscribeError, Subscription};
use kmonitor_pidfd::Readiness;
use tokio::sync::{Notify, mpsc, oneshot};

use self::lineage::Known;
pub(super) use self::lineage::Line;
use super::identity::open_seen;
use super::kin::Table;
use super::marks::Marks;
use super::procfs::{self, Stat};
use crate::ask::ask;

/// Events may queue while this program is busy. Beyond it they are counted as lost,
/// and scans of `/proc` take over.
const QUEUE_EVENTS: usize = 1 << 16;

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
    ///
    /// The other returned is told if events end before the census does.
    pub(super) async fn open(
        hub: &Hub,
    ) -> Result<(Arc<Self>, oneshot::Receiver<()>), SubscribeError> {
        let me = Pid::current();
        let queue = std::num::NonZeroUsize::new(QUEUE_EVENTS);
        let filter = Filter::descendants(me)
            .events(EventMask::FORK | EventMask::EXIT)
            .queue_events(queue.unwrap_or(std::num::NonZeroUsize::MIN))
            .keep_open();
        let events = hub.subscribe(filter).await?;
        let (asks, asked) = mpsc::channel(64);
        let board = Arc::new(Board::default());
        match read_table().await {
            Ok(table) => board.known().seed_ourselves(&table),
            Err(error) => {
                tracing::warn!(%error, "trees are scanned for");
                board.known().incomplete = true;
            }
        }
        let (tell_end, end) = oneshot::channel();
        tokio::spawn(run(Arc::clone(&board), events, asked, tell_end));
        Ok((Arc::new(Self { board, asks }), end))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.board.known()
    }

    /// To be had before a child is forked whose line will be asked for.
    pub(super) fn expect_child(self: &Arc<Self>) -> Expected {
        self.known().expect();
        Expected(Arc::clone(self))
    }

    /// The line that begins with any process, and those that descend from it now or
    /// are marked as such: they may have lost their parents before we began.
    pub(super) async fn line_of(&self, process: ProcessRef, marks: &Arc<Marks>) -> Option<Line> {
        let marks = Arc::clone(marks);
        let question = |reply| Ask {
            process,
            marks,
            reply,
        };
        ask(&self.asks, question).await?
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
    pub(super) fn members(&self, line: Line) -> io::Result<Vec<Stat>> {
        let candidates = self.known().of_line(line);
        let mut members = Vec::new();
        for (pid, born_by) in candidates {
            let seen = procfs::look_at(pid)?;
            members.extend(seen.filter(|stat| stat.start <= born_by && !stat.is_dead()));
        }
        Ok(members)
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
                let line = known.line_of_child(pid, start);
                (line.is_some() || known.closed || known.incomplete).then_some(line)
            })
            .await
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.known().unexpect();
    }
}

async fn run(
    board: Arc<Board>,
    mut events: Subscription,
    mut asked: mpsc::Receiver<Ask>,
    tell_end: oneshot::Sender<()>,
) {
    let mut used = true;
    while used || board.known().has_orphans() {
        tokio::select! {
            event = events.next() => {
                let Some(event) = event else {
                    tracing::warn!("process events have ended; trees are scanned for from now on");
                    board.known().closed = true;
                    board.changed.notify_waiters();
                    // Nobody may care.
                    let _ = tell_end.send(());
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

/// How often a tree is looked at that changes while it is being followed.
const FOLLOW_LOOKS_MAX: usize = 16;

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
    for _ in 0..FOLLOW_LOOKS_MAX {
        let of = Arc::clone(marks);
        // Reads environments, so not here.
        let judged = tokio::task::spawn_blocking(move || {
            let table = Table::read()?;
            let verdict = of.roots(&table)?;
            io::Result::Ok((table, verdict))
        });
        let (table, verdict) = match judged.await {
            Ok(Ok((table, verdict))) if verdict.undecided.is_empty() => (table, verdict),
            // Who belongs to it is not known.
            _ => return None,
        };
        // Whoever is gone may have forked before.
        let mut news = table.any_vanished || !verdict.gone.is_empty();
        let known: HashSet<i32> = table
            .descending_from(|stat| followed.contains(&stat.pid))
            .iter()
            .map(|stat| stat.pid)
            .collect();
        let strays = verdict
            .roots
            .iter()
            .filter(|stat| !stat.is_dead() && !known.contains(&stat.pid));
        for stat in strays {
            let stray = match open_seen(stat) {
                Ok(Some(stray)) => stray,
                Ok(None) => {
                    news = true;
                    continue;
                }
                // For want of a descriptor, mostly.
                Err(_) => return None,
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
    tracing::debug!(process = %root, "its tree changes too fast to be followed");
    None
}

/// Reads the whole process table, where that may block.
async fn read_table() -> io::Result<Table> {
    tokio::task::spawn_blocking(Table::read).await?
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
