//! `host_stream [--current-runtime]`: subscribes to every process of the host,
//! counts the events that come out of the typed stream, and on SIGTERM or SIGINT
//! prints what there was. The hub's half of `compare.sh`.
//!
//! It prints `ready` when the subscription is live, and at the end one line of
//! `name=value` words, the same as `c/recv_loop.c` prints.

use std::error::Error;
use std::time::Duration;

use futures::StreamExt as _;
use kmonitor_event::{EventKind, EventMask};
use kmonitor_hub::{Filter, Hub, Subscription};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

/// After the signal, how long without an event counts as the end of the queue.
const QUIET: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Counts {
    events: u64,
    forks: u64,
    execs: u64,
    exits: u64,
    /// As the stream told, in its `Lost` events.
    lost: u64,
    losses_told: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let on_current_runtime = std::env::args()
        .nth(1)
        .is_some_and(|a| a == "--current-runtime");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(on_current_runtime))
}

async fn run(on_current_runtime: bool) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut builder = Hub::builder();
    if on_current_runtime {
        builder = builder.on_current_runtime();
    }
    let hub = builder.open().await?;
    let mut stream = hub
        .subscribe(Filter::host().events(EventMask::LIFECYCLE))
        .await?;
    // The looks at all processes that were there already are not part of it.
    tokio::time::sleep(QUIET).await;
    let cpu_before = cpu_time();
    println!("ready");

    let mut counts = Counts::default();
    loop {
        tokio::select! {
            biased;
            event = stream.next() => match event {
                Some(event) => counts.add(&event.kind),
                None => break,
            },
            _ = signals.next() => {
                counts.add_rest(&mut stream).await;
                break;
            }
        }
    }
    let stats = hub.stats().await?;
    let Counts {
        events,
        forks,
        execs,
        exits,
        lost,
        losses_told,
    } = counts;
    let cpu_us = (cpu_time() - cpu_before).as_micros();
    let dropped = stats.source.dropped;
    println!(
        "events={events} forks={forks} execs={execs} exits={exits} lost={lost} \
         losses_told={losses_told} kernel_dropped={dropped} facts={} cpu_us={cpu_us}",
        stats.facts
    );
    Ok(())
}

impl Counts {
    fn add(&mut self, kind: &EventKind) {
        match kind {
            EventKind::Fork { .. } => self.forks += 1,
            EventKind::Exec => self.execs += 1,
            EventKind::Exit(_) => self.exits += 1,
            EventKind::Lost(lost) => {
                self.losses_told += 1;
                self.lost += lost.count.unwrap_or(0);
                return;
            }
            _ => {}
        }
        self.events += 1;
    }

    /// What was queued when the signal came.
    async fn add_rest(&mut self, stream: &mut Subscription) {
        while let Ok(Some(event)) = tokio::time::timeout(QUIET, stream.next()).await {
            self.add(&event.kind);
        }
    }
}

/// What this process has used of the processors, in all its threads, in user and
/// kernel.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
