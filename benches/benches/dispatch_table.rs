//! The dispatch requirements as one table, from one interleaved run.
//!
//! Every round measures each case once, in turn, and ratios are taken within a
//! round, so that a noisy neighbour hits both sides. It prints; it judges nothing
//! and fails only where an event was lost.
//!
//! `KMONITOR_BENCH_ROUNDS` sets the number of rounds (15).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use kmonitor_benches::baseline::{Broadcast, Lean};
use kmonitor_benches::feed::Feed;
use kmonitor_benches::stage::{RUN_FACTS, Run, Stage};
use kmonitor_benches::stats::{load, median, paired, table};
use kmonitor_benches::workload::{self, Population};
use kmonitor_event::{EventMask, Pid};
use kmonitor_source::{EventSource as _, Fact};

const ROUNDS_DEFAULT: usize = 15;
/// Facts of processes that nobody subscribed to, per round: one turn of the ring.
const UNMATCHED_FACTS: usize = 61_440;
/// Runs of [`RUN_FACTS`] matched facts per round, after one that is not counted.
const MATCHED_RUNS: usize = 12;
/// How many processes do something, where the others do nothing.
const BUSY: usize = 10;

/// All that is measured with so many subscriptions.
struct Case {
    subscriptions: usize,
    stage: Stage,
    /// Where the same processes are subscribed to for their ends only, so that an
    /// exec is looked up and goes no further.
    looking_up: Stage,
    sequential: Arc<[Fact]>,
    random: Arc<[Fact]>,
    matched: Arc<[Fact]>,
    busy: Arc<[Fact]>,
    lean: Lean,
    broadcast: Broadcast,
    broadcast_pids: Vec<Pid>,
    measured: Measured,
}

/// ns per event, one value a round.
#[derive(Default)]
struct Measured {
    sequential: Vec<f64>,
    random: Vec<f64>,
    looked_up: Vec<f64>,
    matched: Vec<f64>,
    read: Vec<f64>,
    busy: Vec<f64>,
    lean: Vec<f64>,
    broadcast: Vec<f64>,
}

impl Case {
    fn new(subscriptions: usize) -> Self {
        let population = Population::new(subscriptions);
        let sequential = workload::unmatched_sequential(&population);
        // With very many receivers few events, so that a turn takes some 100 ms.
        let events = if subscriptions > 10_000 { 32 } else { 256 };
        let pids = population.subscribed.iter().copied().cycle();
        Self {
            subscriptions,
            stage: Stage::new(&population.subscribed, Arc::clone(&sequential)).expect("a hub"),
            looking_up: Stage::with_events(
                &population.subscribed,
                workload::matched(&population),
                EventMask::EXIT,
            )
            .expect("a hub"),
            random: workload::unmatched_random(&population),
            matched: workload::matched(&population),
            busy: workload::matched_of(&population, BUSY),
            lean: Lean::new(&population.subscribed),
            broadcast: Broadcast::new(&population.subscribed, events),
            broadcast_pids: pids.take(events).collect(),
            sequential,
            measured: Measured::default(),
        }
    }

    fn round(&mut self) {
        let Self {
            stage,
            looking_up,
            measured,
            ..
        } = self;
        for (facts, values) in [
            (&self.sequential, &mut measured.sequential),
            (&self.random, &mut measured.random),
        ] {
            stage.replace(Arc::clone(facts));
            stage.run_unmatched(UNMATCHED_FACTS);
            let took = stage.run_unmatched(UNMATCHED_FACTS);
            values.push(nanos_each(took, UNMATCHED_FACTS));
        }
        looking_up.run_unmatched(UNMATCHED_FACTS.max(self.subscriptions));
        let took = looking_up.run_unmatched(UNMATCHED_FACTS);
        measured.looked_up.push(nanos_each(took, UNMATCHED_FACTS));
        stage.replace(Arc::clone(&self.matched));
        // One turn, so that what is measured is these subscriptions and not what the
        // cases before have left of them in the caches; at first two, until both
        // buffers of every queue have their allocation.
        let turn = self.subscriptions.div_ceil(RUN_FACTS);
        let unmeasured = match measured.matched.len() {
            0 => 2 * turn + 1,
            _ => turn,
        };
        for _ in 0..unmeasured {
            stage.run_matched(RUN_FACTS);
        }
        let runs: Vec<Run> = (0..MATCHED_RUNS)
            .map(|_| stage.run_matched(RUN_FACTS))
            .collect();
        let nanos = |of: fn(&Run) -> Duration| {
            let each: Vec<f64> = runs
                .iter()
                .map(|run| nanos_each(of(run), RUN_FACTS))
                .collect();
            median(&each)
        };
        measured.matched.push(nanos(|run| run.dispatch));
        measured.read.push(nanos(|run| run.dispatch + run.reading));
        stage.replace(Arc::clone(&self.busy));
        stage.run_matched_of(RUN_FACTS, BUSY);
        let busy: Vec<f64> = (0..MATCHED_RUNS)
            .map(|_| stage.run_matched_of(RUN_FACTS, BUSY))
            .map(|run| nanos_each(run.dispatch + run.reading, RUN_FACTS))
            .collect();
        measured.busy.push(median(&busy));
        // As many rounds without the time, for the same reason.
        let mut batches = self.matched.chunks_exact(RUN_FACTS).cycle();
        for facts in batches.by_ref().take(unmeasured) {
            self.lean.run(facts);
        }
        let lean: Vec<f64> = batches
            .take(MATCHED_RUNS)
            .map(|facts| nanos_each(self.lean.run(facts), facts.len()))
            .collect();
        measured.lean.push(median(&lean));
        let (took, matches) = self.broadcast.run(&self.broadcast_pids);
        assert!(matches > 0, "the baseline delivered nothing");
        measured
            .broadcast
            .push(nanos_each(took, self.broadcast_pids.len()));
        stage.check();
        looking_up.check();
    }
}

fn nanos_each(took: Duration, events: usize) -> f64 {
    took.as_nanos() as f64 / events as f64
}

/// What the feed itself costs: its reader throws everything away.
fn floor() -> f64 {
    let population = Population::new(1);
    let feed = Feed::new(workload::unmatched_sequential(&population));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let mut source = feed.source();
    let mut facts = Vec::new();
    let rounds: Vec<f64> = (0..20)
        .map(|_| {
            let took = runtime.block_on(async {
                let reading = poll_fn(|cx| {
                    while source.poll_batch(cx, &mut facts).is_ready() {
                        facts.clear();
                    }
                    std::task::Poll::<()>::Pending
                });
                tokio::select! {
                    took = feed.run(UNMATCHED_FACTS) => took,
                    () = reading => Duration::ZERO,
                }
            });
            nanos_each(took, UNMATCHED_FACTS)
        })
        .collect();
    median(&rounds)
}

fn main() {
    let rounds = std::env::var("KMONITOR_BENCH_ROUNDS").ok();
    let rounds = rounds
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROUNDS_DEFAULT);
    println!("{rounds} rounds; {} at the start", load());
    let floor = floor();
    let mut cases: Vec<Case> = [1, 10, 10_000, 100_000].map(Case::new).into();
    for round in 0..rounds {
        if round % 2 == 0 {
            cases.iter_mut().for_each(Case::round);
        } else {
            cases.iter_mut().rev().for_each(Case::round);
        }
    }
    println!("{} at the end\n", load());
    print_costs(&cases, floor);
    print_ratios(&cases, floor);
}

fn print_costs(cases: &[Case], floor: f64) {
    let mut head = vec!["ns per event, median".to_owned()];
    head.extend(cases.iter().map(|case| case.subscriptions.to_string()));
    let mut rows = vec![head];
    let mut row = |name: &str, of: fn(&Measured) -> &Vec<f64>| {
        let values = cases
            .iter()
            .map(|case| format!("{:.1}", median(of(&case.measured))));
        rows.push([name.to_owned()].into_iter().chain(values).collect());
    };
    row("unmatched", |m| &m.sequential);
    row("unmatched, random pids", |m| &m.random);
    row("matched: looked up, and not wanted", |m| &m.looked_up);
    row("matched: into the queue", |m| &m.matched);
    row("matched: and read from the stream", |m| &m.read);
    row("of ten busy ones: and read from the stream", |m| &m.busy);
    row("(the least that could do it)", |m| &m.lean);
    row("broadcast, all receivers", |m| &m.broadcast);
    println!("{}", table(&rows));
    println!("of which the feed itself: {floor:.1}\n");
}

fn print_ratios(cases: &[Case], floor: f64) {
    let [one, ten, many, most] = cases else {
        return;
    };
    let (one, ten) = (&one.measured, &ten.measured);
    let (many, most) = (&many.measured, &most.measured);
    let net = |l: f64, r: f64| (l - floor) / (r - floor);
    let times = |value: f64| format!("{value:.2} ×");
    let rows = [
        ["compared, within each round", "measured", "required"].map(str::to_owned),
        [
            "unmatched, 100 000 vs 1".to_owned(),
            times(paired(&most.sequential, &one.sequential, |l, r| l / r)),
            "≤ 1.2 ×".to_owned(),
        ],
        [
            "the same without the feed's own cost".to_owned(),
            times(paired(&most.sequential, &one.sequential, net)),
            "≤ 1.2 ×".to_owned(),
        ],
        [
            "unmatched, random pids, 100 000 vs 1".to_owned(),
            times(paired(&most.random, &one.random, |l, r| l / r)),
            "(≤ 1.2 ×)".to_owned(),
        ],
        [
            "the whole path, ten of them busy, 100 000 vs 10".to_owned(),
            times(paired(&most.busy, &ten.busy, |l, r| l / r)),
            "≤ 1.2 ×".to_owned(),
        ],
        [
            "matched, 10 000 vs 1".to_owned(),
            format!(
                "{:+.1} ns",
                paired(&many.matched, &one.matched, |l, r| l - r)
            ),
            "≤ +50 ns".to_owned(),
        ],
        [
            "matched lookup at 100 000".to_owned(),
            format!("{:.1} ns", median(&most.looked_up)),
            "≤ 150 ns".to_owned(),
        ],
        [
            "(the least that could do it, 10 000 vs 1)".to_owned(),
            format!("{:+.1} ns", paired(&many.lean, &one.lean, |l, r| l - r)),
            String::new(),
        ],
        [
            "broadcast vs hub, 10 000, matched".to_owned(),
            times(paired(&many.broadcast, &many.matched, |l, r| l / r)),
            "≥ 100 ×".to_owned(),
        ],
        [
            "the same, with reading the streams".to_owned(),
            times(paired(&many.broadcast, &many.read, |l, r| l / r)),
            "≥ 100 ×".to_owned(),
        ],
        [
            "broadcast vs hub, 10 000, unmatched".to_owned(),
            times(paired(&many.broadcast, &many.sequential, |l, r| l / r)),
            "≥ 100 ×".to_owned(),
        ],
    ];
    println!("{}", table(&rows.map(Vec::from)));
}
