//! A tree waits for its deadlines, and for nothing else.

use kmonitor_supervisor::Supervisor;
use kmonitor_supervisor::backend::sim::{Program, Sim};
use kmonitor_supervisor::spec::{Backoff, Restart, Strategy};

use crate::{secs, service, start};

/// How often the runtime goes to sleep during a long time.
async fn parks() -> u64 {
    let metrics = tokio::runtime::Handle::current().metrics();
    tokio::time::sleep(secs(1)).await;
    let before = metrics.worker_park_count(0);
    tokio::time::sleep(secs(1_000_000)).await;
    metrics.worker_park_count(0) - before
}

#[tokio::test(start_paused = true)]
async fn an_idle_tree_wakes_nobody() {
    let alone = parks().await;
    let sim = Sim::new();
    let builder = Supervisor::builder("app")
        .child(service("a"))
        .supervisor(Supervisor::builder("sub").child(service("b")));
    let tree = start(builder, &sim).await;
    // The clock's own leaps differ by one or two.
    assert!(parks().await <= alone + 5);
    drop(tree);
}

#[tokio::test(start_paused = true)]
async fn restarts_are_put_off_longer_and_longer() {
    let sim = Sim::new().program("app/a", Program::new().exits_after(secs(1), 1));
    let backoff = Backoff::exponential(secs(1), secs(4)).jitter(0.0);
    let builder = Supervisor::builder("app")
        .intensity(4, secs(600))
        .child(service("a").backoff(backoff));
    let tree = start(builder, &sim).await;
    tree.wait().await;
    let starts = sim.log().into_iter().filter_map(|deed| {
        let started = matches!(
            deed.what,
            kmonitor_supervisor::backend::sim::What::Started { .. }
        );
        started.then_some(deed.at.as_secs())
    });
    assert_eq!(starts.collect::<Vec<_>>(), [0, 2, 5, 10, 15]);
}

#[tokio::test(start_paused = true)]
async fn strategies_reach_processes() {
    for (strategy, expected) in [
        (Strategy::OneForOne, vec!["app/b"]),
        (Strategy::RestForOne, vec!["app/b", "app/c"]),
        (Strategy::OneForAll, vec!["app/a", "app/b", "app/c"]),
    ] {
        let crash = Program::new().exits_after(secs(5), 1);
        let sim = Sim::new().programs("app/b", [crash, Program::new()]);
        let mut builder = Supervisor::builder("app").strategy(strategy);
        for name in ["a", "b", "c"] {
            builder = builder.child(service(name).restart(Restart::Always));
        }
        let tree = start(builder, &sim).await;
        tokio::time::sleep(secs(60)).await;
        assert_eq!(sim.started()[3..], expected, "{strategy:?}");
        assert_eq!(sim.overlaps(), 0);
        drop(tree);
    }
}
