//! How a tree ends.

use std::sync::Arc;
use std::time::Duration;

use kmonitor_supervisor::backend::sim::{Escapee, Program, Sim, What};
use kmonitor_supervisor::spec::{Restart, Stop};
use kmonitor_supervisor::{End, Signal, Supervisor};

use crate::{secs, service, start};

#[tokio::test(start_paused = true)]
async fn children_are_stopped_in_reverse_order() {
    let slow = Program::new().exits_on(Signal::TERM, 0, secs(3));
    let sim = Sim::new().program("app/b", slow);
    let builder = Supervisor::builder("app")
        .child(service("a"))
        .child(service("b"))
        .task("t", |stop| async move {
            stop.cancelled().await;
            Ok(())
        })
        .supervisor(Supervisor::builder("sub").child(service("c")));
    let tree = start(builder, &sim).await;
    assert_eq!(sim.started(), ["app/a", "app/b", "app/sub/c"]);
    let report = tree.shutdown().await;
    assert!(report.is_clean());
    assert!(matches!(report.end, End::Shutdown));
    assert_eq!(report.took, secs(3));
    let b = report.child("app/b").expect("it is told of");
    assert_eq!((b.took, b.killed), (Some(secs(3)), false));
    assert!(
        b.ending
            .as_ref()
            .is_some_and(kmonitor_supervisor::Ending::success)
    );
    assert_eq!(sim.stopped(), ["app/sub/c", "app/b", "app/a"]);
    assert!(sim.alive().is_empty());
    let paths = report.children.iter().map(|child| child.path.as_str());
    let expected = ["app/a", "app/b", "app/t", "app/sub", "app/sub/c"];
    assert_eq!(paths.collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn who_ignores_the_word_is_killed() {
    let sim = Sim::new().program("app/a", Program::new().ignores(Signal::TERM));
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let report = tree.shutdown().await;
    assert!(report.is_clean());
    let a = &report.children[0];
    assert_eq!((a.took, a.killed), (Some(secs(10)), true));
    assert!(sim.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_child_leaves_is_stopped_as_well() {
    let program = Program::new()
        .leaves(Escapee::Stubborn)
        .leaves(Escapee::Meek);
    let sim = Sim::new().program("app/a", program);
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let report = tree.shutdown().await;
    assert!(report.is_clean());
    assert_eq!(report.took, secs(10));
    assert!(sim.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn survivors_are_named_and_not_waited_for() {
    let sim = Sim::new().program("app/b", Program::new().leaves(Escapee::Stuck(secs(600))));
    let builder = Supervisor::builder("app")
        .child(service("a"))
        .child(service("b").stop(Stop::default().grace(secs(2)).patience(secs(1))));
    let tree = start(builder, &sim).await;
    let report = tree.shutdown().await;
    assert_eq!(report.took, secs(3));
    assert!(!report.is_clean());
    let b = report.child("app/b").expect("it is told of");
    assert_eq!(b.survivors.len(), 1);
    assert_eq!(b.survivors[0].state, 'D');
    assert!(report.to_string().contains("state D"), "{report}");
    assert_eq!(sim.alive(), ["app/b"]);
}

/// A supervisor with somebody stuck below it is not started a second time.
#[tokio::test(start_paused = true)]
async fn survivors_below_are_named_and_hold_back_a_restart() {
    let sim = Sim::new().program(
        "app/sub/c",
        Program::new().leaves(Escapee::Stuck(secs(600))),
    );
    let sub = Supervisor::builder("sub").child(service("c"));
    let tree = start(Supervisor::builder("app").supervisor(sub), &sim).await;
    let handle = tree.handle();
    let sub = handle.child("sub").expect("it is declared");
    let error = sub.restart().await.expect_err("c is stuck");
    assert!(error.to_string().contains("1 left"), "{error}");
    assert_eq!(sim.started().len(), 1);
    tokio::time::sleep(secs(600)).await;
    sub.ready().await.expect("c is gone at last");
    assert_eq!(sim.started().len(), 2);
    assert_eq!(sim.overlaps(), 0);
    let report = tree.shutdown().await;
    let c = report.child("app/sub/c").expect("it is told of");
    assert_eq!(c.survivors.len(), 1, "{report}");
    assert_eq!(report.took, secs(10) + secs(5) + secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_can_be_hastened() {
    let deaf = Program::new().ignores(Signal::TERM);
    let sim = Sim::new()
        .program("app/a", deaf.clone())
        .program("app/sub/b", deaf);
    let builder = Supervisor::builder("app")
        .child(service("a"))
        .supervisor(Supervisor::builder("sub").child(service("b")));
    let tree = start(builder, &sim).await;
    tree.handle().shutdown();
    tree.handle().shutdown();
    tokio::time::sleep(secs(4)).await;
    let report = tree.shutdown_now().await;
    assert_eq!(report.took, secs(4));
    assert!(report.is_clean());
    assert_eq!(sim.stopped(), ["app/sub/b", "app/a"]);
    let graceful = |deed: &&kmonitor_supervisor::backend::sim::Deed| {
        deed.path.as_str() == "app/a" && matches!(deed.what, What::Signalled { .. })
    };
    assert_eq!(
        sim.log().iter().filter(graceful).count(),
        0,
        "a had no grace"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dropped_tree_is_shut_down() {
    let sim = Sim::new();
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let (_, mut events) = tree.handle().subscribe();
    drop(tree);
    while events.recv().await.is_some() {}
    assert!(sim.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_not_awaited_goes_on() {
    let slow = Program::new().exits_on(Signal::TERM, 0, secs(3));
    let sim = Sim::new().program("app/a", slow);
    let tree = start(Supervisor::builder("app").child(service("a")), &sim).await;
    let impatient = tokio::time::timeout(secs(1), tree.shutdown()).await;
    assert!(impatient.is_err());
    let report = tree.wait().await;
    assert_eq!(report.took, secs(3));
    assert!(!report.children[0].killed);
}

#[tokio::test(start_paused = true)]
async fn a_tree_ends_with_a_significant_child() {
    let sim = Sim::new().program("app/job", Program::new().exits_after(secs(9), 0));
    let builder = Supervisor::builder("app")
        .auto_shutdown(kmonitor_supervisor::spec::AutoShutdown::AnySignificant)
        .child(service("db"))
        .child(service("job").significant());
    let tree = start(builder, &sim).await;
    let report = tree.wait().await;
    assert!(matches!(&report.end, End::AutoShutdown { child } if child.as_str() == "job"));
    assert_eq!(sim.stopped(), ["app/db"]);
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_gives_up_says_who() {
    let sim = Sim::new().program("app/a", Program::new().exits_after(secs(1), 1));
    let builder = Supervisor::builder("app")
        .intensity(2, secs(60))
        .child(service("a").restart(Restart::Always));
    let tree = start(builder, &sim).await;
    let report = tree.wait().await;
    assert!(matches!(&report.end, End::GaveUp { child } if child.as_str() == "a"));
    assert_eq!(sim.started().len(), 3);
}

#[test]
fn a_tree_whose_runtime_ends_is_lost_and_not_waited_for() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().expect("a runtime")
    };
    let first = runtime();
    let tree = first.block_on(async {
        let builder = Supervisor::builder("app").child(service("a"));
        builder
            .start_on(Arc::new(Sim::new()))
            .await
            .expect("it is ready")
    });
    let stop = tree.handle().child("a").expect("it is declared").stop();
    drop(first);
    let (report, stopped) = runtime().block_on(async {
        let limit = Duration::from_secs(60);
        let both = async { (tree.wait().await, stop.await) };
        tokio::time::timeout(limit, both)
            .await
            .expect("both are told")
    });
    assert!(matches!(report.end, End::Lost));
    assert!(stopped.is_err());
}
