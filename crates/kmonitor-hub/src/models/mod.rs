//! What the dispatcher and its subscribers do at once, in every order that there
//! is: a model checker runs each of these with all of them.
//!
//! `RUSTFLAGS='--cfg kmonitor_loom' cargo test -p kmonitor-hub --lib models::`
//!
//! Locks and wakers are the checker's, by [`crate::sync`]. Those inside of tokio's
//! channels are not: to the checker a call of those is one step.

mod latch;
mod line;
mod queue;
mod sweep;

use std::sync::Arc;

use kmonitor_event::{Event, EventKind, EventMask, Pid, ProcessKey, Timestamp};
use tokio::sync::mpsc;

use crate::command::{COMMANDS_MAX, Command, Line, SubscriptionLease, Sweep};
use crate::queue::Queue;
use crate::router::{Router, SubscriptionId};
use crate::subscription::Subscription;
use crate::sync::Mutex;

const PREEMPTIONS_MAX: usize = 3;

/// Runs a model with every order in which threads are interrupted so often at most
/// where they could go on. Without a bound some take hours; what goes wrong at all
/// goes wrong, as experience has it, with two.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // `LOOM_MAX_PREEMPTIONS` asks for more.
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS_MAX));
    builder.check(run);
}

/// A line, and the dispatcher's end of it.
fn line() -> (Line, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let ended = Arc::new(Mutex::new(None));
    (Line { commands, ended }, receiver)
}

fn process() -> ProcessKey {
    ProcessKey::new(Pid::new(7).unwrap(), 1)
}

/// The event with this number, which its time tells.
fn numbered(number: u64) -> Event {
    Event::new(Timestamp::from_nanos(number), None, EventKind::Exec)
}

/// A subscription as the dispatcher hands it out.
fn subscription(
    router: &mut Router,
    sweep: &Arc<Sweep>,
    line: &Line,
    capacity: usize,
) -> (SubscriptionId, Subscription) {
    let queue = Arc::new(Queue::new(capacity));
    let id = router.insert(Arc::clone(&queue), EventMask::all(), false);
    let sweep = Arc::clone(sweep);
    let lease = SubscriptionLease { id, queue, sweep };
    (id, Subscription::new(lease, line.clone()))
}
