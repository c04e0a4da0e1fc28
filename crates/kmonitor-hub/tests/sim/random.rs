//! Random kernels: whatever happens in them, the stream tells the truth.

use std::collections::{BTreeMap, HashMap};

use kmonitor_event::{Event, EventKind, EventMask, Pid, ProcessKey, Status};
use kmonitor_hub::{Filter, Hub, Subscription};
use kmonitor_source::sim::{SimConfig, SimKernel};

use crate::support::{drain, hub_on, subscribe, within};

/// What is run where nobody asks for other seeds.
pub(crate) const DEFAULT_SEEDS: std::ops::Range<u64> = 0..150;

/// Seeds to run; each failure names its own. `KMONITOR_SEED=7` runs that one,
/// `KMONITOR_SEEDS=5000` so many.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let number = |name| Some(std::env::var(name).ok()?.parse().expect("a number"));
    match number("KMONITOR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KMONITOR_SEEDS").unwrap_or(DEFAULT_SEEDS.end),
    }
}

async fn random_host(seed: u64) -> (SimKernel, Hub, Subscription) {
    let config = SimConfig::default()
        .seed(seed)
        .pid_max(if seed.is_multiple_of(3) { 40 } else { 400 })
        .exit_delay(if seed.is_multiple_of(2) { 0.3 } else { 0.0 })
        .status_readable(!seed.is_multiple_of(7));
    let (kernel, hub) = hub_on(config).await;
    let stream = subscribe(&hub, Filter::host().events(EventMask::all())).await;
    (kernel, hub, stream)
}

/// Lets the hub read and act.
async fn turn_to_the_hub() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

/// How many deaths were told with their status and without.
#[derive(Default)]
struct Tally {
    known: usize,
    unknown: usize,
}

impl Tally {
    /// Compares what the stream of one kernel told with the truth about it.
    fn judge(&mut self, seed: u64, kernel: &SimKernel, events: &[Event]) {
        let mut deaths: HashMap<Pid, Vec<i32>> = HashMap::new();
        let mut truth = kernel.truth();
        truth.sort_by_key(|death| death.born);
        for death in truth {
            deaths.entry(death.pid).or_default().push(death.status);
        }
        let told = told_by(seed, events);
        for (pid, statuses) in &told {
            let truth = deaths.get(pid).map(Vec::as_slice).unwrap_or_default();
            assert_eq!(
                statuses.len(),
                truth.len(),
                "seed {seed}: {pid} was told {statuses:x?}, truth {truth:x?}"
            );
            for (status, truth) in statuses.values().zip(truth) {
                match status {
                    Status::Known { .. } => {
                        self.known += 1;
                        assert_eq!(status.raw(), Some(*truth), "seed {seed}: {pid}");
                    }
                    _ => self.unknown += 1,
                }
            }
        }
        for pid in deaths.keys() {
            assert!(told.contains_key(pid), "seed {seed}: {pid} was never told");
        }
    }

    /// Most statuses are to be known. One kernel alone proves nothing there.
    fn conclude(&self) {
        let Self { known, unknown } = *self;
        println!(
            "seeds {:?}: {known} statuses right, {unknown} reasoned unknowns",
            seeds()
        );
        if seeds().count() > 20 {
            assert!(known > 20 && unknown * 20 < known, "{known} {unknown}");
        }
    }
}

/// The exits in the stream, which are the last that it tells of each process: by
/// incarnation, because a death whose status takes time is told late.
fn told_by(seed: u64, events: &[Event]) -> HashMap<Pid, BTreeMap<u64, Status>> {
    let mut ended: HashMap<ProcessKey, Status> = HashMap::new();
    let mut told: HashMap<Pid, BTreeMap<u64, Status>> = HashMap::new();
    for event in events {
        let Some(key) = event.process else {
            assert_eq!(event.kind.name(), "other", "seed {seed}: {event}");
            continue;
        };
        assert!(
            !ended.contains_key(&key),
            "seed {seed}: {event} after the exit of {key:?}"
        );
        if let EventKind::Exit(status) = event.kind {
            ended.insert(key, status);
            let of_pid = told.entry(key.pid()).or_default();
            of_pid.insert(key.incarnation(), status);
        }
    }
    told
}

/// Every process that was seen alive exits once in the stream, after whatever
/// else it did, with the status that `waitpid` gave, or a reasoned unknown.
#[tokio::test(start_paused = true)]
async fn host_stream_tells_each_death_once_and_right() {
    let mut tally = Tally::default();
    for seed in seeds() {
        let (kernel, _hub, mut stream) = random_host(seed).await;
        for _ in 0..40 {
            kernel.run(15);
            turn_to_the_hub().await;
        }
        kernel.settle();
        let events = drain(&mut stream).await;
        tally.judge(seed, &kernel, &events);
    }
    tally.conclude();
}

/// The same while watches come and go, several of one process at once; and each
/// that is kept resolves if, and only if, its process has died.
#[tokio::test(start_paused = true)]
async fn host_stream_with_watches_coming_and_going() {
    let mut tally = Tally::default();
    let (mut resolved, mut waiting) = (0, 0);
    for seed in seeds() {
        let (kernel, hub, mut stream) = random_host(seed).await;
        let mut kept = Vec::new();
        for turn in 0..40usize {
            kernel.run(15);
            let pids = kernel.processes();
            let pid = pids[(seed as usize * 7 + turn * 13) % pids.len()];
            let other = pids[(seed as usize + turn * 5) % pids.len()];
            let (first, second, third) =
                futures::join!(hub.watch(pid), hub.watch(pid), hub.watch(other));
            if turn % 3 == 0 {
                kept.extend(first.ok());
            }
            drop((second, third));
            turn_to_the_hub().await;
        }
        kernel.settle();
        let events = drain(&mut stream).await;
        let (processes, zombies) = (kernel.processes(), kernel.zombies());
        for mut watch in kept {
            let key = watch.process();
            let pid = key.pid();
            let same = processes.contains(&pid) && key.inode() == kernel.inode(pid);
            let dead = !same || zombies.contains(&pid);
            let exit = within(watch.settled()).await;
            assert_eq!(exit.is_some(), dead, "seed {seed}: {key:?} {exit:?}");
            if dead {
                resolved += 1;
            } else {
                waiting += 1;
            }
        }
        tally.judge(seed, &kernel, &events);
    }
    println!("{resolved} watches resolved, {waiting} rightly did not");
    if seeds().count() > 20 {
        assert!(resolved > 20 && waiting > 20, "{resolved} {waiting}");
    }
    tally.conclude();
}
