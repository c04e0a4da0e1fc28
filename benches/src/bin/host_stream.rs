//! `host_stream [--current-runtime] [--pid PID] [--stamps FILE]`: subscribes to every
//! process of the host, or to one, counts the events that come out of the typed
//! stream, and on SIGTERM or SIGINT prints what there was. The hub's half of
//! `compare.sh`.
//!
//! With a file it notes when the stream told of the exit of each process, and at the
//! end writes `pid nanoseconds` (`CLOCK_MONOTONIC`) for each there.
//!
//! It prints `ready` when the subscription is live, and at the end one line of
//! `name=value` words, the same as `c/recv_loop.c` prints.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use kmonitor_event::{Event, EventKind, EventMask, Pid};
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
    /// When each exit was told, where that is asked for.
    stamps: Option<Vec<(Pid, u128)>>,
}

#[derive(Default)]
struct Options {
    on_current_runtime: bool,
    pid: Option<Pid>,
    stamps: Option<PathBuf>,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or("a value is missing");
            match argument.as_str() {
                "--current-runtime" => options.on_current_runtime = true,
                "--pid" => options.pid = Some(value()?.parse()?),
                "--stamps" => options.stamps = Some(value()?.into()),
                other => return Err(format!("unknown: {other}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut builder = Hub::builder();
    if options.on_current_runtime {
        builder = builder.on_current_runtime();
    }
    let hub = builder.open().await?;
    let filter = options.pid.map_or_else(Filter::host, Filter::pid);
    let mut stream = hub.subscribe(filter.events(EventMask::LIFECYCLE)).await?;
    // The looks at all processes that were there already are not part of it.
    tokio::time::sleep(QUIET).await;
    let cpu_before = cpu_time();
    println!("ready");

    let mut counts = Counts::default();
    if options.stamps.is_some() {
        counts.stamps = Some(Vec::with_capacity(1 << 20));
    }
    loop {
        tokio::select! {
            biased;
            event = stream.next() => match event {
                Some(event) => counts.add(&event),
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
        stamps,
    } = counts;
    let cpu_us = (cpu_time() - cpu_before).as_micros();
    let dropped = stats.source.dropped;
    println!(
        "events={events} forks={forks} execs={execs} exits={exits} lost={lost} \
         losses_told={losses_told} kernel_dropped={dropped} facts={} cpu_us={cpu_us}",
        stats.facts
    );
    if let (Some(path), Some(stamps)) = (&options.stamps, stamps) {
        let mut file = BufWriter::new(File::create(path)?);
        for (pid, nanos) in stamps {
            writeln!(file, "{pid} {nanos}")?;
        }
        file.flush()?;
    }
    Ok(())
}

impl Counts {
    fn add(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Fork { .. } => self.forks += 1,
            EventKind::Exec => self.execs += 1,
            EventKind::Exit(_) => {
                self.exits += 1;
                if let (Some(stamps), Some(process)) = (&mut self.stamps, event.process) {
                    stamps.push((process.pid(), time(ClockId::Monotonic).as_nanos()));
                }
            }
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
            self.add(&event);
        }
    }
}

/// What this process has used of the processors, in all its threads, in user and
/// kernel.
fn cpu_time() -> Duration {
    time(ClockId::ProcessCPUTime)
}

fn time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
