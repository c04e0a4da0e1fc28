//! The processes that the script tells of, and what of it was not read yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use kmonitor::source::{BATCH_FACTS_MAX, Fact, FactKind, Identity};
use kmonitor::{Pid, Timestamp};

/// What may wait to be read: one batch, with room for the loss at its end.
const QUEUE_FACTS_MAX: usize = BATCH_FACTS_MAX - 1;

/// Shared by the source, the probe, and `main`, which tells the script.
#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<State>>);

#[derive(Default)]
pub(crate) struct State {
    /// Those that live, with their parents.
    pub(crate) living: BTreeMap<Pid, (Identity, Option<Pid>)>,
    born: u64,
    pub(crate) listening: bool,
    pub(crate) queue: VecDeque<Fact>,
    /// How many facts found the queue full. None of them fits any more until it
    /// was read, so that the gap is in one place.
    lost: u64,
    pub(crate) ended: bool,
    wakers: Vec<Waker>,
}

impl State {
    /// Leaves a waker; whoever polls again and again is kept once.
    pub(crate) fn wake_on_change(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }

    /// Hands out what waits. What found the queue full is told at its place:
    /// behind what fitted, and before all that comes later.
    pub(crate) fn take_queued(&mut self, facts: &mut Vec<Fact>) {
        facts.extend(self.queue.drain(..));
        if self.lost > 0 {
            let count = Some(std::mem::take(&mut self.lost));
            facts.push(Fact::new(Timestamp::now(), FactKind::Lost { count }));
        }
    }

    fn happen(&mut self, kind: FactKind) -> Result<(), String> {
        let known = |pid| match self.living.contains_key(&pid) {
            true => Ok(()),
            false => Err(format!("there is no process {pid}")),
        };
        match kind {
            FactKind::Forked { child, .. } if known(child).is_ok() => {
                return Err(format!("there is a process {child} already"));
            }
            FactKind::Forked { parent, child } => {
                parent.map_or(Ok(()), known)?;
                // Not its pid alone: another process may get that later.
                let identity = Identity::StartTime(self.born);
                self.born += 1;
                self.living.insert(child, (identity, parent));
            }
            FactKind::GroupDead { process, .. } => {
                known(process)?;
                self.living.remove(&process);
            }
            FactKind::Execed { process } => known(process)?,
            _ => {}
        }
        match self.listening {
            true if self.queue.len() < QUEUE_FACTS_MAX && self.lost == 0 => {
                self.queue.push_back(Fact::new(Timestamp::now(), kind));
            }
            true => self.lost += 1,
            false => {} // Nobody wants it: not queued, and not lost.
        }
        Ok(())
    }
}

impl World {
    pub(crate) fn beginning_with(init: Pid) -> Self {
        let world = Self::default();
        let identity = Identity::StartTime(u64::MAX); // No count of births gets there.
        world.lock().living.insert(init, (identity, None));
        world
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets something happen, if it can.
    pub(crate) fn tell(&self, kind: FactKind) -> Result<(), String> {
        self.change(|state| state.happen(kind))
    }

    pub(crate) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Changes the state and wakes who waits for that: after the lock was let go,
    /// because who is woken will want it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let outcome = change(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        outcome
    }
}
