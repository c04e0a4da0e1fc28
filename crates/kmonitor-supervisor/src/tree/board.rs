//! The state of a tree for all to see, and who reads its events.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::output::OutputRing;
use crate::spec::ChildPath;
use crate::words::{Cause, ChildState, ChildStatus, Event, EventKind, Snapshot};

/// One per tree, shared by all its supervisors. Each step of a supervisor is written
/// to it as a whole, so a snapshot never shows half of one.
#[derive(Debug)]
pub(super) struct Board {
    root: ChildPath,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seq: u64,
    children: BTreeMap<ChildPath, Entry>,
    readers: Vec<Reader>,
    next_reader: u64,
    entries: u64,
    ended: bool,
}

#[derive(Debug)]
struct Entry {
    id: EntryId,
    seen: watch::Sender<Seen>,
    output: Arc<OutputRing>,
}

/// Which child, among all that ever had its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId(u64);

/// What the holders of a child's handle see.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) status: Arc<ChildStatus>,
    /// It was removed, or the tree has ended: nothing will change any more.
    pub(super) gone: bool,
}

#[derive(Debug)]
struct Reader {
    id: u64,
    queue: VecDeque<Event>,
    max: usize,
    /// The queue overflowed; until it has been resynchronised it gets nothing.
    lost: bool,
    waker: Option<Waker>,
}

/// What happened to one child or supervisor.
pub(super) struct News {
    pub(super) path: ChildPath,
    pub(super) kind: EventKind,
    pub(super) cause: Cause,
}

impl Board {
    pub(super) fn new(root: ChildPath) -> Arc<Self> {
        Arc::new(Self {
            root,
            began: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// The path of the tree's own supervisor.
    pub(super) fn root(&self) -> &ChildPath {
        &self.root
    }

    /// When the tree was started; all its supervisors count from here.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child that will be told of.
    pub(super) fn enter(&self, path: &ChildPath, output: Arc<OutputRing>) {
        let mut state = self.lock();
        if let Some(entry) = state.children.get_mut(path) {
            entry.output = output;
            return;
        }
        let status = ChildStatus {
            path: path.clone(),
            state: ChildState::Waiting { until: None },
            generation: 0,
            process: None,
            origin: None,
            scope: None,
            restarts: 0,
            ended: None,
            failure: None,
        };
        let (seen, _) = watch::channel(Seen {
            status: Arc::new(status),
            gone: false,
        });
        state.entries += 1;
        let id = EntryId(state.entries);
        let entry = Entry { id, seen, output };
        state.children.insert(path.clone(), entry);
    }

    /// Forgets a child and all below it.
    pub(super) fn forget(&self, path: &ChildPath) {
        let mut state = self.lock();
        let below = format!("{path}/");
        let gone = |other: &ChildPath| other == path || other.as_str().starts_with(&below);
        state.children.retain(|other, entry| {
            let gone = gone(other);
            if gone {
                entry.seen.send_modify(|seen| seen.gone = true);
            }
            !gone
        });
    }

    /// Forgets the children of a supervisor that are none any more.
    pub(super) fn keep_only(&self, parent: &ChildPath, keep: &[ChildPath]) {
        let below = format!("{parent}/");
        let is_child = |path: &ChildPath| {
            let rest = path.as_str().strip_prefix(&below);
            rest.is_some_and(|rest| !rest.contains('/'))
        };
        let stale: Vec<ChildPath> = self
            .lock()
            .children
            .keys()
            .filter(|path| is_child(path) && !keep.contains(path))
            .cloned()
            .collect();
        for path in stale {
            self.forget(&path);
        }
    }

    /// One step of a supervisor: how its children are now, and what happened.
    pub(super) fn publish(&self, statuses: Vec<ChildStatus>, news: Vec<News>) {
        if statuses.is_empty() && news.is_empty() {
            return;
        }
        let at = self.now();
        let mut wakers = Vec::new();
        let mut state = self.lock();
        for status in statuses {
            if let Some(entry) = state.children.get(&status.path) {
                let status = Arc::new(status);
                entry.seen.send_modify(|seen| seen.status = status);
            }
        }
        for News { path, kind, cause } in news {
            state.seq += 1;
            let event = Event {
                seq: state.seq,
                at,
                path,
                kind,
                cause,
            };
            tracing::debug!(seq = event.seq, child = %event.path, "{} ({})", event.kind, event.cause);
            for reader in &mut state.readers {
                reader.push(&event);
                wakers.extend(reader.waker.take());
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Nothing will happen any more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        for entry in state.children.values() {
            entry.seen.send_modify(|seen| seen.gone = true);
        }
        let readers = state.readers.iter_mut();
        let wakers: Vec<Waker> = readers.filter_map(|reader| reader.waker.take()).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot_of(&self.lock())
    }

    fn snapshot_of(&self, state: &State) -> Snapshot {
        let entries = state.children.values();
        Snapshot {
            seq: state.seq,
            at: self.now(),
            children: entries
                .map(|entry| ChildStatus::clone(&entry.seen.borrow().status))
                .collect(),
        }
    }

    pub(super) fn look(&self, path: &ChildPath) -> Option<(EntryId, watch::Receiver<Seen>)> {
        let state = self.lock();
        let entry = state.children.get(path)?;
        Some((entry.id, entry.seen.subscribe()))
    }

    /// Whether this child still has the path.
    pub(super) fn has(&self, path: &ChildPath, id: EntryId) -> bool {
        let state = self.lock();
        state.children.get(path).is_some_and(|entry| entry.id == id)
    }

    pub(super) fn status(&self, path: &ChildPath) -> Option<Arc<ChildStatus>> {
        let state = self.lock();
        let entry = state.children.get(path)?;
        Some(Arc::clone(&entry.seen.borrow().status))
    }

    pub(super) fn output(&self, path: &ChildPath, id: EntryId) -> Option<Arc<OutputRing>> {
        let state = self.lock();
        let entry = state.children.get(path).filter(|entry| entry.id == id)?;
        Some(Arc::clone(&entry.output))
    }

    /// A reader of all events after the snapshot.
    pub(super) fn subscribe(&self, max: usize) -> (Snapshot, u64) {
        let mut state = self.lock();
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.push(Reader {
            id,
            queue: VecDeque::new(),
            max: max.max(1),
            lost: false,
            waker: None,
        });
        (self.snapshot_of(&state), id)
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        self.lock().readers.retain(|reader| reader.id != id);
    }

    pub(super) fn poll_next(&self, id: u64, cx: &Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.lock();
        let ended = state.ended;
        let Some(place) = state.readers.iter().position(|reader| reader.id == id) else {
            return Poll::Ready(None);
        };
        let reader = &mut state.readers[place];
        if let Some(event) = reader.queue.pop_front() {
            return Poll::Ready(Some(event));
        }
        if std::mem::take(&mut reader.lost) {
            let snapshot = self.snapshot_of(&state);
            return Poll::Ready(Some(resync(self.root.clone(), snapshot)));
        }
        if ended {
            return Poll::Ready(None);
        }
        reader.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn resync(path: ChildPath, snapshot: Snapshot) -> Event {
    Event {
        seq: snapshot.seq,
        at: snapshot.at,
        path,
        kind: EventKind::Resync(Arc::new(snapshot)),
        cause: Cause::Itself,
    }
}

impl Reader {
    fn push(&mut self, event: &Event) {
        if self.lost {
            return;
        }
        if self.queue.len() < self.max {
            self.queue.push_back(event.clone());
        } else {
            // What is queued is part of what the snapshot will tell.
            self.queue.clear();
            self.lost = true;
        }
    }
}
