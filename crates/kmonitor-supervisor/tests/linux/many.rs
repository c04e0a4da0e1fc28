//! Many restarts leave nothing behind; many idle children cost nothing.

use std::fs;
use std::time::{Duration, Instant};

use kmonitor_supervisor::spec::{KillScope, Output};

use crate::world::*;

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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2; takes a minute"]
async fn ten_thousand_restarts_leave_nothing() {
    if !alone("many::ten_thousand_restarts_leave_nothing") {
        return;
    }
    restarts_leave_nothing(10_000, KillScope::Cgroup).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_leave_nothing_without_cgroups() {
    if !alone("many::restarts_leave_nothing_without_cgroups") {
        return;
    }
    restarts_leave_nothing(200, KillScope::Group).await;
    restarts_leave_nothing(200, KillScope::Tree).await;
}

/// How often all threads of this program were scheduled.
fn switches() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let statuses = tasks.map(|task| fs::read_to_string(task.path().join("status")));
    let lines = statuses.flat_map(|status| {
        let status = status.unwrap_or_default();
        let switches: Vec<u64> = status
            .lines()
            .filter(|line| line.contains("voluntary_ctxt_switches"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
            .collect();
        switches
    });
    lines.sum()
}

/// The whole program: the test's own thread sleeps by itself, once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a writable cgroup v2; takes half a minute"]
async fn a_thousand_idle_children_wake_nobody() {
    if !alone("many::a_thousand_idle_children_wake_nobody") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let backend = with_state(dir.path()).await;
    let begun = Instant::now();
    let mut children: Vec<_> = (0..1000)
        .map(|index| {
            let sleep = with_output(spec("sleep", &["1000"]), Output::default());
            start(&backend, &format!("c{index}"), sleep, KillScope::Cgroup)
        })
        .collect();
    for child in &mut children {
        child.started().await;
        child.ready().await;
    }
    println!("1000 started in {:?}", begun.elapsed());
    // Blocking threads of the runtime end after 10 s without work.
    std::thread::sleep(Duration::from_secs(12));
    let before = switches();
    std::thread::sleep(Duration::from_secs(10));
    let woken = switches() - before;
    println!(
        "context switches in 10 s: {woken}, descriptors: {}",
        usage(dir.path()).descriptors
    );
    // The sleep of this thread is one, and the reading of the numbers may be some.
    assert!(woken <= 5, "{woken}");
    let begun = Instant::now();
    for child in &children {
        child.running.kill();
    }
    for child in &mut children {
        assert_eq!(child.exited().await.signal(), Some(9));
        child.empty().await;
    }
    println!("1000 killed in {:?}", begun.elapsed());
}
