//! Looking now and then whether somebody is dead without a word.
//!
//! A source tells each loss that it knows of. Of a message that the kernel had no memory
//! for nobody knows, but where all messages pass (`sequence.rs` of the connector): whoever
//! waited for an end that was in it would wait for ever. So those who are tracked are
//! looked at, a few at a time. Who was dead at one look, and is untold at the next when all
//! that was queued has been read, is the sign of a loss, which is then told and made good
//! as any other (`resync.rs`).

use std::time::Duration;

use kmonitor_event::{ProcessKey, Timestamp};
use kmonitor_source::{Fact, FactKind, LossReport};

use crate::dispatcher::{Dispatcher, Stop};

/// Between two looks. Far longer than the kernel takes from a death to its report.
const PERIOD: Duration = Duration::from_secs(10);

/// How many processes are looked at at a time: at some 6 µs each, for a millisecond and a
/// half.
const SLICE: usize = 256;

/// How far the looking has come.
#[derive(Debug, Default)]
pub(crate) struct Patrol {
    /// When to look next, on the clock of deadlines; never while nobody is tracked.
    next_at: Option<Duration>,
    /// Where in the table to go on.
    place: usize,
    /// Who was dead at the last look, and untold. No more than [`SLICE`].
    dead: Vec<ProcessKey>,
}

impl Patrol {
    pub(crate) fn next_look(&self) -> Option<Duration> {
        self.next_at
    }
}

impl Dispatcher {
    /// Looks, if it is time to.
    pub(super) async fn patrol(&mut self) -> Result<(), Stop> {
        if self.tracker.is_empty() || self.source.capabilities().loss == LossReport::Lossless {
            self.patrol = Patrol::default();
            return Ok(());
        }
        let now = self.elapsed();
        let next_at = &mut self.patrol.next_at;
        if *next_at.get_or_insert(now.saturating_add(PERIOD)) > now {
            return Ok(());
        }
        *next_at = Some(now.saturating_add(PERIOD));
        let dead = std::mem::take(&mut self.patrol.dead);
        if !dead.is_empty() && self.drain().await? {
            let probe = &*self.probe;
            let mut untold = dead.iter().filter(|key| self.tracker.is_dead(**key, probe));
            if let Some(process) = untold.next() {
                tracing::warn!(%process, "nobody told of an end: events must have been lost");
                // Since when is not known.
                self.resync.note_loss(self.read_up_to, Timestamp::default());
                let count = None;
                let loss = Fact::new(self.probe.now(), FactKind::Lost { count });
                self.facts.push(loss);
                self.take_in();
                return Ok(());
            }
        }
        let from = self.patrol.place;
        let probe = &*self.probe;
        (self.patrol.dead, self.patrol.place) = self.tracker.dead_among(from, SLICE, probe);
        Ok(())
    }
}
