//! A source of one's own behind the same hub: processes that a script tells of,
//! with a probe that answers from the same script. See `EventSource` for the
//! contract; the comments here say how each part of it is kept.
//!
//! ```text
//! $ cargo run -p kmonitor-examples --bin custom_source [SCRIPT]
//! 1 fork: child 100
//! 100 exec
//! 100 fork: child 101
//! 101 exit: exited with status 0
//! 100 exit: exited with status 7
//! watched: 1 exited with status 0
//! ```
//! A script has lines `fork PARENT CHILD`, `exec PID` and `exit PID CODE`; at its
//! beginning there is process 1. Exits with 0, or with 1 on a line it cannot use.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::future::poll_fn;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use kmonitor::source::{
    BATCH_FACTS_MAX, Capabilities, Fact, FactKind, Identity, KernelInterest, LossReport,
    ProbeError, ProcessEntry, ProcessState, Reach, ReapFuture, SourceError, ThreadPhase,
    ThreadState,
};
use kmonitor::{
    EventMask, EventSource, Filter, Hub, Pid, ProcessProbe, SourceKind, Status, StatusSource,
    Timestamp, UnknownReason,
};

const SCRIPT: &str = "fork 1 100\nexec 100\nfork 100 101\nexit 101 0\nexit 100 7\nexit 1 0";

/// All that waits to be read fits into one batch, with a loss at its end.
const QUEUE_FACTS_MAX: usize = BATCH_FACTS_MAX - 1;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let text = match std::env::args().nth(1) {
        Some(path) => std::fs::read_to_string(path)?,
        None => SCRIPT.to_owned(),
    };
    let world = World::new();
    let source = ScriptSource {
        world: world.clone(),
        capabilities: Capabilities::new(
            SourceKind::Custom("script"),
            EventMask::LIFECYCLE,
            Reach::Host,
            LossReport::Exact,
        ),
    };
    let builder = Hub::builder().source(source).probe(world.clone());
    let hub = builder.open().await?;
    let mut events = hub.subscribe(Filter::tree(INIT)).await?;
    let watch = hub.watch(INIT).await?;
    for (line, number) in text.lines().zip(1..) {
        let told = world.tell(line);
        told.map_err(|error| format!("line {number}, {line:?}: {error}"))?;
    }
    world.change(|state| state.ended = true);
    while let Some(event) = events.next().await {
        match event.process {
            Some(process) => println!("{process} {}", event.kind),
            None => println!("- {}", event.kind),
        }
    }
    println!("watched: {}", watch.await?);
    Ok(())
}
