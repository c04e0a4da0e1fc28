//! Properties of random runs. A failure names its seed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::sim::{SimCounts, SimOperation};

fn hazardous(seed: u64) -> SimConfig {
    SimConfig::default()
        .seed(seed)
        .pid_max(60)
        .processes_max(20)
        .queue_facts_max(usize::try_from(20 + seed % 200).unwrap_or(20))
        .exit_delay(0.4)
        .exec_exit_delay(if seed.is_multiple_of(2) { 0.0 } else { 0.3 })
}

/// Steps, now and then a read, and everything that was told.
fn play(config: SimConfig, steps: usize) -> (Vec<Fact>, Vec<SimOperation>, SimKernel, SimCounts) {
    let (kernel, mut source) = listening(config);
    let mut facts = Vec::new();
    let mut operations = Vec::new();
    for step in 0..steps {
        operations.push(kernel.step());
        if step % 37 == 0 {
            facts.extend(drain(&mut source));
        }
        let counts = kernel.counts();
        assert_eq!(
            counts.sent,
            counts.delivered + counts.dropped + counts.queued
        );
    }
    kernel.settle();
    facts.extend(drain(&mut source));
    let counts = kernel.counts();
    (facts, operations, kernel, counts)
}

#[test]
fn the_same_seed_gives_the_same_facts() {
    for seed in 0..20 {
        let (first, second) = (play(hazardous(seed), 400), play(hazardous(seed), 400));
        assert_eq!(first.0, second.0, "seed {seed}");
        assert_eq!(first.1, second.1, "seed {seed}");
        assert_ne!(first.0, play(hazardous(seed + 100), 400).0, "seed {seed}");
    }
}

#[test]
fn delivered_and_lost_is_sent() {
    for seed in 0..100 {
        let (facts, _, _, counts) = play(hazardous(seed), 500);
        let lost: u64 = facts
            .iter()
            .filter_map(|fact| match fact.kind {
                FactKind::Lost { count } => count,
                _ => None,
            })
            .sum();
        let told = facts
            .iter()
            .filter(|fact| !matches!(fact.kind, FactKind::Lost { .. }))
            .count() as u64;
        assert_eq!(told, counts.delivered, "seed {seed}");
        assert_eq!(lost, counts.dropped, "seed {seed}");
        assert_eq!(counts.sent, told + lost, "seed {seed}");
        assert_eq!(counts.queued, 0, "seed {seed}");
    }
}

#[test]
fn the_truth_says_what_waitpid_says() {
    for seed in 0..50 {
        let kernel = SimKernel::new(hazardous(seed));
        for _ in 0..300 {
            kernel.step();
            if let Some(zombie) = kernel.zombies().first() {
                let inode = kernel.inode(*zombie);
                // Init may be faster: then there is nothing to compare.
                if let Some(status) = kernel.reap(*zombie) {
                    let truth = kernel.truth();
                    let death = truth.iter().find(|it| Some(it.inode) == inode);
                    assert_eq!(death.map(|it| it.status), Some(status), "seed {seed}");
                }
            }
        }
        let truth = kernel.truth();
        let inodes: BTreeSet<_> = truth.iter().map(|it| it.inode).collect();
        assert_eq!(inodes.len(), truth.len(), "seed {seed}: one death each");
        for death in &truth {
            assert!(death.born < death.died, "seed {seed}");
            assert!(death.reaped.is_none_or(|reaped| death.died < reaped));
        }
    }
}

/// Without loss and delay, the tasks that were told add up to the kernel's.
#[test]
fn facts_without_hazards_describe_the_threads_exactly() {
    for seed in 0..50 {
        let config = hazardous(seed)
            .queue_facts_max(100_000)
            .exit_delay(0.0)
            .exec_exit_delay(0.0);
        let (facts, _, kernel, _) = play(config, 600);
        let mut threads: BTreeMap<Pid, BTreeSet<Tid>> = BTreeMap::new();
        for fact in facts {
            match fact.kind {
                FactKind::Forked { child, .. } => {
                    let old = threads.insert(child, BTreeSet::from([child.leader()]));
                    assert_eq!(old.unwrap_or_default(), BTreeSet::new(), "seed {seed}");
                }
                FactKind::ThreadCreated { process, tid } => {
                    assert!(threads.entry(process).or_default().insert(tid));
                }
                FactKind::TaskExited { process, tid, .. } => {
                    let known = threads.entry(process).or_default().remove(&tid);
                    assert!(known, "seed {seed}: exit of unknown {tid}");
                }
                FactKind::Execed { process } => {
                    threads.insert(process, BTreeSet::from([process.leader()]));
                }
                _ => {}
            }
        }
        threads.retain(|_, tids| !tids.is_empty());
        for (pid, tids) in threads {
            let alive: BTreeSet<_> = kernel.threads(pid).into_iter().collect();
            assert_eq!(tids, alive, "seed {seed} process {pid}");
        }
    }
}

#[test]
fn random_runs_reach_every_hazard() {
    let (mut reused, mut early_fork, mut leader_first, mut differing, mut overflow) =
        (0, 0, 0, 0, 0);
    let mut thread_exec = 0;
    for seed in 0..40 {
        let (facts, operations, kernel, counts) = play(hazardous(seed), 600);
        overflow += counts.overflows;
        let pids: BTreeSet<_> = kernel.truth().iter().map(|it| it.pid).collect();
        reused += kernel.truth().len() - pids.len();
        thread_exec += operations
            .iter()
            .filter(|it| matches!(it, SimOperation::Exec { .. }))
            .count();
        let mut alive: BTreeMap<Pid, (BTreeSet<Tid>, BTreeSet<i32>)> = BTreeMap::new();
        for fact in facts {
            match fact.kind {
                FactKind::Forked { child, .. } => {
                    let fresh = (BTreeSet::from([child.leader()]), BTreeSet::new());
                    let old = alive.insert(child, fresh);
                    early_fork += usize::from(old.is_some_and(|old| !old.0.is_empty()));
                }
                FactKind::ThreadCreated { process, tid } => {
                    alive.entry(process).or_default().0.insert(tid);
                }
                FactKind::TaskExited {
                    process, tid, code, ..
                } => {
                    let (tids, codes) = alive.entry(process).or_default();
                    tids.remove(&tid);
                    codes.insert(code);
                    leader_first += usize::from(tid.is_leader_of(process) && !tids.is_empty());
                    differing += usize::from(tids.is_empty() && codes.len() > 1);
                }
                _ => {}
            }
        }
    }
    for (what, count) in [
        ("reused", reused),
        ("fork before exit", early_fork),
        ("leader first", leader_first),
        ("differing codes", differing),
        ("thread exec", thread_exec),
        ("overflow", usize::try_from(overflow).unwrap_or(0)),
    ] {
        assert!(count > 20, "{what}: {count}");
    }
}

proptest::proptest! {
    /// Operations that make no sense are refused, and break nothing.
    #[test]
    fn no_operation_panics(
        seed: u64,
        numbers in proptest::collection::vec((0..18_u8, 1..12_i32, -300..300_i32), 0..80),
    ) {
        let config = SimConfig::default().seed(seed).pid_max(8).queue_facts_max(3).exit_delay(0.5);
        let (kernel, mut source) = listening(config);
        for (kind, id, code) in numbers {
            let (Some(pid), Some(tid)) = (Pid::new(id), Tid::new(id)) else { continue };
            let operation = match kind {
                0 => SimOperation::Spawn,
                1 => SimOperation::Fork { parent: pid },
                2 => SimOperation::CloneThread { process: pid },
                3 => SimOperation::Exec { tid },
                4 => SimOperation::ExitTask { tid, code },
                5 => SimOperation::BeginExit { tid, code },
                6 => SimOperation::FinishExit { tid },
                7 => SimOperation::ExitGroup { tid, code },
                8 => SimOperation::Kill { pid, signal: code },
                9 => SimOperation::Coredump { tid, signal: code, written: true },
                10 => SimOperation::SetNextPid { pid },
                11 => SimOperation::SetSid { process: pid },
                12 => { kernel.hold_exits(code > 0); continue }
                13 => { drain(&mut source); continue }
                14 => { kernel.lose(u64::from(code.unsigned_abs())); continue }
                15 => { kernel.settle(); continue }
                _ => SimOperation::Reap { pid },
            };
            let _refused = kernel.apply(operation);
        }
        kernel.settle();
        drain(&mut source);
        let counts = kernel.counts();
        proptest::prop_assert_eq!(counts.sent, counts.delivered + counts.dropped);
    }
}
