//! A source of one's own behind the same hub: processes that a script tells of,
//! and (in `probe.rs`) a probe that answers from the same script. The comments in
//! `ScriptSource` say how each part of `EventSource`'s contract is kept.
//!
//! ```text
//! $ cargo run -p kmonitor-examples --bin custom_source [SCRIPT]
//! 1 fork: child 100
//! 100 exec
//! 100 fork: child 101
//! 101 exit: exited with status 0
//! 100 exit: exited with status 7
//! 1 exit: exited with status 0
//! watched: 1 exited with status 0
//! ```
//! A script has lines `fork PARENT CHILD`, `exec PID` and `exit PID CODE`; at its
//! beginning there is process 1. Exits with 0, or with 1 on a line it cannot use.

mod probe;
mod world;

use std::error::Error;
use std::task::{Context, Poll};

use kmonitor::source::{
    BATCH_FACTS_MAX, Capabilities, Fact, FactKind, KernelInterest, LossReport, Reach, SourceError,
};
use kmonitor::{EventMask, EventSource, Filter, Hub, Pid, SourceKind, Timestamp};

use crate::world::World;

const SCRIPT: &str = "fork 1 100\nexec 100\nfork 100 101\nexit 101 0\nexit 100 7\nexit 1 0";

/// What may wait to be read: one batch, with room for the loss at its end.
const QUEUE_FACTS_MAX: usize = BATCH_FACTS_MAX - 1;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let script = match std::env::args().nth(1) {
        Some(path) => std::fs::read_to_string(path)?,
        None => SCRIPT.to_owned(),
    };
    let init = Pid::try_from(1)?;
    let world = World::beginning_with(init);
    let hub = Hub::builder()
        .source(ScriptSource::new(world.clone()))
        .probe(world.clone())
        .open()
        .await?;
    let mut events = hub.subscribe(Filter::tree(init)).await?;
    let watch = hub.watch(init).await?;
    for (line, number) in script.lines().zip(1..) {
        let told = world.tell(line);
        told.map_err(|error| format!("line {number}, {line:?}: {error}"))?;
    }
    world.end();
    while let Some(event) = events.next().await {
        match event.process {
            Some(process) => println!("{process} {}", event.kind),
            None => println!("- {}", event.kind),
        }
    }
    println!("watched: {}", watch.await?);
    Ok(())
}

struct ScriptSource {
    world: World,
    capabilities: Capabilities,
}

impl ScriptSource {
    fn new(world: World) -> Self {
        // No more than is true: who asks for threads or users is then refused.
        let (events, loss) = (EventMask::LIFECYCLE, LossReport::Exact);
        let kind = SourceKind::Custom("script");
        Self {
            world,
            capabilities: Capabilities::new(kind, events, Reach::Host, loss),
        }
    }
}

impl EventSource for ScriptSource {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Ready when the interest is in force. That is at once: the script is told
    /// under the same lock. It may deliver more than is wanted (here: whatever
    /// there is), but nothing at all where nothing is wanted.
    fn poll_interest(
        &mut self,
        _: &mut Context<'_>,
        interest: &KernelInterest,
    ) -> Poll<Result<(), SourceError>> {
        self.world.lock().listening = !interest.is_empty();
        Poll::Ready(Ok(()))
    }

    /// Pending only with nothing queued, and only after the waker was left where
    /// the next fact finds it. Both under one lock, or a fact could come between
    /// the look and the leaving, and nobody would be woken for it.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        facts: &mut Vec<Fact>,
    ) -> Poll<Result<(), SourceError>> {
        let mut state = self.world.lock();
        if state.queue.is_empty() && !state.ended {
            state.wake_on_change(cx.waker());
            return Poll::Pending;
        }
        if state.queue.is_empty() {
            return Poll::Ready(Err(SourceError::Ended)); // After the last fact, not before.
        }
        facts.extend(state.queue.drain(..));
        // What found the queue full is told at its place: behind what fitted.
        let count = std::mem::take(&mut state.lost);
        if count > 0 {
            let count = Some(count);
            facts.push(Fact::new(Timestamp::now(), FactKind::Lost { count }));
        }
        Poll::Ready(Ok(()))
    }

    /// Stops listening; what was queued before still counts.
    fn close(&mut self, facts: &mut Vec<Fact>) -> Result<(), SourceError> {
        let mut state = self.world.lock();
        state.listening = false;
        facts.extend(state.queue.drain(..));
        Ok(())
    }
}
