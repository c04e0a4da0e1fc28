//! Supervisors in supervisors.

use std::sync::Arc;

use kmonitor_supervisor::backend::sim::{Escapee, Program, Sim};
use kmonitor_supervisor::backend::{Backend, Launch, Reports, Running};
use kmonitor_supervisor::spec::{Backoff, Restart, Strategy};
use kmonitor_supervisor::{ChildState, ControlError, End, Ending, Supervisor};

use crate::{secs, service, start};

/// One restart is borne below; one more, and the supervisor above sees an abnormal end.
#[tokio::test(start_paused = true)]
async fn giving_up_goes_up_one_level() {
    let crash = || Program::new().exits_after(secs(1), 1);
    let sim = Sim::new().programs("app/sub/x", [crash(), crash(), Program::new()]);
    let sub = Supervisor::builder("sub")
        .intensity(1, secs(60))
        .child(service("y"))
        .child(service("x"));
    let builder = Supervisor::builder("app")
        .strategy(Strategy::RestForOne)
        .child(service("before"))
        .supervisor(sub)
        .child(service("after"));
    let tree = start(builder, &sim).await;
    let handle = tree.handle();
    let sub = handle.child("sub").expect("it is declared");
    let x = handle.child("sub/x").expect("it is declared");
    let ending = sub.exited().await.expect("it gives up");
    assert!(matches!(&ending, Ending::Supervisor(End::GaveUp { child }) if child.as_str() == "x"));
    sub.ready().await.expect("it is restarted");
    handle
        .child("after")
        .expect("declared")
        .ready()
        .await
        .expect("and who is after it");
    assert_eq!(sub.status().generation, 2);
    assert_eq!(
        x.status().generation,
        3,
        "a new supervisor goes on counting"
    );
    assert!(x.status().is_ready());
    let expected = [
        "app/before",
        "app/sub/y",
        "app/sub/x",
        "app/after",
        "app/sub/x",
        "app/sub/y",
        "app/sub/x",
        "app/after",
    ];
    assert_eq!(sim.started(), expected);
    assert_eq!(sim.stopped(), ["app/sub/y", "app/after"].map(String::from));
    assert_eq!(sim.overlaps(), 0);
}

#[tokio::test(start_paused = true)]
async fn giving_up_everywhere_ends_the_tree() {
    let sim = Sim::new().program("app/sub/x", Program::new().exits_after(secs(1), 1));
    let sub = Supervisor::builder("sub")
        .intensity(1, secs(60))
        .child(service("x").backoff(Backoff::constant(secs(0))))
        .backoff(Backoff::constant(secs(0)));
    let builder = Supervisor::builder("app")
        .intensity(1, secs(60))
        .child(service("a"))
        .supervisor(sub);
    let tree = start(builder, &sim).await;
    let report = tree.wait().await;
    assert!(matches!(&report.end, End::GaveUp { child } if child.as_str() == "sub"));
    assert_eq!(sim.started().len(), 1 + 4);
    assert!(sim.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_with_a_significant_child_ended_well() {
    let sim = Sim::new().program("app/sub/job", Program::new().exits_after(secs(1), 0));
    let sub = Supervisor::builder("sub")
        .auto_shutdown(kmonitor_supervisor::spec::AutoShutdown::AllSignificant)
        .child(service("helper").restart(Restart::Always))
        .child(service("job").significant());
    let tree = start(Supervisor::builder("app").supervisor(sub), &sim).await;
    let sub = tree.handle().child("sub").expect("it is declared");
    let ending = sub.exited().await.expect("it ends");
    assert!(ending.success());
    tokio::time::sleep(secs(600)).await;
    assert_eq!(sub.status().generation, 1);
    assert!(sim.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_find_their_way() {
    let sim = Sim::new();
    let low = Supervisor::builder("low").child(service("x"));
    let mid = Supervisor::builder("mid").supervisor(low);
    let tree = start(Supervisor::builder("app").supervisor(mid), &sim).await;
    let handle = tree.handle();
    let x = handle.child("mid/low/x").expect("it is declared");
    assert_eq!(x.path().as_str(), "app/mid/low/x");
    x.restart().await.expect("it restarts");
    assert_eq!(x.status().generation, 2);
    let low = handle.child("mid/low").expect("it is declared");
    low.add(service("y")).await.expect("it starts");
    assert!(handle.child("mid/low/y").is_some());
    assert!(handle.child("mid/low/z").is_none());
    assert!(handle.child("").is_none() && handle.child("/").is_none());

    let y = handle.child("mid/low/y").expect("it was added");
    low.stop().await.expect("all below stop");
    assert!(sim.alive().is_empty());
    assert!(matches!(x.start().await, Err(ControlError::NotRunning(_))));
    low.start().await.expect("it starts again");
    assert!(x.status().is_ready());
    assert!(
        y.ready().await.is_err(),
        "who was added is not in the declaration"
    );
    assert!(handle.child("mid/low/y").is_none());
}

#[tokio::test(start_paused = true)]
async fn removing_a_supervisor_removes_all_below() {
    let sim = Sim::new();
    let sub = Supervisor::builder("sub").child(service("x"));
    let tree = start(Supervisor::builder("app").supervisor(sub), &sim).await;
    let handle = tree.handle();
    let x = handle.child("sub/x").expect("it is declared");
    handle
        .child("sub")
        .expect("declared")
        .remove()
        .await
        .expect("it goes");
    assert!(handle.snapshot().children.is_empty());
    assert!(x.ready().await.is_err());
}

/// It has climbed its ladders before it ended, so it is not waited for a second time.
#[tokio::test(start_paused = true)]
async fn one_that_gave_up_with_somebody_stuck_is_stuck_itself() {
    let crash = Program::new().exits_after(secs(1), 1);
    let sim = Sim::new()
        .program(
            "app/sub/d",
            Program::new().leaves(Escapee::Stuck(secs(600))),
        )
        .program("app/sub/x", crash);
    let sub = Supervisor::builder("sub")
        .intensity(0, secs(60))
        .child(service("d"))
        .child(service("x"));
    let tree = start(Supervisor::builder("app").supervisor(sub), &sim).await;
    let sub = tree.handle().child("sub").expect("it is declared");
    // 1 s to the crash, 15 s for d's ladder, 5 s of patience.
    tokio::time::sleep(secs(22)).await;
    let state = sub.status();
    assert!(
        matches!(&state.state, ChildState::Stuck { survivors } if survivors.len() == 1),
        "{state:?}"
    );
    let report = tree.shutdown().await;
    assert!(!report.is_clean());
    assert_eq!(report.took, secs(0), "who is stuck is not waited for again");
}

/// A backend that panics when it is to start this.
struct Panics(&'static str, Sim);

impl Backend for Panics {
    fn start(&self, launch: Launch, reports: Reports) -> Box<dyn Running> {
        assert_ne!(launch.path.as_str(), self.0, "this is not started");
        self.1.start(launch, reports)
    }
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_whose_task_is_lost_has_an_end() {
    let sub = || Supervisor::builder("sub").child(service("x"));
    for path in ["app/sub/x", "app/y"] {
        let builder = Supervisor::builder("app")
            .supervisor(sub())
            .child(service("y"));
        let error = builder
            .start_on(Arc::new(Panics(path, Sim::new())))
            .await
            .expect_err("a task is lost");
        assert!(error.to_string().contains("lost"), "{error}");
    }
}

/// Who waits for the end of an incarnation when its supervisor is restarted is told,
/// though the next incarnation begins under another supervisor.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_later_incarnation_is_told_after_the_supervisors_restart() {
    let sim = Sim::new();
    let sub = Supervisor::builder("sub").child(service("x"));
    let tree = start(Supervisor::builder("app").supervisor(sub), &sim).await;
    let handle = tree.handle();
    let x = handle.child("sub/x").expect("it is declared");
    for _ in 0..4 {
        x.restart().await.expect("it restarts");
    }
    assert_eq!(x.status().generation, 5);
    handle
        .child("sub")
        .expect("it is declared")
        .restart()
        .await
        .expect("it restarts");
    assert_eq!(x.status().generation, 6);
    let ended = x.exited();
    x.restart().await.expect("it restarts");
    let ended = tokio::time::timeout(secs(1), ended).await;
    ended.expect("it is told").expect("it is there");
}
