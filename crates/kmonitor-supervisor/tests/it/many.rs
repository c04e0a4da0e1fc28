//! A thousand children.

use kmonitor_supervisor::backend::sim::{Program, Sim};
use kmonitor_supervisor::spec::Backoff;
use kmonitor_supervisor::{Signal, Supervisor};

use crate::{secs, service, start};

#[tokio::test(start_paused = true)]
async fn a_thousand_children() {
    const MANY: usize = 1_000;
    let mut sim = Sim::new();
    let mut builder = Supervisor::builder("app").intensity(2_000, secs(60));
    for number in 0..MANY {
        let name = format!("c{number}");
        let crash = Program::new().dies_after(secs(100), Signal::SEGV);
        sim = sim.programs(format!("app/{name}"), [crash, Program::new()]);
        builder = builder.child(service(&name).backoff(Backoff::constant(secs(1))));
    }
    let tree = start(builder, &sim).await;
    assert_eq!(sim.alive().len(), MANY);
    tokio::time::sleep(secs(200)).await;
    let snapshot = tree.handle().snapshot();
    assert!(
        snapshot
            .children
            .iter()
            .all(|child| child.is_ready() && child.generation == 2)
    );
    let handle = tree.handle();
    let stops: Vec<_> = (0..MANY)
        .filter_map(|number| handle.child(&format!("c{number}")))
        .map(|child| child.restart())
        .collect();
    for stop in stops {
        stop.await.expect("it restarts");
    }
    let report = tree.shutdown().await;
    assert!(report.is_clean());
    assert_eq!(report.children.len(), MANY);
    assert_eq!(sim.overlaps(), 0);
    assert!(sim.alive().is_empty());
    let stopped = sim.stopped();
    let last: Vec<String> = (0..MANY)
        .rev()
        .map(|number| format!("app/c{number}"))
        .collect();
    assert!(stopped.ends_with(&last), "in reverse order");
}
