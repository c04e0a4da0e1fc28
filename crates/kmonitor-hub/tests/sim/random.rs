//! Random kernels: whatever happens in them, the stream tells the truth.

use std::collections::{BTreeMap, HashMap};

use kmonitor_event::{EventKind, EventMask, Pid, ProcessKey, Status};
use kmonitor_hub::Filter;
use kmonitor_source::sim::SimConfig;

use crate::support::{drain, hub_on, subscribe};

/// Seeds to run; each failure names its own. `KMONITOR_SEED=7` runs that one,
/// `KMONITOR_SEEDS=5000` so many.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| Some(std::env::var(name).ok()?.parse().expect("a number"));
    match number("KMONITOR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KMONITOR_SEEDS").unwrap_or(150),
    }
}

/// Every process that was seen alive exits once in the stream, after whatever
/// else it did, with the status that `waitpid` gave, or a reasoned unknown.
#[tokio::test(start_paused = true)]
async fn host_stream_tells_each_death_once_and_right() {
    let mut known = 0;
    let mut unknown = 0;
    for seed in seeds() {
        let config = SimConfig::default()
            .seed(seed)
            .pid_max(if seed % 3 == 0 { 40 } else { 400 })
            .exit_delay(if seed % 2 == 0 { 0.3 } else { 0.0 })
            .status_readable(seed % 7 != 0);
        let (kernel, hub) = hub_on(config).await;
        let mut stream = subscribe(&hub, Filter::host().events(EventMask::all())).await;
        for _ in 0..40 {
            kernel.run(15);
            // Let the hub read and act.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        kernel.settle();
        let events = drain(&mut stream).await;
        let mut deaths: HashMap<Pid, Vec<i32>> = HashMap::new();
        let mut truth = kernel.truth();
        truth.sort_by_key(|death| death.born);
        for death in truth {
            deaths.entry(death.pid).or_default().push(death.status);
        }
        let mut ended: HashMap<ProcessKey, Status> = HashMap::new();
        // By incarnation, because a death whose status takes time is told late.
        let mut told: HashMap<Pid, BTreeMap<u64, Status>> = HashMap::new();
        for event in &events {
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
                        known += 1;
                        assert_eq!(status.raw(), Some(*truth), "seed {seed}: {pid}");
                    }
                    _ => unknown += 1,
                }
            }
        }
        for pid in deaths.keys() {
            assert!(told.contains_key(pid), "seed {seed}: {pid} was never told");
        }
    }
    println!("{known} statuses right, {unknown} reasoned unknowns");
    assert!(known > 20 && unknown * 20 < known, "{known} {unknown}");
}

/// Every process that was seen alive exits once in the stream, after whatever
/// else it did, with the status that `waitpid` gave, or a reasoned unknown.
#[tokio::test(start_paused = true)]
async fn host_stream_with_watches_coming_and_going() {
    let mut known = 0;
    let mut unknown = 0;
    for seed in seeds() {
        let config = SimConfig::default()
            .seed(seed)
            .pid_max(if seed % 3 == 0 { 40 } else { 400 })
            .exit_delay(if seed % 2 == 0 { 0.3 } else { 0.0 })
            .status_readable(seed % 7 != 0);
        let (kernel, hub) = hub_on(config).await;
        let mut stream = subscribe(&hub, Filter::host().events(EventMask::all())).await;
        let mut kept = Vec::new();
        for turn in 0..40usize {
            kernel.run(15);
            let pids = kernel.processes();
            let pid = pids[(seed as usize * 7 + turn * 13) % pids.len()];
            let other = pids[(seed as usize + turn * 5) % pids.len()];
            let (a, b, c) = futures::join!(hub.watch(pid), hub.watch(pid), hub.watch(other));
            if turn % 3 == 0 {
                kept.extend(a.ok());
            }
            drop((b, c));
            // Let the hub read and act.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        kernel.settle();
        let events = drain(&mut stream).await;
        let lives = kernel.processes();
        for mut w in kept {
            let key = w.process();
            let e = tokio::time::timeout(std::time::Duration::from_secs(9), w.settled()).await;
            let zombie = kernel.zombies().contains(&key.pid());
            let same = lives.contains(&key.pid()) && key.inode() == kernel.inode(key.pid());
            assert_eq!(e.is_ok(), !same || zombie, "seed {seed}: {key:?} {e:?}");
        }
        let mut deaths: HashMap<Pid, Vec<i32>> = HashMap::new();
        let mut truth = kernel.truth();
        truth.sort_by_key(|death| death.born);
        for death in truth {
            deaths.entry(death.pid).or_default().push(death.status);
        }
        let mut ended: HashMap<ProcessKey, Status> = HashMap::new();
        // By incarnation, because a death whose status takes time is told late.
        let mut told: HashMap<Pid, BTreeMap<u64, Status>> = HashMap::new();
        for event in &events {
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
                        known += 1;
                        assert_eq!(status.raw(), Some(*truth), "seed {seed}: {pid}");
                    }
                    _ => unknown += 1,
                }
            }
        }
        for pid in deaths.keys() {
            assert!(told.contains_key(pid), "seed {seed}: {pid} was never told");
        }
    }
    println!("{known} statuses right, {unknown} reasoned unknowns");
    assert!(known > 20 && unknown * 20 < known, "{known} {unknown}");
}
