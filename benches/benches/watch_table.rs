//! What 10 000 watches take: memory, descriptors, time; first on a source that
//! makes no system call, then of 10 000 real processes, which are killed at the
//! end to see that each exit is told.
//!
//! Memory is what the program asked its allocator for, per watch; resident memory
//! grows by whole pages and by what the allocator keeps, so it is given in total.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use kmonitor_benches::feed::Feed;
use kmonitor_benches::idlers::Idlers;
use kmonitor_benches::probe::AllAlive;
use kmonitor_benches::stats::{descriptors, load, resident_bytes, table};
use kmonitor_benches::sys::CountingAllocator;
use kmonitor_benches::workload::{Population, unmatched_sequential};
use kmonitor_event::Pid;
use kmonitor_hub::{Filter, Hub, HubBuilder, Subscription, Watch};
use kmonitor_source::SourceKind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const WATCHES: usize = 10_000;
const AT_ONCE: usize = 256;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    allow_descriptors()?;
    println!("{WATCHES} of each; {} at the start\n", load());
    let mut rows = Rows::new();
    runtime()?.block_on(on_a_feed(&mut rows))?;
    println!("{}", rows.finish());
    let mut rows = Rows::new();
    on_real_processes(&mut rows)?;
    println!("{}", rows.finish());
    Ok(())
}

/// The hub's own share: the source and the probe make no system call.
async fn on_a_feed(rows: &mut Rows) -> Result<(), Failure> {
    let population = Population::new(WATCHES);
    let feed = Feed::new(unmatched_sequential(&population));
    let builder = Hub::builder().source(feed.source()).probe(AllAlive);
    let hub = builder.on_current_runtime().open().await?;
    let pids = population.subscribed;

    let before = Usage::now();
    let watches = watch_all(&hub, &pids).await?;
    rows.add("Hub::watch, no system calls", before, watches.len());
    drop(watches);
    settled(&hub).await?;
    rows.add("(left after they were dropped)", before, WATCHES);

    let before = Usage::now();
    let subscriptions = subscribe_all(&hub, &pids).await?;
    rows.add(
        "Hub::subscribe, nothing queued",
        before,
        subscriptions.len(),
    );
    Ok(())
}

fn on_real_processes(rows: &mut Rows) -> Result<(), Failure> {
    let program = Path::new(env!("CARGO_BIN_EXE_idlers"));
    let began = Instant::now();
    let mut idlers = Idlers::start(program, WATCHES)?;
    println!(
        "{WATCHES} idle processes started in {:.1?}\n",
        began.elapsed()
    );
    let pids = idlers.pids().to_vec();

    let before = Usage::now();
    let watches: Vec<_> = pids.iter().map(|pid| kmonitor_pidfd::watch(*pid)).collect();
    let opened = watches.iter().filter(|w| w.process().is_some()).count();
    rows.add("free watch", before, opened);
    drop(watches);

    for (name, builder) in [
        ("Hub::watch, connector", connector as fn() -> HubBuilder),
        ("Hub::watch, connector, no holds", || {
            connector().holds_max(None)
        }),
        ("Hub::watch, pidfd source", || {
            Hub::builder().only(SourceKind::Pidfd)
        }),
    ] {
        // One runtime each, so that nothing is left of the one before.
        runtime()?.block_on(async {
            let hub = match builder().open().await {
                Ok(hub) => hub,
                Err(error) => {
                    println!("{name}: not measured: {error}");
                    return Ok(());
                }
            };
            let before = Usage::now();
            let watches = watch_all(&hub, &pids).await?;
            rows.add(name, before, watches.len());
            drop(watches);
            hub.close().await;
            Ok::<_, Failure>(())
        })?;
    }

    runtime()?.block_on(async {
        let hub = Hub::open().await?;
        let mut watches = watch_all(&hub, &pids).await?;
        let began = Instant::now();
        let ending = std::thread::spawn(move || idlers.end());
        let exits = join_all(watches.iter_mut().map(Watch::settled)).await;
        let took = began.elapsed();
        let told = exits.iter().flatten().count();
        let killed = exits.iter().flatten();
        let killed = killed
            .filter(|exit| exit.status.signal() == Some(9))
            .count();
        let source = hub.capabilities().source.kind;
        println!(
            "all killed and reaped at once: {told} exits told by one hub on the {source} source, \
             {killed} with the right status, within {took:.1?} of the first\n"
        );
        ending.join().map_err(|_| "the killing panicked")??;
        Ok(())
    })
}

fn connector() -> HubBuilder {
    Hub::builder().only(SourceKind::Connector)
}

async fn watch_all(hub: &Hub, pids: &[Pid]) -> Result<Vec<Watch>, Failure> {
    let mut watches = Vec::with_capacity(pids.len());
    for some in pids.chunks(AT_ONCE) {
        for watch in join_all(some.iter().map(|pid| hub.watch(*pid))).await {
            watches.push(watch?);
        }
    }
    Ok(watches)
}

async fn subscribe_all(hub: &Hub, pids: &[Pid]) -> Result<Vec<Subscription>, Failure> {
    let mut subscriptions = Vec::with_capacity(pids.len());
    for some in pids.chunks(AT_ONCE) {
        let subscribed = some.iter().map(|pid| hub.subscribe(Filter::pid(*pid)));
        for subscription in join_all(subscribed).await {
            subscriptions.push(subscription?);
        }
    }
    Ok(subscriptions)
}

/// Waits until the hub has swept up what was dropped.
async fn settled(hub: &Hub) -> Result<(), Failure> {
    while hub.stats().await?.watches > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build()
}

/// A free watch holds a descriptor each, and so does a hub on the pidfd source.
fn allow_descriptors() -> Result<(), Failure> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}

/// What the program uses at one moment.
#[derive(Clone, Copy)]
struct Usage {
    at: Instant,
    bytes: usize,
    resident: usize,
    descriptors: usize,
}

impl Usage {
    fn now() -> Self {
        Self {
            bytes: ALLOCATOR.bytes(),
            resident: resident_bytes(),
            descriptors: descriptors(),
            at: Instant::now(),
        }
    }
}

struct Rows(Vec<Vec<String>>);

impl Rows {
    fn new() -> Self {
        let head = ["", "µs each", "bytes each", "resident, MiB", "descriptors"];
        Self(vec![head.map(str::to_owned).into()])
    }

    /// What came on top since `before`, with so many made.
    fn add(&mut self, name: &str, before: Usage, made: usize) {
        let took = before.at.elapsed();
        let now = Usage::now();
        let more = |now: usize, before: usize| now as f64 - before as f64;
        self.0.push(vec![
            name.to_owned(),
            format!("{:.1}", took.as_secs_f64() * 1e6 / made as f64),
            format!("{:.0}", more(now.bytes, before.bytes) / made as f64),
            format!(
                "{:+.1}",
                more(now.resident, before.resident) / f64::from(1 << 20)
            ),
            format!("{:+}", more(now.descriptors, before.descriptors)),
        ]);
    }

    fn finish(self) -> String {
        table(&self.0)
    }
}
