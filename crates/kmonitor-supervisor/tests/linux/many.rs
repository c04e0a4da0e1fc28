//! Many restarts leave nothing behind; many idle children cost nothing.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmonitor_supervisor::spec::{Backoff, KillScope, Restart, Stop};
use kmonitor_supervisor::{Service, Supervisor};

use crate::world::*;

/// What takes long by itself, on a busy machine.
const MINUTES: Duration = Duration::from_secs(600);

/// What may grow.
#[derive(Debug)]
struct Usage {
    descriptors: usize,
    zombies: usize,
    cgroups: usize,
    memory_kib: u64,
    files: usize,
}

fn usage(state: &std::path::Path) -> Usage {
    let count = |dir: &str| fs::read_dir(dir).map_or(0, Iterator::count);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    // Each is named after the supervisor's pid; other programs of this host may have
    // some too.
    let ours = format!(".{}-", std::process::id());
    let cgroups = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("kmonitor-"))
        .flat_map(|base| fs::read_dir(base.path()).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().contains(&ours))
        .count();
    Usage {
        descriptors: count("/proc/self/fd"),
        zombies: zombies().len(),
        cgroups,
        memory_kib: memory
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap(),
        files: count(state.to_str().unwrap()),
    }
}

async fn restarts_leave_nothing(total: u64, scope: KillScope) {
    const AT_A_TIME: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let backend = with_state(dir.path()).await;
    let begun = Instant::now();
    let mut before = None;
    let mut done = 0;
    while done < total {
        let mut children: Vec<_> = (0..AT_A_TIME)
            .map(|index| {
                let name = format!("c{index}");
                start_again(&backend, &name, done + 1, spec("true", &[]), scope)
            })
            .collect();
        for child in &mut children {
            child.started().await;
            child.ready().await;
            assert!(child.exited().await.success());
            child.empty().await;
        }
        done += AT_A_TIME as u64;
        drop(children);
        // When the allocator has what it needs.
        if before.is_none() && done >= total / 10 {
            before = Some(usage(dir.path()));
        }
    }
    let (before, after) = (before.unwrap(), usage(dir.path()));
    println!(
        "{scope:?}: {total} restarts in {:?}: {before:?}, then {after:?}",
        begun.elapsed()
    );
    assert!(after.descriptors <= before.descriptors + 2);
    assert_eq!((after.zombies, after.cgroups, after.files), (0, 0, 1));
    assert!(after.memory_kib <= before.memory_kib + 4096);
}

/// By a whole tree, so that what it keeps of events, restarts and output counts too.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2; takes a minute"]
async fn ten_thousand_restarts_leave_nothing() {
    if !alone("many::ten_thousand_restarts_leave_nothing") {
        return;
    }
    const RESTARTS: u64 = 10_000;
    let (dir, gate) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // A start ends when all are ready at one time: until then they live.
    let go = gate.path().join("go");
    let script = format!(
        "until [ -e {} ]; do sleep 0.02; done; echo it ran",
        go.display()
    );
    let backend = Arc::new(with_state(dir.path()).await);
    let mut builder = Supervisor::builder("many").intensity(u32::MAX, Duration::from_secs(1));
    for index in 0..20 {
        let restless = Service::command(format!("c{index}"), "sh")
            .args(["-c", &script])
            .restart(Restart::Always)
            .backoff(Backoff::constant(Duration::ZERO))
            .stop(Stop::default().scope(KillScope::Cgroup));
        builder = builder.child(restless);
    }
    let begun = Instant::now();
    let tree = builder.start_on(backend).await.unwrap();
    fs::write(&go, "").unwrap();
    let restarts = || {
        let children = tree.handle().snapshot().children;
        children.iter().map(|child| child.restarts).sum::<u64>()
    };
    eventually_within(MINUTES, || restarts() >= RESTARTS / 10).await;
    let before = usage(dir.path());
    eventually_within(MINUTES, || restarts() >= RESTARTS).await;
    let after = usage(dir.path());
    println!(
        "{} restarts in {:?}: {before:?}, then {after:?}",
        restarts(),
        begun.elapsed()
    );
    // Each of the 20 can be anywhere between its start and its end: its descriptors,
    // its cgroup, its files, and a zombie whose exit is about to be read.
    assert!(after.descriptors <= before.descriptors + 20 * 8);
    assert!(after.zombies <= 20 && after.cgroups <= 20 && after.files <= 1 + 20 * 4);
    assert!(after.memory_kib <= before.memory_kib + 4096);
    let report = tree.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let end = usage(dir.path());
    println!("at the end: {end:?}");
    assert_eq!((end.zombies, end.cgroups, end.files), (0, 0, 1));
    assert!(end.descriptors <= before.descriptors);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_leave_nothing_without_cgroups() {
    if !alone("many::restarts_leave_nothing_without_cgroups") {
        return;
    }
    restarts_leave_nothing(100, KillScope::Group).await;
    restarts_leave_nothing(100, KillScope::Tree).await;
}

/// How often each thread of this program but the calling one was scheduled.
fn switches() -> BTreeMap<i32, u64> {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let pids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            // Voluntary ones and others. None of a thread that has ended meanwhile.
            let status = fs::read_to_string(format!("/proc/self/task/{pid}/status")).ok()?;
            let lines = status
                .lines()
                .filter(|line| line.contains("voluntary_ctxt_switches"));
            let counts = lines.map(|line| line.split_whitespace().nth(1).unwrap());
            let sum = counts.map(|count| count.parse::<u64>().unwrap()).sum();
            Some((pid, sum))
        })
        .collect()
}

/// Nobody polls: in 10 s no thread of the whole program runs, but the one that counts.
#[test]
#[ignore = "needs root and a writable cgroup v2; takes half a minute"]
fn a_thousand_idle_children_wake_nobody() {
    if !alone("many::a_thousand_idle_children_wake_nobody") {
        return;
    }
    const WORKERS: usize = 2;
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        // Threads for blocking work end as soon as there is none.
        .thread_keep_alive(Duration::from_millis(10))
        .build()
        .unwrap();
    let begun = Instant::now();
    let tree = runtime.block_on(async {
        let backend = Arc::new(with_state(dir.path()).await);
        let mut builder = Supervisor::builder("idle");
        for index in 0..1000 {
            let sleep = Service::command(format!("c{index}"), "sleep")
                .arg("1000")
                .stop(Stop::default().scope(KillScope::Cgroup));
            builder = builder.child(sleep);
        }
        builder.start_on(backend).await.unwrap()
    });
    println!("1000 started in {:?}", begun.elapsed());
    let all_ready = || {
        let children = tree.handle().snapshot().children;
        children.iter().filter(|child| child.is_ready()).count() == 1000
    };
    assert!(all_ready());
    // The start is over when only the workers are left; and the program's first thread,
    // where this is not it.
    let own = rustix::thread::gettid() == rustix::process::getpid();
    let others = WORKERS + usize::from(!own);
    runtime.block_on(eventually(|| switches().len() <= others));
    let before = switches();
    assert!(!before.is_empty());
    // Not to wait for anything: it is the time that is measured.
    std::thread::sleep(Duration::from_secs(10));
    let after = switches();
    println!("context switches: {before:?}, and 10 s later {after:?}");
    assert_eq!(after, before);
    assert!(all_ready());
    let begun = Instant::now();
    let report = runtime.block_on(tree.shutdown_now());
    assert!(report.is_clean(), "{report:?}");
    println!("1000 killed in {:?}", begun.elapsed());
}
