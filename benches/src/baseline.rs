//! What the hub is compared with.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kmonitor_event::{Event, EventKind, EventMask, Pid, ProcessKey, Timestamp};
use kmonitor_source::{Fact, FactKind};
use rustc_hash::FxHashMap;
use tokio::sync::broadcast;

/// `tokio::sync::broadcast`, each receiver having the filter.
///
/// In the form that costs least: no tasks and no wake-ups, but one loop over all
/// receivers on one thread, each of which takes a whole batch at a time.
pub struct Broadcast {
    sender: broadcast::Sender<Event>,
    receivers: Vec<(Pid, broadcast::Receiver<Event>)>,
    batch: usize,
}

impl Broadcast {
    /// One receiver for each process, and room for so many events.
    #[must_use]
    pub fn new(pids: &[Pid], batch: usize) -> Self {
        let (sender, _) = broadcast::channel(batch);
        let receivers = pids.iter().map(|pid| (*pid, sender.subscribe())).collect();
        Self {
            sender,
            receivers,
            batch,
        }
    }

    /// Sends an exec of each of these processes (at most a batch of them), and has
    /// every receiver look at it. Returns how many were wanted by their receiver.
    ///
    /// # Panics
    /// If there are more than a batch: they would be lost.
    pub fn run(&mut self, pids: &[Pid]) -> (Duration, usize) {
        assert!(pids.len() <= self.batch, "more than the channel holds");
        let mut matches = 0;
        let began = Instant::now();
        for pid in pids {
            let key = ProcessKey::new(*pid, 1);
            let event = Event::new(Timestamp::default(), Some(key), EventKind::Exec);
            // Fails only without receivers.
            let _ = self.sender.send(event);
        }
        for (pid, receiver) in &mut self.receivers {
            while let Ok(event) = receiver.try_recv() {
                let wanted =
                    event.pid() == Some(*pid) && event.is_selected_by(EventMask::LIFECYCLE);
                matches += usize::from(wanted);
            }
        }
        (began.elapsed(), matches)
    }
}

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("receivers", &self.receivers.len())
            .finish_non_exhaustive()
    }
}

/// The least that hands an event to the one who wants it: a hash, an `Arc` and a
/// queue under a lock. No processes are tracked, no masks looked at, nobody is
/// woken and nothing is bounded, so no hub can be as cheap.
///
/// It tells how much of a cost is this machine's memory: with many subscriptions
/// each queue lies in memory that is in no cache.
#[derive(Debug)]
pub struct Lean {
    index: FxHashMap<Pid, Arc<Mutex<VecDeque<Event>>>>,
}

impl Lean {
    /// One queue for each process.
    #[must_use]
    pub fn new(pids: &[Pid]) -> Self {
        let queues = pids.iter().map(|pid| (*pid, Arc::default()));
        Self {
            index: queues.collect(),
        }
    }

    /// Queues the execs among these facts, and empties the queues, untimed.
    pub fn run(&mut self, facts: &[Fact]) -> Duration {
        let began = Instant::now();
        for fact in facts {
            if let FactKind::Execed { process } = fact.kind
                && let Some(queue) = self.index.get(&process)
            {
                let key = ProcessKey::new(process, 1);
                let event = Event::new(fact.time, Some(key), EventKind::Exec);
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.push_back(event);
            }
        }
        let took = began.elapsed();
        for fact in facts {
            if let FactKind::Execed { process } = fact.kind
                && let Some(queue) = self.index.get(&process)
            {
                queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        }
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_receiver_finds_its_own() {
        let pids: Vec<Pid> = (1..=20).filter_map(Pid::new).collect();
        let mut broadcast = Broadcast::new(&pids[..10], 32);
        assert_eq!(broadcast.run(&pids).1, 10);
        assert_eq!(broadcast.run(&pids[10..]).1, 0);
    }
}
