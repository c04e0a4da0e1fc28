//! ns per event through the whole hub: source → tracker → router → queue.
//!
//! `unmatched`: facts about processes that nobody subscribed to. `matched`: facts
//! that one subscription each wants. `broadcast`: what the same costs with
//! `tokio::sync::broadcast` and the filter in each receiver, over all receivers.
//! The time of one iteration is that of one event.
//!
//! For ratios use `dispatch_table`, which measures what it compares in turn.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kmonitor_benches::baseline::Broadcast;
use kmonitor_benches::stage::{RUN_FACTS, Stage};
use kmonitor_benches::workload::{self, Population};
use kmonitor_event::Pid;

const SUBSCRIPTIONS: [usize; 4] = [1, 10, 10_000, 100_000];
/// Events per turn of the broadcast baseline: with very many receivers few, so
/// that a turn takes some 100 ms.
const BROADCAST_EVENTS: [usize; 4] = [256, 256, 256, 32];

fn dispatching(criterion: &mut Criterion) {
    for subscriptions in SUBSCRIPTIONS {
        let population = Population::new(subscriptions);
        let sequential = workload::unmatched_sequential(&population);
        let mut stage = Stage::new(&population.subscribed, sequential).expect("a hub");
        let mut group = criterion.benchmark_group("dispatch");
        group.bench_function(BenchmarkId::new("unmatched", subscriptions), |bencher| {
            bencher.iter_custom(|events| stage.run_unmatched(events as usize));
        });
        stage.replace(workload::unmatched_random(&population));
        group.bench_function(
            BenchmarkId::new("unmatched, random pids", subscriptions),
            |bencher| bencher.iter_custom(|events| stage.run_unmatched(events as usize)),
        );
        stage.replace(workload::matched(&population));
        // Both buffers of every queue get their allocation.
        matched(&mut stage, 2 * subscriptions);
        group.bench_function(BenchmarkId::new("matched", subscriptions), |bencher| {
            bencher.iter_custom(|events| matched(&mut stage, events as usize));
        });
        group.finish();
        stage.check();
    }
}

/// Dispatches so many events; the streams are read in between, untimed.
fn matched(stage: &mut Stage, events: usize) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = events;
    while left > 0 {
        let facts = left.min(RUN_FACTS);
        took += stage.run_matched(facts).dispatch;
        left -= facts;
    }
    took
}

fn broadcasting(criterion: &mut Criterion) {
    for (subscriptions, batch) in SUBSCRIPTIONS.into_iter().zip(BROADCAST_EVENTS) {
        let population = Population::new(subscriptions);
        let pids: Vec<Pid> = population
            .subscribed
            .iter()
            .copied()
            .cycle()
            .take(batch)
            .collect();
        let mut broadcast = Broadcast::new(&population.subscribed, batch);
        let mut group = criterion.benchmark_group("dispatch");
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("broadcast", subscriptions), |bencher| {
            bencher.iter_custom(|events| {
                // Whole batches: a single event costs more than its share of one.
                let turns = events.div_ceil(batch as u64);
                let took: Duration = (0..turns).map(|_| broadcast.run(&pids).0).sum();
                took.mul_f64(events as f64 / (turns * batch as u64) as f64)
            });
        });
        group.finish();
    }
}

criterion_group!(benches, dispatching, broadcasting);
criterion_main!(benches);
