//! How a tree ends.

use std::sync::Arc;
use std::time::Duration;

use kmonitor_supervisor::backend::sim::{Program, Sim};
use kmonitor_supervisor::{Service, Signal, Supervisor};

#[tokio::test(start_paused = true)]
async fn children_are_stopped_in_reverse_order() {
    let sim = Sim::new().program(
        "app/b",
        Program::new().exits_on(Signal::TERM, 0, Duration::from_secs(3)),
    );
    let tree = Supervisor::builder("app")
        .child(Service::command("a", "a"))
        .child(Service::command("b", "b"))
        .task("t", |stop| async move {
            stop.cancelled().await;
            Ok(())
        })
        .supervisor(Supervisor::builder("sub").child(Service::command("c", "c")))
        .start_on(Arc::new(sim.clone()))
        .await
        .expect("all are ready");
    assert_eq!(sim.started(), ["app/a", "app/b", "app/sub/c"]);
    let report = tree.shutdown().await;
    println!("{report}");
    assert!(report.is_clean());
    assert_eq!(report.took, Duration::from_secs(3));
    assert_eq!(sim.stopped(), ["app/sub/c", "app/b", "app/a"]);
    assert_eq!(sim.overlaps(), 0);
    assert!(sim.alive().is_empty());
}
