//! The same work for minutes: what is in use must be the same after each round, and
//! what was sent must have been delivered or told as lost.

mod load;
mod usage;

use std::path::Path;
use std::time::{Duration, Instant};

use kmonitor::{Filter, Hub, SourceKind};

use load::Done;
use usage::Usage;

/// Rounds until every buffer has grown to what it needs.
const WARM_UP: usize = 5;

pub(crate) async fn run(hazard: &Path, time: Duration, visited: Filter) {
    let builder = Hub::builder().only(SourceKind::Connector);
    let hub = builder.open().await.unwrap();
    for _ in 0..WARM_UP {
        load::round(&hub, hazard, &visited).await;
    }
    let first = Usage::at_rest(&hub).await;
    println!("after the warm-up: {first}");
    let began = Instant::now();
    let mut said = began;
    let mut rounds = Vec::new();
    let mut done = Done::default();
    while began.elapsed() < time || rounds.len() < 8 {
        done += load::round(&hub, hazard, &visited).await;
        let usage = Usage::at_rest(&hub).await;
        usage.must_hold_nothing_more_than(&first);
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            println!("{:>4.0?}: {usage}", began.elapsed());
        }
        rounds.push(usage);
    }
    usage::must_not_grow(&rounds);
    println!("{} rounds, {done}", rounds.len());
    println!("{:?}", hub.stats().await.unwrap());
}
